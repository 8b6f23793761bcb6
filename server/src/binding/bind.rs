//! Binds sockets without privilege, with safe options, and sets the same options on adopted sockets.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{GetSockOpt, SetSockOpt};
use portgrant_protocol::{Address, Endpoint, Options, Protocol, Resolved};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use super::error::BindError;
use super::holder;
use crate::adopting::{Origin, Socket, SocketError, Sockets};
use crate::client::{KeepAlive, Linger, SocketOptionError, StreamOptions};
use crate::failure::Error;
use crate::{interfaces, resolved};

/// The default backlog. The kernel limits it to net.core.somaxconn.
const BACKLOG: u32 = 4096;

/// A socket that this process binds itself, without the helper: for ports that every user may bind (from
/// `ip_unprivileged_port_start` on). For other ports use [`Server::listen`](crate::Server::listen).
///
/// | option | stream | datagram | why |
/// |---|---|---|---|
/// | SO_REUSEADDR | on | never | A restarted server need not wait for TIME_WAIT, and a second listener is still refused. With it on udp sockets, another process could bind the same port and take the packets. |
/// | SO_REUSEPORT | on request | on request | A second server that is started by mistake gets an error, and not half of the connections. Only sockets of the same user can share the port. |
/// | IPV6_V6ONLY | always set | always set | The meaning of `[::]` does not depend on net.ipv6.bindv6only. |
/// | close-on-exec | on | on | Children do not hold the port. |
///
/// ```
/// use portgrant_server::Bind;
///
/// # let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
/// # let endpoint = format!("{free}");
/// let listener: std::net::TcpListener = Bind::to(&endpoint)?.backlog(128).tcp()?; // 127.0.0.1:8080
/// // Once more: the error says who is there, with program, pid and user.
/// let error = Bind::to(&endpoint)?.tcp().expect_err("in use");
/// assert!(error.to_string().contains("this process"), "{error}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is bound before `socket`, `tcp` or `udp`"]
pub struct Bind {
    endpoint: Endpoint,
    stream: StreamOptions,
}

impl Bind {
    /// Binds to `endpoint`, given as text, with its options (see [`endpoint`](crate::endpoint)).
    pub fn to(endpoint: &str) -> Result<Bind, Error> {
        resolved::parse(endpoint).map(Bind::endpoint)
    }

    /// Binds to `endpoint`.
    pub fn endpoint(endpoint: Endpoint) -> Bind {
        Bind { endpoint, stream: StreamOptions::new() }
    }

    /// Sets SO_REUSEPORT, the endpoint option `reuseport`. Several sockets of this user share the port, and the kernel
    /// distributes connections and datagrams among them. All of them must have the option. See
    /// [`steer_by_cpu`](crate::steer_by_cpu).
    pub fn reuse_port(mut self) -> Bind {
        self.endpoint.options.reuseport = true;
        self
    }

    /// Sets how many connections may wait to be accepted, the endpoint option `backlog`. The default is 4096.
    pub fn backlog(mut self, connections: u32) -> Bind {
        self.endpoint.options.backlog = Some(connections);
        self
    }

    /// Sets these options after those of the endpoint. They do not apply to datagram sockets.
    pub fn stream_options(self, stream: StreamOptions) -> Bind {
        Bind { stream, ..self }
    }

    /// Binds the socket, and listens if it is a stream socket.
    ///
    /// # Errors
    /// [`BindError`], of which [`BindError::Privileged`] is for ports that not every user may bind;
    /// [`SocketOptionError`].
    pub fn socket(&self) -> Result<Socket, Error> {
        let socket = bind(&resolved::of(self.endpoint.clone())?)?;
        self.stream.apply(&socket)?;
        Ok(socket)
    }

    /// Binds all sockets of the endpoint: for `each` several, the wildcard's first, else one. Either all are bound or none.
    /// The names are those that the helper gives them.
    pub fn sockets(&self) -> Result<Sockets, Error> {
        if self.endpoint.address != Address::Each {
            return self.socket().map(|socket| Sockets::from_iter([socket]));
        }
        let asked = resolved::of(self.endpoint.clone())?;
        let name = |number| if number == 0 { asked.name() } else { format!("{}-{number}", asked.name()) };
        let sockets = bind_each(&asked)?.into_iter().enumerate();
        Ok(sockets.map(|(number, fd)| Socket::new(name(number), fd).of(Origin::Bound)).collect())
    }

    /// Binds a listener of the standard library.
    pub fn tcp(&self) -> Result<TcpListener, Error> {
        self.socket()?.into_tcp()
    }

