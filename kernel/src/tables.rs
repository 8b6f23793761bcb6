//! The policy as tables that a program in the kernel reads in constant time: an array of ports, a hash table of subjects and
//! ports, and lists of intervals of addresses. A pure function of the projection, exact: a lookup in them gives what
//! `decide_bind` says, and the rule.
//!
//! For each protocol and each subject (a user, a real gid, anybody) the rules that touch a port are the same over some
//! interval of ports. All of them together are one entry:
//! * a verdict, where no address matters; or
//! * a set of addresses: intervals, each with its verdict ([`crate::addresses`]).
//!
//! The verdict is the smallest of at most three entries', and a deny is smaller than all; of the permits the first in the
//! policy wins, as in `decide`. An interval of ports is so many entries, one for each port; few users of a port stand with
//! the port itself, as most ports have few. Where that would be too many entries, all intervals are aligned blocks of 1, 16,
//! 256 and 4,096 ports. The entry of a port says which sizes are in use there, so that one lookup a subject is the rule.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use portgrant_binder::policy::bind::{Bind, Projection, Transport};
use portgrant_binder::policy::{AddressSet, Effect, Rule, Subject};

use crate::Error;
use crate::addresses::{Boundary, Concern, boundaries, search};
use crate::cells::Cells;
use crate::entry::{BLOCK_BITS, Entry, Key, Set, Verdict};

/// The most entries, and the most boundaries of addresses: some 250 MB of the kernel's memory, and twice that while one
/// generation replaces another.
pub const MAX_ENTRIES: usize = 1 << 22;
/// The most entries with which each port has its own.
const MAX_SINGLE: usize = 1 << 18;
/// The most rules and addresses that are looked at, counted again for each interval of ports with other neighbours.
const MAX_WORK: usize = 1 << 26;

/// How many users a port's own entry has at most.
pub const FEW: usize = 3;
/// No user at all: the id that none can have (`(uid_t) -1`).
const NOBODY: (u32, Entry) = (u32::MAX, Entry::NOTHING);

/// What holds at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortEntry {
    /// For anybody
    pub anybody: Entry,
    /// Which tables of the hash have something at it, bit N for table N + 1
    pub tables: u32,
    /// The users that rules name at it and what holds for each, where they are few; then no table has any
    pub few: [(u32, Entry); FEW],
}

/// The tables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tables {
    /// The array, by [`index`]: each port for which anybody has a permit
    pub ports: BTreeMap<u32, PortEntry>,
    /// The hash
    pub cells: Cells,
    /// How many entries it and the ports have, but for those of anybody
    pub entries: usize,
    /// The sets of addresses, one behind the other
    pub boundaries: Vec<Boundary>,
}

/// How many entries the array has: the ports of tcp, and those of udp.
pub const PORTS: usize = 2 << 16;

/// Where a port is in the array.
#[must_use]
pub fn index(transport: Transport, port: u16) -> u32 {
    match transport {
        Transport::Tcp => u32::from(port),
        Transport::Udp => 1 << 16 | u32::from(port),
    }
}

impl Tables {
    /// Compiles `projection`; an error where that would become too large.
    pub fn of(projection: &Projection) -> Result<Tables, Error> {
        Tables::within(projection, MAX_ENTRIES, MAX_SINGLE)
    }

    fn within(projection: &Projection, most: usize, most_single: usize) -> Result<Tables, Error> {
        let mut compiler = Compiler { most, ..Compiler::default() };
        let mut intervals = Vec::new();
        for transport in [Transport::Tcp, Transport::Udp] {
            intervals.push((transport, compiler.intervals(&projection.policy().rules, transport)?));
        }
        let ports = |interval: &Interval| usize::from(interval.last - interval.first) + 1;
        let named = intervals.iter().flat_map(|(_, intervals)| intervals).filter(|interval| interval.table != ANYBODY);
        let single = named.map(ports).sum::<usize>() <= most_single;
        for (transport, intervals) in intervals {
            if single {
                compiler.single(&intervals, transport)?;
            } else {
                compiler.blocks(&intervals, transport)?;
            }
        }
        let Compiler { ports, entries, few, boundaries, .. } = compiler;
        let cells = Cells::of(entries.iter().map(|(key, entry)| (*key, *entry))).ok_or_else(|| too_large(most))?;
        Ok(Tables { ports, cells, entries: few + entries.len(), boundaries })
    }

