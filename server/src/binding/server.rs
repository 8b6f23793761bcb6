//! One call for a socket, which is adopted, bound by this process, or requested from the helper.

use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use portgrant_protocol::{Address, Protocol, Resolved};

use super::bind;
use super::error::{BindError, RequestError};
use super::request::Request;
use crate::adopting::{Origin, Socket, Sockets};
use crate::failure::Error;
use crate::resolved;

/// Provides the sockets of a server. For each endpoint it tries, in this order,
///
/// 1. the inherited socket with the endpoint's name or at its address (`portgrant exec`, a systemd socket unit);
/// 2. bind(2) by this process, which works from `ip_unprivileged_port_start` on, or with any other permission;
/// 3. the helper, which checks the policy (see [`helper`](crate::helper)).
///
/// The socket is the same in each case: its name, protocol, address, port and options are those of the endpoint.
/// [`Socket::origin`] returns who bound it.
///
/// ```no_run
/// use portgrant_server::Server;
///
/// let mut server = Server::new()?;
/// let https: std::net::TcpListener = server.tcp("https=443,backlog=1024,keepalive=60:10:6")?;
/// let dns: std::net::UdpSocket = server.udp("dns=53")?;
/// let socket = server.listen("127.0.0.1:8080")?;
/// println!("{} at {}, {:?}", socket.name(), socket.local()?, socket.origin());
/// # Ok::<(), portgrant_server::Error>(())
/// ```
///
/// An inherited socket with the endpoint's name but at another address is an error, since the program was probably
/// started with the wrong address. (To use it anyway, take it from [`Sockets`] by its name alone.) An option that must
/// be set before bind(2) and is not set, `reuseport` or another `dev`, is
/// [`SocketError::OptionTooLate`](crate::error::SocketError::OptionTooLate). `freebind` has no effect on an inherited
/// socket.
#[derive(Debug, Default)]
pub struct Server {
    inherited: Sockets,
    helper: Option<PathBuf>,
}

impl Server {
    /// Adopts the sockets that this process was started with, if there are any. Call it once, like
    /// [`Sockets::inherited`].
    pub fn new() -> Result<Server, Error> {
        Ok(Server::from(Sockets::inherited()?.unwrap_or_default()))
    }

    /// Uses the helper at `path` instead of the one that [`helper::locate`](crate::helper::locate) finds.
    pub fn helper(self, path: impl Into<PathBuf>) -> Server {
        Server { helper: Some(path.into()), ..self }
    }

    /// Returns the socket for `endpoint`, given as text (see [`endpoint`](crate::endpoint)). It is bound, and listens
    /// if it is a stream socket.
    ///
    /// # Errors
    /// Those of [`Bind::socket`](crate::Bind::socket) and of [`Request::send`]. For an inherited socket,
    /// `WrongAddress`, `WrongKind`, `NotListening` and `OptionTooLate` of [`SocketError`](crate::error::SocketError).
    /// [`BindError::Privileged`] if not every user may bind the port and portgrant is not installed.
    pub fn listen(&mut self, endpoint: &str) -> Result<Socket, Error> {
        self.one(resolved::of_text(endpoint, Protocol::default())?)
    }

    /// The same, as a listener of the standard library.
    pub fn tcp(&mut self, endpoint: &str) -> Result<TcpListener, Error> {
        self.listen(endpoint)?.into_tcp()
    }

    /// The same, as a udp socket of the standard library. `53` means `53/udp` here.
    pub fn udp(&mut self, endpoint: &str) -> Result<UdpSocket, Error> {
        self.one(resolved::of_text(endpoint, Protocol::Udp)?)?.into_udp()
    }

    /// Returns one socket for each of `workers`, all for one endpoint and with `reuseport`. Each worker, thread or
    /// process, accepts from its own socket, without a lock or a thundering herd. The kernel distributes connections by
    /// a hash of the addresses, or by CPU after [`steer_by_cpu`](crate::steer_by_cpu).
    ///
    /// Only sockets of this user can join the group. If the helper is asked, a rule must permit `reuseport`.
    ///
    /// ```
    /// # use portgrant_server::Server;
    /// # let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    /// # let endpoint = format!("{free}");
    /// let workers = std::thread::available_parallelism()?.get();
    /// let group = Server::new()?.group(&endpoint, workers)?; // 127.0.0.1:8080
    /// portgrant_server::steer_by_cpu(&group)?;
    /// for socket in group {
    ///     let listener = socket.into_tcp()?;
    ///     std::thread::spawn(move || while let Ok((client, peer)) = portgrant_server::accept(&listener) { /* … */ });
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn group(&mut self, endpoint: &str, workers: usize) -> Result<Vec<Socket>, Error> {
        let mut asked = resolved::of_text(endpoint, Protocol::default())?;
        asked.endpoint.options.reuseport = true;
        self.several(&asked, workers)
    }

