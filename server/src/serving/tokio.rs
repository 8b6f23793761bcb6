//! The same for a tokio runtime: what makes [`Listeners`] readable makes a task run.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use ::tokio::io::Interest;
use ::tokio::io::unix::AsyncFd;
use ::tokio::net::TcpStream;

use super::each::EachUdp;
use super::listeners::{Datagram, Event, Listeners, Stopper};
use crate::client::Connection;
use crate::descriptor;
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
    /// A copy of theirs, registered with the runtime
    readiness: AsyncFd<OwnedFd>,
    listeners: Listeners,
}

impl AsyncListeners {
    /// Registers them with the runtime that this is called in.
    ///
    /// # Panics
    /// Outside of a tokio runtime, or in one without I/O, as everything of tokio's does.
    pub fn new(listeners: Listeners) -> Result<AsyncListeners, Error> {
        let copy = listeners.as_fd().try_clone_to_owned().map_err(failed)?;
        Ok(AsyncListeners { readiness: descriptor::awaited(copy, Interest::READABLE).map_err(failed)?, listeners })
    }

    /// What comes next, as [`Listeners::event`] tells it. Nothing is lost where the future is dropped, so it may stand
    /// in `select!`.
    ///
    /// Other tasks of the thread have their turn between events, whatever comes in.
    pub async fn event(&mut self) -> Result<Event<TcpStream>, Error> {
        ::tokio::task::consume_budget().await;
        // A round goes on without anything new to read.
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

    /// What stops them.
    pub fn stopper(&self) -> Stopper {
        self.listeners.stopper()
    }

    /// To add another, as [`Listeners::tcp`] does.
    pub fn tcp(&mut self, name: &str, listener: std::net::TcpListener) -> Result<(), Error> {
        self.listeners.tcp(name, listener)
    }

    /// To add another, as [`Listeners::udp`] does.
    pub fn udp(&mut self, name: &str, socket: std::net::UdpSocket) -> Result<(), Error> {
        self.listeners.udp(name, socket)
    }

    /// To add another, as [`Listeners::each`] does.
    pub fn each(&mut self, each: EachUdp) -> Result<(), Error> {
        self.listeners.each(each)
    }
}

impl Datagram {
    /// Answers, from the address that was asked; where the send buffer is full, the task waits (feature `tokio`).
    pub async fn reply_async(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match self.try_reply(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                replied => return replied,
            }
            // Seldom enough to register a copy for it: the socket itself belongs to the listeners.
            let copy = self.socket().as_fd().try_clone_to_owned()?;
            let copy = descriptor::awaited(copy, Interest::WRITABLE)?;
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