    /// What the program in the kernel makes of `bind`, with these tables: the same lookups, in the same order.
    #[must_use]
    pub fn verdict(&self, bind: &Bind) -> Verdict {
        let address = match bind.address {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits(),
        };
        let of = |entry: &Entry| match entry.set {
            None => entry.verdict,
            Some(set) => search(&self.boundaries[set.range()], address),
        };
        let Some(port) = self.ports.get(&index(bind.transport, bind.port)) else {
            return Verdict::NOTHING;
        };
        let mut verdict = of(&port.anybody);
        if let Some((_, entry)) = port.few.iter().find(|few| few.0 == bind.uid) {
            verdict = verdict.min(of(entry));
        }
        for (first, id) in [(Key::UIDS, bind.uid), (Key::GIDS, bind.gid)] {
            let tables = (first..).zip(BLOCK_BITS).filter(|(table, _)| port.tables & 1 << (table - 1) != 0);
            let mut keys = tables.map(|(table, bits)| Key::new(table, bind.transport, bind.port >> bits, id));
            verdict = keys.find_map(|key| self.cells.get(key)).map_or(verdict, |entry| verdict.min(of(entry)));
        }
        verdict
    }
}

fn too_large(most: usize) -> Error {
    Error::TooLarge { what: "entries", most }
}

/// Each number with all before it.
fn sums(numbers: Vec<i64>) -> impl Iterator<Item = i64> {
    numbers.into_iter().scan(0, |sum, number| {
        *sum += number;
        Some(*sum)
    })
}

/// The ports from `first` to `last` as aligned blocks: which size, and which block of that size.
fn aligned(first: u16, last: u16) -> impl Iterator<Item = (u8, u16)> {
    let (mut port, end) = (u32::from(first), u32::from(last) + 1);
    std::iter::from_fn(move || {
        let fits = |(_, bits): &(u8, u8)| port.is_multiple_of(1 << bits) && port + (1 << bits) <= end;
        let (size, bits) = (0..).zip(BLOCK_BITS).filter(fits).last().filter(|_| port < end)?;
        let block = u16::try_from(port >> bits).ok()?;
        port += 1 << bits;
        Some((size, block))
    })
}

/// What is no table of the hash: rules for anybody are with the ports.
const ANYBODY: u8 = 0;

#[derive(Default)]
struct Compiler<'p> {
    ports: BTreeMap<u32, PortEntry>,
    entries: BTreeMap<Key, Entry>,
    /// How many entries stand with the ports
    few: usize,
    boundaries: Vec<Boundary>,
    lists: HashMap<&'p [AddressSet], u32>,
    outcomes: HashMap<Vec<(Verdict, u32)>, Entry>,
    permitting: HashSet<Set>,
    most: usize,
    work: usize,
}

/// The rules that hold at a port, by effect and addresses, each verdict with how many there are: a rule may name a port
/// twice, and several rules may stand at one place.
#[derive(Default)]
struct Holding<'p>(BTreeMap<(Effect, u32), Alike<'p>>);

/// Rules of one effect for the same addresses.
struct Alike<'p> {
    verdicts: BTreeMap<Verdict, usize>,
    addresses: &'p [AddressSet],
}

impl<'p> Holding<'p> {
    fn add(&mut self, rule: &'p Rule, list: u32) {
        let new = || Alike { verdicts: BTreeMap::new(), addresses: &rule.addresses };
        let alike = self.0.entry((rule.effect, list)).or_insert_with(new);
        *alike.verdicts.entry(Verdict::of(rule)).or_default() += 1;
    }

    fn take(&mut self, rule: &Rule, list: u32) {
        let Slot::Occupied(mut alike) = self.0.entry((rule.effect, list)) else { return };
        if let Slot::Occupied(mut count) = alike.get_mut().verdicts.entry(Verdict::of(rule)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        if alike.get().verdicts.is_empty() {
            alike.remove();
        }
    }

    fn concern(&self) -> Concern<'p> {
        let first = |alike: &Alike<'p>| Some((*alike.verdicts.keys().next()?, alike.addresses));
        self.0.iter().filter_map(|(&key, alike)| Some((key, first(alike)?))).collect()
    }
}

/// What holds for a subject over some ports.
struct Interval {
    /// The first of the tables for such subjects
    table: u8,
    id: u32,
    first: u16,
    last: u16,
    entry: Entry,
}

