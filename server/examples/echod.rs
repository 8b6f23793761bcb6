//! An echo server (RFC 862) on tcp and udp: `echod [--workers N] ENDPOINT…`.
//!
//! One call returns each socket, whether it is inherited, bound by this process, or bound by the helper.
//!
//! ```text
//! $ portgrant exec -l 7 -- echod 7 &      # or just: echod 7
//! 7/tcp at [::]:7, adopted
//! $ echod 127.0.0.1:7007/udp 127.0.0.1:7007
//! 7007/udp at 127.0.0.1:7007, bound
//! 7007/tcp at 127.0.0.1:7007, bound
//! ```

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use portgrant_server::{
    CloseLimits, Error, KeepAlive, Origin, Protocol, Server, Socket, StreamOptions, close_gracefully, steer_by_cpu,
};

fn main() -> ExitCode {
    let mut endpoints: Vec<String> = std::env::args().skip(1).collect();
    let mut workers = 1;
    if let [flag, number, ..] = endpoints.as_slice()
        && flag == "--workers"
    {
        let Ok(number) = number.parse() else { return usage() };
        workers = number;
        endpoints.drain(..2);
    }
    if endpoints.is_empty() {
        return usage();
    }
    match sockets(&endpoints, workers).and_then(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echod: {error}");
            ExitCode::from(error.status())
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: echod [--workers N] ENDPOINT...");
    ExitCode::from(portgrant_server::status::USAGE)
}

fn sockets(endpoints: &[String], workers: usize) -> Result<Vec<Socket>, Error> {
    let mut server = Server::new()?;
    let mut all = Vec::new();
    for endpoint in endpoints {
        if workers == 1 {
            all.push(server.listen(endpoint)?);
        } else {
            let group = server.group(endpoint, workers)?;
            steer_by_cpu(&group)?;
            all.extend(group);
        }
    }
    Ok(all)
}

/// One thread for each socket. The threads do not end.
fn serve(sockets: Vec<Socket>) -> Result<(), Error> {
    let mut threads = Vec::new();
    for socket in sockets {
        let info = *socket.info()?;
        let origin = match socket.origin() {
            Origin::Adopted => "adopted",
            Origin::Bound => "bound",
            Origin::Helper => "from the helper",
        };
        println!("{} at {}, {origin}", socket.name(), info.local);
        threads.push(if info.protocol.transport() == Protocol::Udp {
            let socket = socket.into_udp()?;
            thread::spawn(move || datagrams(&socket))
        } else {
            let listener = socket.into_tcp()?;
            // A client that vanishes is noticed after two minutes, even if data is being sent to it.
            let keep_alive = KeepAlive { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 6 };
            let options = StreamOptions::new().keep_alive(keep_alive).user_timeout(keep_alive.notices_within());
            options.apply(&listener)?;
            thread::spawn(move || connections(&listener))
        });
    }
    for thread in threads {
        if let Ok(Err(error)) = thread.join() {
            eprintln!("echod: {error}");
        }
    }
    Ok(())
}

fn datagrams(socket: &UdpSocket) -> io::Result<()> {
    let mut buffer = [0; 65536];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        let _ = socket.send_to(&buffer[..length], from);
    }
}

fn connections(listener: &TcpListener) -> io::Result<()> {
    loop {
        let (stream, from) = portgrant_server::accept(listener)?;
        thread::spawn(move || match echo(stream) {
            Ok(()) => {}
            Err(error) => eprintln!("echod: {from}: {error}"),
        });
    }
}

/// At most 64 KiB. A client that sends more gets a line that says so.
fn echo(mut stream: TcpStream) -> Result<(), Box<dyn std::error::Error>> {
    let echoed = io::copy(&mut (&stream).take(64 << 10), &mut &stream)?;
    if echoed == 64 << 10 {
        stream.write_all(b"\nthat is enough\n")?;
    }
    let outcome = close_gracefully(stream, CloseLimits::default())?;
    if !outcome.is_complete() {
        eprintln!("echod: {:?} after {echoed} bytes, in {}", outcome.peer, outcome.state);
    }
    Ok(())
}
