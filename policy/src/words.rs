//! A line of the policy, word by word. Words are printable ASCII, divided by blanks and tabs; `#` begins a comment.

use portgrant_protocol::text::printable;

use crate::problem::Wrong;
use crate::slips;

/// A word, and where it begins, from 1.
pub(crate) struct Word<'a> {
    pub(crate) text: &'a str,
    pub(crate) column: usize,
}

/// A line, word by word.
pub(crate) struct Words<'a> {
    line: &'a [u8],
    /// The line up to the first byte that is not UTF-8. No word lies beyond, since words are ASCII
    text: &'a str,
    at: usize,
    /// It is the first of its file
    is_first: bool,
    /// The file
    path: &'a [u8],
}

impl<'a> Words<'a> {
    /// The words of `line`, which stands in the file at `path`.
    pub(crate) fn of(line: &'a [u8], is_first: bool, path: &'a [u8]) -> Words<'a> {
        let text = core::str::from_utf8(line)
            .or_else(|error| core::str::from_utf8(line.get(..error.valid_up_to()).unwrap_or_default()));
        Words { line, text: text.unwrap_or_default(), at: 0, is_first, path }
    }

    /// The next word; `None` at the end, and where a comment begins.
    pub(crate) fn next(&mut self) -> Result<Option<Word<'a>>, (usize, Wrong)> {
        self.skip_blanks();
        let start = self.at;
        let rest = self.line.get(start..).unwrap_or_default();
        let len = rest.iter().position(|byte| !byte.is_ascii_graphic()).unwrap_or(rest.len());
        let ends = matches!(rest.get(len), None | Some(b' ' | b'\t'));
        let word = rest.get(..len).unwrap_or_default();
        if word.starts_with(b"#") || word.is_empty() && ends {
            return Ok(None);
        }
        if !ends {
            return Err((start + len + 1, self.odd(rest.get(len..).unwrap_or_default())));
        }
        self.at += len;
        let text = self.text.get(start..self.at).ok_or_else(|| (start + 1, Wrong::Character(0)))?;
        Ok(Some(Word { text, column: start + 1 }))
    }

    /// What is wrong with the byte that `rest`, the end of the line, begins with.
    fn odd(&self, rest: &[u8]) -> Wrong {
        let path = || printable(self.path);
        if rest == b"\r" {
            return Wrong::CarriageReturn { path: path() };
        }
        if self.is_first && rest.len() == self.line.len() && rest.starts_with(b"\xef\xbb\xbf") {
            return Wrong::ByteOrderMark { path: path() };
        }
        match slips::typography(rest) {
            Some((what, instead, bytes)) => Wrong::Typography { what, instead, bytes },
            None => Wrong::Character(rest.first().copied().unwrap_or_default()),
        }
    }

    /// What is left of the line, and where it begins.
    pub(crate) fn rest(&mut self) -> (&'a [u8], usize) {
        self.skip_blanks();
        (self.line.get(self.at..).unwrap_or_default().trim_ascii_end(), self.at + 1)
    }

    fn skip_blanks(&mut self) {
        while matches!(self.line.get(self.at), Some(b' ' | b'\t')) {
            self.at += 1;
        }
    }

    /// Where the line ends.
    pub(crate) fn end(&self) -> usize {
        self.line.len() + 1
    }
}
