//! The one place with unsafe code: a number that the environment announces becomes a descriptor that is owned, and
//! socket options that neither nix nor rustix knows, one getsockopt(2) or setsockopt(2) each.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::libc::{self, c_int, socklen_t};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// Whether `number` came across execve(2): it is open, and not close-on-exec.
///
/// What this process opened itself is close-on-exec (std and every careful library see to that), so a number that the
/// announcer left closed, and that something here has got since, is not mistaken for what was announced.
pub(crate) fn is_inherited(number: RawFd) -> bool {
    if number < 0 {
        return false;
    }
    // SAFETY: borrowed for one fcntl(F_GETFD), which reads a flag. A number that is not open answers EBADF; -1, the one
    // value that a BorrowedFd must not have, is excluded above.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl_getfd(descriptor).is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC))
}

/// Takes `number`, which [`is_inherited`] found, and makes it close-on-exec.
///
/// The caller sees to it that each number is taken once in the life of the process.
pub(crate) fn take(number: RawFd) -> OwnedFd {
    // SAFETY: the number is open (asked just before), it was handed to this process in so many words (LISTEN_FDS), and
    // it is taken once; it is not close-on-exec, so no value of this process's own making holds it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    // It cannot fail on a number that is open; were it to, the descriptor would be inheritable as it was before.
    let _ = fcntl_setfd(&descriptor, FdFlags::CLOEXEC);
    descriptor
}

/// TCP_INFO's first 104 bytes, which every Linux since 2.6 has (the struct has only grown at its end).
pub(crate) fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<[u8; 104]> {
    let mut info = [0u8; 104];
    let mut length: socklen_t = 104;
    // SAFETY: the kernel writes at most `length` bytes, the size of `info`; both live across the call.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
    };
    outcome(result).map(|()| info)
}

/// TCP_DEFER_ACCEPT, seconds.
pub(crate) fn set_tcp_defer_accept(socket: BorrowedFd<'_>, seconds: u32) -> io::Result<()> {
    set_tcp(socket, libc::TCP_DEFER_ACCEPT, seconds)
}

/// TCP_FASTOPEN, queue length.
pub(crate) fn set_tcp_fastopen(socket: BorrowedFd<'_>, queue: u32) -> io::Result<()> {
    set_tcp(socket, libc::TCP_FASTOPEN, queue)
}

fn set_tcp(socket: BorrowedFd<'_>, option: c_int, value: u32) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    // SAFETY: the kernel reads 4 bytes, the size of `value`, which lives across the call.
    outcome(unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, option, (&raw const value).cast(), 4) })
}

fn outcome(result: c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
