//! A web server that says which user it runs as: `hello [--inetd | ENDPOINT]`.
//!
//! Started by portgrant or by a service manager it serves on the sockets that it is handed. Started by hand it asks for
//! ENDPOINT, or for port 80.
//!
//! ```text
//! $ portgrant exec -l 127.0.0.1:80 -- hello &
//! $ curl http://127.0.0.1/
//! hello from uid 1000 at 127.0.0.1:80
//! ```

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use portgrant_server::{Error, Sockets};

fn main() -> ExitCode {
    match sockets().and_then(listeners) {
        Ok(listeners) => serve(listeners),
        Err(error) => {
            eprintln!("hello: {error}");
            ExitCode::from(error.status())
        }
    }
}

fn sockets() -> Result<Sockets, Error> {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some("--inetd") {
        return Sockets::inetd();
    }
    match Sockets::inherited()? {
        Some(sockets) => Ok(sockets),
        None => Sockets::request([argument.as_deref().unwrap_or("80")]),
    }
}

fn listeners(sockets: Sockets) -> Result<Vec<TcpListener>, Error> {
    sockets.into_iter().map(|socket| socket.into_tcp()).collect()
}

/// A thread a listener; it ends only if a listener fails.
fn serve(listeners: Vec<TcpListener>) -> ExitCode {
    let threads: Vec<_> = listeners.into_iter().map(|listener| std::thread::spawn(move || accept(&listener))).collect();
    for thread in threads {
        if let Ok(Err(error)) = thread.join() {
            eprintln!("hello: accept: {error}");
        }
    }
    ExitCode::FAILURE
}

fn accept(listener: &TcpListener) -> io::Result<()> {
    loop {
        let (client, _) = listener.accept()?;
        if let Err(error) = answer(&client) {
            eprintln!("hello: {error}");
        }
    }
}

/// Any request, up to its empty line, gets the one answer.
fn answer(client: &TcpStream) -> io::Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(5)))?;
    let request = BufReader::new(client.take(8192));
    for line in request.lines() {
        if line?.is_empty() {
            break;
        }
    }
    let mut local = client.local_addr()?;
    local.set_ip(local.ip().to_canonical());
    let body = format!("hello from uid {} at {local}\n", rustix::process::getuid().as_raw());
    let mut client = client;
    write!(client, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}
