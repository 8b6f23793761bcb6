//! One character at a time: telnet's negotiation as a filter on a stream, and a program on a pseudo-terminal.
//!
//! On a plain connection the client keeps and edits a line, and sends it when the user presses Enter. A telnet server
//! that sends WILL ECHO and WILL SUPPRESS-GO-AHEAD (RFC 857, 858) receives each key as it is pressed, and shows it
//! itself. Requests and answers follow RFC 1143, so that two sides never answer each other for ever.
//!
//! [`Telnet`] is for a program that reads keys. [`Terminal`] runs a program on its own terminal, whose size follows the
//! client's window (NAWS, RFC 1073). Nothing is encrypted here, and nobody is asked for a password.

mod codec;
mod error;
mod negotiation;
mod terminal;

use std::io::{self, Read, Write};
use std::net::TcpStream;

use rustix::net::sockopt;

#[cfg(fuzzing)]
pub(crate) use codec::fuzz;
use codec::{Codec, Lines};
pub use error::TelnetError;
use negotiation::Side;
pub use negotiation::{ECHO, NAWS, SUPPRESS_GO_AHEAD, TERMINAL_TYPE};
pub use terminal::Terminal;

/// The size of the client's window in characters. Zero if the client does not know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Characters in a line
    pub columns: u16,
    /// Lines
    pub rows: u16,
}

/// A stream without telnet commands: it reads what the user typed, and writes what the client shows.
///
/// Requests from the other side are answered while you read. Only these options are accepted: echo and
/// suppress-go-ahead on this side; suppress-go-ahead, window size and terminal type on the other. The ends of lines are
/// those of a text: `\n` is CR LF on the connection, in both directions, and a single CR is CR NUL. Interrupt, erase
/// and similar commands are read as control characters (`\x03`, `\x7f`). The stream must block (a time-out is allowed),
/// since answers are written whole.
///
/// ```
/// use std::io::{Read, Write};
/// use std::net::{TcpListener, TcpStream};
///
/// use portgrant_server::telnet::Telnet;
///
/// # let listener = TcpListener::bind("127.0.0.1:0")?;
/// # let mut typing = TcpStream::connect(listener.local_addr()?)?;
/// # typing.write_all(b"\xff\xfd\x01q")?;
/// let (client, _) = listener.accept()?;
/// let mut client = Telnet::by_character(client)?;
/// let mut key = [0];
/// while client.read(&mut key)? > 0 {
///     write!(client, "you pressed {:?}\n", char::from(key[0]))?;
///     if key == *b"q" {
///         break;
///     }
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Telnet<S> {
    stream: S,
    codec: Codec,
    data: Vec<u8>,
    read: usize,
}

impl Telnet<TcpStream> {
    /// Asks the client for one character at a time, the size of its window and the type of its terminal.
    ///
    /// It also has urgent data delivered in line, as telnet's Synch needs. Out of line, half of a command is lost.
    pub fn by_character(stream: TcpStream) -> io::Result<Telnet<TcpStream>> {
        prepare(&stream)?;
        let mut telnet = Telnet::new(stream);
        telnet.codec.ask_for_characters();
        telnet.send()?;
        Ok(telnet)
    }
}

/// No command may be cut by urgent data, and no key may wait for the next one.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_oobinline(stream, true)?;
    stream.set_nodelay(true)
}

impl<S: Read + Write> Telnet<S> {
    /// Asks for nothing.
    pub fn new(stream: S) -> Telnet<S> {
        Telnet { stream, codec: Codec::new(Lines::Text), data: Vec::new(), read: 0 }
    }

    /// Offers `option` on this side, or ends it: WILL, WONT.
    pub fn offer(&mut self, option: u8, on: bool) -> io::Result<()> {
        self.codec.ask(Side::Local, option, on);
        self.send()
    }

    /// Asks the other side for `option`, or to end it: DO, DONT.
    pub fn ask(&mut self, option: u8, on: bool) -> io::Result<()> {
        self.codec.ask(Side::Remote, option, on);
        self.send()
    }

    /// Whether `option` is on at this side, accepted by both.
    pub fn does(&self, option: u8) -> bool {
        self.codec.is_on(Side::Local, option)
    }

    /// Whether `option` is on at the other side, accepted by both.
    pub fn peer_does(&self, option: u8) -> bool {
        self.codec.is_on(Side::Remote, option)
    }

    /// The size of the client's window, as it was last reported.
    pub fn window(&self) -> Option<Window> {
        self.codec.window()
    }

    /// The type of the client's terminal, suitable for TERM: letters, digits, `-`, `+`, `_`. `unknown` for any other
    /// value.
    pub fn terminal_type(&self) -> Option<&str> {
        self.codec.terminal()
    }

    /// The underlying stream.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    fn send(&mut self) -> io::Result<()> {
        let output = std::mem::take(&mut self.codec.output);
        self.stream.write_all(&output)
    }
}

impl<S: Read + Write> Read for Telnet<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.data.len() {
            let mut bytes = [0; 4096];
            let length = self.stream.read(&mut bytes)?;
            if length == 0 {
                return Ok(0);
            }
            (self.read, self.data) = (0, Vec::new());
            self.codec.decode(bytes.get(..length).unwrap_or_default(), &mut self.data);
            self.send()?;
        }
        let length = self.data.get(self.read..).unwrap_or_default().read(buffer)?;
        self.read += length;
        Ok(length)
    }
}

impl<S: Read + Write> Write for Telnet<S> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.codec.encode(data);
        self.send()?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
