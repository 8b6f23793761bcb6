//! Corrections for words that are not valid in a rule. An ambiguous word gets none.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};

use portgrant_protocol::Port;
use portgrant_protocol::endpoint::is_service;

use crate::address::AddressSet;

/// Characters that word processors put in the place of others: the bytes, their name, and what to write.
const TYPOGRAPHY: [(&[u8], &str, &str); 4] = [
    (b"\xc2\xa0", "a no-break space", "a space"),
    (b"\xe2\x80\x93", "a long dash", "-"),
    (b"\xe2\x80\x94", "a long dash", "-"),
    (b"\xe2\x88\x92", "a minus sign", "-"),
];

/// The entry of [`TYPOGRAPHY`] that `bytes` begin with: what it is, what to write, and its length.
pub(crate) fn typography(bytes: &[u8]) -> Option<(&'static str, &'static str, usize)> {
    let found = TYPOGRAPHY.into_iter().find(|entry| bytes.starts_with(entry.0));
    found.map(|(found, what, instead)| (what, instead, found.len()))
}

/// What to write instead of `word` at the start of a rule.
pub(crate) fn effect(word: &str) -> Option<&'static str> {
    const PERMIT: [&str; 5] = ["permit", "allow", "grant", "accept", "pass"];
    const DENY: [&str; 6] = ["deny", "reject", "forbid", "refuse", "block", "drop"];
    let word = word.trim_end_matches(':');
    let is_among = |words: &[&str]| words.iter().any(|known| known.eq_ignore_ascii_case(word));
    let effects = [(is_among(&PERMIT), "permit"), (is_among(&DENY), "deny")];
    effects.into_iter().find(|effect| effect.0).map(|effect| effect.1)
}

/// What to write instead of `word` where a protocol is expected.
pub(crate) fn protocol(word: &str) -> Option<String> {
    let word = word.to_ascii_lowercase();
    ["tcp", "udp", "sctp"].contains(&word.as_str()).then_some(word)
}

/// What to write instead of `word` where a port is expected.
pub(crate) fn port(word: &str) -> Option<String> {
    if word == "*" {
        return Some("any".to_string());
    }
    let guesses = [range, protocols, protocol_first, address_and_port, address_alone, several, without_zeros];
    guesses.into_iter().find_map(|guess| guess(word))
}

/// `80:90`, `80..90`
fn range(word: &str) -> Option<String> {
    let (first, last) = word.split_once("..").or_else(|| word.split_once(':'))?;
    match (Port::parse(first)?, Port::parse(last)?) {
        (first, last) if first < last => Some(format!("{first}-{last}")),
        _ => None,
    }
}

/// `53/tcp,udp`, `53/tcp+udp`
fn protocols(word: &str) -> Option<String> {
    let (port, protocols) = word.split_once('/').filter(|(port, _)| is_port(port) || is_range(port))?;
    let protocols: Option<Vec<String>> = protocols.split([',', '+', '/', '&']).map(protocol).collect();
    let protocols = protocols.filter(|protocols| protocols.len() > 1)?;
    Some(protocols.iter().map(|protocol| format!("{port}/{protocol}")).collect::<Vec<_>>().join(" "))
}

/// `tcp/80`, `udp:53`, `53:udp`
fn protocol_first(word: &str) -> Option<String> {
    let (first, last) = word.split_once(['/', ':'])?;
    let pair = |port: &str, word: &str| is_port(port).then(|| protocol(word).map(|word| format!("{port}/{word}")))?;
    pair(last, first).or_else(|| pair(first, last))
}

fn is_port(word: &str) -> bool {
    Port::parse(word).is_some() || (is_service(word) && protocol(word).is_none())
}

fn is_range(word: &str) -> bool {
    let ports = word.split_once('-').and_then(|(first, last)| Some((Port::parse(first)?, Port::parse(last)?)));
    ports.is_some_and(|(first, last)| first < last)
}

/// `127.0.0.1:80`, `[::1]:80-90`, `*:80`
fn address_and_port(word: &str) -> Option<String> {
    let (address, port) = word.rsplit_once(':').filter(|(_, port)| is_port(port) || is_range(port))?;
    match address {
        // `:web` is a group, and would be a service.
        "" if is_service(port) => None,
        "*" | "" => Some(port.to_string()),
        _ => Some(format!("{port} on {}", self::address(address).or_else(|| correct(address))?)),
    }
}

/// `10.0.0.0/8`
fn address_alone(word: &str) -> Option<String> {
    Some(format!("PORT on {}", address(word).or_else(|| correct(word))?))
}

/// `udp 53`, `10.0.0.0/8 80`
pub(crate) fn two(first: &str, port: &str) -> Option<String> {
    is_port(port).then_some(())?;
    match protocol(first) {
        Some(protocol) => Some(format!("{port}/{protocol}")),
        None => Some(format!("{port} on {}", address(first).or_else(|| correct(first))?)),
    }
}

/// `80,443`, `80;`
fn several(word: &str) -> Option<String> {
    let parts: Vec<&str> = word.split([',', ';']).filter(|part| !part.is_empty()).collect();
    let are_ports = !parts.is_empty() && parts.len() < word.len() && parts.iter().all(|part| is_port(part));
    (are_ports && word.contains([',', ';'])).then(|| parts.join(" "))
}

/// `080`
fn without_zeros(word: &str) -> Option<String> {
    let port = word.trim_start_matches('0');
    (port.len() < word.len()).then(|| Port::parse(port))?.map(|port| port.to_string())
}

