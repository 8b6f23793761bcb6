//! What can go wrong with a server's sockets, and what each tells people.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use portgrant_protocol::Protocol;
use portgrant_protocol::endpoint::{EndpointError, Resolved};
use portgrant_protocol::listen::AnnouncementError;
use portgrant_protocol::record::{RecordError, Refusal};
use portgrant_protocol::socket::Mismatch;
use portgrant_protocol::text::printable;
use portgrant_protocol::transfer::TransferError;
use portgrant_protocol::{listen, status};
use rustix::io::Errno;

use crate::Message;
use crate::helper::VARIABLE;

/// Why there is no socket. [`Error::message`] says it in three parts, `Display` in one line.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A text that is no endpoint, or names a service that nobody knows
    Endpoint {
        /// The text
        text: String,
        /// What is wrong with it
        source: EndpointError,
    },
    /// No endpoint, or more than one message can carry
    Endpoints {
        /// How many were asked for
        count: usize,
    },
    /// `LISTEN_*` that cannot be meant for this process: stale, another's, or malformed
    Announcement(AnnouncementError),
    /// What is adopted once was adopted before
    AdoptedBefore {
        /// `LISTEN_FDS` or `descriptor 0`
        what: &'static str,
    },
    /// A descriptor that was announced and not handed over
    Missing {
        /// Its number
        number: i32,
        /// Its name
        name: String,
    },
    /// No socket, none of the internet, or one of another protocol
    WrongKind {
        /// The socket's name
        name: String,
        /// What it is
        mismatch: Mismatch,
    },
    /// A stream socket on which listen(2) was not called
    NotListening {
        /// The socket's name
        name: String,
    },
    /// A socket that is bound to another address or port
    WrongAddress {
        /// The socket's name
        name: String,
        /// Where it should be, `[::]:443/tcp`
        expected: String,
        /// Where it is
        found: SocketAddr,
        /// Whether it takes IPv4 as well
        dual_stack: bool,
    },
    /// No socket bears this name
    UnknownName {
        /// The name
        name: String,
        /// The names that there are
        known: Vec<String>,
    },
    /// Several sockets bear this name
    NameTwice {
        /// The name
        name: String,
    },
    /// The socket of this name was taken already
    Taken {
        /// The name
        name: String,
    },
    /// `PORTGRANT_BINDER` is not absolute
    HelperNotAbsolute {
        /// What it is
        path: PathBuf,
    },
    /// The helper is in none of the places where it may be
    HelperMissing {
        /// The places
        places: Vec<PathBuf>,
    },
    /// The helper could not be started
    Helper {
        /// Its path
        helper: PathBuf,
        /// Why not
        source: io::Error,
    },
    /// The helper ended without an answer
    NoAnswer {
        /// Its path
        helper: PathBuf,
        /// How it ended; unknown where SIGCHLD is ignored
        status: Option<ExitStatus>,
    },
    /// The answer is no
    Refused(Refusal),
    /// A record or its descriptors did not get through
    Transfer(TransferError),
    /// What came is no record
    Record(RecordError),
    /// Not as many descriptors as names
    Count {
        /// How many names came
        names: usize,
        /// How many descriptors came
        descriptors: usize,
    },
    /// A socket that was asked for did not come
    NotReceived {
        /// Its name
        name: String,
    },
    /// A socket came that was not asked for, or not at this place
    NotAskedFor {
        /// Its name
        name: String,
    },
    /// The mailbox's file could not be made or used
    Mailbox {
        /// Where
        path: PathBuf,
        /// Why not
        source: io::Error,
    },
    /// There is something at the mailbox's path that is not to be replaced
    MailboxOccupied {
        /// Where
        path: PathBuf,
        /// What it is
        by: &'static str,
    },
    /// A peer of another user came to the mailbox
    ForeignPeer {
        /// Its effective uid
        uid: u32,
        /// This server's effective uid
        own: u32,
    },
    /// A peer came to the mailbox and said nothing
    SilentPeer {
        /// How long it was waited for
        patience: Duration,
    },
    /// A services(5) file could not be read
    Services {
        /// Which
        path: PathBuf,
        /// Why not
        source: io::Error,
    },
    /// A udp socket of this process's own could not be bound to an address
    NotBound {
        /// Where
        address: SocketAddr,
        /// Why not
        source: io::Error,
    },
    /// A set of udp sockets that is not what `each` gives
    NotEach {
        /// The name of the socket that does not belong, or of the set where the wildcard is missing
        name: String,
        /// What was expected of it
        expected: &'static str,
    },
    /// There is no listener, or each has failed: nothing will ever happen
    NoListener,
    /// A listener failed for good, and is served no more
    Listener {
        /// Its name
        name: String,
        /// Why
        source: io::Error,
    },
    /// A system call failed
    System {
        /// What could not be done
        what: &'static str,
        /// Why not
        source: io::Error,
    },
}

