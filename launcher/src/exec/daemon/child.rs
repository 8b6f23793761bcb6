//! The guard's child, which becomes the program. It opens no descriptors: they could occupy the number of a socket.

use std::cell::RefCell;
use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use nix::sys::signal::SigSet;
use portgrant_protocol::record::Reply;
use portgrant_protocol::status;
use portgrant_server::daemon::leave;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::set_parent_process_death_signal;
use rustix::thread::{name, set_name};

use super::system;
use super::watch::Watch;
use crate::{Error, output};

/// The name of the process until execve(2) gives it the name of the program's file, which cannot have a slash.
pub(super) const NAME: &CStr = c"portgrant/exec";

/// Two pipes, reader first, between the guard and its child. They are opened early, so that they do not occupy the
/// number of a socket.
pub(super) struct Handshake {
    /// Closed when the program is executed
    pub(super) executing: (OwnedFd, OwnedFd),
    /// A byte lets the child execute the program
    pub(super) go: (OwnedFd, OwnedFd),
}

impl Handshake {
    pub(super) fn new() -> rustix::io::Result<Handshake> {
        let [executing, go] = [pipe_with(PipeFlags::CLOEXEC)?, pipe_with(PipeFlags::CLOEXEC)?];
        rustix::io::ioctl_fionbio(&executing.0, true)?;
        Ok(Handshake { executing, go })
    }
}

/// Becomes the program by `become_program`, with the signal mask `callers`. If that fails, the process ends.
pub(super) fn run(
    watch: Watch,
    handshake: Handshake,
    callers: SigSet,
    become_program: impl FnOnce(&Begun) -> Result<Infallible, Error>,
) -> ! {
    let Handshake { executing: (_, reports), go } = handshake;
    let begun = Begun { reports: RefCell::new(Some(reports.into())), own_name: name().unwrap_or_default() };
    let _ = set_name(NAME);
    let Err(error) = in_place(watch, go, callers).and_then(|()| become_program(&begun));
    match begun.reports.take() {
        Some(mut reports) => {
            // A record is written and read in one piece (PIPE_BUF).
            let record = Reply::Failed(error.message()).encode().unwrap_or_default();
            let _ = reports.write_all(&record);
        }
        None => output::say(&error.message()),
    }
    leave(error.status())
}

/// Reports to the guard that the program has started: by execve(2), which closes the pipe, or by [`Begun::report`].
pub(crate) struct Begun {
    reports: RefCell<Option<File>>,
    own_name: CString,
}

impl Begun {
    /// Reports the start of a child that serves itself and executes nothing.
    pub(crate) fn report(&self) {
        let _ = set_name(&self.own_name);
        drop(self.reports.take());
    }
}

/// Prepares the child. It gets a separate process group, so that a signal to the guard's group reaches it only once,
/// through the guard. It waits until the guard is ready, and ends if the guard has ended.
fn in_place(watch: Watch, (go, guards): (OwnedFd, OwnedFd), callers: SigSet) -> Result<(), Error> {
    let _ = rustix::process::setpgid(None, None);
    set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
        .map_err(|errno| system("request a signal for the guard's end", errno))?;
    drop(guards);
    if File::from(go).read_exact(&mut [0]).is_err() {
        leave(status::SYSTEM);
    }
    watch.output.place().map_err(|source| Error::Guard { doing: "log", source })?;
    // Signals that are pending in the guard are not pending here (fork(2)).
    callers.thread_set_mask().map_err(|errno| system("unblock signals", errno))
}
