//! Several ports at once, with one place to wait for all of them.

use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portgrant_protocol::Protocol;
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

use super::addressed::{AddressedUdp, Arrival};
use super::each::{AddressChange, EachUdp, Heard, is_passing};
use super::epoll::Epoll;
use super::error::ListenerError;
use crate::accept::{PAUSE, is_the_clients, would_recur};
use crate::adopting::{Socket, Sockets};
use crate::client::Connection;
use crate::error_queue;
use crate::failure::Error;

/// The longest datagram.
const DATAGRAM: usize = 65_535;

/// Numbers that no listener has.
const STOP: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;

/// All listeners of a server, tcp and udp. It returns the next event with the name of its listener.
///
/// ```no_run
/// use std::io::Write;
/// use portgrant_server::{Event, Listeners, Sockets};
///
/// let mut listeners = Listeners::from_sockets(Sockets::request(["http=80", "https=443", "53/udp"])?)?;
/// let stopper = listeners.stopper(); // for a signal handler or another thread: stopper.stop()
/// loop {
///     match listeners.event()? {
///         Event::Connection(mut client) => match &*client.name {
///             "http" => client.stream.write_all(b"HTTP/1.0 301 Moved\r\n\r\n")?,
///             _ => { std::thread::spawn(move || client.stream.write_all(b"hello")); }
///         },
///         Event::Datagram(datagram) => datagram.reply(&datagram.bytes)?,
///         Event::Exhausted { source, .. } => eprintln!("too many clients: {source}"),
///         Event::Stopped => break,
///         _ => {}
///     }
/// }
/// # drop(stopper);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// * **Fair.** Each listener that is ready has one turn in a round, for one connection or datagram. So a flood at one
///   port delays the others by one event each.
/// * **Out of descriptors** (EMFILE, ENFILE) or memory, or where accept(2) is forbidden (EPERM), it would fail again at
///   once, since the connection stays in its queue. This is reported once. Connections then wait in their queues for a tenth of a second at a time,
///   while datagrams are still served.
/// * **Errors of datagrams** that were sent (IP_RECVERR, in ip(7)) are dropped if no datagram waits: nobody here reads
///   them, and the socket would stay ready for ever.
/// * **Stopped** by a [`Stopper`], from any thread.
/// * **One listener fails** permanently: it is reported as [`ListenerError::Failed`], and the others go on.
///
/// It is readable (poll(2), by its [`AsFd`]) while there is an event, for your own loop with
/// [`try_event`](Listeners::try_event). For tokio there is `AsyncListeners` (feature `tokio`).
#[derive(Debug)]
pub struct Listeners {
    entries: Vec<Option<Entry>>,
    ready: Epoll,
    stop: Arc<Stop>,
    timer: OwnedFd,
    pause: Pause,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Tcp(TcpListener),
    Udp(Arc<AddressedUdp>),
    Each(Box<EachUdp>),
}

/// Whether connections are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// Yes
    Off,
    /// No: they wait, and that was reported
    On,
    /// Yes, again: whether one succeeds will show
    Trial,
}

/// Something that happened at a listener.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<S = TcpStream> {
    /// A client connected
    Connection(Connection<S>),
    /// A datagram arrived
    Datagram(Datagram),
    /// An address of an [`EachUdp`] was added or removed
    Address {
        /// The name of the set
        name: Arc<str>,
        /// The change
        change: AddressChange,
    },
    /// Descriptors or memory ran out, or accept(2) is forbidden, and connections wait. Reported once, until one succeeds
    Exhausted {
        /// The name of the listener
        name: Arc<str>,
        /// EMFILE, ENFILE, ENOBUFS, ENOMEM or EPERM
        source: io::Error,
    },
    /// A [`Stopper`] stopped the listeners. No other event follows
    Stopped,
}

/// A datagram, and the way to answer it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Datagram {
    /// The name of its socket
    pub name: Arc<str>,
    /// Its content
    pub bytes: Vec<u8>,
    /// Its sender and its destination
    pub arrival: Arrival,
    socket: Arc<AddressedUdp>,
}

impl Datagram {
    /// Answers from the address that was asked. If the send buffer is full it waits, unless the socket is non-blocking.
    pub fn reply(&self, bytes: &[u8]) -> io::Result<()> {
        self.socket.reply(&self.arrival, bytes)
    }

    /// The same, without waiting: [`io::ErrorKind::WouldBlock`] while the send buffer is full.
    pub fn try_reply(&self, bytes: &[u8]) -> io::Result<()> {
        self.socket.try_reply(&self.arrival, bytes)
    }

