//! The process that was started, which stays: it passes bytes, the window's size and signals between the terminal of
//! the caller and the program's, and represents the program to the caller's shell.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{SigSet, Signal, killpg, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use portgrant_protocol::status;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::process::{WaitOptions, getpgrp, wait};
use rustix::termios::isatty;

use super::messages::{End, Message, Order, Received, Recipient, Report};
use super::modes::{Modes, Output, copy_size};
use super::{Terminal, failed, give_up_all_but_kill};
use crate::Error;

/// How long poll(2) is left alone after it failed.
const PAUSE: Duration = Duration::from_millis(100);
/// What waits for the other side, at most; a side that is this far ahead is not read any more.
const AHEAD: usize = 64 << 10;
/// What a program may have left in its terminal: more than the kernel holds.
const LEFT: usize = 1 << 20;
/// How long a terminal may take nothing of what the program wrote last.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Until the program has ended. Ends by the signal that the program ended by, or returns its status.
pub(super) fn run(terminal: Terminal, pty: OwnedFd, channel: OwnedFd, monitor: u32) -> Error {
    let mut relay = match Relay::new(terminal, pty, channel, monitor) {
        Ok(relay) => relay,
        Err(errno) => return failed("relay for the program", errno),
    };
    relay.resume();
    let end = relay.attend();
    relay.finish();
    let status = match end {
        End::Exited(status) => status,
        End::Killed(number) => die_of(number),
    };
    Error::Ended { status }
}

struct Relay {
    terminal: Terminal,
    modes: Modes,
    /// The end of the program's terminal that this process has; none once its own terminal is gone
    pty: Option<OwnedFd>,
    channel: OwnedFd,
    signals: SignalFd,
    /// The monitor, and how it ended
    monitor: (u32, u8),
    /// Whether another program of a pipeline may want the terminal, or a script that goes on: then it is left to them
    /// until this program asks for it.
    is_shared: bool,
    typed: Vec<u8>,
    shown: Vec<u8>,
}

