//! A separate process for `--verify`, if there is no guard.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::thread;
use std::time::Duration;

use log::debug;
use portgrant_server::daemon::{Fork, fork, leave};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, getpid, pidfd_open, setsid};

use super::{PACE, Verdict, Verification};
use crate::Error;

/// Starts a process that watches while this one becomes the program, and reports on standard error.
///
/// It is not a child of the program, which might wait for it: an intermediate process ends at once, and init (or
/// another subreaper) becomes the parent. It has a separate session, and closes inherited descriptors.
pub(crate) fn start_watcher(verification: Verification) -> Result<(), Error> {
    // Opened before the forks: later the pid could belong to another process.
    let program = pidfd_open(getpid(), PidfdFlags::empty()).map_err(|errno| Error::Watcher(errno.into()))?;
    let pid = std::process::id();
    match fork()? {
        Fork::Parent(between) => {
            let between = nix::unistd::Pid::from_raw(between.cast_signed());
            while nix::sys::wait::waitpid(between, None) == Err(nix::errno::Errno::EINTR) {}
            Ok(())
        }
        Fork::Child => {
            let _ = setsid();
            if let Ok(Fork::Child) = fork() {
                watch(verification, &program, pid);
            }
            leave(0)
        }
    }
}

fn watch(mut verification: Verification, program: &OwnedFd, pid: u32) {
    close_all_but(&[2, program.as_raw_fd()]);
    let _ = rustix::process::chdir("/");
    loop {
        if has_ended(program, PACE) {
            return;
        }
        match verification.look(pid) {
            Verdict::Pending => {}
            Verdict::Serving => return debug!("the program accepts on what it was given"),
            Verdict::Ignored(message) => return crate::output::say(&message),
        }
    }
}

/// Closes all other descriptors: a port that the program closes must become free, and a reader of its output must see
/// the end.
fn close_all_but(kept: &[RawFd]) {
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let open: Vec<RawFd> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in open.into_iter().filter(|number| !kept.contains(number)) {
        let _ = nix::unistd::close(number);
    }
}

fn has_ended(process: &OwnedFd, within: Duration) -> bool {
    let limit = Timespec::try_from(within).ok();
    match poll(&mut [PollFd::new(process, PollFlags::IN)], limit.as_ref()) {
        Ok(count) => count > 0,
        // poll(2) would fail again at once, for example with RLIMIT_NOFILE 0. So pause.
        Err(_) => {
            thread::sleep(within);
            false
        }
    }
}
