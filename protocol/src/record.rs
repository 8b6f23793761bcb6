//! Requests and replies: records of ASCII `KEY=VALUE` lines, one record a message, as in sd_notify(3).
//!
//! ```text
//! request = PORTGRANT=1  VERB=pass|bind|explain  LISTEN=endpoint…
//! granted = PORTGRANT=1  STATUS=0  NAMES=name:name…                     with the descriptors, in that order
//! refused = PORTGRANT=1  STATUS=n  WHY=…  [FIX=…]  [RULE=file:line]  [PROGRAM=path]      with none
//! ```
//! `STATUS` is an exit status. No key twice but `LISTEN`; an unknown key ends the conversation.

use std::fmt;

use crate::endpoint::{Endpoint, EndpointError};
use crate::{listen, status, text};

/// The longest record, in bytes.
pub const MAX_LEN: usize = 4096;
/// The most lines in a record.
pub const MAX_LINES: usize = 64;
/// The version that this crate speaks.
pub const VERSION: &str = "1";

/// What a request asks to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Bind and send the sockets
    Pass,
    /// Bind the socket that came with the request
    Bind,
    /// Decide, and say why
    Explain,
}

impl Verb {
    const ALL: [(Verb, &'static str); 3] = [(Verb::Pass, "pass"), (Verb::Bind, "bind"), (Verb::Explain, "explain")];

    fn word(self) -> &'static str {
        Verb::ALL.iter().find(|entry| entry.0 == self).map_or("", |entry| entry.1)
    }
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What to do
    pub verb: Verb,
    /// With which endpoints, at least one
    pub listen: Vec<Endpoint>,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Done
    Granted {
        /// A name for each descriptor, in order
        names: Vec<String>,
    },
    /// Not done
    Refused(Refusal),
}

/// Why nothing was done: the parts of a message, each one line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refusal {
    /// An exit status, never 0
    pub status: u8,
    /// What happened, and why
    pub why: String,
    /// What to do about it
    pub fix: Option<String>,
    /// The rule that decided, `file:line`
    pub rule: Option<String>,
    /// The program that the grant is bound to: only the helper's exec verb can use it
    pub program: Option<String>,
}

/// Why bytes are no record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant's Display is its description")]
pub enum RecordError {
    TooLong,
    NotText,
    Version(String),
    Line(String),
    Key(String),
    Twice(&'static str),
    Missing(&'static str),
    Value { key: &'static str, value: String },
    Endpoint(EndpointError),
}

impl Request {
    /// The record's bytes; an error where they would be too many.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let endpoints = self.listen.iter().map(|endpoint| ("LISTEN", endpoint.to_string()));
        encode(std::iter::once(("VERB", self.verb.word().to_owned())).chain(endpoints))
    }

    /// Reads a record.
    pub fn parse(bytes: &[u8]) -> Result<Request, RecordError> {
        let (mut verb, mut listen) = (None, Vec::new());
        for (key, value) in lines(bytes)? {
            match key {
                "VERB" => once(&mut verb, "VERB", value)?,
                "LISTEN" => listen.push(value.parse().map_err(RecordError::Endpoint)?),
                _ => return Err(RecordError::Key(text::printable(key.as_bytes()))),
            }
        }
        let word = verb.ok_or(RecordError::Missing("VERB"))?;
        let verb = Verb::ALL.iter().find(|entry| entry.1 == word).map(|entry| entry.0);
        let verb = verb.ok_or_else(|| wrong_value("VERB", word))?;
        if listen.is_empty() {
            return Err(RecordError::Missing("LISTEN"));
        }
        Ok(Request { verb, listen })
    }
}

impl Reply {
    /// The record's bytes; an error where they would be too many.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        match self {
            Reply::Granted { names } => encode([("STATUS", status::OK.to_string()), ("NAMES", names.join(":"))]),
            Reply::Refused(refusal) => {
                let optional = [("FIX", &refusal.fix), ("RULE", &refusal.rule), ("PROGRAM", &refusal.program)];
                let present = optional.into_iter().filter_map(|(key, value)| Some((key, value.clone()?)));
                encode(
                    [("STATUS", refusal.status.to_string()), ("WHY", refusal.why.clone())].into_iter().chain(present),
                )
            }
        }
    }

