//! One getsockopt(2) or setsockopt(2) each, with the type and size that socket(7) and tcp(7) give, and kcmp(2).

use linux_raw_sys::general::{__NR_getsockopt, __NR_ioctl, __NR_kcmp, __NR_setsockopt};
use linux_raw_sys::net::{SO_BINDTODEVICE, SO_NETNS_COOKIE, SOL_SOCKET, TCP_DEFER_ACCEPT, TCP_FASTOPEN};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags, fstat, open, stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

use crate::call::call;

/// TCP_DEFER_ACCEPT, seconds.
pub fn set_tcp_defer_accept(socket: BorrowedFd<'_>, seconds: u32) -> Result<(), Errno> {
    set(socket, ipproto::TCP.as_raw().get(), TCP_DEFER_ACCEPT, &seconds.to_ne_bytes())
}

/// TCP_FASTOPEN, queue length.
pub fn set_tcp_fastopen(socket: BorrowedFd<'_>, queue: u32) -> Result<(), Errno> {
    set(socket, ipproto::TCP.as_raw().get(), TCP_FASTOPEN, &queue.to_ne_bytes())
}

/// SO_BINDTODEVICE, an interface's name.
pub fn set_bind_to_device(socket: BorrowedFd<'_>, interface: &str) -> Result<(), Errno> {
    set(socket, SOL_SOCKET, SO_BINDTODEVICE, interface.as_bytes())
}

/// SO_NETNS_COOKIE: which network namespace the socket is of.
pub fn netns_cookie(socket: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut cookie = 0u64;
    let mut len = 8u32;
    // SAFETY: the kernel writes at most `len` bytes, the size of `cookie`, and both live across the call.
    unsafe { call!(__NR_getsockopt, socket.as_raw_fd(), SOL_SOCKET, SO_NETNS_COOKIE, &raw mut cookie, &raw mut len) }?;
    Ok(cookie)
}

/// The cookie of this process's network namespace (SO_NETNS_COOKIE). Cookies are never reused.
pub fn network_namespace() -> Result<u64, Errno> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    netns_cookie(socket.as_fd())
}

/// Whether process `pid` shares this process's working folder, root and umask (CLONE_FS, clone(2)). `false` if the
/// kernel does not show it.
pub fn shares_fs(pid: i32) -> bool {
    const KCMP_FS: u32 = 3;
    let own = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: kcmp(2) takes numbers alone, and changes nothing.
    unsafe { call!(__NR_kcmp, own, pid, KCMP_FS, 0u32, 0u32) == Ok(0) }
}

/// Whether the network namespace of this process belongs to its user namespace.
#[must_use]
pub fn network_is_ours() -> bool {
    let owner = open("/proc/self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    // EPERM if it belongs to a user namespace that this process is not in.
    let owner = owner.and_then(|network| owning_user_namespace(network.as_fd())).and_then(fstat);
    let own = stat("/proc/self/ns/user");
    matches!((owner, own), (Ok(owner), Ok(own)) if owner.st_ino == own.st_ino)
}

/// NS_GET_USERNS (ioctl_ns(2)): the user namespace that owns `namespace`. An ancestor of the caller's is EPERM.
fn owning_user_namespace(namespace: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    const NS_GET_USERNS: u32 = 0xb701;
    // SAFETY: this request takes no argument. The kernel makes a new descriptor, or changes nothing.
    let number = unsafe { call!(__NR_ioctl, namespace.as_raw_fd(), NS_GET_USERNS, 0u32) }?;
    let number = i32::try_from(number).map_err(|_| Errno::INVAL)?;
    // SAFETY: the kernel has just made it for this call, close-on-exec (open_related_ns), so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn set(socket: BorrowedFd<'_>, level: u32, option: u32, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: the kernel reads the bytes of `value`, which live across the call.
    unsafe { call!(__NR_setsockopt, socket.as_raw_fd(), level, option, value.as_ptr(), value.len()) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_set_and_read() {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP));
        let socket = socket.expect("a socket");
        assert_eq!(set_tcp_defer_accept(socket.as_fd(), 5), Ok(()));
        assert_eq!(set_tcp_fastopen(socket.as_fd(), 5), Ok(()));
        assert_eq!(set_bind_to_device(socket.as_fd(), "no-such-one"), Err(Errno::NODEV));
        assert_eq!(netns_cookie(socket.as_fd()), network_namespace());
        assert_ne!(network_namespace(), Ok(0));
        assert!(!shares_fs(0));
    }
}
