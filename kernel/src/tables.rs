//! The policy as tables that a program in the kernel reads in constant time: an array of ports, a hash table of
//! subjects and ports, and lists of intervals of addresses. They are a pure function of the projection, and exact: a
//! lookup gives the verdict of `decide_bind`, and the rule.
//!
//! For each protocol and each subject (a user, a real gid, anybody) the rules that touch a port are the same over some
//! interval of ports. All of them together are one entry:
//! * a verdict, if no address matters; or
//! * a set of addresses: intervals, each with its verdict ([`crate::addresses`]).
//!
//! The subordinate ids of a denied user are subjects as well, by classes (`subordinates.rs`). The verdict is the
//! smallest of at most five entries, and a deny is smaller than all. Of the permits the first in the policy wins, as in
//! `decide`. An interval of ports is one entry for each port. A port with few users, like most ports, has them in its
//! own entry. If that gives too many entries, all intervals are aligned blocks of 1, 16, 256 and 4,096 ports. The entry
//! of a port says which sizes are in use there, so most subjects need one lookup.

mod intervals;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use crate::projection::{Bind, Projection, Transport};
use portgrant_policy::{AddressSet, Rule, Subject};

use self::intervals::{Holding, Interval};
use crate::Error;
use crate::addresses::{Boundary, Concern, boundaries, search};
use crate::cells::Cells;
use crate::entry::{BLOCK_BITS, Entry, Key, Set, Verdict};
use crate::subordinates::{self, Class, classes};

/// The most entries, and the most boundaries of addresses: about 250 MB of kernel memory, and twice that during a
/// reload.
pub const MAX_ENTRIES: usize = 1 << 22;
/// The limits for a policy.
#[derive(Debug, Clone, Copy, Default)]
struct Limits {
    /// The most entries, and the most boundaries
    entries: usize,
    /// The most entries with which each port has its own
    single: usize,
    /// The most comparisons of rules and addresses, counted again for each interval of ports
    work: usize,
}

const LIMITS: Limits = Limits { entries: MAX_ENTRIES, single: 1 << 18, work: 1 << 26 };
/// The most users in a port's own entry.
pub const FEW: usize = 3;
/// No user at all: the id that none can have (`(uid_t) -1`).
const NOBODY: (u32, Entry) = (u32::MAX, Entry::NOTHING);

/// The entry of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortEntry {
    /// The outcome for anybody
    pub anybody: Entry,
    /// Which tables of the hash have an entry for it: bit N for table N + 1
    pub tables: u32,
    /// The users with rules for it, with their outcomes, if they are few. Then no table of users has an entry for it
    pub few: [(u32, Entry); FEW],
}

/// The tables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tables {
    /// The array, by [`index`]: each port for which anybody has a permit
    pub ports: BTreeMap<u32, PortEntry>,
    /// The hash
    pub cells: Cells,
    /// The number of entries in the hash and the ports, except those for anybody
    pub entries: usize,
    /// All sets of addresses
    pub boundaries: Vec<Boundary>,
    /// The set of subordinate ids, if any: the first one
    pub classes: Option<Set>,
}

/// How many entries the array has: the ports of tcp, and those of udp.
pub const PORTS: usize = 2 << 16;

/// The index of a port in the array.
#[must_use]
pub fn index(transport: Transport, port: u16) -> u32 {
    match transport {
        Transport::Tcp => u32::from(port),
        Transport::Udp => 1 << 16 | u32::from(port),
    }
}

/// The tables of a policy that is too large for an entry for each port.
#[cfg(fuzzing)]
pub fn blocks(projection: &Projection) -> Result<Tables, Error> {
    Tables::within(projection, Limits { single: 0, ..LIMITS })
}

impl Tables {
    /// Compiles `projection`; an error if that would become too large.
    pub fn of(projection: &Projection) -> Result<Tables, Error> {
        Tables::within(projection, LIMITS)
    }

    fn within(projection: &Projection, limits: Limits) -> Result<Tables, Error> {
        let (rules, most) = (&projection.policy().rules, limits.entries);
        let (named, boundaries) = classes(rules, limits.work)?;
        let classes = (!boundaries.is_empty()).then(|| set(0, boundaries.len(), most)).transpose()?;
        let mut compiler = Compiler { limits, boundaries, ..Compiler::default() };
        compiler.bounded(compiler.boundaries.len())?;
        let (mut laid_out, mut single) = (Vec::new(), 0);
        for transport in [Transport::Tcp, Transport::Udp] {
            let intervals = compiler.intervals(rules, &named, transport)?;
            let open = compiler.open(&intervals);
            single += intervals.iter().map(|interval| interval.named_ports(&open)).sum::<usize>();
            laid_out.push((transport, intervals, open));
        }
        for (transport, intervals, open) in laid_out {
            if single <= limits.single {
                compiler.single(&intervals, &open, transport)?;
            } else {
                compiler.blocks(&intervals, &open, transport)?;
            }
        }
        let Compiler { ports, entries, few, boundaries, .. } = compiler;
        let cells = Cells::of(entries.iter().map(|(key, entry)| (*key, *entry))).ok_or_else(|| too_large(most))?;
        Ok(Tables { ports, cells, entries: few + entries.len(), boundaries, classes })
    }

