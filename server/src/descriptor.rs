//! The only unsafe code of this crate: a number becomes an owned descriptor; getsockopt(2) and setsockopt(2) for
//! options that neither nix nor rustix has; with the feature `daemon` fork(2) and _exit(2); with the feature `tokio`
//! the registration of a descriptor.

#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use nix::libc::{self, c_int, socklen_t};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// All numbers that were ever taken: two owners would close each other's descriptor.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Why a number cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// It is not open, or it was not inherited
    Missing(RawFd),
    /// It was already taken
    Taken(RawFd),
}

/// Takes all of `numbers` or none, and makes them close-on-exec.
pub(crate) fn take(numbers: &[RawFd]) -> Result<Vec<OwnedFd>, Unavailable> {
    // Locked until the end: only one thread checks and takes a number.
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut asked = BTreeSet::new();
    for &number in numbers {
        if taken.contains(&number) || !asked.insert(number) {
            return Err(Unavailable::Taken(number));
        }
        if !is_inherited(number) {
            return Err(Unavailable::Missing(number));
        }
    }
    taken.append(&mut asked);
    Ok(numbers.iter().map(|&number| own(number)).collect())
}

/// Whether `number` was inherited across execve(2): it is open and not close-on-exec.
///
/// Descriptors that this process opened are close-on-exec (std and careful libraries see to that). So a number that was
/// announced but closed, and that this process reused since, is not mistaken for an inherited one.
fn is_inherited(number: RawFd) -> bool {
    if number < 0 {
        return false;
    }
    // SAFETY: borrowed for one fcntl(F_GETFD), which reads a flag. A number that is not open returns EBADF. The value
    // -1, which a BorrowedFd must not have, is excluded above.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl_getfd(descriptor).is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC))
}

/// `number` as an owned descriptor. Only [`take`] calls this, once for each number in the life of the process.
fn own(number: RawFd) -> OwnedFd {
    // SAFETY: the number is open (checked just before). It was passed to this process explicitly (by LISTEN_FDS, or by
    // a variable that the server names), and it is taken once. It is not close-on-exec, so no value that this process
    // made owns it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    // This cannot fail for an open number. If it did, the descriptor would stay inheritable, as it was.
    let _ = fcntl_setfd(&descriptor, FdFlags::CLOEXEC);
    descriptor
}

/// The first 104 bytes of TCP_INFO. Every Linux since 2.6 has them; the struct has only grown at its end.
pub(crate) fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<[u8; 104]> {
    let mut info = [0u8; 104];
    let mut length: socklen_t = 104;
    // SAFETY: the kernel writes at most `length` bytes, the size of `info`. Both live during the call.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
    };
    outcome(result).map(|()| info)
}

/// TCP_DEFER_ACCEPT, in seconds.
pub(crate) fn set_tcp_defer_accept(socket: BorrowedFd<'_>, seconds: u32) -> io::Result<()> {
    set_tcp(socket, libc::TCP_DEFER_ACCEPT, seconds)
}

/// TCP_FASTOPEN, the queue length.
pub(crate) fn set_tcp_fastopen(socket: BorrowedFd<'_>, queue: u32) -> io::Result<()> {
    set_tcp(socket, libc::TCP_FASTOPEN, queue)
}

fn set_tcp(socket: BorrowedFd<'_>, option: c_int, value: u32) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    // SAFETY: the kernel reads 4 bytes, the size of `value`, which lives during the call.
    outcome(unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, option, (&raw const value).cast(), 4) })
}

fn outcome(result: c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Registers `descriptor` with the current tokio runtime.
#[cfg(feature = "tokio")]
pub(crate) fn awaited(
    descriptor: OwnedFd,
    interest: tokio::io::Interest,
) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor must stay open and the same while it is registered. An OwnedFd stays open while it lives
    // and always returns the same number. It lives in the AsyncFd, which deregisters it before it drops it.
    Ok(unsafe { tokio::io::unix::AsyncFd::register_with_interest(descriptor, interest) }?)
}

/// Which process this is after fork(2).
#[cfg(feature = "daemon")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The parent, with the pid of the child
    Parent(u32),
    /// The child
    Child,
}

/// Why this process was not forked.
#[cfg(feature = "daemon")]
#[derive(Debug)]
pub(crate) enum NotForked {
    /// It has other threads; the number of all
    Threads(usize),
    /// The number of threads is not known
    ThreadsUnknown(io::Error),
    /// fork(2) failed
    System(io::Error),
}

/// fork(2), if this process has only one thread.
#[cfg(feature = "daemon")]
pub(crate) fn fork() -> Result<Fork, NotForked> {
    let tasks = std::fs::read_dir("/proc/self/task").map_err(NotForked::ThreadsUnknown)?;
    let count = tasks.count();
    if count != 1 {
        return Err(NotForked::Threads(count));
    }
    // SAFETY: this thread is the only one (checked just before; no other thread can start one). So no lock is held by a
    // thread that the child does not have, and the child may do everything that its parent may do.
    match unsafe { nix::unistd::fork() } {
        Ok(nix::unistd::ForkResult::Parent { child }) => Ok(Fork::Parent(child.as_raw().cast_unsigned())),
        Ok(nix::unistd::ForkResult::Child) => Ok(Fork::Child),
        Err(errno) => Err(NotForked::System(errno.into())),
    }
}

/// _exit(2): ends this process without the exit handlers, which belong to the parent, and without dropping anything.
#[cfg(feature = "daemon")]
pub fn leave(status: u8) -> ! {
    // SAFETY: this only ends the process.
    unsafe { libc::_exit(i32::from(status)) }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::fd::{AsFd, AsRawFd, IntoRawFd};

    use rustix::io::fcntl_dupfd_cloexec;

    use super::*;

    /// Puts `descriptor` at `number` as if it had been inherited: without an owner, and not close-on-exec.
    pub(crate) fn leave_at(number: RawFd, descriptor: impl AsFd) {
        let copy: OwnedFd = fcntl_dupfd_cloexec(descriptor, number).expect("a duplicate");
        assert_eq!(copy.as_raw_fd(), number, "each test has numbers of its own");
        fcntl_setfd(&copy, FdFlags::empty()).expect("open");
        let _ = copy.into_raw_fd();
    }

    /// Whether the number can still be taken.
    pub(crate) fn is_left_at(number: RawFd) -> bool {
        is_inherited(number)
    }

    #[test]
    fn all_are_taken_or_none_and_each_once() {
        let null = std::fs::File::open("/dev/null").expect("/dev/null");
        leave_at(600, &null);
        leave_at(601, &null);
        assert_eq!(take(&[600, 602]).expect_err("602 is closed"), Unavailable::Missing(602));
        assert_eq!(take(&[600, 601, 600]).expect_err("600 is there twice"), Unavailable::Taken(600));
        assert!(is_inherited(600) && is_inherited(601), "none was taken");
        assert_eq!(take(&[601, 600]).expect("both").len(), 2);
        leave_at(600, &null);
        assert_eq!(take(&[600]).expect_err("though it is open again"), Unavailable::Taken(600));
        assert_eq!(take(&[-1]).expect_err("no number"), Unavailable::Missing(-1));
    }
}
