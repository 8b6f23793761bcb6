//! Reading records. The privileged helper only writes records, so it is built without this module.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use super::{MAX_LEN, MAX_LINES, RecordError, Reply, VERSION, is_value, wrong_value};
use crate::message::{Kind, Message};
use crate::{listen, status, text};

impl Kind {
    /// The kind that `word` stands for in a record.
    #[must_use]
    pub fn of_word(word: &str) -> Kind {
        Kind::WORDS.iter().find(|entry| entry.1 == word).map_or(Kind::System, |entry| entry.0)
    }

    /// The kind of a failure that has only a status, because the record was lost or another version sent none.
    #[must_use]
    pub fn of_status(status: u8) -> Kind {
        match status {
            status::USAGE => Kind::Usage,
            status::UNAVAILABLE => Kind::NotThere,
            status::REFUSED => Kind::Refused,
            status::BROKEN => Kind::BrokenPolicy,
            status::NOT_EXECUTABLE | status::NOT_FOUND => Kind::Program,
            _ => Kind::System,
        }
    }
}

impl Reply {
    /// Reads a record.
    pub fn parse(bytes: &[u8]) -> Result<Reply, RecordError> {
        let [mut status, mut names, mut kind, mut what, mut why] = [None; 5];
        let [mut fix, mut rule, mut program, mut endpoint] = [None; 4];
        for (key, value) in lines(bytes)? {
            match key {
                "STATUS" => once(&mut status, "STATUS", value)?,
                "NAMES" => once(&mut names, "NAMES", value)?,
                "KIND" => once(&mut kind, "KIND", value)?,
                "WHAT" => once(&mut what, "WHAT", value)?,
                "WHY" => once(&mut why, "WHY", value)?,
                "FIX" => once(&mut fix, "FIX", value)?,
                "RULE" => once(&mut rule, "RULE", value)?,
                "PROGRAM" => once(&mut program, "PROGRAM", value)?,
                "ENDPOINT" => once(&mut endpoint, "ENDPOINT", value)?,
                _ => {}
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
        let owned = |value: Option<&str>| value.map(str::to_owned);
        // Version 0.1.0 sent neither KIND nor WHAT.
        let (what, why) = match what {
            Some(what) => (what, why),
            None => (why.ok_or(RecordError::Missing("WHAT"))?, None),
        };
        Ok(Reply::Failed(Message {
            kind: kind.map_or(Kind::of_status(status), Kind::of_word),
            status,
            what: what.to_owned(),
            why: owned(why),
            fix: owned(fix),
            rule: owned(rule),
            program: owned(program),
            endpoint: owned(endpoint),
        }))
    }
}

/// The fields of a record of this version, in order, keys and values in printable ASCII.
pub fn lines(bytes: &[u8]) -> Result<Vec<(&str, &str)>, RecordError> {
    if bytes.len() > MAX_LEN {
        return Err(RecordError::TooLong);
    }
    let text = core::str::from_utf8(bytes).map_err(|_| RecordError::NotText)?;
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
