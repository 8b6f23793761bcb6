//! A udp socket that is told which address each datagram came for, and answers from that one: IP_PKTINFO and
//! IPV6_PKTINFO (ip(7), ipv6(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};

use crate::failure::Error;

/// Room for both kinds of packet info, and for what whoever made the socket may have turned on besides.
const CONTROL: usize = 512;

/// A udp socket on a host with several addresses: each datagram comes with the address that it was sent to, and the
/// answer leaves from there. Without it the kernel chooses the source by route, and a client that asked another of the
/// host's addresses takes the answer for a stranger's.
///
/// ```no_run
/// # use portgrant_server::{AddressedUdp, Sockets};
/// let socket = AddressedUdp::new(Sockets::request(["53/udp"])?.udp("53/udp")?)?;
/// let mut buffer = [0; 4096];
/// loop {
///     let (length, arrival) = socket.recv(&mut buffer)?;
///     println!("{} asked {}", arrival.peer, arrival.asked);
///     socket.reply(&arrival, &buffer[..length])?;
/// }
/// # #[allow(unreachable_code)]
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// **This, or [`EachUdp`](crate::EachUdp)?** This one: one socket serves every address, those that come later too,
/// there is nothing to follow and no queue between datagram and answer, and on a low port one grant for the wildcard
/// is all it needs. [`EachUdp`](crate::EachUdp) is for what tells addresses apart by socket: a buffer and a queue for
/// each address, an event when an address comes or goes, and no other program of this user that binds one of the
/// addresses and takes its datagrams unnoticed.
#[derive(Debug)]
pub struct AddressedUdp {
    socket: UdpSocket,
    local: SocketAddr,
}

/// Who sent a datagram, and to which of this host's addresses. IPv4-mapped addresses are shown as IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Arrival {
    /// Who sent it
    pub peer: SocketAddr,
    /// The address that it was sent to: one of this host's, a broadcast or a multicast address
    pub asked: IpAddr,
    /// The address that an answer leaves from: [`asked`](Arrival::asked), and for a broadcast the one of this host's
    /// that the peer reaches it by. `None` where the kernel is to choose (an IPv6 multicast).
    pub from: Option<IpAddr>,
    /// The index of the interface that it came in by (if_indextoname(3))
    pub interface: u32,
    /// Whether the buffer was too short, and the rest of it is lost
    pub truncated: bool,
}

