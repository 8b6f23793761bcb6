//! The kernel's table of sockets, for one port: sock_diag(7).
//!
//! Written by hand, without a dependency: there is one request and one fixed answer. The crate for it
//! (netlink-packet-sock-diag 0.5) omits how long TIME_WAIT lasts, and depends on a macro compiler. Everything is read
//! within its bounds; an unknown attribute ends the entry.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use portgrant_protocol::Protocol;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, netlink};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// NLM_F_REQUEST and NLM_F_DUMP
const DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const INET_DIAG_SKV6ONLY: u16 = 11;
const INET_DIAG_CGROUP_ID: u16 = 21;
/// `idiag_timer`: how long TIME_WAIT (or a FIN_WAIT2 that no process holds) still lasts
const TIME_WAIT_TIMER: u8 = 3;

/// The length of a `struct nlmsghdr`.
const HEADER: usize = 16;
/// The length of a `struct inet_diag_msg`.
const ANSWER: usize = 72;

/// One socket of this network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Numbered as in tcp_states.h
    pub(crate) state: u8,
    /// Where it is bound. An IPv4-mapped address is shown as IPv4
    pub(crate) local: SocketAddr,
    /// Where it is connected
    pub(crate) remote: SocketAddr,
    /// The interface that it is bound to; 0 for none
    pub(crate) device: u32,
    /// How long TIME_WAIT lasts
    pub(crate) expires: Option<Duration>,
    /// Its owner
    pub(crate) uid: u32,
    /// Its number below /proc/PID/fd; 0 if no process holds it
    pub(crate) inode: u32,
    /// Only for IPv6
    pub(crate) v6only: bool,
    /// Of a listener: how many connections wait to be accepted, and how many may. Of others: bytes
    pub(crate) queue: (u32, u32),
    /// The number of its control group, if the kernel reports it (since 5.7, cgroup v2)
    pub(crate) cgroup: Option<u64>,
}

/// The sockets of `protocol` with the local port `port`.
pub(crate) fn sockets(protocol: Protocol, port: u16) -> io::Result<Vec<Entry>> {
    let kind = SocketType::DGRAM;
    let socket = net::socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(2)))?;
    let mut entries = Vec::new();
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        net::send(&socket, &request(family, protocol, port), SendFlags::empty())?;
        let mut buffer = vec![0; 32 << 10];
        loop {
            let (length, _) = net::recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
            if read(buffer.get(..length).unwrap_or_default(), port, &mut entries)? {
                break;
            }
        }
    }
    Ok(entries)
}

