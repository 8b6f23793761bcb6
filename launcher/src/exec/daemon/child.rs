//! The guard's child, which becomes the program. Nothing is opened here: it could stand where a socket must go.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use nix::sys::signal::SigSet;
use portgrant_protocol::record::Reply;
use portgrant_protocol::status;
use portgrant_server::daemon::leave;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::set_parent_process_death_signal;

use super::system;
use super::watch::Watch;
use crate::{Error, output};

/// Between the guard and the process that becomes the program; each a pipe, its reader first. Opened early, where no
/// socket must go.
pub(super) struct Handshake {
    /// Its end says that the program was executed
    pub(super) executing: (OwnedFd, OwnedFd),
    /// A byte says that it may be
    pub(super) go: (OwnedFd, OwnedFd),
}

impl Handshake {
    pub(super) fn new() -> rustix::io::Result<Handshake> {
        let [executing, go] = [pipe_with(PipeFlags::CLOEXEC)?, pipe_with(PipeFlags::CLOEXEC)?];
        rustix::io::ioctl_fionbio(&executing.0, true)?;
        Ok(Handshake { executing, go })
    }
}

/// Becomes the program, which `become_program` executes with the mask `callers`; ends the process where that fails.
pub(super) fn run(
    watch: Watch,
    handshake: Handshake,
    callers: SigSet,
    become_program: impl FnOnce(&Begun) -> Result<Infallible, Error>,
) -> ! {
    let Handshake { executing: (_, teller), go } = handshake;
    let begun = Begun(RefCell::new(Some(teller.into())));
    let Err(error) = in_place(watch, go, callers).and_then(|()| become_program(&begun));
    match begun.0.take() {
        Some(mut teller) => {
            // A record is written and read in one piece (PIPE_BUF).
            let record = Reply::Failed(error.message()).encode().unwrap_or_default();
            let _ = teller.write_all(&record);
        }
        None => output::say(&error.message()),
    }
    leave(error.status())
}

/// Tells the guard that the program has started: execve(2) closes it, or the code that stays in the new process does.
pub(crate) struct Begun(RefCell<Option<File>>);

impl Begun {
    /// It has begun, and nothing executes another program in this process any more.
    pub(crate) fn tell(&self) {
        drop(self.0.take());
    }
}

/// A separate process group: a signal to the guard's group is forwarded by the guard, once. Nothing begins before the
/// guard is ready, or where it is gone already.
fn in_place(watch: Watch, (go, guards): (OwnedFd, OwnedFd), callers: SigSet) -> Result<(), Error> {
    let _ = rustix::process::setpgid(None, None);
    set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
        .map_err(|errno| system("request a signal for the guard's end", errno))?;
    drop(guards);
    if File::from(go).read_exact(&mut [0]).is_err() {
        leave(status::SYSTEM);
    }
    watch.output.place().map_err(|source| Error::Guard { doing: "log", source })?;
    // What came while it was blocked was the guard's: it is pending there, not here (fork(2)).
    callers.thread_set_mask().map_err(|errno| system("unblock signals", errno))
}