impl<'p> Compiler<'p> {
    fn intervals(&mut self, rules: &'p [Rule], transport: Transport) -> Result<Vec<Interval>, Error> {
        let mut subjects: BTreeMap<(u8, u32), Vec<&Rule>> = BTreeMap::new();
        for rule in rules.iter().filter(|rule| rule.ports.iter().any(|ports| ports.protocols.have(transport))) {
            let subject = match rule.subject {
                Subject::Any => (ANYBODY, 0),
                Subject::Uid(uid) => (Key::UIDS, uid),
                Subject::Gid(gid) => (Key::GIDS, gid),
                Subject::Nobody => continue,
            };
            subjects.entry(subject).or_default().push(rule);
        }
        let mut intervals = Vec::new();
        for ((table, id), rules) in subjects {
            for (first, last, entry) in self.of_subject(&rules, transport)? {
                intervals.push(Interval { table, id, first, last, entry });
            }
            self.bounded(intervals.len())?;
        }
        Ok(intervals)
    }

    /// The ports of one subject, as intervals over which the same rules hold: first and last port, and what holds there.
    fn of_subject(&mut self, rules: &[&'p Rule], transport: Transport) -> Result<Vec<(u16, u16, Entry)>, Error> {
        type Numbered<'p> = (&'p Rule, u32);
        let mut changes: BTreeMap<u32, (Vec<Numbered<'p>>, Vec<Numbered<'p>>)> = BTreeMap::new();
        for rule in rules {
            let numbered = (*rule, self.list(&rule.addresses));
            for ports in rule.ports.iter().filter(|ports| ports.protocols.have(transport)) {
                changes.entry(ports.first.into()).or_default().0.push(numbered);
                changes.entry(u32::from(ports.last) + 1).or_default().1.push(numbered);
            }
        }
        let mut holding = Holding::default();
        let mut intervals = Vec::new();
        let mut changes = changes.into_iter().peekable();
        while let Some((first, (begin, end))) = changes.next() {
            for (rule, list) in begin {
                holding.add(rule, list);
            }
            for (rule, list) in end {
                holding.take(rule, list);
            }
            let (Some((next, _)), false) = (changes.peek(), holding.0.is_empty()) else { continue };
            let last = u16::try_from(next - 1).expect("a port");
            intervals.push((u16::try_from(first).expect("a port"), last, self.outcome(&holding.concern())?));
        }
        Ok(intervals)
    }

    /// Lays out `intervals` port by port.
    fn single(&mut self, intervals: &[Interval], transport: Transport) -> Result<(), Error> {
        let mut ports = anybody(intervals);
        let mut users: BTreeMap<u16, Vec<(u32, Entry)>> = BTreeMap::new();
        for &Interval { table, id, first, last, entry } in intervals {
            for port in first..=last {
                match table {
                    Key::UIDS => users.entry(port).or_default().push((id, entry)),
                    Key::GIDS => {
                        self.enter(Key::new(Key::GIDS, transport, port, id), entry)?;
                        ports[usize::from(port)].tables |= 1 << (Key::GIDS - 1);
                    }
                    _ => {}
                }
            }
        }
        for (port, users) in users {
            if let Some(few) = ports[usize::from(port)].few.get_mut(..users.len()) {
                few.copy_from_slice(&users);
                self.few += users.len();
                self.bounded(self.few + self.entries.len())?;
                continue;
            }
            for (id, entry) in users {
                self.enter(Key::new(Key::UIDS, transport, port, id), entry)?;
            }
            ports[usize::from(port)].tables |= 1 << (Key::UIDS - 1);
        }
        self.keep(&ports, intervals, transport);
        Ok(())
    }

    /// Lays out `intervals` as aligned blocks of ports.
    fn blocks(&mut self, intervals: &[Interval], transport: Transport) -> Result<(), Error> {
        let mut ports = anybody(intervals);
        let mut blocks = BTreeSet::new();
        for &Interval { table, id, first, last, entry } in intervals.iter().filter(|interval| interval.table != ANYBODY)
        {
            for (size, block) in aligned(first, last) {
                self.enter(Key::new(table + size, transport, block, id), entry)?;
                blocks.insert((table + size, size, block));
            }
        }
        for (table, size, block) in blocks {
            let first = usize::from(block) << BLOCK_BITS[usize::from(size)];
            let ports = &mut ports[first..first + (1 << BLOCK_BITS[usize::from(size)])];
            ports.iter_mut().for_each(|port| port.tables |= 1 << (table - 1));
        }
        self.keep(&ports, intervals, transport);
        Ok(())
    }

