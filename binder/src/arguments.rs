//! The words of a command line: options with their values, then the other words. They stay where execve(2) put them,
//! and are not copied.
//!
//! `-lVALUE`, `-l VALUE`, `--listen=VALUE` and `--listen VALUE` are the same. `--` ends the options, and so does the first
//! word that is not an option.

use alloc::format;
use alloc::string::String;
use core::ffi::CStr;

use portgrant_protocol::text::printable;

/// One word, or a part of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Argument {
    /// An option, with its dashes
    Option(&'static [u8]),
    /// Something else
    Value(&'static CStr),
}

/// The rest of a command line.
#[derive(Debug)]
pub(crate) struct Arguments<'a> {
    words: core::slice::Iter<'a, &'static CStr>,
    /// The last option, and the value in the same word
    option: &'static [u8],
    attached: Option<&'static CStr>,
    ended: bool,
}

impl<'a> Arguments<'a> {
    pub(crate) fn new(words: &'a [&'static CStr]) -> Arguments<'a> {
        Arguments { words: words.iter(), option: b"", attached: None, ended: false }
    }

    /// The next option or word. The error is a message.
    pub(crate) fn next(&mut self) -> Result<Option<Argument>, String> {
        if let Some(value) = self.attached.take() {
            let value = printable(value.to_bytes());
            return Err(format!("unexpected argument for option '{}': '{value}'", printable(self.option)));
        }
        let Some(&word) = self.words.next() else { return Ok(None) };
        let bytes = word.to_bytes();
        let (end, value) = match bytes {
            _ if self.ended => return Ok(Some(Argument::Value(word))),
            b"--" => {
                self.ended = true;
                return self.next();
            }
            [b'-', b'-', ..] => match bytes.iter().position(|&byte| byte == b'=') {
                Some(equals) => (equals, Some(equals + 1)),
                None => (bytes.len(), None),
            },
            [b'-', _, _, ..] => (2, Some(2)),
            [b'-', _] => (2, None),
            _ => return Ok(Some(Argument::Value(word))),
        };
        self.option = bytes.get(..end).unwrap_or_default();
        self.attached = value.and_then(|at| CStr::from_bytes_with_nul(word.to_bytes_with_nul().get(at..)?).ok());
        Ok(Some(Argument::Option(self.option)))
    }

    /// The value of the option that [`Arguments::next`] returned last. The error is a message.
    pub(crate) fn value(&mut self) -> Result<&'static CStr, String> {
        let value = self.attached.take().or_else(|| self.words.next().copied());
        value.ok_or_else(|| format!("missing argument for option '{}'", printable(self.option)))
    }

    /// All remaining words, unchanged.
    pub(crate) fn rest(&mut self) -> impl Iterator<Item = &'static CStr> {
        self.words.by_ref().copied()
    }
}
