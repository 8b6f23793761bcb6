//! The one place with unsafe code: a number that the environment announces becomes a descriptor that is owned, socket
//! options that neither nix nor rustix knows, one getsockopt(2) or setsockopt(2) each; (feature `daemon`) fork(2) and
//! _exit(2); (feature `tokio`) an owned descriptor registered with a runtime.

#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use nix::libc::{self, c_int, socklen_t};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// Every number that was ever taken here: two owners would close each other's descriptor.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Why a number is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// It did not come across execve(2)
    Missing(RawFd),
    /// It was taken before
    Taken(RawFd),
}

/// Takes `numbers`, all or none, and makes them close-on-exec.
pub(crate) fn take(numbers: &[RawFd]) -> Result<Vec<OwnedFd>, Unavailable> {
    // Held to the end: each number is looked at and taken by one thread.
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

/// Whether `number` came across execve(2): it is open, and not close-on-exec.
///
/// What this process opened itself is close-on-exec (std and every careful library see to that), so a number that the
/// announcer left closed, and that something here has got since, is not mistaken for what was announced.
fn is_inherited(number: RawFd) -> bool {
    if number < 0 {
        return false;
    }
    // SAFETY: borrowed for one fcntl(F_GETFD), which reads a flag. A number that is not open answers EBADF; -1, the one
    // value that a BorrowedFd must not have, is excluded above.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl_getfd(descriptor).is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC))
}

/// `number` as a value. [`take`] alone calls it, once for each number in the life of the process.
fn own(number: RawFd) -> OwnedFd {
    // SAFETY: the number is open (asked just before), it was handed to this process in so many words (LISTEN_FDS, or a
    // variable that the server names), and it is taken once; it is not close-on-exec, so no value of this process's own
    // making holds it.
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

/// `descriptor`, registered with the tokio runtime that this is called in.
#[cfg(feature = "tokio")]
pub(crate) fn awaited(
    descriptor: OwnedFd,
    interest: tokio::io::Interest,
) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor must be open and the same for as long as it is registered. An OwnedFd is open while it
    // lives, always tells the same number, and lives in the AsyncFd, which deregisters it before it drops it.
    Ok(unsafe { tokio::io::unix::AsyncFd::register_with_interest(descriptor, interest) }?)
}

/// Which side of fork(2) this is.
#[cfg(feature = "daemon")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The process that was there before, with the pid of the other
    Parent(u32),
    /// The new one
    Child,
}

/// Why this process was not forked.
#[cfg(feature = "daemon")]
#[derive(Debug)]
pub(crate) enum NotForked {
    /// There are other threads: so many in all
    Threads(usize),
    /// How many threads there are is not known
    ThreadsUnknown(io::Error),
    /// The kernel could not
    System(io::Error),
}

/// fork(2), in a process of one thread alone.
#[cfg(feature = "daemon")]
pub(crate) fn fork() -> Result<Fork, NotForked> {
    let tasks = std::fs::read_dir("/proc/self/task").map_err(NotForked::ThreadsUnknown)?;
    let count = tasks.count();
    if count != 1 {
        return Err(NotForked::Threads(count));
    }
    // SAFETY: this thread is the only one (asked just before, and nobody is there to start another), so no lock is held
    // by a thread that the child does not have: the child may do whatever its parent may.
    match unsafe { nix::unistd::fork() } {
        Ok(nix::unistd::ForkResult::Parent { child }) => Ok(Fork::Parent(child.as_raw().cast_unsigned())),
        Ok(nix::unistd::ForkResult::Child) => Ok(Fork::Child),
        Err(errno) => Err(NotForked::System(errno.into())),
    }
}

/// _exit(2): ends without the handlers of exit(3), which belong to the process that goes on, and without dropping
/// anything.
#[cfg(feature = "daemon")]
pub fn leave(status: u8) -> ! {
    // SAFETY: it only ends the process.
    unsafe { libc::_exit(i32::from(status)) }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::fd::{AsFd, AsRawFd, IntoRawFd};

    use rustix::io::fcntl_dupfd_cloexec;

    use super::*;

    /// Puts `descriptor` at `number` as if it had been inherited: nobody's, and not close-on-exec.
    pub(crate) fn leave_at(number: RawFd, descriptor: impl AsFd) {
        let copy: OwnedFd = fcntl_dupfd_cloexec(descriptor, number).expect("a duplicate");
        assert_eq!(copy.as_raw_fd(), number, "each test has numbers of its own");
        fcntl_setfd(&copy, FdFlags::empty()).expect("open");
        let _ = copy.into_raw_fd();
    }

    /// Whether it is still there to be taken.
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