/// A `struct nlmsghdr` and a `struct inet_diag_req_v2`.
fn request(family: AddressFamily, protocol: Protocol, port: u16) -> Vec<u8> {
    let number = match protocol.transport() {
        Protocol::Tcp | Protocol::Mptcp => ipproto::TCP,
        Protocol::Udp => ipproto::UDP,
        Protocol::Sctp => ipproto::SCTP,
    };
    let number = u8::try_from(number.as_raw().get()).unwrap_or_default();
    let mut bytes = Vec::with_capacity(HEADER + 56);
    bytes.extend(72u32.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(DUMP.to_ne_bytes());
    bytes.extend([0; 8]); // sequence, sender
    bytes.extend([u8::try_from(family.as_raw()).unwrap_or_default(), number, 0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes()); // every state, those that are only bound too
    bytes.extend(port.to_be_bytes());
    bytes.resize(HEADER + 56, 0);
    bytes
}

/// Reads one packet of messages. Returns true at the end of the answer.
pub(crate) fn read(mut packet: &[u8], port: u16, entries: &mut Vec<Entry>) -> io::Result<bool> {
    while let Some(length) = u32_at(packet, 0).and_then(|length| usize::try_from(length).ok()) {
        let Some(message) = packet.get(HEADER..length) else { return Ok(true) };
        match u16_at(packet, 4) {
            Some(NLMSG_DONE) | None => return Ok(true),
            Some(NLMSG_ERROR) => {
                let errno = u32_at(message, 0).unwrap_or_default().cast_signed().wrapping_neg();
                return Err(io::Error::from_raw_os_error(errno));
            }
            Some(SOCK_DIAG_BY_FAMILY) => entries.extend(entry(message).filter(|entry| entry.local.port() == port)),
            Some(_) => {}
        }
        packet = packet.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Reads a `struct inet_diag_msg` and the attributes after it.
fn entry(message: &[u8]) -> Option<Entry> {
    let v6 = match AddressFamily::from_raw((*message.first()?).into()) {
        AddressFamily::INET => false,
        AddressFamily::INET6 => true,
        _ => return None,
    };
    let address = |port: usize, at: usize| {
        let port = u16::from_be_bytes(*message.get(port..)?.first_chunk()?);
        let bytes = message.get(at..)?;
        let ip: IpAddr = match v6 {
            true => Ipv6Addr::from(*bytes.first_chunk::<16>()?).into(),
            false => Ipv4Addr::from(*bytes.first_chunk::<4>()?).into(),
        };
        Some(SocketAddr::new(ip.to_canonical(), port))
    };
    let expires = Duration::from_millis(u32_at(message, 52)?.into());
    Some(Entry {
        state: *message.get(1)?,
        local: address(4, 8)?,
        remote: address(6, 24)?,
        device: u32_at(message, 40)?,
        expires: (*message.get(2)? == TIME_WAIT_TIMER).then_some(expires),
        queue: (u32_at(message, 56)?, u32_at(message, 60)?),
        uid: u32_at(message, 64)?,
        inode: u32_at(message, 68)?,
        v6only: attribute(message.get(ANSWER..)?, INET_DIAG_SKV6ONLY).is_some_and(|value| value.first() == Some(&1)),
        cgroup: attribute(message.get(ANSWER..)?, INET_DIAG_CGROUP_ID)
            .and_then(|value| value.first_chunk().copied().map(u64::from_ne_bytes)),
    })
}

/// The value of the first attribute of this kind (struct rtattr).
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let (Some(length), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let length = usize::from(length);
        if kind == wanted {
            return attributes.get(4..length);
        }
        attributes = attributes.get(length.next_multiple_of(4).max(4)..).unwrap_or_default();
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn a_listener_and_a_datagram_socket_are_found_by_their_port() {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a listener").local_addr();
        assert!(sockets(Protocol::Tcp, tcp.expect("bound").port()).expect("asked").is_empty(), "it is closed");
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let udp = UdpSocket::bind("[::1]:0").expect("a socket");
        let uid = rustix::process::geteuid().as_raw();
        for (protocol, local, state) in [
            (Protocol::Tcp, tcp.local_addr().expect("bound"), 10),
            (Protocol::Udp, udp.local_addr().expect("bound"), 7),
        ] {
            let found = sockets(protocol, local.port()).expect("asked");
            let found = found.iter().find(|entry| entry.local == local).expect("there");
            assert_eq!((found.state, found.uid, found.device), (state, uid, 0));
            assert!(found.inode != 0 && found.expires.is_none());
        }
    }

    #[test]
    fn an_error_message_of_netlink_is_an_error() {
        for (number, expected) in [(-2, 2), (0, 0), (i32::MIN, i32::MIN), (7_000_000, -7_000_000)] {
            let mut packet = [20_u32.to_ne_bytes(), [2, 0, 0, 0], [0; 4], [0; 4]].concat();
            packet.extend(i32::to_ne_bytes(number));
            let error = read(&packet, 80, &mut Vec::new()).expect_err("an error");
            assert_eq!(error.raw_os_error(), Some(expected));
        }
    }

    #[test]
    fn broken_netlink_answers_do_not_panic() {
        let mut packet = request(AddressFamily::INET, Protocol::Tcp, 80);
        packet.resize(200, 0xff);
        for length in 0..packet.len() {
            for claimed in [0u32, 1, 15, 16, 17, 72, 88, 200, u32::MAX] {
                let mut cut = packet.get(..length).expect("shorter").to_vec();
                if let Some(start) = cut.first_chunk_mut() {
                    *start = claimed.to_ne_bytes();
                }
                let _ = read(&cut, 80, &mut Vec::new());
                let _ = entry(&cut);
                let _ = attribute(&cut, INET_DIAG_SKV6ONLY);
            }
        }
    }
}
