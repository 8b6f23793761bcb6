//! seccomp(2) with a listener (seccomp_unotify(2)), and bind(2) with an address as bytes. No crate has either without unsafe code.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::vec::Vec;

use nix::libc;

/// Whether signals can interrupt a call that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Only a signal that kills can (from Linux 5.19 on)
    Killable,
    /// Any signal can, even after the answer
    Interruptible,
}

/// One instruction of a filter (`struct sock_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What it does
    pub code: u16,
    /// Instructions to skip where a comparison holds
    pub jt: u8,
    /// The same where it does not hold
    pub jf: u8,
    /// Its number
    pub k: u32,
}

/// Installs `program` as the system call filter of this process, and returns its listener (seccomp_unotify(2)).
/// no_new_privs must be set.
pub fn install(program: &[Instruction]) -> io::Result<(OwnedFd, Wait)> {
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
    // SAFETY: the kernel reads `len` instructions at `filter`, which live during the call, and writes none.
    let fd = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    let fd = RawFd::try_from(fd).ok().filter(|&fd| fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: a descriptor that the kernel has just made, close-on-exec, and that nobody else knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// One notification: 80 bytes, `struct seccomp_notif`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification {
    /// Its cookie
    pub id: u64,
    /// The thread that waits, 0 where this pid namespace cannot see it
    pub thread: u32,
    /// AUDIT_ARCH_*
    pub architecture: u32,
    /// The number of the system call in that ABI
    pub call: i32,
    /// Its arguments, as they stood in registers
    pub arguments: [u64; 6],
}

impl Notification {
    /// Its 72 bytes, for another process of this machine.
    pub fn write_to(&self, bytes: &mut [u8]) {
        let numbers = [self.id, u64::from(self.thread) << 32 | u64::from(self.architecture)];
        let call = u64::from(u32::from_ne_bytes(self.call.to_ne_bytes()));
        let all = numbers.into_iter().chain([call]).chain(self.arguments);
        for (place, number) in bytes.chunks_exact_mut(8).zip(all) {
            place.copy_from_slice(&number.to_ne_bytes());
        }
    }

    /// Reads what [`Notification::write_to`] has written.
    pub fn from_bytes(bytes: &[u8]) -> Notification {
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
pub fn receive(listener: BorrowedFd<'_>) -> io::Result<Notification> {
    // SAFETY: a struct of integers, for which zero is a value; the kernel wants it zeroed.
    let mut notification: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one struct seccomp_notif, which lives during the call.
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
pub fn is_valid(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the kernel reads 8 bytes, which live during the call.
    ioctl(unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) }).is_ok()
}

/// The answer to the target's call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The call continues in the kernel, with the target's own rights
    Continue,
    /// It returns 0
    Done,
    /// It fails with this errno
    Fail(i32),
}

/// Answers. An error if the target does not wait any more.
pub fn answer(listener: BorrowedFd<'_>, id: u64, answer: Answer) -> io::Result<()> {
    let (error, flags) = match answer {
        Answer::Continue => (0, 1), // SECCOMP_USER_NOTIF_FLAG_CONTINUE
        Answer::Done => (0, 0),
        Answer::Fail(errno) => (-errno, 0),
    };
    let response = libc::seccomp_notif_resp { id, val: 0, error, flags };
    // SAFETY: the kernel reads one struct seccomp_notif_resp, which lives during the call.
    ioctl(unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const response) })
}

/// Makes the kernel switch directly between target and supervisor, without the scheduler (Linux 6.6).
pub fn wake_synchronously(listener: BorrowedFd<'_>) {
    const SYNC_WAKE_UP: u64 = 1;
    // SAFETY: the argument is a number. Where the kernel does not know it, nothing changes.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
}

/// bind(2) with the bytes of the address that the target gave.
pub fn bind(socket: BorrowedFd<'_>, address: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(address.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let pointer: *const c_void = address.as_ptr().cast();
    // SAFETY: the kernel reads `length` bytes at `address`, the whole of the slice.
    ioctl(unsafe { libc::bind(socket.as_raw_fd(), pointer.cast(), length) })
}

fn ioctl(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
