//! Addresses as sets: the addresses of a rule's `on` clause, those that a socket would occupy, and how the two overlap.
//!
//! The wildcards are separate elements: In a rule, `0.0.0.0` is only the IPv4 wildcard, and `0.0.0.0/0` is every IPv4
//! address and the wildcard. `[::]` is the dual-stack wildcard, that is both. An IPv4-mapped address counts as IPv4, so
//! an IPv6 prefix never contains IPv4.

use alloc::format;
use alloc::string::String;
use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};

use portgrant_protocol::{Address, decimal};

use crate::scan::split_once;

/// One element of a rule's `on` clause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressSet {
    /// An IPv4 prefix: network, length 0 to 32
    V4(Ipv4Addr, u8),
    /// `0.0.0.0`
    V4Wildcard,
    /// An IPv6 prefix: network, length 0 to 128
    V6(Ipv6Addr, u8),
    /// `[::]`: both wildcards
    DualWildcard,
}

/// The addresses that a socket occupies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// One IPv4 address
    V4(Ipv4Addr),
    /// Every IPv4 address
    V4Wildcard,
    /// One IPv6 address
    V6(Ipv6Addr),
    /// Every IPv6 address (v6only)
    V6Wildcard,
    /// Every address of both families
    DualWildcard,
    /// `each`: the same, and each address of the host separately
    Each,
}

/// The socket's family (SO_DOMAIN).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Domain {
    /// AF_INET for an IPv4 address and AF_INET6 for others, as the helper makes its sockets
    #[default]
    OfAddress,
    /// AF_INET6 for any address: the caller's own socket, which binds IPv4 addresses as `::ffff:a.b.c.d`
    Inet6,
}

/// Why a word is not a valid `on` element.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "Wrong is the message for each")]
pub enum AddressError {
    Form,
    Length,
    HostBits(String),
}

impl Span {
    /// The addresses that a socket for `address` occupies. `v6only` must be false for the caller's own socket: the
    /// caller can clear that option between this decision and bind(2).
    pub fn of(address: Address, v6only: bool) -> Span {
        match address {
            Address::V4(address) if address.is_unspecified() => Span::V4Wildcard,
            Address::V4(address) => Span::V4(address),
            Address::V6(address) if !address.is_unspecified() => Span::V6(address),
            Address::V6(_) | Address::Any if v6only => Span::V6Wildcard,
            Address::V6(_) | Address::Any => Span::DualWildcard,
            Address::Each => Span::Each,
        }
    }

    /// Its parts: the dual-stack wildcard is the wildcard of each family.
    fn parts(self) -> [Option<Span>; 2] {
        match self {
            Span::DualWildcard | Span::Each => [Some(Span::V4Wildcard), Some(Span::V6Wildcard)],
            Span::V4(_) | Span::V4Wildcard | Span::V6(_) | Span::V6Wildcard => [Some(self), None],
        }
    }

    /// Whether `sets` together contain every address of this span. An empty list contains every address.
    pub fn is_within(self, sets: &[AddressSet]) -> bool {
        // A set of wildcards alone contains no single address, but `each` needs all of them.
        let counts =
            |set: &AddressSet| self != Span::Each || *set != AddressSet::V4Wildcard && *set != AddressSet::DualWildcard;
        let held = |part| sets.iter().any(|set| counts(set) && set.holds(part));
        sets.is_empty() || self.parts().into_iter().flatten().all(held)
    }

    /// Whether this span overlaps any of `sets`: a wildcard occupies every address of its family.
    pub fn overlaps(self, sets: &[AddressSet]) -> bool {
        let meets = |part: Span, set: &AddressSet| match (part, set) {
            (Span::V4Wildcard, AddressSet::V4(..)) | (Span::V6Wildcard, AddressSet::V6(..)) => true,
            _ => set.holds(part),
        };
        sets.is_empty() || self.parts().into_iter().flatten().any(|part| sets.iter().any(|set| meets(part, set)))
    }

    /// Whether a datagram socket that occupies this can send from an address in `sets`. Its holder chooses the source
    /// address of each datagram (IP_PKTINFO, IPV6_PKTINFO) without privilege; only the family is fixed.
    ///
    /// An AF_INET6 socket can send both families, unless bind(2) bound it to an IPv6 address: that makes it IPv6-only.
    pub fn may_send_from(self, domain: Domain, sets: &[AddressSet]) -> bool {
        let (v4, v6) = match self {
            Span::V4(_) | Span::V4Wildcard => (true, domain == Domain::Inet6),
            Span::V6(_) | Span::V6Wildcard => (false, true),
            Span::DualWildcard | Span::Each => (true, true),
        };
        sets.iter().any(|set| match set {
            AddressSet::V4(..) => v4,
            AddressSet::V6(..) => v6,
            // A wildcard is not an address to send from.
            AddressSet::V4Wildcard | AddressSet::DualWildcard => false,
        })
    }
}

