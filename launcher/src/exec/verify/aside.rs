//! Looking on from a process aside, where nobody stays in front of the program.

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

/// Leaves a process behind that looks on while this one becomes the program, and tells what it finds on standard error.
///
/// It is no child of the program's, so nothing that the program waits for: the process between ends at once, and who is
/// left belongs to init (or to whoever reaps orphans here). It has a session of its own, and closes what it inherited.
pub(crate) fn from_aside(verification: Verification) -> Result<(), Error> {
    // Before the forks: a pid could be another's by the time that it is looked up.
    let program = pidfd_open(getpid(), PidfdFlags::empty()).map_err(|errno| Error::Aside(errno.into()))?;
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
                look_on(verification, &program, pid);
            }
            leave(0)
        }
    }
}

fn look_on(mut verification: Verification, program: &OwnedFd, pid: u32) {
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

/// A port that the program closes must be free, and whoever reads what it writes must see the end of it.
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
        // It would fail again at once (RLIMIT_NOFILE of 0, say).
        Err(_) => {
            thread::sleep(within);
            false
        }
    }
}
