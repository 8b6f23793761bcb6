//! `portgrant pass`: binds another port for a running server, as the caller, and sends the socket over the server's
//! Unix socket. The server decides from whom it accepts sockets.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use log::debug;
use nix::sys::signal::{SigSet, Signal};
use portgrant_protocol::record::Reply;
use portgrant_protocol::status;
use portgrant_protocol::transfer::{self, TransferError};
use portgrant_server::error::Refused;
use portgrant_server::{Error as SocketError, Sockets};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, shutdown, socket_with, sockopt};

use crate::delivery::{DeliveryError, TIME_LIMIT};
use crate::sources::Sources;
use crate::{Error, Pass};

/// Returns when the server has taken the sockets, as an error that means status 0.
pub(crate) fn pass(asked: &Pass) -> Result<Infallible, Error> {
    let failed = |source| Error::NotPassed { to: asked.to.clone(), source };
    // Connect first: sockets that cannot be sent need not be bound.
    let server = reach(&asked.to).map_err(failed)?;
    debug!("{} is answered", asked.to.display());
    let sources = Sources::of(&asked.listen)?;
    // A server that is gone must be an error here, not a SIGPIPE.
    let _ = SigSet::from_iter([Signal::SIGPIPE]).thread_block();
    let (names, sockets) = match sources.obtain() {
        Ok(sockets) => Sockets::into_fds(sockets),
        Err(error) => return Err(refused(&server, error).into()),
    };
    let sent = send(&server, &names, &sockets);
    drop(sockets);
    match sent {
        // The server hung up before it read, and may have sent the reason.
        Err(DeliveryError::Unread) => answer(&server, names).and(Err(DeliveryError::Unread)),
        sent => sent.and_then(|()| answer(&server, names)),
    }
    .map_err(failed)?;
    Err(Error::Ended { status: status::OK })
}

fn reach(path: &Path) -> Result<OwnedFd, DeliveryError> {
    let system = |errno: Errno| DeliveryError::System(errno.into());
    let address = SocketAddrUnix::new(path).map_err(system)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(system)?;
    for timeout in [sockopt::Timeout::Send, sockopt::Timeout::Recv] {
        sockopt::set_socket_timeout(&socket, timeout, Some(TIME_LIMIT)).map_err(system)?;
    }
    connect(&socket, &address).map_err(|errno| match errno {
        Errno::NOENT | Errno::NOTDIR => DeliveryError::Missing,
        Errno::ACCESS | Errno::PERM => DeliveryError::Forbidden,
        Errno::PROTOTYPE => DeliveryError::WrongType,
        // A file that is not a socket gives the same error (connect(2)).
        Errno::CONNREFUSED if !is_socket(path) => DeliveryError::NotASocket,
        Errno::CONNREFUSED => DeliveryError::Nobody,
        // SO_SNDTIMEO expired: the server's queue of connections is full.
        Errno::AGAIN => DeliveryError::Silent,
        errno => system(errno),
    })?;
    Ok(socket)
}

fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// Also sends the refusal to the server, as the helper does, so that the server can log the reason.
fn refused(server: &OwnedFd, error: SocketError) -> SocketError {
    if let Some(Refused(refusal)) = error.downcast_ref()
        && let Ok(record) = Reply::Failed(refusal.clone()).encode()
    {
        let _ = transfer::send(server.as_fd(), &record, &[]);
    }
    error
}

fn send(server: &OwnedFd, names: &[String], sockets: &[OwnedFd]) -> Result<(), DeliveryError> {
    let record = Reply::Granted { names: names.to_vec() }.encode();
    let record = record.map_err(|error| DeliveryError::Garbled(error.to_string()))?;
    for name in names {
        debug!("sending {name}");
    }
    transfer::send(server.as_fd(), &record, sockets).map_err(of_transfer)?;
    // The server's next read returns the end.
    let _ = shutdown(server, rustix::net::Shutdown::Write);
    Ok(())
}

/// A server that reads the sockets and sends no answer has taken them; if it closes without reading, the kernel reports that.
fn answer(server: &OwnedFd, sent: Vec<String>) -> Result<(), DeliveryError> {
    match receive(server)? {
        None => {
            debug!("it read them, and did not say what became of them");
            Ok(())
        }
        Some(Reply::Failed(message)) => Err(DeliveryError::TurnedAway(Box::new(message))),
        Some(Reply::Granted { names }) if names == sent => {
            debug!("it took {}", names.join(", "));
            Ok(())
        }
        Some(Reply::Granted { names }) => Err(DeliveryError::Partial { sent, taken: names }),
    }
}

fn receive(server: &OwnedFd) -> Result<Option<Reply>, DeliveryError> {
    let received = match transfer::receive(server.as_fd()) {
        // The server closed without reading everything. An answer that it sent before is received after this error.
        Err(TransferError::System(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
            match transfer::receive(server.as_fd()) {
                Err(_) => return Err(DeliveryError::Unread),
                received => received,
            }
        }
        received => received,
    };
    match received {
        Ok((record, _)) => Reply::parse(&record).map(Some).map_err(|error| DeliveryError::Garbled(error.to_string())),
        Err(TransferError::Ended) => Ok(None),
        Err(error) => Err(of_transfer(error)),
    }
}

fn of_transfer(error: TransferError) -> DeliveryError {
    match error {
        TransferError::System(error) if error.kind() == io::ErrorKind::WouldBlock => DeliveryError::Silent,
        TransferError::System(Errno::PERM) => DeliveryError::NoRights,
        TransferError::System(error)
            if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
        {
            DeliveryError::Unread
        }
        TransferError::System(errno) => DeliveryError::System(errno.into()),
        TransferError::NotAConversation | TransferError::Truncated | TransferError::Ended => {
            DeliveryError::Garbled(error.to_string())
        }
    }
}
