//! The addresses of this host's interfaces, as the kernel lists them over a netlink socket (rtnetlink(7)).
//!
//! This needs no privilege. The kernel's answer is parsed like untrusted bytes: invalid parts are skipped or an error.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recvfrom, sendto, socket_with};

// linux/rtnetlink.h, linux/netlink.h, linux/if_link.h, linux/if_addr.h and linux/if.h
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST_DUMP: u16 = 0x301;
const DUMP_INTERRUPTED: u16 = 0x10;
const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFF_UP: u32 = 1;
const IFF_BROADCAST: u32 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const HEADER: usize = 16;
/// How often the list is requested if it keeps changing.
const ATTEMPTS: usize = 8;

/// An address of an interface that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InterfaceAddress {
    /// The interface's name
    pub(crate) interface: String,
    /// The interface's number
    pub(crate) index: u32,
    /// The address
    pub(crate) ip: IpAddr,
    /// The broadcast address, if there is one
    pub(crate) broadcast: Option<Ipv4Addr>,
}

#[derive(Debug, PartialEq, Eq)]
struct Link {
    index: u32,
    flags: u32,
    name: String,
}

/// Every address of every interface that is up, in the kernel's order.
///
/// # Errors
/// Errors of the socket, and [`Errno::AGAIN`] if the list keeps changing.
pub(crate) fn addresses() -> Result<Vec<InterfaceAddress>, Errno> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    for _ in 0..ATTEMPTS {
        let links = dump(socket.as_fd(), RTM_GETLINK)?;
        let found = dump(socket.as_fd(), RTM_GETADDR)?;
        if let (Some(links), Some(found)) = (links, found) {
            let links: Vec<Link> = messages(&links, RTM_NEWLINK).filter_map(link).collect();
            return Ok(messages(&found, RTM_NEWADDR).filter_map(|body| address(body, &links)).collect());
        }
    }
    Err(Errno::AGAIN)
}

/// Asks for all objects of one kind. `None` if the list changed meanwhile.
fn dump(socket: BorrowedFd<'_>, kind: u16) -> Result<Option<Vec<u8>>, Errno> {
    // nlmsghdr, and a struct rtgenmsg with its padding: all families.
    let len = 20u32;
    let mut request = Vec::with_capacity(20);
    request.extend(len.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(REQUEST_DUMP.to_ne_bytes());
    request.extend([0; 12]);
    sendto(socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let (mut all, mut whole) = (Vec::new(), true);
    let mut buffer = vec![0; 32 << 10];
    loop {
        let (len, real, sender) = match recvfrom(socket, buffer.as_mut_slice(), RecvFlags::TRUNC) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        // The kernel's number is 0; other senders are ignored.
        if sender.and_then(|sender| SocketAddrNetlink::try_from(sender).ok()).is_none_or(|sender| sender.pid() != 0) {
            continue;
        }
        let received = buffer.get(..len).filter(|_| real == len).ok_or(Errno::MSGSIZE)?;
        let mut ended = false;
        for message in split(received) {
            whole &= message.flags & DUMP_INTERRUPTED == 0;
            match message.kind {
                NLMSG_DONE => ended = true,
                NLMSG_ERROR => {
                    return Err(Errno::from_raw_os_error(
                        i32::from_ne_bytes(array(message.body, 0).unwrap_or_default()).saturating_neg(),
                    ));
                }
                _ => {}
            }
        }
        if ended {
            return Ok(whole.then_some(all));
        }
        all.extend(received);
    }
}

struct Netlink<'a> {
    kind: u16,
    flags: u16,
    body: &'a [u8],
}

/// The messages in `bytes`: each has its length first, and begins at a multiple of 4.
fn split(mut bytes: &[u8]) -> impl Iterator<Item = Netlink<'_>> {
    core::iter::from_fn(move || {
        let len = usize::try_from(u32::from_ne_bytes(array(bytes, 0)?)).ok()?;
        let message = bytes.get(..len)?;
        let (kind, flags) = (u16::from_ne_bytes(array(message, 4)?), u16::from_ne_bytes(array(message, 6)?));
        let body = message.get(HEADER..)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Netlink { kind, flags, body })
    })
}

fn messages(bytes: &[u8], kind: u16) -> impl Iterator<Item = &[u8]> {
    split(bytes).filter(move |message| message.kind == kind).map(|message| message.body)
}

/// The attributes of a message (struct rtattr): each has its length and its kind first, and begins at a multiple of 4.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let len = usize::from(u16::from_ne_bytes(array(bytes, 0)?));
        let kind = u16::from_ne_bytes(array(bytes, 2)?);
        let value = bytes.get(4..len)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(len.next_multiple_of(4)..)?;
    }
}

