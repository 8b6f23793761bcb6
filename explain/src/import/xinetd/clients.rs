//! The addresses of only_from and no_access, as prefixes.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

/// The prefixes that `words` stand for, and the words that are names of hosts, domains or networks.
pub(super) fn of(words: &[String]) -> (Vec<String>, Vec<&str>) {
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for word in words {
        match prefixes(word) {
            Some(prefixes) => known.extend(prefixes.iter().map(ToString::to_string)),
            None => unknown.push(word.as_str()),
        }
    }
    (known, unknown)
}

fn prefixes(word: &str) -> Option<Vec<IpNet>> {
    if let Some((start, rest)) = word.split_once('{') {
        return factorized(start, rest.strip_suffix('}')?);
    }
    if let Some((address, length)) = word.split_once('/') {
        let (address, length) = (address.parse().ok()?, length.parse().ok()?);
        return Some(vec![IpNet::new(address, length).ok()?.trunc()]);
    }
    Some(vec![match word.parse().ok()? {
        IpAddr::V4(ip) => IpNet::V4(Ipv4Net::new(ip, without_zeros(ip)).ok()?),
        // `::` means all addresses, as in xinetd.
        IpAddr::V6(ip) if ip.is_unspecified() => IpNet::new(ip.into(), 0).ok()?,
        IpAddr::V6(ip) => IpNet::from(IpAddr::V6(ip)),
    }])
}

/// 10.1.0.0 is a network of 16 bits: components that are 0 at the end stand for any.
fn without_zeros(ip: Ipv4Addr) -> u8 {
    let zeros = ip.octets().iter().rev().take_while(|octet| **octet == 0).count();
    u8::try_from(32 - 8 * zeros).unwrap_or(32)
}

/// 10.1.{2,3}, with as many components as there are.
fn factorized(start: &str, numbers: &str) -> Option<Vec<IpNet>> {
    let mut octets: Vec<u8> = Vec::new();
    if !start.is_empty() {
        for part in start.strip_suffix('.')?.split('.') {
            octets.push(part.parse().ok()?);
        }
    }
    let length = u8::try_from(8 * (octets.len() + 1)).ok().filter(|length| *length <= 32)?;
    let network = |number: &str| {
        let mut address = [0; 4];
        for (place, octet) in address.iter_mut().zip(octets.iter().copied().chain([number.parse().ok()?])) {
            *place = octet;
        }
        Some(IpNet::V4(Ipv4Net::new(address.into(), length).ok()?))
    };
    numbers.split(',').map(network).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_xinetd_reads_them() {
        for (word, expected) in [
            ("10.1.2.3", "10.1.2.3/32"),
            ("10.1.2.0", "10.1.2.0/24"),
            ("10.0.0.0", "10.0.0.0/8"),
            ("0.0.0.0", "0.0.0.0/0"),
            ("10.1.2.0/25", "10.1.2.0/25"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.{2,3}", "10.1.2.0/24 10.1.3.0/24"),
            ("{10,11}", "10.0.0.0/8 11.0.0.0/8"),
            ("::1", "::1/128"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::", "::/0"),
        ] {
            let words = [word.to_owned()];
            let (known, unknown) = of(&words);
            assert_eq!((known.join(" ").as_str(), unknown), (expected, vec![]), "{word}");
        }
        for word in ["host.example", ".example.com", "10.1.2.3.4", "10.{1", "10.1.2.3.{4}", "loopback"] {
            assert_eq!(of(&[word.to_owned()]), (vec![], vec![word]));
        }
    }
}