    /// Keeps the ports for which anybody has a permit.
    fn keep(&mut self, ports: &[PortEntry], intervals: &[Interval], transport: Transport) {
        // How many permits begin at a port, less those that ended before it.
        let mut permits = vec![0i64; (1 << 16) + 1];
        for interval in intervals.iter().filter(|interval| self.may_permit(interval.entry)) {
            permits[usize::from(interval.first)] += 1;
            permits[usize::from(interval.last) + 1] -= 1;
        }
        for ((port, entry), permits) in (0..=u16::MAX).zip(ports).zip(sums(permits)) {
            if permits > 0 && entry.anybody.verdict != Verdict::DENY {
                self.ports.insert(index(transport, port), *entry);
            }
        }
    }

    fn list(&mut self, addresses: &'p [AddressSet]) -> u32 {
        let next = u32::try_from(self.lists.len()).expect("less lists than bytes");
        *self.lists.entry(addresses).or_insert(next)
    }

    /// What the rules of `concern` say together: the same entry for the same rules.
    fn outcome(&mut self, concern: &Concern<'p>) -> Result<Entry, Error> {
        self.work(concern.len())?;
        let everywhere = concern.values().filter(|rule| rule.1.is_empty()).map(|rule| rule.0).min();
        if everywhere == Some(Verdict::DENY) || concern.values().all(|rule| rule.1.is_empty()) {
            return Ok(Entry { verdict: everywhere.unwrap_or(Verdict::NOTHING), ..Entry::NOTHING });
        }
        let key: Vec<_> = concern.iter().map(|((_, list), rule)| (rule.0, *list)).collect();
        if let Some(known) = self.outcomes.get(&key) {
            return Ok(*known);
        }
        self.work(concern.values().map(|rule| rule.1.len()).sum())?;
        let boundaries = boundaries(concern, everywhere.unwrap_or(Verdict::NOTHING));
        self.bounded(self.boundaries.len() + boundaries.len())?;
        let first = u32::try_from(self.boundaries.len()).map_err(|_| too_large(self.most))?;
        let half = u32::try_from(boundaries.len() / 2).map_err(|_| too_large(self.most))?;
        let set = Set { first, half };
        if boundaries.iter().any(|boundary| boundary.verdict.permits().is_some()) {
            self.permitting.insert(set);
        }
        self.boundaries.extend(boundaries);
        let entry = Entry { set: Some(set), ..Entry::NOTHING };
        self.outcomes.insert(key, entry);
        Ok(entry)
    }

    fn work(&mut self, more: usize) -> Result<(), Error> {
        self.work += more;
        if self.work > MAX_WORK {
            return Err(Error::TooLarge { what: "rules for the same ports", most: MAX_WORK });
        }
        Ok(())
    }

    /// Whether any address gets a permit out of `entry`.
    fn may_permit(&self, entry: Entry) -> bool {
        match entry.set {
            None => entry.verdict.permits().is_some(),
            Some(set) => self.permitting.contains(&set),
        }
    }

    fn enter(&mut self, key: Key, entry: Entry) -> Result<(), Error> {
        self.entries.insert(key, entry);
        self.bounded(self.entries.len())
    }

    fn bounded(&self, entries: usize) -> Result<(), Error> {
        if entries > self.most { Err(too_large(self.most)) } else { Ok(()) }
    }
}

/// All ports, with what holds there for anybody alone.
fn anybody(intervals: &[Interval]) -> Vec<PortEntry> {
    let mut ports = vec![PortEntry { anybody: Entry::NOTHING, tables: 0, few: [NOBODY; FEW] }; 1 << 16];
    for interval in intervals.iter().filter(|interval| interval.table == ANYBODY) {
        let ports = &mut ports[usize::from(interval.first)..=usize::from(interval.last)];
        ports.iter_mut().for_each(|port| port.anybody = interval.entry);
    }
    ports
}

#[cfg(test)]
mod tests {
    use portgrant_binder::names::Names;
    use portgrant_binder::policy::bind::{Groups, decide_bind};
    use portgrant_binder::policy::{Decision, Policy, Source};
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn projection(text: &str) -> Projection {
        let names = Names::of(b"alice:x:1000:1000:::\n", b"web:x:33:\n", b"");
        let sources = vec![Source { path: "/etc/portgrant.conf".into(), text: text.as_bytes().to_vec() }];
        let policy =
            Policy::parse(sources, &names).expect("given").unwrap_or_else(|(_, bad)| panic!("{text}: {bad:?}"));
        Projection::of(policy, Groups::RealGid).expect("given").expect("no deny for a group")
    }