    /// The verdict of the program in the kernel with these tables, by the same lookups in the same order.
    #[must_use]
    pub fn verdict(&self, bind: &Bind) -> Verdict {
        let address = match bind.address {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits(),
        };
        // An AF_INET6 datagram socket that is bound to an IPv4 address can send from IPv6 addresses too. If any of
        // these is denied, all are.
        let both = bind.transport == Transport::Udp && bind.address.is_ipv6() && bind.address.to_canonical().is_ipv4();
        let of = |entry: &Entry| match entry.set {
            None => entry.verdict,
            Some(set) => {
                let boundaries = &self.boundaries[set.range()];
                let by_ipv6 = if both { search(boundaries, 1) } else { Verdict::NOTHING };
                if by_ipv6 == Verdict::DENY { by_ipv6 } else { search(boundaries, address) }
            }
        };
        let class = |table, id| {
            let boundaries = &self.boundaries[self.classes?.range()];
            u32::try_from(search(boundaries, subordinates::number(table, id)).0).ok()
        };
        let Some(port) = self.ports.get(&index(bind.transport, bind.port.get())) else {
            return Verdict::NOTHING;
        };
        let mut verdict = of(&port.anybody);
        if let Some((_, entry)) = port.few.iter().find(|few| few.0 == bind.uid) {
            verdict = verdict.min(of(entry));
        }
        let subjects = [
            (Key::UIDS, Some(bind.uid)),
            (Key::GIDS, Some(bind.gid)),
            (Key::SUBORDINATE_UIDS, class(Key::SUBORDINATE_UIDS, bind.uid)),
            (Key::SUBORDINATE_GIDS, class(Key::SUBORDINATE_GIDS, bind.gid)),
        ];
        for (first, id) in subjects.into_iter().filter_map(|(first, id)| Some((first, id?))) {
            let tables = (first..).zip(BLOCK_BITS).filter(|(table, _)| port.tables & 1 << (table - 1) != 0);
            let mut keys = tables.map(|(table, bits)| Key::new(table, bind.transport, bind.port.get() >> bits, id));
            verdict = keys.find_map(|key| self.cells.get(key)).map_or(verdict, |entry| verdict.min(of(entry)));
        }
        verdict
    }
}

fn too_large(most: usize) -> Error {
    Error::TooLarge { what: "entries", most }
}

/// The set of `count` boundaries from `first` on.
fn set(first: usize, count: usize, most: usize) -> Result<Set, Error> {
    let [first, half] = [first, count / 2].map(|number| u32::try_from(number).map_err(|_| too_large(most)));
    Ok(Set { first: first?, half: half? })
}

/// The running sums.
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
        let (size, bits) = (0..).zip(BLOCK_BITS).filter(fits).last()?;
        let block = u16::try_from(port >> bits).ok()?;
        port += 1 << bits;
        Some((size, block))
    })
}

/// Not a table of the hash: rules for anybody are with the ports.
const ANYBODY: u8 = 0;

#[derive(Default)]
struct Compiler<'p> {
    ports: BTreeMap<u32, PortEntry>,
    entries: BTreeMap<Key, Entry>,
    /// The number of users in the entries of ports
    few: usize,
    boundaries: Vec<Boundary>,
    lists: HashMap<&'p [AddressSet], u32>,
    outcomes: HashMap<Vec<(Verdict, u32)>, Entry>,
    permitting: HashSet<Set>,
    limits: Limits,
    work: usize,
}

