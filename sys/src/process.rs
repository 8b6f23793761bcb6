//! Processes and signals: fork(2), _exit(2), all signals including real-time ones, ended children, and closing
//! descriptors without an owner.

use std::fs;
use std::io;
use std::marker::PhantomData;
use std::os::fd::RawFd;
use std::vec::Vec;

use nix::libc::{self, c_int};

/// Proof that this thread is the only one of its process. It cannot be sent to another thread.
#[derive(Debug, Clone, Copy)]
pub struct OnlyThread(PhantomData<*const ()>);

/// Why it is not known that this thread is the only one.
#[derive(Debug)]
pub enum OtherThreads {
    /// There are other threads; the number of all
    Count(usize),
    /// /proc does not show it
    Unknown(io::Error),
}

impl OnlyThread {
    /// Counts the threads in /proc. The proof is no longer valid if this process starts a thread, so use it at once.
    pub fn checked() -> Result<OnlyThread, OtherThreads> {
        match fs::read_dir("/proc/self/task").map_err(OtherThreads::Unknown)?.count() {
            1 => Ok(OnlyThread(PhantomData)),
            count => Err(OtherThreads::Count(count)),
        }
    }

    /// The proof without a check, for [`main!`](crate::main).
    ///
    /// # Safety
    /// This thread is the only one, and the process never starts another.
    #[doc(hidden)]
    #[must_use]
    pub unsafe fn promised() -> OnlyThread {
        OnlyThread(PhantomData)
    }
}

/// Which process this is after fork(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The parent, with the pid of the child
    Parent(i32),
    /// The child
    Child,
}

/// fork(2).
pub fn fork(_: OnlyThread) -> io::Result<Fork> {
    // SAFETY: this thread is the only one. So no lock is held by a thread that the child does not have, and the child may do
    // everything that its parent may do.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        child => Ok(Fork::Parent(child)),
    }
}

/// _exit(2): ends this process without the exit handlers, which belong to the parent, and without dropping anything.
pub fn leave(status: u8) -> ! {
    // SAFETY: it only ends the process.
    unsafe { libc::_exit(status.into()) }
}

/// Closes every descriptor but 0, 1 and 2 and those of `kept`, however they came here. For a process that has just been
/// forked for good: values of its parent that own one of them must not be used any more.
pub fn close_all_but(kept: &[RawFd], _: OnlyThread) {
    let mut kept: Vec<u32> = kept.iter().filter_map(|&fd| u32::try_from(fd).ok()).filter(|&fd| fd > 2).collect();
    kept.sort_unstable();
    let mut from = 3;
    for last in kept.into_iter().map(|fd| fd - 1).chain([u32::MAX]) {
        if from <= last {
            // SAFETY: the caller gives up every descriptor but `kept`; no value that is used later owns one of the others.
            unsafe { libc::syscall(libc::SYS_close_range, from, last, 0) };
        }
        from = last.saturating_add(2);
    }
}

/// What a signal does if it is not blocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// SIG_DFL, or a handler
    Default,
    /// SIG_IGN
    Ignored,
}

/// Gives signal `number`, which may be a real-time one, a disposition, and returns the one that it had.
pub fn dispose(number: c_int, disposition: Disposition) -> Disposition {
    let handler = if disposition == Disposition::Ignored { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: neither runs a handler.
    let before = unsafe { libc::signal(number, handler) };
    if before == libc::SIG_IGN { Disposition::Ignored } else { Disposition::Default }
}

/// Blocks every signal that can be blocked, the C library's own too. Afterwards only SIGKILL and SIGSTOP have an effect.
pub fn block_signals() {
    let all = u64::MAX;
    let none = std::ptr::null_mut::<u64>();
    // SAFETY: the kernel reads 8 bytes at `all`, and writes nothing through the null pointer.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, &raw const all, none, 8usize) };
}

/// Unblocks every signal, and sends signal `number` to this process.
pub fn end_by(number: c_int) {
    let none = 0u64;
    let before = std::ptr::null_mut::<u64>();
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, before, 8usize) };
    send(std::process::id().cast_signed(), number);
}

/// Sends signal `number`, which may be a real-time one, to process `pid`. Does not report whether it arrived.
pub fn send(pid: i32, number: c_int) {
    // SAFETY: it reads and writes no memory of this process.
    unsafe { libc::kill(pid, number) };
}

/// A child that has ended and is not waited for yet, if there is one.
#[must_use]
pub fn ended_child() -> Option<i32> {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: a struct of integers and pointers, for which zero is a value; the kernel leaves it so if there is no such child.
    let mut news: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one siginfo_t, which lives during the call.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut news, options) };
    // SAFETY: zeroed, or of a child: then the field is the pid.
    let child = unsafe { news.si_pid() };
    (result == 0 && child != 0).then_some(child)
}
