//! A listening socket, and the connections that come on it.

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
    /// The address of every connection's own end, unless the socket is bound to a wildcard
    local: SocketAddr,
    /// Whether connections may wait: since the kernel reported some, until accept(2) finds none
    ready: bool,
}

impl Listener {
    /// The launcher alone holds this socket, so that not blocking is nobody else's concern.
    pub(super) fn new(socket: OwnedFd, protocol: Protocol, local: SocketAddr) -> Result<Listener, Errno> {
        ioctl_fionbio(&socket, true)?;
        Ok(Listener { socket, protocol, local, ready: true })
    }

    /// Whether connections may wait.
    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    /// The kernel says that there are connections.
    pub(super) fn wake(&mut self) {
        self.ready = true;
    }

    /// The next connection; `None` if there is none, or if it was gone before it could be accepted. The socket is
    /// blocking, as programs expect it, and close-on-exec. An error is the listener's own, a lack of descriptors or
    /// memory, or somebody's who forbids it: it would come again at once, as the connection stays where it is.
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

/// What befell a connection before it could be accepted (accept(2), "Error handling"), or a signal this process. Not
/// EPERM: a security module or a seccomp filter says so before the connection is taken from the queue.
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
