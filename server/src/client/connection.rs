//! A client's connection.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use super::peer::canonical;

/// An accepted connection: from [`Listeners`](crate::Listeners), from `AsyncListeners` (with tokio's stream), or from
/// inetd ([`Connection::inetd`]).
#[derive(Debug)]
#[non_exhaustive]
pub struct Connection<S = TcpStream> {
    /// The name of the listener that accepted it
    pub name: Arc<str>,
    /// The connection, to read from and to write to. It blocks (tokio's does not), even if the listener does not
    pub stream: S,
    /// The client's address. An IPv4-mapped address is shown as IPv4
    pub peer: SocketAddr,
}

impl<S> Connection<S> {
    pub(crate) fn new(name: Arc<str>, stream: S, peer: SocketAddr) -> Connection<S> {
        Connection { name, stream, peer: canonical(peer) }
    }
}

impl Connection {
    /// The local address that the client connected to. An IPv4-mapped address is shown as IPv4.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr().map(canonical)
    }
}
