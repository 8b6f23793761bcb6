//! Sockets that are there, and are not what was asked for.

use std::net::SocketAddr;

use portgrant_protocol::Protocol;
use portgrant_protocol::endpoint::Resolved;
use portgrant_protocol::socket::Mismatch;

use super::quoted;
use super::told::Told;

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

    pub(super) fn told(&self) -> Told<'_> {
        match self {
            SocketError::WrongKind { name, mismatch } => Told::what(format!("{} is of the wrong kind", quoted(name)))
                .why(mismatch.to_string())
                .fix(match mismatch {
                    Mismatch::Protocol { found, .. } => take_as(*found),
                    Mismatch::NotASocket | Mismatch::NotInet | Mismatch::NotListening | Mismatch::Address { .. } => {
                        "look at what starts this program: that name goes with another descriptor"
                    }
                }),
            SocketError::NotListening { name } => Told::what(format!("{} is not listening", quoted(name)))
                .why("it is bound, and listen(2) was not called on it")
                .fix("whoever bound it must call listen(2), as portgrant does"),
            SocketError::WrongAddress { name, expected, found, dual_stack } => {
                Told::what(format!("{} is not at {expected}", quoted(name)))
                    .why(Mismatch::Address { found: *found, dual_stack: *dual_stack }.to_string())
                    .fix("make the endpoint that was granted and the address that is served the same")
            }
            SocketError::OptionTooLate { name, option } => Told::what(format!("{} lacks {option}", quoted(name)))
                .why("it must be set before bind(2)")
                .fix("have who starts this program set it: as an option of the endpoint, or of the socket unit"),
            SocketError::UnknownName { name, known } => Told::what(format!("no socket is named {}", quoted(name)))
                .why(there_are(known))
                .fix("give the endpoint that name (https=443), or take one of those that are there"),
            SocketError::NameTwice { name } => Told::what(format!("several sockets are named {}", quoted(name)))
                .fix("give each endpoint a name of its own, or say at which address"),
            SocketError::Taken { name } => Told::what(format!("{} was taken already", quoted(name)))
                .fix("take each socket once, and clone it where two need it"),
        }
    }
}

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
