//! A client's connection, wherever it was accepted.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use super::peer::canonical;

/// A connection that was accepted: by [`Listeners`](crate::Listeners), by `AsyncListeners` (whose stream is tokio's), or by
/// inetd ([`Connection::inetd`]).
#[derive(Debug)]
#[non_exhaustive]
pub struct Connection<S = TcpStream> {
    /// The name of the listener that accepted it
    pub name: Arc<str>,
    /// The connection, to read from and to write to. It blocks, whatever the listener does (tokio's does not).
    pub stream: S,
    /// The client's address; an IPv4-mapped one is shown as IPv4
    pub peer: SocketAddr,
}

impl<S> Connection<S> {
    pub(crate) fn new(name: Arc<str>, stream: S, peer: SocketAddr) -> Connection<S> {
        Connection { name, stream, peer: canonical(peer) }
    }
}

impl Connection {
    /// The address that the client asked for; an IPv4-mapped one is shown as IPv4.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr().map(canonical)
    }
}
