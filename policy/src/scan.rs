//! Searching bytes, faster than core does for short texts and for the line feeds of long ones.

/// Where the line feeds are. Eight bytes are looked at together.
pub(crate) fn feeds(text: &[u8]) -> impl Iterator<Item = usize> {
    const FEEDS: u64 = u64::from_ne_bytes([b'\n'; 8]);
    const LOW: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let (words, rest) = text.as_chunks::<8>();
    let whole = words.iter().enumerate().filter(|(_, word)| {
        // A byte that is a line feed is zero here, and a zero byte borrows from its highest bit.
        let difference = u64::from_ne_bytes(**word) ^ FEEDS;
        difference.wrapping_sub(LOW) & !difference & HIGH != 0
    });
    let in_words =
        whole.flat_map(|(number, word)| word.iter().enumerate().map(move |(at, byte)| (number * 8 + at, byte)));
    let in_rest = rest.iter().enumerate().map(move |(at, byte)| (words.len() * 8 + at, byte));
    in_words.chain(in_rest).filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at)
}

/// What stands before and behind the first `byte`, which is ASCII. For words: std's is made for long texts.
pub(crate) fn split_once(word: &str, byte: u8) -> Option<(&str, &str)> {
    let at = word.bytes().position(|other| other == byte)?;
    Some((word.get(..at)?, word.get(at + 1..)?))
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_line_feed_is_found(text in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>(), Just(b'\x0b')], 0..80)) {
            let expected: Vec<usize> = (0..text.len()).filter(|&at| text[at] == b'\n').collect();
            prop_assert_eq!(feeds(&text).collect::<Vec<_>>(), expected);
        }
    }
}
