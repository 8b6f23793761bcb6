//! One character at a time: telnet's negotiation as a filter on a stream, and a program on a pseudo-terminal behind it.
//!
//! A plain connection delivers a line when the user presses Enter, because the client keeps and edits it. A telnet
//! server that says WILL ECHO and WILL SUPPRESS-GO-AHEAD (RFC 857, 858) gets each key as it is pressed, and shows it
//! itself. Requests and answers follow RFC 1143, so that no two sides answer each other for ever, whatever they are.
//!
//! [`Telnet`] is for a program that reads keys; [`Terminal`] runs one on a terminal of its own, whose size follows the
//! client's window (NAWS, RFC 1073). Nothing here is encrypted, and nobody is asked for a password.

mod codec;
mod error;
mod negotiation;
mod terminal;

use std::io::{self, Read, Write};
use std::net::TcpStream;

use rustix::net::sockopt;

use codec::{Codec, Lines};
pub use error::TelnetError;
use negotiation::Side;
pub use negotiation::{ECHO, NAWS, SUPPRESS_GO_AHEAD, TERMINAL_TYPE};
pub use terminal::Terminal;

/// The size of the client's window in characters. Zero where the client does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Characters in a line
    pub columns: u16,
    /// Lines
    pub rows: u16,
}

/// A stream without its telnet commands: what is read is what was typed, what is written is what is shown.
///
/// Requests of the other side are answered while it is read. Nothing is agreed to but echo and suppress-go-ahead here,
/// and suppress-go-ahead, window size and terminal type there. The ends of lines are text's: `\n` is CR LF on the
/// connection, in both directions, and a lone CR is CR NUL. Interrupt, erase and their like are read as control
/// characters (`\x03`, `\x7f`). The stream must block (a time-out is well), as answers are written whole.
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
    /// Asks the client for one character at a time, its window's size and its terminal's type.
    ///
    /// It also has urgent data delivered in line, as telnet's Synch needs: taken out of line, half a command is lost.
    pub fn by_character(stream: TcpStream) -> io::Result<Telnet<TcpStream>> {
        prepare(&stream)?;
        let mut telnet = Telnet::new(stream);
        telnet.codec.ask_for_characters();
        telnet.send()?;
        Ok(telnet)
    }
}

/// No command may be cut by urgent data, and no key wait for the next.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_oobinline(stream, true)?;
    stream.set_nodelay(true)
}

impl<S: Read + Write> Telnet<S> {
    /// Asks for nothing.
    pub fn new(stream: S) -> Telnet<S> {
        Telnet { stream, codec: Codec::new(Lines::Text), data: Vec::new(), read: 0 }
    }

    /// Offers to do `option` here, or to stop it: WILL, WONT.
    pub fn offer(&mut self, option: u8, on: bool) -> io::Result<()> {
        self.codec.ask(Side::Local, option, on);
        self.send()
    }

    /// Asks the other side to do `option`, or to stop it: DO, DONT.
    pub fn ask(&mut self, option: u8, on: bool) -> io::Result<()> {
        self.codec.ask(Side::Remote, option, on);
        self.send()
    }

    /// Whether `option` is done here, agreed to by both.
    pub fn does(&self, option: u8) -> bool {
        self.codec.is_on(Side::Local, option)
    }

    /// Whether the other side does `option`, agreed to by both.
    pub fn peer_does(&self, option: u8) -> bool {
        self.codec.is_on(Side::Remote, option)
    }

    /// The size of the client's window, as it was last told.
    pub fn window(&self) -> Option<Window> {
        self.codec.window()
    }

    /// The type of the client's terminal, fit for TERM: letters, digits, `-`, `+`, `_`; `unknown` for anything else.
    pub fn terminal_type(&self) -> Option<&str> {
        self.codec.terminal()
    }

    /// The stream below.
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