    /// Binds a udp socket of the standard library. The default protocol is tcp, so write `53/udp`.
    pub fn udp(&self) -> Result<UdpSocket, Error> {
        self.socket()?.into_udp()
    }
}

/// Creates the socket, binds it and listens.
pub(crate) fn bind(asked: &Resolved) -> Result<Socket, Error> {
    let options = &asked.endpoint.options;
    let fd = bind_at(asked, &address(asked)?, options.v6only, options.reuseport)?;
    if asked.endpoint.protocol.is_stream() {
        net::listen(&fd, backlog(options)).map_err(|errno| failed(asked, errno))?;
    }
    Ok(Socket::new(asked.name(), fd).of(Origin::Bound))
}

/// The wildcard, and every unicast and broadcast address. Such sockets can only be bound together with SO_REUSEPORT,
/// which is cleared before they are returned. Until then, only this user could bind the same address.
fn bind_each(asked: &Resolved) -> Result<Vec<OwnedFd>, Error> {
    let options = &asked.endpoint.options;
    let any = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, asked.port.get(), 0, 0).into();
    let mut sockets = vec![bind_at(asked, &any, false, true)?];
    for place in interfaces::places(options.dev.as_deref())? {
        match bind_at(asked, &place.at(asked.port.get()), true, true) {
            // The address was removed since it was listed, or is still tentative (ipv6(7)): the wildcard serves it.
            Err(error) if matches!(error.downcast_ref(), Some(BindError::NotThere { .. })) => {}
            bound => sockets.push(bound?),
        }
    }
    if !options.reuseport {
        sockets.iter().try_for_each(|fd| set("SO_REUSEPORT", sockopt::set_socket_reuseport(fd, false)))?;
    }
    Ok(sockets)
}

/// Creates the socket with its options, and binds it.
fn bind_at(asked: &Resolved, address: &SocketAddr, v6only: bool, reuseport: bool) -> Result<OwnedFd, Error> {
    let options = &asked.endpoint.options;
    let fd = make(asked, address.is_ipv4())?;
    if address.is_ipv6() {
        set("IPV6_V6ONLY", sockopt::set_ipv6_v6only(&fd, v6only || !address.ip().is_unspecified()))?;
    }
    set("SO_REUSEADDR", sockopt::set_socket_reuseaddr(&fd, asked.endpoint.protocol.is_stream()))?;
    set("SO_REUSEPORT", sockopt::set_socket_reuseport(&fd, reuseport))?;
    if options.freebind {
        let call = if address.is_ipv4() { sockopt::set_ip_freebind } else { sockopt::set_ipv6_freebind };
        set("IP_FREEBIND", call(&fd, true))?;
    }
    if let Some(dev) = &options.dev {
        bind_to_device(fd.as_fd(), dev)?;
    }
    // Before listen(2): window scaling is part of the first segment, and connections inherit the other options.
    set_options(fd.as_fd(), options, address.is_ipv4())?;
    net::bind(&fd, address).map_err(|errno| failed(asked, errno))?;
    Ok(fd)
}

fn set(option: &'static str, result: Result<(), Errno>) -> Result<(), SocketOptionError> {
    result.map_err(|errno| SocketOptionError { option, source: errno.into() })
}

/// Sets the options of an endpoint on a bound socket. Returns an error for an option that must be set before bind(2).
pub(crate) fn adjust(socket: &Socket, options: &Options) -> Result<(), Error> {
    let info = *socket.info()?;
    let fd = socket.as_fd();
    let too_late = |option| Err(SocketError::OptionTooLate { name: socket.name().to_owned(), option }.into());
    if options.reuseport && !sockopt::socket_reuseport(fd).unwrap_or(false) {
        return too_late("reuseport");
    }
    if let Some(dev) = &options.dev {
        let bound = nix::sys::socket::sockopt::BindToDevice.get(&fd).unwrap_or_default();
        match bound.to_str() {
            Some("") => bind_to_device(fd, dev)?,
            Some(bound) if bound == dev => {}
            _ => return too_late("dev"),
        }
    }
    let v4 = sockopt::socket_domain(fd).is_ok_and(|domain| domain == AddressFamily::INET);
    set_options(fd, options, v4)?;
    if let (true, Some(_)) = (info.protocol.is_stream(), options.backlog) {
        // For a socket that listens, this only changes the backlog.
        let result = net::listen(fd, backlog(options));
        result.map_err(|errno| SocketOptionError { option: "backlog", source: errno.into() })?;
    }
    Ok(())
}

