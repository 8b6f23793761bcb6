//! A udp socket for each address of the host, and for later addresses.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;

use nix::sys::socket::{getsockopt, setsockopt, sockopt::BindToDevice};
use portgrant_protocol::endpoint::{Address, AskedPort, Endpoint, Options};
use portgrant_protocol::{Kind, Port, Protocol};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};

use super::addressed::{AddressedUdp, Arrival};
use super::epoll::Epoll;
use super::error::ListenerError;
use crate::adopting::{Refused, Socket, Sockets};
use crate::binding::{Request, helper};
use crate::failure::Error;
use crate::interfaces::{self, Changes, Place};
use crate::{error_queue, resolved};

/// The numbers of the wildcard and of changes of interfaces. The addresses have higher ones.
const WILDCARD: u64 = 0;
const CHANGES: u64 = 1;

/// One udp socket for each unicast and broadcast address of this host, and one for the wildcard. Addresses and
/// interfaces that are added or removed later are followed. [`Listeners`](crate::Listeners) serves it:
///
/// ```no_run
/// # use portgrant_server::{EachUdp, Event, Listeners};
/// let mut listeners = Listeners::new()?;
/// listeners.each(EachUdp::listen("rip=each:520/udp")?)?;
/// loop {
///     match listeners.event()? {
///         Event::Datagram(datagram) => datagram.reply(b"pong")?, // from the address that was asked
///         Event::Address { change, .. } => println!("{change}"),
///         _ => {}
///     }
/// }
/// # #[allow(unreachable_code)]
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// * **No datagram is reported twice.** The kernel gives a broadcast to the socket of its address and to the wildcard.
///   The copy is dropped.
/// * **No datagram is missed.** The wildcard receives what reaches an address before its socket exists, and answers
///   from the right address as well (it is an [`AddressedUdp`]). It also serves addresses that cannot have their own
///   socket ([`AddressChange::Shared`]), 255.255.255.255, and the multicast groups that it joins.
/// * **No other user can bind in between.** To bind an address beside the wildcard, both sockets have SO_REUSEPORT
///   during that bind(2). Only sockets of the same user can share a port by it.
///
/// [`AddressedUdp`] is the simpler way. Its documentation compares the two.
#[derive(Debug)]
pub struct EachUdp {
    name: String,
    port: Port,
    options: Options,
    helper: Option<PathBuf>,
    wildcard: Arc<AddressedUdp>,
    bound: Vec<Bound>,
    /// Addresses that could not be bound. They are not tried again until they are removed and added.
    shared: Vec<Place>,
    ready: Epoll,
    changes: Changes,
    /// Changes that were not reported yet, the latest first
    pending: Vec<AddressChange>,
}

#[derive(Debug)]
struct Bound {
    number: u64,
    place: Place,
    socket: Arc<AddressedUdp>,
}

/// A change of this host's addresses.
#[derive(Debug)]
#[non_exhaustive]
pub enum AddressChange {
    /// It was added, and has its own socket
    Added(SocketAddr),
    /// It was removed, and its socket is closed
    Removed(SocketAddr),
    /// It was added, but cannot have its own socket: the wildcard serves it
    Shared {
        /// The address
        address: SocketAddr,
        /// Why not
        error: Error,
    },
}

/// Whether an address could not be bound because no interface has it.
fn is_not_there(error: &Error) -> bool {
    matches!(error.downcast_ref(), Some(ListenerError::NotBound { source, .. })
        if source.kind() == io::ErrorKind::AddrNotAvailable)
}

/// What was read.
pub(crate) enum Heard {
    Datagram(usize, Arrival, Arc<AddressedUdp>),
    Change(AddressChange),
}

impl EachUdp {
    /// Binds `endpoint`, `[NAME=]each:PORT/udp`: all sockets or none. If that needs privilege, the helper binds them,
    /// and a rule must permit the wildcard. The option `dev` limits it to one interface. `reuseport` and `freebind` are
    /// not allowed.
    pub fn listen(endpoint: &str) -> Result<EachUdp, Error> {
        EachUdp::listen_with(endpoint, None)
    }

