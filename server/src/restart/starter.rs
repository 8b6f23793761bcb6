//! The starter: the process between a predecessor and its successor. It is the parent of the successor, and ends before
//! the successor becomes the main process of the service.
//!
//! systemd stops a main process gracefully only if it is systemd's own child. To another process it sends SIGTERM and
//! at once SIGKILL. A process becomes systemd's child when its parent ends. The predecessor cannot be that parent,
//! since it must live on to finish its connections. So the predecessor starts the program, and the program starts
//! itself once more in [`Generation::begin`](super::Generation::begin):
//!
//! ```text
//! predecessor ── starts ─→ starter ── starts ─→ successor
//!                             │  waits for the successor, ends as the successor ends
//!                             └─ is killed, by either of the others, when the successor serves
//! ```
//! Both wait until the starter has ended. Only then is the successor's pid announced to the service manager.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};

use portgrant_protocol::{decimal, status};
use rustix::process::{Pid, Resource, Rlimit, getpid, getrlimit, setrlimit};
use signal_hook::low_level::emulate_default_handler;

use super::conversation::{Word, say};
use super::error::RestartError;
use super::program::Program;
use super::signals::UpgradeSignals;
use crate::adopting::environment::PREDECESSOR;
use crate::adopting::inetd;
use crate::daemon::leave;
use crate::failure::Error;

/// The value of [`PREDECESSOR`]: the predecessor's pid for the starter; both pids for the successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ancestors {
    pub(super) predecessor: Pid,
    pub(super) starter: Option<Pid>,
}

impl Ancestors {
    /// Reads `PID` or `PID:PID`.
    pub(super) fn parse(value: &str) -> Option<Ancestors> {
        let pid = |text: &str| decimal(text.as_bytes()).filter(|&pid: &i32| pid > 0).and_then(Pid::from_raw);
        match value.split_once(':') {
            None => Some(Ancestors { predecessor: pid(value)?, starter: None }),
            Some((predecessor, starter)) => {
                Some(Ancestors { predecessor: pid(predecessor)?, starter: Some(pid(starter)?) })
            }
        }
    }

    fn value(self) -> OsString {
        let starter = self.starter.map(|pid| format!(":{pid}")).unwrap_or_default();
        format!("{}{starter}", self.predecessor).into()
    }
}

/// Starts the successor, which takes over descriptor 0, and ends as it ends. Returns only if there is no successor.
pub(super) fn run(program: &Program, predecessor: Pid) -> Error {
    // `pkill -USR2 program` also reaches this process. In the successor the signals have their defaults again (see
    // execve(2)).
    let _caught = UpgradeSignals::catch();
    let mut successor = match start(program, predecessor) {
        Ok(successor) => successor,
        Err(error) => return error,
    };
    match successor.wait() {
        Ok(ended) => end_as(ended),
        // SIGCHLD is ignored, so its status is lost.
        Err(_) => leave(status::SYSTEM),
    }
}

fn start(program: &Program, predecessor: Pid) -> Result<Child, Error> {
    let conversation = inetd::take_standard_input()?;
    let copied = conversation.try_clone();
    let copy = copied.map_err(|source| Error::system("cannot copy a descriptor", source))?;
    let ancestors = Ancestors { predecessor, starter: Some(getpid()) };
    let mut command = program.command();
    command.env(PREDECESSOR, ancestors.value()).stdin(Stdio::from(copy));
    // No copy of the conversation outlives this function: the predecessor must notice when the successor closes it.
    command.spawn().map_err(|source| {
        let error = Error::from(RestartError::Successor { program: program.path().to_owned(), source });
        let _ = say(&conversation, &Word::Failed { why: error.to_string() });
        error
    })
}

/// Ends this process with the status or the signal of another one. A core file would be of the wrong process.
fn end_as(ended: ExitStatus) -> ! {
    if let Some(signal) = ended.signal() {
        let limit = getrlimit(Resource::Core);
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), ..limit });
        let _ = emulate_default_handler(signal);
    }
    leave(ended.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(status::SYSTEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_names_one_process_or_two_and_anything_else_is_an_error() {
        let pid = |number| Pid::from_raw(number).expect("a pid");
        for (value, starter) in [("7", None), ("7:8", Some(pid(8)))] {
            let ancestors = Ancestors { predecessor: pid(7), starter };
            assert_eq!((Ancestors::parse(value), ancestors.value()), (Some(ancestors), value.into()));
        }
        for wrong in ["", ":", "7:", ":7", "0", "7:0", "-7", "+7", "7:8:9", "7 8", "99999999999", "\u{663}"] {
            assert_eq!(Ancestors::parse(wrong), None, "{wrong}");
        }
    }
}
