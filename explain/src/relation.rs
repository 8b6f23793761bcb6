//! How two rules relate: whether one contains the other or overlaps it. Only warnings and lists use this, not verdicts.
//! It only claims what is true for every request (the tests compare it with `decide`).

use std::borrow::Cow;
use std::cell::Cell;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portgrant_policy::{AddressSet, Rule, Subject};
use portgrant_protocol::Protocol;

const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// From and to, both included.
type Range<T> = (T, T);

/// How many steps comparisons may still take. A step is one range of one rule, searched in another rule.
#[derive(Debug)]
pub(crate) struct Budget(Cell<u64>);

impl Budget {
    pub(crate) fn new(steps: u64) -> Budget {
        Budget(Cell::new(steps))
    }

    /// Adds steps to what is left.
    pub(crate) fn add(&self, steps: u64) {
        self.0.set(self.0.get().saturating_add(steps));
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn left(&self) -> u64 {
        self.0.get()
    }

    pub(crate) fn is_exhausted(&self) -> bool {
        self.0.get() == 0
    }

    pub(crate) fn spend(&self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// A rule, and its ports and addresses as sorted ranges that do not touch each other.
#[derive(Debug)]
pub(crate) struct Extent<'p> {
    pub(crate) rule: &'p Rule,
    /// Of each of [`PROTOCOLS`]
    ports: [Vec<Range<u16>>; 3],
    /// `None` is every address
    on: Option<Box<Addresses>>,
}

/// The addresses of an `on` clause. Wildcards are not addresses.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Addresses {
    v4: Cow<'static, [Range<u32>]>,
    v6: Cow<'static, [Range<u128>]>,
    v4_wildcard: bool,
    v6_wildcard: bool,
    /// Each address of both families separately
    each: bool,
}

/// No `on` clause.
static EVERY: Addresses = Addresses {
    v4: Cow::Borrowed(&[(0, u32::MAX)]),
    v6: Cow::Borrowed(&[(0, u128::MAX)]),
    v4_wildcard: true,
    v6_wildcard: true,
    each: true,
};

impl<'p> Extent<'p> {
    pub(crate) fn of(rule: &'p Rule) -> Extent<'p> {
        let ports = PROTOCOLS.map(|protocol| {
            let own = rule.ports.iter().filter(|ports| ports.protocols.contains(protocol));
            merged(own.map(|ports| (ports.first.get(), ports.last.get())).collect(), |port| port.checked_add(1))
        });
        let on = Some(&rule.addresses).filter(|sets| !sets.is_empty()).map(|sets| Box::new(Addresses::of(sets)));
        Extent { rule, ports, on }
    }

    /// The ranges of ports, of one protocol after the other.
    pub(crate) fn ports(&self) -> impl Iterator<Item = Range<u16>> {
        self.ports.iter().flatten().copied()
    }

    /// An address of the rule, unless it contains all addresses or only wildcards.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        let v4 = self.addresses().v4.first().filter(|range| **range != (0, u32::MAX));
        let v6 = self.addresses().v6.first().filter(|range| **range != (0, u128::MAX));
        let v6 = v6.map(|range| IpAddr::from(Ipv6Addr::from_bits(range.0)));
        v4.map(|range| IpAddr::from(Ipv4Addr::from_bits(range.0))).or(v6)
    }

    /// Whether it holds any IPv4 address, and any IPv6 address. Wildcards do not count.
    pub(crate) fn families(&self) -> [bool; 2] {
        let on = self.addresses();
        [!on.v4.is_empty(), !on.v6.is_empty()]
    }

    /// Whether all of its ports are for datagrams.
    pub(crate) fn is_of_datagrams(&self) -> bool {
        let [tcp, udp, sctp] = &self.ports;
        tcp.is_empty() && sctp.is_empty() && !udp.is_empty()
    }

    /// The meaning of the rule: two rules with the same meaning do the same.
    pub(crate) fn meaning(&self) -> impl Hash + Eq {
        let Rule { effect, subject, ports: _, addresses: _, dev, reuseport, freebind, program, .. } = self.rule;
        (effect, subject, &self.ports, self.addresses(), dev, (reuseport, freebind), program)
    }

