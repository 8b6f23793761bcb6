//! Valid names of hosts (RFC 952, 1123).

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The longest name, in octets (RFC 1035, 3.1, without the root).
const LONGEST: usize = 253;
/// The longest label.
const LONGEST_LABEL: usize = 63;

/// A host name: at most 253 letters, digits, hyphens, underscores and dots, in lower case, without a final dot.
///
/// It is safe in a log line, a shell word and a file name. No label is empty, or begins or ends with a hyphen. No name
/// ends in a number, as addresses do (`10.0.0.1`, `0x7f.1`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

impl HostName {
    /// Returns `None` if `text` is not a valid host name. Upper case becomes lower case, and one final dot is removed.
    ///
    /// ```
    /// use portgrant_server::names::HostName;
    ///
    /// assert_eq!(HostName::new("Mail.Example.org.").expect("a name").as_str(), "mail.example.org");
    /// for text in ["10.0.0.1", "-rf.example.org", "a b", "$(id).example.org", "a..b", ""] {
    ///     assert!(HostName::new(text).is_none());
    /// }
    /// ```
    pub fn new(text: &str) -> Option<HostName> {
        HostName::from_labels(text.strip_suffix('.').unwrap_or(text).split('.').map(str::as_bytes))
    }

    /// From the labels of a DNS answer. A label may contain a dot, and such a name would look like another one.
    pub(super) fn from_labels<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Option<HostName> {
        let mut name = String::new();
        let mut last: &[u8] = b"";
        for label in labels {
            if !is_label(label) || name.len() + label.len() > LONGEST {
                return None;
            }
            if !name.is_empty() {
                name.push('.');
            }
            name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
            last = label;
        }
        (!name.is_empty() && name.len() <= LONGEST && !is_number(last)).then(|| HostName(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_label(label: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let has_hyphen_at_an_end = label.first() == Some(&b'-') || label.last() == Some(&b'-');
    (1..=LONGEST_LABEL).contains(&label.len()) && label.iter().all(is_plain) && !has_hyphen_at_an_end
}

/// A number for inet_aton(3), which also accepts hexadecimal.
fn is_number(label: &[u8]) -> bool {
    match label {
        [b'0', b'x' | b'X', digits @ ..] => digits.iter().all(u8::is_ascii_hexdigit),
        digits => digits.iter().all(u8::is_ascii_digit),
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for HostName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for HostName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for HostName {
    fn eq(&self, other: &str) -> bool {
        *self.0 == *other
    }
}

impl PartialEq<&str> for HostName {
    fn eq(&self, other: &&str) -> bool {
        *self.0 == **other
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_host_name_is_letters_digits_hyphens_underscores_and_dots() {
        for (text, expected) in [
            ("localhost", "localhost"),
            ("Mail.EXAMPLE.org", "mail.example.org"),
            ("mail.example.org.", "mail.example.org"),
            ("_sip._tcp.example.org", "_sip._tcp.example.org"),
            ("4.3.2.1.dynamic.example", "4.3.2.1.dynamic.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("0xdeadbeef.example", "0xdeadbeef.example"),
            ("a-b.c", "a-b.c"),
        ] {
            assert_eq!(HostName::new(text).expect(text), *expected, "{text}");
        }
    }

    #[test]
    fn a_name_with_special_meaning_or_like_an_address_is_rejected() {
        for text in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a b",
            "a\nb",
            "a\x1b[2J.example",
            "a;reboot",
            "$(id).example",
            "`id`",
            "../etc/passwd",
            "a/b",
            "a\\b",
            "%s",
            "*.example",
            "a@b",
            "<b>",
            "-rf.example",
            "a.-b",
            "a-",
            "127.0.0.1",
            "1",
            "2130706433",
            "0x7f.1",
            "0x7F000001",
            "a.0x",
            "example.1",
            "::1",
            "fe80::1%eth0",
            "b\u{fc}cher.example",
            "a\0",
        ] {
            assert_eq!(HostName::new(text), None, "{text:?}");
        }
    }

    #[test]
    fn lengths_are_those_of_dns() {
        let label = "a".repeat(63);
        assert!(HostName::new(&format!("{label}.example")).is_some());
        assert!(HostName::new(&format!("{label}a.example")).is_none());
        let longest = [&*label, &label, &label, &"b".repeat(61)].join(".");
        assert_eq!(longest.len(), 253);
        assert!(HostName::new(&longest).is_some());
        assert!(HostName::new(&format!("{longest}.")).is_some());
        assert!(HostName::new(&format!("{longest}b")).is_none());
    }

    #[test]
    fn a_dot_within_a_label_is_rejected() {
        let labels: [&[u8]; 2] = [b"mail.bank", b"example"];
        assert_eq!(HostName::from_labels(labels.into_iter()), None);
    }

    proptest! {
        #[test]
        fn every_accepted_name_is_printable(labels: Vec<Vec<u8>>) {
            if let Some(name) = HostName::from_labels(labels.iter().map(Vec::as_slice)) {
                let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
                prop_assert!(name.as_str().bytes().all(plain) && name.as_str().len() <= LONGEST);
                prop_assert!(name.as_str().parse::<std::net::IpAddr>().is_err());
                prop_assert_eq!(HostName::new(name.as_str()), Some(name));
            }
        }
    }
}
