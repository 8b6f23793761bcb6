//! TCP_INFO (tcp(7)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc::{self, socklen_t};

/// The first 104 bytes of TCP_INFO. Every Linux since 2.6 has them; the struct has only grown at its end.
pub fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<[u8; 104]> {
    let mut info = [0u8; 104];
    let mut length: socklen_t = 104;
    // SAFETY: the kernel writes at most `length` bytes, the size of `info`. Both live during the call.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
    };
    if result == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
}
