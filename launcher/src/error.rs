//! What ends the launcher, and what it tells.

use std::path::{Path, PathBuf};

use portgrant_protocol::listen::PlaceError;
use portgrant_protocol::program::Unfit;
use portgrant_protocol::status;
use portgrant_protocol::text::printable;
use portgrant_server::{Message, Refusal};

/// Everything that ends the launcher itself: it executes a program otherwise.
#[derive(Debug)]
pub enum Error {
    /// Help or the version was asked for: the text
    Answered(String),
    /// The answer was printed: this is the status that goes with it
    Told(u8),
    /// The answer could not be printed
    Output(std::io::Error),
    /// The program that tells what the policy says is not installed
    PolicyMissing {
        /// The places where it may be
        places: Vec<PathBuf>,
    },
    /// That program could not be executed
    Policy {
        /// Its path
        path: PathBuf,
        /// Why not
        source: std::io::Error,
    },
    /// The command line is wrong
    Usage(Box<Message>),
    /// The program is not there, or cannot be executed
    Program(Unfit),
    /// A number is taken at which a socket must go, or the system would not put it there
    Place(PlaceError),
    /// no_new_privs could not be set
    NoNewPrivileges(std::io::Error),
    /// The grant is for another program
    ForAnother {
        /// The refusal, which names the one it is for
        refusal: Box<Refusal>,
        /// The program that was to be executed
        program: PathBuf,
    },
    /// The grant is for this program when the helper executes it, which it does not for each connection
    OnlyByHelper(Box<Refusal>),
    /// The system would not let connections be served
    Accepting(std::io::Error),
    /// The helper would not bind what the program is going to
    Refused(Box<portgrant_supervisor::helper::Refusal>),
    /// The supervisor is not there, or cannot be executed
    Supervisor {
        /// Its path
        path: PathBuf,
        /// Why
        source: std::io::Error,
    },
    /// No supervisor can work here
    Unsupervised(Box<Message>),
    /// There are no sockets
    Sockets(portgrant_server::Error),
}

impl Error {
    /// The exit status that says it.
    pub fn status(&self) -> u8 {
        match self {
            Error::Answered(_) => status::OK,
            Error::Told(status) => *status,
            Error::Output(_) => status::SYSTEM,
            Error::PolicyMissing { .. } | Error::Policy { .. } => status::BROKEN,
            Error::Usage(_) | Error::Place(PlaceError::Occupied(_)) => status::USAGE,
            Error::Program(unfit) => unfit.status(),
            Error::Place(PlaceError::System(_)) | Error::NoNewPrivileges(_) | Error::Accepting(_) => status::SYSTEM,
            Error::ForAnother { refusal, .. } | Error::OnlyByHelper(refusal) => refusal.status,
            Error::Refused(refusal) => refusal.status,
            Error::Supervisor { .. } | Error::Unsupervised(_) => status::BROKEN,
            Error::Sockets(error) => error.status(),
        }
    }

    /// What happened, why, and what to do.
    pub fn message(&self) -> Message {
        match self {
            Error::Answered(text) => Message::new(text.as_str()),
            Error::Told(_) => Message::new("told"),
            Error::Output(error) => Message::new("the answer could not be written").why(error.to_string()),
            Error::PolicyMissing { places } => {
                let places: Vec<String> = places.iter().map(|place| shown(place)).collect();
                Message::new("portgrant-policy, which reads the policy, is not there")
                    .why(format!("it is none of {}", places.join(", ")))
                    .fix("install portgrant as a whole: packaging/install puts it beside the helper")
            }
            Error::Policy { path, source } => Message::new(format!("cannot run {}", shown(path)))
                .why(source.to_string())
                .fix(format!("as root, chmod 0755 {}", shown(path))),
            Error::Usage(message) => message.as_ref().clone(),
            Error::Program(unfit) => Message::new(unfit.to_string()).why(unfit.why.to_string()).fix(unfit.fix()),
            Error::Place(PlaceError::Occupied(number)) => Message::new(format!("descriptor {number} is open already"))
                .why("a socket must go there, and what the caller opened stays open")
                .fix(format!("close it for this command, in a shell with {number}>&-")),
            Error::Place(PlaceError::System(errno)) => Message::new("the sockets could not be put in their places")
                .why(errno.to_string())
                .fix("raise the limit of open files (ulimit -n)"),
            Error::NoNewPrivileges(error) => Message::new("no_new_privs could not be set").why(error.to_string()),
            Error::ForAnother { refusal, program, .. } => {
                let message = portgrant_server::Error::Refused(refusal.as_ref().clone()).message();
                let instead = format!("PROGRAM is {}", printable(program.as_os_str().as_encoded_bytes()));
                let why = message.why.map(|why| format!("{why}; {instead}"));
                Message { why: why.or(Some(instead)), ..message }
            }
            Error::OnlyByHelper(refusal) => {
                let message = portgrant_server::Error::Refused(refusal.as_ref().clone()).message();
                let program = refusal.program.as_deref().unwrap_or_default();
                let why =
                    format!("the rule is bound to {program}, which the helper executes once and --accept many times");
                message.why(why).fix("leave --accept out, or have the rule without exec")
            }
            Error::Accepting(error) => Message::new("connections cannot be accepted")
                .why(error.to_string())
                .fix("raise the limit that is reached (ulimit -n), or free memory"),
            Error::Refused(refusal) => Message::new(&refusal.what).why(&refusal.why).fix(&refusal.fix),
            Error::Supervisor { path, source } => Message::new(format!("{} cannot be executed", path.display()))
                .why(source.to_string())
                .fix("install portgrant anew: the supervisor lies beside the helper"),
            Error::Unsupervised(message) => message.as_ref().clone(),
            Error::Sockets(error) => error.message(),
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.message().fmt(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Sockets(error) => Some(error),
            Error::NoNewPrivileges(error)
            | Error::Accepting(error)
            | Error::Output(error)
            | Error::Policy { source: error, .. } => Some(error),
            Error::Program(unfit) => Some(unfit),
            Error::Supervisor { source, .. } => Some(source),
            Error::Answered(_)
            | Error::Told(_)
            | Error::PolicyMissing { .. }
            | Error::Refused(_)
            | Error::Unsupervised(_)
            | Error::Usage(_)
            | Error::Place(_)
            | Error::OnlyByHelper(_)
            | Error::ForAnother { .. } => None,
        }
    }
}

fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_encoded_bytes())
}

impl From<portgrant_server::Error> for Error {
    fn from(error: portgrant_server::Error) -> Error {
        Error::Sockets(error)
    }
}

impl From<Unfit> for Error {
    fn from(unfit: Unfit) -> Error {
        Error::Program(unfit)
    }
}
