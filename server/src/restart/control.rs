//! The control socket: whoever asks for an upgrade by it is told how it went.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use portgrant_protocol::transfer::{self, TransferError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, getsockname, socket_with};

use super::conversation::{Item, answer, is_request, parse_answer, request, send};
use super::error::RestartError;
use super::order::Upgraded;
use crate::adopting::HandoverError;
use crate::adopting::socket_file::{Identity, NotBound, SocketFile, stranger};
use crate::daemon::Notify;
use crate::failure::Error;

/// A socket file by which this server is asked to upgrade.
#[derive(Debug)]
pub(super) struct Control(SocketFile);

impl Control {
    /// The one that was handed over, if it is at `path`; else a new one.
    pub(super) fn at(path: &Path, handed: Option<(Identity, OwnedFd)>) -> Result<Control, Error> {
        let failed = |source| RestartError::Control { path: path.to_owned(), source };
        let path = std::path::absolute(path).map_err(failed)?;
        let file = match handed.and_then(|(file, socket)| SocketFile::adopt(path.clone(), file, socket)) {
            Some(file) => file,
            None => match SocketFile::bind(path.clone()) {
                Ok(file) => file,
                Err(NotBound::Occupied(by)) => return Err(RestartError::ControlOccupied { path, by }.into()),
                Err(NotBound::System(source)) => return Err(RestartError::Control { path, source }.into()),
            },
        };
        // A peer that is gone again when it is to be accepted must not be waited for.
        rustix::io::ioctl_fionbio(&file, true).map_err(|errno| RestartError::Control { path, source: errno.into() })?;
        Ok(Control(file))
    }

    pub(super) fn item(&self) -> Item {
        Item::Control(self.0.identity())
    }

    /// This process serves: the file goes with it, also where a predecessor made it.
    pub(super) fn own(&mut self) {
        self.0.own();
    }

    /// Leaves the file to a successor, who holds the socket as well.
    pub(super) fn leave(self) {
        self.0.leave();
    }

    /// The next peer, if there is one that may ask.
    pub(super) fn accept(&self) -> Result<Option<OwnedFd>, Errno> {
        loop {
            let peer = match self.0.accept() {
                Err(Errno::AGAIN) => return Ok(None),
                accepted => accepted?,
            };
            // One that may not is turned away without a word, and the next has its turn.
            if matches!(stranger(peer.as_fd()), Ok(None)) && rustix::io::ioctl_fionbio(&peer, true).is_ok() {
                return Ok(Some(peer));
            }
        }
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether `peer`, which is readable, asks for an upgrade.
pub(super) fn asks(peer: &OwnedFd) -> Result<(), HandoverError> {
    let (record, _) = transfer::receive(peer.as_fd()).map_err(HandoverError::Transfer)?;
    is_request(&record).map_err(HandoverError::Record)
}

/// Tells whoever asked, and the service manager, how it went. Neither has to be there any more.
pub(super) fn tell(peer: Option<&OwnedFd>, manager: Option<&Notify>, result: Result<&Upgraded, &Error>) {
    if let Some(peer) = peer {
        let records = answer(result).unwrap_or_default();
        let _ = records.iter().try_for_each(|record| send(peer, record, &[]));
    }
    let Some(manager) = manager else { return };
    let _ = match result {
        Ok(upgraded) => manager.succeeded_by(upgraded.pid, &upgraded.to_string()),
        Err(error) => manager.ready().and_then(|()| manager.status(&format!("the upgrade failed: {error}"))),
    };
}

/// Asks the server whose control socket is at `path` to replace itself, and waits for `limit` at most to learn the
/// result.
///
/// ```no_run
/// use std::time::Duration;
/// use portgrant_server::restart;
///
/// match restart::ask("/run/my-server/control", Duration::from_secs(120)) {
///     Ok(upgraded) => println!("{upgraded}"), // generation 2, process 4711, took over
///     Err(error) => eprintln!("{error}"),     // and the old one serves on as if nothing had happened
/// }
/// ```
///
/// # Errors
/// [`RestartError::Control`] where no server is there, [`Refused`](crate::error::Refused) with the reason why it was not replaced,
/// [`RestartError::ControlSilent`] where it ended, or the time was over, without an answer.
pub fn ask(path: impl AsRef<Path>, limit: Duration) -> Result<Upgraded, Error> {
    let path: PathBuf = path.as_ref().to_owned();
    let failed = |errno: Errno| RestartError::Control { path: path.clone(), source: errno.into() };
    let address = SocketAddrUnix::new(&path).map_err(failed)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let socket = socket.map_err(failed)?;
    connect(&socket, &address).map_err(failed)?;
    send(&socket, &request().map_err(HandoverError::Record)?, &[]).map_err(HandoverError::Transfer)?;
    let deadline = Instant::now().checked_add(limit);
    let mut closed = Vec::new();
    loop {
        if !is_readable(&socket, deadline).map_err(failed)? {
            return Err(RestartError::ControlSilent { path }.into());
        }
        let record = match transfer::receive(socket.as_fd()) {
            Ok((record, _)) => record,
            Err(TransferError::Ended) => return Err(RestartError::ControlSilent { path }.into()),
            Err(error) => return Err(HandoverError::Transfer(error).into()),
        };
        let (part, left) = parse_answer(&record)?;
        closed.extend(part.closed);
        if left == 0 {
            return Ok(Upgraded { closed, ..part });
        }
    }
}

fn is_readable(socket: &OwnedFd, deadline: Option<Instant>) -> Result<bool, Errno> {
    loop {
        // What is too long for the kernel's clock is for ever.
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(socket, PollFlags::IN)], left.as_ref()) {
            Err(Errno::INTR) => {}
            polled => return polled.map(|count| count > 0),
        }
    }
}

impl SocketFile {
    /// `socket`, if it was bound to `path` and its `file` is still what is there.
    fn adopt(path: PathBuf, file: Identity, socket: OwnedFd) -> Option<SocketFile> {
        let bound = getsockname(&socket).ok().and_then(|address| SocketAddrUnix::try_from(address).ok())?;
        let is_there = Identity::of(&path).is_ok_and(|there| there == file);
        let is_bound = SocketAddrUnix::new(&path).is_ok_and(|address| address == bound);
        (is_there && is_bound).then(|| SocketFile::of(path, file, socket))
    }
}
