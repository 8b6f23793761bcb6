//! Sockets: made as the caller and bound by spending a [`Permit`]. The caller's own sockets are checked by asking the kernel.
//!
//! Created after the uid is dropped, so the socket's owner is the caller: `ss -e`, owner matches of firewalls and the
//! kernel's same-uid rule for SO_REUSEPORT see the right user. Only bind(2) itself runs with the capability.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use core::time::Duration;

use portgrant_policy::Domain;
use portgrant_protocol::{Address, Options, Protocol, Resolved};
use portgrant_sys::{netns_cookie, network_namespace, set_bind_to_device, set_tcp_defer_accept, set_tcp_fastopen};
use portgrant_trusted::{Unchanged, interface_index};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use crate::Error;
use crate::interfaces::{InterfaceAddress, addresses};
use crate::missing_privilege::{self, MissingPrivilege};
use crate::permit::Permit;
use crate::privilege::Dropped;

/// The default backlog; the kernel limits it to net.core.somaxconn.
const BACKLOG: u32 = 4096;

/// The sockets of one endpoint: bound, but not listening yet. Dropping them closes them before any client was served.
#[derive(Debug)]
pub struct Bound {
    endpoint: Resolved,
    sockets: Vec<Ready>,
}

/// A socket that is handed over: bound, and listening if it is a stream socket.
#[derive(Debug)]
pub struct Ready {
    /// The descriptor's name
    pub name: String,
    /// The socket, close-on-exec
    pub fd: OwnedFd,
}

/// Creates and binds the permitted sockets: one, or for `each` several.
pub fn bind(permit: Permit<'_>, dropped: &Dropped) -> Result<Bound, Error> {
    let endpoint = permit.endpoint();
    let options = &endpoint.endpoint.options;
    let dual = !options.v6only;
    let any = |dual| (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0, dual);
    // A link-local address needs its interface (ipv6(7)). Endpoints have no zones, so `dev` names the interface.
    let scope = options.dev.as_deref().and_then(interface_index).unwrap_or(0);
    let places = match endpoint.endpoint.address {
        Address::Any => vec![any(dual)],
        Address::V4(address) => vec![(address.into(), 0, false)],
        Address::V6(address) => vec![(address.into(), scope, dual && address.is_unspecified())],
        Address::Each => [vec![any(true)], each_address(endpoint)?].concat(),
    };
    let name = endpoint.name();
    let mut sockets = Vec::with_capacity(places.len());
    for (ip, scope, dual) in places {
        let fd = make(endpoint, ip.is_ipv4(), dual)?;
        let address = match ip {
            IpAddr::V4(ip) => SocketAddrV4::new(ip, endpoint.port.get()).into(),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, endpoint.port.get(), 0, scope).into(),
        };
        match bind_to(&fd, &address, endpoint, dropped) {
            // The address was removed meanwhile, or is still tentative (ipv6(7)): the wildcard serves it.
            Err(Error::NotThere { .. }) if !sockets.is_empty() => continue,
            other => other?,
        }
        check_bound(fd.as_fd(), &address, endpoint)?;
        let name = if sockets.is_empty() { name.clone() } else { format!("{name}-{}", sockets.len()) };
        sockets.push(Ready { name, fd });
    }
    Ok(Bound { endpoint: endpoint.clone(), sockets })
}

impl Bound {
    /// Listens, as long as the policy is unchanged since the verdict.
    pub fn listen(self, _: &Unchanged) -> Result<Vec<Ready>, Error> {
        self.sockets.iter().try_for_each(|socket| finish(socket.fd.as_fd(), &self.endpoint))?;
        Ok(self.sockets)
    }
}

/// Binds the caller's own socket, which [`check_own`] judged, to what `permit` permits. Sets no option, never listens.
///
/// This cannot be undone: the socket stays bound whatever happens later. So the policy is proven to be unchanged first,
/// and bind(2) is the next call. The address has the family that was decided: if the caller has changed the socket to
/// AF_INET since (IPV6_ADDRFORM), bind(2) fails.
pub fn bind_own(permit: Permit<'_>, socket: BorrowedFd<'_>, dropped: &Dropped, _: &Unchanged) -> Result<(), Error> {
    let endpoint = permit.endpoint();
    let ip = match (endpoint.endpoint.address, permit.domain()) {
        (Address::V4(ip), Domain::Inet6) => ip.to_ipv6_mapped().into(),
        (Address::V4(ip), Domain::OfAddress) => ip.into(),
        (Address::V6(ip), _) => ip.into(),
        (Address::Any | Address::Each, _) => Ipv6Addr::UNSPECIFIED.into(),
    };
    bind_to(socket, &SocketAddr::new(ip, endpoint.port.get()), endpoint, dropped)?;
    // The caller could have changed the address by connect(2) meanwhile, but not the port.
    match local(socket) {
        Some(bound) if bound.port() == endpoint.port.get() => Ok(()),
        found => Err(rewritten(endpoint, found)),
    }
}

