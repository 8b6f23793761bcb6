//! One getsockopt(2) or setsockopt(2) each, with the type and size that socket(7) and tcp(7) give, and kcmp(2).
#![allow(clippy::cast_possible_truncation, reason = "sizes of 4 and 8 as socklen_t")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::libc::{self, c_int, c_ulong, socklen_t};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// TCP_DEFER_ACCEPT, seconds.
pub fn set_tcp_defer_accept(socket: BorrowedFd<'_>, seconds: u32) -> Result<(), Errno> {
    set_tcp(socket, libc::TCP_DEFER_ACCEPT, seconds)
}

/// TCP_FASTOPEN, queue length.
pub fn set_tcp_fastopen(socket: BorrowedFd<'_>, queue: u32) -> Result<(), Errno> {
    set_tcp(socket, libc::TCP_FASTOPEN, queue)
}

/// SO_NETNS_COOKIE: which network namespace the socket is of.
pub fn netns_cookie(socket: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the size of `cookie`, and both live across the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    outcome(result).map(|()| cookie)
}

/// Which network namespace this process is in: its cookie (SO_NETNS_COOKIE), which no other one ever has.
pub fn network_namespace() -> Result<u64, Errno> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    netns_cookie(std::os::fd::AsFd::as_fd(&socket))
}

/// Whether process `pid` shares this process's working folder, root and umask (CLONE_FS, clone(2)). `false` where the kernel
/// does not tell.
pub fn shares_fs(pid: i32) -> bool {
    const KCMP_FS: c_int = 3;
    // SAFETY: kcmp(2) takes numbers alone, and changes nothing.
    unsafe { libc::syscall(libc::SYS_kcmp, libc::getpid(), pid, KCMP_FS, 0, 0) == 0 }
}

/// NS_GET_USERNS (ioctl_ns(2)): the user namespace that owns `namespace`. An ancestor of the caller's is EPERM.
pub fn owning_user_namespace(namespace: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    const NS_GET_USERNS: c_ulong = 0xb701;
    // SAFETY: this request takes no argument. The kernel makes a new descriptor, or changes nothing.
    let number = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS as _) };
    if number < 0 {
        return outcome(number).and(Err(Errno::INVAL));
    }
    // SAFETY: the kernel has just made it for this call, close-on-exec (open_related_ns), so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn set_tcp(socket: BorrowedFd<'_>, option: c_int, value: u32) -> Result<(), Errno> {
    let len = size_of::<u32>() as socklen_t;
    // SAFETY: the kernel reads `len` bytes, the size of `value`, which lives across the call.
    outcome(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, (&raw const value).cast(), len) })
}

fn outcome(result: c_int) -> Result<(), Errno> {
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
    }
}
