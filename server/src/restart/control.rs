//! The control socket: a peer asks for an upgrade, and receives the result.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use portgrant_protocol::transfer;
use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, getsockname};

use super::conversation::{Item, answer, is_request, send};
use super::error::RestartError;
use super::events::{Event, Events};
use super::order::Upgraded;
use crate::adopting::HandoverError;
use crate::adopting::socket_file::{Identity, NotBound, SocketFile, find_stranger};
use crate::daemon::Notify;
use crate::failure::Error;

/// The socket file by which this server is asked to upgrade.
#[derive(Debug)]
pub(super) struct Control(SocketFile);

impl Control {
    /// Takes the socket that was handed over, if it is at `path`; else creates a new one.
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
        // Otherwise accept(2) would block if the peer has already disconnected.
        rustix::io::ioctl_fionbio(&file, true).map_err(|errno| RestartError::Control { path, source: errno.into() })?;
        Ok(Control(file))
    }

    pub(super) fn item(&self) -> Item {
        Item::Control(self.0.identity())
    }

    /// This process serves: the file is removed with it, even if a predecessor created it.
    pub(super) fn own(&mut self) {
        self.0.own();
    }

    /// Leaves the file to a successor, which holds the socket as well.
    pub(super) fn leave(self) {
        self.0.leave();
    }

    /// The next peer that may ask, if there is one.
    pub(super) fn accept(&self) -> Result<Option<OwnedFd>, Errno> {
        loop {
            let peer = match self.0.accept() {
                Err(Errno::AGAIN) => return Ok(None),
                accepted => accepted?,
            };
            // A stranger is rejected without an answer, and the next one is accepted.
            if matches!(find_stranger(peer.as_fd()), Ok(None)) && rustix::io::ioctl_fionbio(&peer, true).is_ok() {
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

/// How many peers may be silent. With one more, the first one is disconnected.
const PEERS: usize = 8;
/// How long the control socket pauses if there is no descriptor for another peer.
const PAUSE: Duration = Duration::from_secs(1);

/// The control socket of a serving generation, if it has one, and the peers that were silent so far.
#[derive(Debug)]
pub(super) struct Peers {
    control: Option<Control>,
    waiting: BTreeMap<u64, OwnedFd>,
    next: u64,
    paused_until: Option<Instant>,
}

impl Peers {
    /// Serves `control` from now on.
    pub(super) fn of(control: Option<Control>) -> Peers {
        Peers { control, waiting: BTreeMap::new(), next: 0, paused_until: None }
    }

    pub(super) fn control(&self) -> Option<&Control> {
        self.control.as_ref()
    }

    /// When the control socket stops pausing.
    pub(super) fn due(&self) -> Option<Instant> {
        self.paused_until
    }

    /// Accepts a peer.
    pub(super) fn accept(&mut self, events: &mut Events) -> Result<(), Error> {
        let Some(control) = &self.control else { return Ok(()) };
        match control.accept() {
            Ok(None) => {}
            Ok(Some(peer)) => {
                events.watch(&peer, Event::PeerSpoke(self.next))?;
                self.waiting.insert(self.next, peer);
                self.next += 1;
                if self.waiting.len() > PEERS
                    && let Some((_, silent)) = self.waiting.pop_first()
                {
                    events.forget(&silent);
                }
            }
            // Probably out of descriptors: the socket would be readable again at once.
            Err(_) => {
                events.set(control, Event::Connect, false)?;
                self.paused_until = Some(Instant::now() + PAUSE);
            }
        }
        Ok(())
    }

    /// Accepts again, if the pause is over.
    pub(super) fn resume(&mut self, now: Instant, events: &mut Events) -> Result<(), Error> {
        if self.paused_until.take_if(|until| now >= *until).is_some()
            && let Some(control) = &self.control
        {
            events.set(control, Event::Connect, true)?;
        }
        Ok(())
    }

    /// Reads the request of a peer. Returns the peer if it asks for an upgrade.
    pub(super) fn read_request(&mut self, number: u64, events: &mut Events) -> Option<OwnedFd> {
        let peer = self.waiting.remove(&number)?;
        events.forget(&peer);
        match asks(&peer) {
            Ok(()) => Some(peer),
            Err(error) => {
                tell(Some(&peer), None, Err(&error.into()));
                None
            }
        }
    }

    /// Disconnects all peers and removes the socket's file.
    pub(super) fn close(self, events: &mut Events) {
        self.forget(events);
    }

    /// Disconnects all peers, and leaves the socket to a successor, which holds it as well.
    pub(super) fn leave(self, events: &mut Events) {
        self.forget(events);
        if let Some(control) = self.control {
            control.leave();
        }
    }

    /// Stops watching all of them. Closing them is not enough: a successor has the control socket as well, and a forked
    /// child may have copies of all, which would stay ready.
    fn forget(&self, events: &mut Events) {
        self.control.iter().for_each(|control| events.forget(control));
        self.waiting.values().for_each(|peer| events.forget(peer));
    }
}

/// Checks that `peer`, which is readable, asks for an upgrade.
pub(super) fn asks(peer: &OwnedFd) -> Result<(), HandoverError> {
    let (record, _) = transfer::receive(peer.as_fd()).map_err(HandoverError::Transfer)?;
    is_request(&record).map_err(HandoverError::Record)
}

/// Sends the result to the peer and to the service manager. Either may be gone.
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

impl SocketFile {
    /// Adopts `socket`, if it is bound to `path` and `file` is still there.
    fn adopt(path: PathBuf, file: Identity, socket: OwnedFd) -> Option<SocketFile> {
        let bound = getsockname(&socket).ok().and_then(|address| SocketAddrUnix::try_from(address).ok())?;
        let is_there = Identity::of(&path).is_ok_and(|there| there == file);
        let is_bound = SocketAddrUnix::new(&path).is_ok_and(|address| address == bound);
        (is_there && is_bound).then(|| SocketFile::of(path, file, socket))
    }
}
