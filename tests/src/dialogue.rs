//! Clients: a dialogue in lines, as NNTP and SMTP have it, and one HTTP request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to a server that answers commands with numbered replies.
#[derive(Debug)]
pub struct Dialogue {
    stream: BufReader<TcpStream>,
    transcript: String,
}

impl Dialogue {
    /// Connects, trying again for a while where nothing listens yet.
    ///
    /// # Panics
    /// With the reason, when that does not succeed.
    #[track_caller]
    #[must_use]
    pub fn with(address: &str) -> Self {
        Self { stream: BufReader::new(connect(address)), transcript: format!("with {address}\n") }
    }

    /// Sends a line.
    #[track_caller]
    pub fn say(&mut self, line: &str) {
        self.transcript += &format!("> {line}\n");
        self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap_or_else(|e| self.fail(&e.to_string()));
    }

    /// Receives a reply, of several lines where they are marked so (`250-`), and returns it without the codes.
    ///
    /// # Panics
    /// With the whole dialogue, when it has another code.
    #[track_caller]
    pub fn hear(&mut self, code: &str) -> String {
        let mut reply = String::new();
        loop {
            let line = self.line();
            let Some(text) = line.strip_prefix(code) else { self.fail(&format!("not a reply {code}")) };
            reply += text.get(1..).unwrap_or_default();
            if !text.starts_with('-') {
                return reply;
            }
            reply.push('\n');
        }
    }

    /// Receives NNTP's lines of text up to the one that is a dot.
    #[track_caller]
    pub fn text(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            match self.line() {
                line if line == "." => return lines,
                line => lines.push(line),
            }
        }
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => self.fail("the server hung up"),
            Ok(_) => self.transcript += &format!("< {}\n", line.trim_end()),
            Err(e) => self.fail(&e.to_string()),
        }
        line.trim_end().to_owned()
    }

    #[track_caller]
    fn fail(&self, reason: &str) -> ! {
        panic!("{reason}\n{}", self.transcript);
    }
}

/// Asks for `path` and returns the reply, head and body.
#[track_caller]
#[must_use]
pub fn http_get(address: &str, path: &str) -> String {
    let mut stream = connect(address);
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap_or_else(|e| panic!("GET {path} from {address}: {e}"));
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap_or_else(|e| panic!("GET {path} from {address}: {e}, after {reply:?}"));
    reply
}

#[track_caller]
fn connect(address: &str) -> TcpStream {
    let deadline = Instant::now() + PATIENCE;
    let stream = loop {
        match TcpStream::connect(address) {
            Ok(stream) => break stream,
            Err(e) if Instant::now() > deadline => panic!("no connection to {address}: {e}"),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    };
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream
}
