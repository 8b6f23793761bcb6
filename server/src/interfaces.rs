//! The addresses of this host's interfaces, and notifications when they change (rtnetlink(7)).

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::ifaddrs::getifaddrs;
use nix::libc::{RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR, RTMGRP_LINK};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, recv, socket,
};

use crate::failure::Error;

/// A unicast or a broadcast address of an interface that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) ip: IpAddr,
    /// The interface of a link-local address, else 0
    pub(crate) scope: u32,
    pub(crate) interface: String,
}

impl Place {
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        match self.ip {
            IpAddr::V4(ip) => (ip, port).into(),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, self.scope).into(),
        }
    }

    /// Two interfaces may have the same address, which is bound once.
    pub(crate) fn is(&self, other: &Place) -> bool {
        (self.ip, self.scope) == (other.ip, other.scope)
    }
}

/// All addresses, each once; those of the interface `only`, if there is one. Same as for the helper's `each`.
pub(crate) fn places(only: Option<&str>) -> Result<Vec<Place>, Error> {
    let failed = |errno: nix::Error| Error::system("cannot list the interfaces", errno);
    let mut places: Vec<Place> = Vec::new();
    for interface in getifaddrs().map_err(failed)? {
        let name = interface.interface_name;
        if !interface.flags.contains(InterfaceFlags::IFF_UP) || only.is_some_and(|only| only != name) {
            continue;
        }
        let has_broadcast = interface.flags.contains(InterfaceFlags::IFF_BROADCAST);
        let broadcast = interface.broadcast.filter(|_| has_broadcast);
        for (ip, scope) in [interface.address, broadcast].iter().flatten().filter_map(address) {
            let place = Place { ip, scope, interface: name.clone() };
            if !ip.is_unspecified() && !places.iter().any(|known| known.is(&place)) {
                places.push(place);
            }
        }
    }
    Ok(places)
}

fn address(address: &SockaddrStorage) -> Option<(IpAddr, u32)> {
    let v4 = address.as_sockaddr_in().map(|v4| (v4.ip().into(), 0));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| (v6.ip().into(), v6.scope_id())))
}

/// The kernel's notifications that an address or an interface was added, removed or changed.
///
/// Their content is not read: after each the interfaces are listed again. So a lost or forged message does no harm.
#[derive(Debug)]
pub(crate) struct Changes(OwnedFd);

impl Changes {
    /// Subscribes from now on. This needs no privilege.
    pub(crate) fn subscribe() -> Result<Changes, Error> {
        let failed = |errno: nix::Error| Error::system("cannot follow the interfaces", errno);
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket =
            socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute).map_err(failed)?;
        let groups = (RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR).cast_unsigned();
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups)).map_err(failed)?;
        Ok(Changes(socket))
    }

    /// Whether there was a notification since the last call.
    pub(crate) fn happened(&self) -> bool {
        let mut happened = false;
        loop {
            // ENOBUFS counts as well: there were more than fit into the queue.
            match recv(self.0.as_raw_fd(), &mut [0; 64], MsgFlags::MSG_DONTWAIT) {
                Ok(_) | Err(nix::Error::ENOBUFS) => happened = true,
                Err(nix::Error::EINTR) => {}
                Err(_) => return happened,
            }
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn the_loopback_address_is_listed_once_with_its_interface() {
        let loopback = |place: &Place| place.ip == Ipv4Addr::LOCALHOST;
        let all = places(None).expect("listed");
        let places_of = |name: &str| places(Some(name)).expect("listed");
        assert_eq!(all.iter().filter(|place| loopback(place)).count(), 1);
        let name = &all.iter().find(|place| loopback(place)).expect("there").interface;
        assert!(places_of(name).iter().any(loopback) && places_of("no-such-if").is_empty());
    }

    #[test]
    fn a_link_local_address_is_bound_with_its_interface() {
        let ip = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
        let place = Place { ip: ip.into(), scope: 3, interface: "eth1".to_owned() };
        assert_eq!(place.at(53), SocketAddrV6::new(ip, 53, 0, 3).into());
        assert!(!place.is(&Place { scope: 4, ..place.clone() }), "the same address on another link is another");
    }
}
