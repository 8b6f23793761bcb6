//! `portgrant pass`: one port more for a server that runs. Bound for who asks, and sent over the server's own socket; whom
//! it takes something from is the server's affair.

use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use log::debug;
use nix::sys::signal::{SigSet, Signal};
use portgrant_protocol::record::Reply;
use portgrant_protocol::status;
use portgrant_protocol::transfer::{self, TransferError};
use portgrant_server::error::Refused;
use portgrant_server::{Error as SocketError, Message, Sockets};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, shutdown, socket_with, sockopt};

use crate::sources::Sources;
use crate::{Error, Pass};

/// How long the server may take to come to the connection, and to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why nothing was taken at the server's socket.
#[derive(Debug)]
pub enum Trouble {
    /// There is no such file
    Missing,
    /// It is something else
    NotASocket,
    /// A socket file that nobody listens at
    Nobody,
    /// This user may not connect to it
    Forbidden,
    /// A Unix socket of another type than SOCK_SEQPACKET
    WrongType,
    /// The server's socket takes no descriptors (SO_PASSRIGHTS)
    NoRights,
    /// The server closed the connection without reading
    Unread,
    /// The server did not answer, and did not close the connection
    Silent,
    /// What it answered is no record
    Garbled(String),
    /// It took others than those that were sent
    Partial {
        /// Sent
        sent: Vec<String>,
        /// Taken
        taken: Vec<String>,
    },
    /// It said no
    TurnedAway(Box<Message>),
    /// A system call failed
    System(io::Error),
}

/// Returns when the server has taken the sockets: as the end with status 0.
pub(crate) fn pass(asked: &Pass) -> Result<Infallible, Error> {
    let failed = |trouble| Error::NotPassed { to: asked.to.clone(), trouble };
    // First: what cannot be handed over need not be bound.
    let server = reach(&asked.to).map_err(failed)?;
    debug!("{} is answered", asked.to.display());
    let sources = Sources::of(&asked.listen)?;
    // A server that is gone is an error here, not the end by SIGPIPE.
    let _ = SigSet::from_iter([Signal::SIGPIPE]).thread_block();
    let (names, sockets) = match sources.obtain() {
        Ok(sockets) => Sockets::into_fds(sockets),
        Err(error) => return Err(refused(&server, error).into()),
    };
    let sent = send(&server, &names, &sockets);
    drop(sockets);
    match sent {
        // It hung up before it could read, and may have said why.
        Err(Trouble::Unread) => answer(&server, names).and(Err(Trouble::Unread)),
        sent => sent.and_then(|()| answer(&server, names)),
    }
    .map_err(failed)?;
    Err(Error::Ended { status: status::OK })
}

fn reach(path: &Path) -> Result<OwnedFd, Trouble> {
    let system = |errno: Errno| Trouble::System(errno.into());
    let address = SocketAddrUnix::new(path).map_err(system)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(system)?;
    for timeout in [sockopt::Timeout::Send, sockopt::Timeout::Recv] {
        sockopt::set_socket_timeout(&socket, timeout, Some(PATIENCE)).map_err(system)?;
    }
    connect(&socket, &address).map_err(|errno| match errno {
        Errno::NOENT | Errno::NOTDIR => Trouble::Missing,
        Errno::ACCESS | Errno::PERM => Trouble::Forbidden,
        Errno::PROTOTYPE => Trouble::WrongType,
        // What is no socket refuses, too (connect(2)).
        Errno::CONNREFUSED if !is_socket(path) => Trouble::NotASocket,
        Errno::CONNREFUSED => Trouble::Nobody,
        // SO_SNDTIMEO: its queue of connections is full.
        Errno::AGAIN => Trouble::Silent,
        errno => system(errno),
    })?;
    Ok(socket)
}

fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// The server hears of a refusal as well, as it does from the helper itself: its log can say why nothing came.
fn refused(server: &OwnedFd, error: SocketError) -> SocketError {
    if let Some(Refused(refusal)) = error.downcast_ref()
        && let Ok(record) = Reply::Failed(refusal.clone()).encode()
    {
        let _ = transfer::send(server.as_fd(), &record, &[]);
    }
    error
}

fn send(server: &OwnedFd, names: &[String], sockets: &[OwnedFd]) -> Result<(), Trouble> {
    let record = Reply::Granted { names: names.to_vec() }.encode();
    let record = record.map_err(|error| Trouble::Garbled(error.to_string()))?;
    for name in names {
        debug!("sending {name}");
    }
    transfer::send(server.as_fd(), &record, sockets).map_err(of_transfer)?;
    // Who reads on finds the end.
    let _ = shutdown(server, rustix::net::Shutdown::Write);
    Ok(())
}