    /// Reads a record.
    pub fn parse(bytes: &[u8]) -> Result<Reply, RecordError> {
        let [mut status, mut names, mut why, mut fix, mut rule, mut program] = [None; 6];
        for (key, value) in lines(bytes)? {
            match key {
                "STATUS" => once(&mut status, "STATUS", value)?,
                "NAMES" => once(&mut names, "NAMES", value)?,
                "WHY" => once(&mut why, "WHY", value)?,
                "FIX" => once(&mut fix, "FIX", value)?,
                "RULE" => once(&mut rule, "RULE", value)?,
                "PROGRAM" => once(&mut program, "PROGRAM", value)?,
                _ => return Err(RecordError::Key(text::printable(key.as_bytes()))),
            }
        }
        let word = status.ok_or(RecordError::Missing("STATUS"))?;
        let status: u8 = word.parse().map_err(|_| wrong_value("STATUS", word))?;
        if status == status::OK {
            let names = names.ok_or(RecordError::Missing("NAMES"))?;
            let names: Vec<String> = names.split(':').map(str::to_owned).collect();
            if names.len() > listen::MAX {
                return Err(RecordError::TooLong);
            }
            return Ok(Reply::Granted { names });
        }
        let why = why.ok_or(RecordError::Missing("WHY"))?.to_owned();
        let owned = |value: Option<&str>| value.map(str::to_owned);
        Ok(Reply::Refused(Refusal { status, why, fix: owned(fix), rule: owned(rule), program: owned(program) }))
    }
}

