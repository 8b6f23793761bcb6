//! Why there is no verdict: the policy, or a table of names that it needs, cannot be read, trusted or parsed.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use portgrant_protocol::endpoint::EndpointError;
use portgrant_protocol::errno::Described;
use portgrant_protocol::message::message;
use portgrant_protocol::text::printable;
use portgrant_protocol::{Kind, Message};
use rustix::io::Errno;

use crate::distrust::Distrust;
use crate::problem::{Problem, Wrong};
use crate::rule::Policy;

/// Why there is no verdict.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant's message is its description")]
pub enum Error {
    Endpoint(EndpointError),
    UnknownUser(String),
    Untrusted { path: Vec<u8>, why: Distrust },
    NeededByDeny { file: &'static str, rule: String },
    Malformed { policy: Policy, problems: Vec<Problem> },
    Changed,
    Call { call: &'static str, errno: Errno },
}

impl Error {
    /// The message for this error.
    pub fn message(self) -> Message {
        match self {
            Error::Endpoint(error) => message(
                Kind::Usage,
                "the endpoint is not valid",
                error,
                "expected [NAME=][ADDRESS:]PORT[/PROTOCOL][,OPTION...] (80, https=[::]:443, 127.0.0.1:53/udp)",
            ),
            Error::UnknownUser(name) => message(
                Kind::Usage,
                format!("there is no user '{}'", printable(name.as_bytes())),
                "it is not in /etc/passwd",
                "name a user of /etc/passwd",
            ),
            Error::Untrusted { path, why } => untrusted(&path, why),
            Error::NeededByDeny { file, rule } => Message {
                rule: Some(rule.clone()),
                ..message(
                    Kind::BrokenPolicy,
                    "the policy cannot be used",
                    format_args!(
                        "{file} is missing or has no entries, and {rule} denies a group: its members are unknown"
                    ),
                    format!("restore the file, as root: cp -p {file}- {file}"),
                )
            },
            Error::Malformed { policy, problems } => malformed(&policy, &problems),
            Error::Changed => message(
                Kind::TryAgain,
                "the policy changed while it was read",
                "one of its files, or of /etc/passwd, /etc/group or /etc/services, was written to each time",
                "try again",
            ),
            Error::Call { call, errno } => message(
                Kind::System,
                format!("{call} failed"),
                Described(errno),
                "raise the limit (ulimit -n) or free memory, and try again",
            ),
        }
    }
}

fn untrusted(path: &[u8], why: Distrust) -> Message {
    let kind = if matches!(why, Distrust::System(_)) { Kind::System } else { Kind::BrokenPolicy };
    message(kind, "the policy cannot be used", format_args!("{}: {why}", printable(path)), why.fix(path))
}

fn malformed(policy: &Policy, problems: &[Problem]) -> Message {
    let first = problems
        .first()
        .map(|first| format!("{}:{}:{}: {}", policy.path(first.file), first.line, first.column, first.wrong));
    let more = match problems.len() {
        0 | 1 => String::new(),
        many => format!(" (and {} more)", many - 1),
    };
    let fix = match problems.first() {
        Some(Problem { wrong: Wrong::CutOff { path, .. }, .. }) => {
            format!("read that line, and if it is complete, as root: echo >>{path}")
        }
        Some(Problem { wrong: Wrong::CarriageReturn { path }, .. }) => format!("as root: sed -i 's/\\r$//' {path}"),
        Some(Problem { wrong: Wrong::ByteOrderMark { path }, .. }) => {
            format!("as root: sed -i '1s/^\\xEF\\xBB\\xBF//' {path}")
        }
        _ => "see portgrant check, and correct each line that it shows".to_owned(),
    };
    message(
        Kind::BrokenPolicy,
        "the policy is invalid: a line is malformed",
        format_args!("{}{more}", first.unwrap_or_default()),
        fix,
    )
}

impl From<EndpointError> for Error {
    fn from(error: EndpointError) -> Error {
        Error::Endpoint(error)
    }
}

impl From<Error> for Box<Message> {
    fn from(error: Error) -> Box<Message> {
        Box::new(error.message())
    }
}
