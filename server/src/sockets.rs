//! Adopted sockets: an ordered collection, from which each is taken by its name.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use portgrant_protocol::endpoint::{EndpointError, Resolved};
use portgrant_protocol::socket::{Facts, Mismatch};
use portgrant_protocol::{Endpoint, Protocol};

use crate::error::SocketError;
use crate::{Error, Request, bind, inetd, inherited, request, variable};

/// Who bound a [`Socket`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// It was handed over: inherited, by inetd, to a mailbox
    Adopted,
    /// This process
    Bound,
    /// The helper, which this process asked
    Helper,
}

/// One descriptor, with its name.
#[derive(Debug)]
pub struct Socket {
    name: String,
    origin: Origin,
    facts: Result<Facts, Mismatch>,
    descriptor: OwnedFd,
}

impl Socket {
    pub(crate) fn new(name: String, descriptor: OwnedFd) -> Socket {
        Socket { facts: Facts::of(descriptor.as_fd()), origin: Origin::Adopted, name, descriptor }
    }

    pub(crate) fn of(self, origin: Origin) -> Socket {
        Socket { origin, ..self }
    }

    #[cfg(feature = "restart")]
    pub(crate) fn named(self, name: String) -> Socket {
        Socket { name, ..self }
    }

    /// Its name: `https`, or `443/tcp` where none was given. `unknown` if the announcer named none.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who bound it.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// What the kernel said of it when it was adopted; an error for what is no internet socket (a service manager may
    /// hand over a Unix socket as well).
    pub fn facts(&self) -> Result<&Facts, Error> {
        self.facts.as_ref().map_err(|&mismatch| SocketError::WrongKind { name: self.name.clone(), mismatch }.into())
    }

    /// The address that it is bound to; an IPv4-mapped one is shown as IPv4.
    pub fn local(&self) -> Result<SocketAddr, Error> {
        self.facts().map(|facts| facts.local)
    }

    /// As a listener, for tcp and mptcp. What is no listening socket of these is an error, and closes.
    pub fn into_tcp(self) -> Result<TcpListener, Error> {
        self.fit(Protocol::Tcp, None)?;
        Ok(TcpListener::from(self.descriptor))
    }

    /// As a udp socket. What is none is an error, and closes.
    pub fn into_udp(self) -> Result<UdpSocket, Error> {
        self.fit(Protocol::Udp, None)?;
        Ok(UdpSocket::from(self.descriptor))
    }

    /// The descriptor, whatever it is.
    pub fn into_fd(self) -> OwnedFd {
        self.descriptor
    }

