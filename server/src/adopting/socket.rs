//! One descriptor with its name, and what the kernel says it is.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use portgrant_protocol::Protocol;
use portgrant_protocol::endpoint::Resolved;
use portgrant_protocol::socket::{Facts, Mismatch};

use super::error::SocketError;
use crate::failure::Error;

/// Who bound a [`Socket`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// It was handed over: inherited, by inetd, to a mailbox
    Adopted,
    /// This process
    Bound,
    /// The helper, which this process asked
    Helper,
}

/// One descriptor, with its name.
#[derive(Debug)]
pub struct Socket {
    name: String,
    origin: Origin,
    info: Result<Facts, Mismatch>,
    descriptor: OwnedFd,
}

impl Socket {
    pub(crate) fn new(name: String, descriptor: OwnedFd) -> Socket {
        Socket { info: Facts::of(descriptor.as_fd()), origin: Origin::Adopted, name, descriptor }
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

    /// Its name: `https`, or `443/tcp` where none was given. `unknown` if the announcer named none.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who bound it.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// What the kernel said of it when it was adopted; an error for what is no internet socket (a service manager may
    /// hand over a Unix socket as well).
    pub fn info(&self) -> Result<&Facts, Error> {
        self.info.as_ref().map_err(|&mismatch| SocketError::WrongKind { name: self.name.clone(), mismatch }.into())
    }

    /// The address that it is bound to; an IPv4-mapped one is shown as IPv4.
    pub fn local(&self) -> Result<SocketAddr, Error> {
        self.info().map(|facts| facts.local)
    }

    /// As a listener, for tcp and mptcp. What is no listening socket of these is an error, and closes.
    pub fn into_tcp(self) -> Result<TcpListener, Error> {
        self.fit(Protocol::Tcp, None)?;
        Ok(TcpListener::from(self.descriptor))
    }

    /// As a udp socket. What is none is an error, and closes.
    pub fn into_udp(self) -> Result<UdpSocket, Error> {
        self.fit(Protocol::Udp, None)?;
        Ok(UdpSocket::from(self.descriptor))
    }

    /// The descriptor, whatever it is.
    pub fn into_fd(self) -> OwnedFd {
        self.descriptor
    }

    /// Whether it serves `transport`, at the address that is asked for, if one is.
    pub(super) fn fit(&self, transport: Protocol, asked: Option<&Resolved>) -> Result<(), Error> {
        let facts = self.info()?;
        if facts.protocol.transport() != transport {
            let mismatch = Mismatch::Protocol { found: facts.protocol, expected: transport };
            return Err(SocketError::WrongKind { name: self.name.clone(), mismatch }.into());
        }
        if let Some(asked) = asked {
            let mut asked = asked.clone();
            if asked.endpoint.protocol.transport() == transport {
                // An address is what was asked for here; tcp may be mptcp.
                asked.endpoint.protocol = facts.protocol;
            }
            facts.fit(&asked).map_err(|mismatch| SocketError::mismatch(&self.name, &asked, mismatch))?;
        }
        if facts.protocol.is_stream() && !facts.listening {
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
