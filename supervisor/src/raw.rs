//! The one place with unsafe code: the C entry point, fork(2), the seccomp(2) interface and three more calls that no
//! crate has without it.
//!
//! Why not `fn main`: Rust's runtime sets SIGPIPE to ignored before it, and what the caller had can then not be told any
//! more. The program that is executed must find every signal as the caller left it.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use nix::libc;
use nix::unistd::{ForkResult, Pid};

use crate::filter::Instruction;

/// What execve(2) handed over.
#[derive(Debug)]
pub struct Start {
    /// argv
    pub arguments: Vec<OsString>,
    /// envp, byte for byte
    pub environment: Vec<CString>,
}

impl Start {
    /// What the C library's call of `main` hands over.
    ///
    /// # Safety
    /// The arguments are those of the program's `main`, and nothing has written to them since.
    pub unsafe fn from_main(argc: c_int, argv: *const *const c_char, envp: *const *const c_char) -> Start {
        // SAFETY: execve(2) lays out pointers to NUL-ended strings, the last pointer null.
        let (arguments, environment) = unsafe { (strings(argv), strings(envp)) };
        let arguments = arguments.into_iter().take(usize::try_from(argc).unwrap_or(0));
        Start { arguments: arguments.map(|word| OsStr::from_bytes(word.to_bytes()).to_owned()).collect(), environment }
    }
}

/// # Safety
/// `list` is null, or points to pointers to NUL-ended strings, the last pointer being null.
unsafe fn strings(list: *const *const c_char) -> Vec<CString> {
    let mut strings = Vec::new();
    let mut next = list;
    // SAFETY: by the contract every pointer up to the null one may be read.
    while let Some(&string) = unsafe { next.as_ref() }
        && !string.is_null()
    {
        // SAFETY: not null, so by the contract a NUL-ended string.
        strings.push(unsafe { CStr::from_ptr(string) }.to_owned());
        next = next.wrapping_add(1);
    }
    strings
}

/// Which side of a fork this is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fork {
    /// The one that was there before, with the pid of the other
    Parent(Pid),
    /// The new one
    Child,
}

/// fork(2). This program never has a second thread.
pub(crate) fn fork() -> io::Result<Fork> {
    // SAFETY: no thread is ever started here, so no lock is held by a thread that the child lacks.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Fork::Parent(child)),
        ForkResult::Child => Ok(Fork::Child),
    }
}

/// _exit(2)
pub(crate) fn leave(status: u8) -> ! {
    // SAFETY: it only ends the process.
    unsafe { libc::_exit(status.into()) }
}

/// Closes every descriptor but 0, 1 and 2 and those of `kept`, however they came here.
pub(crate) fn close_all_but(kept: &[RawFd]) {
    let mut kept: Vec<u32> = kept.iter().filter_map(|&fd| u32::try_from(fd).ok()).filter(|&fd| fd > 2).collect();
    kept.sort_unstable();
    let mut from = 3;
    for last in kept.into_iter().map(|fd| fd - 1).chain([u32::MAX]) {
        if from <= last {
            // SAFETY: the caller gives up every descriptor but `kept`; no value here owns one of the others.
            unsafe { libc::syscall(libc::SYS_close_range, from, last, 0) };
        }
        from = last.saturating_add(2);
    }
}

/// What a signal does where it is not blocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// SIG_DFL, or a handler, of which this program has none
    Default,
    /// SIG_IGN
    Ignored,
}

/// Gives signal `number`, which may be a real-time one, a disposition, and returns the one that it had.
pub(crate) fn dispose(number: c_int, disposition: Disposition) -> Disposition {
    let handler = if disposition == Disposition::Ignored { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: neither runs a handler.
    let before = unsafe { libc::signal(number, handler) };
    if before == libc::SIG_IGN { Disposition::Ignored } else { Disposition::Default }
}

/// Blocks every signal that can be blocked, the C library's own too. Nothing but SIGKILL and SIGSTOP does anything then.
pub(crate) fn block_signals() {
    let all = u64::MAX;
    let none = std::ptr::null_mut::<u64>();
    // SAFETY: the kernel reads 8 bytes at `all`, and writes nothing through the null pointer.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, &raw const all, none, 8usize) };
}

/// Lets signal `number` through, and sends it to this process.
pub(crate) fn end_by(number: c_int) {
    let none = 0u64;
    let before = std::ptr::null_mut::<u64>();
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, before, 8usize) };
    send(nix::unistd::getpid(), number);
}

/// Sends signal `number`, which may be a real-time one. Whether it arrives is not known.
pub(crate) fn send(to: Pid, number: c_int) {
    // SAFETY: it reads and writes no memory of this process.
    unsafe { libc::kill(to.as_raw(), number) };
}

/// A child that has ended, if there is one. It is still to be waited for.
pub(crate) fn ended_child() -> Option<Pid> {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: a struct of integers and pointers, for which zero is a value; the kernel leaves it so where there is none.
    let mut news: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one siginfo_t, which lives across the call.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut news, options) };
    // SAFETY: zeroed, or of a child: then the field is the pid.
    let child = unsafe { news.si_pid() };
    (result == 0 && child != 0).then(|| Pid::from_raw(child))
}