    /// The socket that received it.
    pub fn socket(&self) -> &AddressedUdp {
        &self.socket
    }
}

/// Stops [`Listeners`], from another thread or from a signal handler: they return [`Event::Stopped`].
#[derive(Debug, Clone)]
pub struct Stopper(Arc<Stop>);

#[derive(Debug)]
struct Stop {
    asked: AtomicBool,
    wake: OwnedFd,
}

impl Stopper {
    /// Stops the listeners: immediately if they wait, else before the next event. One call is enough, and it cannot be
    /// undone.
    ///
    /// It sets a flag and calls write(2). A signal handler may do both.
    pub fn stop(&self) {
        self.0.asked.store(true, Ordering::SeqCst);
        // It fails only at 2^64 - 1, and then it is readable anyway.
        let _ = rustix::io::write(&self.0.wake, &1u64.to_ne_bytes());
    }
}

impl Listeners {
    /// Without listeners.
    ///
    /// # Errors
    /// [`SystemError`](crate::error::SystemError) if epoll(7), eventfd(2) or timerfd_create(2) fail for lack of
    /// descriptors or memory.
    pub fn new() -> Result<Listeners, Error> {
        let failed = |errno: Errno| Error::system("cannot wait for several sockets at once", errno);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).map_err(failed)?;
        let mut ready = Epoll::new()?;
        ready.add(&wake, STOP)?;
        ready.add(&timer, TIMER)?;
        let stop = Arc::new(Stop { asked: AtomicBool::new(false), wake });
        Ok(Listeners { entries: Vec::new(), ready, stop, timer, pause: Pause::Off, buffer: vec![0; DATAGRAM] })
    }

    /// With all `sockets`, by their names. A socket that is neither a tcp listener nor a udp socket is an error.
    ///
    /// The sockets of an `each:PORT/udp` become one [`EachUdp`] with one name.
    pub fn from_sockets(sockets: Sockets) -> Result<Listeners, Error> {
        let mut listeners = Listeners::new()?;
        let mut sockets = sockets.into_iter().peekable();
        while let Some(first) = sockets.next() {
            if first.info()?.protocol.transport() != Protocol::Udp {
                let name = first.name().to_owned();
                listeners.tcp(&name, first.into_tcp()?)?;
                continue;
            }
            let mut numbers = (1..).map(|number| format!("{}-{number}", first.name()));
            let port = first.local()?.port();
            let is_wildcard = first.local()?.ip().is_unspecified();
            let mut goes_with = |socket: &Socket| {
                let same = is_wildcard && socket.local().is_ok_and(|local| local.port() == port);
                same && numbers.next().is_some_and(|name| name == socket.name())
            };
            let mut others = Vec::new();
            while let Some(other) = sockets.next_if(&mut goes_with) {
                others.push(other);
            }
            if others.is_empty() {
                let name = first.name().to_owned();
                listeners.udp(&name, first.into_udp()?)?;
            } else {
                listeners.each(EachUdp::adopt(std::iter::once(first).chain(others))?)?;
            }
        }
        Ok(listeners)
    }

    /// Adds a tcp listener. It becomes non-blocking, so that a client that is gone again does not block it.
    pub fn tcp(&mut self, name: &str, listener: TcpListener) -> Result<(), Error> {
        listener
            .set_nonblocking(true)
            .map_err(|source| Error::system("cannot make a listener non-blocking", source))?;
        self.add(name, Source::Tcp(listener))
    }

    /// Adds a udp socket, which must be bound.
    pub fn udp(&mut self, name: &str, socket: UdpSocket) -> Result<(), Error> {
        self.add(name, Source::Udp(Arc::new(AddressedUdp::new(socket)?)))
    }

    /// Adds the sockets of `each`, and follows its interfaces.
    pub fn each(&mut self, each: EachUdp) -> Result<(), Error> {
        let name = each.name().to_owned();
        self.add(&name, Source::Each(Box::new(each)))
    }

    /// Returns what stops the listeners.
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.stop))
    }

    /// The names of the listeners.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().flatten().map(|entry| &*entry.name)
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// [`ListenerError::Failed`] if a listener failed permanently. It is no longer served; the others go on.
    /// [`ListenerError::NoListener`] if there is none (any more).
    pub fn event(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.try_event()? {
                return Ok(event);
            }
            self.ready.begin(None)?;
        }
    }

    /// The same, for at most `limit`. `None` if there was no event.
    pub fn event_within(&mut self, limit: Duration) -> Result<Option<Event>, Error> {
        let end = Instant::now().checked_add(limit);
        loop {
            if let Some(event) = self.try_event()? {
                return Ok(Some(event));
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            self.ready.begin(left)?;
        }
    }

    /// The same, without waiting.
    pub fn try_event(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if self.stop.asked.load(Ordering::SeqCst) {
                return Ok(Some(Event::Stopped));
            }
            if self.names().next().is_none() {
                return Err(ListenerError::NoListener.into());
            }
            let Some(number) = self.ready.turn() else {
                if self.ready.begin(Some(Duration::ZERO))? {
                    continue;
                }
                return Ok(None);
            };
            if number == TIMER {
                self.resume()?;
            } else if let Some(event) = self.serve(number)? {
                return Ok(Some(event));
            }
        }
    }

    fn add(&mut self, name: &str, source: Source) -> Result<(), Error> {
        let number = self.entries.len() as u64;
        self.ready.add(source.as_fd(), number)?;
        // Changes of its addresses so far are reported without anything to read.
        self.ready.again(number);
        self.entries.push(Some(Entry { name: Arc::from(name), source }));
        Ok(())
    }

    /// One turn of one listener.
    fn serve(&mut self, number: u64) -> Result<Option<Event>, Error> {
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        let Some(Some(entry)) = self.entries.get_mut(index) else { return Ok(None) };
        let name = Arc::clone(&entry.name);
        let failed = match &mut entry.source {
            Source::Tcp(listener) if self.pause == Pause::On => {
                // Added during a pause: do not watch it yet.
                self.ready.set(listener, number, false)?;
                return Ok(None);
            }
            Source::Tcp(listener) => match listener.accept() {
                Ok((stream, peer)) => {
                    self.pause = Pause::Off;
                    return Ok(Some(Event::Connection(Connection::new(name, stream, peer))));
                }
                Err(error) if would_recur(&error) => return self.exhausted(name, error),
                Err(error) if is_the_clients(&error) => return Ok(None),
                Err(error) => error,
            },
            Source::Udp(socket) => match socket.try_recv(&mut self.buffer) {
                Ok((length, arrival)) => {
                    let (bytes, socket) = (self.buffer[..length].to_vec(), Arc::clone(socket));
                    return Ok(Some(Event::Datagram(Datagram { name, bytes, arrival, socket })));
                }
                Err(error) if is_passing(&error) => match error_queue::clear(&**socket) {
                    Ok(()) => return Ok(None),
                    Err(error) => error,
                },
                Err(error) => error,
            },
            Source::Each(each) => {
                let heard = each.try_recv(&mut self.buffer)?;
                if each.has_report() {
                    self.ready.again(number);
                }
                return Ok(heard.map(|heard| match heard {
                    Heard::Datagram(length, arrival, socket) => {
                        Event::Datagram(Datagram { name, bytes: self.buffer[..length].to_vec(), arrival, socket })
                    }
                    Heard::Change(change) => Event::Address { name, change },
                }));
            }
        };
        // If it were still watched, it would be ready and fail for ever.
        self.ready.remove(entry.source.as_fd());
        let name = entry.name.to_string();
        self.entries[index] = None;
        Err(ListenerError::Failed { name, source: failed }.into())
    }

    /// Lets connections wait for a moment. Reported the first time.
    fn exhausted(&mut self, name: Arc<str>, source: io::Error) -> Result<Option<Event>, Error> {
        let is_reported = self.pause == Pause::Trial;
        self.pause = Pause::On;
        self.watch_tcp(false)?;
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let pause = Timespec { tv_nsec: PAUSE.subsec_nanos().into(), ..zero };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: zero, it_value: pause })
            .map_err(|errno| Error::system("cannot set a timer", errno))?;
        Ok(if is_reported { None } else { Some(Event::Exhausted { name, source }) })
    }

    fn resume(&mut self) -> Result<(), Error> {
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        if self.pause == Pause::On {
            self.pause = Pause::Trial;
            self.watch_tcp(true)?;
        }
        Ok(())
    }

    fn watch_tcp(&mut self, watched: bool) -> Result<(), Error> {
        for (number, entry) in (0..).zip(&self.entries) {
            if let Some(Entry { source: Source::Tcp(listener), .. }) = entry {
                self.ready.set(listener, number, watched)?;
            }
        }
        Ok(())
    }
}

impl AsFd for Listeners {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

impl AsRawFd for Listeners {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Source::Tcp(listener) => listener.as_fd(),
            Source::Udp(socket) => socket.as_fd(),
            Source::Each(each) => each.as_fd(),
        }
    }
}