    /// The same, with the helper at another path than the one that [`helper::locate`] finds.
    pub fn listen_with(endpoint: &str, helper: Option<PathBuf>) -> Result<EachUdp, Error> {
        let asked = resolved::of(resolved::parse(endpoint)?)?;
        let (name, options) = (asked.name(), asked.endpoint.options.clone());
        if asked.endpoint.address != Address::Each || options.reuseport || options.freebind {
            let expected = "each:PORT/udp without reuseport and freebind";
            return Err(ListenerError::NotEach { name: endpoint.to_owned(), expected }.into());
        }
        let wildcard = make(Ipv6Addr::UNSPECIFIED.into(), &options)?;
        let address = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), asked.port.get());
        match bind(&wildcard, &address) {
            Err(Errno::ACCESS) => match request_all(asked.endpoint, helper.clone()) {
                Ok(sockets) => {
                    let each = EachUdp::adopt(sockets)?;
                    return Ok(EachUdp { options, helper, ..each });
                }
                // The helper binds all or none, and an IPv6 address may not be known to be unique yet. So bind one by
                // one. An address in use is still reported as in use.
                Err(error) if matches!(error.downcast_ref(), Some(Refused(message)) if matches!(message.kind, Kind::InUse | Kind::NotThere)) =>
                {
                    ask(helper.clone(), Address::Any, asked.port, &wildcard)?;
                }
                Err(error) => return Err(error),
            },
            bound => bound.map_err(|errno| ListenerError::NotBound { address, source: errno.into() })?,
        }
        let mut each = EachUdp::around(name, asked.port, options, wildcard)?;
        each.helper = helper;
        each.follow()?;
        // These were there from the start.
        each.pending.drain(..).try_for_each(|change| match change {
            AddressChange::Shared { error, .. } => Err(error),
            AddressChange::Added(_) | AddressChange::Removed(_) => Ok(()),
        })?;
        Ok(each)
    }

    /// Adopts the sockets of `portgrant exec -l each:PORT/udp` or of a [`Request`] for it: the wildcard's socket first,
    /// then those of addresses, all with one port. Changes since they were bound are caught up with.
    ///
    /// ```no_run
    /// # use portgrant_server::{EachUdp, Sockets};
    /// let each = EachUdp::adopt(Sockets::request(["rip=each:520/udp"])?)?;
    /// # Ok::<(), portgrant_server::Error>(())
    /// ```
    pub fn adopt(sockets: impl IntoIterator<Item = Socket>) -> Result<EachUdp, Error> {
        let mut sockets = sockets.into_iter();
        let not_each = |name: &str, expected| Error::from(ListenerError::NotEach { name: name.to_owned(), expected });
        let first = sockets.next().ok_or_else(|| not_each("each", "the wildcard's socket first"))?;
        let (name, local) = (first.name().to_owned(), first.local()?);
        let Some(port) = Port::new(local.port()).filter(|_| local.ip().is_unspecified()) else {
            return Err(not_each(&name, "the wildcard's socket first"));
        };
        let wildcard = first.into_udp()?;
        let device = getsockopt(&wildcard, BindToDevice).ok().and_then(|device| device.into_string().ok());
        let options = Options { dev: device.filter(|device| !device.is_empty()), ..Options::default() };
        let mut each = EachUdp::around(name, port, options, wildcard)?;
        let places = interfaces::places(None)?;
        for socket in sockets {
            let name = socket.name().to_owned();
            let socket = socket.into_udp()?;
            let local =
                socket.local_addr().map_err(|source| Error::system("cannot read the address of a socket", source))?;
            if local.port() != port.get() || local.ip().is_unspecified() {
                return Err(not_each(&name, "a socket of one address, at the wildcard's port"));
            }
            let scope = if let SocketAddr::V6(v6) = local { v6.scope_id() } else { 0 };
            let own = Place { ip: local.ip().to_canonical(), scope, interface: String::new() };
            each.insert(places.iter().find(|place| place.is(&own)).cloned().unwrap_or(own), socket)?;
        }
        each.follow()?;
        Ok(each)
    }

    /// Its name: the one of the endpoint, else `PORT/udp`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The addresses that currently have their own socket, unicast and broadcast.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.bound.iter().map(|bound| bound.place.at(self.port.get()))
    }

    /// The wildcard's socket, to join multicast groups on it.
    pub fn wildcard(&self) -> &AddressedUdp {
        &self.wildcard
    }

    /// Reads one datagram into `buffer`, or one change of addresses, without waiting.
    pub(crate) fn try_recv(&mut self, buffer: &mut [u8]) -> Result<Option<Heard>, Error> {
        loop {
            if let Some(change) = self.pending.pop() {
                return Ok(Some(Heard::Change(change)));
            }
            let Some(number) = self.ready.turn() else {
                if self.ready.begin(Some(std::time::Duration::ZERO))? {
                    continue;
                }
                return Ok(None);
            };
            if number == CHANGES {
                if self.changes.happened() {
                    self.follow()?;
                }
                continue;
            }
            let Some(socket) = self.socket(number).cloned() else { continue };
            let source = match socket.try_recv(buffer) {
                Ok((_, arrival)) if number == WILDCARD && self.has_copy(&arrival) => continue,
                Ok((length, arrival)) => return Ok(Some(Heard::Datagram(length, arrival, socket))),
                Err(error) if is_passing(&error) => match error_queue::clear(&*socket) {
                    Ok(()) => continue,
                    Err(source) => source,
                },
                Err(source) => source,
            };
            self.ready.remove(&*socket);
            self.bound.retain(|bound| bound.number != number);
            let name = format!("{} at {}", self.name, socket.local());
            return Err(ListenerError::Failed { name, source }.into());
        }
    }

    /// Whether there is something to report although nothing is readable.
    pub(crate) fn has_report(&self) -> bool {
        !self.pending.is_empty()
    }

    fn around(name: String, port: Port, options: Options, wildcard: UdpSocket) -> Result<EachUdp, Error> {
        // Before the addresses are listed for the first time, so that none is missed.
        let (changes, mut ready) = (Changes::subscribe()?, Epoll::new()?);
        let wildcard = Arc::new(AddressedUdp::new(wildcard)?);
        ready.add(&*wildcard, WILDCARD)?;
        ready.add(&changes, CHANGES)?;
        let (bound, shared, pending) = (Vec::new(), Vec::new(), Vec::new());
        Ok(EachUdp { name, port, options, helper: None, wildcard, bound, shared, ready, changes, pending })
    }

    fn socket(&self, number: u64) -> Option<&Arc<AddressedUdp>> {
        if number == WILDCARD {
            return Some(&self.wildcard);
        }
        self.bound.iter().find(|bound| bound.number == number).map(|bound| &bound.socket)
    }

    /// Whether a datagram that reached the wildcard also reached the socket of a broadcast address. (A unicast datagram
    /// goes to one socket. It came before its address had one.)
    fn has_copy(&self, arrival: &Arrival) -> bool {
        arrival.from != Some(arrival.asked) && self.bound.iter().any(|bound| bound.place.ip == arrival.asked)
    }

    fn insert(&mut self, place: Place, socket: UdpSocket) -> Result<(), Error> {
        let number = self.bound.last().map_or(CHANGES, |bound| bound.number) + 1;
        let socket = Arc::new(AddressedUdp::new(socket)?);
        self.ready.add(&*socket, number)?;
        self.bound.push(Bound { number, place, socket });
        Ok(())
    }

    /// Closes the sockets of removed addresses, and binds the new ones.
    fn follow(&mut self) -> Result<(), Error> {
        let places = interfaces::places(self.options.dev.as_deref())?;
        let is_there = |place: &Place| places.iter().any(|there| there.is(place));
        let mut changes = Vec::new();
        let (kept, gone): (Vec<Bound>, Vec<Bound>) =
            std::mem::take(&mut self.bound).into_iter().partition(|bound| is_there(&bound.place));
        self.bound = kept;
        for bound in gone {
            self.ready.remove(&*bound.socket);
            changes.push(AddressChange::Removed(bound.place.at(self.port.get())));
        }
        self.shared.retain(is_there);
        for place in &places {
            if self.bound.iter().map(|bound| &bound.place).chain(&self.shared).any(|known| known.is(place)) {
                continue;
            }
            let address = place.at(self.port.get());
            match self.bind(place).and_then(|socket| self.insert(place.clone(), socket)) {
                Ok(()) => changes.push(AddressChange::Added(address)),
                // Removed again, or an IPv6 address that is not known to be unique yet: another notification follows.
                Err(error) if is_not_there(&error) => {}
                Err(error) => {
                    self.shared.push(place.clone());
                    changes.push(AddressChange::Shared { address, error });
                }
            }
        }
        self.pending.splice(0..0, changes.into_iter().rev());
        Ok(())
    }

    /// Binds a socket for `place`, beside the wildcard.
    ///
    /// SO_REUSEPORT, not SO_REUSEADDR: while it is on, only sockets of this user can share the port (see socket(7)).
    fn bind(&self, place: &Place) -> Result<UdpSocket, Error> {
        if place.ip.is_ipv6() {
            // On any port, and without the helper, to see whether the address can be used yet (see RFC 4862, 5.4).
            bind(make(place.ip, &self.options)?, &place.at(0)).map_err(|errno| ListenerError::NotBound {
                address: place.at(self.port.get()),
                source: errno.into(),
            })?;
        }
        let socket = make(place.ip, &self.options)?;
        set_reuseport(&socket, true)?;
        set_reuseport(&*self.wildcard, true)?;
        let bound = self.bind_shared(place, &socket);
        set_reuseport(&*self.wildcard, false)?;
        bound?;
        set_reuseport(&socket, false)?;
        Ok(socket)
    }

    fn bind_shared(&self, place: &Place, socket: &UdpSocket) -> Result<(), Error> {
        let address = place.at(self.port.get());
        match bind(socket, &address) {
            Err(Errno::ACCESS) => {}
            bound => return bound.map_err(|errno| ListenerError::NotBound { address, source: errno.into() }.into()),
        }
        if place.scope != 0 {
            // The helper's endpoints have no zones. A socket that is bound to its interface needs none.
            setsockopt(socket, BindToDevice, &place.interface.clone().into())
                .map_err(|errno| ListenerError::NotBound { address, source: errno.into() })?;
        }
        let ip = match place.ip {
            IpAddr::V4(ip) => Address::V4(ip),
            IpAddr::V6(ip) => Address::V6(ip),
        };
        ask(self.helper.clone(), ip, self.port, socket)
    }
}

