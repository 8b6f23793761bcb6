//! Lines of `byuid/UID`: parses addresses into intervals, and writes intervals as elements of a rule.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::{Ipv4Subnets, Ipv6Subnets};
use portgrant_protocol::decimal;

/// Addresses of one family, from and to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    V4(u32, u32),
    V6(u128, u128),
}

/// One of the three forms of authbind(1): `MIN[-MAX],PORT[-PORT]`, `ADDRESS[/LENGTH],PORT[-PORT]`,
/// `IPV4/LENGTH:PORT,PORT`.
pub(super) fn line(text: &str) -> Option<(Block, RangeInclusive<u16>)> {
    let (place, ports) = text.split_once(',')?;
    // The third form: the part before the comma has a colon.
    if let Some((place, first)) =
        place.trim_start().rsplit_once(':').filter(|_| place.contains('.') && place.contains('/'))
    {
        let (address, length) = place.split_once('/')?;
        let block = Block::prefix(address.parse::<Ipv4Addr>().ok()?.into(), number(length)?)?;
        return Some((block, range(number(first.trim_start())?, number(ports.trim())?)));
    }
    let block = match (place.split_once('/'), place.split_once('-')) {
        (Some(_), Some(_)) => return None,
        (Some((address, length)), None) => Block::prefix(address.parse().ok()?, number(length.trim())?)?,
        (None, Some((first, last))) => Block::between(first.parse().ok()?, last.parse().ok()?)?,
        (None, None) => Block::between(place.parse().ok()?, place.parse().ok()?)?,
    };
    let (first, last) = ports.trim().split_once('-').unwrap_or((ports.trim(), ports.trim()));
    Some((block, range(number(first)?, number(last)?)))
}

/// A port that is too large counts as the largest.
fn range(first: u32, last: u32) -> RangeInclusive<u16> {
    let port = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    port(first)..=port(last)
}

fn number(word: &str) -> Option<u32> {
    decimal(word.as_bytes())
}

impl Block {
    /// `None` if it contains nothing: with bits beyond the length, no address matches.
    fn prefix(address: IpAddr, length: u32) -> Option<Block> {
        match address {
            IpAddr::V4(ip) => {
                let rest = u32::MAX.checked_shr(length).unwrap_or(0);
                let first = u32::from(ip);
                (length <= 32 && first & rest == 0).then_some(Block::V4(first, first | rest))
            }
            IpAddr::V6(ip) => {
                let rest = u128::MAX.checked_shr(length).unwrap_or(0);
                let first = u128::from(ip);
                (length <= 128 && first & rest == 0).then_some(Block::V6(first, first | rest))
            }
        }
    }

    fn between(first: IpAddr, last: IpAddr) -> Option<Block> {
        match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => Some(Block::V4(first.into(), last.into())),
            (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => Some(Block::V6(first.into(), last.into())),
            (IpAddr::V4(_) | IpAddr::V6(_), _) => None,
        }
    }

    pub(super) fn holds(&self, ip: IpAddr) -> bool {
        match (*self, ip) {
            (Block::V4(first, last), IpAddr::V4(ip)) => (first..=last).contains(&ip.into()),
            (Block::V6(first, last), IpAddr::V6(ip)) => (first..=last).contains(&ip.into()),
            (Block::V4(..) | Block::V6(..), _) => false,
        }
    }

    pub(super) fn is_everything_of_ipv6(&self) -> bool {
        *self == Block::V6(0, u128::MAX)
    }

    /// The block without these addresses.
    pub(super) fn without(&self, addresses: impl Iterator<Item = IpAddr>) -> Vec<Block> {
        let mut blocks = vec![*self];
        for ip in addresses {
            blocks = blocks.into_iter().flat_map(|block| block.split(ip)).flatten().collect();
        }
        blocks
    }

    fn split(self, ip: IpAddr) -> [Option<Block>; 2] {
        if !self.holds(ip) {
            return [Some(self), None];
        }
        match (self, ip) {
            (Block::V4(first, last), IpAddr::V4(ip)) => {
                let ip = u32::from(ip);
                [(first < ip).then(|| Block::V4(first, ip - 1)), (ip < last).then(|| Block::V4(ip + 1, last))]
            }
            (Block::V6(first, last), IpAddr::V6(ip)) => {
                let ip = u128::from(ip);
                [(first < ip).then(|| Block::V6(first, ip - 1)), (ip < last).then(|| Block::V6(ip + 1, last))]
            }
            (Block::V4(..) | Block::V6(..), _) => [Some(self), None],
        }
    }

