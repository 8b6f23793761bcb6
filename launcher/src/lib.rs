//! The launcher: asks the helper for sockets, and becomes the program that serves on them.
//!
//! It has no privilege. Besides the sockets, the program gets everything from the launcher's caller: signal
//! dispositions and mask, environment, working directory, umask, limits and descriptors. So the launcher changes none
//! of these, and opens everything close-on-exec.

#![forbid(unsafe_code)]

mod accept;
mod adoption;
mod arguments;
mod completions;
mod delivery;
mod doctor;
mod environment;
mod error;
mod exec;
mod helper;
mod nearest;
mod output;
mod pass;
mod podman;
mod policy;
mod program;
mod recipe;
mod refusals;
mod run;
mod servers;
mod sources;
mod stderr;
mod unprivileged;
mod who;

use std::ffi::{CString, OsStr, OsString};
use std::io::Write;

use log::LevelFilter;
use portgrant_protocol::record::{RecordError, Reply};
use portgrant_protocol::status;
use portgrant_protocol::text::printable;
use portgrant_server::error::{BindError, HandoverError, RequestError};
use portgrant_server::{Kind, Message};

pub use arguments::{
    Accept, Arguments, Check, Command, Completions, Doctor, Exec, Explain, Format, Import, Life, List, Log, MaxRate,
    Origin, Pass, Place, Recipe, Run, Who, Writing,
};
pub use delivery::DeliveryError;
pub use error::Error;

/// The arguments of the launcher's own execve(2).
#[derive(Debug)]
pub struct Start {
    /// argv
    pub arguments: Vec<OsString>,
    /// envp, byte for byte
    pub environment: Vec<CString>,
}

/// Runs the launcher, and returns the exit status. Does not return if another program is executed.
pub fn run(start: Start) -> u8 {
    let _ = portgrant_sys::occupy_standard_descriptors();
    if let [_, word, record] = start.arguments.as_slice()
        && word == "answer"
    {
        return failed(record);
    }
    let Err(error) = arguments::parse(&start.arguments).and_then(|arguments| {
        if arguments.verbose > 0 {
            log_steps();
        }
        match arguments.command {
            Command::Exec(asked) => exec::exec(&asked, start.environment),
            Command::Run(asked) => run::run(&asked, start.environment),
            Command::Pass(asked) => pass::pass(&asked),
            Command::Explain(asked) if asked.why_denied => refusals::print(asked.format, &start.environment),
            Command::Explain(asked) => policy::explain(&asked, &start.environment),
            Command::List(asked) => policy::list(&asked, &start.environment),
            Command::Check(asked) => policy::check(&asked, &start.environment),
            Command::Who(asked) => who::who(&asked),
            Command::Doctor(asked) => doctor::doctor(&asked),
            Command::Recipe(asked) => recipe::recipe(&asked),
            Command::Import(asked) => policy::import(&asked, &start.environment),
            Command::Completions(asked) => Err(Error::Answered(completions::script(&asked.shell))),
        }
    });
    let answered = if let Error::Answered(text) = &error { Some(output::print(text)) } else { None };
    let error = match answered {
        Some(Ok(())) => return status::OK,
        Some(Err(unwritten)) => unwritten,
        None => error,
    };
    if !matches!(error, Error::Printed(_) | Error::Ended { .. }) {
        output::report(&error.message(), &further_lines(&error));
    }
    error.status()
}

/// Reports a failure of the helper, which executed this program with the record. `portgrant-front` or this program had
/// become the helper.
fn failed(record: &OsStr) -> u8 {
    let error = match Reply::parse(record.as_encoded_bytes()) {
        Ok(Reply::Failed(Message { kind: Kind::InUse, endpoint: Some(endpoint), .. })) => {
            let holders = portgrant_server::holders(&endpoint).unwrap_or_default();
            Error::Sockets(BindError::InUse { endpoint, holders }.into())
        }
        Ok(Reply::Failed(message)) => Error::Failed(Box::new(message)),
        Ok(Reply::Granted { .. }) => Error::Sockets(HandoverError::Record(RecordError::Missing("WHAT")).into()),
        Err(error) => Error::Sockets(HandoverError::Record(error).into()),
    };
    output::report(&error.message(), &further_lines(&error));
    error.status()
}

/// Logs each step to standard error, for `-v`. RUST_LOG is not read, since that variable is for the program.
fn log_steps() {
    let mut steps = env_logger::Builder::new();
    let steps = steps.target(env_logger::Target::Pipe(Box::new(stderr::Stderr)));
    let steps = steps.filter_level(LevelFilter::Debug).format(|to, record| {
        let step = record.args().to_string();
        writeln!(to, "portgrant: {}", printable(step.as_bytes()))
    });
    // It fails only if there is already a logger.
    let _ = steps.try_init();
}

/// Further lines: the holders of an address that is in use, or what is wrong with the helper.
fn further_lines(error: &Error) -> String {
    let Error::Sockets(error) = error else { return String::new() };
    let of_helper = matches!(
        error.downcast_ref(),
        Some(RequestError::HelperMissing { .. } | RequestError::Helper { .. } | RequestError::NoAnswer { .. })
    );
    if let Some(BindError::InUse { endpoint, .. }) = error.downcast_ref() {
        who::holder_lines(endpoint)
    } else if of_helper {
        doctor::first_problem()
    } else {
        String::new()
    }
}
