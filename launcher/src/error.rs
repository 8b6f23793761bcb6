//! What ends the launcher, and what it tells.

use std::path::PathBuf;

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
    /// There are no sockets
    Sockets(portgrant_server::Error),
}

impl Error {
    /// The exit status that says it.
    pub fn status(&self) -> u8 {
        match self {
            Error::Answered(_) => status::OK,
            Error::Usage(_) | Error::Place(PlaceError::Occupied(_)) => status::USAGE,
            Error::Program(unfit) => unfit.status(),
            Error::Place(PlaceError::System(_)) | Error::NoNewPrivileges(_) | Error::Accepting(_) => status::SYSTEM,
            Error::ForAnother { refusal, .. } | Error::OnlyByHelper(refusal) => refusal.status,
            Error::Sockets(error) => error.status(),
        }
    }

    /// What happened, why, and what to do.
    pub fn message(&self) -> Message {
        match self {
            Error::Answered(text) => Message::new(text.as_str()),
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
            Error::NoNewPrivileges(error) | Error::Accepting(error) => Some(error),
            Error::Program(unfit) => Some(unfit),
            Error::Answered(_) | Error::Usage(_) | Error::Place(_) => None,
            Error::ForAnother { .. } | Error::OnlyByHelper(_) => None,
        }
    }
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