impl Error {
    /// How `name`'s socket differs from what was `asked` for.
    pub(crate) fn mismatch(name: &str, asked: &Resolved, mismatch: Mismatch) -> Error {
        let name = name.to_owned();
        match mismatch {
            Mismatch::NotASocket | Mismatch::NotInet | Mismatch::Protocol { .. } => Error::WrongKind { name, mismatch },
            Mismatch::NotListening => Error::NotListening { name },
            Mismatch::Address { found, dual_stack } => {
                Error::WrongAddress { name, expected: asked.to_string(), found, dual_stack }
            }
        }
    }

    /// The exit status that says it ([`status`]), for a program that ends with it.
    pub fn status(&self) -> u8 {
        match self {
            Error::Endpoint { .. } | Error::Endpoints { .. } => status::USAGE,
            Error::Refused(refusal) => refusal.status,
            Error::HelperNotAbsolute { .. } | Error::HelperMissing { .. } => status::BROKEN,
            Error::Helper { source, .. } if is_out_of_something(source) => status::SYSTEM,
            Error::Helper { .. } => status::BROKEN,
            Error::NoAnswer { status, .. } => status.and_then(told).unwrap_or(status::SYSTEM),
            Error::Announcement(_)
            | Error::AdoptedBefore { .. }
            | Error::Missing { .. }
            | Error::WrongKind { .. }
            | Error::NotListening { .. }
            | Error::WrongAddress { .. }
            | Error::UnknownName { .. }
            | Error::NameTwice { .. }
            | Error::Taken { .. }
            | Error::Transfer(_)
            | Error::Record(_)
            | Error::Count { .. }
            | Error::NotReceived { .. }
            | Error::NotAskedFor { .. }
            | Error::Mailbox { .. }
            | Error::MailboxOccupied { .. }
            | Error::ForeignPeer { .. }
            | Error::SilentPeer { .. }
            | Error::Services { .. }
            | Error::NotEach { .. }
            | Error::NoListener
            | Error::Listener { .. }
            | Error::System { .. } => status::SYSTEM,
            Error::NotBound { source, .. } => match Errno::from_io_error(source) {
                Some(Errno::ADDRINUSE | Errno::ADDRNOTAVAIL) => status::UNAVAILABLE,
                Some(Errno::ACCESS) => status::REFUSED,
                _ => status::SYSTEM,
            },
        }
    }

    /// What happened, why, and what to do about it, each in a line of printable ASCII.
    pub fn message(&self) -> Message {
        Message { what: self.what(), why: self.why(), fix: self.fix() }
    }

