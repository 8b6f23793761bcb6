//! Why a socket that was passed to this process cannot be used: it cannot be adopted, or it is not the expected one.

use std::net::SocketAddr;

use portgrant_protocol::Protocol;
use portgrant_protocol::endpoint::Resolved;
use portgrant_protocol::listen::{self, AnnouncementError};
use portgrant_protocol::text::printable;

use crate::failure::{Report, failure, quoted};
use portgrant_protocol::socket_info::Mismatch;

/// Why a descriptor cannot be adopted
#[derive(Debug)]
#[non_exhaustive]
pub enum AdoptionError {
    /// `LISTEN_*` variables that are stale, malformed, or meant for another process
    Announcement(AnnouncementError),
    /// Something that can be adopted only once was already adopted
    AdoptedBefore {
        /// `LISTEN_FDS` or `descriptor 0`
        what: &'static str,
    },
    /// A descriptor that was announced but not inherited
    Missing {
        /// Its number
        number: i32,
        /// Its name
        name: String,
    },
    /// A descriptor that was already adopted, by this or by another convention
    NumberTaken {
        /// Its number
        number: i32,
    },
    /// A variable that does not contain descriptor numbers
    Variable {
        /// The variable
        variable: String,
        /// Its value, made printable
        value: String,
    },
    /// A descriptor that a variable names but that was not inherited
    NotInherited {
        /// Its number
        number: i32,
        /// The variable
        variable: String,
    },
    /// A listener where a connection was expected
    NotAConnection {
        /// The descriptor's name
        name: String,
    },
    /// A connection whose client has already disconnected
    PeerGone {
        /// The descriptor's name
        name: String,
    },
}

impl AdoptionError {
    pub(super) fn report(&self) -> Report<'_> {
        match self {
            AdoptionError::Announcement(source) => {
                Report::what("the sockets announced in the environment are not for this process")
                    .because(source)
                    .fix(announce_better(source))
            }
            AdoptionError::AdoptedBefore { what } => Report::what(format!("{what} was already adopted"))
                .why(TWO_OWNERS)
                .fix("adopt it once, early in main, and pass the result on"),
            AdoptionError::Missing { number, name } => {
                Report::what(format!("descriptor {number} ({}) was not inherited", quoted(name)))
                    .why("LISTEN_FDS counts it, but it was closed before this program started")
                    .fix(LEAVE_IT_OPEN)
            }
            AdoptionError::NumberTaken { number } => Report::what(format!("descriptor {number} was already adopted"))
                .why(TWO_OWNERS)
                .fix("adopt it once and by one convention, early in main, and pass the result on"),
            AdoptionError::Variable { variable, value } => {
                Report::what(format!("{} is '{value}'", printable(variable.as_bytes())))
                    .why(format!("expected up to {} descriptor numbers, each 3 or more", listen::MAX))
                    .fix("separate the numbers by commas (3,4), or unset the variable if no socket is passed")
            }
            AdoptionError::NotInherited { number, variable } => {
                Report::what(format!("descriptor {number} was not inherited"))
                    .why(format!(
                        "{} names it, but it was closed before this program started",
                        printable(variable.as_bytes())
                    ))
                    .fix(LEAVE_IT_OPEN)
            }
            AdoptionError::NotAConnection { name } => {
                Report::what(format!("{} is a listener, not a connection", quoted(name)))
                    .why("inetd passes the listener itself to a `wait` service")
                    .fix("write nowait in inetd.conf (Accept=yes in a socket unit), or adopt a listener")
            }
            AdoptionError::PeerGone { name } => {
                Report::what(format!("the client of {} has already disconnected", quoted(name)))
                    .why("the socket is no longer connected")
                    .fix("exit without a message: no client waits for an answer")
            }
        }
    }
}

failure!(AdoptionError);

const TWO_OWNERS: &str = "two owners would close each other's descriptors";
const LEAVE_IT_OPEN: &str = "change what starts this program: it must keep the descriptor open across execve";

