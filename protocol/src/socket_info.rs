//! What the kernel reports about a descriptor, and whether it is the socket that was announced or requested.

use core::fmt;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::{Address, Protocol, Resolved};
use rustix::fd::BorrowedFd;
use rustix::net::{AddressFamily, SocketType, getsockname, ipproto, sockopt};

/// What getsockopt(2) and getsockname(2) report about an internet socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketInfo {
    /// SO_TYPE and SO_PROTOCOL
    pub protocol: Protocol,
    /// getsockname(2); an IPv4-mapped address is shown as IPv4
    pub local: SocketAddr,
    /// SO_ACCEPTCONN
    pub listening: bool,
    /// AF_INET6 without IPV6_V6ONLY
    pub dual_stack: bool,
}

/// How a descriptor differs from what was announced or asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// It is open, but not a socket
    NotASocket,
    /// A socket of another family, such as AF_UNIX, or of a type or protocol that portgrant does not use
    NotInet,
    /// A socket of another protocol
    Protocol {
        /// The socket's protocol
        found: Protocol,
        /// The protocol that was expected
        expected: Protocol,
    },
    /// A stream socket on which listen(2) was not called: accept(2) would always fail
    NotListening,
    /// A socket of another address or port
    Address {
        /// The address that the socket is bound to
        found: SocketAddr,
        /// Whether it accepts IPv4 as well
        dual_stack: bool,
    },
}

impl SocketInfo {
    /// Asks the kernel about `fd`.
    pub fn of(fd: BorrowedFd<'_>) -> Result<SocketInfo, Mismatch> {
        let family = sockopt::socket_domain(fd).map_err(|_| Mismatch::NotASocket)?;
        if !matches!(family, AddressFamily::INET | AddressFamily::INET6) {
            return Err(Mismatch::NotInet);
        }
        let kind = sockopt::socket_type(fd).map_err(|_| Mismatch::NotASocket)?;
        let number = sockopt::socket_protocol(fd).map_err(|_| Mismatch::NotASocket)?;
        let protocol = match (kind, number) {
            (SocketType::STREAM, Some(ipproto::TCP)) => Protocol::Tcp,
            (SocketType::STREAM, Some(ipproto::MPTCP)) => Protocol::Mptcp,
            (SocketType::STREAM, Some(ipproto::SCTP)) => Protocol::Sctp,
            (SocketType::DGRAM, Some(ipproto::UDP)) => Protocol::Udp,
            _ => return Err(Mismatch::NotInet),
        };
        let local = getsockname(fd).ok().and_then(|address| SocketAddr::try_from(address).ok());
        let mut local = local.ok_or(Mismatch::NotInet)?;
        local.set_ip(local.ip().to_canonical());
        let listening = protocol.is_stream() && sockopt::socket_acceptconn(fd).unwrap_or(false);
        let dual_stack = family == AddressFamily::INET6 && !sockopt::ipv6_v6only(fd).unwrap_or(true);
        Ok(SocketInfo { protocol, local, listening, dual_stack })
    }

