//! The launcher: it asks the helper for sockets, and becomes the program that serves on them.
//!
//! Runs without privilege. Whatever it does, the program gets what the launcher's caller had, and the sockets: the same
//! signal dispositions and mask, environment, working directory, umask, limits and descriptors. So nothing here changes
//! any of these on the way, and what the launcher opens itself is close-on-exec.

mod accept;
mod arguments;
mod error;
mod exec;
mod explain;
mod helper;
mod program;

use std::ffi::{CString, OsString};
use std::io::Write;

use log::LevelFilter;
use portgrant_protocol::text::printable;
use portgrant_protocol::{listen, status};
use portgrant_server::Message;

pub use arguments::{Accept, Arguments, Command, Exec, Explain};
pub use error::Error;

/// What execve(2) handed over.
#[derive(Debug)]
pub struct Start {
    /// argv
    pub arguments: Vec<OsString>,
    /// envp, byte for byte
    pub environment: Vec<CString>,
}

/// From the entry point to the exit status. Does not return where another program is executed.
pub fn run(start: Start) -> u8 {
    listen::occupy_standard_descriptors();
    let Err(error) = arguments::parse(&start.arguments).and_then(|arguments| {
        log_steps(arguments.verbose > 0);
        match arguments.command {
            Command::Exec(asked) => exec::exec(&asked, start.environment),
            Command::Explain(asked) => explain::explain(&asked, &start.environment),
        }
    });
    if let Error::Answered(text) = &error { answer(text) } else { complain(&error) }
}

/// With `-v`, each step on standard error. RUST_LOG is not read: what the launcher writes is up to its own options, and
/// the variable is the program's.
fn log_steps(verbose: bool) {
    let level = if verbose { LevelFilter::Debug } else { LevelFilter::Off };
    let mut steps = env_logger::Builder::new();
    steps.filter_level(level).format(|to, record| {
        let step = record.args().to_string();
        writeln!(to, "portgrant: {}", printable(step.as_bytes()))
    });
    // It fails only where there is a logger already.
    let _ = steps.try_init();
}

fn answer(text: &str) -> u8 {
    let mut output = std::io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Ok(()) => status::OK,
        Err(_) => status::SYSTEM,
    }
}

fn complain(error: &Error) -> u8 {
    say(&error.message());
    error.status()
}

/// In one write, so that it stays in one piece among what others write.
pub(crate) fn say(message: &Message) {
    let mut text = format!("portgrant: {}\n", message.what);
    for (label, part) in [("why", &message.why), ("fix", &message.fix)] {
        if let Some(part) = part {
            text.push_str(&format!("  {label}: {part}\n"));
        }
    }
    let _ = std::io::stderr().write_all(text.as_bytes());
}
