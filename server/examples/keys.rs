//! A telnet server that gets one character at a time: `keys [ENDPOINT]`. It names each key as it is pressed; q ends.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;

use portgrant_server::telnet::Telnet;
use portgrant_server::{Error, Sockets};

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keys: {error}");
            ExitCode::from(error.status())
        }
    }
}

fn serve() -> Result<(), Error> {
    let sockets = match Sockets::inherited()? {
        Some(sockets) => sockets,
        None => Sockets::request([std::env::args().nth(1).as_deref().unwrap_or("23")])?,
    };
    for socket in sockets {
        let listener = socket.into_tcp()?;
        while let Ok((client, _)) = portgrant_server::accept(&listener) {
            std::thread::spawn(move || name_keys(client));
        }
    }
    Ok(())
}

fn name_keys(client: TcpStream) -> io::Result<()> {
    let mut client = Telnet::by_character(client)?;
    writeln!(client, "press keys, q to end")?;
    let mut key = [0];
    while client.read(&mut key)? > 0 && key != *b"q" {
        let window = client.window().map_or("unknown".to_owned(), |w| format!("{} by {}", w.columns, w.rows));
        writeln!(client, "key {:?}, window {window}", char::from(key[0]))?;
    }
    writeln!(client, "bye")
}