impl AddressSet {
    /// The single address of this set, or its wildcard, as an address to ask for.
    pub(crate) fn single(self) -> Option<Address> {
        match self {
            AddressSet::V4(address, 32) => Some(Address::V4(address)),
            AddressSet::V4Wildcard | AddressSet::V4(_, 0) => Some(Address::V4(Ipv4Addr::UNSPECIFIED)),
            AddressSet::V6(address, 128) => Some(Address::V6(address)),
            AddressSet::DualWildcard => Some(Address::Any),
            AddressSet::V4(..) | AddressSet::V6(..) => None,
        }
    }

    /// Whether this contains some addresses of its family, but not all. A wildcard alone does not count.
    pub fn is_part_of_family(self) -> bool {
        matches!(self, AddressSet::V4(_, length) | AddressSet::V6(_, length) if length > 0)
    }

    /// Parses `IPv4[/LEN]` or `[IPv6][/LEN]`.
    pub fn parse(word: &str) -> Result<AddressSet, AddressError> {
        let (address, length) = match split_once(word, b'/') {
            Some((address, length)) => (address, Some(length)),
            None => (word, None),
        };
        let bracketed = address.strip_prefix('[').and_then(|address| address.strip_suffix(']'));
        let Some(v6) = bracketed else {
            let address = address.parse().map_err(|_| AddressError::Form)?;
            return AddressSet::v4(address, prefix_length(length, 32)?);
        };
        let v6: Ipv6Addr = v6.parse().map_err(|_| AddressError::Form)?;
        let length = prefix_length(length, 128)?;
        match v6.to_ipv4_mapped() {
            Some(mapped) => AddressSet::v4(mapped, length.checked_sub(96).ok_or(AddressError::Length)?),
            None => AddressSet::v6(v6, length),
        }
    }

    fn v4(address: Ipv4Addr, length: u8) -> Result<AddressSet, AddressError> {
        let network = Ipv4Addr::from(u32::from(address) & mask_v4(length));
        match (address.is_unspecified(), length) {
            (true, 32) => Ok(AddressSet::V4Wildcard),
            _ if network != address => Err(AddressError::HostBits(format!("{network}/{length}"))),
            _ => Ok(AddressSet::V4(network, length)),
        }
    }

    fn v6(address: Ipv6Addr, length: u8) -> Result<AddressSet, AddressError> {
        let network = Ipv6Addr::from(u128::from(address) & mask_v6(length));
        match (address.is_unspecified(), length) {
            (true, 128) => Ok(AddressSet::DualWildcard),
            _ if network != address => Err(AddressError::HostBits(format!("[{network}]/{length}"))),
            _ => Ok(AddressSet::V6(network, length)),
        }
    }

    /// Whether this contains `part`, one address or one family's wildcard.
    fn holds(self, part: Span) -> bool {
        match (self, part) {
            (AddressSet::V4(network, length), Span::V4(address)) => {
                u32::from(address) & mask_v4(length) == u32::from(network)
            }
            (AddressSet::V6(network, length), Span::V6(address)) => {
                u128::from(address) & mask_v6(length) == u128::from(network)
            }
            // Only the prefix of length 0 contains the wildcard; others contain addresses alone.
            (AddressSet::V4(_, length), Span::V4Wildcard) | (AddressSet::V6(_, length), Span::V6Wildcard) => {
                length == 0
            }
            (AddressSet::V4Wildcard, part) => part == Span::V4Wildcard,
            (AddressSet::DualWildcard, part) => matches!(part, Span::V4Wildcard | Span::V6Wildcard),
            (AddressSet::V4(..) | AddressSet::V6(..), _) => false,
        }
    }
}

fn prefix_length(word: Option<&str>, most: u8) -> Result<u8, AddressError> {
    let Some(word) = word else { return Ok(most) };
    let is_plain = word == "0" || !word.starts_with('0');
    decimal(word.as_bytes()).filter(|&length| is_plain && length <= most).ok_or(AddressError::Length)
}

fn mask_v4(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

fn mask_v6(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

impl fmt::Display for AddressSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressSet::V4(network, length) => write!(f, "{network}/{length}"),
            AddressSet::V4Wildcard => f.write_str("0.0.0.0"),
            AddressSet::V6(network, length) => write!(f, "[{network}]/{length}"),
            AddressSet::DualWildcard => f.write_str("[::]"),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Span::V4(address) => address.fmt(f),
            Span::V4Wildcard => f.write_str("0.0.0.0"),
            Span::V6(address) => write!(f, "[{address}]"),
            Span::V6Wildcard => f.write_str("[::] (IPv6 only)"),
            Span::DualWildcard => f.write_str("[::] (IPv4 as well)"),
            Span::Each => f.write_str("[::] (IPv4 as well) and every address that is there"),
        }
    }
}
