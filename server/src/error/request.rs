//! Sockets that the helper was asked for.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use portgrant_protocol::{listen, status};
use rustix::io::Errno;

use super::told::Told;
use super::{quoted, shown};
use crate::helper::VARIABLE;

/// Why the helper gave no socket, other than that the answer is no
#[derive(Debug)]
#[non_exhaustive]
pub enum RequestError {
    /// No endpoint, or more than one message can carry
    Endpoints {
        /// How many were asked for
        count: usize,
    },
    /// `PORTGRANT_BINDER` is not absolute
    HelperNotAbsolute {
        /// What it is
        path: PathBuf,
    },
    /// The helper is in none of the places where it may be
    HelperMissing {
        /// The places
        places: Vec<PathBuf>,
    },
    /// The helper could not be started
    Helper {
        /// Its path
        helper: PathBuf,
        /// Why not
        source: io::Error,
    },
    /// The helper ended without an answer, and was not killed
    NoAnswer {
        /// Its path
        helper: PathBuf,
        /// How it ended; unknown where SIGCHLD is ignored
        status: Option<ExitStatus>,
    },
    /// The helper was killed (SIGKILL). A helper that was stopped is, when its time limit is over
    HelperKilled {
        /// Its path
        helper: PathBuf,
    },
    /// A socket that was asked for did not come
    NotReceived {
        /// Its name
        name: String,
    },
    /// A socket came that was not asked for, or not at this place
    NotAskedFor {
        /// Its name
        name: String,
    },
}

impl RequestError {
    /// Of a helper that ended without an answer.
    pub(crate) fn unanswered(helper: &Path, status: Option<ExitStatus>) -> RequestError {
        let helper = helper.to_owned();
        match status.and_then(|status| status.signal()) {
            Some(SIGKILL) => RequestError::HelperKilled { helper },
            Some(_) | None => RequestError::NoAnswer { helper, status },
        }
    }

    pub(super) fn told(&self) -> Told<'_> {
        match self {
            RequestError::Endpoints { count: 0 } => Told::what("no endpoint is asked for")
                .fix("ask for one: 80, 443/udp, https=[::]:443")
                .status(status::USAGE),
            RequestError::Endpoints { count } => Told::what(format!("{count} endpoints are asked for at once"))
                .why(format!("one message carries at most {} descriptors", listen::MAX))
                .fix("ask for some of them in another request")
                .status(status::USAGE),
            RequestError::HelperNotAbsolute { path } => Told::what(format!("{VARIABLE} is '{}'", shown(path)))
                .why("it must be an absolute path")
                .fix("give the whole path of portgrant-binder, or unset it")
                .status(status::BROKEN),
            RequestError::HelperMissing { places } => {
                let places: Vec<String> = places.iter().map(|place| shown(place)).collect();
                Told::what("the helper, portgrant-binder, is not there")
                    .why(format!("it is none of {}", places.join(", ")))
                    .fix("install portgrant, or name the helper's path in the environment variable PORTGRANT_BINDER")
                    .status(status::BROKEN)
            }
            RequestError::Helper { helper, source } => {
                let told = Told::what(format!("cannot run the helper {}", shown(helper))).because(source);
                if is_out_of_something(source) {
                    told.fix("raise the limit (ulimit -u, ulimit -n), or stop something that uses it up")
                } else {
                    told.fix("as root, look at its mode: everybody who may ask for ports must be able to execute it")
                        .status(status::BROKEN)
                }
            }
            RequestError::NoAnswer { helper, status } => Told::what(format!(
                "the helper {} ended without an answer",
                shown(helper)
            ))
            .why_if_known(status.map(|status| format!("it ended with {status}")))
            .fix(match status {
                Some(_) => "run it by hand with the same endpoints: portgrant explain",
                None => {
                    "run it by hand with the same endpoints: portgrant explain (SIGCHLD is ignored here, so how \
                             it ended is not known)"
                }
            })
            .status(status.and_then(said_by).unwrap_or(status::SYSTEM)),
            RequestError::HelperKilled { helper } => {
                Told::what(format!("the helper {} was killed", shown(helper))).why(KILLED).fix("try again")
            }
            RequestError::NotReceived { name } => {
                Told::what(format!("{} did not come", quoted(name))).why(DOES_NOT_FIT).fix(super::ONE_VERSION)
            }
            RequestError::NotAskedFor { name } => {
                Told::what(format!("{} came, and was not asked for there", quoted(name)))
                    .why(DOES_NOT_FIT)
                    .fix(super::ONE_VERSION)
            }
        }
    }
}

const SIGKILL: i32 = 9;
const KILLED: &str = "its time limit of 10 s was over: it was stopped, or the machine is overloaded";
const DOES_NOT_FIT: &str = "the answer does not fit the request";

/// What the helper told by its exit status alone.
fn said_by(ended: ExitStatus) -> Option<u8> {
    let known = [status::USAGE, status::UNAVAILABLE, status::SYSTEM, status::REFUSED, status::BROKEN];
    known.into_iter().find(|known| ended.code() == Some(i32::from(*known)))
}

/// Processes, descriptors, memory: EAGAIN, EMFILE, ENFILE, ENOMEM.
fn is_out_of_something(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::AGAIN | Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}