    /// Whether it serves `transport`, at the address that is asked for, if one is.
    fn fit(&self, transport: Protocol, asked: Option<&Resolved>) -> Result<(), Error> {
        let facts = self.facts()?;
        if facts.protocol.transport() != transport {
            let mismatch = Mismatch::Protocol { found: facts.protocol, expected: transport };
            return Err(SocketError::WrongKind { name: self.name.clone(), mismatch }.into());
        }
        if let Some(asked) = asked {
            let mut asked = asked.clone();
            if asked.endpoint.protocol.transport() == transport {
                // An address is what was asked for here; tcp may be mptcp.
                asked.endpoint.protocol = facts.protocol;
            }
            facts.fit(&asked).map_err(|mismatch| SocketError::mismatch(&self.name, &asked, mismatch))?;
        }
        if facts.protocol.is_stream() && !facts.listening {
            return Err(SocketError::NotListening { name: self.name.clone() }.into());
        }
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Adopted sockets in the order in which they came. Those that are not taken close when this is dropped.
#[derive(Debug, Default)]
pub struct Sockets {
    sockets: Vec<Socket>,
    taken: Vec<String>,
}

impl Sockets {
    /// Adopts what this process was started with: `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES` (sd_listen_fds(3)).
    /// `None` where nothing is announced.
    ///
    /// Call it early in `main`, and once: the descriptors are owned from then on, and a second call is
    /// [`AdoptedBefore`](crate::error::AdoptionError::AdoptedBefore). They are made close-on-exec, so that the server's
    /// children do not hold its ports. A number that is announced but was not inherited is
    /// [`Missing`](crate::error::AdoptionError::Missing); no other number is ever touched. `LISTEN_PIDFDID` of another
    /// process than this one voids the announcement (sd_pidfd_get_inode_id(3)). What is no internet socket is kept too,
    /// for [`Sockets::fd`].
    ///
    /// ```
    /// # use portgrant_server::Sockets;
    /// if let Some(sockets) = Sockets::inherited()? {
    ///     for socket in &sockets {
    ///         println!("{} at {}", socket.name(), socket.local()?);
    ///     }
    /// }
    /// # Ok::<(), portgrant_server::Error>(())
    /// ```
    pub fn inherited() -> Result<Option<Sockets>, Error> {
        inherited::adopt()
    }

    /// Adopts the descriptors whose numbers stand in the environment variable `variable`, as some servers have it:
    /// `UNICORN_FD=3`, `GUNICORN_FD=3,4`, `NGINX=3;4;`. `None` where it is not set.
    ///
    /// Each is named `PORT/PROTOCOL`, or `descriptor N` where it is no internet socket. A number that was not inherited
    /// is [`NotInherited`](crate::error::AdoptionError::NotInherited), one that was adopted before, by whichever
    /// convention, [`NumberTaken`](crate::error::AdoptionError::NumberTaken); then none is taken.
    ///
    /// ```
    /// # use portgrant_server::Sockets;
    /// let sockets = match Sockets::inherited()? {
    ///     Some(sockets) => Some(sockets),
    ///     None => Sockets::from_variable("UNICORN_FD")?,
    /// };
    /// # let _ = sockets;
    /// # Ok::<(), portgrant_server::Error>(())
    /// ```
    pub fn from_variable(variable: &str) -> Result<Option<Sockets>, Error> {
        variable::adopt(variable)
    }

    /// Adopts descriptor 0 as inetd's `wait` services and `portgrant exec --inetd` give it: a listening or a datagram
    /// socket. It is named `PORT/PROTOCOL`.
    ///
    /// Descriptor 0 becomes /dev/null, and so do 1 and 2 where they are the same socket.
    pub fn inetd() -> Result<Sockets, Error> {
        inetd::adopt()
    }

    /// Asks the helper for `endpoints`, all or none: [`Request`] with its defaults.
    ///
    /// ```no_run
    /// # use portgrant_server::Sockets;
    /// let mut sockets = Sockets::request(["nntp", "nntps=[::]:563"])?;
    /// let nntp = sockets.tcp("119/tcp")?;
    /// # Ok::<(), portgrant_server::Error>(())
    /// ```
    pub fn request<I>(endpoints: I) -> Result<Sockets, Error>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let request = endpoints.into_iter().try_fold(Request::new(), |request, text| request.listen(text.as_ref()))?;
        request.send()
    }

    /// Takes the tcp (or mptcp) listener that bears `name`. It blocks, or not, as whoever made it left it.
    pub fn tcp(&mut self, name: &str) -> Result<TcpListener, Error> {
        self.take(name, Protocol::Tcp, None).map(TcpListener::from)
    }

    /// Takes the tcp listener that bears `name` and is bound to `address`, an endpoint such as `[::]:443`,
    /// `127.0.0.1:25` or `443`: another address is [`SocketError::WrongAddress`]. Where several bear the name, the one
    /// at `address`.
    pub fn tcp_at(&mut self, name: &str, address: &str) -> Result<TcpListener, Error> {
        let asked = resolve(address, Protocol::Tcp)?;
        self.take(name, Protocol::Tcp, Some(&asked)).map(TcpListener::from)
    }

    /// Takes the udp socket that bears `name`. It blocks, or not, as whoever made it left it.
    pub fn udp(&mut self, name: &str) -> Result<UdpSocket, Error> {
        self.take(name, Protocol::Udp, None).map(UdpSocket::from)
    }

    /// Takes the udp socket that bears `name` and is bound to `address`, as [`Sockets::tcp_at`] does.
    pub fn udp_at(&mut self, name: &str, address: &str) -> Result<UdpSocket, Error> {
        let asked = resolve(address, Protocol::Udp)?;
        self.take(name, Protocol::Udp, Some(&asked)).map(UdpSocket::from)
    }

    /// Takes the descriptor that bears `name`, whatever it is: sctp, or what a service manager added.
    pub fn fd(&mut self, name: &str) -> Result<OwnedFd, Error> {
        let index = self.find(name, None)?;
        Ok(self.remove(index))
    }

    /// The names of those that are still here, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sockets.iter().map(Socket::name)
    }