/// Checks that the bind verb may bind `socket` to `endpoint`: it must be unbound, unconnected, of this network
/// namespace, made by this caller, and of the requested protocol.
///
/// If the caller changes one of these afterwards, bind(2) fails.
pub fn check_own(socket: BorrowedFd<'_>, endpoint: &Resolved, uid: u32) -> Result<Domain, Error> {
    let wrong = |expected| Error::OwnSocket { endpoint: endpoint.to_string(), expected };
    let asked = endpoint.endpoint.protocol;
    let (kind, protocols): (_, &[_]) = match asked.transport() {
        Protocol::Udp => (SocketType::DGRAM, &[ipproto::UDP]),
        Protocol::Sctp => (SocketType::STREAM, &[ipproto::SCTP]),
        Protocol::Tcp | Protocol::Mptcp => (SocketType::STREAM, &[ipproto::TCP, ipproto::MPTCP]),
    };
    let domain = sockopt::socket_domain(socket).map_err(|_| wrong("a socket"))?;
    let v6 = domain == AddressFamily::INET6;
    if !v6 && domain != AddressFamily::INET {
        return Err(wrong("an AF_INET or AF_INET6 socket"));
    }
    if !v6 && !matches!(endpoint.endpoint.address, Address::V4(_)) {
        return Err(wrong("an AF_INET6 socket, or an IPv4 address for this one"));
    }
    let protocol = sockopt::socket_protocol(socket).ok().flatten();
    if sockopt::socket_type(socket) != Ok(kind) || !protocol.is_some_and(|protocol| protocols.contains(&protocol)) {
        return Err(wrong("a socket of the protocol that is asked for"));
    }
    if local(socket).is_none_or(|address| address.port() != 0) || net::getpeername(socket).is_ok() {
        return Err(wrong("an unbound, unconnected socket"));
    }
    let cookie = |cookie: Result<u64, Errno>| cookie.map_err(|errno| failed(endpoint, "SO_NETNS_COOKIE", errno));
    if cookie(netns_cookie(socket))? != cookie(network_namespace())? {
        return Err(wrong("a socket of this network namespace"));
    }
    let stat = rustix::fs::fstat(socket).map_err(|errno| failed(endpoint, "fstat", errno))?;
    if stat.st_uid != uid {
        return Err(wrong("a socket that the caller made"));
    }
    Ok(if v6 { Domain::Inet6 } else { Domain::OfAddress })
}

fn make(endpoint: &Resolved, v4: bool, dual: bool) -> Result<OwnedFd, Error> {
    let asked = &endpoint.endpoint;
    let (kind, protocol) = match asked.protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
        Protocol::Mptcp => (SocketType::STREAM, ipproto::MPTCP),
    };
    let family = if v4 { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = match net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol)) {
        Err(Errno::AFNOSUPPORT) if !v4 => return Err(no_ipv6(endpoint)),
        Err(Errno::PROTONOSUPPORT | Errno::NOPROTOOPT | Errno::SOCKTNOSUPPORT) => {
            return Err(Error::NoProtocol { endpoint: endpoint.to_string(), protocol: asked.protocol });
        }
        other => other.map_err(|errno| failed(endpoint, "socket", errno))?,
    };
    let set = |name, result: Result<(), Errno>| result.map_err(|errno| failed(endpoint, name, errno));
    if !v4 {
        set("IPV6_V6ONLY", sockopt::set_ipv6_v6only(&fd, !dual))?;
    }
    if asked.protocol.is_stream() {
        set("SO_REUSEADDR", sockopt::set_socket_reuseaddr(&fd, true))?;
    }
    if asked.address == Address::Each {
        // Lets the wildcard and its addresses be bound together. Not SO_REUSEADDR: with that, another uid could bind
        // the same port meanwhile.
        set("SO_REUSEPORT", sockopt::set_socket_reuseport(&fd, true))?;
    }
    set_options(&fd, &asked.options, v4, &set)?;
    Ok(fd)
}

fn set_options(
    fd: &OwnedFd,
    options: &Options,
    v4: bool,
    set: &dyn Fn(&'static str, Result<(), Errno>) -> Result<(), Error>,
) -> Result<(), Error> {
    let seconds = |seconds: u16| Duration::from_secs(seconds.into());
    let bytes = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX);
    if options.reuseport {
        set("SO_REUSEPORT", sockopt::set_socket_reuseport(fd, true))?;
    }
    if options.freebind {
        let call = if v4 { sockopt::set_ip_freebind } else { sockopt::set_ipv6_freebind };
        set("IP_FREEBIND", call(fd, true))?;
    }
    if let Some(dev) = &options.dev {
        set("SO_BINDTODEVICE", set_bind_to_device(fd.as_fd(), dev))?;
    }
    if let Some(times) = options.keepalive {
        set("SO_KEEPALIVE", sockopt::set_socket_keepalive(fd, true))?;
        if let Some(times) = times {
            set("TCP_KEEPIDLE", sockopt::set_tcp_keepidle(fd, seconds(times.idle)))?;
            set("TCP_KEEPINTVL", sockopt::set_tcp_keepintvl(fd, seconds(times.interval)))?;
            set("TCP_KEEPCNT", sockopt::set_tcp_keepcnt(fd, times.count.into()))?;
        }
    }
    if let Some(linger) = options.linger {
        set("SO_LINGER", sockopt::set_socket_linger(fd, Some(seconds(linger))))?;
    }
    if let Some(wait) = options.defer_accept {
        set("TCP_DEFER_ACCEPT", set_tcp_defer_accept(fd.as_fd(), wait))?;
    }
    if let Some(queue) = options.fastopen {
        set("TCP_FASTOPEN", set_tcp_fastopen(fd.as_fd(), queue))?;
    }
    if let Some(size) = options.rcvbuf {
        set("SO_RCVBUF", sockopt::set_socket_recv_buffer_size(fd, bytes(size)))?;
    }
    if let Some(size) = options.sndbuf {
        set("SO_SNDBUF", sockopt::set_socket_send_buffer_size(fd, bytes(size)))?;
    }
    if let Some(tos) = options.tos {
        set("IP_TOS", sockopt::set_ip_tos(fd, tos))?;
        if !v4 {
            set("IPV6_TCLASS", sockopt::set_ipv6_tclass(fd, tos.into()))?;
        }
    }
    Ok(())
}