/// A server that takes the sockets and says nothing has taken them: the kernel tells where it closed without reading.
fn answer(server: &OwnedFd, sent: Vec<String>) -> Result<(), Trouble> {
    match receive(server)? {
        None => {
            debug!("it read them, and did not say what became of them");
            Ok(())
        }
        Some(Reply::Failed(message)) => Err(Trouble::TurnedAway(Box::new(message))),
        Some(Reply::Granted { names }) if names == sent => {
            debug!("it took {}", names.join(", "));
            Ok(())
        }
        Some(Reply::Granted { names }) => Err(Trouble::Partial { sent, taken: names }),
    }
}

fn receive(server: &OwnedFd) -> Result<Option<Reply>, Trouble> {
    let received = match transfer::receive(server.as_fd()) {
        // It closed without reading all. What it may have said before stands behind that error.
        Err(TransferError::System(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
            match transfer::receive(server.as_fd()) {
                Err(_) => return Err(Trouble::Unread),
                received => received,
            }
        }
        received => received,
    };
    match received {
        Ok((record, _)) => Reply::parse(&record).map(Some).map_err(|error| Trouble::Garbled(error.to_string())),
        Err(TransferError::Ended) => Ok(None),
        Err(error) => Err(of_transfer(error)),
    }
}

fn of_transfer(error: TransferError) -> Trouble {
    match error {
        TransferError::System(error) if error.kind() == io::ErrorKind::WouldBlock => Trouble::Silent,
        TransferError::System(Errno::PERM) => Trouble::NoRights,
        TransferError::System(error)
            if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
        {
            Trouble::Unread
        }
        TransferError::System(errno) => Trouble::System(errno.into()),
        TransferError::NotAConversation | TransferError::Truncated | TransferError::Ended => {
            Trouble::Garbled(error.to_string())
        }
    }
}

impl Trouble {
    /// The exit status that says it.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Trouble::Missing | Trouble::Nobody | Trouble::Unread | Trouble::Silent | Trouble::Partial { .. } => {
                status::UNAVAILABLE
            }
            Trouble::NotASocket | Trouble::WrongType | Trouble::NoRights | Trouble::Garbled(_) => status::USAGE,
            Trouble::Forbidden => status::REFUSED,
            Trouble::TurnedAway(refusal) => refusal.status,
            Trouble::System(_) => status::SYSTEM,
        }
    }

    /// What to do about it.
    pub(crate) fn fix(&self) -> &str {
        match self {
            Trouble::Missing | Trouble::Nobody => "start the server first, and name the socket that it makes",
            Trouble::NotASocket | Trouble::WrongType => {
                "name a socket of type SOCK_SEQPACKET that the server made for this, as portgrant-server's Mailbox does"
            }
            Trouble::NoRights => {
                "write AcceptFileDescriptors=yes into the server's socket unit, or have the server set SO_PASSRIGHTS"
            }
            Trouble::Forbidden => {
                "run this as the server's user or as root, or let the server's user give this user access"
            }
            Trouble::Unread => "see the server's log for why it rejects this user",
            Trouble::Silent => "check whether the server is stuck; it may still read the sockets from its queue",
            Trouble::Garbled(_) => "use the same version of portgrant on both sides",
            Trouble::Partial { .. } => "see the server's log",
            Trouble::TurnedAway(refusal) => refusal.fix.as_deref().unwrap_or("see the server's log"),
            Trouble::System(_) => "see what limits this user (ulimit -a)",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Missing => f.write_str("there is no such file"),
            Trouble::NotASocket => f.write_str("it is not a socket"),
            Trouble::Nobody => f.write_str("no process listens on it"),
            Trouble::Forbidden => f.write_str("this user may not connect to it"),
            Trouble::WrongType => f.write_str("it is a socket of another type than SOCK_SEQPACKET"),
            Trouble::NoRights => f.write_str("the server's socket accepts no descriptors (SO_PASSRIGHTS is off)"),
            Trouble::Unread => f.write_str("the server closed the connection without reading what was sent"),
            Trouble::Silent => write!(f, "the server did not answer within {} seconds", PATIENCE.as_secs()),
            Trouble::Garbled(why) => f.write_str(why),
            Trouble::Partial { sent, taken } => {
                write!(f, "of {} the server took {}", sent.join(", "), taken.join(", "))
            }
            Trouble::TurnedAway(message) => {
                let why = message.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
                write!(f, "the server says: {}{why}", message.what)
            }
            Trouble::System(error) => error.fmt(f),
        }
    }
}
