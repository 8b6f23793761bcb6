//! Makes bytes from outside safe to show in messages, audit lines and records.

use alloc::string::String;
use core::fmt::Write;

/// `bytes` as printable ASCII. Other bytes, and the backslash, become `\xNN`.
///
/// So no escape sequence, line feed or bidirectional mark reaches a terminal, a log or a record. At most 1,024 bytes
/// are shown; `...` stands for the rest.
pub fn printable(bytes: &[u8]) -> String {
    const SHOWN: usize = 1024;
    let plain = |byte: &u8| matches!(byte, b' '..=b'[' | b']'..=b'~');
    if bytes.len() <= SHOWN && bytes.iter().all(plain) {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut out = String::with_capacity(bytes.len().min(SHOWN));
    for &byte in bytes.iter().take(SHOWN) {
        if plain(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    if bytes.len() > SHOWN {
        out.push_str("...");
    }
    out
}

/// The same, with the backslash as it is: for what root has written, such as `DOMAIN\\user`, which people paste.
pub fn written(bytes: &[u8]) -> String {
    printable(bytes).replace("\\x5c", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_bytes_are_escaped() {
        assert_eq!(printable(b"a b~"), "a b~");
        assert_eq!(printable(b"\x1b[2J\n\\\x7f"), "\\x1b[2J\\x0a\\x5c\\x7f");
        assert_eq!(written(b"DOM\\bob\x1b"), "DOM\\bob\\x1b");
        assert_eq!(printable("\u{202e}".as_bytes()), "\\xe2\\x80\\xae");
        assert_eq!(printable(&[b'a'; 1024]), "a".repeat(1024));
        assert_eq!(printable(&[b'a'; 1025]), "a".repeat(1024) + "...");
        assert_eq!(printable(&[b'\n'; 1024]), "\\x0a".repeat(1024));
    }
}
