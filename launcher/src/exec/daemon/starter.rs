//! The process that the caller started: waits for the guard's report, and ends with the status of the start.

use std::cell::{Ref, RefCell};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use portgrant_protocol::{Address, Endpoint, listen, status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::fcntl_dupfd_cloexec;

use crate::Error;

/// Occupies the numbers where the sockets must go, while the guard opens its own descriptors.
pub(super) fn room(listen: &[Endpoint]) -> Vec<OwnedFd> {
    let each = listen.iter().any(|endpoint| endpoint.address == Address::Each);
    let most = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    let most = most.ok().and_then(|(soft, _)| usize::try_from(soft / 2).ok()).unwrap_or(listen::MAX);
    let count = if each { listen::MAX.min(most) } else { listen.len() };
    let beyond = (listen::FIRST..).nth(count).unwrap_or(listen::FIRST);
    let place = || fcntl_dupfd_cloexec(io::stdin(), listen::FIRST).ok();
    std::iter::from_fn(place).take_while(|place| place.as_raw_fd() < beyond).collect()
}

/// Waits for the status of the start. Returns 0 at once; another status after the guard has reported the reason and
/// ended.
pub(super) fn status(news: OwnedFd, guard: u32) -> u8 {
    let (mut last, mut byte, mut news) = (None, [0], File::from(news));
    while news.read_exact(&mut byte).is_ok() {
        let [word] = byte;
        if word == status::OK {
            return word;
        }
        last = Some(word);
    }
    let ended = waitpid(Pid::from_raw(guard.cast_signed()), None);
    last.unwrap_or_else(|| ended.map_or(status::SYSTEM, |ended| status_of(ended).unwrap_or(status::SYSTEM)))
}

/// The status as a shell shows it.
pub(super) fn status_of(ended: WaitStatus) -> Option<u8> {
    match ended {
        WaitStatus::Exited(_, code) => u8::try_from(code).ok(),
        WaitStatus::Signaled(_, signal, _) => u8::try_from(128 + signal as i32).ok(),
        WaitStatus::Stopped(..)
        | WaitStatus::PtraceEvent(..)
        | WaitStatus::PtraceSyscall(_)
        | WaitStatus::Continued(_)
        | WaitStatus::StillAlive => None,
    }
}

/// The guard's connection to the starter.
#[derive(Clone)]
pub(crate) struct Starter(Rc<RefCell<Option<File>>>);

impl Starter {
    /// The starter reads from the other end of `reports`.
    pub(super) fn reporting_to(reports: OwnedFd) -> Starter {
        Starter(Rc::new(RefCell::new(Some(reports.into()))))
    }

    /// On an error, sends the status before the message is written. The starter waits until the guard has ended.
    pub(crate) fn report_status<T>(self, outcome: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &outcome
            && let Some(reports) = self.0.borrow().as_ref()
        {
            let _ = rustix::io::write(reports, &[error.status().max(1)]);
        }
        outcome
    }

    /// Its end closes when the starter ends.
    pub(super) fn pipe(&self) -> Ref<'_, Option<File>> {
        self.0.borrow()
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.0.borrow().is_some()
    }

    pub(super) fn is_gone(&self) -> bool {
        self.0.borrow().as_ref().is_some_and(|reports| {
            let mut watched = [PollFd::new(reports, PollFlags::empty())];
            poll(&mut watched, Some(&Timespec::default())).is_ok_and(|count| count > 0)
        })
    }

    pub(super) fn report_ready(&self) {
        if let Some(reports) = self.0.borrow_mut().take() {
            let _ = rustix::io::write(reports, &[status::OK]);
        }
    }
}