    /// Checks that this is the socket for `asked`, and that it listens if it is a stream socket.
    pub fn fit(&self, asked: &Resolved) -> Result<(), Mismatch> {
        let expected = asked.endpoint.protocol;
        if self.protocol != expected {
            return Err(Mismatch::Protocol { found: self.protocol, expected });
        }
        let dual = !asked.endpoint.options.v6only;
        let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let (address, dual) = match asked.endpoint.address {
            Address::Any => (any, dual),
            Address::V4(address) => (IpAddr::V4(address), false),
            Address::V6(address) => (IpAddr::V6(address), dual && address.is_unspecified()),
            Address::Each => (self.local.ip(), self.dual_stack),
        };
        let wildcard_kind = !address.is_unspecified() || self.dual_stack == dual;
        if self.local.ip() != address || self.local.port() != asked.port.get() || !wildcard_kind {
            return Err(Mismatch::Address { found: self.local, dual_stack: self.dual_stack });
        }
        if self.protocol.is_stream() && !self.listening {
            return Err(Mismatch::NotListening);
        }
        Ok(())
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::NotASocket => f.write_str("it is not a socket"),
            Mismatch::NotInet => f.write_str("it is not an internet stream or datagram socket"),
            Mismatch::Protocol { found, expected } => {
                write!(f, "it is a {} socket, not {}", found.word(), expected.word())
            }
            Mismatch::NotListening => f.write_str("it is bound but not listening"),
            Mismatch::Address { found, dual_stack } => {
                let dual = if *dual_stack { " (IPv4 as well)" } else { "" };
                write!(f, "it is bound to {found}{dual}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::service::Services;

    fn asked(text: &str) -> Resolved {
        text.parse::<crate::Endpoint>().expect(text).resolve(&Services::default()).expect(text)
    }

    #[test]
    fn a_descriptor_that_is_not_the_expected_socket_is_recognized() -> std::io::Result<()> {
        let file = std::fs::File::open("/dev/null")?;
        assert_eq!(SocketInfo::of(file.as_fd()), Err(Mismatch::NotASocket));
        assert_eq!(SocketInfo::of(UnixDatagram::unbound()?.as_fd()), Err(Mismatch::NotInet));

        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let info = SocketInfo::of(listener.as_fd()).expect("a listener");
        assert_eq!(info.fit(&asked(&format!("127.0.0.1:{port}"))), Ok(()));
        assert!(matches!(info.fit(&asked(&format!("127.0.0.1:{port}/udp"))), Err(Mismatch::Protocol { .. })));
        for other in [format!("127.0.0.2:{port}"), format!("{port}"), format!("[::1]:{port}"), "127.0.0.1:1".into()] {
            assert!(matches!(info.fit(&asked(&other)), Err(Mismatch::Address { .. })), "{other}");
        }

        let udp = UdpSocket::bind("127.0.0.1:0")?;
        let port = udp.local_addr()?.port();
        let info = SocketInfo::of(udp.as_fd()).expect("a datagram socket");
        assert_eq!(info.fit(&asked(&format!("127.0.0.1:{port}/udp"))), Ok(()));
        Ok(())
    }

    #[test]
    fn a_wildcard_of_one_family_is_not_the_dual_stack_one() -> std::io::Result<()> {
        use rustix::net::{bind, listen, socket};
        let fd = socket(AddressFamily::INET6, SocketType::STREAM, None)?;
        sockopt::set_ipv6_v6only(&fd, true)?;
        bind(&fd, &SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0))?;
        let port = SocketInfo::of(fd.as_fd()).expect("bound").local.port();
        let v6only = asked(&format!("[::]:{port},v6only"));
        assert_eq!(SocketInfo::of(fd.as_fd()).expect("bound").fit(&v6only), Err(Mismatch::NotListening));
        listen(&fd, 1)?;
        let info = SocketInfo::of(fd.as_fd()).expect("listening");
        assert_eq!(info.fit(&v6only), Ok(()));
        assert!(matches!(info.fit(&asked(&port.to_string())), Err(Mismatch::Address { .. })));
        let dual = socket(AddressFamily::INET6, SocketType::STREAM, None)?;
        sockopt::set_ipv6_v6only(&dual, false)?;
        bind(&dual, &SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0))?;
        listen(&dual, 1)?;
        let info = SocketInfo::of(dual.as_fd()).expect("listening");
        let port = info.local.port();
        assert_eq!(info.fit(&asked(&port.to_string())), Ok(()));
        let mismatch = info.fit(&asked(&format!("[::]:{port},v6only"))).expect_err("both families");
        assert_eq!(mismatch.to_string(), format!("it is bound to [::]:{port} (IPv4 as well)"));
        Ok(())
    }

    #[test]
    fn an_ipv4_address_of_an_ipv6_socket_is_that_ipv4_address() -> std::io::Result<()> {
        let listener = TcpListener::bind("[::ffff:127.0.0.1]:0")?;
        let port = listener.local_addr()?.port();
        let info = SocketInfo::of(listener.as_fd()).expect("a listener");
        assert_eq!(info.fit(&asked(&format!("127.0.0.1:{port}"))), Ok(()));
        assert!(matches!(info.fit(&asked(&format!("127.0.0.2:{port}"))), Err(Mismatch::Address { .. })));
        Ok(())
    }
}
