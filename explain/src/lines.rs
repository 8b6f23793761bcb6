//! The lines of a policy's files, split once: a large policy may have many findings.

use portgrant_policy::{Policy, Rule};
use portgrant_protocol::text::written;

pub(crate) struct Lines<'p> {
    policy: &'p Policy,
    files: Vec<Vec<&'p [u8]>>,
}

impl<'p> Lines<'p> {
    pub(crate) fn of(policy: &'p Policy) -> Lines<'p> {
        let files = policy.sources.iter().map(|source| source.text.split(|&byte| byte == b'\n').collect()).collect();
        Lines { policy, files }
    }

    /// The bytes of a line, without its line feed.
    pub(crate) fn bytes(&self, file: usize, line: usize) -> &'p [u8] {
        self.files.get(file).and_then(|lines| lines.get(line - 1)).copied().unwrap_or_default()
    }

    /// The text of a rule, printable.
    pub(crate) fn text(&self, rule: &Rule) -> String {
        shown(self.bytes(rule.file, rule.line).trim_ascii_end())
    }

    /// Where a rule stands: `file:line`.
    pub(crate) fn place(&self, rule: &Rule) -> String {
        self.policy.place(rule)
    }

    /// The place of a rule and its text, shortened if it is long.
    pub(crate) fn cite(&self, rule: &Rule) -> String {
        format!("{}  {}", self.place(rule), self.short(rule))
    }

    /// The text of a rule, shortened if it is long.
    pub(crate) fn short(&self, rule: &Rule) -> String {
        Excerpt::of(self.bytes(rule.file, rule.line), 0).text()
    }
}

/// How many bytes of a line are shown with a finding. A policy may have many findings about a line of many megabytes.
const LONGEST: usize = 400;
/// How many of them are shown before the part that the finding is about.
const BEFORE: usize = 80;

/// A part of a line, or all of it.
pub(crate) struct Excerpt<'p> {
    line: &'p [u8],
    start: usize,
    end: usize,
}

impl<'p> Excerpt<'p> {
    /// The part of `line` around the byte `at`.
    pub(crate) fn of(line: &'p [u8], at: usize) -> Excerpt<'p> {
        let line = line.trim_ascii_end();
        let start = at.saturating_sub(BEFORE).min(line.len().saturating_sub(LONGEST));
        Excerpt { line, start, end: (start + LONGEST).min(line.len()) }
    }

    /// Printable, with dots for what is left out.
    pub(crate) fn text(&self) -> String {
        let [before, after] = [self.start > 0, self.end < self.line.len()].map(|cut| if cut { "..." } else { "" });
        format!("{before}{}{after}", shown(self.part(self.start, self.end)))
    }

    /// How many characters of the text are before the byte `at` of the line, and how many show the `width` bytes from
    /// there on. An escaped byte is wider than one character.
    pub(crate) fn columns(&self, at: usize, width: usize) -> (usize, usize) {
        let dots = if self.start > 0 { 3 } else { 0 };
        let before = shown(self.part(self.start, at)).len();
        (dots + before, shown(self.part(at, at.saturating_add(width))).len())
    }

    fn part(&self, from: usize, to: usize) -> &'p [u8] {
        self.line.get(from.max(self.start)..to.min(self.end)).unwrap_or_default()
    }
}

/// Printable; tabs as blanks, so that columns stay.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let bytes: Vec<u8> = bytes.iter().map(|&byte| if byte == b'\t' { b' ' } else { byte }).collect();
    written(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_shown_as_an_excerpt_around_the_error() {
        let short = Excerpt::of(b"permit\tal\x1bice 80 \t", 7);
        assert_eq!((short.text().as_str(), short.columns(7, 6)), ("permit al\\x1bice 80", (7, 9)));
        let line = ["permit alice", &" 80".repeat(1000)].concat();
        for (at, before, after) in [(0, "", "..."), (1500, "...", "..."), (3009, "...", "")] {
            let excerpt = Excerpt::of(line.as_bytes(), at);
            let text = excerpt.text();
            assert!(text.starts_with(before) && text.ends_with(after) && text.len() <= LONGEST + 6, "{at}: {text}");
            let (column, width) = excerpt.columns(at, 3);
            assert_eq!((&text[column..column + width], width), (&line[at..at + 3], 3), "{at}");
        }
        let whole = Excerpt::of(line.as_bytes(), 0).columns(0, line.len());
        assert_eq!(whole, (0, LONGEST), "no more is underlined than is shown");
    }
}
