//! A telnet server that runs a program on a terminal for each client: `terminal ENDPOINT PROGRAM [ARG...]`.
//!
//! ```text
//! $ portgrant exec -l 23 -- terminal 23 bastet
//! $ telnet localhost
//! ```
//!
//! Anybody who can connect runs that program as this user, without a password: it is for games, not for shells.

use std::process::{Command, ExitCode};

use portgrant_server::telnet::Terminal;
use portgrant_server::{Error, Sockets};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let endpoint = arguments.next().and_then(|endpoint| endpoint.into_string().ok());
    let (Some(endpoint), Some(program)) = (endpoint, arguments.next()) else {
        eprintln!("terminal: expected terminal ENDPOINT PROGRAM [ARG...]");
        return ExitCode::from(64);
    };
    let arguments: Vec<_> = arguments.collect();
    let command = move || {
        let mut command = Command::new(&program);
        command.args(&arguments);
        command
    };
    match serve(&endpoint, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("terminal: {error}");
            ExitCode::from(error.status())
        }
    }
}

fn serve(endpoint: &str, command: impl Fn() -> Command) -> Result<(), Error> {
    let sockets = match Sockets::inherited()? {
        Some(sockets) => sockets,
        None => Sockets::request([endpoint])?,
    };
    for socket in sockets {
        let listener = socket.into_tcp()?;
        while let Ok((client, _)) = portgrant_server::accept(&listener) {
            let terminal = Terminal::new(command());
            std::thread::spawn(move || match terminal.serve(client) {
                Ok(ended) => println!("a program ended: {}", ended.map_or("unknown".to_owned(), |e| e.to_string())),
                Err(error) => eprintln!("terminal: {error}"),
            });
        }
    }
    Ok(())
}
