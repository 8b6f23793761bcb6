//! Which descriptors are readable: epoll(7), in rounds.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

use crate::failure::Error;

/// How many are requested at once. If more are ready, the kernel reports the others the next time.
const ROUND: usize = 64;

/// Numbered descriptors, and a round of those that are ready. Each has one turn in a round, so that a busy one delays
/// the others by one turn only.
///
/// It is readable itself while one of them is.
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

    /// Watches it again, or pauses. A descriptor that is watched for nothing would still be ready after a shutdown
    /// (EPOLLHUP), so one that pauses is removed.
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

    /// Stops watching it. Closing it is not enough if another process has a copy.
    pub(crate) fn remove(&mut self, descriptor: impl AsFd) {
        let _ = epoll::delete(&self.epoll, descriptor);
    }

    /// The next one in this round; `None` at the end.
    pub(crate) fn turn(&mut self) -> Option<u64> {
        self.round.pop_front()
    }

    /// Gives `number` a turn at the end of this round.
    pub(crate) fn again(&mut self, number: u64) {
        self.round.push_back(number);
    }

    /// Starts a round. Waits at most for `limit` if nothing is ready (`None` means without limit). Returns whether
    /// there is a round; a signal also ends the wait.
    pub(crate) fn begin(&mut self, limit: Option<Duration>) -> Result<bool, Error> {
        // A time that is too long for the kernel means without limit.
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