    fn tables(text: &str) -> Tables {
        Tables::of(&projection(text)).unwrap_or_else(|error| panic!("{}", error.message().what))
    }

    fn expected(projection: &Projection, bind: &Bind) -> Option<usize> {
        match decide_bind(projection, bind) {
            Decision::Permit(permit) => Some(permit.rule().line),
            Decision::Refuse(_) => None,
        }
    }

    fn rules() -> impl Strategy<Value = String> {
        let subject = select(vec!["alice", "uid:1001", "any", "gid:33", "uid:1002", "uid:1003", "uid:1004"]);
        let ports = select(vec![
            "80",
            "80 81",
            "79-82",
            "1-1023",
            "16-31",
            "81 90-4200",
            "80-80 80",
            "65535",
            "255-256",
            "60000-65535",
        ]);
        let protocol = select(vec!["", "/udp"]);
        let on = prop::collection::vec(select(ON.to_vec()), 0..4);
        let effect = select(vec!["permit", "permit", "permit", "deny"]);
        (effect, subject, ports, protocol, on).prop_map(|(effect, subject, ports, protocol, on)| {
            // A deny of a gid is not decided.
            let subject = if effect == "deny" && subject == "gid:33" { "any" } else { subject };
            let ports: Vec<_> = ports.split(' ').map(|port| format!("{port}{protocol}")).collect();
            let on = if on.is_empty() { String::new() } else { format!(" on {}", on.join(" ")) };
            let reserved = if effect == "permit" { " reserved" } else { "" };
            format!("{effect} {subject} {}{on}{reserved}\n", ports.join(" "))
        })
    }

    const ON: [&str; 16] = [
        "0.0.0.0",
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.0.0.0/30",
        "10.0.0.1",
        "0.0.0.0/1",
        "128.0.0.0/1",
        "127.0.0.1",
        "[::]",
        "[::]/0",
        "[::]/64",
        "[::1]",
        "[fe80::]/10",
        "[fe80::1]",
        "[::]/95",
        "[::fffe:0:0]/95",
    ];
    const ADDRESSES: [&str; 14] = [
        "0.0.0.0",
        "10.0.0.1",
        "10.0.0.2",
        "10.9.9.9",
        "127.0.0.1",
        "200.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:0.0.0.0",
        "::",
        "::1",
        "::2",
        "fe80::1",
        "fe80::2",
        "2001:db8::1",
    ];

