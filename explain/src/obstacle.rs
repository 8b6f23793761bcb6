//! Obstacles on this host for an endpoint that the policy permits: an address, an interface or a protocol that does not
//! exist. To ask the kernel, a socket is bound to the address, with another port.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::sys::socket::SetSockOpt as _;
use nix::sys::socket::sockopt::BindToDevice;
use portgrant_protocol::{Address, Protocol, Resolved};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};

/// Why it cannot be bound, and what to do, in the helper's words.
pub(crate) type Obstacle = (String, String);

/// The obstacle, if there is one. A port in use is not one; see `portgrant who`.
pub(crate) fn of(endpoint: &Resolved) -> Option<Obstacle> {
    let protocol = endpoint.endpoint.protocol;
    let address: IpAddr = match endpoint.endpoint.address {
        Address::V4(address) => address.into(),
        Address::V6(address) => address.into(),
        Address::Any => Ipv6Addr::UNSPECIFIED.into(),
        Address::Each => Ipv4Addr::UNSPECIFIED.into(),
    };
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    if family == AddressFamily::INET6 && socket(AddressFamily::INET6, Protocol::Udp) == Some(Errno::AFNOSUPPORT) {
        return Some((
            "this host has no IPv6, or RestrictAddressFamilies= of the unit forbids it; the endpoint asks for it (no address means [::])".to_owned(),
            format!("ask for 0.0.0.0:{}", endpoint.port),
        ));
    }
    if socket(family, protocol) == Some(Errno::PROTONOSUPPORT) {
        let word = protocol.word();
        return Some((
            format!("this kernel has no {word}"),
            format!("as root: modprobe {word}; or enable it (sysctl)"),
        ));
    }
    match bound(family, address, endpoint).err()? {
        Errno::NODEV => Some((
            "the interface given with dev= does not exist".to_owned(),
            "see ip link for the interfaces of this host".to_owned(),
        )),
        Errno::INVAL => Some((
            "bind: the address does not fit the socket: a link-local one needs its interface".to_owned(),
            "name the interface with dev=".to_owned(),
        )),
        Errno::ADDRNOTAVAIL => Some((
            "no interface of this network namespace has that address".to_owned(),
            "see ip addr for the addresses; freebind, if it is granted, binds before the address exists".to_owned(),
        )),
        _ => None,
    }
}

/// Whether socket(2) supports a protocol.
fn socket(family: AddressFamily, protocol: Protocol) -> Option<Errno> {
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
        Protocol::Mptcp => (SocketType::STREAM, ipproto::MPTCP),
    };
    socket_with(family, kind, SocketFlags::CLOEXEC, Some(number)).err()
}

/// Binds a datagram socket to the address and to a port of the kernel's choice, for a moment.
fn bound(family: AddressFamily, address: IpAddr, endpoint: &Resolved) -> Result<(), Errno> {
    let options = &endpoint.endpoint.options;
    let fd = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    if let Some(dev) = &options.dev {
        BindToDevice.set(&fd, &OsString::from(dev)).map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
    }
    if options.freebind {
        let call = if address.is_ipv4() { sockopt::set_ip_freebind } else { sockopt::set_ipv6_freebind };
        call(&fd, true)?;
    }
    bind(&fd, &SocketAddr::new(address, 0))
}
