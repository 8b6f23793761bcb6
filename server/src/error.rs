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

use crate::helper::VARIABLE;
use crate::{Holder, HolderState, Message};

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
    /// A descriptor that was adopted before, by this or another convention
    NumberTaken {
        /// Its number
        number: i32,
    },
    /// A variable that should hold descriptor numbers and does not
    Variable {
        /// The variable
        variable: String,
        /// What it holds, made printable
        value: String,
    },
    /// A descriptor that a variable numbers and that was not handed over
    NotInherited {
        /// Its number
        number: i32,
        /// The variable
        variable: String,
    },
    /// A listener where one connection was expected
    NotAConnection {
        /// The descriptor's name
        name: String,
    },
    /// A connection whose peer is gone already
    PeerGone {
        /// The descriptor's name
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
    /// An address that another socket holds, or one that overlaps it
    InUse {
        /// What was to be bound, `127.0.0.1:80/tcp`
        endpoint: String,
        /// Who is in the way, the likeliest first; empty where the kernel does not say
        holders: Vec<Holder>,
    },
    /// No interface has the address
    NotThere {
        /// What was to be bound
        endpoint: String,
    },
    /// This host has no IPv6
    NoIpv6 {
        /// What was to be bound
        endpoint: String,
        /// Its port
        port: u16,
    },
    /// This kernel has no such protocol
    NoProtocol {
        /// What was to be bound
        endpoint: String,
        /// The protocol
        protocol: Protocol,
    },
    /// A port that is not for everybody, where nobody was asked or there is nobody to ask
    Privileged {
        /// What was to be bound
        endpoint: String,
    },
    /// `each` is several sockets, and one was asked for
    EachIsSeveral {
        /// The endpoint
        endpoint: String,
    },
    /// A socket could not be made, bound or listened on, for another reason
    Bind {
        /// What was to be bound
        endpoint: String,
        /// Why not
        source: io::Error,
    },
    /// The kernel did not take a socket option's value
    SocketOption {
        /// The option: `TCP_KEEPIDLE`
        option: &'static str,
        /// Why not
        source: io::Error,
    },
    /// An adopted socket lacks an option that has to be set before it is bound
    OptionTooLate {
        /// The socket's name
        name: String,
        /// The endpoint's option: `reuseport`, `dev`
        option: &'static str,
    },
    /// A process with other threads cannot fork
    Threads {
        /// How many it has
        count: usize,
    },
    /// How many threads there are cannot be told, so there is no fork
    ThreadsUnknown {
        /// Why not
        source: io::Error,
    },
    /// The daemon ended before it was up
    NotReady,
    /// The daemon's working folder cannot be entered
    Folder {
        /// Which
        path: PathBuf,
        /// Why not
        source: io::Error,
    },
    /// The pid file could not be made or written
    PidFile {
        /// Where
        path: PathBuf,
        /// Why not
        source: io::Error,
    },
    /// The pid file is locked: the daemon is there already
    PidFileHeld {
        /// Where
        path: PathBuf,
        /// The pid that stands in it
        pid: Option<u32>,
    },
    /// There is something at the pid file's path that is not to be written to
    PidFileOccupied {
        /// Where
        path: PathBuf,
        /// What it is
        by: &'static str,
    },
    /// `NOTIFY_SOCKET` is no address
    NotifyAddress {
        /// What it is, made printable
        address: String,
    },
    /// The service manager cannot be told
    Notify {
        /// Its socket, made printable
        address: String,
        /// Why not
        source: io::Error,
    },
    /// A variable of the service manager's watchdog is no number
    Watchdog {
        /// The variable
        variable: &'static str,
        /// What it holds, made printable
        value: String,
    },
    /// No terminal could be opened
    Terminal {
        /// Why not
        source: io::Error,
    },
    /// The program behind a terminal could not be started
    Program {
        /// Which
        program: PathBuf,
        /// Why not
        source: io::Error,
    },
    /// A services(5) file could not be read
    Services {
        /// Which
        path: PathBuf,
        /// Why not
        source: io::Error,
    },
    /// A file that tells whom to ask for names, resolv.conf(5) or hosts(5), could not be read
    NameService {
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
            Error::Endpoint { .. } | Error::Endpoints { .. } | Error::EachIsSeveral { .. } => status::USAGE,
            Error::InUse { .. } | Error::NotThere { .. } | Error::NoIpv6 { .. } | Error::NoProtocol { .. } => {
                status::UNAVAILABLE
            }
            Error::Privileged { .. } => status::REFUSED,
            Error::Refused(refusal) => refusal.status,
            Error::HelperNotAbsolute { .. } | Error::HelperMissing { .. } => status::BROKEN,
            Error::Helper { source, .. } if is_out_of_something(source) => status::SYSTEM,
            Error::Helper { .. } => status::BROKEN,
            Error::NoAnswer { status, .. } => status.and_then(told).unwrap_or(status::SYSTEM),
            Error::Announcement(_)
            | Error::AdoptedBefore { .. }
            | Error::Missing { .. }
            | Error::NumberTaken { .. }
            | Error::Variable { .. }
            | Error::NotInherited { .. }
            | Error::NotAConnection { .. }
            | Error::PeerGone { .. }
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
            | Error::Bind { .. }
            | Error::SocketOption { .. }
            | Error::OptionTooLate { .. }
            | Error::Threads { .. }
            | Error::ThreadsUnknown { .. }
            | Error::NotReady
            | Error::Folder { .. }
            | Error::PidFile { .. }
            | Error::PidFileHeld { .. }
            | Error::PidFileOccupied { .. }
            | Error::NotifyAddress { .. }
            | Error::Notify { .. }
            | Error::Watchdog { .. }
            | Error::Terminal { .. }
            | Error::Program { .. }
            | Error::Services { .. }
            | Error::NameService { .. }
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
            Error::NumberTaken { number } => format!("descriptor {number} is adopted a second time"),
            Error::Variable { variable, value } => format!("{} is '{value}'", printable(variable.as_bytes())),
            Error::NotInherited { number, .. } => format!("descriptor {number} was not handed over"),
            Error::NotAConnection { name } => format!("{} is a listener, and no connection", quoted(name)),
            Error::PeerGone { name } => format!("the client of {} is gone already", quoted(name)),
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
            Error::InUse { endpoint, .. } => format!("{endpoint} is in use"),
            Error::NotThere { endpoint }
            | Error::NoIpv6 { endpoint, .. }
            | Error::NoProtocol { endpoint, .. }
            | Error::Privileged { endpoint }
            | Error::Bind { endpoint, .. } => format!("{endpoint} cannot be bound"),
            Error::EachIsSeveral { endpoint } => format!("{endpoint} is several sockets, and one is asked for"),
            Error::SocketOption { option, .. } => format!("{option} cannot be set"),
            Error::OptionTooLate { name, option } => format!("{} lacks {option}", quoted(name)),
            Error::Threads { count } => format!("this process has {count} threads, and cannot become a daemon"),
            Error::ThreadsUnknown { .. } => "cannot tell how many threads this process has".to_owned(),
            Error::NotReady => "the daemon ended before it was up".to_owned(),
            Error::Folder { path, .. } => format!("cannot work in {}", shown(path)),
            Error::PidFile { path, .. } => format!("cannot write the pid file {}", shown(path)),
            Error::PidFileHeld { path, .. } => format!("{} is locked: the daemon is up already", shown(path)),
            Error::PidFileOccupied { path, .. } => format!("cannot make a pid file at {}", shown(path)),
            Error::NotifyAddress { address } => format!("NOTIFY_SOCKET is '{address}'"),
            Error::Notify { address, .. } => format!("cannot tell the service manager at {address}"),
            Error::Watchdog { variable, value } => format!("{variable} is '{value}'"),
            Error::Terminal { .. } => "cannot open a terminal".to_owned(),
            Error::Program { program, .. } => format!("cannot run {}", shown(program)),
            Error::Services { path, .. } | Error::NameService { path, .. } => format!("cannot read {}", shown(path)),
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
            Error::NumberTaken { .. } => Some("two owners would close each other's descriptors".to_owned()),
            Error::Variable { .. } => Some(format!("expected at most {} descriptor numbers from 3 on", listen::MAX)),
            Error::NotInherited { variable, .. } => {
                Some(format!("{} numbers it, and it was closed before", printable(variable.as_bytes())))
            }
            Error::NotAConnection { .. } => Some("inetd's `wait` hands over the listener itself".to_owned()),
            Error::PeerGone { .. } => Some("it is not connected any more".to_owned()),
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
            | Error::NameService { source, .. }
            | Error::NotBound { source, .. }
            | Error::Listener { source, .. }
            | Error::Bind { source, .. }
            | Error::SocketOption { source, .. }
            | Error::System { source, .. }
            | Error::ThreadsUnknown { source, .. }
            | Error::Folder { source, .. }
            | Error::PidFile { source, .. }
            | Error::Notify { source, .. }
            | Error::Terminal { source, .. }
            | Error::Program { source, .. } => Some(source.to_string()),
            Error::InUse { holders, .. } => Some(in_use(holders)),
            Error::NotThere { .. } => Some("no interface of this network namespace has that address".to_owned()),
            Error::NoIpv6 { .. } => {
                Some("this host has no IPv6, and the endpoint asks for it (no address means [::])".to_owned())
            }
            Error::NoProtocol { protocol, .. } => Some(format!("this kernel has no {}", protocol.word())),
            Error::Privileged { .. } => {
                Some("ports below net.ipv4.ip_unprivileged_port_start are not for every user".to_owned())
            }
            Error::EachIsSeveral { .. } => Some("each is a socket for every address".to_owned()),
            Error::OptionTooLate { .. } => Some("it must be set before bind(2)".to_owned()),
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
            Error::Threads { .. } => Some("fork(2) takes one thread along, and the locks of all".to_owned()),
            Error::NotReady => None,
            Error::PidFileHeld { pid, .. } => pid.map(|pid| format!("process {pid} holds it")),
            Error::PidFileOccupied { by, .. } => Some(format!("there is {by}")),
            Error::NotifyAddress { .. } => {
                Some("expected an absolute path, or @ and the name of an abstract socket".to_owned())
            }
            Error::Watchdog { .. } => Some("expected a number above 0".to_owned()),
        }
    }

    fn fix(&self) -> Option<String> {
        let fix = match self {
            Error::Endpoint { .. } => return None,
            Error::Endpoints { count: 0 } => "ask for one: 80, 443/udp, https=[::]:443",
            Error::Endpoints { .. } => "ask for some of them in another request",
            Error::Announcement(AnnouncementError::TooMany { .. }) => {
                "hand over fewer, or spread them over more processes"
            }
            Error::Announcement(AnnouncementError::Stale { .. }) => {
                "look at what starts this program: the variables are an earlier process's, and must not be inherited"
            }
            Error::Announcement(AnnouncementError::Names { .. }) => {
                "give each descriptor one name without a colon, as FileDescriptorName= in a socket unit does"
            }
            Error::Announcement(AnnouncementError::Variable { .. } | AnnouncementError::ForAnother { .. }) => {
                "start this program itself, with exec where a script starts it; or unset LISTEN_FDS, LISTEN_PID and \
                 LISTEN_FDNAMES if nothing was to be handed over"
            }
            Error::NumberTaken { .. } => "adopt by one convention, once, early in main, and hand the result on",
            Error::Variable { .. } => {
                "write the numbers with commas, 3,4, or unset it if nothing was to be handed over"
            }
            Error::NotInherited { .. } => {
                "look at what starts this program: it must leave the descriptor open across execve"
            }
            Error::NotAConnection { .. } => {
                "say nowait in inetd.conf (Accept=yes in a socket unit), or adopt a listener"
            }
            Error::PeerGone { .. } => "end quietly: nobody waits for an answer",
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
            Error::NoAnswer { status: Some(_), .. } => "run it by hand with the same endpoints: portgrant explain",
            Error::NoAnswer { status: None, .. } => {
                "run it by hand with the same endpoints: portgrant explain (SIGCHLD is ignored here, so how it \
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
            Error::InUse { endpoint, holders } => return Some(make_room(endpoint, holders)),
            Error::NotThere { .. } => {
                "see ip addr for those there are; freebind, where it is granted, binds before it comes"
            }
            Error::NoIpv6 { port, .. } => return Some(format!("ask for 0.0.0.0:{port}")),
            Error::NoProtocol { protocol, .. } => {
                return Some(format!("as root, modprobe {0}, or enable it (sysctl)", protocol.word()));
            }
            Error::Privileged { .. } => {
                "have portgrant installed and a rule made (portgrant explain), or start this program with the socket: \
                 portgrant exec, a systemd socket unit"
            }
            Error::EachIsSeveral { .. } => "take all of them: Sockets::request",
            Error::OptionTooLate { .. } => {
                "have who starts this program set it: as an option of the endpoint, or of the socket unit"
            }
            Error::Bind { .. } | Error::SocketOption { .. } | Error::System { .. } => return None,
            Error::Threads { .. } => "start the daemon first in main, before tokio's runtime and any thread",
            Error::ThreadsUnknown { .. } => "mount /proc, or stay in the foreground",
            Error::NotReady => "see what it wrote to standard error before, or start it in the foreground",
            Error::Folder { .. } => "see that the folder is there and that this user may enter it",
            Error::PidFile { .. } => "make a folder in /run that this user may write to, as RuntimeDirectory= does",
            Error::PidFileHeld { .. } => "end that one first, or give this one a pid file of its own",
            Error::PidFileOccupied { .. } => "remove it, or choose a path that only this user may write to",
            Error::NotifyAddress { .. } => "look at what starts this program, or unset it if no service manager does",
            Error::Notify { .. } => {
                "see that its socket is there, also inside of a chroot, and that this user may write to it"
            }
            Error::Watchdog { .. } => "look at what starts this program, or unset WATCHDOG_USEC and WATCHDOG_PID",
            Error::Terminal { .. } => "see that /dev/ptmx and /dev/pts are there, and not all in use (kernel.pty.max)",
            Error::Program { .. } => "name a program along PATH, or its path, that this user may execute",
            Error::Services { .. } => "see that the file is there and that this user may read it",
            Error::NameService { .. } => "see that it is well-formed and that this user may read it",
            Error::NotBound { source, .. } => return not_bound(source).map(str::to_owned),
            Error::NotEach { .. } => "ask for it as each:PORT/udp, and take all that bear the name",
            Error::NoListener => "add a tcp listener or a udp socket before the first event is waited for",
            Error::Listener { .. } => "look at what else holds it: it was shut down, or is no listener any more",
        };
        Some(fix.to_owned())
    }
}