/// struct ifinfomsg: the index from byte 4, the flags from byte 8, then attributes.
fn link(body: &[u8]) -> Option<Link> {
    let name = attribute(body.get(16..)?, IFLA_IFNAME)?.split(|&byte| byte == 0).next()?;
    Some(Link {
        index: u32::from_ne_bytes(array(body, 4)?),
        flags: u32::from_ne_bytes(array(body, 8)?),
        name: String::from_utf8(name.to_vec()).ok()?,
    })
}

/// struct ifaddrmsg: the family in byte 0, the interface's index from byte 4, then attributes. The local address of a
/// connection between two hosts is IFA_LOCAL, and IFA_ADDRESS is then the other host.
fn address(body: &[u8], links: &[Link]) -> Option<InterfaceAddress> {
    let index = u32::from_ne_bytes(array(body, 4)?);
    let link = links.iter().find(|link| link.index == index).filter(|link| link.flags & IFF_UP != 0)?;
    let attributes = body.get(8..)?;
    let value = attribute(attributes, IFA_LOCAL).or_else(|| attribute(attributes, IFA_ADDRESS))?;
    let ip: IpAddr = match *body.first()? {
        AF_INET => Ipv4Addr::from(array::<4>(value, 0)?).into(),
        AF_INET6 => Ipv6Addr::from(array::<16>(value, 0)?).into(),
        _ => return None,
    };
    let broadcast = attribute(attributes, IFA_BROADCAST).filter(|_| ip.is_ipv4() && link.flags & IFF_BROADCAST != 0);
    let broadcast = broadcast.and_then(|value| array(value, 0)).map(Ipv4Addr::from);
    Some(InterfaceAddress { interface: link.name.clone(), index, ip, broadcast })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_addresses_are_those_that_getifaddrs_lists() {
        let ours = addresses().expect("a list");
        assert!(ours.iter().any(|found| found.ip == IpAddr::from([127, 0, 0, 1])), "{ours:?}");
        let theirs = nix::ifaddrs::getifaddrs().expect("a list").filter_map(|found| {
            let up = found.flags.contains(nix::net::if_::InterfaceFlags::IFF_UP);
            let address = found.address.filter(|_| up)?;
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
        });
        assert_eq!(ours.iter().map(|found| found.ip).collect::<Vec<_>>(), theirs.collect::<Vec<_>>());
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(HEADER + body.len()).expect("short");
        let mut bytes = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], body].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn attribute_of(kind: u16, value: &[u8]) -> Vec<u8> {
        let len = u16::try_from(4 + value.len()).expect("short");
        let mut bytes = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_point_to_point_link_yields_its_local_address_not_the_peers() {
        let link = Link { index: 7, flags: IFF_UP, name: "ppp0".into() };
        let down = Link { index: 8, flags: IFF_BROADCAST, name: "eth0".into() };
        let links = [link, down];
        let mut body = vec![AF_INET, 32, 0, 0, 7, 0, 0, 0];
        if cfg!(target_endian = "big") {
            body = vec![AF_INET, 32, 0, 0, 0, 0, 0, 7];
        }
        body.extend(attribute_of(IFA_ADDRESS, &[10, 0, 0, 2]));
        body.extend(attribute_of(IFA_LOCAL, &[10, 0, 0, 1]));
        body.extend(attribute_of(IFA_BROADCAST, &[10, 0, 0, 255]));
        let found = address(&body, &links).expect("an address");
        assert_eq!((found.ip, found.broadcast, &*found.interface), ([10, 0, 0, 1].into(), None, "ppp0"));
        body[if cfg!(target_endian = "big") { 7 } else { 4 }] = 8;
        assert_eq!(address(&body, &links), None, "the interface is down");
    }

    #[test]
    fn messages_are_split_at_their_padding() {
        let bytes = [message(RTM_NEWLINK, &[1; 5]), message(9, &[]), message(RTM_NEWLINK, &[2; 4])].concat();
        assert_eq!(messages(&bytes, RTM_NEWLINK).collect::<Vec<_>>(), [&[1; 5][..], &[2; 4]]);
    }

    proptest! {
        #[test]
        fn no_netlink_bytes_panic_or_loop(bytes in proptest::collection::vec(0u8..20, 0..200)) {
            for message in split(&bytes) {
                let _ = (link(message.body), address(message.body, &[]));
            }
            let _ = attribute(&bytes, 77);
            let _ = (link(&bytes), address(&bytes, &[]));
        }
    }
}
