//! `--daemon`: runs the program in the background, with a guard process.
//!
//! The process that the caller started (the starter) waits, and ends with status 0 when the program is ready. The guard
//! leads a separate session: it has the pid file, asks for the sockets, starts the program as its child, forwards
//! signals to it, copies its output to the log, and ends with its status. The guard keeps no socket. It blocks signals
//! and reads them (signalfd(2)), so no disposition changes, and the program gets the caller's mask. If the guard is
//! killed by SIGKILL, the program gets SIGTERM (PR_SET_PDEATHSIG).
//!
//! Each process has a file: `starter`, `guard`, `child`. `watch` has the state that the guard and its child share at
//! first.

mod child;
mod guard;
mod starter;
mod watch;

use std::path::Path;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use portgrant_protocol::Endpoint;
use portgrant_server::daemon::{Fork, fork};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::{Error, Life};
use starter::Starter;

pub(crate) use guard::Guard;

/// The signals that the guard forwards to the program. Signals that stop a process (SIGTSTP) only stop the guard.
const FORWARDED: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTERM,
    Signal::SIGWINCH,
];
/// Goes into the background. **It returns `Ok` in the guard**. In the process that called it, it returns an error when
/// the start has ended: without a message, and with status 0 if the program is ready.
pub(crate) fn start(life: &Life, listen: &[Endpoint], program: &Path) -> Result<Guard, Error> {
    let _room = starter::room(listen);
    let signals = SigSet::from_iter(FORWARDED);
    // Blocked before the fork, so that no signal ends the guard without removing its pid file.
    let mut blocked = signals;
    // Writing to a starter that has ended, or to an unread standard error, must not end the guard.
    blocked.add(Signal::SIGPIPE);
    let callers = blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK).map_err(|errno| system("block signals", errno))?;
    let (news, reports) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| system("make a pipe", errno))?;
    match fork()? {
        Fork::Parent(guard) => {
            drop(reports);
            callers.thread_set_mask().map_err(|errno| system("unblock signals", errno))?;
            Err(Error::Ended { status: starter::status(news, guard) })
        }
        Fork::Child => {
            drop(news);
            let starter = Starter::reporting_to(reports);
            starter.clone().report_status(Guard::new(life, program, &signals, callers, starter))
        }
    }
}

fn system(doing: &'static str, errno: impl Into<std::io::Error>) -> Error {
    Error::Guard { doing, source: errno.into() }
}