/// bind(2), the one call that runs with the capability.
fn bind_to(fd: impl AsFd, address: &SocketAddr, endpoint: &Resolved, dropped: &Dropped) -> Result<(), Error> {
    match dropped.with_capability(|| net::bind(&fd, address))? {
        Ok(()) => Ok(()),
        Err(Errno::ADDRINUSE) => Err(Error::InUse(Box::new(endpoint.clone()))),
        Err(Errno::ADDRNOTAVAIL) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Err(no_ipv6(endpoint)),
        Err(Errno::ADDRNOTAVAIL) => Err(Error::NotThere { endpoint: endpoint.to_string() }),
        Err(Errno::ACCESS) => {
            Err(Error::MissingPrivilege { endpoint: endpoint.to_string(), why: missing_privilege::why(dropped) })
        }
        Err(Errno::PERM) => {
            Err(Error::MissingPrivilege { endpoint: endpoint.to_string(), why: MissingPrivilege::BindRejected })
        }
        Err(errno) => Err(failed(endpoint, "bind", errno)),
    }
}

/// Checks that the kernel bound the requested address: a BPF program in the kernel may change it.
fn check_bound(fd: BorrowedFd<'_>, asked: &SocketAddr, endpoint: &Resolved) -> Result<(), Error> {
    match local(fd) {
        Some(found) if (found.ip(), found.port()) == (asked.ip(), asked.port()) => Ok(()),
        found => Err(rewritten(endpoint, found)),
    }
}

fn local(socket: BorrowedFd<'_>) -> Option<SocketAddr> {
    net::getsockname(socket).ok().and_then(|address| SocketAddr::try_from(address).ok())
}

fn rewritten(endpoint: &Resolved, found: Option<SocketAddr>) -> Error {
    let found = found.map_or_else(|| "something".to_owned(), |found| found.to_string());
    Error::Rewritten { endpoint: endpoint.to_string(), found }
}

/// Prepares a socket for the handover: a stream socket listens, and `each` no longer shares its port.
fn finish(fd: BorrowedFd<'_>, endpoint: &Resolved) -> Result<(), Error> {
    let asked = &endpoint.endpoint;
    if asked.address == Address::Each && !asked.options.reuseport {
        sockopt::set_socket_reuseport(fd, false).map_err(|errno| failed(endpoint, "SO_REUSEPORT", errno))?;
    }
    if asked.protocol.is_stream() {
        let backlog = i32::try_from(asked.options.backlog.unwrap_or(BACKLOG)).unwrap_or(i32::MAX);
        return match net::listen(fd, backlog) {
            Err(Errno::ADDRINUSE) => Err(Error::InUse(Box::new(endpoint.clone()))),
            other => other.map_err(|errno| failed(endpoint, "listen", errno)),
        };
    }
    Ok(())
}

/// Every unicast and every broadcast address of the interfaces that are up, each once, with its scope.
fn each_address(endpoint: &Resolved) -> Result<Vec<(IpAddr, u32, bool)>, Error> {
    let addresses = addresses().map_err(|errno| failed(endpoint, "netlink", errno))?;
    let only = endpoint.endpoint.options.dev.as_deref();
    let mut places = Vec::new();
    for InterfaceAddress { interface, index, ip, broadcast } in addresses {
        if only.is_some_and(|dev| dev != interface) {
            continue;
        }
        let scope = if matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()) { index } else { 0 };
        for place in [Some((ip, scope, false)), broadcast.map(|ip| (ip.into(), 0, false))].into_iter().flatten() {
            if !place.0.is_unspecified() && !places.contains(&place) {
                places.push(place);
            }
        }
    }
    Ok(places)
}

fn failed(endpoint: &Resolved, call: &'static str, errno: Errno) -> Error {
    Error::Socket { endpoint: endpoint.to_string(), call, errno }
}

fn no_ipv6(endpoint: &Resolved) -> Error {
    Error::NoIpv6 { endpoint: endpoint.to_string(), port: endpoint.port.get() }
}