impl AddressedUdp {
    /// Has the kernel tell the destination of each datagram on `socket`, which is bound.
    ///
    /// It goes on blocking, or not, as it was.
    pub fn new(socket: UdpSocket) -> Result<AddressedUdp, Error> {
        let failed = |source: io::Error| Error::system("cannot ask for destination addresses", source);
        let local = socket.local_addr().map_err(failed)?;
        if local.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true).map_err(|errno| failed(errno.into()))?;
        }
        // For the IPv4 clients of an IPv6 socket too: only IP_PKTINFO names the address that answers a broadcast.
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true).map_err(|errno| failed(errno.into()))?;
        Ok(AddressedUdp { socket, local })
    }

    /// Waits for a datagram and reads it into `buffer`: its length, and where it came from and for. What is longer than
    /// `buffer` is cut off.
    ///
    /// A socket that does not block has [`io::ErrorKind::WouldBlock`] instead.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<(usize, Arrival)> {
        self.receive(buffer, MsgFlags::empty())
    }

    /// The same without ever waiting: [`io::ErrorKind::WouldBlock`] where there is none.
    pub fn try_recv(&self, buffer: &mut [u8]) -> io::Result<(usize, Arrival)> {
        self.receive(buffer, MsgFlags::MSG_DONTWAIT)
    }

    /// Sends `bytes` to the peer of `arrival`, from the address that it asked.
    pub fn reply(&self, arrival: &Arrival, bytes: &[u8]) -> io::Result<()> {
        self.send(bytes, arrival.from, arrival.interface, arrival.peer, MsgFlags::empty())
    }

    /// The same without ever waiting: [`io::ErrorKind::WouldBlock`] while the send buffer is full.
    pub fn try_reply(&self, arrival: &Arrival, bytes: &[u8]) -> io::Result<()> {
        self.send(bytes, arrival.from, arrival.interface, arrival.peer, MsgFlags::MSG_DONTWAIT)
    }

    /// Sends `bytes` to `peer`, from `from`, which is one of this host's addresses (else EINVAL).
    pub fn send_from(&self, bytes: &[u8], from: IpAddr, peer: SocketAddr) -> io::Result<()> {
        let scope = if let SocketAddr::V6(peer) = peer { peer.scope_id() } else { 0 };
        self.send(bytes, Some(from.to_canonical()), scope, peer, MsgFlags::empty())
    }

    /// The address that it is bound to; an IPv4-mapped one is shown as IPv4.
    pub fn local(&self) -> SocketAddr {
        SocketAddr::new(self.local.ip().to_canonical(), self.local.port())
    }

    /// The socket itself, for its options. (What is received through it has lost its destination.)
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    fn receive(&self, buffer: &mut [u8], flags: MsgFlags) -> io::Result<(usize, Arrival)> {
        let mut control = [0; CONTROL];
        let mut pieces = [IoSliceMut::new(buffer)];
        let message = loop {
            let number = self.socket.as_raw_fd();
            match recvmsg::<SockaddrStorage>(number, &mut pieces, Some(&mut control), flags) {
                Err(nix::Error::EINTR) => {}
                received => break received?,
            }
        };
        let peer = message.address.as_ref().and_then(canonical).ok_or_else(unaddressed)?;
        let mut arrival = Arrival {
            peer,
            asked: self.local.ip().to_canonical(),
            from: None,
            interface: 0,
            truncated: message.flags.contains(MsgFlags::MSG_TRUNC),
        };
        for info in message.cmsgs()? {
            if let ControlMessageOwned::Ipv4PacketInfo(info) = info {
                let answers = Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr));
                arrival.asked = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into();
                arrival.from = Some(answers.into()).filter(|_| !answers.is_unspecified());
                arrival.interface = u32::try_from(info.ipi_ifindex).unwrap_or_default();
            } else if let ControlMessageOwned::Ipv6PacketInfo(info) = info {
                let asked = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                // Mapped: the IPv4 info, which comes too, knows better.
                if asked.to_ipv4_mapped().is_none() {
                    arrival.asked = asked.into();
                    arrival.from = Some(asked.into()).filter(|_| !asked.is_multicast());
                    arrival.interface = info.ipi6_ifindex;
                }
            }
        }
        if arrival.asked.is_unspecified() {
            return Err(unaddressed());
        }
        Ok((message.bytes, arrival))
    }

    fn send(
        &self,
        bytes: &[u8],
        from: Option<IpAddr>,
        interface: u32,
        peer: SocketAddr,
        flags: MsgFlags,
    ) -> io::Result<()> {
        let peer = if self.local.is_ipv6() { mapped(peer) } else { peer };
        let peer = SockaddrStorage::from(peer);
        let (number, pieces) = (self.socket.as_raw_fd(), [IoSlice::new(bytes)]);
        let v4 = |from: Ipv4Addr| in_pktinfo {
            // Not the interface: the route back may be another one than the way in.
            ipi_ifindex: 0,
            ipi_spec_dst: in_addr { s_addr: u32::from(from).to_be() },
            ipi_addr: in_addr { s_addr: 0 },
        };
        let v6 = |from: Ipv6Addr| in6_pktinfo {
            ipi6_addr: in6_addr { s6_addr: from.octets() },
            // An address of one link says nothing without it.
            ipi6_ifindex: if from.is_unicast_link_local() { interface } else { 0 },
        };
        loop {
            let sent = match from {
                Some(IpAddr::V4(from)) if self.local.is_ipv4() => {
                    let info = v4(from);
                    sendmsg(number, &pieces, &[ControlMessage::Ipv4PacketInfo(&info)], flags, Some(&peer))
                }
                Some(from) => {
                    let info = v6(match from {
                        IpAddr::V4(from) => from.to_ipv6_mapped(),
                        IpAddr::V6(from) => from,
                    });
                    sendmsg(number, &pieces, &[ControlMessage::Ipv6PacketInfo(&info)], flags, Some(&peer))
                }
                None => sendmsg(number, &pieces, &[], flags, Some(&peer)),
            };
            match sent {
                Err(nix::Error::EINTR) => {}
                // A datagram goes whole or not at all.
                sent => return Ok(sent.map(|_| ())?),
            }
        }
    }
}