    /// The inherited sockets that no endpoint has used yet.
    pub fn unused(&self) -> &Sockets {
        &self.inherited
    }

    pub(crate) fn one(&mut self, asked: Resolved) -> Result<Socket, Error> {
        let name = asked.name();
        self.several(&asked, 1)?.pop().ok_or_else(|| RequestError::NotReceived { name }.into())
    }

    pub(crate) fn several(&mut self, asked: &Resolved, count: usize) -> Result<Vec<Socket>, Error> {
        if asked.endpoint.address == Address::Each {
            return Err(BindError::EachIsSeveral { endpoint: asked.endpoint.to_string() }.into());
        }
        let mut found = Vec::new();
        while found.len() < count {
            match self.more(asked, count - found.len()) {
                Ok(more) => found.extend(more),
                Err(error) => {
                    // All or none, and inherited sockets cannot be obtained again.
                    found.retain(|socket| socket.origin() == Origin::Adopted);
                    self.inherited.put_back(found);
                    return Err(error);
                }
            }
        }
        Ok(found)
    }

    /// Returns one more socket, or all that are `missing`.
    fn more(&mut self, asked: &Resolved, missing: usize) -> Result<Vec<Socket>, Error> {
        if let Some(socket) =
            self.inherited.take_asked(asked, |socket| bind::adjust(socket, &asked.endpoint.options))?
        {
            return Ok(vec![socket]);
        }
        match bind::bind(asked) {
            Err(error) if matches!(error.downcast_ref(), Some(BindError::Privileged { .. })) => {
                Ok(self.ask(asked, missing)?.into_iter().collect())
            }
            bound => Ok(vec![bound?]),
        }
    }

    /// Requests `count` sockets from the helper, all or none.
    fn ask(&self, asked: &Resolved, count: usize) -> Result<Sockets, Error> {
        let endpoints = std::iter::repeat_n(&asked.endpoint, count).cloned();
        let request = endpoints.fold(Request::new(), Request::endpoint);
        let request = match &self.helper {
            Some(path) => request.helper(path),
            None => request,
        };
        match request.send() {
            Err(error) if matches!(error.downcast_ref(), Some(RequestError::HelperMissing { .. })) => {
                Err(BindError::Privileged { endpoint: asked.to_string() }.into())
            }
            other => other,
        }
    }
}

impl From<Sockets> for Server {
    /// Uses sockets that were passed in another way: by [`Sockets::inetd`] or a [`Mailbox`](crate::Mailbox).
    fn from(inherited: Sockets) -> Server {
        Server { inherited, helper: None }
    }
}

