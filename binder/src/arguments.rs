//! The words of a command line, one after the other: options with their values, and where the options end. Bytes, where
//! execve(2) put them; nothing is copied.
//!
//! `-lVALUE`, `-l=VALUE`, `-l VALUE`, `--listen=VALUE` and `--listen VALUE` are the same; `-hl80` is `-h -l80`; `--` ends the
//! options, and so does the first word that is none.

use alloc::format;
use alloc::string::String;
use core::ffi::CStr;
use core::fmt::Write as _;

/// One word, or a part of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Argument {
    /// `-l`
    Short(char),
    /// `--listen`, without the dashes
    Long(&'static [u8]),
    /// Something else
    Value(&'static CStr),
}

/// What is left of a command line.
#[derive(Debug)]
pub(crate) struct Arguments<'a> {
    words: core::slice::Iter<'a, &'static CStr>,
    state: State,
    /// With its dashes, for messages
    option: Option<Spelled>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// At the start of a word
    Between,
    /// After `--option=`
    Value(&'static CStr),
    /// Within `-abc`
    Shorts(&'static CStr, usize),
    /// After `--`
    Finished,
}

#[derive(Debug, Clone, Copy)]
enum Spelled {
    Short(char),
    Long(&'static [u8]),
}

impl<'a> Arguments<'a> {
    pub(crate) fn new(words: &'a [&'static CStr]) -> Arguments<'a> {
        Arguments { words: words.iter(), state: State::Between, option: None }
    }

    /// The next option or word. The error is a message.
    pub(crate) fn next(&mut self) -> Result<Option<Argument>, String> {
        match self.state {
            State::Value(value) => return Err(self.unexpected(value)),
            State::Shorts(word, at) => {
                let rest = word.to_bytes().get(at..).unwrap_or_default();
                match first_character(rest) {
                    Some('=') if at > 1 => return Err(self.unexpected(suffix(word, at + 1))),
                    Some(character) => return Ok(Some(self.short(word, at, character))),
                    None => self.state = State::Between,
                }
            }
            State::Finished => return Ok(self.words.next().copied().map(Argument::Value)),
            State::Between => {}
        }
        let Some(&word) = self.words.next() else { return Ok(None) };
        match word.to_bytes() {
            b"--" => {
                self.state = State::Finished;
                self.next()
            }
            [b'-', b'-', long @ ..] => {
                let equals = long.iter().position(|&byte| byte == b'=');
                let (option, rest) = long.split_at(equals.unwrap_or(long.len()));
                if !rest.is_empty() {
                    self.state = State::Value(suffix(word, 2 + option.len() + 1));
                }
                self.option = Some(Spelled::Long(option));
                Ok(Some(Argument::Long(option)))
            }
            [b'-', rest @ ..] => match first_character(rest) {
                Some(character) => Ok(Some(self.short(word, 1, character))),
                None => Ok(Some(Argument::Value(word))),
            },
            _ => Ok(Some(Argument::Value(word))),
        }
    }

    /// The value of the option that [`Arguments::next`] returned last. The error is a message.
    pub(crate) fn value(&mut self) -> Result<&'static CStr, String> {
        let attached = self.attached();
        let value = attached.or_else(|| self.words.next().copied());
        value.ok_or_else(|| format!("missing argument for option '{}'", self.spelled()))
    }

    /// All words that are left, as they are.
    pub(crate) fn rest(&mut self) -> impl Iterator<Item = &'static CStr> {
        self.words.by_ref().copied()
    }

    /// The error for the option that [`Arguments::next`] returned last, if there is no such option.
    pub(crate) fn invalid(&self) -> String {
        format!("invalid option '{}'", self.spelled())
    }

    fn short(&mut self, word: &'static CStr, at: usize, character: char) -> Argument {
        self.state = State::Shorts(word, at + character.len_utf8());
        self.option = Some(Spelled::Short(character));
        Argument::Short(character)
    }

    fn attached(&mut self) -> Option<&'static CStr> {
        match core::mem::replace(&mut self.state, State::Between) {
            State::Value(value) => Some(value),
            State::Shorts(word, at) => match word.to_bytes().get(at..) {
                None | Some([]) => None,
                Some([b'=', ..]) => Some(suffix(word, at + 1)),
                Some(_) => Some(suffix(word, at)),
            },
            State::Finished => {
                self.state = State::Finished;
                None
            }
            State::Between => None,
        }
    }

    fn unexpected(&self, value: &CStr) -> String {
        format!("unexpected argument for option '{}': {}", self.spelled(), quoted(value.to_bytes()))
    }

    fn spelled(&self) -> String {
        match self.option {
            Some(Spelled::Short(character)) => format!("-{character}"),
            Some(Spelled::Long(option)) => format!("--{}", String::from_utf8_lossy(option)),
            None => String::new(),
        }
    }
}

/// The first character; one that is not UTF-8 is shown as such.
fn first_character(bytes: &[u8]) -> Option<char> {
    let chunk = bytes.utf8_chunks().next()?;
    Some(chunk.valid().chars().next().unwrap_or(char::REPLACEMENT_CHARACTER))
}

fn suffix(word: &'static CStr, at: usize) -> &'static CStr {
    let rest = word.to_bytes_with_nul().get(at..).unwrap_or_default();
    CStr::from_bytes_with_nul(rest).unwrap_or_default()
}

/// In quotation marks, as std prints a word of the operating system.
fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\'' => text.push(character),
                _ => text.extend(character.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02X}");
        }
    }
    text.push('"');
    text
}
