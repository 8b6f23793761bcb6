//! Adopted sockets: an ordered collection from which sockets are taken by name.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use portgrant_protocol::Protocol;
use portgrant_protocol::endpoint::Resolved;

use super::error::SocketError;
use super::socket::Socket;
use crate::failure::Error;
use crate::resolved;

/// Adopted sockets, in the order in which they were passed. The sockets that are not taken are closed with it.
#[derive(Debug, Default)]
pub struct Sockets {
    sockets: Vec<Socket>,
    taken: Vec<String>,
}

impl Sockets {
    /// Takes the tcp (or mptcp) listener `name`. Whether it blocks is unchanged.
    pub fn tcp(&mut self, name: &str) -> Result<TcpListener, Error> {
        self.take(name, Protocol::Tcp, None).map(TcpListener::from)
    }

    /// Takes the tcp listener `name` that is bound to `address`, an endpoint such as `[::]:443`, `127.0.0.1:25` or
    /// `443`. Another address is [`SocketError::WrongAddress`]. If several sockets have the name, the one at `address`
    /// is taken.
    pub fn tcp_at(&mut self, name: &str, address: &str) -> Result<TcpListener, Error> {
        let asked = resolved::of_text(address, Protocol::Tcp)?;
        self.take(name, Protocol::Tcp, Some(&asked)).map(TcpListener::from)
    }

    /// Takes the udp socket `name`. Whether it blocks is unchanged.
    pub fn udp(&mut self, name: &str) -> Result<UdpSocket, Error> {
        self.take(name, Protocol::Udp, None).map(UdpSocket::from)
    }

    /// Takes the udp socket `name` that is bound to `address`, like [`Sockets::tcp_at`].
    pub fn udp_at(&mut self, name: &str, address: &str) -> Result<UdpSocket, Error> {
        let asked = resolved::of_text(address, Protocol::Udp)?;
        self.take(name, Protocol::Udp, Some(&asked)).map(UdpSocket::from)
    }

    /// Takes the descriptor `name`, of whatever kind: sctp, or something that a service manager added.
    pub fn fd(&mut self, name: &str) -> Result<OwnedFd, Error> {
        let index = self.find(name, None)?;
        Ok(self.remove(index))
    }

