//! The monitor: leads the session of the pseudo-terminal, and is the program's parent.

use std::convert::Infallible;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::libc;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use portgrant_protocol::status;
use portgrant_server::daemon::{Fork, fork, leave};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitOptions, getpgid, getpgrp, ioctl_tiocsctty, setpgid, setsid, waitpid};
use rustix::termios::tcsetpgrp;

use super::messages::{End, Message, Order, Received, Recipient, Report};
use super::{failed, give_up_all_but_kill};
use crate::Error;
use crate::exec::descriptors;

/// Begins the session. **This returns in the process that becomes the program**, with the pseudo-terminal in the place
/// of each inherited terminal, and with the caller's signal mask.
pub(super) fn begin_session(pty: OwnedFd, channel: OwnedFd, callers: &SigSet) -> Result<(), Error> {
    setsid().map_err(|errno| failed("begin a session", errno))?;
    ioctl_tiocsctty(&pty).map_err(|errno| failed("get the pseudo-terminal to control it", errno))?;
    let (go, ready) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed("make a pipe", errno))?;
    match fork()? {
        Fork::Child => {
            drop((channel, ready));
            // The pipe ended without a byte: the monitor has ended.
            if File::from(go).read_exact(&mut [0]).is_err() {
                leave(status::SYSTEM);
            }
            for number in descriptors::terminals() {
                descriptors::replace(number, &pty).map_err(|errno| failed("replace the terminal", errno))?;
            }
            drop(pty);
            callers.thread_set_mask().map_err(|errno| failed("unblock signals", Errno::from_raw_os_error(errno as i32)))
        }
        Fork::Parent(program) => {
            drop(go);
            let Err(errno) = Monitor::new(pty, channel, program, ready).and_then(Monitor::event_loop);
            Err(failed("attend to the program", errno))
        }
    }
}

struct Monitor {
    pty: OwnedFd,
    channel: OwnedFd,
    signals: SignalFd,
    program: rustix::process::Pid,
    /// A byte there starts the program
    ready: Option<OwnedFd>,
    is_stopped: bool,
}

impl Monitor {
    fn new(pty: OwnedFd, channel: OwnedFd, program: u32, ready: OwnedFd) -> Result<Monitor, Errno> {
        // If SIGCHLD is ignored, the kernel keeps no exit status.
        let kept = signal_hook::flag::register(libc::SIGCHLD, Arc::new(AtomicBool::new(false)));
        kept.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))?;
        let signals = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
        let signals = signals.map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
        let program = rustix::process::Pid::from_raw(program.cast_signed()).ok_or(Errno::SRCH)?;
        setpgid(Some(program), Some(program))?;
        give_up_all_but_kill(&pty)?;
        Ok(Monitor { pty, channel, signals, program, ready: Some(ready), is_stopped: false })
    }

    fn event_loop(mut self) -> Result<Infallible, Errno> {
        loop {
            let mut watched = [PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&self.channel, PollFlags::IN)];
            match poll(&mut watched, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
            while let Ok(Some(info)) = self.signals.read_signal() {
                let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
                let is_kernels = info.ssi_code == libc::SI_KERNEL;
                match signal {
                    Some(Signal::SIGCHLD) => self.look(),
                    // Ignored: signals of the keyboard, which go to the foreground process group, perhaps this one; and
                    // the hang-up for the session leader. The relay sends the signals that are for the program. A
                    // signal from this process itself comes back if the program has joined this process group.
                    Some(Signal::SIGCONT) | None => {}
                    Some(_) if is_kernels || info.ssi_pid == std::process::id() => {}
                    Some(signal) => self.send(signal, Recipient::Program),
                }
            }
            match Order::receive(&self.channel) {
                Received::Message(Order::Resume { foreground }) => self.resume(foreground),
                Received::Message(Order::Send { signal, to }) => self.send(signal, to),
                Received::Nothing => {}
                // The relay was killed. A stopped program gets SIGHUP only after SIGCONT.
                Received::HungUp => {
                    self.send(Signal::SIGHUP, Recipient::Group);
                    self.send(Signal::SIGCONT, Recipient::Group);
                    leave(status::SYSTEM)
                }
            }
        }
    }

    /// Handles a change of the program's state. The monitor ends with the program: the kernel then takes the terminal
    /// from the session, and sends SIGHUP to the foreground process group.
    fn look(&mut self) {
        while let Ok(Some((_, ended))) = waitpid(Some(self.program), WaitOptions::NOHANG | WaitOptions::UNTRACED) {
            let byte = |number: i32| u8::try_from(number).unwrap_or(status::SYSTEM);
            if let Some(signal) = ended.stopping_signal() {
                self.is_stopped = true;
                Report::Stopped(Signal::try_from(signal).unwrap_or(Signal::SIGSTOP)).send(&self.channel);
                continue;
            }
            let end = match (ended.exit_status(), ended.terminating_signal()) {
                (Some(code), _) => End::Exited(byte(code)),
                (None, Some(signal)) => End::Killed(byte(signal)),
                (None, None) => continue,
            };
            Report::Ended(end).send(&self.channel);
            leave(0)
        }
    }

    fn resume(&mut self, foreground: bool) {
        let begins = self.ready.take();
        if begins.is_some() || self.is_stopped {
            // The program is in the foreground of its terminal exactly if the relay is in the foreground of its own.
            let group = getpgid(Some(self.program)).unwrap_or(self.program);
            let _ = tcsetpgrp(&self.pty, if foreground { group } else { getpgrp() });
        }
        match begins {
            Some(ready) => {
                let _ = rustix::io::write(ready, &[0]);
            }
            None => self.send(Signal::SIGCONT, Recipient::Group),
        }
        self.is_stopped = false;
    }

    /// The program is not reaped yet, so its pid is not reused.
    fn send(&self, signal: Signal, to: Recipient) {
        let _ = match to {
            Recipient::Program => kill(Pid::from_raw(self.program.as_raw_pid()), signal),
            Recipient::Group => {
                let group = getpgid(Some(self.program)).unwrap_or(self.program);
                killpg(Pid::from_raw(group.as_raw_pid()), signal)
            }
        };
    }
}