/// What to write instead of `word` where an address is expected.
pub(crate) fn address(word: &str) -> Option<String> {
    match word {
        "any" | "all" | "*" => return Some("0.0.0.0/0 [::]/0".to_string()),
        "localhost" => return Some("127.0.0.1 [::1]".to_string()),
        _ => {}
    }
    let parts: Vec<&str> = word.split([',', ';']).filter(|part| !part.is_empty()).collect();
    if word.contains([',', ';']) {
        let addresses = parts.iter().map(|part| correct(part).or_else(|| address(part)));
        return addresses
            .collect::<Option<Vec<String>>>()
            .filter(|found| !found.is_empty())
            .map(|found| found.join(" "));
    }
    let (whole, length) = word.split_once('/').map_or((word, None), |(whole, length)| (whole, Some(length)));
    let length = length.map_or_else(String::new, |length| format!("/{length}"));
    let inner = whole.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(whole);
    if let Some((ip, zone)) = inner.split_once('%') {
        return Some(format!("[{}]{length} dev {zone}", ip.parse::<Ipv6Addr>().ok()?));
    }
    if let Ok(ip) = inner.parse::<Ipv6Addr>()
        && inner == whole
    {
        return Some(format!("[{ip}]{length}"));
    }
    if let Ok(ip) = inner.parse::<Ipv4Addr>()
        && inner != whole
    {
        return Some(format!("{ip}{length}"));
    }
    let (ip, _) = whole.rsplit_once(':').filter(|(_, port)| Port::parse(port).is_some())?;
    correct(ip)
}

/// `10.0.0.0/255.0.0.0`, the mask as a length
pub(crate) fn netmask(word: &str) -> Option<String> {
    let (address, mask) = word.split_once('/')?;
    let mask = u32::from(mask.parse::<Ipv4Addr>().ok()?);
    let network = u32::from(address.parse::<Ipv4Addr>().ok()?) & mask;
    let length = mask.leading_ones();
    // A netmask is ones, then zeros. If it begins with a zero, it may be an inverted mask.
    (length > 0 && mask.count_ones() == length).then(|| format!("{}/{length}", Ipv4Addr::from(network)))
}

/// `word`, if it is a valid address.
fn correct(word: &str) -> Option<String> {
    AddressSet::parse(word).ok().map(|_| word.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A word, and what to write instead.
    const PORTS: &[(&str, &str)] = &[
        ("80:90", "80-90"),
        ("80..90", "80-90"),
        ("tcp/80", "80/tcp"),
        ("UDP/domain", "domain/udp"),
        ("udp:53", "53/udp"),
        ("443/TCP", "443/tcp"),
        ("127.0.0.1:80", "80 on 127.0.0.1"),
        ("[::1]:80", "80 on [::1]"),
        ("127.0.0.1:80-90", "80-90 on 127.0.0.1"),
        ("*:80-90", "80-90"),
        ("53/tcp,udp", "53/tcp 53/udp"),
        ("80-90/TCP+UDP", "80-90/tcp 80-90/udp"),
        ("::1:80", "80 on [::1]"),
        ("*:80", "80"),
        (":80", "80"),
        (":80-90", "80-90"),
        ("10.0.0.0/8", "PORT on 10.0.0.0/8"),
        ("80,443", "80 443"),
        ("80,http,", "80 http"),
        ("80;", "80"),
        ("080", "80"),
        ("*", "any"),
    ];

    const ADDRESSES: &[(&str, &str)] = &[
        ("::1", "[::1]"),
        ("fe80::/10", "[fe80::]/10"),
        ("[127.0.0.1]", "127.0.0.1"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]:80", "[::1]"),
        ("[fe80::1%eth0]", "[fe80::1] dev eth0"),
        ("fe80::1%eth0", "[fe80::1] dev eth0"),
        ("localhost", "127.0.0.1 [::1]"),
        ("any", "0.0.0.0/0 [::]/0"),
        ("127.0.0.1,::1", "127.0.0.1 [::1]"),
    ];

    #[test]
    fn each_known_mistake_gets_one_correction() {
        for (word, instead) in PORTS {
            assert_eq!(port(word).as_deref(), Some(*instead), "{word}");
        }
        assert_eq!(port(":web"), None);
        for (word, instead) in ADDRESSES {
            assert_eq!(address(word).as_deref(), Some(*instead), "{word}");
        }
        for (word, instead) in [
            ("10.0.0.0/255.0.0.0", Some("10.0.0.0/8")),
            ("10.1.2.3/255.255.0.0", Some("10.1.0.0/16")),
            ("10.1.2.3/0.0.0.0", None),
            ("10.0.0.0/255.0.255.0", None),
            ("10.0.0.0/8", None),
        ] {
            assert_eq!(netmask(word).as_deref(), instead, "{word}");
        }
        for (word, instead) in [("allow", "permit"), ("Permit", "permit"), ("DENY:", "deny"), ("block", "deny")] {
            assert_eq!(effect(word), Some(instead), "{word}");
        }
    }

    #[test]
    fn an_unclear_word_gets_no_guess() {
        for word in ["", "8o", "80-http", "1-2-3", "90:80", "0", "65536", "80/icmp", "a:b:c", ",", "/", ":", "::", "%"]
        {
            let guess = port(word);
            assert!(guess.is_none() || word == "::", "{word}: {guess:?}");
        }
        for word in ["", "eth0", "300.1.1.1", "[", "]", "%", "/", ",", ":", "[::1"] {
            assert_eq!(address(word), None, "{word}");
        }
        assert_eq!((effect(""), effect("alice"), protocol("icmp")), (None, None, None));
    }
}
