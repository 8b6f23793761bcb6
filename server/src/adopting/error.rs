//! Why what was handed over cannot be used: it cannot be adopted, or it is not what was asked for.

use std::net::SocketAddr;

use portgrant_protocol::Protocol;
use portgrant_protocol::endpoint::Resolved;
use portgrant_protocol::listen::{self, AnnouncementError};
use portgrant_protocol::socket::Mismatch;
use portgrant_protocol::text::printable;

use crate::failure::{Report, failure, quoted};

/// Why what was handed over cannot be adopted
#[derive(Debug)]
#[non_exhaustive]
pub enum AdoptionError {
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
}

impl AdoptionError {
    pub(super) fn report(&self) -> Report<'_> {
        match self {
            AdoptionError::Announcement(source) => {
                Report::what("the sockets that the environment announces are not for this process")
                    .because(source)
                    .fix(announce_better(source))
            }
            AdoptionError::AdoptedBefore { what } => Report::what(format!("{what} is adopted a second time"))
                .why(TWO_OWNERS)
                .fix("adopt once, early in main, and hand the result on"),
            AdoptionError::Missing { number, name } => {
                Report::what(format!("descriptor {number} ({}) was not handed over", quoted(name)))
                    .why("LISTEN_FDS counts it, and it was closed before this program began")
                    .fix(LEAVE_IT_OPEN)
            }
            AdoptionError::NumberTaken { number } => {
                Report::what(format!("descriptor {number} is adopted a second time"))
                    .why(TWO_OWNERS)
                    .fix("adopt by one convention, once, early in main, and hand the result on")
            }
            AdoptionError::Variable { variable, value } => {
                Report::what(format!("{} is '{value}'", printable(variable.as_bytes())))
                    .why(format!("expected at most {} descriptor numbers from 3 on", listen::MAX))
                    .fix("write the numbers with commas, 3,4, or unset it if nothing was to be handed over")
            }
            AdoptionError::NotInherited { number, variable } => {
                Report::what(format!("descriptor {number} was not handed over"))
                    .why(format!("{} numbers it, and it was closed before", printable(variable.as_bytes())))
                    .fix(LEAVE_IT_OPEN)
            }
            AdoptionError::NotAConnection { name } => {
                Report::what(format!("{} is a listener, and no connection", quoted(name)))
                    .why("inetd's `wait` hands over the listener itself")
                    .fix("say nowait in inetd.conf (Accept=yes in a socket unit), or adopt a listener")
            }
            AdoptionError::PeerGone { name } => Report::what(format!("the client of {} is gone already", quoted(name)))
                .why("it is not connected any more")
                .fix("end quietly: nobody waits for an answer"),
        }
    }
}

failure!(AdoptionError);

const TWO_OWNERS: &str = "two owners would close each other's descriptors";
const LEAVE_IT_OPEN: &str = "look at what starts this program: it must leave the descriptor open across execve";

fn announce_better(wrong: &AnnouncementError) -> &'static str {
    match wrong {
        AnnouncementError::TooMany { .. } => "hand over fewer, or spread them over more processes",
        AnnouncementError::Stale { .. } => {
            "look at what starts this program: the variables are an earlier process's, and must not be inherited"
        }
        AnnouncementError::Names { .. } => {
            "give each descriptor one name without a colon, as FileDescriptorName= in a socket unit does"
        }
        AnnouncementError::Variable { .. } | AnnouncementError::ForAnother { .. } => {
            "start this program itself, with exec where a script starts it; or unset LISTEN_FDS, LISTEN_PID and \
             LISTEN_FDNAMES if nothing was to be handed over"
        }
    }
}

/// Why none of the sockets that are there is the one that was asked for
#[derive(Debug)]
#[non_exhaustive]
pub enum SocketError {
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
    /// It lacks an option that has to be set before it is bound
    OptionTooLate {
        /// The socket's name
        name: String,
        /// The endpoint's option: `reuseport`, `dev`
        option: &'static str,
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
}

impl SocketError {
    /// How `name`'s socket differs from what was `asked` for.
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
                        "look at what starts this program: that name goes with another descriptor"
                    }
                }),
            SocketError::NotListening { name } => Report::what(format!("{} is not listening", quoted(name)))
                .why("it is bound, and listen(2) was not called on it")
                .fix("whoever bound it must call listen(2), as portgrant does"),
            SocketError::WrongAddress { name, expected, found, dual_stack } => {
                Report::what(format!("{} is not at {expected}", quoted(name)))
                    .why(Mismatch::Address { found: *found, dual_stack: *dual_stack }.to_string())
                    .fix("make the endpoint that was granted and the address that is served the same")
            }
            SocketError::OptionTooLate { name, option } => Report::what(format!("{} lacks {option}", quoted(name)))
                .why("it must be set before bind(2)")
                .fix("have who starts this program set it: as an option of the endpoint, or of the socket unit"),
            SocketError::UnknownName { name, known } => Report::what(format!("no socket is named {}", quoted(name)))
                .why(there_are(known))
                .fix("give the endpoint that name (https=443), or take one of those that are there"),
            SocketError::NameTwice { name } => Report::what(format!("several sockets are named {}", quoted(name)))
                .fix("give each endpoint a name of its own, or say at which address"),
            SocketError::Taken { name } => Report::what(format!("{} was taken already", quoted(name)))
                .fix("take each socket once, and clone it where two need it"),
        }
    }
}

failure!(SocketError);

fn take_as(found: Protocol) -> &'static str {
    match found.transport() {
        Protocol::Udp => "take it as a datagram socket, or have it made as tcp",
        Protocol::Tcp => "take it as a listener, or have it made as udp (PORT/udp)",
        Protocol::Sctp | Protocol::Mptcp => "take it as a plain descriptor, or have it made as tcp or udp",
    }
}

fn there_are(known: &[String]) -> String {
    if known.is_empty() {
        return "there are no sockets".to_owned();
    }
    format!("there are {}", known.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", "))
}
