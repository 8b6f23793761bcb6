//! Replies: records of ASCII `KEY=VALUE` lines, one record in each message, as in sd_notify(3).
//!
//! ```text
//! granted = PORTGRANT=1  STATUS=0  NAMES=name:name…                     with the descriptors, in that order
//! failed  = PORTGRANT=1  STATUS=n  KIND=…  WHAT=…  [WHY=…]  [FIX=…]  [RULE=file:line]  [PROGRAM=path]  [ENDPOINT=…]
//! ```
//! Each line ends in a line feed. `STATUS` is an exit status. No key occurs twice. An unknown key is ignored, and an
//! unknown `KIND` counts as `system`, so that programs of neighbouring versions understand each other.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::message::{Message, outgoing};
use crate::{status, text};

#[cfg(any(test, feature = "client"))]
mod reading;

#[cfg(any(test, feature = "client"))]
pub use reading::{lines, once};

/// The longest record, in bytes.
pub const MAX_LEN: usize = 4096;
/// The most lines in a record.
pub const MAX_LINES: usize = 64;
/// The version that this crate writes and reads.
pub const VERSION: &str = "1";

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The sockets are bound
    Granted {
        /// A name for each descriptor, in order
        names: Vec<String>,
    },
    /// It failed
    Failed(Message),
}

/// Why bytes are not a valid record.
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
}

impl Reply {
    /// The record's bytes; an error if they would be too many.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        match self {
            Reply::Granted { names } => encode([("STATUS", status::OK.to_string()), ("NAMES", names.join(":"))]),
            Reply::Failed(message) => encode(fields(message)),
        }
    }
}

/// A message as fields. Each is cut, so that all fit into a record, whatever paths and rules the policy has.
fn fields(message: &Message) -> impl Iterator<Item = (&'static str, String)> {
    let cut = |value: &str, most| {
        // A printable text is not escaped again: that would escape its backslashes.
        let mut value = if is_value(value) { value.to_owned() } else { text::printable(value.as_bytes()) };
        value.truncate(most);
        value
    };
    let text = |key, value: &Option<String>, most| value.as_deref().map(|value| (key, cut(value, most)));
    // A path or an endpoint is not cut: half of it would be another one.
    let word = |key, value: &Option<String>, most| text(key, value, usize::MAX).filter(|field| field.1.len() <= most);
    let optional = [
        message.why.as_deref().map(|why| ("WHY", cut(&outgoing(why), 1200))),
        message.fix.as_deref().map(|fix| ("FIX", cut(&outgoing(fix), 700))),
        text("RULE", &message.rule, 300),
        word("PROGRAM", &message.program, 1000),
        word("ENDPOINT", &message.endpoint, 150),
    ];
    let status = message.status.max(1).to_string();
    let present =
        [("STATUS", status), ("KIND", message.kind.word().to_owned()), ("WHAT", cut(&outgoing(&message.what), 500))];
    present.into_iter().chain(optional.into_iter().flatten())
}

/// A record of any `fields`; an error if it would be too long.
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
            RecordError::Line(line) => write!(f, "'{line}' is not a line of the form KEY=VALUE in printable ASCII"),
            RecordError::Key(key) => write!(f, "'{key}' is an unknown key"),
            RecordError::Twice(key) => write!(f, "{key} is given twice"),
            RecordError::Missing(key) => write!(f, "{key} is missing"),
            RecordError::Value { key, value } => write!(f, "'{value}' does not fit {key}"),
        }
    }
}

