//! What an error tells people: what happened, why, and what to do about it.

use std::fmt;

/// The three parts of a message. Each is one line of printable ASCII, fit for a terminal and a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What happened
    pub what: String,
    /// Why it did
    pub why: Option<String>,
    /// What to do
    pub fix: Option<String>,
}

impl Message {
    /// A message that says what happened.
    pub fn new(what: impl Into<String>) -> Message {
        Message { what: what.into(), why: None, fix: None }
    }

    /// The same, with the reason.
    pub fn why(self, why: impl Into<String>) -> Message {
        Message { why: Some(why.into()), ..self }
    }

    /// The same, with what to do.
    pub fn fix(self, fix: impl Into<String>) -> Message {
        Message { fix: Some(fix.into()), ..self }
    }
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
