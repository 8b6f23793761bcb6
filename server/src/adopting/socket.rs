//! One descriptor with its name and what the kernel reports about it.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use portgrant_protocol::Protocol;
use portgrant_protocol::endpoint::Resolved;

use super::error::SocketError;
use crate::failure::Error;
use portgrant_protocol::socket_info::{Mismatch, SocketInfo};

/// Who bound a [`Socket`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Another program: it was inherited, passed by inetd, or received by a mailbox
    Adopted,
    /// This process
    Bound,
    /// The helper, for this process
    Helper,
}

/// One descriptor, with its name.
#[derive(Debug)]
pub struct Socket {
    name: String,
    origin: Origin,
    info: Result<SocketInfo, Mismatch>,
    descriptor: OwnedFd,
}

impl Socket {
    pub(crate) fn new(name: String, descriptor: OwnedFd) -> Socket {
        Socket { info: SocketInfo::of(descriptor.as_fd()), origin: Origin::Adopted, name, descriptor }
    }

    pub(crate) fn of(self, origin: Origin) -> Socket {
        Socket { origin, ..self }
    }

    pub(crate) fn into_parts(self) -> (String, OwnedFd) {
        (self.name, self.descriptor)
    }

    #[cfg(feature = "restart")]
    pub(crate) fn named(self, name: String) -> Socket {
        Socket { name, ..self }
    }

    /// Its name: `https`, or `443/tcp` if the endpoint has no name. `unknown` if it was announced without a name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who bound it.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// What the kernel reported about it when it was adopted. An error if it is not an internet socket: a service
    /// manager may pass a Unix socket as well.
    pub fn info(&self) -> Result<&SocketInfo, Error> {
        self.info.as_ref().map_err(|&mismatch| SocketError::WrongKind { name: self.name.clone(), mismatch }.into())
    }

    /// The address that it is bound to. An IPv4-mapped address is shown as IPv4.
    pub fn local(&self) -> Result<SocketAddr, Error> {
        self.info().map(|info| info.local)
    }

    /// As a listener, for tcp and mptcp. If it is not a listening socket of these, it is closed and an error is
    /// returned.
    pub fn into_tcp(self) -> Result<TcpListener, Error> {
        self.fit(Protocol::Tcp, None)?;
        Ok(TcpListener::from(self.descriptor))
    }

    /// As a udp socket. If it is not one, it is closed and an error is returned.
    pub fn into_udp(self) -> Result<UdpSocket, Error> {
        self.fit(Protocol::Udp, None)?;
        Ok(UdpSocket::from(self.descriptor))
    }

    /// The descriptor, of whatever kind.
    pub fn into_fd(self) -> OwnedFd {
        self.descriptor
    }

    /// Checks that it serves `transport`, and that it is at the requested address, if there is one.
    pub(super) fn fit(&self, transport: Protocol, asked: Option<&Resolved>) -> Result<(), Error> {
        let info = self.info()?;
        if info.protocol.transport() != transport {
            let mismatch = Mismatch::Protocol { found: info.protocol, expected: transport };
            return Err(SocketError::WrongKind { name: self.name.clone(), mismatch }.into());
        }
        if let Some(asked) = asked {
            let mut asked = asked.clone();
            if asked.endpoint.protocol.transport() == transport {
                // The request is about the address here; a tcp socket may be mptcp.
                asked.endpoint.protocol = info.protocol;
            }
            info.fit(&asked).map_err(|mismatch| SocketError::mismatch(&self.name, &asked, mismatch))?;
        }
        if info.protocol.is_stream() && !info.listening {
            return Err(SocketError::NotListening { name: self.name.clone() }.into());
        }
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