    fn binds() -> impl Strategy<Value = Bind> {
        let port = select(vec![
            1, 15, 16, 31, 32, 78, 79, 80, 81, 82, 89, 90, 255, 256, 257, 512, 1023, 1024, 4096, 4200, 65535,
        ]);
        let (transport, address) = (select(vec![Transport::Tcp, Transport::Udp]), select(ADDRESSES.to_vec()));
        (1000u32..1006, select(vec![33, 1000]), transport, address, port).prop_map(
            |(uid, gid, transport, address, port)| Bind {
                uid,
                gid,
                transport,
                address: address.parse().expect("an address"),
                port,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn the_tables_say_what_decide_bind_says_and_by_the_same_rule(
            rules in prop::collection::vec(rules(), 0..12), binds in prop::collection::vec(binds(), 40),
        ) {
            let text = rules.concat();
            let projection = projection(&text);
            for most_single in [MAX_SINGLE, 0] {
                let tables = Tables::within(&projection, MAX_ENTRIES, most_single).expect("not too large");
                for bind in &binds {
                    let found = tables.verdict(bind).permits().map(|place| place.line);
                    prop_assert_eq!(found, expected(&projection, bind), "{}\n{:?}", text, bind);
                }
            }
        }
    }

    /// Any prefix, most of them at the edges of IPv4's and of all.
    fn prefix() -> impl Strategy<Value = String> {
        let v4 = 0xffff_0000_0000;
        let edges =
            [0, 1, 2, v4 - 1, v4, v4 + 1, v4 + 0x0a00_0001, v4 + 0x7fff_ffff, v4 + 0x8000_0000, v4 + 0xffff_ffff]
                .into_iter()
                .chain([v4 << 1, (v4 << 1) + 1, u128::MAX >> 1, 1 << 127, u128::MAX - 1, u128::MAX]);
        let address = prop_oneof![8 => select(edges.collect::<Vec<u128>>()), 1 => any::<u128>()];
        let length = prop_oneof![select(vec![0u8, 1, 64, 80, 81, 95, 96, 97, 127, 128]), 0..=128u8];
        (address, length).prop_map(move |(address, length)| {
            let network = |length: u8| address & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            let of_v4 = |address: u128| address >> 32 == v4 >> 32;
            match std::net::Ipv6Addr::from_bits(network(length.max(if of_v4(address) { 96 } else { 0 })))
                .to_ipv4_mapped()
            {
                Some(v4) => format!("{v4}/{}", length.saturating_sub(96)),
                None => format!("[{}]/{length}", std::net::Ipv6Addr::from_bits(network(length))),
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn every_prefix_ends_where_it_ends(
            rules in prop::collection::vec((select(vec!["permit alice", "permit any", "deny alice"]), prefix(), prefix()), 1..10),
        ) {
            let text: String = rules.iter().map(|(rule, one, other)| format!("{rule} 80 on {one} {other}\n")).collect();
            let (projection, tables) = (projection(&text), tables(&text));
            let sets = projection.policy().rules.iter().flat_map(|rule| &rule.addresses);
            let edges = sets.flat_map(|set| {
                let (first, length) = match *set {
                    AddressSet::V4(network, length) => (network.to_ipv6_mapped().to_bits(), 96 + length),
                    AddressSet::V6(network, length) => (network.to_bits(), length),
                    AddressSet::V4Wildcard | AddressSet::DualWildcard => (0, 0),
                };
                let last = first | u128::MAX.checked_shr(length.into()).unwrap_or(0);
                [first.wrapping_sub(1), first, first + (last - first) / 2, last, last.wrapping_add(1)]
            });
            for address in edges {
                let address = std::net::Ipv6Addr::from_bits(address).into();
                let bind = Bind { uid: 1000, gid: 1000, transport: Transport::Tcp, address, port: 80 };
                let found = tables.verdict(&bind).permits().map(|place| place.line);
                prop_assert_eq!(found, expected(&projection, &bind), "{}\n{:?}", text, bind);
            }
        }
    }

    #[test]
    fn one_rule_is_one_port_and_one_user() {
        let plain = tables("permit alice 80\n");
        assert_eq!((plain.ports.len(), plain.entries, plain.boundaries.len()), (1, 1, 0));
        let loopback = tables("permit alice 80 on 127.0.0.1\n");
        assert_eq!((loopback.ports.len(), loopback.entries, loopback.boundaries.len()), (1, 1, 4));
        let starts: Vec<u128> = loopback.boundaries.iter().map(|boundary| boundary.start).collect();
        let address = u128::from(0xffff_7f00_0001_u64);
        assert_eq!(starts, [0, address, address + 1, u128::MAX], "before it, it, behind it, and a power of two");
        let every = tables("permit any 1-65535 1-65535/udp reserved\n");
        let zeros = [Transport::Tcp, Transport::Udp].map(|transport| every.ports.contains_key(&index(transport, 0)));
        assert_eq!(zeros, [false, false], "port 0: the kernel chooses");
        let denied = tables("deny any any\npermit alice 80\n");
        assert!(denied.ports.is_empty(), "a port that nobody has is not there");
    }

    /// Half a megabyte of it: 3 s and 60 s once, since each list was looked at again for each port.
    #[test]
    fn long_lists_for_many_ports_take_no_time() {
        let list: String = (0..20_000).map(|n| format!(" 10.{}.{}.1", n >> 8, n & 255)).collect();
        let ports: String = (1..2000).step_by(2).map(|port| format!(" {port}")).collect();
        let begin = std::time::Instant::now();
        tables(&format!("permit alice{ports} on{list} reserved\n"));
        assert!(begin.elapsed() < std::time::Duration::from_secs(10), "{:?}", begin.elapsed());
    }

    #[test]
    fn a_policy_that_would_fill_the_kernel_is_an_error() {
        let text = "permit uid:1 2-65534 reserved\npermit uid:2 2-65534 on 10.0.0.0/8 reserved\n";
        let projection = projection(text);
        assert!(Tables::within(&projection, 150, 0).is_err_and(|error| error.message().status == 78));
        assert!(Tables::within(&projection, 131_065, MAX_SINGLE).is_err(), "2 users at 65,533 ports");
        assert!(Tables::within(&projection, 131_066, MAX_SINGLE).is_ok());
        let loopback = (1..100).map(|net| format!(" 127.0.{net}.1")).collect::<String>();
        let projection = self::projection(&format!("permit uid:1 80 on{loopback}\n"));
        let within = |most| Tables::within(&projection, most, MAX_SINGLE);
        assert!(within(255).is_err() && within(256).is_ok());
    }
}
