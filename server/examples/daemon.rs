//! A server that goes into the background, or stays: `daemon [--foreground] PIDFILE ENDPOINT`.
//!
//! In the background, the exit status is 0 when it serves; an error before that is printed on standard error. In the
//! foreground it notifies a service manager. Each client gets one line. SIGHUP adds 1 to the generation, SIGTERM ends
//! the server.

use std::io::{self, Write};
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use portgrant_server::daemon::Daemon;
use portgrant_server::{Error, Notify, Signal, Signals, Sockets};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ended = match words[..] {
        ["--foreground", endpoint] => foreground(endpoint),
        [pid_file, endpoint] => background(pid_file, endpoint),
        _ => {
            eprintln!("daemon: expected daemon PIDFILE ENDPOINT, or daemon --foreground ENDPOINT");
            return ExitCode::from(64);
        }
    };
    match ended {
        Ok(status) => status,
        Err(error) => {
            eprintln!("daemon: {error}");
            ExitCode::from(error.status())
        }
    }
}

/// The part that runs in the background. The rest is as in `foreground`.
fn background(pid_file: &str, endpoint: &str) -> Result<ExitCode, Error> {
    let inherited = Sockets::inherited()?;
    let starting = Daemon::new().pid_file(pid_file).start()?;
    let begun = begin(inherited, endpoint);
    match begun {
        Ok(signals) => {
            let running = starting.ready()?;
            let ended = serve(signals, None);
            drop(running);
            ended
        }
        Err(error) => {
            eprintln!("daemon: {error}");
            Ok(starting.fail(error.status()))
        }
    }
}

fn foreground(endpoint: &str) -> Result<ExitCode, Error> {
    let signals = begin(Sockets::inherited()?, endpoint)?;
    let manager = Notify::from_environment()?;
    if let Some(manager) = &manager {
        manager.status(&format!("serving {endpoint}"))?;
        manager.ready()?;
    }
    serve(signals, manager)
}

/// Everything that can fail at the start: the sockets, the signals, the threads.
fn begin(inherited: Option<Sockets>, endpoint: &str) -> Result<(Signals, Arc<AtomicU32>), Error> {
    let sockets = match inherited {
        Some(sockets) => sockets,
        None => Sockets::request([endpoint])?,
    };
    let signals = Signals::install()?;
    let generation = Arc::new(AtomicU32::new(1));
    for socket in sockets {
        let (listener, generation) = (socket.into_tcp()?, Arc::clone(&generation));
        std::thread::spawn(move || greet(&listener, &generation));
    }
    Ok((signals, generation))
}

fn greet(listener: &TcpListener, generation: &AtomicU32) -> io::Result<()> {
    loop {
        let (mut client, _) = portgrant_server::accept(listener)?;
        let _ = writeln!(client, "pid {} generation {}", std::process::id(), generation.load(Ordering::SeqCst));
    }
}

fn serve((mut signals, generation): (Signals, Arc<AtomicU32>), manager: Option<Notify>) -> Result<ExitCode, Error> {
    loop {
        match (signals.wait()?, &manager) {
            (Signal::Reload, None) => drop(generation.fetch_add(1, Ordering::SeqCst)),
            (Signal::Reload, Some(manager)) => {
                manager.reloading()?;
                generation.fetch_add(1, Ordering::SeqCst);
                manager.ready()?;
            }
            (Signal::Terminate, manager) => {
                manager.as_ref().map_or(Ok(()), Notify::stopping)?;
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}