fn address(asked: &Resolved) -> Result<SocketAddr, BindError> {
    // A link-local address needs its interface (ipv6(7)). Endpoints have no zones, so `dev` names the interface.
    let scope = || asked.endpoint.options.dev.as_deref().and_then(|dev| if_nametoindex(dev).ok()).unwrap_or(0);
    match asked.endpoint.address {
        Address::Any => Ok(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, asked.port.get(), 0, 0).into()),
        Address::V4(ip) => Ok(SocketAddrV4::new(ip, asked.port.get()).into()),
        Address::V6(ip) => Ok(SocketAddrV6::new(ip, asked.port.get(), 0, scope()).into()),
        Address::Each => Err(BindError::EachIsSeveral { endpoint: asked.endpoint.to_string() }),
    }
}

fn make(asked: &Resolved, v4: bool) -> Result<OwnedFd, BindError> {
    let protocol = asked.endpoint.protocol;
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
        Protocol::Mptcp => (SocketType::STREAM, ipproto::MPTCP),
    };
    let family = if v4 { AddressFamily::INET } else { AddressFamily::INET6 };
    net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(number)).map_err(|errno| match errno {
        Errno::AFNOSUPPORT if !v4 => BindError::NoIpv6 { endpoint: asked.to_string(), port: asked.port.get() },
        Errno::PROTONOSUPPORT | Errno::NOPROTOOPT | Errno::SOCKTNOSUPPORT => {
            BindError::NoProtocol { endpoint: asked.to_string(), protocol }
        }
        errno => BindError::Other { endpoint: asked.to_string(), source: errno.into() },
    })
}

/// Options that can be set at any time.
fn set_options(fd: BorrowedFd<'_>, options: &Options, v4: bool) -> Result<(), Error> {
    let set =
        |option: &'static str, result: io::Result<()>| result.map_err(|source| SocketOptionError { option, source });
    let bytes = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX);
    let mut stream = StreamOptions::new();
    match options.keepalive {
        Some(Some(times)) => stream = stream.keep_alive(KeepAlive::from(times)),
        Some(None) => set("SO_KEEPALIVE", sockopt::set_socket_keepalive(fd, true).map_err(Into::into))?,
        None => {}
    }
    if let Some(seconds) = options.linger {
        stream = stream.linger(Linger::Wait(std::time::Duration::from_secs(seconds.into())));
    }
    stream.apply(fd)?;
    if let Some(seconds) = options.defer_accept {
        set("TCP_DEFER_ACCEPT", portgrant_sys::set_tcp_defer_accept(fd, seconds).map_err(Into::into))?;
    }
    if let Some(queue) = options.fastopen {
        set("TCP_FASTOPEN", portgrant_sys::set_tcp_fastopen(fd, queue).map_err(Into::into))?;
    }
    if let Some(size) = options.rcvbuf {
        set("SO_RCVBUF", sockopt::set_socket_recv_buffer_size(fd, bytes(size)).map_err(Into::into))?;
    }
    if let Some(size) = options.sndbuf {
        set("SO_SNDBUF", sockopt::set_socket_send_buffer_size(fd, bytes(size)).map_err(Into::into))?;
    }
    if let Some(tos) = options.tos {
        set("IP_TOS", sockopt::set_ip_tos(fd, tos).map_err(Into::into))?;
        if !v4 {
            set("IPV6_TCLASS", sockopt::set_ipv6_tclass(fd, tos.into()).map_err(Into::into))?;
        }
    }
    Ok(())
}

fn bind_to_device(fd: BorrowedFd<'_>, dev: &str) -> Result<(), Error> {
    let result = nix::sys::socket::sockopt::BindToDevice.set(&fd, &OsString::from(dev));
    result.map_err(|errno| SocketOptionError { option: "SO_BINDTODEVICE", source: errno.into() }.into())
}

fn backlog(options: &Options) -> i32 {
    i32::try_from(options.backlog.unwrap_or(BACKLOG)).unwrap_or(i32::MAX)
}

