//! What can go wrong with a server's sockets, and what each tells people.
//!
//! What several features raise is told here; what one alone does, in a file of its own.

mod adoption;
mod bind;
#[cfg(feature = "daemon")]
mod daemon;
mod listener;
mod mailbox;
mod request;
#[cfg(feature = "restart")]
mod restart;
mod socket;
#[cfg(feature = "telnet")]
mod telnet;
mod told;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use portgrant_protocol::endpoint::EndpointError;
use portgrant_protocol::record::RecordError;
use portgrant_protocol::status;
use portgrant_protocol::text::printable;
use portgrant_protocol::transfer::TransferError;

use self::told::Told;
use crate::Message;

pub use adoption::AdoptionError;
pub use bind::BindError;
#[cfg(feature = "daemon")]
pub use daemon::DaemonError;
pub use listener::ListenerError;
pub use mailbox::MailboxError;
pub use request::RequestError;
#[cfg(feature = "restart")]
pub use restart::RestartError;
pub use socket::SocketError;
#[cfg(feature = "telnet")]
pub use telnet::TelnetError;

/// Why there is no socket. [`Error::message`] says it in three parts, `Display` in one line.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// What was handed over cannot be adopted
    Adoption(AdoptionError),
    /// The socket that is there is not the one that was asked for
    Socket(SocketError),
    /// The helper gave no socket
    Request(RequestError),
    /// The mailbox received nothing
    Mailbox(MailboxError),
    /// This process cannot bind it
    Bind(BindError),
    /// A listener, or a udp socket for each address, does not serve
    Listener(ListenerError),
    /// There is no daemon, or nobody who knows of it
    #[cfg(feature = "daemon")]
    Daemon(DaemonError),
    /// No generation takes another's place
    #[cfg(feature = "restart")]
    Restart(RestartError),
    /// No program runs on a terminal
    #[cfg(feature = "telnet")]
    Telnet(TelnetError),
    /// A text that is no endpoint, or names a service that nobody knows
    Endpoint {
        /// The text
        text: String,
        /// What is wrong with it
        source: EndpointError,
    },
    /// The answer is no
    Refused(Box<Message>),
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
    /// The kernel did not take a socket option's value
    SocketOption {
        /// The option: `TCP_KEEPIDLE`
        option: &'static str,
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
    #[cfg(feature = "resolve")]
    NameService {
        /// Which
        path: PathBuf,
        /// Why not
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
    /// The exit status that says it ([`status`]), for a program that ends with it.
    pub fn status(&self) -> u8 {
        self.told().message.status
    }

    /// What happened, why, and what to do about it, each in a line of printable ASCII.
    pub fn message(&self) -> Message {
        self.told().message
    }

    fn told(&self) -> Told<'_> {
        match self {
            Error::Adoption(error) => error.told(),
            Error::Socket(error) => error.told(),
            Error::Request(error) => error.told(),
            Error::Mailbox(error) => error.told(),
            Error::Bind(error) => error.told(),
            Error::Listener(error) => error.told(),
            #[cfg(feature = "daemon")]
            Error::Daemon(error) => error.told(),
            #[cfg(feature = "restart")]
            Error::Restart(error) => error.told(),
            #[cfg(feature = "telnet")]
            Error::Telnet(error) => error.told(),
            Error::Endpoint { text, source } => Told::what(format!("'{}' is no endpoint", printable(text.as_bytes())))
                .because(source)
                .status(status::USAGE),
            Error::Refused(message) => Told { message: message.as_ref().clone(), source: None },
            Error::Transfer(source) => {
                let told = Told::what("the sockets did not get through").because(source);
                if matches!(source, TransferError::Truncated) {
                    told.fix("raise the limit of open files (ulimit -n)")
                } else {
                    told
                }
            }
            Error::Record(source) => Told::what("what came is no answer").because(source).fix(ONE_VERSION),
            Error::Count { names, descriptors } => {
                Told::what(format!("{names} names and {descriptors} descriptors came"))
                    .why("each descriptor has one name")
                    .fix(ONE_VERSION)
            }
            Error::SocketOption { option, source } => Told::what(format!("{option} cannot be set")).because(source),
            Error::Services { path, source } => Told::what(format!("cannot read {}", shown(path)))
                .because(source)
                .fix("see that the file is there and that this user may read it"),
            #[cfg(feature = "resolve")]
            Error::NameService { path, source } => Told::what(format!("cannot read {}", shown(path)))
                .because(source)
                .fix("see that it is well-formed and that this user may read it"),
            Error::System { what, source } => Told::what(*what).because(source),
        }
    }
}

/// Where what one version of portgrant sent does not fit another.
const ONE_VERSION: &str = "see that the helper and this program are of one version of portgrant";

fn quoted(name: &str) -> String {
    format!("'{}'", printable(name.as_bytes()))
}

fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_encoded_bytes())
}

/// An error is what its `told` says.
macro_rules! error {
    ($error:ident) => {
        impl fmt::Display for $error {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.told().message.fmt(f)
            }
        }

        impl std::error::Error for $error {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                self.told().source
            }
        }
    };
    ($error:ident is Error::$feature:ident) => {
        error!($error);

        impl From<$error> for Error {
            fn from(error: $error) -> Error {
                Error::$feature(error)
            }
        }
    };
}

error!(Error);
error!(AdoptionError is Error::Adoption);
error!(SocketError is Error::Socket);
error!(RequestError is Error::Request);
error!(MailboxError is Error::Mailbox);
error!(BindError is Error::Bind);
error!(ListenerError is Error::Listener);
#[cfg(feature = "daemon")]
error!(DaemonError is Error::Daemon);
#[cfg(feature = "restart")]
error!(RestartError is Error::Restart);
#[cfg(feature = "telnet")]
error!(TelnetError is Error::Telnet);