impl Relay {
    fn new(terminal: Terminal, pty: OwnedFd, channel: OwnedFd, monitor: u32) -> Result<Relay, Errno> {
        // Where SIGCHLD is ignored no status is kept.
        let kept = signal_hook::flag::register(libc::SIGCHLD, Arc::new(AtomicBool::new(false)));
        kept.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))?;
        let signals = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
        let signals = signals.map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
        let is_pipe = fstat(io::stdout())
            .is_ok_and(|file| matches!(FileType::from_raw_mode(file.st_mode), FileType::Fifo | FileType::Socket));
        let is_shared = is_pipe || !isatty(io::stdin());
        give_up_all_but_kill(&terminal.0)?;
        Ok(Relay {
            terminal,
            modes: Modes::new(if is_shared { Output::Shared } else { Output::Own }),
            pty: Some(pty),
            channel,
            signals,
            monitor: (monitor, status::SYSTEM),
            is_shared,
            typed: Vec::new(),
            shown: Vec::new(),
        })
    }

    fn attend(&mut self) -> End {
        loop {
            if self.sleep().intersects(PollFlags::HUP | PollFlags::ERR) {
                self.hang_up();
            }
            while let Ok(Some(info)) = self.signals.read_signal() {
                let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
                // The kernel's come from the keyboard, to all of a process group, in which the program is not.
                let to = if info.ssi_code == libc::SI_KERNEL { Recipient::Group } else { Recipient::Program };
                if let Some(signal) = signal {
                    self.take(signal, to);
                }
            }
            match Report::receive(&self.channel) {
                Received::Message(Report::Ended(end)) => return end,
                Received::Message(Report::Stopped(signal)) => self.stopped(signal),
                Received::Nothing => {}
                Received::HungUp => {
                    self.bury();
                    return End::Exited(self.monitor.1);
                }
            }
            self.exchange();
        }
    }

    /// What is known of the terminal afterwards.
    fn sleep(&self) -> PollFlags {
        let mut watched = vec![PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&self.channel, PollFlags::IN)];
        if let Some(pty) = &self.pty {
            let [mut ours, mut programs] = [PollFlags::empty(); 2];
            ours.set(PollFlags::IN, self.modes.are_raw() && self.typed.len() < AHEAD);
            ours.set(PollFlags::OUT, !self.shown.is_empty());
            programs.set(PollFlags::IN, self.shown.len() < AHEAD);
            programs.set(PollFlags::OUT, !self.typed.is_empty());
            watched.extend([PollFd::new(pty, programs), PollFd::new(&self.terminal.0, ours)]);
        }
        // If it is interrupted or fails, everything is checked, and nothing blocks. A failure would come again at once
        // (RLIMIT_NOFILE of 0, say).
        if poll(&mut watched, None).is_err_and(|errno| errno != Errno::INTR) {
            std::thread::sleep(PAUSE);
        }
        watched.get(3).map_or(PollFlags::empty(), PollFd::revents)
    }

    fn take(&mut self, signal: Signal, to: Recipient) {
        if signal == Signal::SIGCHLD {
            self.bury();
        } else if signal == Signal::SIGCONT {
            self.resume();
        } else if signal == Signal::SIGWINCH {
            self.resize();
        } else {
            Order::Send { signal, to }.send(&self.channel);
        }
    }

    /// As the first process of a container, or as a subreaper, it gets orphans.
    fn bury(&mut self) {
        while let Ok(Some((pid, ended))) = wait(WaitOptions::NOHANG) {
            if pid.as_raw_pid().cast_unsigned() == self.monitor.0 {
                let status = ended.exit_status().or(ended.terminating_signal().map(|signal| 128 + signal));
                self.monitor.1 = status.and_then(|status| u8::try_from(status).ok()).unwrap_or(status::SYSTEM);
            }
        }
    }

    fn resize(&self) {
        if let Some(pty) = &self.pty {
            copy_size(&self.terminal, pty);
        }
    }

    /// The program begins, or goes on. What is typed is for it where this process is in the foreground.
    fn resume(&mut self) {
        self.resize();
        match &self.pty {
            Some(pty) if self.terminal.is_foreground() => {
                self.modes.copy(&self.terminal, pty);
                if !self.is_shared {
                    self.modes.make_raw(&self.terminal);
                }
            }
            _ => self.modes.restore(&self.terminal),
        }
        Order::Resume { foreground: self.modes.are_raw() }.send(&self.channel);
    }

    /// The program was stopped: because it wants the terminal that it can have, or for its user.
    fn stopped(&mut self, signal: Signal) {
        let asks = matches!(signal, Signal::SIGTTIN | Signal::SIGTTOU) && !self.modes.are_raw();
        if asks && self.terminal.is_foreground() {
            self.is_shared = false;
        } else {
            self.exchange();
            self.modes.restore(&self.terminal);
            stop(signal);
        }
        // Later, or at once where nobody could make this process go on (an orphaned process group).
        self.resume();
    }

    /// Reads and writes what can be.
    fn exchange(&mut self) {
        let Some(pty) = &self.pty else { return };
        if self.modes.are_raw() && self.typed.len() < AHEAD {
            match read(&self.terminal.0, &mut self.typed) {
                Ok(0) => return self.hang_up(),
                // The foreground is somebody else's by now.
                Err(Errno::IO) if !self.terminal.is_foreground() => self.modes.restore(&self.terminal),
                Err(errno) if !is_for_later(errno) => return self.hang_up(),
                Ok(_) | Err(_) => {}
            }
        }
        // What the program does not read any more is lost with it.
        if write(pty, &mut self.typed).is_err() {
            self.typed.clear();
        }
        if self.shown.len() < AHEAD {
            // EIO: nobody has it open, so the end is near.
            let _ = read(pty, &mut self.shown);
        }
        if write(&self.terminal.0, &mut self.shown).is_err() {
            self.hang_up();
        }
    }

    /// The terminal is gone, so the program's is closed: the kernel then signals its processes.
    fn hang_up(&mut self) {
        self.pty = None;
        self.modes.restore(&self.terminal);
        self.typed.clear();
        self.shown.clear();
    }

    /// What the program wrote last, and not what somebody whom it left behind goes on writing.
    fn finish(&mut self) {
        let mut left = LEFT;
        while let Some(pty) = &self.pty {
            match read(pty, &mut self.shown) {
                Ok(length @ 1..) if length < left => left -= length,
                Ok(_) | Err(_) => self.pty = None,
            }
            self.show_all();
        }
        self.modes.restore(&self.terminal);
    }

    fn show_all(&mut self) {
        let time_limit = Timespec::try_from(TIME_LIMIT).ok();
        while !self.shown.is_empty() {
            let is_written = write(&self.terminal.0, &mut self.shown).is_ok();
            let mut watched = [PollFd::new(&self.terminal.0, PollFlags::OUT)];
            if !is_written || (!self.shown.is_empty() && !matches!(poll(&mut watched, time_limit.as_ref()), Ok(1..))) {
                self.shown.clear();
            }
        }
    }
}

/// Appends what is there; 0 is the end.
fn read(from: &OwnedFd, to: &mut Vec<u8>) -> Result<usize, Errno> {
    let mut bytes = [0; 4096];
    let length = rustix::io::read(from, &mut bytes)?;
    to.extend_from_slice(bytes.get(..length).unwrap_or_default());
    Ok(length)
}

fn write(to: &OwnedFd, bytes: &mut Vec<u8>) -> Result<(), Errno> {
    if bytes.is_empty() {
        return Ok(());
    }
    match rustix::io::write(to, bytes) {
        Ok(length) => {
            bytes.drain(..length);
            Ok(())
        }
        Err(errno) if is_for_later(errno) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn is_for_later(errno: Errno) -> bool {
    matches!(errno, Errno::AGAIN | Errno::INTR)
}

/// As the program was stopped: by the keyboard, with all of its process group, or by somebody. Returns when this process
/// goes on, and at once where the signal stops nothing.
fn stop(signal: Signal) {
    let mut set = SigSet::empty();
    set.add(signal);
    let _ = set.thread_unblock();
    let _ =
        if signal == Signal::SIGSTOP { raise(signal) } else { killpg(Pid::from_raw(getpgrp().as_raw_pid()), signal) };
    let _ = set.thread_block();
}

/// Ends this process by the signal that the program ended by; where that does not end it, the status that says so.
fn die_of(number: u8) -> u8 {
    let signal = i32::from(number);
    // The first process of a pid namespace does not end by its own signals.
    if std::process::id() != 1 {
        let _ = signal_hook::low_level::emulate_default_handler(signal);
        // Those that signal-hook does not know: all that have a name stay blocked but this one, and the others do not.
        let blocked = Signal::iterator().filter(|&named| named as i32 != signal);
        let _ = SigSet::from_iter(blocked).thread_set_mask();
        let _ = signal_hook::low_level::raise(signal);
    }
    128u8.saturating_add(number)
}
