//! Finds the rules that may relate to a rule by what they have in common with it, so that in a large policy not every rule is
//! compared with every other. Rules that are not found here cannot relate.

use std::cell::OnceCell;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::iter::{once, once_with};
use std::net::IpAddr;

use portgrant_policy::{AddressSet, Effect, Rule, Subject};
use rustc_hash::FxHashMap;

use crate::relation::{Budget, Extent};

/// If a kind has at most this many rules, all are candidates.
const SMALL: usize = 16;
/// With at most this many candidates, no better way is searched.
const FEW: usize = 8;
/// How many of a rule's ports are tried, for the one that the fewest rules hold.
const PORTS_TRIED: usize = 4;

/// The rules, by subject and effect.
pub(crate) struct Candidates<'e, 'p> {
    /// Only the first of equal rules
    groups: FxHashMap<(Subject, Effect), Group<'e, 'p>>,
    /// The others, by their place, with the first one
    repeated: FxHashMap<(usize, usize), &'p Rule>,
}

#[derive(Default)]
struct Group<'e, 'p> {
    members: Vec<&'e Extent<'p>>,
    index: Option<Box<Index<'p>>>,
}

/// Numbers of members, in the order of the policy.
type Numbers = Vec<usize>;

/// The indexes of a group of rules. Rarely used indexes are made when they are needed.
#[derive(Default)]
struct Index<'p> {
    ports: ByPort,
    addresses: OnceCell<ByAddress>,
    programs: OnceCell<FxHashMap<Option<&'p [u8]>, Numbers>>,
    devices: OnceCell<FxHashMap<Option<&'p str>, Numbers>>,
}

#[derive(Default)]
struct ByPort {
    /// Blocks of ports: the size as a power of 2, and the number of the block. A range is in one or two blocks of about its size
    blocks: FxHashMap<(u32, u32), Numbers>,
    /// A bit for each size that occurs
    sizes: u32,
}

#[derive(Default)]
struct ByAddress {
    /// Prefixes: the length, from 1 on, and the bits
    v4: FxHashMap<(u32, u32), Numbers>,
    v6: FxHashMap<(u32, u128), Numbers>,
    /// A bit for each length that occurs
    v4_lengths: u64,
    v6_lengths: u128,
    /// Rules that contain every address of a family
    every_v4: Numbers,
    every_v6: Numbers,
    /// Rules that contain any address of a family
    any_v4: Numbers,
    any_v6: Numbers,
}

impl<'e, 'p> Candidates<'e, 'p> {
    pub(crate) fn of(extents: &'e [Extent<'p>]) -> Candidates<'e, 'p> {
        let mut groups: FxHashMap<_, Group<'e, 'p>> = FxHashMap::default();
        // A rule without effect has no ports.
        for extent in extents.iter().filter(|extent| !extent.rule.ports.is_empty()) {
            groups.entry((extent.rule.subject, extent.rule.effect)).or_default().members.push(extent);
        }
        let mut repeated = FxHashMap::default();
        for group in groups.values_mut().filter(|group| group.members.len() > 1) {
            let mut meanings = FxHashMap::default();
            group.members.retain(|member| match meanings.entry(member.meaning()) {
                Entry::Occupied(first) => {
                    repeated.insert(place(member.rule), *first.get());
                    false
                }
                Entry::Vacant(new) => {
                    new.insert(member.rule);
                    true
                }
            });
            group.index = (group.members.len() > SMALL).then(|| Box::new(Index::of(&group.members)));
        }
        Candidates { groups, repeated }
    }

    /// The first rule in the policy that is equal to `rule`, if it is another one.
    pub(crate) fn same(&self, rule: &Rule) -> Option<&'p Rule> {
        self.repeated.get(&place(rule)).copied()
    }

    /// The first rule of `subject` and `effect` that may contain all of `of` and that passes `test`.
    pub(crate) fn first(
        &self,
        (subject, effect): (Subject, Effect),
        of: &Extent<'p>,
        budget: &Budget,
        test: impl Fn(&Extent<'p>) -> bool,
    ) -> Option<&'p Rule> {
        let group = self.groups.get(&(subject, effect))?;
        let Some(index) = &group.index else {
            budget.spend();
            return group.members.iter().find(|member| test(member)).map(|member| member.rule);
        };
        let mut first = None;
        for list in index.holders(of, effect, &group.members) {
            let mut earlier = list
                .iter()
                .copied()
                .take_while(|&number| first.is_none_or(|first| number < first) && !budget.is_exhausted());
            let passes = |number: &usize| {
                budget.spend();
                group.members.get(*number).is_some_and(|member| test(member))
            };
            first = earlier.find(passes).or(first);
        }
        Some(group.members.get(first?)?.rule)
    }

    /// The rules of `subject` and `effect` that may contain a port of `of`, in the order of the policy.
    pub(crate) fn overlapping(
        &self,
        (subject, effect): (Subject, Effect),
        of: &Extent<'p>,
        budget: &Budget,
    ) -> Vec<&'e Extent<'p>> {
        let Some(group) = self.groups.get(&(subject, effect)) else { return Vec::new() };
        let Some(numbers) =
            group.index.as_ref().and_then(|index| index.ports.overlapping(of, group.members.len(), budget))
        else {
            return group.members.clone();
        };
        numbers.into_iter().filter_map(|number| group.members.get(number).copied()).collect()
    }
}

