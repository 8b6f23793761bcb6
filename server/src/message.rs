//! The text of an error for people: what failed, why, and what to do.

use std::fmt;

/// A message in three parts. Each part is one line of printable ASCII, fit for a terminal and a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What failed
    pub what: String,
    /// Why it failed
    pub why: Option<String>,
    /// What to do
    pub fix: Option<String>,
}

impl Message {
    /// A message that says what failed.
    pub fn new(what: impl Into<String>) -> Message {
        Message { what: what.into(), why: None, fix: None }
    }

    /// Adds the reason.
    pub fn why(self, why: impl Into<String>) -> Message {
        Message { why: Some(why.into()), ..self }
    }

    /// Adds what to do.
    pub fn fix(self, fix: impl Into<String>) -> Message {
        Message { fix: Some(fix.into()), ..self }
    }
}

impl fmt::Display for Message {
    /// One line: `what: why; fix`.
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
