//! A line of the policy, word by word. Words are printable ASCII, divided by blanks and tabs; `#` begins a comment.

use portgrant_protocol::text::printable;

use crate::corrections;
use crate::problem::Wrong;
use crate::scan::graphic;

/// A word, and where it begins, from 1.
pub(crate) struct Word<'a> {
    pub(crate) text: &'a str,
    pub(crate) column: usize,
}

/// A line, word by word.
pub(crate) struct Words<'a> {
    line: &'a [u8],
    /// The line as text, up to the first byte that is not UTF-8. Words are ASCII, so none lies beyond it
    text: &'a str,
    at: usize,
    /// It is the first of its file
    is_first: bool,
    /// The file
    path: &'a [u8],
}

impl<'a> Words<'a> {
    /// The words of `line` of the file at `path`. `text` is the line up to its first byte that is not UTF-8.
    pub(crate) fn of(line: &'a [u8], text: &'a str, is_first: bool, path: &'a [u8]) -> Words<'a> {
        Words { line, text, at: 0, is_first, path }
    }

    /// The next word; `None` at the end, and where a comment begins.
    pub(crate) fn next(&mut self) -> Result<Option<Word<'a>>, (usize, Wrong)> {
        let (rest, start) = self.skip_blanks();
        if matches!(rest.first(), None | Some(b'#')) {
            return Ok(None);
        }
        let end = start + graphic(rest);
        if !matches!(self.line.get(end), None | Some(b' ' | b'\t')) {
            return Err((end + 1, self.invalid_byte(end)));
        }
        self.at = end;
        let text = self.text.get(start..end).ok_or_else(|| (start + 1, Wrong::Character(0)))?;
        Ok(Some(Word { text, column: start + 1 }))
    }

    /// What is wrong with the byte at index `at`.
    #[cold]
    fn invalid_byte(&self, at: usize) -> Wrong {
        let rest = self.line.get(at..).unwrap_or_default();
        let path = || printable(self.path);
        if rest == b"\r" {
            return Wrong::CarriageReturn { path: path() };
        }
        if self.is_first && at == 0 && rest.starts_with(b"\xef\xbb\xbf") {
            return Wrong::ByteOrderMark { path: path() };
        }
        match corrections::typography(rest) {
            Some((what, instead, bytes)) => Wrong::Typography { what, instead, bytes },
            None => Wrong::Character(rest.first().copied().unwrap_or_default()),
        }
    }

    /// The rest of the line, and the column where it begins.
    pub(crate) fn rest(&self) -> (&'a [u8], usize) {
        let (rest, start) = self.skip_blanks();
        (rest.trim_ascii_end(), start + 1)
    }

    /// The rest of the line after its blanks, and the index where it begins.
    fn skip_blanks(&self) -> (&'a [u8], usize) {
        let mut rest = self.line.get(self.at..).unwrap_or_default();
        while let [b' ' | b'\t', others @ ..] = rest {
            rest = others;
        }
        (rest, self.line.len() - rest.len())
    }

    /// The column after the last byte.
    pub(crate) fn end(&self) -> usize {
        self.line.len() + 1
    }
}
