//! A server that accepts further sockets while it runs: `mailbox PATH`.
//!
//! It starts without sockets, creates its socket file at PATH, and greets clients on every listener that is sent there.
//! `portgrant pass --to PATH` sends one; so can any other program that writes portgrant's records.

use std::io::Write;
use std::net::TcpListener;
use std::process::ExitCode;

use portgrant_server::{Error, Mailbox, Sockets};

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("mailbox: no path is given; expected mailbox PATH");
        return ExitCode::from(64);
    };
    let mailbox = match Mailbox::bind(path) {
        Ok(mailbox) => mailbox,
        Err(error) => {
            eprintln!("mailbox: {error}");
            return ExitCode::from(error.status());
        }
    };
    loop {
        // After an error of one peer, the next one is served.
        if let Err(error) = mailbox.receive().and_then(greet_on_each) {
            eprintln!("mailbox: {error}");
        }
    }
}

fn greet_on_each(sockets: Sockets) -> Result<(), Error> {
    for socket in sockets {
        println!("{} at {}", socket.name(), socket.local()?);
        let listener = socket.into_tcp()?;
        std::thread::spawn(move || greet(&listener));
    }
    Ok(())
}

fn greet(listener: &TcpListener) {
    while let Ok((mut client, peer)) = portgrant_server::accept(listener) {
        let _ = writeln!(client, "hello, {}", peer.ip());
    }
}