    /// Whether this rule, which has the same effect, covers `narrow` completely.
    pub(crate) fn makes_needless(&self, narrow: &Extent<'_>, budget: &Budget) -> bool {
        let (wide, other) = (self.rule, narrow.rule);
        includes_subject(wide, other)
            && (wide.dev.is_none() || wide.dev == other.dev)
            && (wide.reuseport || !other.reuseport)
            && (wide.freebind || !other.freebind)
            && (wide.program.is_none() || wide.program == other.program)
            && self.holds_ports(narrow, budget)
            && self.addresses().hold(narrow.addresses(), budget)
            && (self.addresses().v4_wildcard || !narrow.addresses().v4_wildcard)
            && (self.addresses().v6_wildcard || !narrow.addresses().v6_wildcard)
            && (self.addresses().each || !narrow.addresses().each)
    }

    /// Whether this deny refuses whatever `permit` permits. The subjects are not compared.
    pub(crate) fn denies_all(&self, permit: &Extent<'_>, budget: &Budget) -> bool {
        let [tcp, udp, sctp] = &permit.ports;
        let streams = !tcp.is_empty() || !sctp.is_empty();
        let (denied, permitted) = (self.addresses(), permit.addresses());
        (!streams || self.is_held_to_dev_of(permit))
            && (udp.is_empty() || denied.always_touch_datagrams(permitted))
            && self.holds_ports(permit, budget)
            && (!streams || denied.always_overlaps(permitted, budget))
    }

    /// Whether this deny refuses anything that `permit` permits. The subjects are not compared.
    pub(crate) fn denies_some(&self, permit: &Extent<'_>, budget: &Budget) -> bool {
        let (denied, permitted) = (self.addresses(), permit.addresses());
        let same_dev = permit.rule.dev.is_none() || self.is_held_to_dev_of(permit);
        let touches = denied.overlaps(permitted, budget);
        let by_port = |((protocol, ports), permitted_ports): ((_, &Vec<_>), &Vec<_>)| {
            // For udp a deny ignores the interface, and an address means its whole family: the holder of the socket chooses the
            // source address.
            let counts = match protocol {
                Protocol::Udp => touches || denied.overlaps_sources(permitted),
                Protocol::Tcp | Protocol::Sctp | Protocol::Mptcp => same_dev && touches,
            };
            counts && meet(ports, permitted_ports, budget)
        };
        PROTOCOLS.into_iter().zip(&self.ports).zip(&permit.ports).any(by_port)
    }

    fn is_held_to_dev_of(&self, permit: &Extent<'_>) -> bool {
        self.rule.dev.is_none() || self.rule.dev == permit.rule.dev
    }

    fn addresses(&self) -> &Addresses {
        self.on.as_deref().unwrap_or(&EVERY)
    }

    fn holds_ports(&self, narrow: &Extent<'_>, budget: &Budget) -> bool {
        self.ports.iter().zip(&narrow.ports).all(|(wide, narrow)| hold(wide, narrow, budget))
    }
}

impl Addresses {
    fn of(sets: &[AddressSet]) -> Addresses {
        let has = |wanted: &[AddressSet]| sets.iter().any(|set| wanted.contains(set));
        let (v4, v6) = (AddressSet::V4(Ipv4Addr::UNSPECIFIED, 0), AddressSet::V6(Ipv6Addr::UNSPECIFIED, 0));
        Addresses {
            v4: merged(v4_ranges(sets), |at| at.checked_add(1)).into(),
            v6: merged(v6_ranges(sets), |at| at.checked_add(1)).into(),
            v4_wildcard: has(&[v4, AddressSet::V4Wildcard, AddressSet::DualWildcard]),
            v6_wildcard: has(&[v6, AddressSet::DualWildcard]),
            each: has(&[v4]) && has(&[v6]),
        }
    }

    fn hold(&self, narrow: &Addresses, budget: &Budget) -> bool {
        hold(&self.v4, &narrow.v4, budget) && hold(&self.v6, &narrow.v6, budget)
    }

    /// Whether some request within `permitted` overlaps this. A wildcard overlaps each address of its family.
    fn overlaps(&self, permitted: &Addresses, budget: &Budget) -> bool {
        (permitted.v4_wildcard && self.has_v4())
            || (permitted.v6_wildcard && self.has_v6())
            || meet(&self.v4, &permitted.v4, budget)
            || meet(&self.v6, &permitted.v6, budget)
    }

