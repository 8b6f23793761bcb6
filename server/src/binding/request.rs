//! Requests to the helper while the server runs, and the check of what was received.

use std::path::PathBuf;

use portgrant_protocol::endpoint::{Address, Endpoint, Resolved};
use portgrant_protocol::record::Reply;
use portgrant_protocol::{Kind, Message, listen};

use super::error::{BindError, RequestError};
use super::{helper, holder};
use crate::adopting::{Origin, Refused, Socket, SocketError, Sockets, pair};
use crate::failure::Error;
use crate::resolved;

/// A request for sockets. Either all endpoints are bound or none.
///
/// ```no_run
/// # use portgrant_server::Request;
/// let mut sockets = Request::new().listen("https=443")?.listen("dns=each:53/udp")?.send()?;
/// let https = sockets.tcp("https")?;
/// for socket in sockets {
///     println!("{} at {}", socket.name(), socket.local()?); // dns, dns-1, …
/// }
/// # Ok::<(), portgrant_server::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "nothing is asked for until it is sent"]
pub struct Request {
    endpoints: Vec<Endpoint>,
    helper: Option<PathBuf>,
}

impl Request {
    /// A request without endpoints.
    pub fn new() -> Request {
        Request::default()
    }

    /// Adds `endpoint`, given as text (see [`endpoint`](crate::endpoint)).
    pub fn listen(self, endpoint: &str) -> Result<Request, Error> {
        resolved::parse(endpoint).map(|parsed| self.endpoint(parsed))
    }

    /// Adds `endpoint`.
    pub fn endpoint(mut self, endpoint: Endpoint) -> Request {
        self.endpoints.push(endpoint);
        self
    }

    /// Uses the helper at `path` instead of the one that [`helper::locate`] finds.
    pub fn helper(self, path: impl Into<PathBuf>) -> Request {
        Request { helper: Some(path.into()), ..self }
    }

    /// Sends the request and receives the sockets. Each socket is compared with the request: its name, protocol,
    /// address and port, and that it listens.
    ///
    /// The helper runs as a child for a moment. The server may still ignore SIGCHLD, or wait for all of its children.
    pub fn send(self) -> Result<Sockets, Error> {
        if self.endpoints.is_empty() || self.endpoints.len() > listen::MAX {
            return Err(RequestError::Endpoints { count: self.endpoints.len() }.into());
        }
        let asked = resolved::all(&self.endpoints)?;
        let helper = match self.helper {
            Some(path) => path,
            None => helper::locate()?,
        };
        match helper::pass(&helper, &self.endpoints)? {
            (Reply::Granted { names }, descriptors) => verify(&asked, pair(names, descriptors)?),
            (Reply::Failed(message), _) => Err(refused(&asked, message)),
        }
    }
}

impl Sockets {
    /// Requests `endpoints` from the helper, all or none. Same as a [`Request`] with its defaults.
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
}

/// The refusal. If an address is in use, it is completed by the holders, which the helper does not look up.
fn refused(asked: &[Resolved], message: Message) -> Error {
    let is_meant = |asked: &&Resolved| message.endpoint.as_ref() == Some(&asked.to_string());
    match asked.iter().find(is_meant) {
        Some(asked) if message.kind == Kind::InUse => {
            BindError::InUse { endpoint: asked.to_string(), holders: holder::of(asked).unwrap_or_default() }.into()
        }
        _ => Refused(message).into(),
    }
}

/// Checks that `received` is what was asked for, in order: one socket for each endpoint, and at least one for `each`.
fn verify(asked: &[Resolved], received: Vec<Socket>) -> Result<Sockets, Error> {
    let mut rest = received.iter().peekable();
    for asked in asked {
        let name = asked.name();
        let Some(socket) = rest.next() else { return Err(RequestError::NotReceived { name }.into()) };
        is_asked(socket, &name, asked)?;
        if asked.endpoint.address == Address::Each {
            let mut numbered = (1..).map(|number| format!("{name}-{number}"));
            let mut is_next =
                |socket: &&Socket| numbered.next().is_some_and(|name| is_asked(socket, &name, asked).is_ok());
            while rest.next_if(&mut is_next).is_some() {}
        }
    }
    match rest.next() {
        Some(surplus) => Err(RequestError::NotAskedFor { name: surplus.name().to_owned() }.into()),
        None => Ok(received.into_iter().map(|socket| socket.of(Origin::Helper)).collect()),
    }
}

fn is_asked(socket: &Socket, name: &str, asked: &Resolved) -> Result<(), Error> {
    if socket.name() != name {
        return Err(RequestError::NotAskedFor { name: socket.name().to_owned() }.into());
    }
    socket.info()?.fit(asked).map_err(|mismatch| SocketError::mismatch(name, asked, mismatch).into())
}
