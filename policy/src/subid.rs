//! Subordinate ids: which uids and gids a user may take besides their own (subuid(5), subgid(5)).
//!
//! A user takes them by newuidmap(1) in a user namespace. There they can make a set-user-ID file, which gives such a uid to a
//! process outside as well. So a process with a subordinate id counts as the user who owns the id.

use alloc::string::String;

/// A file of `OWNER:FIRST:COUNT` lines, the owner a login name or a uid. A line is parsed when it is needed.
#[derive(Debug, Default)]
pub struct SubordinateIds {
    text: String,
}

impl SubordinateIds {
    /// The file `text`.
    pub fn parse(text: &[u8]) -> SubordinateIds {
        SubordinateIds { text: String::from_utf8_lossy(text).into_owned() }
    }

    /// The owners of `id`: several if ranges overlap.
    pub fn owners(&self, id: u32) -> impl Iterator<Item = &str> {
        self.ranges().filter(move |range| (range.1..=range.2).contains(&id)).map(|range| range.0)
    }

    /// Every range: its owner, its first and its last id. Invalid lines are skipped, as by newuidmap(1).
    pub fn ranges(&self) -> impl Iterator<Item = (&str, u32, u32)> {
        self.text.split('\n').filter_map(range)
    }
}

fn range(line: &str) -> Option<(&str, u32, u32)> {
    let mut fields = line.split(':');
    let (owner, first, count) = (fields.next()?, fields.next()?, fields.next()?);
    let first = number(first)?;
    // 4294967295 is not an id. A range ends at the last id.
    let last = first.saturating_add(number(count)?).checked_sub(1)?.min(u64::from(u32::MAX - 1));
    let (first, last) = (u32::try_from(first).ok()?, u32::try_from(last).ok()?);
    (first <= last && !owner.is_empty() && !owner.starts_with('#')).then_some((owner, first, last))
}

/// A number in decimal, octal or hexadecimal. shadow's tools read these files by strtoul(3) with base 0, and every
/// range of theirs must be a range here.
fn number(word: &str) -> Option<u64> {
    let word = word.trim_ascii_start();
    let word = word.strip_prefix('+').unwrap_or(word);
    let (digits, radix) = match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (word, if word.starts_with('0') { 8 } else { 10 }),
    };
    let is_number = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    u64::from_str_radix(digits, radix).ok().filter(|_| is_number)
}

#[cfg(test)]
mod tests {
    use alloc::borrow::ToOwned;

    use super::*;

    fn ranges(text: &str) -> Vec<(String, u32, u32)> {
        let ids = SubordinateIds::parse(text.as_bytes());
        ids.ranges().map(|(owner, first, last)| (owner.to_owned(), first, last)).collect()
    }

    #[test]
    fn a_range_ends_with_its_last_id() {
        let text = "alice:100000:65536\n1001:165536:1\nbob:0:1\n";
        let expected = [("alice", 100_000, 165_535), ("1001", 165_536, 165_536), ("bob", 0, 0)];
        assert_eq!(ranges(text), expected.map(|(owner, first, last)| (owner.to_owned(), first, last)));
        let ids = SubordinateIds::parse(text.as_bytes());
        for (id, owner) in [(99_999, None), (100_000, Some("alice")), (165_535, Some("alice")), (165_537, None)] {
            assert_eq!(ids.owners(id).next(), owner, "{id}");
        }
    }

    #[test]
    fn every_owner_of_overlapping_ranges_is_found() {
        let ids = SubordinateIds::parse(b"alice:100:10\nbob:105:10\nalice:109:1\n");
        assert_eq!(ids.owners(104).collect::<Vec<_>>(), ["alice"]);
        assert_eq!(ids.owners(109).collect::<Vec<_>>(), ["alice", "bob", "alice"]);
        assert_eq!(ids.owners(114).collect::<Vec<_>>(), ["bob"]);
    }

    #[test]
    fn a_range_beyond_the_last_id_ends_there() {
        let most = u32::MAX - 1;
        assert_eq!(ranges("a:4294967290:65536\n"), [("a".to_owned(), 4_294_967_290, most)]);
        assert_eq!(ranges("a:1:18446744073709551615\n"), [("a".to_owned(), 1, most)]);
        assert_eq!(ranges("a:0:4294967296\n"), [("a".to_owned(), 0, most)]);
        for nothing in ["a:4294967295:1", "a:4294967296:1", "a:18446744073709551616:1", "a:1:18446744073709551616"] {
            assert_eq!(ranges(nothing), [], "{nothing}");
        }
    }

    #[test]
    fn lines_are_read_as_by_shadows_tools() {
        for same in ["a:256:16", "a:0x100:0x10", "a:0400:020", "a:0X100:16:more", "a: +256:16", "a:256:16:"] {
            assert_eq!(ranges(same), [("a".to_owned(), 256, 271)], "{same}");
        }
        for nothing in [
            "", "#", "a", "a:1", ":1:1", "a::1", "a:1:", "a:1:0", "a:-1:1", "a:1:-1", "a:1:1\r", "a:1x:1", "a:08:1",
            "a:0x:1", "a:++1:1", "a:1 :1", "#a:1:1",
        ] {
            assert_eq!(ranges(nothing), [], "{nothing}");
        }
    }
}
