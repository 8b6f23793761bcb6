//! A udp socket for each address of the host, and for those that come later.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;

use nix::sys::socket::{getsockopt, setsockopt, sockopt::BindToDevice};
use portgrant_protocol::endpoint::{Address, Endpoint, Options, Port};
use portgrant_protocol::{Kind, Protocol};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};

use super::addressed::{AddressedUdp, Arrival};
use super::epoll::Epoll;
use super::error::ListenerError;
use super::interfaces::{self, Changes, Place};
use crate::adopting::{Refused, Socket, Sockets};
use crate::binding::{Request, helper};
use crate::failure::Error;
use crate::{error_queue, resolved};

/// The wildcard's number, and that of word about interfaces; the addresses have those above.
const WILDCARD: u64 = 0;
const CHANGES: u64 = 1;

/// One udp socket for every unicast and every broadcast address of this host, and one for the wildcard. Addresses and
/// interfaces that come and go are followed. It is served by [`Listeners`](crate::Listeners):
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
/// * **No datagram is told twice.** The kernel gives a broadcast to the socket of its address and to the wildcard's as
///   well; the copy is dropped.
/// * **None is missed.** What reaches an address before it has its socket is the wildcard's, which answers from the
///   right address too (it is an [`AddressedUdp`]). So does the wildcard of an address that cannot have one
///   ([`AddressChange::Shared`]), of 255.255.255.255, and of the multicast groups that it is made to join.
/// * **Nobody else gets in between.** To bind an address beside the wildcard, both have SO_REUSEPORT for the moment of
///   that bind(2), which only sockets of the same user can share.
///
/// [`AddressedUdp`] alone is the simpler way, and says which to use when.
#[derive(Debug)]
pub struct EachUdp {
    name: String,
    port: u16,
    options: Options,
    helper: Option<PathBuf>,
    wildcard: Arc<AddressedUdp>,
    bound: Vec<Bound>,
    /// Addresses that could not be bound: they are not tried again before they went and came.
    shared: Vec<Place>,
    ready: Epoll,
    changes: Changes,
    /// What happened to addresses and was not told yet, the latest first
    untold: Vec<AddressChange>,
}

#[derive(Debug)]
struct Bound {
    number: u64,
    place: Place,
    socket: Arc<AddressedUdp>,
}

/// What became of an address of this host.
#[derive(Debug)]
#[non_exhaustive]
pub enum AddressChange {
    /// It came, and has a socket of its own
    Added(SocketAddr),
    /// It went, and its socket is closed
    Removed(SocketAddr),
    /// It came and can have no socket of its own: the wildcard's serves it
    Shared {
        /// The address
        address: SocketAddr,
        /// Why it has none
        error: Error,
    },
}

/// Whether an address could not be bound because no interface has it.
fn is_not_there(error: &Error) -> bool {
    matches!(error.downcast_ref(), Some(ListenerError::NotBound { source, .. })
        if source.kind() == io::ErrorKind::AddrNotAvailable)
}

/// Something that there was to read.
pub(crate) enum Heard {
    Datagram(usize, Arrival, Arc<AddressedUdp>),
    Change(AddressChange),
}

impl EachUdp {
    /// Binds `endpoint`, `[NAME=]each:PORT/udp`, all of it or nothing: by itself, or where that takes privilege, by the
    /// helper, whose policy must permit the wildcard. Of the options, `dev` limits it to one interface; `reuseport` and
    /// `freebind` are not for it.
    pub fn listen(endpoint: &str) -> Result<EachUdp, Error> {
        EachUdp::listen_with(endpoint, None)
    }

