//! The state of the guard, which its child has too until it becomes the program.

use std::os::fd::OwnedFd;

use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use portgrant_server::daemon::PidFile;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::stdio;

use super::starter::Starter;
use super::system;
use crate::Error;
use crate::exec::notified::Notified;
use crate::exec::output::Output;

/// The state of the guard.
pub(super) struct Watch {
    pub(super) starter: Starter,
    pub(super) signals: SignalFd,
    pub(super) _pid_file: Option<PidFile>,
    pub(super) output: Output,
    pub(super) notified: Option<Notified>,
    /// The program's
    pub(super) name: String,
    pub(super) keeps_output: bool,
}

impl Watch {
    pub(super) fn first_arrival(&self, sockets: &[OwnedFd]) -> Result<(), Error> {
        loop {
            let mut watched: Vec<PollFd<'_>> = vec![PollFd::new(&self.signals, PollFlags::IN)];
            watched.extend(sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)));
            match poll(&mut watched, None) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::Wait(errno.into())),
                Ok(_) if watched.iter().skip(1).any(|socket| !socket.revents().is_empty()) => return Ok(()),
                Ok(_) => {
                    if let Some(signal) = self.pending().find(|&signal| ends(signal)) {
                        return Err(Error::Ended { status: 128 + signal as u8 });
                    }
                }
            }
        }
    }

    pub(super) fn pending(&self) -> impl Iterator<Item = Signal> {
        std::iter::from_fn(|| self.signals.read_signal().ok().flatten())
            .filter_map(|info| Signal::try_from(info.ssi_signo.cast_signed()).ok())
    }

    /// Reports to the starter that the program is ready, and closes the starter's standard descriptors.
    pub(super) fn up(&mut self) -> Result<(), Error> {
        if self.starter.is_waiting() {
            let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty());
            let null = null.map_err(|errno| system("open /dev/null", errno))?;
            let let_go = stdio::dup2_stdin(&null).and_then(|()| match self.keeps_output {
                true => Ok(()),
                false => stdio::dup2_stdout(&null).and_then(|()| stdio::dup2_stderr(&null)),
            });
            let_go.map_err(|errno| system("let go of the terminal", errno))?;
            self.starter.report_ready();
        }
        Ok(())
    }
}

pub(super) fn ends(signal: Signal) -> bool {
    matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT)
}
