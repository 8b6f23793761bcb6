//! The relay, the process that the caller started: passes bytes, the window size and signals between the caller's
//! terminal and the program's, and represents the program to the caller's shell.

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

/// The pause after poll(2) failed.
const PAUSE: Duration = Duration::from_millis(100);
/// How many bytes may wait for the other side. If there are more, this side is not read.
const AHEAD: usize = 64 << 10;
/// How much to read after the program's end: more than the kernel's buffer.
const LEFT: usize = 1 << 20;
/// How long to wait for a terminal that does not accept the program's last output.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Relays until the program has ended. Then ends by the program's signal, or returns its status.
pub(super) fn run(terminal: Terminal, pty: OwnedFd, channel: OwnedFd, monitor: u32) -> Error {
    let mut relay = match Relay::new(terminal, pty, channel, monitor) {
        Ok(relay) => relay,
        Err(errno) => return failed("relay for the program", errno),
    };
    relay.resume();
    let end = relay.event_loop();
    relay.finish();
    let status = match end {
        End::Exited(status) => status,
        End::Killed(number) => end_by_signal(number),
    };
    Error::Ended { status }
}

struct Relay {
    terminal: Terminal,
    modes: Modes,
    /// This process's end of the program's terminal. `None` after the caller's terminal has hung up
    pty: Option<OwnedFd>,
    channel: OwnedFd,
    signals: SignalFd,
    /// The monitor, and how it ended
    monitor: (u32, u8),
    /// Whether another program of a pipeline, or a script that continues, may want the terminal. If so, the relay takes
    /// it only when this program asks for it.
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

    fn event_loop(&mut self) -> End {
        loop {
            if self.sleep().intersects(PollFlags::HUP | PollFlags::ERR) {
                self.hang_up();
            }
            while let Ok(Some(info)) = self.signals.read_signal() {
                let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
                // A signal of the kernel comes from the keyboard and is for the whole process group. The program is in
                // another group.
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
                    self.reap();
                    return End::Exited(self.monitor.1);
                }
            }
            self.exchange();
        }
    }

    /// Waits for the next event. Returns the events of the caller's terminal.
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
        // After an interruption or a failure everything is checked, without blocking. poll(2) would fail again at once,
        // for example with RLIMIT_NOFILE 0. So pause.
        if poll(&mut watched, None).is_err_and(|errno| errno != Errno::INTR) {
            std::thread::sleep(PAUSE);
        }
        watched.get(3).map_or(PollFlags::empty(), PollFd::revents)
    }

    fn take(&mut self, signal: Signal, to: Recipient) {
        if signal == Signal::SIGCHLD {
            self.reap();
        } else if signal == Signal::SIGCONT {
            self.resume();
        } else if signal == Signal::SIGWINCH {
            self.resize();
        } else {
            Order::Send { signal, to }.send(&self.channel);
        }
    }

    /// Reaps children. As the first process of a container, or as a subreaper, the relay also gets orphans.
    fn reap(&mut self) {
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

    /// Starts or continues the program. If this process is in the foreground, the program gets the input.
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

    /// The program was stopped: it wants the terminal and can have it now, or a user stopped it.
    fn stopped(&mut self, signal: Signal) {
        let asks = matches!(signal, Signal::SIGTTIN | Signal::SIGTTOU) && !self.modes.are_raw();
        if asks && self.terminal.is_foreground() {
            self.is_shared = false;
        } else {
            self.exchange();
            self.modes.restore(&self.terminal);
            stop(signal);
        }
        // This runs after SIGCONT, or at once in an orphaned process group, which cannot be stopped.
        self.resume();
    }

    /// Reads and writes as much as possible without blocking.
    fn exchange(&mut self) {
        let Some(pty) = &self.pty else { return };
        if self.modes.are_raw() && self.typed.len() < AHEAD {
            match read(&self.terminal.0, &mut self.typed) {
                Ok(0) => return self.hang_up(),
                // Another process group is in the foreground now.
                Err(Errno::IO) if !self.terminal.is_foreground() => self.modes.restore(&self.terminal),
                Err(errno) if !is_retryable(errno) => return self.hang_up(),
                Ok(_) | Err(_) => {}
            }
        }
        // The program does not read any more: drop the input.
        if write(pty, &mut self.typed).is_err() {
            self.typed.clear();
        }
        if self.shown.len() < AHEAD {
            // EIO: no process has the other end open. The program is about to end.
            let _ = read(pty, &mut self.shown);
        }
        if write(&self.terminal.0, &mut self.shown).is_err() {
            self.hang_up();
        }
    }

    /// The caller's terminal has hung up, so this closes the program's: the kernel then signals its processes.
    fn hang_up(&mut self) {
        self.pty = None;
        self.modes.restore(&self.terminal);
        self.typed.clear();
        self.shown.clear();
    }

    /// Shows the program's last output, but not endless output of processes that it left behind.
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

/// Appends the available bytes. Returns 0 at the end.
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
        Err(errno) if is_retryable(errno) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn is_retryable(errno: Errno) -> bool {
    matches!(errno, Errno::AGAIN | Errno::INTR)
}

/// Stops this process as the program was stopped: by the keyboard, with its whole process group, or alone. Returns when
/// this process continues, or at once if the signal does not stop it.
fn stop(signal: Signal) {
    let mut set = SigSet::empty();
    set.add(signal);
    let _ = set.thread_unblock();
    let _ =
        if signal == Signal::SIGSTOP { raise(signal) } else { killpg(Pid::from_raw(getpgrp().as_raw_pid()), signal) };
    let _ = set.thread_block();
}

/// Ends this process by the program's signal. If the signal does not end it, returns the status for that signal.
fn end_by_signal(number: u8) -> u8 {
    let signal = i32::from(number);
    // The first process of a pid namespace is not ended by its own signals.
    if std::process::id() != 1 {
        let _ = signal_hook::low_level::emulate_default_handler(signal);
        // A signal that signal-hook does not know: unblock it, and all real-time signals, and raise it.
        let blocked = Signal::iterator().filter(|&named| named as i32 != signal);
        let _ = SigSet::from_iter(blocked).thread_set_mask();
        let _ = signal_hook::low_level::raise(signal);
    }
    128u8.saturating_add(number)
}
