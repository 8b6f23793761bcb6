//! A web server with threads that says which user it runs as: `hello [--inetd | [--workers N] ENDPOINT]`.
//!
//! If portgrant or a service manager starts it, it serves on the sockets that it gets. Otherwise it binds or asks for
//! ENDPOINT, or port 80; with `--workers`, N sockets share the port.
//!
//! ```text
//! $ portgrant exec -l 127.0.0.1:80 -- hello &
//! $ curl http://127.0.0.1/
//! hello from uid 1000 at 127.0.0.1:80
//! ```
//!
//! A fixed number of threads accept connections. If all are busy, new clients wait in the kernel's queue, so clients
//! cannot make the server grow. A silent client holds a thread only for some seconds; for thousands of silent clients
//! see `web`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::iter;
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use portgrant_server::{CloseLimits, Error, KeepAlive, Server, Sockets, StreamOptions, close_gracefully, status};

/// Clients at once, on all sockets together.
const THREADS: usize = 64;
/// The longest head of a request, and how long it may take after the previous request.
const HEAD: u64 = 8192;
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// How many requests one connection may have, so that other clients get a thread.
const REQUESTS: usize = 1000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let sockets = match words[..] {
        ["--inetd"] => Sockets::inetd(),
        ["--workers", number, endpoint] => match number.parse() {
            Ok(number @ 1..) => {
                Server::new().and_then(|mut server| Ok(server.group(endpoint, number)?.into_iter().collect()))
            }
            Ok(0) | Err(_) => return usage(),
        },
        [] => sockets("80"),
        [endpoint] => sockets(endpoint),
        _ => return usage(),
    };
    match sockets.and_then(serve) {
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("hello: {error}");
            ExitCode::from(error.status())
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: hello [--inetd | [--workers N] ENDPOINT]");
    ExitCode::from(status::USAGE)
}

fn sockets(endpoint: &str) -> Result<Sockets, Error> {
    match Sockets::inherited()? {
        Some(sockets) => Ok(sockets),
        None => Ok(iter::once(Server::default().listen(endpoint)?).collect()),
    }
}

/// The same number of threads for each socket. The threads do not end.
fn serve(sockets: Sockets) -> Result<(), Error> {
    let keep_alive = KeepAlive { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 6 };
    let options = StreamOptions::new().keep_alive(keep_alive).user_timeout(keep_alive.notices_within());
    let listeners: Result<Vec<TcpListener>, Error> = sockets.into_iter().map(|socket| socket.into_tcp()).collect();
    let listeners = listeners?;
    let threads = THREADS.div_ceil(listeners.len().max(1));
    let blocking = |source| Error::system("cannot make a listener blocking", source);
    let mut all = Vec::new();
    for listener in listeners {
        options.apply(&listener)?;
        listener.set_nonblocking(false).map_err(blocking)?; // some service managers hand over others
        let listener = Arc::new(listener);
        for _ in 0..threads {
            let listener = Arc::clone(&listener);
            all.push(thread::spawn(move || accept(&listener)));
        }
    }
    all.into_iter().for_each(|thread| drop(thread.join()));
    Ok(())
}

fn accept(listener: &TcpListener) {
    loop {
        match portgrant_server::accept(listener) {
            Ok((client, from)) => {
                if let Err(error) = converse(client) {
                    eprintln!("hello: {from}: {error}");
                }
            }
            Err(error) => return eprintln!("hello: accept: {error}"),
        }
    }
}

/// Answers all requests of a client. The connection is closed so that the client gets the last answer.
fn converse(client: TcpStream) -> Result<(), Error> {
    // This can only fail if the client has gone. Then the next call fails as well.
    let _ = client.set_nodelay(true);
    let _ = client.set_write_timeout(Some(TIME_LIMIT));
    let mut reader = BufReader::new(Patient { client: &client, until: Instant::now() });
    for number in 1..=REQUESTS {
        reader.get_mut().until = Instant::now() + TIME_LIMIT;
        let Ok(Some(request)) = Request::read(&mut reader) else { break };
        let keeps = request.keeps_alive && number < REQUESTS;
        if request.answer(&client, keeps).is_err() || !keeps {
            break;
        }
    }
    close_gracefully(client, CloseLimits { time: TIME_LIMIT, ..CloseLimits::default() }).map(drop)
}

/// Reads until a deadline: a client that sends single bytes does not extend it.
struct Patient<'a> {
    client: &'a TcpStream,
    until: Instant,
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.client.set_read_timeout(Some(left))?;
        self.client.read(buffer)
    }
}

/// The parts of a request that are used (RFC 9112). Every path gets the same answer.
struct Request {
    status: &'static str,
    has_body: bool,
    keeps_alive: bool,
}

impl Request {
    /// `None` if the client closed the connection, or if a line was too long.
    fn read(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
        let mut head = String::new();
        let mut reader = reader.take(HEAD);
        let first = reader.read_line(&mut head)?;
        let words: Vec<&str> = head.trim_end().split(' ').collect();
        let mut request = match words[..] {
            _ if first == 0 => return Ok(None),
            [method, _, version @ ("HTTP/1.0" | "HTTP/1.1")] => {
                Request { status: "200 OK", has_body: method != "HEAD", keeps_alive: version == "HTTP/1.1" }
            }
            _ => return Ok(Some(Request::wrong("400 Bad Request"))),
        };
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            match line.to_ascii_lowercase().trim_end().split_once(':') {
                None if line == "\r\n" || line == "\n" => return Ok(Some(request)),
                None if reader.limit() == 0 => return Ok(Some(Request::wrong("431 Request Header Fields Too Large"))),
                None => return Ok(Some(Request::wrong("400 Bad Request"))),
                // With white space here, a proxy and this server could read the header differently (request smuggling).
                Some((name, _)) if name.contains([' ', '\t']) => return Ok(Some(Request::wrong("400 Bad Request"))),
                // The body is not read, so the connection must end: the body must not be taken for a request.
                Some(("content-length" | "transfer-encoding", _)) => request.keeps_alive = false,
                Some(("connection", value)) if value.contains("close") => request.keeps_alive = false,
                Some(_) => {}
            }
        }
    }

    fn wrong(status: &'static str) -> Request {
        Request { status, has_body: true, keeps_alive: false }
    }

    /// One write, so usually one segment.
    fn answer(&self, mut client: &TcpStream, keeps: bool) -> io::Result<()> {
        let mut local = client.local_addr()?;
        local.set_ip(local.ip().to_canonical());
        let body = format!("hello from uid {} at {local}\n", rustix::process::getuid().as_raw());
        let (length, connection) = (body.len(), if keeps { "keep-alive" } else { "close" });
        let head = format!(
            "HTTP/1.1 {}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n",
            self.status
        );
        client.write_all((head + if self.has_body { &body } else { "" }).as_bytes())
    }
}
