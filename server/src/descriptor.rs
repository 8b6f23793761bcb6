//! The one place with unsafe code: a number that the environment announces becomes a descriptor that is owned, and an
//! owned one is registered with tokio.

#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

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

/// `descriptor`, registered with the tokio runtime that this is called in.
#[cfg(feature = "tokio")]
pub(crate) fn awaited(
    descriptor: OwnedFd,
    interest: tokio::io::Interest,
) -> std::io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor must be open and the same for as long as it is registered. An OwnedFd is open while it
    // lives, always tells the same number, and lives in the AsyncFd, which deregisters it before it drops it.
    Ok(unsafe { tokio::io::unix::AsyncFd::register_with_interest(descriptor, interest) }?)
}
