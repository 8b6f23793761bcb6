//! Listeners for a tokio runtime: when [`Listeners`] become readable, a task runs.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use ::tokio::io::Interest;
use ::tokio::io::unix::AsyncFd;
use ::tokio::net::TcpStream;

use super::each::EachUdp;
use super::listeners::{Datagram, Event, Listeners, Stopper};
use crate::client::Connection;
use crate::failure::Error;

/// [`Listeners`] whose events are awaited, with tokio's streams (feature `tokio`).
///
/// ```no_run
/// use portgrant_server::{AsyncListeners, Event, Listeners, Sockets};
/// use tokio::io::AsyncWriteExt;
///
/// # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
/// let sockets = Sockets::request(["https=443", "53/udp"])?;
/// let mut listeners = AsyncListeners::new(Listeners::from_sockets(sockets)?)?;
/// loop {
///     match listeners.event().await? {
///         Event::Connection(mut client) => {
///             tokio::spawn(async move { client.stream.write_all(b"hello").await });
///         }
///         Event::Datagram(datagram) => datagram.reply_async(&datagram.bytes).await?,
///         Event::Stopped => return Ok(()),
///         _ => {}
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct AsyncListeners {
    /// A copy of their descriptor, registered with the runtime
    readiness: AsyncFd<OwnedFd>,
    listeners: Listeners,
}

impl AsyncListeners {
    /// Registers them with the current runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime, or in a runtime without I/O.
    pub fn new(listeners: Listeners) -> Result<AsyncListeners, Error> {
        let copy = listeners.as_fd().try_clone_to_owned().map_err(failed)?;
        Ok(AsyncListeners { readiness: portgrant_sys::awaited(copy, Interest::READABLE).map_err(failed)?, listeners })
    }

    /// Waits for the next event, like [`Listeners::event`]. No event is lost if the future is dropped, so it can be
    /// used in `select!`.
    ///
    /// Other tasks of the thread run between events, however many there are.
    pub async fn event(&mut self) -> Result<Event<TcpStream>, Error> {
        ::tokio::task::consume_budget().await;
        // A round continues without anything new to read.
        if let Some(event) = self.listeners.try_event()? {
            return with_tokio(event);
        }
        loop {
            let mut readable = self.readiness.readable().await.map_err(failed)?;
            match self.listeners.try_event()? {
                Some(event) => return with_tokio(event),
                None => readable.clear_ready(),
            }
        }
    }

    /// Returns what stops them.
    pub fn stopper(&self) -> Stopper {
        self.listeners.stopper()
    }

    /// Adds a listener, like [`Listeners::tcp`].
    pub fn tcp(&mut self, name: &str, listener: std::net::TcpListener) -> Result<(), Error> {
        self.listeners.tcp(name, listener)
    }

    /// Adds a socket, like [`Listeners::udp`].
    pub fn udp(&mut self, name: &str, socket: std::net::UdpSocket) -> Result<(), Error> {
        self.listeners.udp(name, socket)
    }

    /// Adds sockets, like [`Listeners::each`].
    pub fn each(&mut self, each: EachUdp) -> Result<(), Error> {
        self.listeners.each(each)
    }
}

impl Datagram {
    /// Answers from the address that was asked. If the send buffer is full, the task waits (feature `tokio`).
    pub async fn reply_async(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match self.try_reply(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                replied => return replied,
            }
            // Rare enough to register a copy for it: the socket itself belongs to the listeners.
            let copy = self.socket().as_fd().try_clone_to_owned()?;
            let copy = portgrant_sys::awaited(copy, Interest::WRITABLE)?;
            let _ = copy.writable().await?;
        }
    }
}

fn with_tokio(event: Event) -> Result<Event<TcpStream>, Error> {
    Ok(match event {
        Event::Connection(Connection { name, stream, peer }) => {
            stream.set_nonblocking(true).map_err(failed)?;
            Event::Connection(Connection::new(name, TcpStream::from_std(stream).map_err(failed)?, peer))
        }
        Event::Datagram(datagram) => Event::Datagram(datagram),
        Event::Address { name, change } => Event::Address { name, change },
        Event::Exhausted { name, source } => Event::Exhausted { name, source },
        Event::Stopped => Event::Stopped,
    })
}

fn failed(source: io::Error) -> Error {
    Error::system("cannot use a socket with tokio", source)
}
