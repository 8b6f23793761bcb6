//! Which descriptors have something to read: epoll(7), and whose turn it is.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

use crate::failure::Error;

/// How many are asked for at once. Where more are ready, the kernel names the others the next time.
const ROUND: usize = 64;

/// Descriptors under numbers, and a round of those that are ready. In a round each has one turn, so that none, however
/// busy, keeps another waiting for longer than a turn of each.
///
/// Itself a descriptor that is readable while one of its own is.
#[derive(Debug)]
pub(crate) struct Epoll {
    epoll: OwnedFd,
    round: VecDeque<u64>,
}

impl Epoll {
    pub(crate) fn new() -> Result<Epoll, Error> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(failed)?;
        Ok(Epoll { epoll, round: VecDeque::new() })
    }

    /// Watches `descriptor` under `number`.
    pub(crate) fn add(&mut self, descriptor: impl AsFd, number: u64) -> Result<(), Error> {
        epoll::add(&self.epoll, descriptor, EventData::new_u64(number), EventFlags::IN).map_err(failed)
    }

    /// Goes on watching it, or lets it rest. A descriptor that is watched for nothing would still be ready where it was shut
    /// down (EPOLLHUP), so one that rests is not there at all.
    pub(crate) fn set(&mut self, descriptor: impl AsFd, number: u64, watched: bool) -> Result<(), Error> {
        if !watched {
            self.remove(descriptor);
            return Ok(());
        }
        match epoll::add(&self.epoll, descriptor, EventData::new_u64(number), EventFlags::IN) {
            Err(Errno::EXIST) => Ok(()),
            added => added.map_err(failed),
        }
    }

    /// Watches it no more. Closing it would not do, where somebody holds a copy.
    pub(crate) fn remove(&mut self, descriptor: impl AsFd) {
        let _ = epoll::delete(&self.epoll, descriptor);
    }

    /// The next whose turn it is; `None` at the end of a round.
    pub(crate) fn turn(&mut self) -> Option<u64> {
        self.round.pop_front()
    }

    /// Gives `number` a turn at the end of this round.
    pub(crate) fn again(&mut self, number: u64) {
        self.round.push_back(number);
    }

    /// Begins a round, waiting for `limit` at most where nothing is ready (`None` is for ever). Whether there is one;
    /// a signal ends the wait too.
    pub(crate) fn begin(&mut self, limit: Option<Duration>) -> Result<bool, Error> {
        // What is too long for the kernel's clock is for ever.
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut events = Vec::with_capacity(ROUND);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), limit.as_ref()) {
            Err(Errno::INTR) => {}
            waited => {
                waited.map_err(failed)?;
            }
        }
        self.round.extend(events.iter().map(|event: &epoll::Event| event.data.u64()));
        Ok(!self.round.is_empty())
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

fn failed(errno: Errno) -> Error {
    Error::system("cannot wait for several sockets at once", errno)
}
