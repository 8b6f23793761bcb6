//! Adoption of descriptor 0: services of inetd (`wait` and `nowait`), and `portgrant exec --inetd`.

use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use portgrant_protocol::Protocol;
use portgrant_protocol::listen::FIRST;
use rustix::fs::{Mode, OFlags, fstat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::getpeername;
use rustix::stdio;

use super::error::{AdoptionError, SocketError};
use super::socket::Socket;
use super::sockets::Sockets;
use crate::client::Connection;
use crate::failure::Error;
use portgrant_protocol::socket_info::{Mismatch, SocketInfo};

const NAME: &str = "descriptor 0";

/// Whether descriptor 0 was already taken. It is /dev/null since then.
static TAKEN: AtomicBool = AtomicBool::new(false);

impl Connection {
    /// Adopts descriptor 0 as a connection that was accepted by inetd (`nowait`), by a systemd socket unit with
    /// `Accept=yes` and `StandardInput=socket`, or by tcpserver. Its name is `PORT/tcp`.
    ///
    /// Descriptor 0 becomes /dev/null. So do 1 and 2 if they are the same socket: text that is printed by mistake does
    /// not reach the client.
    ///
    /// ```no_run
    /// use std::io::Write;
    ///
    /// use portgrant_server::Connection;
    ///
    /// // finger  stream  tcp  nowait  nobody  /usr/local/bin/this-program
    /// let client = Connection::inetd()?;
    /// writeln!(&client.stream, "you are {}", client.peer.ip())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`AdoptionError::NotAConnection`] for a listener; [`AdoptionError::PeerGone`] if the client disconnected before
    /// this program started.
    pub fn inetd() -> Result<Connection, Error> {
        once(|| {
            let (peer, local) = ends(stdio::stdin())?;
            let name = format!("{}/{}", local.port(), Protocol::Tcp.word());
            Ok(Connection::new(name.into(), take_standard_input()?.into(), peer))
        })
    }
}

fn ends(input: BorrowedFd<'_>) -> Result<(SocketAddr, SocketAddr), Error> {
    let name = || NAME.to_owned();
    let info = SocketInfo::of(input).map_err(|mismatch| SocketError::WrongKind { name: name(), mismatch })?;
    if info.protocol.transport() != Protocol::Tcp {
        let mismatch = Mismatch::Protocol { found: info.protocol, expected: Protocol::Tcp };
        return Err(SocketError::WrongKind { name: name(), mismatch }.into());
    }
    if info.listening {
        return Err(AdoptionError::NotAConnection { name: name() }.into());
    }
    let peer = getpeername(input).ok().flatten().and_then(|peer| SocketAddr::try_from(peer).ok());
    Ok((peer.ok_or_else(|| AdoptionError::PeerGone { name: name() })?, info.local))
}

impl Sockets {
    /// Adopts descriptor 0 of an inetd service with `wait` or of `portgrant exec --inetd`: a listening or a udp socket.
    /// Its name is `PORT/PROTOCOL`.
    ///
    /// Descriptor 0 becomes /dev/null. So do 1 and 2 if they are the same socket.
    pub fn inetd() -> Result<Sockets, Error> {
        adopt()
    }
}

fn adopt() -> Result<Sockets, Error> {
    once(|| {
        let name = name(stdio::stdin())?;
        Ok(std::iter::once(Socket::new(name, take_standard_input()?)).collect())
    })
}

/// After an error descriptor 0 is unchanged, and can be adopted again.
pub(crate) fn once<T>(adopt: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(AdoptionError::AdoptedBefore { what: NAME }.into());
    }
    let adopted = adopt();
    TAKEN.store(adopted.is_ok(), Ordering::SeqCst);
    adopted
}

pub(crate) fn take_standard_input() -> Result<OwnedFd, Error> {
    let failed = |errno: Errno| Error::system("cannot adopt descriptor 0", errno);
    let socket = fcntl_dupfd_cloexec(stdio::stdin(), FIRST).map_err(failed)?;
    // Not closed, or the next file that is opened would become standard input.
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    if is_same(stdio::stdin(), stdio::stdout()) {
        stdio::dup2_stdout(&null).map_err(failed)?;
    }
    if is_same(stdio::stdin(), stdio::stderr()) {
        stdio::dup2_stderr(&null).map_err(failed)?;
    }
    stdio::dup2_stdin(&null).map_err(failed)?;
    Ok(socket)
}

/// inetd passes no name. The name is that of an endpoint without one. Returns an error if the socket cannot be served.
fn name(input: BorrowedFd<'_>) -> Result<String, Error> {
    let info = SocketInfo::of(input).map_err(|mismatch| SocketError::WrongKind { name: NAME.to_owned(), mismatch })?;
    if info.protocol.is_stream() && !info.listening {
        return Err(SocketError::NotListening { name: NAME.to_owned() }.into());
    }
    Ok(format!("{}/{}", info.local.port(), info.protocol.word()))
}

fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    match (fstat(one), fstat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}
