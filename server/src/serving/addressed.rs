//! A udp socket that knows the destination of each datagram, and answers from that address: IP_PKTINFO and IPV6_PKTINFO
//! (ip(7), ipv6(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};

use crate::failure::Error;

/// Room for both kinds of packet info, and for others that were switched on before.
const CONTROL: usize = 512;

/// A udp socket on a host with several addresses. Each datagram comes with the address that it was sent to, and the
/// answer is sent from there. Otherwise the kernel chooses the source by the route, and a client that asked another
/// address of the host does not recognize the answer.
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
/// **This, or [`EachUdp`](crate::EachUdp)?** This one is simpler. One socket serves all addresses, including later
/// ones; there is no queue between a datagram and its answer; and on a low port one rule for the wildcard is enough.
/// [`EachUdp`](crate::EachUdp) has a socket for each address: its own buffer and queue, an event when an address is
/// added or removed, and no other program of this user can bind one of the addresses and take its datagrams.
#[derive(Debug)]
pub struct AddressedUdp {
    socket: UdpSocket,
    local: SocketAddr,
}

/// The sender of a datagram, and the address of this host that it was sent to. IPv4-mapped addresses are shown as IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Arrival {
    /// The sender
    pub peer: SocketAddr,
    /// The destination: an address of this host, a broadcast or a multicast address
    pub asked: IpAddr,
    /// The source address for an answer: [`asked`](Arrival::asked), or for a broadcast the address by which the peer
    /// reaches this host. `None` if the kernel has to choose it (IPv6 multicast)
    pub from: Option<IpAddr>,
    /// The index of the interface that received it (if_indextoname(3))
    pub interface: u32,
    /// Whether the buffer was too short, so that the rest is lost
    pub truncated: bool,
}

impl AddressedUdp {
    /// Asks the kernel for the destination of each datagram on `socket`, which must be bound.
    ///
    /// Whether it blocks is unchanged.
    pub fn new(socket: UdpSocket) -> Result<AddressedUdp, Error> {
        let failed = |source: io::Error| Error::system("cannot ask for destination addresses", source);
        let local = socket.local_addr().map_err(failed)?;
        if local.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true).map_err(|errno| failed(errno.into()))?;
        }
        // Also for the IPv4 clients of an IPv6 socket: only IP_PKTINFO has the address that answers a broadcast.
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true).map_err(|errno| failed(errno.into()))?;
        Ok(AddressedUdp { socket, local })
    }

    /// Waits for a datagram and reads it into `buffer`. Returns its length, its sender and its destination. A datagram
    /// that is longer than `buffer` is cut off.
    ///
    /// A non-blocking socket returns [`io::ErrorKind::WouldBlock`] instead of waiting.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<(usize, Arrival)> {
        self.receive(buffer, MsgFlags::empty())
    }

    /// The same, without waiting: [`io::ErrorKind::WouldBlock`] if there is no datagram.
    pub fn try_recv(&self, buffer: &mut [u8]) -> io::Result<(usize, Arrival)> {
        self.receive(buffer, MsgFlags::MSG_DONTWAIT)
    }

    /// Sends `bytes` to the peer of `arrival`, from the address that it asked.
    pub fn reply(&self, arrival: &Arrival, bytes: &[u8]) -> io::Result<()> {
        self.send(bytes, arrival.from, arrival.interface, arrival.peer, MsgFlags::empty())
    }

    /// The same, without waiting: [`io::ErrorKind::WouldBlock`] while the send buffer is full.
    pub fn try_reply(&self, arrival: &Arrival, bytes: &[u8]) -> io::Result<()> {
        self.send(bytes, arrival.from, arrival.interface, arrival.peer, MsgFlags::MSG_DONTWAIT)
    }

    /// Sends `bytes` to `peer`, from `from`, which must be an address of this host (else EINVAL).
    pub fn send_from(&self, bytes: &[u8], from: IpAddr, peer: SocketAddr) -> io::Result<()> {
        let scope = if let SocketAddr::V6(peer) = peer { peer.scope_id() } else { 0 };
        self.send(bytes, Some(from.to_canonical()), scope, peer, MsgFlags::empty())
    }

    /// The address that it is bound to. An IPv4-mapped address is shown as IPv4.
    pub fn local(&self) -> SocketAddr {
        SocketAddr::new(self.local.ip().to_canonical(), self.local.port())
    }

    /// The socket itself, for its options. (A datagram that is received through it has no destination.)
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
                // A mapped address: the IPv4 info, which is also there, is more precise.
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
            // Not the interface: the route back may differ from the way in.
            ipi_ifindex: 0,
            ipi_spec_dst: in_addr { s_addr: u32::from(from).to_be() },
            ipi_addr: in_addr { s_addr: 0 },
        };
        let v6 = |from: Ipv6Addr| in6_pktinfo {
            ipi6_addr: in6_addr { s6_addr: from.octets() },
            // A link-local address needs its interface.
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
                // A datagram is sent whole or not at all.
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

/// In the form for an IPv6 socket.
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

    /// Sends from `from` to `asked`. Returns the arrival, and the sender of the answer.
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
    fn an_answer_leaves_from_the_requested_address_in_both_families() {
        let server = AddressedUdp::new(UdpSocket::bind("[::]:0").expect("dual-stack")).expect("a server");
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
    fn an_answer_of_an_ipv4_socket_leaves_from_the_requested_address() {
        let server = AddressedUdp::new(UdpSocket::bind("0.0.0.0:0").expect("a socket")).expect("a server");
        let (_, answered) = ask(&server, "127.0.0.1", "127.0.0.7");
        assert_eq!(answered.ip(), Ipv4Addr::new(127, 0, 0, 7));
    }

    #[test]
    fn a_truncated_datagram_is_reported_and_an_empty_queue_is_would_block() {
        let server = AddressedUdp::new(UdpSocket::bind("127.0.0.1:0").expect("a socket")).expect("a server");
        assert_eq!(server.try_recv(&mut [0; 9]).expect_err("nothing").kind(), io::ErrorKind::WouldBlock);
        let client = UdpSocket::bind("127.0.0.1:0").expect("a client");
        client.send_to(b"question", server.local()).expect("sent");
        let (length, arrival) = server.recv(&mut [0; 4]).expect("received");
        assert!((length, arrival.truncated) == (4, true), "{length}, {arrival:?}");
    }

    #[test]
    fn a_foreign_source_address_is_an_error() {
        let server = AddressedUdp::new(UdpSocket::bind("0.0.0.0:0").expect("a socket")).expect("a server");
        let client = UdpSocket::bind("127.0.0.1:0").expect("a client");
        let peer = client.local_addr().expect("bound");
        assert!(server.send_from(b"answer", Ipv4Addr::new(192, 0, 2, 1).into(), peer).is_err());
        server.send_from(b"answer", Ipv4Addr::new(127, 0, 0, 3).into(), peer).expect("sent");
        let (_, from) = client.recv_from(&mut [0; 9]).expect("received");
        assert_eq!(from.ip(), Ipv4Addr::new(127, 0, 0, 3));
    }
}