    /// The same, with the helper at a path of its own instead of the one that [`helper::locate`] finds.
    pub fn listen_with(endpoint: &str, helper: Option<PathBuf>) -> Result<EachUdp, Error> {
        let asked = resolved::of(resolved::parse(endpoint)?)?;
        let (name, options) = (asked.name(), asked.endpoint.options.clone());
        if asked.endpoint.address != Address::Each || options.reuseport || options.freebind {
            let expected = "each:PORT/udp without reuseport and freebind";
            return Err(ListenerError::NotEach { name: endpoint.to_owned(), expected }.into());
        }
        let wildcard = make(Ipv6Addr::UNSPECIFIED.into(), &options)?;
        let address = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), asked.port);
        match bind(&wildcard, &address) {
            Err(Errno::ACCESS) => match whole_set(asked.endpoint, helper.clone()) {
                Ok(sockets) => {
                    let each = EachUdp::adopt(sockets)?;
                    return Ok(EachUdp { options, helper, ..each });
                }
                // The helper binds all or none, and one address may not be proved to be unique yet: one by one, then.
                // What is in use is in use that way too.
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
        each.untold.drain(..).try_for_each(|change| match change {
            AddressChange::Shared { error, .. } => Err(error),
            AddressChange::Added(_) | AddressChange::Removed(_) => Ok(()),
        })?;
        Ok(each)
    }

    /// Takes up what `portgrant exec -l each:PORT/udp` or a [`Request`] for it gave: the wildcard's socket first, then
    /// those of addresses, all of one port. What has changed since they were bound is caught up with.
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
        let (name, port) = (first.name().to_owned(), first.local()?.port());
        if !first.local()?.ip().is_unspecified() {
            return Err(not_each(&name, "the wildcard's socket first"));
        }
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
            if local.port() != port || local.ip().is_unspecified() {
                return Err(not_each(&name, "a socket of one address, at the wildcard's port"));
            }
            let scope = if let SocketAddr::V6(v6) = local { v6.scope_id() } else { 0 };
            let own = Place { ip: local.ip().to_canonical(), scope, interface: String::new() };
            each.insert(places.iter().find(|place| place.is(&own)).cloned().unwrap_or(own), socket)?;
        }
        each.follow()?;
        Ok(each)
    }

    /// Its name: that of the endpoint, else `PORT/udp`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The addresses that have a socket of their own at the moment, unicast and broadcast.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.bound.iter().map(|bound| bound.place.at(self.port))
    }

    /// The wildcard's socket, to join multicast groups on.
    pub fn wildcard(&self) -> &AddressedUdp {
        &self.wildcard
    }

    /// Reads one datagram into `buffer`, or one change of addresses, without waiting for it.
    pub(crate) fn try_recv(&mut self, buffer: &mut [u8]) -> Result<Option<Heard>, Error> {
        loop {
            if let Some(change) = self.untold.pop() {
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
                Err(error) if is_passing(&error) => match error_queue::settle(&*socket) {
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

    /// Whether there is something to tell although nothing is readable.
    pub(crate) fn has_word(&self) -> bool {
        !self.untold.is_empty()
    }

    fn around(name: String, port: u16, options: Options, wildcard: UdpSocket) -> Result<EachUdp, Error> {
        // Before the addresses are listed for the first time: none can slip in between.
        let (changes, mut ready) = (Changes::subscribe()?, Epoll::new()?);
        let wildcard = Arc::new(AddressedUdp::new(wildcard)?);
        ready.add(&*wildcard, WILDCARD)?;
        ready.add(&changes, CHANGES)?;
        let (bound, shared, untold) = (Vec::new(), Vec::new(), Vec::new());
        Ok(EachUdp { name, port, options, helper: None, wildcard, bound, shared, ready, changes, untold })
    }

    fn socket(&self, number: u64) -> Option<&Arc<AddressedUdp>> {
        if number == WILDCARD {
            return Some(&self.wildcard);
        }
        self.bound.iter().find(|bound| bound.number == number).map(|bound| &bound.socket)
    }

    /// Whether what came to the wildcard came to a broadcast address's own socket too. (A unicast datagram goes to one
    /// socket: here it came before its address had one.)
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

    /// Closes the sockets of addresses that are gone, and binds those that are new.
    fn follow(&mut self) -> Result<(), Error> {
        let places = interfaces::places(self.options.dev.as_deref())?;
        let is_there = |place: &Place| places.iter().any(|there| there.is(place));
        let mut told = Vec::new();
        let (kept, gone): (Vec<Bound>, Vec<Bound>) =
            std::mem::take(&mut self.bound).into_iter().partition(|bound| is_there(&bound.place));
        self.bound = kept;
        for bound in gone {
            self.ready.remove(&*bound.socket);
            told.push(AddressChange::Removed(bound.place.at(self.port)));
        }
        self.shared.retain(is_there);
        for place in &places {
            if self.bound.iter().map(|bound| &bound.place).chain(&self.shared).any(|known| known.is(place)) {
                continue;
            }
            let address = place.at(self.port);
            match self.bind(place).and_then(|socket| self.insert(place.clone(), socket)) {
                Ok(()) => told.push(AddressChange::Added(address)),
                // Gone again, or an IPv6 address that is not proved to be unique yet: there will be word of it.
                Err(error) if is_not_there(&error) => {}
                Err(error) => {
                    self.shared.push(place.clone());
                    told.push(AddressChange::Shared { address, error });
                }
            }
        }
        self.untold.splice(0..0, told.into_iter().rev());
        Ok(())
    }

    /// A socket for `place`, beside the wildcard's.
    ///
    /// SO_REUSEPORT, not SO_REUSEADDR: while it is on, it lets in sockets of this user alone (see socket(7)).
    fn bind(&self, place: &Place) -> Result<UdpSocket, Error> {
        if place.ip.is_ipv6() {
            // On any port, and without the helper: whether the address may be used yet (see RFC 4862, 5.4).
            bind(make(place.ip, &self.options)?, &place.at(0))
                .map_err(|errno| ListenerError::NotBound { address: place.at(self.port), source: errno.into() })?;
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
        let address = place.at(self.port);
        match bind(socket, &address) {
            Err(Errno::ACCESS) => {}
            bound => return bound.map_err(|errno| ListenerError::NotBound { address, source: errno.into() }.into()),
        }
        if place.scope != 0 {
            // The helper's endpoints have no zones; of a socket that has its interface the address needs none.
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

/// Asks the helper for the whole set.
fn whole_set(endpoint: Endpoint, helper: Option<PathBuf>) -> Result<Sockets, Error> {
    let request = Request::new().endpoint(endpoint);
    match helper {
        Some(path) => request.helper(path).send(),
        None => request.send(),
    }
}

/// Asks the helper to bind `socket`.
fn ask(helper: Option<PathBuf>, address: Address, port: u16, socket: &UdpSocket) -> Result<(), Error> {
    let helper = helper.map_or_else(helper::locate, Ok)?;
    let (port, protocol, options) = (Port::Number(port), Protocol::Udp, Options::default());
    helper::bind(&helper, &Endpoint { name: None, address, port, protocol, options }, socket)
}

/// Whether an error of recvmsg(2) is one datagram's or one moment's, and the socket goes on.
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