impl<'p> Index<'p> {
    fn of(members: &[&Extent<'p>]) -> Index<'p> {
        let mut index = Index::default();
        for (number, member) in members.iter().enumerate() {
            member.ports().for_each(|range| index.ports.enter(range, number));
        }
        index
    }

    /// Lists that include every rule that contains all of `of`. They are chosen by the property of `of` that the fewest
    /// rules share. For a deny of datagrams, an address stands for its family, and an interface for all interfaces.
    fn holders(&self, of: &Extent<'p>, effect: Effect, members: &[&Extent<'p>]) -> Vec<&[usize]> {
        let refused = effect == Effect::Deny && of.rule.effect == Effect::Permit && of.is_of_datagrams();
        let ports = of.ports().take(PORTS_TRIED).map(|range| self.ports.at(range.0));
        let addresses = || self.addresses.get_or_init(|| ByAddress::of(members));
        let address = once_with(|| of.address().filter(|_| !refused).map(|address| addresses().at(address)));
        let [v4, v6] = of.families().map(|has| has && refused);
        let families =
            [v4.then(|| vec![addresses().any_v4.as_slice()]), v6.then(|| vec![addresses().any_v6.as_slice()])];
        // A rule that contains a rule with a program has the same program or none.
        let program = once_with(|| {
            let program = |rule: &'p Rule| rule.program.as_deref();
            lists_of(self.programs.get_or_init(|| by(members, program)), program(of.rule))
        });
        let device = once_with(|| {
            let device = |rule: &'p Rule| rule.dev.as_deref();
            (!refused).then(|| lists_of(self.devices.get_or_init(|| by(members, device)), device(of.rule)))
        });
        let mut best: Option<(usize, Vec<&[usize]>)> = None;
        for lists in
            ports.chain(address.flatten()).chain(families.into_iter().flatten()).chain(program).chain(device.flatten())
        {
            let count = lists.iter().map(|list| list.len()).sum();
            if best.as_ref().is_none_or(|best| count < best.0) {
                best = Some((count, lists));
            }
            if best.as_ref().is_some_and(|best| best.0 <= FEW) {
                break;
            }
        }
        best.map(|best| best.1).unwrap_or_default()
    }
}

impl ByPort {
    fn enter(&mut self, (first, last): (u16, u16), number: usize) {
        let (first, last) = (u32::from(first), u32::from(last));
        let size = (last - first + 1).next_power_of_two().trailing_zeros();
        self.sizes |= 1 << size;
        for block in first >> size..=last >> size {
            enter(self.blocks.entry((size, block)).or_default(), number);
        }
    }

    fn at(&self, port: u16) -> Vec<&[usize]> {
        let blocks = self.sizes().map(|size| (size, u32::from(port) >> size));
        blocks.filter_map(|block| self.blocks.get(&block)).map(Vec::as_slice).collect()
    }