fn announce_better(wrong: &AnnouncementError) -> &'static str {
    match wrong {
        AnnouncementError::TooMany { .. } => "pass fewer sockets, or divide them among several processes",
        AnnouncementError::Stale { .. } => {
            "change what starts this program: these variables belong to an earlier process and must not be inherited"
        }
        AnnouncementError::Names { .. } => {
            "give each descriptor one name without a colon (FileDescriptorName= in a socket unit)"
        }
        AnnouncementError::Variable { .. } | AnnouncementError::ForAnother { .. } => {
            "start this program directly (a script must use exec), or unset LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES if no \
             socket is passed"
        }
    }
}

/// Why none of the sockets is the requested one
#[derive(Debug)]
#[non_exhaustive]
pub enum SocketError {
    /// Not a socket, not an internet socket, or one of another protocol
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
        /// The requested address, `[::]:443/tcp`
        expected: String,
        /// The actual address
        found: SocketAddr,
        /// Whether it accepts IPv4 as well
        dual_stack: bool,
    },
    /// An option that must be set before bind(2) is not set
    OptionTooLate {
        /// The socket's name
        name: String,
        /// The endpoint's option: `reuseport`, `dev`
        option: &'static str,
    },
    /// No socket has this name
    UnknownName {
        /// The name
        name: String,
        /// The names that exist
        known: Vec<String>,
    },
    /// Several sockets have this name
    NameTwice {
        /// The name
        name: String,
    },
    /// The socket of this name was already taken
    Taken {
        /// The name
        name: String,
    },
}

impl SocketError {
    /// How the socket `name` differs from the one that was `asked` for.
    pub(crate) fn mismatch(name: &str, asked: &Resolved, mismatch: Mismatch) -> SocketError {
        let name = name.to_owned();
        match mismatch {
            Mismatch::NotASocket | Mismatch::NotInet | Mismatch::Protocol { .. } => {
                SocketError::WrongKind { name, mismatch }
            }
            Mismatch::NotListening => SocketError::NotListening { name },
            Mismatch::Address { found, dual_stack } => {
                SocketError::WrongAddress { name, expected: asked.to_string(), found, dual_stack }
            }
        }
    }

    pub(super) fn report(&self) -> Report<'_> {
        match self {
            SocketError::WrongKind { name, mismatch } => Report::what(format!("{} is of the wrong kind", quoted(name)))
                .why(mismatch.to_string())
                .fix(match mismatch {
                    Mismatch::Protocol { found, .. } => take_as(*found),
                    Mismatch::NotASocket | Mismatch::NotInet | Mismatch::NotListening | Mismatch::Address { .. } => {
                        "change what starts this program: the name belongs to another descriptor"
                    }
                }),
            SocketError::NotListening { name } => Report::what(format!("{} is not listening", quoted(name)))
                .why("it is bound, but listen(2) was not called on it")
                .fix("the program that binds it must also call listen(2), as portgrant does"),
            SocketError::WrongAddress { name, expected, found, dual_stack } => {
                Report::what(format!("{} is not at {expected}", quoted(name)))
                    .why(Mismatch::Address { found: *found, dual_stack: *dual_stack }.to_string())
                    .fix("use the same address in the endpoint and in the server")
            }
            SocketError::OptionTooLate { name, option } => Report::what(format!("{} lacks {option}", quoted(name)))
                .why("it must be set before bind(2)")
                .fix("set it where the socket is bound: as an option of the endpoint, or in the socket unit"),
            SocketError::UnknownName { name, known } => Report::what(format!("no socket is named {}", quoted(name)))
                .why(there_are(known))
                .fix("give the endpoint that name (https=443), or use one of the names that exist"),
            SocketError::NameTwice { name } => Report::what(format!("several sockets are named {}", quoted(name)))
                .fix("give each endpoint its own name, or ask for an address as well"),
            SocketError::Taken { name } => Report::what(format!("{} was already taken", quoted(name)))
                .fix("take each socket once, and clone it if two parts of the program need it"),
        }
    }
}

failure!(SocketError);

fn take_as(found: Protocol) -> &'static str {
    match found.transport() {
        Protocol::Udp => "take it as a udp socket, or bind it as tcp",
        Protocol::Tcp => "take it as a listener, or bind it as udp (PORT/udp)",
        Protocol::Sctp | Protocol::Mptcp => "take it as a plain descriptor, or bind it as tcp or udp",
    }
}

fn there_are(known: &[String]) -> String {
    if known.is_empty() {
        return "there are no sockets".to_owned();
    }
    format!("there are {}", known.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", "))
}
