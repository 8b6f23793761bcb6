//! The signals that the launcher takes while programs run, read from a descriptor (signalfd(2)).
//!
//! What the caller ignored (nohup) or blocked is not taken: it stays without effect, as it would be for the program
//! itself. The programs get the caller's mask and dispositions.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::stderr;

/// End the launcher, and are passed on first.
const ENDING: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];
/// Are passed on.
const FORWARDED: [Signal; 2] = [Signal::SIGUSR1, Signal::SIGUSR2];

pub(super) struct Signals {
    descriptor: SignalFd,
    callers: Callers,
}

/// The signal state for the programs: that of the caller.
#[derive(Debug, Clone)]
pub(super) struct Callers {
    /// What is blocked
    pub(super) mask: SigSet,
    /// What has its default effect; where that is not known for sure, the set is empty
    pub(super) not_ignored: SigSet,
}

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// A child has ended, or several have
    Child,
    /// A request to end
    End(Signal, Sender),
    /// Nothing for the launcher itself
    Forward(Signal),
}

/// Who sent a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    /// The terminal, which sends it to the programs as well: they are in the launcher's process group
    Terminal,
    Process,
}

impl Signals {
    /// From here on they no longer end the launcher by themselves.
    pub(super) fn take() -> Result<Signals, Errno> {
        let ignored_mask = ignored_mask();
        let ignored = named(ignored_mask.unwrap_or(0));
        if ignored.contains(&Signal::SIGCHLD) {
            // The kernel would forget how children ended, and say nothing. A handler that is never called undoes it;
            // execve(2) then resets it, so that the programs can wait for children of theirs.
            let _ = signal_hook::flag::register(libc::SIGCHLD, Arc::new(AtomicBool::new(false)));
        }
        let mut mask = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_SETMASK, None, Some(&mut mask))?;
        let mut taken = SigSet::empty();
        taken.add(Signal::SIGCHLD);
        for signal in ENDING.into_iter().chain(FORWARDED) {
            if !ignored.contains(&signal) && !mask.contains(signal) {
                taken.add(signal);
            }
        }
        let mut blocked = taken;
        // Standard error may be a pipe that nobody reads any more: no reason to end.
        blocked.add(Signal::SIGPIPE);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None)?;
        let descriptor = SignalFd::with_flags(&taken, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Signals { descriptor, callers: Callers { mask, not_ignored: not_ignored(ignored_mask) } })
    }

    /// What the caller had.
    pub(super) fn callers(&self) -> &Callers {
        &self.callers
    }

    /// The next one, if there is one.
    pub(super) fn next(&self) -> Option<Received> {
        let info = self.descriptor.read_signal().ok().flatten()?;
        let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok())?;
        let sender = if info.ssi_code == libc::SI_KERNEL { Sender::Terminal } else { Sender::Process };
        if signal == Signal::SIGCHLD {
            return Some(Received::Child);
        }
        Some(if ENDING.contains(&signal) { Received::End(signal, sender) } else { Received::Forward(signal) })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Ends the launcher as the signal would have, so that its parent (a shell with a script, a service manager) knows.
pub(super) fn end_by(signal: Signal) -> ! {
    stderr::flush();
    let mut set = SigSet::empty();
    set.add(signal);
    let _ = set.thread_unblock();
    let _ = raise(signal);
    // The first process of a pid namespace does not end by that.
    std::process::exit(128 + signal as i32)
}

/// The set of the signals that are ignored, from /proc: sigaction(2) would need unsafe code.
/// `None` if there is no /proc.
fn ignored_mask() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// Those of a set that have a name: all but the real-time ones.
fn named(mask: u64) -> BTreeSet<Signal> {
    Signal::iterator().filter(|&signal| mask >> (signal as i32 - 1) & 1 == 1).collect()
}

/// All signals but these; none if it is not known which are, or where one is that cannot be left out by its name.
fn not_ignored(ignored: Option<u64>) -> SigSet {
    const NAMED: u64 = u64::MAX >> 33;
    let Some(ignored) = ignored.filter(|mask| mask & !NAMED == 0) else { return SigSet::empty() };
    let mut rest = SigSet::all();
    for signal in named(ignored) {
        rest.remove(signal);
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_stay_ignored() {
        let of = |signal: Signal| 1 << (signal as i32 - 1);
        let set = not_ignored(Some(of(Signal::SIGPIPE) | of(Signal::SIGHUP)));
        assert!(!set.contains(Signal::SIGPIPE) && !set.contains(Signal::SIGHUP) && set.contains(Signal::SIGTERM));
        assert_eq!(not_ignored(Some(0)), SigSet::all());
        assert_eq!(not_ignored(None), SigSet::empty(), "there is no /proc");
        assert_eq!(not_ignored(Some(1 << 40)), SigSet::empty(), "a real-time signal");
    }
}
