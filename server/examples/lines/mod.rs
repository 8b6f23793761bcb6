//! Shared by `news` and `sink`: one thread for each client, lines with limits of time and length, replies, and a
//! graceful end.

use std::fmt::Display;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::mem;
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use portgrant_server::error::ListenerError;
use portgrant_server::{
    CloseLimits, Connection, Error, Event, KeepAlive, Listeners, Signal, Signals, Sockets, Stopper, StreamOptions,
    close_gracefully,
};

/// The most clients at once. Others get a line that asks them to come back.
const CLIENTS: usize = 64;
/// How long a client may take to send a line, or to read one.
const LINE: Duration = Duration::from_secs(300);
/// How long clients may take at the end to finish a transaction.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// The inherited sockets, or else the endpoint.
pub(crate) fn listeners(endpoint: &str) -> Result<Listeners, Error> {
    let sockets = match Sockets::inherited()? {
        Some(sockets) => sockets,
        None => Sockets::request([endpoint])?,
    };
    let keep_alive = KeepAlive { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 6 };
    let options = StreamOptions::new().keep_alive(keep_alive).user_timeout(keep_alive.notices_within());
    for socket in &sockets {
        options.apply(socket)?;
        println!("{} at {}", socket.name(), socket.local()?);
    }
    Listeners::from_sockets(sockets)
}

/// Serves each client on a separate thread, until SIGTERM. Clients beyond the limit get the line `full`.
pub(crate) fn serve<F>(mut listeners: Listeners, full: &str, talk: F) -> Result<(), Error>
where
    F: Fn(&mut Client) -> io::Result<()> + Send + Sync + 'static,
{
    let mut signals = Signals::install()?;
    let (stopping, stopper, talk) = (signals.stopping(), listeners.stopper(), Arc::new(talk));
    thread::spawn(move || stop(&mut signals, &stopper));
    let places = Arc::new(()); // one copy a client
    loop {
        match listeners.event() {
            Ok(Event::Connection(client)) if Arc::strong_count(&places) > CLIENTS => {
                let _ = (&client.stream).write_all(format!("{full}\r\n").as_bytes());
            }
            Ok(Event::Connection(client)) => {
                let (talk, place, client) = (Arc::clone(&talk), Arc::clone(&places), Client::new(client, &stopping));
                let begun = thread::Builder::new().spawn(move || {
                    client.talk(&*talk);
                    drop(place);
                });
                begun.map(drop).unwrap_or_else(|error| eprintln!("no thread for a client: {error}"));
            }
            Ok(Event::Stopped) => break,
            Ok(_) => {}
            Err(error) if matches!(error.downcast_ref(), Some(ListenerError::Failed { .. })) => eprintln!("{error}"), // the other ports go on
            Err(error) => return Err(error),
        }
    }
    drop(listeners);
    let deadline = Instant::now() + LAST_ANSWERS;
    while Arc::strong_count(&places) > 1 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn stop(signals: &mut Signals, stopper: &Stopper) {
    while signals.wait().is_ok_and(|signal| signal == Signal::Reload) {}
    stopper.stop();
}

/// How a line ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Crlf,
    /// In LF without CR, or with a CR inside the line, whatever its length
    Bare,
    /// Beyond the limit; the rest of the line is dropped
    TooLong,
}

/// One client.
pub(crate) struct Client {
    /// Its address; IPv4 as such, also on a dual-stack socket
    pub(crate) peer: IpAddr,
    /// The last line, without its end
    pub(crate) line: Vec<u8>,
    reader: BufReader<Patient>,
    replies: Vec<u8>,
}

impl Client {
    fn new(client: Connection, stopping: &Arc<AtomicBool>) -> Client {
        let peer = client.peer.ip();
        let stopping = Arc::clone(stopping);
        let patient = Patient { stream: client.stream, until: Instant::now(), stopping, is_held: false };
        Client { peer, line: Vec::new(), reader: BufReader::new(patient), replies: Vec::new() }
    }

    fn talk(mut self, talk: &dyn Fn(&mut Client) -> io::Result<()>) {
        // Errors are ignored: the client has gone.
        let set = self.reader.get_ref().stream.set_write_timeout(Some(LINE));
        if set.and_then(|()| talk(&mut self)).and_then(|()| self.send()).is_ok() {
            let _ = close_gracefully(self.reader.into_inner().stream, CloseLimits::default());
        }
    }

    /// Adds a line to the replies. Replies to pipelined commands are sent together, when no further line has arrived,
    /// or when there are many.
    pub(crate) fn reply(&mut self, line: impl Display) -> io::Result<()> {
        self.reply_bytes(format!("{line}").as_bytes())
    }

    /// The same, with bytes.
    pub(crate) fn reply_bytes(&mut self, line: &[u8]) -> io::Result<()> {
        self.replies.extend_from_slice(line);
        self.replies.extend_from_slice(b"\r\n");
        if self.replies.len() > 64 << 10 { self.send() } else { Ok(()) }
    }

    /// Begins a transaction that may finish although the server ends.
    pub(crate) fn begin_transaction(&mut self) {
        self.reader.get_mut().is_held = true;
    }

    /// Ends the transaction.
    pub(crate) fn end_transaction(&mut self) {
        self.reader.get_mut().is_held = false;
    }

    /// Reads a line of at most `limit` bytes, its end included.
    ///
    /// Errors: TimedOut if it took too long or the server ends; UnexpectedEof if the client closed the connection.
    pub(crate) fn read_line(&mut self, limit: usize) -> io::Result<Ending> {
        if !self.reader.buffer().contains(&b'\n') {
            self.send()?;
        }
        self.reader.get_mut().until = Instant::now() + LINE;
        let (mut pieces, mut returns, mut before) = (0, 0, 0);
        loop {
            self.line.clear();
            (&mut self.reader).take(limit as u64).read_until(b'\n', &mut self.line)?;
            let Some(&last) = self.line.last() else { return Err(ErrorKind::UnexpectedEof.into()) };
            pieces += 1;
            returns += self.line.iter().filter(|&&byte| byte == b'\r').count();
            before = if let [.., before, _] = self.line[..] { before } else { before };
            if last == b'\n' {
                break;
            }
            before = last;
        }
        // A line may be both too long and bare. Bare is the more serious error.
        let is_crlf = before == b'\r' && returns == 1;
        self.line.truncate(self.line.len().saturating_sub(if is_crlf { 2 } else { 1 }));
        Ok(match pieces {
            _ if !is_crlf => Ending::Bare,
            1 => Ending::Crlf,
            _ => Ending::TooLong,
        })
    }

    fn send(&mut self) -> io::Result<()> {
        (&self.reader.get_ref().stream).write_all(&mem::take(&mut self.replies))
    }
}

/// Reads until a deadline, however slowly the bytes come, or until the server ends.
struct Patient {
    stream: TcpStream,
    until: Instant,
    stopping: Arc<AtomicBool>,
    is_held: bool,
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stopping.load(Ordering::SeqCst) && !self.is_held {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left.min(Duration::from_millis(500))))?;
            match self.stream.read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }
}
