//! A pseudo-terminal for a program that runs as another user than the one at the terminal.
//!
//! A process that has a terminal open can read what is typed, and insert input by TIOCSTI (ioctl_tty(2)). So could
//! processes that the program leaves behind. So there are three processes, as with sudo's use_pty:
//!
//! ```text
//! the launcher, as the caller      ── fork ─→ monitor, the same user ── fork ─→ the program, as the other user
//!   relay: their terminal ↔ the pty            leads the session of the pty      a separate process group
//! ```
//! The caller's shell sees the relay, which stops, continues and ends as the program does. The monitor is the program's
//! parent in the same session: otherwise its process group would be orphaned, and the keyboard could not stop the
//! program. When the program ends, relay and monitor end too. This closes the relay's end of the pty, so processes that
//! still have the other end get a hang-up.

mod messages;
mod modes;
mod monitor;
mod relay;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::{SigSet, SigmaskHow};
use nix::unistd::Uid;
use portgrant_server::daemon::{Fork, fork};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, getpgrp, set_dumpable_behavior};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::stdio;
use rustix::termios::{isatty, tcgetpgrp};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::descriptors;
use crate::Error;

/// If there is a terminal, **this returns `Ok(true)` in a new process**, which has a separate terminal that belongs to
/// `owner`. The calling process stays, and returns an error without a message when the program has ended.
pub(crate) fn separate(owner: Uid) -> Result<bool, Error> {
    let Some(terminal) = Terminal::of_the_caller()? else { return Ok(false) };
    // Blocked before the forks: the relay forwards every signal from now on.
    let callers = SigSet::all()
        .thread_swap_mask(SigmaskHow::SIG_SETMASK)
        .map_err(|errno| failed("block signals", Errno::from_raw_os_error(errno as i32)))?;
    let Pty { relays, programs } = Pty::open(owner)?;
    let (channel, monitors) = messages::channel().map_err(|errno| failed("make a socket pair", errno))?;
    match fork()? {
        Fork::Parent(monitor) => {
            drop((programs, monitors));
            Err(relay::run(terminal, relays, channel, monitor))
        }
        Fork::Child => {
            drop((terminal, relays, channel));
            monitor::begin_session(programs, monitors, &callers).map(|()| true)
        }
    }
}

/// The caller's terminal, opened again, so that O_NONBLOCK does not affect the caller's shell.
struct Terminal(OwnedFd);

impl Terminal {
    /// `None` only if neither a standard descriptor nor /dev/tty is a terminal.
    fn of_the_caller() -> Result<Option<Terminal>, Error> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let standard = [isatty(io::stdin()), isatty(io::stdout()), isatty(io::stderr())];
        let mut refusal = match open("/dev/tty", flags, Mode::empty()) {
            Ok(terminal) => return Ok(Some(Terminal(terminal))),
            Err(Errno::NXIO) => None,
            Err(errno) => controls().then_some(errno),
        };
        for (number, _) in standard.into_iter().enumerate().filter(|&(_, is_terminal)| is_terminal) {
            match open(format!("/proc/self/fd/{number}"), flags, Mode::empty()) {
                Ok(terminal) => return Ok(Some(Terminal(terminal))),
                Err(errno) => refusal = Some(errno),
            }
        }
        refusal.map_or(Ok(None), |errno| Err(failed("open the terminal", errno)))
    }

    /// Whether this process group is in the foreground. For a terminal of another session, or of none, the answer is
    /// yes.
    fn is_foreground(&self) -> bool {
        tcgetpgrp(&self.0).map_or(true, |group| group == getpgrp())
    }
}

/// Whether there is a controlling terminal. /proc is asked, since /dev/tty may be missing.
fn controls() -> bool {
    let own = procfs::process::Process::myself().and_then(|process| process.stat());
    own.is_ok_and(|stat| stat.tty_nr != 0)
}

/// A new pseudo-terminal.
struct Pty {
    relays: OwnedFd,
    programs: OwnedFd,
}

impl Pty {
    fn open(owner: Uid) -> Result<Pty, Error> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let relays = openpt(flags).map_err(|errno| failed("open /dev/ptmx", errno))?;
        // Opened through the other end, not by name, so that the mount at /dev/pts does not matter.
        let programs = unlockpt(&relays).and_then(|()| ioctl_tiocgptpeer(&relays, flags));
        let programs = programs.map_err(|errno| failed("open a pseudo-terminal", errno))?;
        rustix::io::ioctl_fionbio(&relays, true).map_err(|errno| failed("set up a pseudo-terminal", errno))?;
        // Lets the program open the terminal by name. It has it open in any case.
        let _ = nix::unistd::fchown(&programs, Some(owner), None);
        Ok(Pty { relays, programs })
    }
}

/// Gives up everything that relay and monitor do not need. They keep CAP_KILL and their user id, so that the program's
/// user cannot signal or trace them.
fn give_up_all_but_kill(stderr: impl AsFd) -> Result<(), Errno> {
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    stdio::dup2_stdin(&null)?;
    stdio::dup2_stdout(&null)?;
    stdio::dup2_stderr(stderr)?;
    descriptors::close_inherited();
    let _ = rustix::process::chdir("/");
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let kept = capabilities(None)?.permitted & CapabilitySet::KILL;
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() })
}

fn failed(doing: &'static str, errno: Errno) -> Error {
    Error::Terminal { doing, source: errno.into() }
}
