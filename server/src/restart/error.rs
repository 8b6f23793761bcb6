//! Errors of restarts: of the predecessor, the successor, and the control socket.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use portgrant_protocol::status;
use portgrant_protocol::text::printable;

use crate::adopting::environment::PREDECESSOR;
use crate::failure::{Report, failure, quoted, shown};

/// Why the next generation does not take over
#[derive(Debug)]
#[non_exhaustive]
pub enum RestartError {
    /// `PORTGRANT_PREDECESSOR` is set, but no predecessor started this process
    NotPredecessor {
        /// Its value, made printable
        value: String,
        /// What is wrong with it
        why: &'static str,
    },
    /// The predecessor ended during the handover
    PredecessorGone {
        /// Its pid
        pid: u32,
    },
    /// The program of the next generation cannot be executed
    Successor {
        /// Its path
        program: PathBuf,
        /// Why not
        source: io::Error,
    },
    /// The next generation ended before it served
    SuccessorEnded {
        /// Its pid
        pid: u32,
        /// How it ended; unknown if SIGCHLD is ignored, or if it closed its conversation first
        status: Option<ExitStatus>,
    },
    /// The next generation reported that it cannot serve
    SuccessorFailed {
        /// Its pid
        pid: u32,
        /// Its message
        message: String,
    },
    /// The next generation was not ready in time, and was ended
    SuccessorSlow {
        /// Its pid
        pid: u32,
        /// The time that it had
        limit: Duration,
    },
    /// Another successor is starting
    UpgradeUnderWay {
        /// Its pid
        pid: u32,
        /// How much time it has left
        left: Duration,
    },
    /// The predecessor still finishes its connections
    PredecessorDrains {
        /// Its pid
        pid: u32,
        /// How much time it has left
        left: Duration,
    },
    /// This process is ending, or has a successor
    Retired,
    /// This process is process 1 of its pid namespace, and every other process ends with it
    FirstProcess,
    /// A name under which nothing can be kept for the next generation
    KeptName {
        /// The name
        name: String,
    },
    /// The control socket could not be created or used
    Control {
        /// Its path
        path: PathBuf,
        /// Why not
        source: io::Error,
    },
    /// The path of the control socket is in use by something that must not be replaced
    ControlOccupied {
        /// The path
        path: PathBuf,
        /// What is there
        by: &'static str,
    },
    /// The server did not answer at its control socket
    ControlSilent {
        /// Its path
        path: PathBuf,
    },
}

impl RestartError {
    pub(super) fn report(&self) -> Report<'_> {
        match self {
            RestartError::NotPredecessor { value, why } => Report::what(format!("{PREDECESSOR} is '{value}'"))
                .why(*why)
                .fix("unset it: only a process that a server starts as its successor may have it"),
            RestartError::PredecessorGone { pid } => {
                Report::what(format!("the predecessor (process {pid}) ended during the handover"))
                    .fix("start the server again")
            }
            RestartError::Successor { program, source } => {
                Report::what(format!("cannot run the next generation {}", shown(program)))
                    .because(source)
                    .fix("install an executable program at that path and try again; the running server is not affected")
            }
            RestartError::SuccessorEnded { pid, status } => {
                Report::what(format!("the next generation (process {pid}) ended before it served"))
                    .why_if_known(status.map(|status| format!("it ended with {status}")))
                    .fix(SEE_ITS_WORDS)
            }
            RestartError::SuccessorFailed { pid, message } => {
                Report::what(format!("the next generation (process {pid}) cannot serve"))
                    .why(printable(message.as_bytes()))
                    .fix(SEE_ITS_WORDS)
            }
            RestartError::SuccessorSlow { pid, limit } => {
                Report::what(format!("the next generation (process {pid}) was not ready in time"))
                    .why(format!("it was ended after {}", seconds(*limit)))
                    .fix("check what it waits for, or allow more time; the running server is not affected")
            }
            RestartError::UpgradeUnderWay { pid, left } => Report::what("another upgrade is in progress")
                .why(format!("process {pid} is starting and has {} left", seconds(*left)))
                .fix(WAIT),
            RestartError::PredecessorDrains { pid, left } => Report::what("the last upgrade is not finished")
                .why(format!("process {pid} still has connections to finish, and {} left", seconds(*left)))
                .fix(WAIT),
            RestartError::Retired => Report::what("this process accepts no more work")
                .why("it has a successor, or is stopping")
                .fix("ask the process that serves now"),
            RestartError::FirstProcess => Report::what("process 1 cannot be replaced")
                .why("the kernel ends every process of a pid namespace together with its process 1")
                .fix("restart the container, or run the server under a service manager in the container"),
            RestartError::KeptName { name } => {
                Report::what(format!("{} is not a valid name for something to keep", quoted(name)))
                    .why("a name has 1 to 128 characters of printable ASCII")
                    .fix("choose another")
            }
            RestartError::Control { path, source } => {
                Report::what(format!("cannot use the control socket {}", shown(path)))
                    .because(source)
                    .fix("check that the server is running, that the folder exists, and that this user may use it")
                    .status(status::UNAVAILABLE)
            }
            RestartError::ControlOccupied { path, by } => {
                Report::what(format!("cannot create a control socket at {}", shown(path)))
                    .why(format!("the path is {by}"))
                    .fix("choose another path, or stop the program that uses this one")
            }
            RestartError::ControlSilent { path } => {
                Report::what(format!("the server at {} did not answer", shown(path)))
                    .why("it ended, or did not answer in time")
                    .fix("read the server's log, and check whether the server is running")
            }
        }
    }
}

failure!(RestartError);

const SEE_ITS_WORDS: &str =
    "read what it wrote to standard error, or start it by hand; the running server is not affected";
const WAIT: &str = "wait until it is finished, and try again";

fn seconds(time: Duration) -> String {
    format!("{:.1} seconds", time.as_secs_f32())
}