fn failed(asked: &Resolved, errno: Errno) -> BindError {
    let endpoint = asked.to_string();
    let any_v6 = matches!(asked.endpoint.address, Address::Any | Address::V6(Ipv6Addr::UNSPECIFIED));
    match errno {
        // The address is certainly in use. Its holders are reported as far as they are known.
        Errno::ADDRINUSE => BindError::InUse { endpoint, holders: holder::of(asked).unwrap_or_default() },
        Errno::ADDRNOTAVAIL if any_v6 => BindError::NoIpv6 { endpoint, port: asked.port.get() },
        Errno::ADDRNOTAVAIL => BindError::NotThere { endpoint },
        Errno::ACCESS => BindError::Privileged { endpoint },
        // The kernel's own answer is EACCES. EPERM comes from a cgroup BPF program or seccomp.
        Errno::PERM => BindError::Forbidden { endpoint },
        errno => BindError::Other { endpoint, source: errno.into() },
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use super::holder::HolderState;
    use super::*;

    /// A port that is free at the moment, for both families.
    fn free_port() -> u16 {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        TcpListener::bind(any).expect("a listener").local_addr().expect("bound").port()
    }

    fn bound(endpoint: &str) -> Socket {
        Bind::to(endpoint).and_then(|bind| bind.socket()).expect(endpoint)
    }

    fn in_use(endpoint: &str) -> String {
        let error = Bind::to(endpoint).and_then(|bind| bind.socket()).expect_err(endpoint);
        assert!(
            matches!(error.downcast_ref(), Some(BindError::InUse { holders, .. }) if !holders.is_empty()),
            "{endpoint}: {error}"
        );
        assert_eq!(error.status(), crate::status::UNAVAILABLE);
        error.to_string()
    }

    #[test]
    fn defaults_are_safe_for_each_protocol() {
        let port = free_port();
        let (tcp, udp) = (bound(&format!("web={port}")), bound(&format!("{port}/udp")));
        assert_eq!((tcp.name(), udp.name()), ("web", format!("{port}/udp").as_str()));
        for (socket, is_stream) in [(&tcp, true), (&udp, false)] {
            let info = socket.info().expect("a socket");
            assert!(info.local.ip().is_unspecified() && info.dual_stack, "{info:?}");
            assert_eq!(info.listening, is_stream);
            assert_eq!(sockopt::socket_reuseaddr(socket).expect("get"), is_stream);
            assert!(!sockopt::socket_reuseport(socket).expect("get"));
        }
        assert!(!bound(&format!("[::1]:{}", free_port())).info().expect("a socket").dual_stack);
    }

    #[test]
    fn an_overlapping_address_is_in_use_and_its_holder_is_reported() {
        let port = free_port();
        let own = format!("this process (pid {})", std::process::id());
        let wildcard = bound(&format!("{port}"));
        for endpoint in [format!("{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
            let error = in_use(&endpoint);
            assert!(error.contains(&format!("{own} listens at [::]:{port} (IPv4 as well)")), "{error}");
        }
        drop(wildcard);
        let specific = bound(&format!("127.0.0.1:{port}"));
        assert!(in_use(&format!("0.0.0.0:{port}")).contains(&format!("listens at 127.0.0.1:{port}")));
        assert!(in_use(&format!("{port}")).contains(&format!("listens at 127.0.0.1:{port}")));
        let _beside = [bound(&format!("127.0.0.2:{port}")), bound(&format!("[::]:{port},v6only"))];
        drop(specific);
        let _udp = bound(&format!("127.0.0.1:{port}/udp"));
        assert!(in_use(&format!("127.0.0.1:{port}/udp")).contains(&format!("{own} is bound to 127.0.0.1:{port}")));
    }

    #[test]
    fn time_wait_blocks_a_port_only_without_reuseaddr_and_is_reported() {
        // This crate's way: the server closes first, so its port is in TIME_WAIT, and it can still start again.
        let endpoint = format!("127.0.0.1:{}", free_port());
        let time_wait = |listener: TcpListener| {
            let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
            drop(listener.accept().expect("accepted"));
            drop((listener, client));
            let deadline = std::time::Instant::now() + Duration::from_secs(5);
            let left = |holders: Vec<crate::Holder>| match holders.first().map(|holder| holder.state) {
                Some(HolderState::TimeWait { left }) => Some(left),
                _ => None,
            };
            loop {
                if let Some(left) = left(crate::holders(&endpoint).expect("asked")) {
                    return assert!((Duration::from_secs(40)..=Duration::from_secs(60)).contains(&left), "{left:?}");
                }
                assert!(std::time::Instant::now() < deadline, "{:?}", crate::holders(&endpoint));
            }
        };
        time_wait(Bind::to(&endpoint).and_then(|bind| bind.tcp()).expect("bound"));
        let again = Bind::to(&endpoint).and_then(|bind| bind.tcp()).expect("bound again");
        // Without SO_REUSEADDR on the old server, the next one must wait, even if it sets the option itself.
        sockopt::set_socket_reuseaddr(&again, false).expect("set");
        time_wait(again);
        let error = in_use(&endpoint);
        assert!(error.contains("is in TIME_WAIT for ") && error.contains("SO_REUSEADDR"), "{error}");
    }

    #[test]
    fn a_port_is_shared_only_if_all_sockets_ask_for_it() {
        let endpoint = format!("127.0.0.1:{}", free_port());
        let shared = Bind::to(&endpoint).expect("an endpoint").reuse_port();
        let _both = [shared.socket().expect("one"), shared.socket().expect("another")];
        in_use(&endpoint);
    }

    #[test]
    fn the_endpoints_options_are_set_on_bound_and_adopted_sockets() {
        let port = free_port();
        let options = "reuseport,freebind,dev=lo,backlog=7,keepalive=60:10:6,linger=3,defer_accept=5,fastopen=16,\
                       rcvbuf=65536,sndbuf=32768,tos=16";
        let text = format!("[::1]:{port},{options}");
        check(&bound(&text), port);

        // Adopted: created with the options that must be set before bind(2). The others are set now.
        let endpoint: Endpoint = text.parse().expect("an endpoint");
        let adopted = bound(&format!("[::1]:{port},reuseport"));
        adjust(&adopted, &endpoint.options).expect("adjusted");
        check(&adopted, port);
    }

    fn check(socket: &Socket, port: u16) {
        assert_eq!(socket.local().expect("bound").port(), port);
        assert!(sockopt::socket_reuseport(socket).expect("get"));
        assert_eq!(nix::sys::socket::sockopt::BindToDevice.get(socket).expect("get"), "lo");
        assert!(sockopt::socket_keepalive(socket).expect("get"));
        assert_eq!(sockopt::tcp_keepidle(socket).expect("get"), Duration::from_secs(60));
        assert_eq!(sockopt::tcp_keepintvl(socket).expect("get"), Duration::from_secs(10));
        assert_eq!(sockopt::tcp_keepcnt(socket).expect("get"), 6);
        assert_eq!(sockopt::socket_linger(socket).expect("get"), Some(Duration::from_secs(3)));
        assert_eq!(sockopt::socket_recv_buffer_size(socket).expect("get"), 2 * 65536, "the kernel doubles it");
        assert_eq!(sockopt::socket_send_buffer_size(socket).expect("get"), 2 * 32768);
        assert_eq!(sockopt::ipv6_tclass(socket).expect("get"), 16);
        // For a listening socket, TCP_INFO's unacked and sacked are the queue and the backlog.
        let info = portgrant_sys::tcp_info(socket.as_fd()).expect("get");
        assert_eq!(u32::from_ne_bytes(*info[28..].first_chunk().expect("a word")), 7, "backlog");
    }

    #[test]
    fn an_adopted_socket_reports_options_that_come_too_late() {
        let socket = bound(&format!("127.0.0.1:{}", free_port()));
        let options = |text: &str| text.parse::<Endpoint>().expect(text).options;
        let error = adjust(&socket, &options("1,reuseport")).expect_err("too late");
        assert!(
            matches!(error.downcast_ref(), Some(SocketError::OptionTooLate { option: "reuseport", .. })),
            "{error}"
        );
        adjust(&socket, &options("1,dev=lo")).expect("not too late");
        let error = adjust(&socket, &options("1,dev=eth7")).expect_err("another");
        assert!(matches!(error.downcast_ref(), Some(SocketError::OptionTooLate { option: "dev", .. })), "{error}");
    }

    #[test]
    fn each_bind_error_has_its_message() {
        let refused = |endpoint: &str| Bind::to(endpoint).and_then(|bind| bind.socket()).expect_err(endpoint);
        assert!(matches!(refused("198.51.100.7:7777").downcast_ref(), Some(BindError::NotThere { .. })));
        assert!(matches!(refused("each:7777/udp").downcast_ref(), Some(BindError::EachIsSeveral { .. })));
        assert!(matches!(
            refused("7777,dev=nosuch0").downcast_ref(),
            Some(SocketOptionError { option: "SO_BINDTODEVICE", .. })
        ));
        assert!(refused("no-such-service").downcast_ref::<resolved::InvalidEndpoint>().is_some());
        let free = Bind::to(&format!("198.51.100.7:{},freebind", free_port()));
        assert!(free.and_then(|bind| bind.socket()).is_ok(), "freebind binds before the address comes");
    }
}
