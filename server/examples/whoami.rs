//! Shows each client its address and name: `whoami [ENDPOINT [SECONDS]]`.
//!
//! The name comes from /etc/hosts or DNS, and is shown only if it has that address. The lookup takes at most SECONDS (5
//! if not given). If portgrant or a service manager starts it, it serves on the sockets that it gets.
//!
//! ```text
//! $ portgrant exec -l 79 -- whoami &
//! $ nc 127.0.0.1 79
//! you are localhost (127.0.0.1)
//! ```

use std::io::{self, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use portgrant_server::{Connection, Error, Event, Listeners, Names, Sockets};

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("whoami: {error}");
            ExitCode::from(error.status())
        }
    }
}

fn serve() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let endpoint = arguments.next().unwrap_or_else(|| "79".to_owned());
    let seconds = arguments.next().and_then(|seconds| seconds.parse().ok()).unwrap_or(5);
    let names = Names::builder().limit(Duration::from_secs(seconds)).build()?;
    let sockets = match Sockets::inherited()? {
        Some(sockets) => sockets,
        None => Sockets::request([endpoint])?,
    };
    let mut listeners = Listeners::from_sockets(sockets)?;
    println!("serving");
    loop {
        match listeners.event()? {
            Event::Connection(client) => {
                let names = names.clone();
                thread::spawn(move || tell(&client, &names));
            }
            Event::Exhausted { source, .. } => eprintln!("whoami: {source}"),
            Event::Stopped => return Ok(()),
            Event::Datagram(_) | Event::Address { .. } | _ => {}
        }
    }
}

fn tell(client: &Connection<TcpStream>, names: &Names) -> io::Result<()> {
    let ip = client.peer.ip();
    let name = names.of(ip);
    println!("{ip}: {name}");
    let mut stream = &client.stream;
    match name.name() {
        Some(name) => writeln!(stream, "you are {name} ({ip})"),
        None => writeln!(stream, "you are {ip}"),
    }
}