    /// Those that are still here, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Socket> {
        self.sockets.iter()
    }

    /// How many are still here.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Whether none is here any more.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// The names and the descriptors of those that are still here, in order.
    pub fn into_fds(self) -> (Vec<String>, Vec<OwnedFd>) {
        self.sockets.into_iter().map(|socket| (socket.name, socket.descriptor)).unzip()
    }

    /// Checks before it takes: after an error the socket is still here.
    fn take(&mut self, name: &str, transport: Protocol, asked: Option<&Resolved>) -> Result<OwnedFd, Error> {
        let index = self.find(name, asked)?;
        if let Some(socket) = self.sockets.get(index) {
            socket.fit(transport, asked)?;
        }
        Ok(self.remove(index))
    }

    fn find(&self, name: &str, asked: Option<&Resolved>) -> Result<usize, SocketError> {
        let named: Vec<usize> = (0..).zip(&self.sockets).filter(|(_, s)| s.name == name).map(|(at, _)| at).collect();
        match (named.as_slice(), asked) {
            ([], _) if self.taken.iter().any(|taken| taken == name) => {
                Err(SocketError::Taken { name: name.to_owned() })
            }
            ([], _) => Err(SocketError::UnknownName {
                name: name.to_owned(),
                known: self.names().chain(self.taken.iter().map(String::as_str)).map(str::to_owned).collect(),
            }),
            ([only], _) => Ok(*only),
            ([first, ..], Some(asked)) => {
                let transport = asked.endpoint.protocol.transport();
                let fits = |at: &usize| self.sockets.get(*at).is_some_and(|s| s.fit(transport, Some(asked)).is_ok());
                Ok(named.iter().copied().find(fits).unwrap_or(*first))
            }
            (_, None) => Err(SocketError::NameTwice { name: name.to_owned() }),
        }
    }

    /// Takes the socket that is what is asked for, with the options that are asked for: one of that name if there is,
    /// else one at that address. One of that name that is something else is an error, and none at all is `None`.
    pub(crate) fn take_asked(&mut self, asked: &Resolved) -> Result<Option<Socket>, Error> {
        if let Some(socket) = self.take_fitting(asked)? {
            return Ok(Some(socket));
        }
        let (name, transport) = (asked.name(), asked.endpoint.protocol.transport());
        match self.sockets.iter().find(|socket| socket.name == name) {
            Some(other) => other.fit(transport, Some(asked)).map(|()| None),
            None => Ok(None),
        }
    }

    /// The same, whatever else bears that name.
    pub(crate) fn take_fitting(&mut self, asked: &Resolved) -> Result<Option<Socket>, Error> {
        let (name, transport) = (asked.name(), asked.endpoint.protocol.transport());
        let fits = |socket: &Socket| socket.fit(transport, Some(asked)).is_ok();
        let index = self.sockets.iter().position(|socket| socket.name == name && fits(socket));
        let Some(index) = index.or_else(|| self.sockets.iter().position(fits)) else { return Ok(None) };
        if let Some(socket) = self.sockets.get(index) {
            bind::adjust(socket, &asked.endpoint.options)?;
        }
        let socket = self.sockets.remove(index);
        self.taken.push(socket.name.clone());
        Ok(Some(socket))
    }

    /// Undoes [`Sockets::take_asked`].
    pub(crate) fn put_back(&mut self, sockets: Vec<Socket>) {
        for socket in sockets {
            self.taken.retain(|taken| *taken != socket.name);
            self.sockets.push(socket);
        }
    }

    fn remove(&mut self, index: usize) -> OwnedFd {
        let socket = self.sockets.remove(index);
        self.taken.push(socket.name);
        socket.descriptor
    }
}

/// `address` as an endpoint, of `transport` where it names no other.
pub(crate) fn resolve(address: &str, transport: Protocol) -> Result<Resolved, Error> {
    let wrong = |source: EndpointError| Error::Endpoint { text: address.to_owned(), source };
    let mut endpoint: Endpoint = address.parse().map_err(wrong)?;
    if endpoint.protocol == Protocol::default() {
        endpoint.protocol = transport;
    }
    let services = request::services(std::slice::from_ref(&endpoint));
    request::resolve(endpoint, &services)
}

impl FromIterator<Socket> for Sockets {
    fn from_iter<I: IntoIterator<Item = Socket>>(sockets: I) -> Sockets {
        Sockets { sockets: sockets.into_iter().collect(), taken: Vec::new() }
    }
}

impl Extend<Socket> for Sockets {
    fn extend<I: IntoIterator<Item = Socket>>(&mut self, sockets: I) {
        self.sockets.extend(sockets);
    }
}

impl IntoIterator for Sockets {
    type Item = Socket;
    type IntoIter = std::vec::IntoIter<Socket>;

    fn into_iter(self) -> Self::IntoIter {
        self.sockets.into_iter()
    }
}

impl<'a> IntoIterator for &'a Sockets {
    type Item = &'a Socket;
    type IntoIter = std::slice::Iter<'a, Socket>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketType, socket};

    use super::*;