    fn what(&self) -> String {
        match self {
            Error::Endpoint { text, .. } => format!("'{}' is no endpoint", printable(text.as_bytes())),
            Error::Endpoints { count: 0 } => "no endpoint is asked for".to_owned(),
            Error::Endpoints { count } => format!("{count} endpoints are asked for at once"),
            Error::Announcement(_) => "the sockets that the environment announces are not for this process".to_owned(),
            Error::AdoptedBefore { what } => format!("{what} is adopted a second time"),
            Error::Missing { number, name } => format!("descriptor {number} ({}) was not handed over", quoted(name)),
            Error::WrongKind { name, .. } => format!("{} is of the wrong kind", quoted(name)),
            Error::NotListening { name } => format!("{} is not listening", quoted(name)),
            Error::WrongAddress { name, expected, .. } => format!("{} is not at {expected}", quoted(name)),
            Error::UnknownName { name, .. } => format!("no socket is named {}", quoted(name)),
            Error::NameTwice { name } => format!("several sockets are named {}", quoted(name)),
            Error::Taken { name } => format!("{} was taken already", quoted(name)),
            Error::HelperNotAbsolute { path } => format!("{VARIABLE} is '{}'", shown(path)),
            Error::HelperMissing { .. } => "the helper, portgrant-binder, is not there".to_owned(),
            Error::Helper { helper, .. } => format!("cannot run the helper {}", shown(helper)),
            Error::NoAnswer { helper, .. } => format!("the helper {} ended without an answer", shown(helper)),
            Error::Refused(refusal) => said(&refusal.why).0.to_owned(),
            Error::Transfer(_) => "the sockets did not get through".to_owned(),
            Error::Record(_) => "what came is no answer".to_owned(),
            Error::Count { names, descriptors } => format!("{names} names and {descriptors} descriptors came"),
            Error::NotReceived { name } => format!("{} did not come", quoted(name)),
            Error::NotAskedFor { name } => format!("{} came, and was not asked for there", quoted(name)),
            Error::Mailbox { path, .. } => format!("cannot use {} as a mailbox", shown(path)),
            Error::MailboxOccupied { path, .. } => format!("cannot make a mailbox at {}", shown(path)),
            Error::ForeignPeer { uid, .. } => format!("uid {uid} came to the mailbox, and was turned away"),
            Error::SilentPeer { patience } => {
                format!("a peer came to the mailbox and said nothing for {} seconds", patience.as_secs_f32())
            }
            Error::Services { path, .. } => format!("cannot read {}", shown(path)),
            Error::NotBound { address, .. } => format!("cannot bind {address}/udp"),
            Error::NotEach { name, .. } => format!("{} is not one of a socket for each address", quoted(name)),
            Error::NoListener => "there is nothing to listen on".to_owned(),
            Error::Listener { name, .. } => format!("{} failed, and is served no more", quoted(name)),
            Error::System { what, .. } => (*what).to_owned(),
        }
    }