/// A record of `fields`, for conversations with words of their own; an error where it would be too long.
pub fn encode(fields: impl IntoIterator<Item = (&'static str, String)>) -> Result<Vec<u8>, RecordError> {
    let mut record = format!("PORTGRANT={VERSION}\n");
    let mut count = 1;
    for (key, value) in fields {
        if !is_value(&value) {
            return Err(wrong_value(key, &value));
        }
        record.extend([key, "=", &value, "\n"]);
        count += 1;
    }
    if record.len() > MAX_LEN || count > MAX_LINES { Err(RecordError::TooLong) } else { Ok(record.into_bytes()) }
}

fn is_value(value: &str) -> bool {
    value.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// The fields of a record of this version, in order, keys and values in printable ASCII.
pub fn lines(bytes: &[u8]) -> Result<Vec<(&str, &str)>, RecordError> {
    if bytes.len() > MAX_LEN {
        return Err(RecordError::TooLong);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| RecordError::NotText)?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    if text.split('\n').count() > MAX_LINES {
        return Err(RecordError::TooLong);
    }
    let fields: Result<Vec<_>, _> = text.split('\n').map(field).collect();
    let mut fields = fields?;
    match fields.first() {
        Some(("PORTGRANT", VERSION)) => Ok(fields.split_off(1)),
        Some(("PORTGRANT", other)) => Err(RecordError::Version((*other).to_owned())),
        _ => Err(RecordError::Missing("PORTGRANT")),
    }
}

fn field(line: &str) -> Result<(&str, &str), RecordError> {
    let wrong = || RecordError::Line(text::printable(line.as_bytes()));
    let (key, value) = line.split_once('=').ok_or_else(wrong)?;
    if is_value(value) && is_value(key) { Ok((key, value)) } else { Err(wrong()) }
}

/// Puts a field's `value` into its `slot`, which must be empty.
pub fn once<'a>(slot: &mut Option<&'a str>, key: &'static str, value: &'a str) -> Result<(), RecordError> {
    match slot.replace(value) {
        Some(_) => Err(RecordError::Twice(key)),
        None => Ok(()),
    }
}

fn wrong_value(key: &'static str, value: &str) -> RecordError {
    RecordError::Value { key, value: text::printable(value.as_bytes()) }
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordError::TooLong => {
                write!(f, "the record is longer than {MAX_LEN} bytes, {MAX_LINES} lines or 253 names")
            }
            RecordError::NotText => f.write_str("the record is not text"),
            RecordError::Version(other) => write!(f, "PORTGRANT={other} is spoken there, PORTGRANT={VERSION} here"),
            RecordError::Line(line) => write!(f, "'{line}' is no line of the form KEY=VALUE in printable ASCII"),
            RecordError::Key(key) => write!(f, "'{key}' is an unknown key"),
            RecordError::Twice(key) => write!(f, "{key} is given twice"),
            RecordError::Missing(key) => write!(f, "{key} is missing"),
            RecordError::Value { key, value } => write!(f, "'{value}' does not fit {key}"),
            RecordError::Endpoint(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RecordError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RecordError::Endpoint(error) => Some(error),
            RecordError::TooLong
            | RecordError::NotText
            | RecordError::Version(_)
            | RecordError::Line(_)
            | RecordError::Key(_)
            | RecordError::Twice(_)
            | RecordError::Missing(_)
            | RecordError::Value { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let listen = vec!["https=443".parse().expect("endpoint"), "53/udp".parse().expect("endpoint")];
        let request = Request { verb: Verb::Pass, listen };
        let bytes = request.encode().expect("short");
        assert_eq!(bytes, b"PORTGRANT=1\nVERB=pass\nLISTEN=https=443\nLISTEN=53/udp\n");
        assert_eq!(Request::parse(&bytes), Ok(request));
    }

    #[test]
    fn a_reply_is_read_as_it_was_written() {
        let granted = Reply::Granted { names: vec!["https".into(), "53/udp".into()] };
        let refused = Reply::Refused(Refusal {
            status: status::REFUSED,
            why: "no rule permits it".into(),
            fix: Some("permit alice 80".into()),
            rule: Some("/etc/portgrant.conf:3".into()),
            program: None,
        });
        for reply in [granted, refused] {
            assert_eq!(Reply::parse(&reply.encode().expect("short")), Ok(reply));
        }
    }

    /// A record, and what its error says.
    const WRONG: &[(&str, &str)] = &[
        ("", "no line of the form"),
        ("VERB=pass\nLISTEN=80\n", "PORTGRANT is missing"),
        ("PORTGRANT=2\nVERB=pass\nLISTEN=80\n", "PORTGRANT=1 here"),
        ("PORTGRANT=1\nLISTEN=80\n", "VERB is missing"),
        ("PORTGRANT=1\nVERB=pass\n", "LISTEN is missing"),
        ("PORTGRANT=1\nVERB=take\nLISTEN=80\n", "'take' does not fit VERB"),
        ("PORTGRANT=1\nVERB=pass\nVERB=pass\nLISTEN=80\n", "VERB is given twice"),
        ("PORTGRANT=1\nVERB=pass\nLISTEN=0\n", "'0' is no port"),
        ("PORTGRANT=1\nVERB=pass\nLISTEN=80\nUID=0\n", "'UID' is an unknown key"),
        ("PORTGRANT=1\nVERB=pass\nPORTGRANT=1\nLISTEN=80\n", "'PORTGRANT' is an unknown key"),
        ("PORTGRANT=1\nVERB=pass\n\nLISTEN=80\n", "no line of the form"),
        ("PORTGRANT=1\nVERB=pa\u{1b}ss\nLISTEN=80\n", "no line of the form"),
        ("PORTGRANT=1\r\nVERB=pass\r\nLISTEN=80\r\n", "no line of the form"),
    ];

    #[test]
    fn what_is_no_request_says_why() {
        for (record, expected) in WRONG {
            let message = Request::parse(record.as_bytes()).expect_err(record).to_string();
            assert!(message.contains(expected), "{record:?}: {message}");
        }
        let many = format!("PORTGRANT=1\nVERB=pass\n{}", "LISTEN=80\n".repeat(63));
        assert_eq!(Request::parse(many.as_bytes()), Err(RecordError::TooLong));
        assert_eq!(Request::parse(&[b'A'; MAX_LEN + 1]), Err(RecordError::TooLong));
    }

    #[test]
    fn a_line_feed_in_a_value_is_never_sent() {
        let refusal = Refusal { status: 77, why: "a\nSTATUS=0".into(), ..Refusal::default() };
        assert!(matches!(Reply::Refused(refusal).encode(), Err(RecordError::Value { key: "WHY", .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), tail in "(VERB|STATUS|NAMES|WHY|LISTEN)=[ -~]{0,20}") {
            let _ = Request::parse(&bytes);
            let _ = Reply::parse(&bytes);
            let record = format!("PORTGRANT=1\n{tail}\n");
            let _ = Request::parse(record.as_bytes());
            let _ = Reply::parse(record.as_bytes());
        }
    }
}