    fn tcp(name: &str, address: &str) -> Socket {
        Socket::new(name.to_owned(), TcpListener::bind(address).expect(address).into())
    }

    fn udp(name: &str) -> Socket {
        Socket::new(name.to_owned(), UdpSocket::bind("127.0.0.1:0").expect("a socket").into())
    }

    fn port(socket: &Socket) -> u16 {
        socket.local().expect("bound").port()
    }

    #[test]
    fn each_socket_is_taken_once_by_its_name_and_as_what_it_is() {
        let mut sockets = Sockets::from_iter([tcp("web", "127.0.0.1:0"), udp("dns")]);
        assert!(matches!(sockets.udp("web"), Err(Error::Socket(SocketError::WrongKind { .. }))));
        assert!(matches!(sockets.tcp("dns"), Err(Error::Socket(SocketError::WrongKind { .. }))));
        assert!(sockets.tcp("web").is_ok(), "a failed attempt takes nothing");
        assert!(matches!(sockets.tcp("web"), Err(Error::Socket(SocketError::Taken { .. }))));
        assert_eq!(sockets.names().collect::<Vec<_>>(), ["dns"]);
        let unknown = sockets.tcp("http").expect_err("unknown");
        assert!(unknown.to_string().contains("there are 'dns', 'web'"), "{unknown}");
        let (names, descriptors) = sockets.into_fds();
        assert_eq!((names, descriptors.len()), (vec!["dns".to_owned()], 1));
    }

    #[test]
    fn an_address_that_is_not_the_sockets_is_its_own_error() {
        let web = tcp("web", "127.0.0.1:0");
        let port = port(&web);
        let mut sockets = Sockets::from_iter([web]);
        for elsewhere in ["[::1]:", "", "0.0.0.0:", "127.0.0.2:"] {
            let error = sockets.tcp_at("web", &format!("{elsewhere}{port}")).expect_err(elsewhere);
            assert!(
                matches!(&error, Error::Socket(SocketError::WrongAddress { found, .. }) if found.port() == port),
                "{error}"
            );
            assert!(error.to_string().contains(&format!("it is bound to 127.0.0.1:{port}")), "{error}");
        }
        let other_kind = sockets.tcp_at("web", &format!("127.0.0.1:{port}/udp"));
        assert!(
            matches!(other_kind, Err(Error::Socket(SocketError::WrongKind { .. }))),
            "who asks for udp at a listener is told so"
        );
        assert!(matches!(sockets.tcp_at("web", "nowhere at all"), Err(Error::Endpoint { .. })));
        assert!(sockets.tcp_at("web", &format!("127.0.0.1:{port}")).is_ok());

        let mut sockets = Sockets::from_iter([udp("dns")]);
        let port = sockets.iter().map(self::port).next().expect("one");
        assert!(matches!(sockets.udp_at("dns", "127.0.0.1:1"), Err(Error::Socket(SocketError::WrongAddress { .. }))));
        assert!(sockets.udp_at("dns", &format!("127.0.0.1:{port}")).is_ok(), "udp need not be written out");
    }

    #[test]
    fn a_name_that_several_bear_is_told_apart_by_the_address_alone() {
        let (first, second) = (tcp("web", "127.0.0.1:0"), tcp("web", "127.0.0.2:0"));
        let at = format!("127.0.0.2:{}", port(&second));
        let mut sockets = Sockets::from_iter([first, second]);
        assert!(matches!(sockets.tcp("web"), Err(Error::Socket(SocketError::NameTwice { .. }))));
        assert!(matches!(sockets.tcp_at("web", "127.0.0.3:1"), Err(Error::Socket(SocketError::WrongAddress { .. }))));
        assert_eq!(sockets.tcp_at("web", &at).expect("the second").local_addr().expect("bound").to_string(), at);
        assert!(sockets.tcp("web").is_ok(), "one is left, so the name is enough");
    }

    #[test]
    fn a_socket_nobody_listens_on_is_its_own_error_and_so_is_no_socket() {
        let unlistened = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        let file = std::fs::File::open("/dev/null").expect("/dev/null");
        let mut sockets =
            Sockets::from_iter([Socket::new("web".into(), unlistened), Socket::new("log".into(), file.into())]);
        assert!(matches!(sockets.tcp("web"), Err(Error::Socket(SocketError::NotListening { .. }))));
        let error = sockets.tcp("log").expect_err("a file");
        assert!(matches!(error, Error::Socket(SocketError::WrongKind { mismatch: Mismatch::NotASocket, .. })));
        assert!(sockets.fd("log").is_ok(), "but it is there for who knows what it is");
    }
}