/// Whether the target of a notification waits through signals that do not kill it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// From Linux 5.19 on
    Killable,
    /// Before: any signal interrupts the call, also after it was answered
    Interruptible,
}

/// Puts `program` in front of this process's system calls, and returns what it notifies (seccomp_unotify(2)).
/// no_new_privs must be set.
pub(crate) fn install(program: &[Instruction]) -> io::Result<(OwnedFd, Wait)> {
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    match filter(program, listener | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            filter(program, listener).map(|fd| (fd, Wait::Interruptible))
        }
        other => other.map(|fd| (fd, Wait::Killable)),
    }
}

fn filter(program: &[Instruction], flags: libc::c_ulong) -> io::Result<OwnedFd> {
    let code: Vec<libc::sock_filter> =
        program.iter().map(|i| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect();
    let length = u16::try_from(code.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: code.as_ptr().cast_mut() };
    // SAFETY: the kernel reads `len` instructions at `filter`, which live across the call, and writes none.
    let fd = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    let fd = RawFd::try_from(fd).ok().filter(|&fd| fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: a descriptor that the kernel has just made, close-on-exec, and that nobody else knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// One notification: 80 bytes, `struct seccomp_notif`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Notification {
    /// Its cookie
    pub id: u64,
    /// The thread that waits, 0 where this pid namespace cannot see it
    pub thread: u32,
    /// AUDIT_ARCH_*
    pub architecture: u32,
    /// The number of the system call there
    pub call: i32,
    /// Its arguments, as they stood in registers
    pub arguments: [u64; 6],
}

impl Notification {
    /// Its 72 bytes, for another process of this machine.
    pub(crate) fn write_to(&self, bytes: &mut [u8]) {
        let numbers = [self.id, u64::from(self.thread) << 32 | u64::from(self.architecture)];
        let call = u64::from(u32::from_ne_bytes(self.call.to_ne_bytes()));
        let all = numbers.into_iter().chain([call]).chain(self.arguments);
        for (place, number) in bytes.chunks_exact_mut(8).zip(all) {
            place.copy_from_slice(&number.to_ne_bytes());
        }
    }

    /// The same again.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Notification {
        let mut numbers = bytes.chunks_exact(8).map(|chunk| chunk.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)));
        let mut next = || numbers.next().unwrap_or(0);
        let (id, both, call) = (next(), next(), next());
        let low = |number: u64| u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0);
        let arguments = std::array::from_fn(|_| next());
        let call = i32::from_ne_bytes(low(call).to_ne_bytes());
        Notification { id, thread: low(both >> 32), architecture: low(both), call, arguments }
    }
}

/// Waits for the next notification.
pub(crate) fn receive(listener: BorrowedFd<'_>) -> io::Result<Notification> {
    // SAFETY: a struct of integers, for which zero is a value; the kernel wants it zeroed.
    let mut notification: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one struct seccomp_notif, which lives across the call.
    ioctl(unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut notification) })?;
    Ok(Notification {
        id: notification.id,
        thread: notification.pid,
        architecture: notification.data.arch,
        call: notification.data.nr,
        arguments: notification.data.args,
    })
}

/// Whether the target still waits in the call that notification `id` is about: if not, its pid may be another's by now.
pub(crate) fn is_valid(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the kernel reads 8 bytes, which live across the call.
    ioctl(unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) }).is_ok()
}

/// What the target's call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The call goes on to the kernel, with the target's own rights
    Continue,
    /// 0
    Done,
    /// -1 and this errno
    Fail(i32),
}

/// Answers. An error where the target does not wait any more.
pub(crate) fn answer(listener: BorrowedFd<'_>, id: u64, answer: Answer) -> io::Result<()> {
    let (error, flags) = match answer {
        Answer::Continue => (0, 1), // SECCOMP_USER_NOTIF_FLAG_CONTINUE
        Answer::Done => (0, 0),
        Answer::Fail(errno) => (-errno, 0),
    };
    let response = libc::seccomp_notif_resp { id, val: 0, error, flags };
    // SAFETY: the kernel reads one struct seccomp_notif_resp, which lives across the call.
    ioctl(unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const response) })
}

/// Has the kernel switch to this process on a notification and back without a detour through the scheduler (6.6).
pub(crate) fn wake_synchronously(listener: BorrowedFd<'_>) {
    const SYNC_WAKE_UP: u64 = 1;
    // SAFETY: the argument is a number. Where the kernel does not know it, nothing changes.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
}

/// bind(2) with the very bytes that the target gave.
pub(crate) fn bind(socket: BorrowedFd<'_>, address: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(address.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let pointer: *const c_void = address.as_ptr().cast();
    // SAFETY: the kernel reads `length` bytes at `address`, the whole of the slice.
    ioctl(unsafe { libc::bind(socket.as_raw_fd(), pointer.cast(), length) })
}

/// SO_NETNS_COOKIE (Linux 5.14): which network namespace a socket is of.
pub(crate) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut length: libc::socklen_t = 8;
    let fd = socket.as_raw_fd();
    let pointer = (&raw mut cookie).cast();
    // SAFETY: the kernel writes at most `length` bytes, the size of `cookie`; both live across the call.
    ioctl(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, pointer, &raw mut length) })?;
    Ok(cookie)
}

fn ioctl(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
