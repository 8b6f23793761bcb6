//! Why a running server did not take the sockets that `portgrant pass` sent.

use std::fmt;
use std::io;
use std::time::Duration;

use portgrant_protocol::status;
use portgrant_server::Message;

/// How long the server may take to accept the connection, and to answer.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Why the server did not take the sockets.
#[derive(Debug)]
pub enum DeliveryError {
    /// There is no such file
    Missing,
    /// The file is not a socket
    NotASocket,
    /// No process listens on the socket
    Nobody,
    /// This user may not connect to it
    Forbidden,
    /// A Unix socket of another type than SOCK_SEQPACKET
    WrongType,
    /// The server's socket does not accept descriptors (SO_PASSRIGHTS)
    NoRights,
    /// The server closed the connection without reading
    Unread,
    /// The server did not answer, and did not close the connection
    Silent,
    /// The answer is not a record
    Garbled(String),
    /// The server did not take all sockets
    Partial {
        /// Sent
        sent: Vec<String>,
        /// Taken
        taken: Vec<String>,
    },
    /// The server rejected the sockets
    TurnedAway(Box<Message>),
    /// A system call failed
    System(io::Error),
}

impl DeliveryError {
    /// The exit status for it.
    pub(crate) fn status(&self) -> u8 {
        match self {
            DeliveryError::Missing
            | DeliveryError::Nobody
            | DeliveryError::Unread
            | DeliveryError::Silent
            | DeliveryError::Partial { .. } => status::UNAVAILABLE,
            DeliveryError::NotASocket
            | DeliveryError::WrongType
            | DeliveryError::NoRights
            | DeliveryError::Garbled(_) => status::USAGE,
            DeliveryError::Forbidden => status::REFUSED,
            DeliveryError::TurnedAway(refusal) => refusal.status,
            DeliveryError::System(_) => status::SYSTEM,
        }
    }

    /// What to do about it.
    pub(crate) fn fix(&self) -> &str {
        match self {
            DeliveryError::Missing | DeliveryError::Nobody => {
                "start the server first, and name the socket that it makes"
            }
            DeliveryError::NotASocket | DeliveryError::WrongType => {
                "name a socket of type SOCK_SEQPACKET that the server made for this, as portgrant-server's Mailbox does"
            }
            DeliveryError::NoRights => {
                "write AcceptFileDescriptors=yes into the server's socket unit, or have the server set SO_PASSRIGHTS"
            }
            DeliveryError::Forbidden => {
                "run this as the server's user or as root, or let the server's user give this user access"
            }
            DeliveryError::Unread => "see the server's log for why it rejects this user",
            DeliveryError::Silent => "check whether the server is stuck; it may still read the sockets from its queue",
            DeliveryError::Garbled(_) => "use the same version of portgrant on both sides",
            DeliveryError::Partial { .. } => "see the server's log",
            DeliveryError::TurnedAway(refusal) => refusal.fix.as_deref().unwrap_or("see the server's log"),
            DeliveryError::System(_) => "see what limits this user (ulimit -a)",
        }
    }
}

impl fmt::Display for DeliveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeliveryError::Missing => f.write_str("there is no such file"),
            DeliveryError::NotASocket => f.write_str("it is not a socket"),
            DeliveryError::Nobody => f.write_str("no process listens on it"),
            DeliveryError::Forbidden => f.write_str("this user may not connect to it"),
            DeliveryError::WrongType => f.write_str("it is a socket of another type than SOCK_SEQPACKET"),
            DeliveryError::NoRights => f.write_str("the server's socket accepts no descriptors (SO_PASSRIGHTS is off)"),
            DeliveryError::Unread => f.write_str("the server closed the connection without reading what was sent"),
            DeliveryError::Silent => write!(f, "the server did not answer within {} seconds", TIME_LIMIT.as_secs()),
            DeliveryError::Garbled(why) => f.write_str(why),
            DeliveryError::Partial { sent, taken } => {
                write!(f, "of {} the server took {}", sent.join(", "), taken.join(", "))
            }
            DeliveryError::TurnedAway(message) => {
                let why = message.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
                write!(f, "the server says: {}{why}", message.what)
            }
            DeliveryError::System(error) => error.fmt(f),
        }
    }
}
