//! Failures: a kind for programs, and a text for people. All programs of portgrant and the server crate use this one
//! type; [`crate::record`] carries it between them.
//!
//! No program parses the text: what a program must know is in a field with a closed set of values.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use core::fmt;

use crate::status;

/// The kind of a failure: a closed set. A reader of a record takes an unknown kind as [`Kind::System`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The command line, the request or a descriptor is wrong
    Usage,
    /// The policy does not permit it
    Refused,
    /// Another socket has the address
    InUse,
    /// There is no such address, interface or protocol
    NotThere,
    /// The helper got no privilege, or the kernel does not honour it
    NoPrivilege,
    /// The policy cannot be read or is not trusted, or the installation is broken
    BrokenPolicy,
    /// The program was not found, or cannot be executed
    Program,
    /// It took too long, or the policy changed meanwhile: it may work next time
    TryAgain,
    /// A system call failed
    System,
}

impl Kind {
    pub(crate) const WORDS: [(Kind, &'static str, u8); 9] = [
        (Kind::Usage, "usage", status::USAGE),
        (Kind::Refused, "refused", status::REFUSED),
        (Kind::InUse, "in-use", status::UNAVAILABLE),
        (Kind::NotThere, "not-there", status::UNAVAILABLE),
        (Kind::NoPrivilege, "no-privilege", status::BROKEN),
        (Kind::BrokenPolicy, "broken-policy", status::BROKEN),
        (Kind::Program, "program", status::NOT_EXECUTABLE),
        (Kind::TryAgain, "try-again", status::SYSTEM),
        (Kind::System, "system", status::SYSTEM),
    ];

    /// The word on the wire.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.entry().1
    }

    /// The exit status that goes with it, unless the message has another.
    #[must_use]
    pub fn status(self) -> u8 {
        self.entry().2
    }

    fn entry(self) -> &'static (Kind, &'static str, u8) {
        Kind::WORDS.iter().find(|entry| entry.0 == self).unwrap_or(&Kind::WORDS[8])
    }
}

/// A failure. Each text is one line of printable ASCII, safe for a terminal and a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The kind
    pub kind: Kind,
    /// The exit status, never 0
    pub status: u8,
    /// What failed
    pub what: String,
    /// Why it failed
    pub why: Option<String>,
    /// What to do
    pub fix: Option<String>,
    /// The rule that decided, `file:line`
    pub rule: Option<String>,
    /// The only program that the rule is for: only the helper's exec verb can use such a rule
    pub program: Option<String>,
    /// The endpoint that failed, as [`crate::Resolved`] displays it
    pub endpoint: Option<String>,
}

impl Message {
    /// A message that says what failed, of kind [`Kind::System`].
    pub fn new(what: impl Into<String>) -> Message {
        let what = what.into();
        let kind = Kind::System;
        Message { kind, status: kind.status(), what, why: None, fix: None, rule: None, program: None, endpoint: None }
    }

    /// A message of `kind`, with the status that goes with it.
    pub fn of(kind: Kind, what: impl Into<String>) -> Message {
        Message { kind, status: kind.status(), ..Message::new(what) }
    }

    /// The same, with the reason.
    #[must_use]
    pub fn why(self, why: impl Into<String>) -> Message {
        Message { why: Some(why.into()), ..self }
    }

    /// The same, with what to do.
    #[must_use]
    pub fn fix(self, fix: impl Into<String>) -> Message {
        Message { fix: Some(fix.into()), ..self }
    }

    /// The same, with the endpoint that failed.
    #[must_use]
    pub fn endpoint(self, endpoint: impl Into<String>) -> Message {
        Message { endpoint: Some(endpoint.into()), ..self }
    }

    /// The same, with another exit status.
    #[must_use]
    pub fn status(self, status: u8) -> Message {
        Message { status, ..self }
    }

    /// As `program` prints it: what failed, then why and what to do, a line each.
    #[must_use]
    pub fn text(&self, program: &str) -> String {
        let mut text = format!("{program}: {}\n", outgoing(&self.what));
        for (label, part) in [("why", &self.why), ("fix", &self.fix)] {
            if let Some(part) = part {
                text.extend(["  ", label, ": ", &outgoing(part), "\n"]);
            }
        }
        text
    }
}

/// A message of `kind` with all its parts: what failed, why, and what to do.
pub fn message(kind: Kind, what: impl Into<String>, why: impl fmt::Display, fix: impl Into<String>) -> Message {
    Message::of(kind, what).why(format!("{why}")).fix(fix)
}

/// A text as it leaves the program. In the helper that `tests/scrambled` builds, every letter is replaced, so that a
/// program that parses texts fails its tests.
pub(crate) fn outgoing(text: &str) -> Cow<'_, str> {
    if !cfg!(portgrant_scrambled) {
        return Cow::Borrowed(text);
    }
    let other = |letter: char, first: u8| char::from(first + (letter as u8 - first + 13) % 26);
    let scrambled = text.chars().map(|letter| match letter {
        'a'..='z' => other(letter, b'a'),
        'A'..='Z' => other(letter, b'A'),
        other => other,
    });
    Cow::Owned(scrambled.collect())
}

impl fmt::Display for Message {
    /// In one line: `what: why; fix`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(why) = &self.why {
            write!(f, ": {why}")?;
        }
        if let Some(fix) = &self.fix {
            write!(f, "; {fix}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_unique_word() {
        for (kind, word, status) in Kind::WORDS {
            assert_eq!((kind.word(), Kind::of_word(word), kind.status()), (word, kind, status));
            assert_ne!(status, status::OK);
        }
        assert_eq!(Kind::of_word("of-a-later-version"), Kind::System);
    }
}