    /// The numbers of rules that may contain a port of `of`. `None` if taking all `count` rules is as fast.
    fn overlapping(&self, of: &Extent<'_>, count: usize, budget: &Budget) -> Option<Numbers> {
        let mut numbers = Vec::new();
        for (first, last) in of.ports() {
            for size in self.sizes() {
                for block in u32::from(first) >> size..=u32::from(last) >> size {
                    budget.spend();
                    numbers.extend(self.blocks.get(&(size, block)).into_iter().flatten());
                    if numbers.len() > 2 * count || budget.is_exhausted() {
                        return None;
                    }
                }
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        Some(numbers)
    }

    fn sizes(&self) -> impl Iterator<Item = u32> {
        let sizes = self.sizes;
        (0..=u16::BITS).filter(move |size| sizes & 1 << size != 0)
    }
}

impl ByAddress {
    fn of(members: &[&Extent<'_>]) -> ByAddress {
        let mut index = ByAddress::default();
        for (number, member) in members.iter().enumerate() {
            if member.rule.addresses.is_empty() {
                enter(&mut index.every_v4, number);
                enter(&mut index.every_v6, number);
            }
            for (has, any) in member.families().into_iter().zip([&mut index.any_v4, &mut index.any_v6]) {
                any.extend(has.then_some(number));
            }
            member.rule.addresses.iter().for_each(|set| index.enter(*set, number));
        }
        index
    }

    fn enter(&mut self, set: AddressSet, number: usize) {
        let list = match set {
            AddressSet::V4(_, 0) => &mut self.every_v4,
            AddressSet::V6(_, 0) => &mut self.every_v6,
            AddressSet::V4(network, length) => {
                self.v4_lengths |= 1 << length;
                self.v4.entry((length.into(), network.to_bits())).or_default()
            }
            AddressSet::V6(network, length) => {
                self.v6_lengths |= 1 << (length - 1);
                self.v6.entry((length.into(), network.to_bits())).or_default()
            }
            // Such rules are searched by port.
            AddressSet::V4Wildcard | AddressSet::DualWildcard => return,
        };
        enter(list, number);
    }

    fn at(&self, address: IpAddr) -> Vec<&[usize]> {
        let (every, lists): (_, Vec<_>) = match address {
            IpAddr::V4(address) => {
                let lengths = (1..=u32::BITS).filter(|length| self.v4_lengths & 1 << length != 0);
                let bits = |length| address.to_bits() & !u32::MAX.checked_shr(length).unwrap_or(0);
                (&self.every_v4, lengths.filter_map(|length| self.v4.get(&(length, bits(length)))).collect())
            }
            IpAddr::V6(address) => {
                let lengths = (1..=u128::BITS).filter(|length| self.v6_lengths & 1 << (length - 1) != 0);
                let bits = |length| address.to_bits() & !u128::MAX.checked_shr(length).unwrap_or(0);
                (&self.every_v6, lengths.filter_map(|length| self.v6.get(&(length, bits(length)))).collect())
            }
        };
        once(every).chain(lists).map(Vec::as_slice).collect()
    }
}

fn by<'p, T: Hash + Eq>(members: &[&Extent<'p>], of: impl Fn(&'p Rule) -> Option<T>) -> FxHashMap<Option<T>, Numbers> {
    let mut lists: FxHashMap<_, Numbers> = FxHashMap::default();
    for (number, member) in members.iter().enumerate() {
        enter(lists.entry(of(member.rule)).or_default(), number);
    }
    lists
}

/// The rules without this property, and those with the same one.
fn lists_of<T: Hash + Eq>(lists: &FxHashMap<Option<T>, Numbers>, with: Option<T>) -> Vec<&[usize]> {
    let with = Some(with).filter(Option::is_some);
    once(None).chain(with).filter_map(|key| lists.get(&key)).map(Vec::as_slice).collect()
}

fn enter(list: &mut Numbers, number: usize) {
    if list.last() != Some(&number) {
        list.push(number);
    }
}

/// The place of a rule.
pub(crate) fn place(rule: &Rule) -> (usize, usize) {
    (rule.file, rule.line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relation::tests::{policy, unbounded};

    #[test]
    fn a_deny_for_udp_is_found_with_any_address_and_interface() {
        let denies: String = (1..40).map(|n| format!("deny any 53 53/udp on 10.0.0.{n} dev eth{n}\n")).collect();
        for (permit, expected) in [
            ("53/udp on 10.1.2.3", Some(1)),
            ("53/udp on 0.0.0.0 dev lo", Some(1)),
            ("53/udp on 10.0.0.7 dev eth7", Some(1)),
            ("53 on 10.0.0.7 dev eth7", Some(7)),
            ("53 53/udp on 10.0.0.7 dev eth7", Some(7)),
            ("53 on 10.1.2.3 dev eth7", None),
            ("53/udp", None),
            ("53/udp on [::1]", None),
        ] {
            let policy = policy(&format!("{denies}permit any {permit}\n"));
            let extents: Vec<Extent<'_>> = policy.rules.iter().map(Extent::of).collect();
            let permitted = &extents[39];
            let test = |deny: &Extent<'_>| deny.denies_all(permitted, &unbounded());
            let kind = (Subject::Any, Effect::Deny);
            let found = Candidates::of(&extents).first(kind, permitted, &unbounded(), test);
            assert_eq!(found.map(|deny| deny.line), expected, "{permit}");
        }
    }
}