    /// The block in the form of `on`. `0.0.0.0` and `[::]` are addresses for authbind, but wildcards for portgrant.
    pub(super) fn sets(&self) -> Vec<String> {
        match *self {
            Block::V4(0, u32::MAX) => vec!["0.0.0.0/0".to_owned()],
            Block::V4(0, last) => {
                // No other address that begins with 0 can be bound.
                let rest = (last >= 1 << 24).then(|| Block::V4(1 << 24, last).sets());
                ["0.0.0.0".to_owned()].into_iter().chain(rest.into_iter().flatten()).collect()
            }
            Block::V4(first, last) => {
                let nets = Ipv4Subnets::new(first.max(1 << 24).into(), last.into(), 0);
                let text = |net: ipnet::Ipv4Net| match net.prefix_len() {
                    32 => net.addr().to_string(),
                    _ => net.to_string(),
                };
                nets.map(text).collect()
            }
            Block::V6(0, u128::MAX) => ["[::]", "[::]/0"].map(str::to_owned).into(),
            Block::V6(0, 0) => vec!["[::]".to_owned()],
            Block::V6(0, last) => ["[::]".to_owned()].into_iter().chain(Block::V6(1, last).sets()).collect(),
            Block::V6(first, last) => {
                let nets = Ipv6Subnets::new(first.into(), last.into(), 0);
                // A rule would treat these as IPv4.
                let nets = nets.filter(|net| Ipv6Addr::to_ipv4_mapped(&net.addr()).is_none());
                let text = |net: ipnet::Ipv6Net| match net.prefix_len() {
                    128 => format!("[{}]", net.addr()),
                    length => format!("[{}]/{length}", net.addr()),
                };
                nets.map(text).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_the_ports_and_addresses_that_a_rule_can_express() {
        for (text, sets, ports) in [
            ("0.0.0.0/0,80", "0.0.0.0/0", 80..=80),
            ("0.0.0.0/0:1,1023", "0.0.0.0/0", 1..=1023),
            (" 10.0.0.0/8: 80, 90 ", "10.0.0.0/8", 80..=90),
            ("0.0.0.0/32:1,1023", "0.0.0.0", 1..=1023),
            ("127.0.0.1,53", "127.0.0.1", 53..=53),
            ("10.0.0.1-10.0.0.3,1-9", "10.0.0.1 10.0.0.2/31", 1..=9),
            ("::/0,80", "[::] [::]/0", 80..=80),
            ("::,80", "[::]", 80..=80),
            ("2001:db8::/32,1-100000", "[2001:db8::]/32", 1..=u16::MAX),
            (
                "0.0.0.0/1,80",
                "0.0.0.0 1.0.0.0/8 2.0.0.0/7 4.0.0.0/6 8.0.0.0/5 16.0.0.0/4 32.0.0.0/3 64.0.0.0/2",
                80..=80,
            ),
        ] {
            let (block, range) = line(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((block.sets().join(" ").as_str(), range), (sets, ports), "{text}");
        }
        for text in [
            "10.0.0.1/8,80",
            "10.0.0.9-10.0.0.1,80",
            "host,80",
            "10.0.0.0/8",
            " 10.0.0.1,80",
            "10.0.0.0/33,80",
            "a-b/c,1",
            "::1-10.0.0.1,1",
        ] {
            assert!(line(text).is_none(), "{text}");
        }
    }

    #[test]
    fn an_address_that_another_file_decides_is_removed() {
        let block = Block::prefix("10.0.0.0".parse().expect("an address"), 30).expect("a prefix");
        let rest = block.without(["10.0.0.1", "::1"].map(|ip| ip.parse().expect("an address")).into_iter());
        let sets: Vec<String> = rest.iter().flat_map(Block::sets).collect();
        assert_eq!(sets, ["10.0.0.0", "10.0.0.2/31"]);
        assert_eq!(Block::V4(7, 7).without(std::iter::once("0.0.0.7".parse().expect("an address"))), []);
    }
}
