//! A service that inetd starts for each connection: it shows the client both names of the connection.
//!
//! ```text
//! finger  stream  tcp  nowait  alice  /usr/local/bin/caller  caller
//! ```
//!
//! It never listens and never accepts: descriptor 0 is the connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use portgrant_server::Connection;
use portgrant_server::error::AdoptionError;

fn main() -> ExitCode {
    match Connection::inetd() {
        Ok(client) => answer(&client).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
        // The client has gone, which is not worth a message to the administrator.
        Err(error) if matches!(error.downcast_ref(), Some(AdoptionError::PeerGone { .. })) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("caller: {error}");
            ExitCode::from(error.status())
        }
    }
}

/// finger's protocol (RFC 1288): one line of question, then lines of answer up to the end of the connection.
fn answer(client: &Connection) -> io::Result<()> {
    client.stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut question = String::new();
    BufReader::new((&client.stream).take(512)).read_line(&mut question)?;
    println!("this goes nowhere: descriptor 1 was the connection, too");
    let uid = rustix::process::getuid().as_raw();
    let line = format!("you are {} and asked uid {uid} at {}", client.peer.ip(), client.local()?);
    write!(&client.stream, "{line} about '{}'\r\n", question.trim_end().escape_default())
}
