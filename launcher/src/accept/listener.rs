//! A listening socket and its connections.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use portgrant_protocol::Protocol;
use portgrant_server::canonical;
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{SocketFlags, acceptfrom_with, getsockname};

use super::connection::{Connection, HostNames};

#[derive(Debug)]
pub(super) struct Listener {
    socket: OwnedFd,
    protocol: Protocol,
    /// The local address of every connection, unless the socket is bound to a wildcard
    local: SocketAddr,
    /// Whether connections may wait: since the kernel reported some, until accept(2) finds none
    ready: bool,
}

impl Listener {
    /// Only the launcher holds this socket, so making it non-blocking affects nobody else.
    pub(super) fn new(socket: OwnedFd, protocol: Protocol, local: SocketAddr) -> Result<Listener, Errno> {
        ioctl_fionbio(&socket, true)?;
        Ok(Listener { socket, protocol, local, ready: true })
    }

    /// Whether connections may wait.
    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    /// The kernel reports connections.
    pub(super) fn wake(&mut self) {
        self.ready = true;
    }

    /// The next connection; `None` if there is none, or if it ended before it was accepted. Its socket is blocking, as
    /// programs expect, and close-on-exec. An error means that descriptors or memory have run out, or that accepting is
    /// forbidden. The connection stays in the queue, so the next call would fail at once.
    pub(super) fn accept(&mut self) -> Result<Option<Connection>, Errno> {
        match acceptfrom_with(&self.socket, SocketFlags::CLOEXEC) {
            Ok((socket, remote)) => {
                let remote = remote.and_then(|address| SocketAddr::try_from(address).ok());
                Ok(remote.and_then(|remote| self.connection(socket, remote)))
            }
            Err(Errno::AGAIN) => {
                self.ready = false;
                Ok(None)
            }
            Err(errno) if is_of_one_connection(errno) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn connection(&self, socket: OwnedFd, remote: SocketAddr) -> Option<Connection> {
        let local = if self.local.ip().is_unspecified() {
            canonical(SocketAddr::try_from(getsockname(&socket).ok()?).ok()?)
        } else {
            self.local
        };
        let names = HostNames::default();
        let settings = Vec::new();
        Some(Connection { socket, protocol: self.protocol, local, remote: canonical(remote), names, settings })
    }
}

/// Whether an error is only about one connection (accept(2), "Error handling") or a signal. EPERM is not: a security
/// module or a seccomp filter returns it before the connection is taken from the queue.
fn is_of_one_connection(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::CONNABORTED
            | Errno::INTR
            | Errno::PROTO
            | Errno::NOPROTOOPT
            | Errno::NETDOWN
            | Errno::NONET
            | Errno::NETUNREACH
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::TIMEDOUT
    )
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
