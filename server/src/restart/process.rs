//! Another process, by its pidfd (see pidfd_open(2)): a pid may belong to another process by the time it is used.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, getpid, getppid, pidfd_open, pidfd_send_signal};

use crate::failure::Error;

/// A process that may have ended. Readable (its [`AsFd`]) once it has.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    pidfd: OwnedFd,
}

impl Process {
    /// The process `pid`, by a pidfd that another process opened.
    pub(super) fn new(pid: u32, pidfd: OwnedFd) -> Process {
        Process { pid, pidfd }
    }

    /// This process itself.
    pub(super) fn this() -> Result<Process, Error> {
        Process::open(getpid())
    }

    /// A child. It keeps its pid until it is waited for.
    pub(super) fn child(child: &Child) -> Result<Process, Error> {
        Process::open(Pid::from_child(child))
    }

    /// The parent of this process; `None` unless its pid is `pid`.
    pub(super) fn parent(pid: Pid) -> Result<Option<Process>, Error> {
        if getppid() != Some(pid) {
            return Ok(None);
        }
        let parent = Process::open(pid);
        // Checked again: while it is the parent, no other process has its pid.
        if getppid() == Some(pid) { parent.map(Some) } else { Ok(None) }
    }

    fn open(pid: Pid) -> Result<Process, Error> {
        let opened = pidfd_open(pid, PidfdFlags::empty());
        let pidfd = opened.map_err(|errno| Error::system("cannot watch a process", errno))?;
        Ok(Process { pid: pid.as_raw_pid().cast_unsigned(), pidfd })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn has_ended(&self) -> bool {
        self.wait(Duration::ZERO)
    }

    /// Sends SIGKILL, and waits for `limit` at most. Returns whether the process has ended, so that its children have
    /// another parent.
    pub(super) fn end(&self, limit: Duration) -> bool {
        self.kill();
        self.wait(limit)
    }

    /// Sends SIGKILL.
    pub(super) fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    fn wait(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).unwrap_or_default();
            match poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&left)) {
                Err(rustix::io::Errno::INTR) => {}
                polled => return polled == Ok(1),
            }
        }
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}