impl AsFd for EachUdp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

impl std::fmt::Display for AddressChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AddressChange::Added(address) => write!(f, "{address}/udp came"),
            AddressChange::Removed(address) => write!(f, "{address}/udp went"),
            AddressChange::Shared { address, error } => write!(f, "{address}/udp has no socket of its own: {error}"),
        }
    }
}

/// Requests all sockets from the helper.
fn request_all(endpoint: Endpoint, helper: Option<PathBuf>) -> Result<Sockets, Error> {
    let request = Request::new().endpoint(endpoint);
    match helper {
        Some(path) => request.helper(path).send(),
        None => request.send(),
    }
}

/// Has the helper bind `socket`.
fn ask(helper: Option<PathBuf>, address: Address, port: Port, socket: &UdpSocket) -> Result<(), Error> {
    let helper = helper.map_or_else(helper::locate, Ok)?;
    let (port, protocol, options) = (AskedPort::Number(port), Protocol::Udp, Options::default());
    helper::bind(&helper, &Endpoint { name: None, address, port, protocol, options }, socket)
}

/// Whether an error of recvmsg(2) concerns one datagram or one moment, so that the socket still works.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    const PASSING: &[Errno] = &[
        Errno::AGAIN,
        Errno::CONNREFUSED,
        Errno::HOSTUNREACH,
        Errno::NETUNREACH,
        Errno::NETDOWN,
        Errno::NOBUFS,
        Errno::NOMEM,
    ];
    error.kind() == io::ErrorKind::InvalidData || Errno::from_io_error(error).is_some_and(|no| PASSING.contains(&no))
}

