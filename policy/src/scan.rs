//! Byte searches that are faster than core's, for short words and for the line feeds of long texts.

use core::str::{Utf8Error, from_utf8};

/// Eight bytes with the same value. The searches test eight bytes of a text at once: the highest bit of each byte is
/// set in the result if it matches. A carry or a borrow out of a match affects only the bytes after it.
const fn eight(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// The positions of the line feeds.
pub(crate) fn line_feeds(text: &[u8]) -> impl Iterator<Item = usize> {
    // A line feed becomes zero, and subtracting 1 from zero sets the highest bit.
    let found = |bytes: u64| (bytes ^ eight(b'\n')).wrapping_sub(eight(1)) & !(bytes ^ eight(b'\n'));
    let mut from = 0;
    core::iter::from_fn(move || {
        let at = from + first(text.get(from..)?, found, |byte| byte == b'\n')?;
        from = at + 1;
        Some(at)
    })
}

/// The number of bytes at the start of `text` that are printable ASCII and not blank.
pub(crate) fn graphic(text: &[u8]) -> usize {
    // Above `~`, or not above the blank.
    let found =
        |bytes: u64| bytes | bytes.wrapping_add(eight(1)) | !(bytes | eight(0x80)).wrapping_sub(eight(b' ' + 1));
    first(text, found, |byte| !byte.is_ascii_graphic()).unwrap_or(text.len())
}

fn first(text: &[u8], found: impl Fn(u64) -> u64, is_it: impl Fn(u8) -> bool) -> Option<usize> {
    let (chunks, rest) = text.as_chunks::<8>();
    for (number, chunk) in chunks.iter().enumerate() {
        let found = found(u64::from_le_bytes(*chunk)) & eight(0x80);
        if found != 0 {
            return Some(number * 8 + (found.trailing_zeros() / u8::BITS) as usize);
        }
    }
    rest.iter().position(|byte| is_it(*byte)).map(|at| chunks.len() * 8 + at)
}

/// `bytes` up to the first byte that is not UTF-8.
pub(crate) fn valid_utf8(bytes: &[u8]) -> &str {
    let up_to = |error: Utf8Error| bytes.get(..error.valid_up_to()).map(from_utf8);
    from_utf8(bytes).or_else(|error| up_to(error).unwrap_or(Ok(""))).unwrap_or_default()
}

/// The parts before and after the first `byte`, which must be ASCII. Faster than std's for short words.
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
            prop_assert_eq!(line_feeds(&text).collect::<Vec<_>>(), expected);
        }

        #[test]
        fn graphic_bytes_are_counted(text in proptest::collection::vec(prop_oneof![8 => 0x21..0x7f_u8, 1 => any::<u8>()], 0..40)) {
            let expected = text.iter().take_while(|byte| byte.is_ascii_graphic()).count();
            prop_assert_eq!(graphic(&text), expected);
        }
    }
}