    /// The names of the remaining sockets, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sockets.iter().map(Socket::name)
    }

    /// The remaining sockets, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Socket> {
        self.sockets.iter()
    }

    /// The number of remaining sockets.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Whether no socket remains.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// The names and descriptors of the remaining sockets, in order.
    pub fn into_fds(self) -> (Vec<String>, Vec<OwnedFd>) {
        self.sockets.into_iter().map(Socket::into_parts).unzip()
    }

    /// Checks before it takes: after an error the socket remains.
    fn take(&mut self, name: &str, transport: Protocol, asked: Option<&Resolved>) -> Result<OwnedFd, Error> {
        let index = self.find(name, asked)?;
        if let Some(socket) = self.sockets.get(index) {
            socket.fit(transport, asked)?;
        }
        Ok(self.remove(index))
    }

    fn find(&self, name: &str, asked: Option<&Resolved>) -> Result<usize, SocketError> {
        let named: Vec<usize> = (0..).zip(&self.sockets).filter(|(_, s)| s.name() == name).map(|(at, _)| at).collect();
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

    /// Takes the requested socket and prepares it: the one of that name, else one at that address. A socket of that
    /// name that does not match is an error; no socket at all is `None`. The socket remains if `prepare` fails.
    pub(crate) fn take_asked(
        &mut self,
        asked: &Resolved,
        prepare: impl FnOnce(&Socket) -> Result<(), Error>,
    ) -> Result<Option<Socket>, Error> {
        if let Some(socket) = self.take_fitting(asked, prepare)? {
            return Ok(Some(socket));
        }
        let (name, transport) = (asked.name(), asked.endpoint.protocol.transport());
        match self.sockets.iter().find(|socket| socket.name() == name) {
            Some(other) => other.fit(transport, Some(asked)).map(|()| None),
            None => Ok(None),
        }
    }

    /// The same, but another socket of that name is not an error.
    pub(crate) fn take_fitting(
        &mut self,
        asked: &Resolved,
        prepare: impl FnOnce(&Socket) -> Result<(), Error>,
    ) -> Result<Option<Socket>, Error> {
        let (name, transport) = (asked.name(), asked.endpoint.protocol.transport());
        let fits = |socket: &Socket| socket.fit(transport, Some(asked)).is_ok();
        let index = self.sockets.iter().position(|socket| socket.name() == name && fits(socket));
        let Some(index) = index.or_else(|| self.sockets.iter().position(fits)) else { return Ok(None) };
        if let Some(socket) = self.sockets.get(index) {
            prepare(socket)?;
        }
        let socket = self.sockets.remove(index);
        self.taken.push(socket.name().to_owned());
        Ok(Some(socket))
    }

    /// Undoes [`Sockets::take_asked`].
    pub(crate) fn put_back(&mut self, sockets: Vec<Socket>) {
        for socket in sockets {
            self.taken.retain(|taken| taken != socket.name());
            self.sockets.push(socket);
        }
    }

    fn remove(&mut self, index: usize) -> OwnedFd {
        let (name, descriptor) = self.sockets.remove(index).into_parts();
        self.taken.push(name);
        descriptor
    }
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
    use portgrant_protocol::socket_info::Mismatch;
    use rustix::net::{AddressFamily, SocketType, socket};

    use super::*;
    use crate::resolved::InvalidEndpoint;

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
    fn each_socket_is_taken_once_by_name_and_type() {
        let mut sockets = Sockets::from_iter([tcp("web", "127.0.0.1:0"), udp("dns")]);
        assert!(matches!(
            sockets.udp("web").as_ref().map_err(Error::downcast_ref),
            Err(Some(SocketError::WrongKind { .. }))
        ));
        assert!(matches!(
            sockets.tcp("dns").as_ref().map_err(Error::downcast_ref),
            Err(Some(SocketError::WrongKind { .. }))
        ));
        assert!(sockets.tcp("web").is_ok(), "a failed attempt takes nothing");
        assert!(matches!(
            sockets.tcp("web").as_ref().map_err(Error::downcast_ref),
            Err(Some(SocketError::Taken { .. }))
        ));
        assert_eq!(sockets.names().collect::<Vec<_>>(), ["dns"]);
        let unknown = sockets.tcp("http").expect_err("unknown");
        assert!(unknown.to_string().contains("there are 'dns', 'web'"), "{unknown}");
        let (names, descriptors) = sockets.into_fds();
        assert_eq!((names, descriptors.len()), (vec!["dns".to_owned()], 1));
    }

    #[test]
    fn a_wrong_address_is_a_separate_error() {
        let web = tcp("web", "127.0.0.1:0");
        let port = port(&web);
        let mut sockets = Sockets::from_iter([web]);
        for elsewhere in ["[::1]:", "", "0.0.0.0:", "127.0.0.2:"] {
            let error = sockets.tcp_at("web", &format!("{elsewhere}{port}")).expect_err(elsewhere);
            assert!(
                matches!(error.downcast_ref(), Some(SocketError::WrongAddress { found, .. }) if found.port() == port),
                "{error}"
            );
            assert!(error.to_string().contains(&format!("it is bound to 127.0.0.1:{port}")), "{error}");
        }
        let other_kind = sockets.tcp_at("web", &format!("127.0.0.1:{port}/udp"));
        assert!(
            matches!(other_kind.as_ref().map_err(Error::downcast_ref), Err(Some(SocketError::WrongKind { .. }))),
            "a request for udp at a listener is an error"
        );
        let error = sockets.tcp_at("web", "nowhere at all").expect_err("not an endpoint");
        assert!(error.downcast_ref::<InvalidEndpoint>().is_some(), "{error}");
        assert!(sockets.tcp_at("web", &format!("127.0.0.1:{port}")).is_ok());

        let mut sockets = Sockets::from_iter([udp("dns")]);
        let port = sockets.iter().map(self::port).next().expect("one");
        assert!(matches!(
            sockets.udp_at("dns", "127.0.0.1:1").as_ref().map_err(Error::downcast_ref),
            Err(Some(SocketError::WrongAddress { .. }))
        ));
        assert!(sockets.udp_at("dns", &format!("127.0.0.1:{port}")).is_ok(), "udp need not be written out");
    }

    #[test]
    fn sockets_with_the_same_name_are_distinguished_by_address() {
        let (first, second) = (tcp("web", "127.0.0.1:0"), tcp("web", "127.0.0.2:0"));
        let at = format!("127.0.0.2:{}", port(&second));
        let mut sockets = Sockets::from_iter([first, second]);
        assert!(matches!(
            sockets.tcp("web").as_ref().map_err(Error::downcast_ref),
            Err(Some(SocketError::NameTwice { .. }))
        ));
        assert!(matches!(
            sockets.tcp_at("web", "127.0.0.3:1").as_ref().map_err(Error::downcast_ref),
            Err(Some(SocketError::WrongAddress { .. }))
        ));
        assert_eq!(sockets.tcp_at("web", &at).expect("the second").local_addr().expect("bound").to_string(), at);
        assert!(sockets.tcp("web").is_ok(), "one is left, so the name is enough");
    }

    #[test]
    fn an_unlistening_socket_and_a_missing_one_are_different_errors() {
        let unlistened = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        let file = std::fs::File::open("/dev/null").expect("/dev/null");
        let mut sockets =
            Sockets::from_iter([Socket::new("web".into(), unlistened), Socket::new("log".into(), file.into())]);
        assert!(matches!(
            sockets.tcp("web").as_ref().map_err(Error::downcast_ref),
            Err(Some(SocketError::NotListening { .. }))
        ));
        let error = sockets.tcp("log").expect_err("a file");
        assert!(matches!(error.downcast_ref(), Some(SocketError::WrongKind { mismatch: Mismatch::NotASocket, .. })));
        assert!(sockets.fd("log").is_ok(), "but it is there for who knows what it is");
    }
}