impl core::error::Error for RecordError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Kind;

    #[test]
    fn a_reply_is_read_as_it_was_written() {
        let granted = Reply::Granted { names: vec!["https".into(), "53/udp".into()] };
        let refused = Message {
            rule: Some("/etc/portgrant.conf:3".into()),
            ..Message::of(Kind::Refused, "80/tcp is refused").why("no rule permits it").endpoint("80/tcp")
        };
        for reply in [granted, Reply::Failed(refused)] {
            assert_eq!(Reply::parse(&reply.encode().expect("short")), Ok(reply));
        }
    }

    #[test]
    fn a_reply_of_another_version_is_understood() {
        let reply = |lines: &str| match Reply::parse(format!("PORTGRANT=1\n{lines}").as_bytes()) {
            Ok(Reply::Failed(message)) => message,
            other => panic!("{other:?}"),
        };
        let later = reply("STATUS=69\nKIND=frozen\nWHAT=80/tcp is frozen\nSINCE=noon\nWHY=winter\n");
        assert_eq!(later, Message::new("80/tcp is frozen").why("winter").status(69));
        let earlier = reply("STATUS=77\nWHY=80/tcp is refused: no rule\nFIX=add one\n");
        assert_eq!(earlier, Message::of(Kind::Refused, "80/tcp is refused: no rule").fix("add one"));
    }

    #[test]
    fn the_longest_message_fits_into_a_record() {
        let long = || "\u{ff}x".repeat(5000);
        let message = Message::of(Kind::Refused, long()).why(long()).fix(long()).endpoint(long());
        let message = Message { rule: Some(long()), program: Some(long()), ..message };
        let bytes = Reply::Failed(message).encode().expect("cut to fit");
        assert!(matches!(Reply::parse(&bytes), Ok(Reply::Failed(message)) if message.kind == Kind::Refused));
    }

    #[test]
    fn each_text_of_a_message_has_its_bound_and_no_word_is_cut() {
        let message = |length: usize| Message {
            rule: Some("r".repeat(length)),
            program: Some("p".repeat(length)),
            ..Message::new("w".repeat(length))
                .why("y".repeat(length))
                .fix("f".repeat(length))
                .endpoint("e".repeat(length))
        };
        let lengths = |length| {
            let bytes = Reply::Failed(message(length).status(0)).encode().expect("short");
            let Ok(Reply::Failed(read)) = Reply::parse(&bytes) else { panic!("{bytes:?}") };
            assert_eq!(read.status, 1, "a failure never has the status of a success");
            let of = |text: &Option<String>| text.as_ref().map(String::len);
            (read.what.len(), [of(&read.why), of(&read.fix), of(&read.rule), of(&read.program), of(&read.endpoint)])
        };
        assert_eq!(lengths(2000), (500, [Some(1200), Some(700), Some(300), None, None]));
        assert_eq!(lengths(1000), (500, [Some(1000), Some(700), Some(300), Some(1000), None]));
        assert_eq!(lengths(1001), (500, [Some(1001), Some(700), Some(300), None, None]));
        assert_eq!(lengths(150), (150, [Some(150); 5]));
        assert_eq!(lengths(151).1[4], None);
    }

    #[test]
    fn a_record_has_at_most_4096_bytes_64_lines_and_253_names() {
        let long = |length: usize| encode([("WHAT", "x".repeat(length - "PORTGRANT=1\nWHAT=\n".len()))]);
        let longest = long(MAX_LEN).expect("the longest");
        assert_eq!((longest.len(), lines(&longest).map(|fields| fields.len())), (MAX_LEN, Ok(1)));
        assert_eq!(long(MAX_LEN + 1), Err(RecordError::TooLong));
        let fields = |count| encode(std::iter::repeat_n(("A", String::new()), count - 1));
        let most = fields(MAX_LINES).expect("the most lines");
        assert_eq!(lines(&most).map(|fields| fields.len()), Ok(MAX_LINES - 1));
        assert_eq!(fields(MAX_LINES + 1), Err(RecordError::TooLong));
        let names = |count| Reply::Granted { names: vec!["a".to_owned(); count] };
        let read = |names: &Reply| Reply::parse(&names.encode().expect("short"));
        assert_eq!(read(&names(253)), Ok(names(253)));
        assert_eq!(read(&names(254)), Err(RecordError::TooLong));
    }

    /// A record, and what its error says.
    const WRONG: &[(&str, &str)] = &[
        ("", "not a line of the form"),
        ("STATUS=0\nNAMES=80/tcp\n", "PORTGRANT is missing"),
        ("PORTGRANT=2\nSTATUS=0\nNAMES=80/tcp\n", "PORTGRANT=1 here"),
        ("PORTGRANT=1\nNAMES=80/tcp\n", "STATUS is missing"),
        ("PORTGRANT=1\nSTATUS=0\n", "NAMES is missing"),
        ("PORTGRANT=1\nSTATUS=77\n", "WHAT is missing"),
        ("PORTGRANT=1\nSTATUS=256\nWHAT=x\n", "'256' does not fit STATUS"),
        ("PORTGRANT=1\nSTATUS=77\nWHAT=x\nWHAT=y\n", "WHAT is given twice"),
        ("PORTGRANT=1\nSTATUS=77\n\nWHAT=x\n", "not a line of the form"),
        ("PORTGRANT=1\nSTATUS=77\nWHAT=a\u{1b}b\n", "not a line of the form"),
        ("PORTGRANT=1\r\nSTATUS=77\r\nWHAT=x\r\n", "not a line of the form"),
    ];

    #[test]
    fn a_malformed_reply_is_an_error_with_the_reason() {
        for (record, expected) in WRONG {
            let message = Reply::parse(record.as_bytes()).expect_err(record).to_string();
            assert!(message.contains(expected), "{record:?}: {message}");
        }
        let many = format!("PORTGRANT=1\nSTATUS=77\n{}", "SINCE=noon\n".repeat(63));
        assert_eq!(Reply::parse(many.as_bytes()), Err(RecordError::TooLong));
        assert_eq!(Reply::parse(&[b'A'; MAX_LEN + 1]), Err(RecordError::TooLong));
    }

    #[test]
    fn a_line_feed_in_a_value_is_never_sent() {
        let bytes = Reply::Failed(Message::new("a\nSTATUS=0")).encode().expect("escaped");
        assert!(String::from_utf8_lossy(&bytes).contains("WHAT=a\\x0aSTATUS=0\n"), "{bytes:?}");
        let names = vec!["a\nSTATUS=77".to_owned()];
        assert!(matches!(Reply::Granted { names }.encode(), Err(RecordError::Value { key: "NAMES", .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), tail in "(VERB|STATUS|NAMES|WHY|LISTEN)=[ -~]{0,20}") {
            let _ = Reply::parse(&bytes);
            let record = format!("PORTGRANT=1\n{tail}\n");
            let _ = Reply::parse(record.as_bytes());
        }
    }
}