impl AsFd for AddressedUdp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn canonical(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::new(v4.ip().into(), v4.port()));
    v4.or_else(|| {
        let v6 = SocketAddrV6::from(*address.as_sockaddr_in6()?);
        match v6.ip().to_ipv4_mapped() {
            Some(mapped) => Some(SocketAddr::new(mapped.into(), v6.port())),
            None => Some(v6.into()),
        }
    })
}

/// As an IPv6 socket wants it.
fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        SocketAddr::V6(_) => address,
    }
}

fn unaddressed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the kernel gave no address with a datagram (was IP_PKTINFO switched off?)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client on `from` that asks `asked` sees: the arrival, and who answered.
    fn ask(server: &AddressedUdp, from: &str, asked: &str) -> (Arrival, SocketAddr) {
        let client = UdpSocket::bind((from, 0)).expect("a client");
        client.set_read_timeout(Some(std::time::Duration::from_secs(5))).expect("set");
        client.send_to(b"question", (asked, server.local().port())).expect("sent");
        let mut buffer = [0; 64];
        let (length, arrival) = server.recv(&mut buffer).expect("received");
        assert_eq!(&buffer[..length], b"question");
        assert_eq!(arrival.peer, client.local_addr().expect("bound"));
        server.reply(&arrival, b"answer").expect("sent");
        let (length, answered) = client.recv_from(&mut buffer).expect("answered");
        assert_eq!(&buffer[..length], b"answer");
        (arrival, answered)
    }

    #[test]
    fn the_answer_leaves_from_the_address_that_was_asked_in_both_families_of_one_socket() {
        let server = AddressedUdp::new(UdpSocket::bind("[::]:0").expect("dual-stack")).expect("told");
        let port = server.local().port();
        for asked in ["127.0.0.2", "127.0.0.9"] {
            let (arrival, answered) = ask(&server, "127.0.0.1", asked);
            assert_eq!(answered, SocketAddr::new(asked.parse().expect("an address"), port));
            assert_eq!((arrival.asked, arrival.from), (answered.ip(), Some(answered.ip())), "IPv4, and not mapped");
            assert!(arrival.peer.is_ipv4() && arrival.interface != 0 && !arrival.truncated);
        }
        let (arrival, answered) = ask(&server, "::1", "::1");
        assert_eq!((arrival.asked, answered), (Ipv6Addr::LOCALHOST.into(), (Ipv6Addr::LOCALHOST, port).into()));
    }

    #[test]
    fn an_ipv4_socket_does_the_same() {
        let server = AddressedUdp::new(UdpSocket::bind("0.0.0.0:0").expect("a socket")).expect("told");
        let (_, answered) = ask(&server, "127.0.0.1", "127.0.0.7");
        assert_eq!(answered.ip(), Ipv4Addr::new(127, 0, 0, 7));
    }

    #[test]
    fn what_does_not_fit_is_said_and_nothing_there_is_would_block() {
        let server = AddressedUdp::new(UdpSocket::bind("127.0.0.1:0").expect("a socket")).expect("told");
        assert_eq!(server.try_recv(&mut [0; 9]).expect_err("nothing").kind(), io::ErrorKind::WouldBlock);
        let client = UdpSocket::bind("127.0.0.1:0").expect("a client");
        client.send_to(b"question", server.local()).expect("sent");
        let (length, arrival) = server.recv(&mut [0; 4]).expect("received");
        assert!((length, arrival.truncated) == (4, true), "{length}, {arrival:?}");
    }

    #[test]
    fn an_address_that_is_not_this_hosts_is_no_source() {
        let server = AddressedUdp::new(UdpSocket::bind("0.0.0.0:0").expect("a socket")).expect("told");
        let client = UdpSocket::bind("127.0.0.1:0").expect("a client");
        let peer = client.local_addr().expect("bound");
        assert!(server.send_from(b"answer", Ipv4Addr::new(192, 0, 2, 1).into(), peer).is_err());
        server.send_from(b"answer", Ipv4Addr::new(127, 0, 0, 3).into(), peer).expect("sent");
        let (_, from) = client.recv_from(&mut [0; 9]).expect("received");
        assert_eq!(from.ip(), Ipv4Addr::new(127, 0, 0, 3));
    }
}
