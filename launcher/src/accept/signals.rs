//! The signals that the launcher handles while programs run, read from a descriptor (signalfd(2)).
//!
//! Signals that the caller ignored (nohup) or blocked are not handled: they have no effect, as on the program itself.
//! The programs get the caller's mask and dispositions.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::stderr;

/// Signals that end the launcher. They are forwarded first.
const ENDING: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];
/// Signals that are forwarded.
const FORWARDED: [Signal; 2] = [Signal::SIGUSR1, Signal::SIGUSR2];

pub(super) struct Signals {
    descriptor: SignalFd,
    callers: Callers,
}

/// The signal state for the programs: that of the caller.
#[derive(Debug, Clone)]
pub(super) struct Callers {
    /// The blocked signals
    pub(super) mask: SigSet,
    /// The signals that are not ignored; empty if these are not known
    pub(super) not_ignored: SigSet,
}

/// A received signal.
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
    /// Blocks the signals, so that they no longer end the launcher directly.
    pub(super) fn take() -> Result<Signals, Errno> {
        let ignored_mask = ignored_mask();
        let ignored = named(ignored_mask.unwrap_or(0));
        if ignored.contains(&Signal::SIGCHLD) {
            // If SIGCHLD is ignored, the kernel keeps no exit status and sends no signal. A handler (never called)
            // undoes that; execve(2) resets it to the default, so that programs can wait for their children.
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
        // Standard error may be a pipe without a reader, which must not end the launcher.
        blocked.add(Signal::SIGPIPE);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None)?;
        let descriptor = SignalFd::with_flags(&taken, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Signals { descriptor, callers: Callers { mask, not_ignored: not_ignored(ignored_mask) } })
    }

    /// The caller's signal state.
    pub(super) fn callers(&self) -> &Callers {
        &self.callers
    }

    /// The next received signal, if any.
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

/// Ends the launcher by the signal, so that its parent (a shell, a service manager) sees the reason.
pub(super) fn end_by(signal: Signal) -> ! {
    stderr::flush();
    let mut set = SigSet::empty();
    set.add(signal);
    let _ = set.thread_unblock();
    let _ = raise(signal);
    // Only reached as the first process of a pid namespace, which the signal does not end.
    std::process::exit(128 + signal as i32)
}

/// The ignored signals, from /proc, since sigaction(2) would need unsafe code. `None` if there is no /proc.
fn ignored_mask() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// The signals of a set, without real-time signals, which have no names.
fn named(mask: u64) -> BTreeSet<Signal> {
    Signal::iterator().filter(|&signal| mask >> (signal as i32 - 1) & 1 == 1).collect()
}

/// All signals except `ignored`. Empty if these are not known, or if one of them is a real-time signal, which cannot be
/// removed by its name.
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