/// Returns the socket for `endpoint`: [`Server::listen`] of one [`Server`] for the whole process. The first call adopts
/// the inherited sockets, so that later calls of [`Sockets::inherited`] and [`Server::new`] fail.
///
/// ```
/// # let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
/// # let endpoint = format!("{free}");
/// let listener: std::net::TcpListener = portgrant_server::listen(&endpoint)?.into_tcp()?; // https=443
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn listen(endpoint: &str) -> Result<Socket, Error> {
    static SERVER: Mutex<Option<Server>> = Mutex::new(None);
    let mut server = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    let server = match &mut *server {
        Some(server) => server,
        none => none.insert(Server::new()?),
    };
    server.listen(endpoint)
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt;

    use super::bind::Bind;
    use super::*;
    use crate::adopting::SocketError;

    fn free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").expect("a listener").local_addr().expect("bound").port()
    }

    fn bound(endpoint: &str) -> Socket {
        Bind::to(endpoint).and_then(|bind| bind.socket()).expect(endpoint)
    }

    /// As if inherited: bound by another process, and announced under the endpoint's name.
    fn inheriting(endpoints: &[&str]) -> Server {
        let sockets = endpoints.iter().map(|text| bound(text));
        Server::from(sockets.map(|socket| Socket::new(socket.name().to_owned(), socket.into_fd())).collect::<Sockets>())
    }

    #[test]
    fn an_inherited_socket_is_found_by_name_or_address() {
        let (one, two, three) = (free_port(), free_port(), free_port());
        let [web, plain, dns] =
            [format!("web=127.0.0.1:{one}"), format!("127.0.0.1:{two}"), format!("dns=127.0.0.1:{three}/udp")];
        let mut server = inheriting(&[&web, &plain, &dns]);
        let socket = server.listen(&web).expect("by its name");
        assert_eq!((socket.name(), socket.origin()), ("web", Origin::Adopted));
        let socket = server.listen(&format!("https={plain}")).expect("by its address, whatever its name");
        assert_eq!((socket.local().expect("bound").port(), socket.origin()), (two, Origin::Adopted));
        assert_eq!(server.unused().names().collect::<Vec<_>>(), ["dns"]);
        server.udp(&format!("127.0.0.1:{three}")).expect("udp need not be written out");
        assert!(server.unused().is_empty());
    }

    #[test]
    fn an_inherited_socket_with_the_name_but_another_address_is_an_error() {
        let port = free_port();
        let mut server = inheriting(&[&format!("web=127.0.0.1:{port}")]);
        for other in [format!("web={port}"), format!("web=127.0.0.2:{port}"), format!("web=127.0.0.1:{port},v6only")] {
            assert!(server.listen(&other).is_err(), "{other}");
        }
        let error = server.listen(&format!("web=0.0.0.0:{port}")).expect_err("elsewhere");
        assert!(matches!(error.downcast_ref(), Some(SocketError::WrongAddress { .. })), "{error}");
        let error = server.listen(&format!("web=127.0.0.1:{port}/udp")).expect_err("another protocol");
        assert!(matches!(error.downcast_ref(), Some(SocketError::WrongKind { .. })), "{error}");
        let error = server.listen(&format!("web=127.0.0.1:{port},reuseport")).expect_err("too late");
        assert!(
            matches!(error.downcast_ref(), Some(SocketError::OptionTooLate { option: "reuseport", .. })),
            "{error}"
        );
        assert_eq!(server.unused().len(), 1);
        assert!(server.listen(&format!("web=127.0.0.1:{port},keepalive")).is_ok());
    }

    #[test]
    fn a_socket_that_was_not_inherited_is_bound_without_the_helper_if_possible() {
        let endpoint = format!("web=127.0.0.1:{}", free_port());
        let socket = Server::default().helper("/nonexistent").listen(&endpoint).expect("bound");
        assert_eq!((socket.name(), socket.origin()), ("web", Origin::Bound));
        let error = Server::default().helper("/nonexistent").listen(&endpoint).expect_err("in use");
        assert!(
            matches!(error.downcast_ref(), Some(BindError::InUse { .. })),
            "the helper is not asked for an address in use: {error}"
        );
        assert!(matches!(
            Server::default().listen("each:7777/udp").as_ref().map_err(Error::downcast_ref),
            Err(Some(BindError::EachIsSeveral { .. }))
        ));
    }

    #[test]
    fn a_group_has_one_port_and_includes_inherited_sockets() {
        let endpoint = format!("127.0.0.1:{}", free_port());
        let mut server = inheriting(&[&format!("{endpoint},reuseport"), &format!("{endpoint},reuseport")]);
        let group = server.group(&endpoint, 3).expect("a group");
        let origins: Vec<Origin> = group.iter().map(Socket::origin).collect();
        assert_eq!(origins, [Origin::Adopted, Origin::Adopted, Origin::Bound]);
        assert!(group.iter().all(|socket| sockopt::socket_reuseport(socket).expect("get")));
        assert!(server.group(&endpoint, 0).expect("none").is_empty());

        // An address that does not exist (yet): one socket was inherited, another cannot be bound.
        let endpoint = format!("198.51.100.7:{}", free_port());
        let mut server = inheriting(&[&format!("{endpoint},reuseport,freebind")]);
        assert!(matches!(
            server.group(&endpoint, 2).as_ref().map_err(Error::downcast_ref),
            Err(Some(BindError::NotThere { .. }))
        ));
        assert_eq!(server.unused().len(), 1, "what was inherited is still there");
    }
}