impl<'p> Compiler<'p> {
    fn intervals(
        &mut self,
        rules: &'p [Rule],
        classes: &[Class<'p>],
        transport: Transport,
    ) -> Result<Vec<Interval>, Error> {
        let mut subjects: BTreeMap<(u8, u32), Vec<&Rule>> = BTreeMap::new();
        for rule in
            rules.iter().filter(|rule| rule.ports.iter().any(|ports| ports.protocols.contains(transport.protocol())))
        {
            let subject = match rule.subject {
                Subject::Any => (ANYBODY, 0),
                Subject::Uid(uid) => (Key::UIDS, uid),
                Subject::Gid(gid) => (Key::GIDS, gid),
                Subject::Uids(..) | Subject::Gids(..) | Subject::Nobody => continue,
            };
            subjects.entry(subject).or_default().push(rule);
        }
        for (table, class, rules) in classes {
            let of_transport =
                |rule: &&&Rule| rule.ports.iter().any(|ports| ports.protocols.contains(transport.protocol()));
            subjects.insert((*table, *class), rules.iter().filter(of_transport).copied().collect());
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

    /// The ports of one subject, as intervals with the same rules: first port, last port and outcome.
    fn of_subject(&mut self, rules: &[&'p Rule], transport: Transport) -> Result<Vec<(u16, u16, Entry)>, Error> {
        type Numbered<'p> = (&'p Rule, u32);
        let mut changes: BTreeMap<u32, (Vec<Numbered<'p>>, Vec<Numbered<'p>>)> = BTreeMap::new();
        for rule in rules {
            let numbered = (*rule, self.list(&rule.addresses));
            for ports in rule.ports.iter().filter(|ports| ports.protocols.contains(transport.protocol())) {
                changes.entry(u32::from(ports.first.get())).or_default().0.push(numbered);
                changes.entry(u32::from(ports.last.get()) + 1).or_default().1.push(numbered);
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
            let (Some((next, _)), false) = (changes.peek(), holding.is_empty()) else { continue };
            let last = u16::try_from(next - 1).expect("a port");
            intervals.push((u16::try_from(first).expect("a port"), last, self.outcome(&holding.concern())?));
        }
        Ok(intervals)
    }

    /// The ports for which any subject has a permit.
    fn open(&self, intervals: &[Interval]) -> Vec<bool> {
        // The number of permits that begin at a port, minus those that ended before it.
        let mut permits = vec![0i64; (1 << 16) + 1];
        for interval in intervals.iter().filter(|interval| self.may_permit(interval.entry)) {
            permits[usize::from(interval.first)] += 1;
            permits[usize::from(interval.last) + 1] -= 1;
        }
        sums(permits).map(|permits| permits > 0).collect()
    }

    /// Lays out `intervals` port by port, for the ports that are `open`.
    fn single(&mut self, intervals: &[Interval], open: &[bool], transport: Transport) -> Result<(), Error> {
        let mut ports = anybody(intervals);
        let mut users: BTreeMap<u16, Vec<(u32, Entry)>> = BTreeMap::new();
        for &Interval { table, id, first, last, entry } in intervals {
            for port in (first..=last).filter(|&port| table != ANYBODY && open[usize::from(port)]) {
                if table == Key::UIDS {
                    users.entry(port).or_default().push((id, entry));
                } else {
                    self.enter(Key::new(table, transport, port, id), entry)?;
                    ports[usize::from(port)].tables |= 1 << (table - 1);
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
        self.keep(&ports, open, transport);
        Ok(())
    }

    /// Lays out `intervals` as aligned blocks of ports.
    fn blocks(&mut self, intervals: &[Interval], open: &[bool], transport: Transport) -> Result<(), Error> {
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
        self.keep(&ports, open, transport);
        Ok(())
    }

    /// Keeps the ports that are `open`.
    fn keep(&mut self, ports: &[PortEntry], open: &[bool], transport: Transport) {
        for ((port, entry), open) in (0..=u16::MAX).zip(ports).zip(open) {
            if *open && entry.anybody.verdict != Verdict::DENY {
                self.ports.insert(index(transport, port), *entry);
            }
        }
    }

    fn list(&mut self, addresses: &'p [AddressSet]) -> u32 {
        let next = u32::try_from(self.lists.len()).expect("less lists than bytes");
        *self.lists.entry(addresses).or_insert(next)
    }

    /// The entry of all rules in `concern`. The same rules share one entry.
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
        let set = set(self.boundaries.len(), boundaries.len(), self.limits.entries)?;
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
        if self.work > self.limits.work {
            return Err(Error::TooLarge { what: "rules for the same ports", most: self.limits.work });
        }
        Ok(())
    }

    /// Whether `entry` permits any address.
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
        if entries > self.limits.entries { Err(too_large(self.limits.entries)) } else { Ok(()) }
    }
}

/// All ports, with only the outcome for anybody.
fn anybody(intervals: &[Interval]) -> Vec<PortEntry> {
    let mut ports = vec![PortEntry { anybody: Entry::NOTHING, tables: 0, few: [NOBODY; FEW] }; 1 << 16];
    for interval in intervals.iter().filter(|interval| interval.table == ANYBODY) {
        let ports = &mut ports[usize::from(interval.first)..=usize::from(interval.last)];
        ports.iter_mut().for_each(|port| port.anybody = interval.entry);
    }
    ports
}

#[cfg(test)]
mod tests;
