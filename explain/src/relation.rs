//! How two rules relate: does one hold all that the other does, or any of it? For advice and for lists only: no verdict
//! rests on it. Where it errs, it errs by saying less: what is claimed here holds for every request (the tests compare
//! with `decide`).

use std::borrow::Cow;
use std::cell::Cell;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portgrant_policy::{AddressSet, Rule, Subject};
use portgrant_protocol::Protocol;

const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// From and to, both included.
type Range<T> = (T, T);

/// How many steps comparisons may still take. A step is one range of one rule, looked for in another rule.
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

    pub(crate) fn is_spent(&self) -> bool {
        self.0.get() == 0
    }

    pub(crate) fn spend(&self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// A rule, and what it holds in an order that can be searched: each range after the other, and none touching the next.
#[derive(Debug)]
pub(crate) struct Extent<'p> {
    pub(crate) rule: &'p Rule,
    /// Of each of [`PROTOCOLS`]
    ports: [Vec<Range<u16>>; 3],
    /// `None` is every address
    on: Option<Box<Addresses>>,
}

/// What an `on` clause holds. The wildcards are no addresses.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Addresses {
    v4: Cow<'static, [Range<u32>]>,
    v6: Cow<'static, [Range<u128>]>,
    v4_wildcard: bool,
    v6_wildcard: bool,
    /// Each address of both families by itself
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

    /// An address that it holds, unless it holds all of them, or wildcards alone.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        let v4 = self.addresses().v4.first().filter(|range| **range != (0, u32::MAX));
        let v6 = self.addresses().v6.first().filter(|range| **range != (0, u128::MAX));
        let v6 = v6.map(|range| IpAddr::from(Ipv6Addr::from_bits(range.0)));
        v4.map(|range| IpAddr::from(Ipv4Addr::from_bits(range.0))).or(v6)
    }

    /// Whether it holds any IPv4 address, and any IPv6 address. The wildcards are none.
    pub(crate) fn families(&self) -> [bool; 2] {
        let on = self.addresses();
        [!on.v4.is_empty(), !on.v6.is_empty()]
    }

    /// Whether all of its ports are for datagrams.
    pub(crate) fn is_of_datagrams(&self) -> bool {
        let [tcp, udp, sctp] = &self.ports;
        tcp.is_empty() && sctp.is_empty() && !udp.is_empty()
    }

    /// Everything that it says, in one form: two rules with the same do the same.
    pub(crate) fn meaning(&self) -> impl Hash + Eq {
        let Rule { effect, subject, ports: _, addresses: _, dev, reuseport, freebind, hold, program, .. } = self.rule;
        (effect, subject, &self.ports, self.addresses(), dev, (reuseport, freebind, hold), program)
    }

    /// Whether this, which has the same effect, does whatever `narrow` does.
    pub(crate) fn makes_needless(&self, narrow: &Extent<'_>, budget: &Budget) -> bool {
        let (wide, other) = (self.rule, narrow.rule);
        speaks_of_all(wide, other)
            && (wide.dev.is_none() || wide.dev == other.dev)
            && (wide.reuseport || !other.reuseport)
            && (wide.freebind || !other.freebind)
            && (wide.hold || !other.hold)
            && (wide.program.is_none() || wide.program == other.program)
            && self.holds_ports(narrow, budget)
            && self.addresses().hold(narrow.addresses(), budget)
            && (self.addresses().v4_wildcard || !narrow.addresses().v4_wildcard)
            && (self.addresses().v6_wildcard || !narrow.addresses().v6_wildcard)
            && (self.addresses().each || !narrow.addresses().each)
    }

    /// Whether this deny refuses whatever `permit` permits. Whom they speak of is not compared.
    pub(crate) fn denies_all(&self, permit: &Extent<'_>, budget: &Budget) -> bool {
        let [tcp, udp, sctp] = &permit.ports;
        let streams = !tcp.is_empty() || !sctp.is_empty();
        let (denied, permitted) = (self.addresses(), permit.addresses());
        (!streams || self.is_held_to_dev_of(permit))
            && (udp.is_empty() || denied.always_touch_datagrams(permitted))
            && self.holds_ports(permit, budget)
            && (!streams || denied.always_touch(permitted, budget))
    }

    /// Whether this deny refuses anything that `permit` permits. Whom they speak of is not compared.
    pub(crate) fn denies_some(&self, permit: &Extent<'_>, budget: &Budget) -> bool {
        let (denied, permitted) = (self.addresses(), permit.addresses());
        let same_dev = permit.rule.dev.is_none() || self.is_held_to_dev_of(permit);
        let touches = denied.touch(permitted, budget);
        let by_port = |((protocol, ports), permitted_ports): ((_, &Vec<_>), &Vec<_>)| {
            // Of datagrams a deny ignores the interface, and an address says no more than its family: from which address
            // they are sent is up to the holder.
            let counts = match protocol {
                Protocol::Udp => touches || denied.touch_datagrams(permitted),
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

    /// Whether some request for something in `permitted` touches this. A wildcard touches each address of its family.
    fn touch(&self, permitted: &Addresses, budget: &Budget) -> bool {
        (permitted.v4_wildcard && self.has_v4())
            || (permitted.v6_wildcard && self.has_v6())
            || meet(&self.v4, &permitted.v4, budget)
            || meet(&self.v6, &permitted.v6, budget)
    }

    /// Whether every request for something in `permitted` touches this. A wildcard touches each address of its family.
    fn always_touch(&self, permitted: &Addresses, budget: &Budget) -> bool {
        (self.has_v4() || !permitted.v4_wildcard)
            && (self.has_v6() || !permitted.v6_wildcard)
            && self.hold(permitted, budget)
    }

    /// The same of datagrams: a socket for any address of a family sends from all of them.
    fn always_touch_datagrams(&self, permitted: &Addresses) -> bool {
        let v4 = permitted.v4.is_empty() && (self.v4_wildcard || !permitted.v4_wildcard);
        let v6 = permitted.v6.is_empty() && (self.v6_wildcard || !permitted.v6_wildcard);
        (v4 || !self.v4.is_empty()) && (v6 || !self.v6.is_empty())
    }

    /// Whether datagrams of some request for something in `permitted` can be sent from an address in this.
    fn touch_datagrams(&self, permitted: &Addresses) -> bool {
        (!self.v4.is_empty() && permitted.has_v4()) || (!self.v6.is_empty() && permitted.has_v6())
    }

    fn has_v4(&self) -> bool {
        self.v4_wildcard || !self.v4.is_empty()
    }

    fn has_v6(&self) -> bool {
        self.v6_wildcard || !self.v6.is_empty()
    }
}

/// Whether `wide` speaks of everybody of whom `narrow` does.
fn speaks_of_all(wide: &Rule, narrow: &Rule) -> bool {
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

/// In order, and what overlaps or touches made one.
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
pub(crate) mod tests {
    use portgrant_policy::{Ask, AskedProgram, Caller, Decision, Domain, Names, Policy, Source, decide};
    use portgrant_protocol::{Endpoint, Resolved};

    use super::*;

    pub(crate) fn names() -> Names {
        let passwd = b"alice:x:1000:1000:::\nbob:x:1001:1001:::\n";
        Names::of(passwd, b"web:x:33:bob\n", b"submission 587/tcp\n")
    }

    pub(crate) fn policy(text: &str) -> Policy {
        let sources = vec![Source { path: "/etc/portgrant.conf".into(), text: format!("{text}\n").into_bytes() }];
        match Policy::parse(sources, &names()).expect("the tables are given") {
            Ok(policy) => policy,
            Err((_, problems)) => panic!("{text}: {problems:?}"),
        }
    }

    /// Enough for any two rules.
    pub(crate) fn unbounded() -> Budget {
        Budget::new(u64::MAX)
    }

    fn makes_needless(wide: &Rule, narrow: &Rule) -> bool {
        Extent::of(wide).makes_needless(&Extent::of(narrow), &unbounded())
    }

    fn denies_all(deny: &Rule, permit: &Rule) -> bool {
        Extent::of(deny).denies_all(&Extent::of(permit), &unbounded())
    }

    fn denies_some(deny: &Rule, permit: &Rule) -> bool {
        Extent::of(deny).denies_some(&Extent::of(permit), &unbounded())
    }

    fn pair(one: &str, other: &str) -> (Rule, Rule) {
        match policy(&format!("{one}\n{other}\n")).rules.as_slice() {
            [one, other] => (one.clone(), other.clone()),
            rules => panic!("{rules:?}"),
        }
    }

    #[test]
    fn a_wider_rule_makes_a_narrower_one_needless_and_nothing_else_does() {
        for (wide, narrow, expected) in [
            ("permit alice 80-90", "permit alice 85", true),
            ("permit alice 80 81-83 84", "permit alice 80-84", true),
            ("permit alice 80-82 84", "permit alice 80-84", false),
            ("permit any 80", "permit alice 80", true),
            ("permit alice 80", "permit any 80", false),
            ("permit alice 80", "permit alice 80/udp", false),
            ("permit alice 80", "permit alice 80 on 127.0.0.1", true),
            ("permit alice 80 on 0.0.0.0/0 [::]/0", "permit alice 80", true),
            ("permit alice 80 on 127.0.0.0/8", "permit alice 80 on 126.0.0.0/7", false),
            ("permit alice 80 on 0.0.0.0/0", "permit alice 80 on 0.0.0.0 10.0.0.0/8", true),
            ("permit alice 80 on 0.0.0.0/0", "permit alice 80 on [::]", false),
            ("permit alice 80 on 10.0.0.0/9 10.128.0.0/9", "permit alice 80 on 10.0.0.0/8", true),
            ("permit alice 80 on 0.0.0.0/1 128.0.0.0/1", "permit alice 80 on 0.0.0.0/0", false),
            ("permit alice 80 on [::]/1 [8000::]/1", "permit alice 80 on [::1]", true),
            ("permit alice 80 on 0.0.0.0 [::]", "permit alice 80", false),
            ("permit alice 80", "permit alice 80 reuseport", false),
            ("permit alice 80 dev eth0", "permit alice 80", false),
            ("permit alice 80", "permit alice 80 dev eth0 exec /x", true),
            ("permit alice 80 exec /x", "permit alice 80", false),
            ("permit nobody-here 80", "permit nobody-there 80", false),
        ] {
            let (one, other) = pair(wide, narrow);
            assert_eq!(makes_needless(&one, &other), expected, "{wide}; {narrow}");
        }
    }

    #[test]
    fn a_deny_takes_all_of_a_permit_or_some_or_nothing() {
        for (deny, permit, all, some) in [
            ("deny alice 80", "permit alice 80", true, true),
            ("deny alice 80", "permit alice 80-81", false, true),
            ("deny alice any", "permit alice 80 443/udp", true, true),
            ("deny alice 80/udp", "permit alice 80", false, false),
            ("deny alice 80 on 10.0.0.0/8", "permit alice 80 on 0.0.0.0", true, true),
            ("deny alice 80 on 10.0.0.0/8", "permit alice 80", false, true),
            ("deny alice 80 on 0.0.0.0", "permit alice 80 on 10.0.0.0/8", false, false),
            ("deny alice 80 on 0.0.0.0/1 128.0.0.0/1", "permit alice 80 on 0.0.0.0/0", true, true),
            ("deny alice 80/udp on 10.0.0.1", "permit alice 80/udp on 10.0.0.2", true, true),
            ("deny alice 80/udp on [::1]", "permit alice 80/udp on 10.0.0.2", false, false),
            ("deny alice 80 on [::1]", "permit alice 80 on 0.0.0.0/0", false, false),
            ("deny alice 80 dev eth0", "permit alice 80 dev eth1", false, false),
            ("deny alice 80 dev eth0", "permit alice 80/udp dev eth1", true, true),
            ("deny alice 80 dev eth0", "permit alice 80 dev eth0", true, true),
            ("deny alice 80 on 127.0.0.1", "permit alice 80 on 10.0.0.1", false, false),
            ("deny alice 80 on 127.0.0.1", "permit alice 80/udp on 10.0.0.1", true, true),
            ("deny alice 80 on 127.0.0.1", "permit alice 80/udp", false, true),
            ("deny alice 80 on 127.0.0.1", "permit alice 80 80/udp on 10.0.0.1", false, true),
            ("deny alice 80 on 127.0.0.1", "permit alice 80/udp on [::1]", false, false),
            ("deny alice 80 on 0.0.0.0", "permit alice 80/udp on 10.0.0.1", false, false),
            ("deny alice 80 on 10.0.0.1 [::1]", "permit alice 80/udp", true, true),
        ] {
            let (deny_rule, permit_rule) = pair(deny, permit);
            assert_eq!(denies_all(&deny_rule, &permit_rule), all, "all: {deny}; {permit}");
            assert_eq!(denies_some(&deny_rule, &permit_rule), some, "some: {deny}; {permit}");
        }
    }

    /// Every rule that these clauses make, with its text. Whom it speaks of is a matter of its own.
    fn every_rule(effect: &str, words: &[&str]) -> Vec<(String, Policy)> {
        const ON: [&str; 11] = [
            "",
            "on 0.0.0.0",
            "on 0.0.0.0/0",
            "on 10.0.0.0/8",
            "on 10.1.0.0/16",
            "on 127.0.0.0/8",
            "on [::]",
            "on [::]/0 0.0.0.0",
            "on [::1]",
            "on 0.0.0.0/1 128.0.0.0/1",
            "on 10.0.0.0/9 10.128.0.0/9",
        ];
        let mut rules = Vec::new();
        for ports in ["80-82", "80 81/udp"] {
            for on in ON {
                for dev in ["", "dev a", "dev b"] {
                    rules.extend(words.iter().map(|word| format!("{effect} any {ports} {on} {dev} {word}")));
                }
            }
        }
        rules.into_iter().map(|text| (text.clone(), policy(&text))).collect()
    }

    fn every_endpoint() -> Vec<Resolved> {
        let mut endpoints = Vec::new();
        for address in ["0.0.0.0", "[::]", "10.1.0.1", "10.9.0.1", "[::1]", "each", "127.0.0.1"] {
            for port in ["80", "81", "80/udp", "81/udp"] {
                for option in ["", ",v6only", ",dev=a", ",dev=b", ",reuseport"] {
                    endpoints.extend(format!("{address}:{port}{option}").parse::<Endpoint>().ok());
                }
            }
        }
        endpoints.into_iter().filter_map(|endpoint| endpoint.resolve(&Default::default()).ok()).collect()
    }

    /// What the rules together permit, endpoint by endpoint.
    fn permitted(policy: &Policy, endpoints: &[Resolved]) -> Vec<bool> {
        let caller = Caller::account("alice", &names()).expect("alice");
        let permits = |endpoint: &Resolved| {
            let program = Some(AskedProgram { path: b"/x", unfit: None });
            let ask = Ask { endpoint: endpoint.clone(), domain: Domain::OfAddress, program };
            matches!(decide(policy, &caller, ask), Decision::Permit(_))
        };
        endpoints.iter().map(permits).collect()
    }

    #[test]
    fn a_rule_that_is_called_needless_permits_nothing_that_the_other_does_not() {
        let endpoints = every_endpoint();
        let rules = every_rule("permit", &["", "reuseport", "exec /x", "exec /y"]);
        let permitted: Vec<Vec<bool>> = rules.iter().map(|(_, policy)| permitted(policy, &endpoints)).collect();
        let mut claims = 0;
        for (narrow, narrows) in rules.iter().zip(&permitted) {
            for (wide, wides) in rules.iter().zip(&permitted) {
                if makes_needless(&wide.1.rules[0], &narrow.1.rules[0]) {
                    claims += 1;
                    let lost =
                        narrows.iter().zip(wides).zip(&endpoints).find(|((narrow, wide), _)| **narrow && !**wide);
                    assert!(lost.is_none(), "{}; {}; {lost:?}", wide.0, narrow.0);
                }
            }
        }
        assert!(claims > 2 * rules.len(), "it claims too little: {claims}");
    }

    #[test]
    fn a_deny_takes_what_it_is_said_to_take() {
        let endpoints = every_endpoint();
        let denies = every_rule("deny", &[""]);
        for (text, permit) in every_rule("permit", &["", "reuseport"]) {
            let before = permitted(&permit, &endpoints);
            let left: Vec<Vec<bool>> = denies
                .iter()
                .map(|(_, deny)| {
                    let rules = [permit.rules.clone(), deny.rules.clone()].concat();
                    permitted(&Policy { rules, ..Policy::default() }, &endpoints)
                })
                .collect();
            for ((deny_text, deny), left) in denies.iter().zip(&left) {
                let (deny, permit) = (&deny.rules[0], &permit.rules[0]);
                let all = denies_all(deny, permit) && left.iter().any(|&left| left);
                let some = !denies_some(deny, permit) && *left != before;
                assert!(!all && !some, "all {all}, some {some}: {deny_text}; {text}");
            }
            for ((wide_text, wide), wides) in denies.iter().zip(&left) {
                for ((narrow_text, narrow), narrows) in denies.iter().zip(&left) {
                    let needless = makes_needless(&wide.rules[0], &narrow.rules[0]);
                    let lets_through = wides.iter().zip(narrows).any(|(&wide, &narrow)| wide && !narrow);
                    assert!(!needless || !lets_through, "{wide_text}; {narrow_text}; {text}");
                }
            }
        }
    }
}
