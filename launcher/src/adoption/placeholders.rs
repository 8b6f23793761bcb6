//! Replaces `{fd}` and `{fd:NAME}` in an argument. `{{fd}}` and `{{fd:NAME}}` become the same text with single braces.
//! `{fd: 3}` and `{fd:3}` are not placeholders: no socket has such a name. All other bytes stay the same.

use std::os::fd::RawFd;

/// `text` with its placeholders replaced. `number` returns the number for each, given its name if it has one.
pub(super) fn fill<E>(text: &[u8], mut number: impl FnMut(Option<&[u8]>) -> Result<RawFd, E>) -> Result<Vec<u8>, E> {
    let mut filled = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, behind @ ..] = rest {
        rest = if let Some(literal) = literal(rest) {
            filled.extend_from_slice(literal);
            // Skip the inner text and its two outer braces.
            rest.get(literal.len() + 2..).unwrap_or_default()
        } else if let Some(found) = placeholder(rest) {
            filled.extend(number(found.name)?.to_string().bytes());
            found.behind
        } else {
            filled.push(*byte);
            behind
        };
    }
    Ok(filled)
}

/// Whether there is a placeholder in `text`.
pub(super) fn is_in(text: &[u8]) -> bool {
    fill(text, |_| Err(())).is_err()
}

struct Placeholder<'a> {
    name: Option<&'a [u8]>,
    behind: &'a [u8],
}

/// The placeholder at the start of `text`.
fn placeholder(text: &[u8]) -> Option<Placeholder<'_>> {
    let inside = text.strip_prefix(b"{fd")?;
    if let Some(behind) = inside.strip_prefix(b"}") {
        return Some(Placeholder { name: None, behind });
    }
    let inside = inside.strip_prefix(b":")?;
    let end = inside.iter().position(|byte| matches!(byte, b'{' | b'}'))?;
    let (name, behind) = inside.split_at_checked(end)?;
    // No socket has such a name, and JavaScript writes {fd: 3}.
    if name.iter().any(u8::is_ascii_whitespace) || (!name.is_empty() && name.iter().all(u8::is_ascii_digit)) {
        return None;
    }
    Some(Placeholder { name: Some(name), behind: behind.strip_prefix(b"}")? })
}

/// The text inside the outer braces, if `text` begins with a placeholder in double braces.
fn literal(text: &[u8]) -> Option<&[u8]> {
    let inner = text.strip_prefix(b"{")?;
    let behind = placeholder(inner)?.behind;
    behind.starts_with(b"}").then(|| inner.get(..inner.len() - behind.len()))?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 3 for {fd}, 4 for {fd:a}.
    fn filled(text: &[u8]) -> Result<Vec<u8>, Vec<u8>> {
        fill(text, |name| match name {
            None => Ok(3),
            Some(b"a") => Ok(4),
            Some(other) => Err(other.to_vec()),
        })
    }

    #[test]
    fn placeholders_become_numbers_and_double_braces_become_single() {
        let cases: [(&[u8], &[u8]); 15] = [
            (b"{fd}", b"3"),
            (b"fd://{fd},{fd:a}", b"fd://3,4"),
            (b"{{fd}}", b"{fd}"),
            (b"{{fd:a}} {{fd:unknown}}", b"{fd:a} {fd:unknown}"),
            (b"{\"listen\":{fd}}", b"{\"listen\":3}"),
            (b"{{{fd}}}", b"{{fd}}"),
            (b"{{fd}", b"{3"),
            (b"{fd}}", b"3}"),
            (b"{fd:{fd}", b"{fd:3"),
            (b"{fd:a", b"{fd:a"),
            (b"{fdx} {FD} { fd } {f} {} {{}} {", b"{fdx} {FD} { fd } {f} {} {{}} {"),
            (b"\xff\xfe{fd}\x80", b"\xff\xfe3\x80"),
            (b"${FD}{fd}", b"${FD}3"),
            (b"listen({fd: 3}) listen({fd:3})", b"listen({fd: 3}) listen({fd:3})"),
            (b"", b""),
        ];
        for (text, expected) in cases {
            assert_eq!(filled(text).as_deref(), Ok(expected), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn an_unknown_placeholder_name_is_reported_as_written() {
        for (text, name) in [(&b"{fd:b}"[..], &b"b"[..]), (b"{fd:}", b""), (b"{fd:\xff}", b"\xff"), (b"{fd::a}", b":a")]
        {
            assert_eq!(filled(text), Err(name.to_vec()), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn a_placeholder_is_distinguished_from_a_literal() {
        assert!(is_in(b"x{fd:b}") && is_in(b"{{fd}") && !is_in(b"{{fd}} {fd {fdx}"));
    }

    /// Bytes that are often almost placeholders.
    fn braces() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"{".to_vec()),
            Just(b"}".to_vec()),
            Just(b"fd".to_vec()),
            Just(b":".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..3),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn a_text_without_placeholders_is_unchanged(text in braces()) {
            let has = |pattern: &[u8]| text.windows(pattern.len()).any(|window| window == pattern);
            prop_assume!(!has(b"{fd}") && !has(b"{fd:"));
            prop_assert_eq!(filled(&text), Ok(text));
        }

        #[test]
        fn every_text_can_be_escaped(text in braces()) {
            // Put braces around each placeholder that the code finds: filling must return the original text.
            let mut escaped = Vec::new();
            let mut rest = &text[..];
            while let [byte, behind @ ..] = rest {
                let (piece, next) = match placeholder(rest) {
                    Some(found) => (&rest[..rest.len() - found.behind.len()], found.behind),
                    None => (&rest[..1], behind),
                };
                let is_placeholder = piece.len() > 1;
                if is_placeholder { escaped.push(b'{'); }
                escaped.extend_from_slice(if is_placeholder { piece } else { std::slice::from_ref(byte) });
                if is_placeholder { escaped.push(b'}'); }
                rest = next;
            }
            prop_assert_eq!(filled(&escaped), Ok(text));
        }
    }
}