fn in_use(holders: &[Holder]) -> String {
    match holders {
        [] => "another socket holds this address, or one that overlaps it".to_owned(),
        [only] => only.to_string(),
        [first, others @ ..] => format!("{first}, and {} more", others.len()),
    }
}

/// What to do about the first of `holders`.
fn make_room(endpoint: &str, holders: &[Holder]) -> String {
    let flag = if endpoint.ends_with("/udp") { "u" } else { "t" };
    match holders.first() {
        None => format!("as root, see who: ss -Hanp{flag}"),
        Some(holder) if holder.is_own() => "take the socket that is there, or close it first".to_owned(),
        Some(Holder { state: HolderState::TimeWait { .. } | HolderState::Connection(_), .. }) => {
            "wait until it is over; it would not matter if that connection's server had set SO_REUSEADDR".to_owned()
        }
        Some(Holder { process: Some(_), .. }) => "stop it, or serve at another address or port".to_owned(),
        Some(Holder { local, .. }) => format!(
            "stop it, or serve at another address or port; that user and root see its program: ss -Hanp{flag} \
             'sport = :{}'",
            local.port()
        ),
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
            | Error::Bind { source, .. }
            | Error::SocketOption { source, .. }
            | Error::System { source, .. }
            | Error::ThreadsUnknown { source, .. }
            | Error::Folder { source, .. }
            | Error::PidFile { source, .. }
            | Error::Notify { source, .. }
            | Error::Terminal { source, .. }
            | Error::Program { source, .. }
            | Error::Services { source, .. }
            | Error::NameService { source, .. }
            | Error::NotBound { source, .. }
            | Error::Listener { source, .. } => Some(source),
            Error::Endpoints { .. }
            | Error::AdoptedBefore { .. }
            | Error::Missing { .. }
            | Error::NumberTaken { .. }
            | Error::Variable { .. }
            | Error::NotInherited { .. }
            | Error::NotAConnection { .. }
            | Error::PeerGone { .. }
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
            | Error::InUse { .. }
            | Error::NotThere { .. }
            | Error::NoIpv6 { .. }
            | Error::NoProtocol { .. }
            | Error::Privileged { .. }
            | Error::EachIsSeveral { .. }
            | Error::OptionTooLate { .. }
            | Error::Threads { .. }
            | Error::NotReady
            | Error::PidFileHeld { .. }
            | Error::PidFileOccupied { .. }
            | Error::NotifyAddress { .. }
            | Error::Watchdog { .. }
            | Error::NotEach { .. }
            | Error::NoListener => None,
        }
    }
}