    /// Whether every request within `permitted` overlaps this. A wildcard overlaps each address of its family.
    fn always_overlaps(&self, permitted: &Addresses, budget: &Budget) -> bool {
        (self.has_v4() || !permitted.v4_wildcard)
            && (self.has_v6() || !permitted.v6_wildcard)
            && self.hold(permitted, budget)
    }

    /// The same for datagrams: a socket for any address of a family can send from all of them.
    fn always_touch_datagrams(&self, permitted: &Addresses) -> bool {
        let v4 = permitted.v4.is_empty() && (self.v4_wildcard || !permitted.v4_wildcard);
        let v6 = permitted.v6.is_empty() && (self.v6_wildcard || !permitted.v6_wildcard);
        (v4 || !self.v4.is_empty()) && (v6 || !self.v6.is_empty())
    }

    /// Whether a datagram socket for some request within `permitted` can send from an address in this.
    fn overlaps_sources(&self, permitted: &Addresses) -> bool {
        (!self.v4.is_empty() && permitted.has_v4()) || (!self.v6.is_empty() && permitted.has_v6())
    }

    fn has_v4(&self) -> bool {
        self.v4_wildcard || !self.v4.is_empty()
    }

    fn has_v6(&self) -> bool {
        self.v6_wildcard || !self.v6.is_empty()
    }
}

/// Whether the subject `wide` includes `narrow`.
fn includes_subject(wide: &Rule, narrow: &Rule) -> bool {
    wide.subject == Subject::Any || (wide.subject == narrow.subject && wide.subject != Subject::Nobody)
}

fn v4_ranges(sets: &[AddressSet]) -> Vec<Range<u32>> {
    let range = |set: &AddressSet| match *set {
        AddressSet::V4(network, length) => {
            let first = network.to_bits();
            Some((first, first | u32::MAX.checked_shr(length.into()).unwrap_or(0)))
        }
        AddressSet::V6(..) | AddressSet::V4Wildcard | AddressSet::DualWildcard => None,
    };
    sets.iter().filter_map(range).collect()
}

fn v6_ranges(sets: &[AddressSet]) -> Vec<Range<u128>> {
    let range = |set: &AddressSet| match *set {
        AddressSet::V6(network, length) => {
            let first = network.to_bits();
            Some((first, first | u128::MAX.checked_shr(length.into()).unwrap_or(0)))
        }
        AddressSet::V4(..) | AddressSet::V4Wildcard | AddressSet::DualWildcard => None,
    };
    sets.iter().filter_map(range).collect()
}

/// Sorted, with overlapping and touching ranges merged.
fn merged<T: Copy + Ord>(mut ranges: Vec<Range<T>>, next: impl Fn(T) -> Option<T>) -> Vec<Range<T>> {
    ranges.sort_unstable();
    ranges.dedup_by(|later, earlier| {
        let joins = next(earlier.1).is_none_or(|next| later.0 <= next);
        if joins {
            earlier.1 = earlier.1.max(later.1);
        }
        joins
    });
    ranges
}

/// Whether each range of `narrow` lies within one of `wide`. Both are merged.
fn hold<T: Copy + Ord>(wide: &[Range<T>], narrow: &[Range<T>], budget: &Budget) -> bool {
    narrow.iter().all(|range| {
        budget.spend();
        let after = wide.partition_point(|other| other.0 <= range.0);
        after.checked_sub(1).and_then(|at| wide.get(at)).is_some_and(|other| range.1 <= other.1)
    })
}

/// Whether any range of one overlaps any of the other. Both are merged.
fn meet<T: Copy + Ord>(one: &[Range<T>], other: &[Range<T>], budget: &Budget) -> bool {
    let (few, many) = if one.len() <= other.len() { (one, other) } else { (other, one) };
    few.iter().any(|range| {
        budget.spend();
        let at = many.partition_point(|other| other.1 < range.0);
        many.get(at).is_some_and(|other| other.0 <= range.1)
    })
}

#[cfg(test)]
pub(crate) mod tests;