    fn why(&self) -> Option<String> {
        match self {
            Error::Endpoint { source, .. } => Some(source.to_string()),
            Error::Endpoints { count: 0 } => None,
            Error::Endpoints { .. } => Some(format!("one message carries at most {} descriptors", listen::MAX)),
            Error::Announcement(source) => Some(source.to_string()),
            Error::AdoptedBefore { .. } => Some("two owners would close each other's descriptors".to_owned()),
            Error::Missing { .. } => {
                Some("LISTEN_FDS counts it, and it was closed before this program began".to_owned())
            }
            Error::WrongKind { mismatch, .. } => Some(mismatch.to_string()),
            Error::NotListening { .. } => Some("it is bound, and listen(2) was not called on it".to_owned()),
            Error::WrongAddress { found, dual_stack, .. } => {
                Some(Mismatch::Address { found: *found, dual_stack: *dual_stack }.to_string())
            }
            Error::UnknownName { known, .. } if known.is_empty() => Some("there are no sockets".to_owned()),
            Error::UnknownName { known, .. } => {
                Some(format!("there are {}", known.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")))
            }
            Error::NameTwice { .. } | Error::Taken { .. } => None,
            Error::HelperNotAbsolute { .. } => Some("it must be an absolute path".to_owned()),
            Error::HelperMissing { places } => Some(format!(
                "it is none of {}",
                places.iter().map(|place| shown(place)).collect::<Vec<_>>().join(", ")
            )),
            Error::NotBound { source, .. } if has_no_ipv6(source) => Some("this host has no IPv6".to_owned()),
            Error::Helper { source, .. }
            | Error::Mailbox { source, .. }
            | Error::Services { source, .. }
            | Error::NotBound { source, .. }
            | Error::Listener { source, .. }
            | Error::System { source, .. } => Some(source.to_string()),
            Error::NotEach { expected, .. } => Some(format!("expected {expected}")),
            Error::NoListener => None,
            Error::NoAnswer { status, .. } => status.map(|status| format!("it ended with {status}")),
            Error::Refused(refusal) => said(&refusal.why).1.map(str::to_owned),
            Error::Transfer(source) => Some(source.to_string()),
            Error::Record(source) => Some(source.to_string()),
            Error::Count { .. } => Some("each descriptor has one name".to_owned()),
            Error::NotReceived { .. } | Error::NotAskedFor { .. } => {
                Some("the answer does not fit the request".to_owned())
            }
            Error::MailboxOccupied { by, .. } => Some(format!("there is {by}")),
            Error::ForeignPeer { own, .. } => Some(format!("only uid {own} and root may send sockets")),
            Error::SilentPeer { .. } => None,
        }
    }

    fn fix(&self) -> Option<String> {
        let fix = match self {
            Error::Endpoint { .. } => return None,
            Error::Endpoints { count: 0 } => "ask for one: 80, 443/udp, https=[::]:443",
            Error::Endpoints { .. } => "ask for some of them in another request",
            Error::Announcement(_) => {
                "start this program itself, with exec where a script starts it; or unset LISTEN_FDS, LISTEN_PID and \
                 LISTEN_FDNAMES if nothing was to be handed over"
            }
            Error::AdoptedBefore { .. } => "adopt once, early in main, and hand the result on",
            Error::Missing { .. } => {
                "look at what starts this program: it must leave the descriptor open across execve"
            }
            Error::WrongKind { mismatch: Mismatch::Protocol { found, .. }, .. } => match found.transport() {
                Protocol::Udp => "take it as a datagram socket, or have it made as tcp",
                Protocol::Tcp => "take it as a listener, or have it made as udp (PORT/udp)",
                Protocol::Sctp | Protocol::Mptcp => "take it as a plain descriptor, or have it made as tcp or udp",
            },
            Error::WrongKind { .. } => "look at what starts this program: that name goes with another descriptor",
            Error::NotListening { .. } => "whoever bound it must call listen(2), as portgrant does",
            Error::WrongAddress { .. } => "make the endpoint that was granted and the address that is served the same",
            Error::UnknownName { .. } => "give the endpoint that name (https=443), or take one of those that are there",
            Error::NameTwice { .. } => "give each endpoint a name of its own, or say at which address",
            Error::Taken { .. } => "take each socket once, and clone it where two need it",
            Error::HelperNotAbsolute { .. } => "give the whole path of portgrant-binder, or unset it",
            Error::HelperMissing { .. } => {
                "install portgrant, or name the helper's path in the environment variable PORTGRANT_BINDER"
            }
            Error::Helper { source, .. } if is_out_of_something(source) => {
                "raise the limit (ulimit -u, ulimit -n), or stop something that uses it up"
            }
            Error::Helper { .. } => {
                "as root, look at its mode: everybody who may ask for ports must be able to execute it"
            }
            Error::NoAnswer { status: Some(_), .. } => {
                "run it by hand with the same endpoints: portgrant-binder explain"
            }
            Error::NoAnswer { status: None, .. } => {
                "run it by hand with the same endpoints: portgrant-binder explain (SIGCHLD is ignored here, so how it \
                 ended is not known)"
            }
            Error::Refused(refusal) => return refusal.fix.clone(),
            Error::Transfer(TransferError::Truncated) => "raise the limit of open files (ulimit -n)",
            Error::Transfer(_) | Error::SilentPeer { .. } => return None,
            Error::Record(_) | Error::Count { .. } | Error::NotReceived { .. } | Error::NotAskedFor { .. } => {
                "see that the helper and this program are of one version of portgrant"
            }
            Error::Mailbox { .. } => "see that the folder is there and that this user may write to it",
            Error::MailboxOccupied { .. } => "choose another path, or stop what holds this one",
            Error::ForeignPeer { .. } => "send as the user that the server runs as",
            Error::Services { .. } => "see that the file is there and that this user may read it",
            Error::NotBound { source, .. } => return not_bound(source).map(str::to_owned),
            Error::NotEach { .. } => "ask for it as each:PORT/udp, and take all that bear the name",
            Error::NoListener => "add a tcp listener or a udp socket before the first event is waited for",
            Error::Listener { .. } => "look at what else holds it: it was shut down, or is no listener any more",
            Error::System { .. } => return None,
        };
        Some(fix.to_owned())
    }
}

/// A refusal is `what: why` in one line.
fn said(why: &str) -> (&str, Option<&str>) {
    match why.split_once(": ") {
        Some((what, why)) => (what, Some(why)),
        None => (why, None),
    }
}

/// What the helper told by its exit status alone.
fn told(ended: ExitStatus) -> Option<u8> {
    let known = [status::USAGE, status::UNAVAILABLE, status::SYSTEM, status::REFUSED, status::BROKEN];
    known.into_iter().find(|known| ended.code() == Some(i32::from(*known)))
}

/// Processes, descriptors, memory: EAGAIN, EMFILE, ENFILE, ENOMEM.
fn is_out_of_something(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::AGAIN | Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

fn has_no_ipv6(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::AFNOSUPPORT)
}

fn not_bound(source: &io::Error) -> Option<&'static str> {
    match Errno::from_io_error(source) {
        Some(Errno::ADDRINUSE) => Some("stop what holds the port there (ss -lunp tells), or choose another"),
        Some(Errno::ADDRNOTAVAIL) => Some("give the address to an interface first (ip address tells which are)"),
        Some(Errno::ACCESS) => Some("choose a port above 1023, or have portgrant permit it"),
        Some(Errno::AFNOSUPPORT) => Some("serve 0.0.0.0 with an AddressedUdp instead"),
        _ => None,
    }
}

fn quoted(name: &str) -> String {
    format!("'{}'", printable(name.as_bytes()))
}

fn shown(path: &std::path::Path) -> String {
    printable(path.as_os_str().as_encoded_bytes())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.message().fmt(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Endpoint { source, .. } => Some(source),
            Error::Announcement(source) => Some(source),
            Error::Transfer(source) => Some(source),
            Error::Record(source) => Some(source),
            Error::Helper { source, .. }
            | Error::Mailbox { source, .. }
            | Error::Services { source, .. }
            | Error::NotBound { source, .. }
            | Error::Listener { source, .. }
            | Error::System { source, .. } => Some(source),
            Error::Endpoints { .. }
            | Error::AdoptedBefore { .. }
            | Error::Missing { .. }
            | Error::WrongKind { .. }
            | Error::NotListening { .. }
            | Error::WrongAddress { .. }
            | Error::UnknownName { .. }
            | Error::NameTwice { .. }
            | Error::Taken { .. }
            | Error::HelperNotAbsolute { .. }
            | Error::HelperMissing { .. }
            | Error::NoAnswer { .. }
            | Error::Refused(_)
            | Error::Count { .. }
            | Error::NotReceived { .. }
            | Error::NotAskedFor { .. }
            | Error::MailboxOccupied { .. }
            | Error::ForeignPeer { .. }
            | Error::SilentPeer { .. }
            | Error::NotEach { .. }
            | Error::NoListener => None,
        }
    }
}