/// An unbound socket with the options that a udp endpoint can have.
fn make(ip: IpAddr, options: &Options) -> Result<UdpSocket, Error> {
    let failed = |errno: Errno| ListenerError::NotBound { address: SocketAddr::new(ip, 0), source: errno.into() };
    let family = if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(ipproto::UDP)).map_err(failed)?;
    if ip.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, !ip.is_unspecified()).map_err(failed)?;
    }
    let bytes = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX);
    if let Some(size) = options.rcvbuf {
        sockopt::set_socket_recv_buffer_size(&socket, bytes(size)).map_err(failed)?;
    }
    if let Some(size) = options.sndbuf {
        sockopt::set_socket_send_buffer_size(&socket, bytes(size)).map_err(failed)?;
    }
    if let Some(tos) = options.tos {
        sockopt::set_ip_tos(&socket, tos).map_err(failed)?;
        if ip.is_ipv6() {
            sockopt::set_ipv6_tclass(&socket, tos.into()).map_err(failed)?;
        }
    }
    if let Some(device) = &options.dev {
        let set = setsockopt(&socket, BindToDevice, &device.into());
        set.map_err(|errno| failed(Errno::from_raw_os_error(errno as i32)))?;
    }
    Ok(socket.into())
}

fn set_reuseport(socket: impl AsFd, on: bool) -> Result<(), Error> {
    sockopt::set_socket_reuseport(socket, on).map_err(|errno| Error::system("cannot set SO_REUSEPORT", errno))
}
