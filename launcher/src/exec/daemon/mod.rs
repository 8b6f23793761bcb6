//! `--daemon`: the program in the background, and a process of ours that guards it.
//!
//! The process that the caller started (the starter) waits, and ends with status 0 when the program is up. The guard leads
//! a separate session: it has the pid file, asks for the sockets, starts the program as its child, forwards signals to
//! it, copies its output to the log, and ends with its status. The guard keeps no socket. Signals are blocked in the guard
//! and read (signalfd(2)): no disposition changes, and the program gets the caller's mask. If the guard is killed by
//! SIGKILL, the program gets SIGTERM (PR_SET_PDEATHSIG).
//!
//! A file a process: `starter`, `guard`, `child`. The guard and its child both begin with what `watch` owns.

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

/// The signals that the guard forwards to the program. Those that stop a process (SIGTSTP) stop the guard alone.
const FORWARDED: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTERM,
    Signal::SIGWINCH,
];
/// Goes into the background. **This returns in the guard**; in the process that called it, it returns as an error, too,
/// when the program is ready: with status 0 and without a message.
pub(crate) fn start(life: &Life, listen: &[Endpoint], program: &Path) -> Result<Guard, Error> {
    let _room = starter::room(listen);
    let signals = SigSet::from_iter(FORWARDED);
    // Before the fork, so that there is no moment at which one ends the guard without its pid file.
    let mut blocked = signals;
    // A starter that is gone, or a standard error that nobody reads, must not end the guard.
    blocked.add(Signal::SIGPIPE);
    let callers = blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK).map_err(|errno| system("block signals", errno))?;
    let (news, teller) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| system("make a pipe", errno))?;
    match fork()? {
        Fork::Parent(guard) => {
            drop(teller);
            callers.thread_set_mask().map_err(|errno| system("unblock signals", errno))?;
            Err(Error::Ended { status: starter::status(news, guard) })
        }
        Fork::Child => {
            drop(news);
            let starter = Starter::told_through(teller);
            starter.clone().settle(Guard::new(life, program, &signals, callers, starter))
        }
    }
}

fn system(doing: &'static str, errno: impl Into<std::io::Error>) -> Error {
    Error::Guard { doing, source: errno.into() }
}
