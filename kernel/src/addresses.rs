//! The addresses of rules as intervals: each begins at its boundary and ends before the next boundary. The last boundary at
//! or before an address decides, and a binary search finds it.
//!
//! All addresses are numbers of 128 bits; IPv4 is `::ffff:0:0/96`. The two wildcards are not addresses but have the
//! number of one, so they are separate intervals, decided as wildcards.

use std::collections::BTreeMap;

use portgrant_policy::{AddressSet, Effect, Span};

use crate::entry::Verdict;

/// The start of an interval, which ends before the next boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boundary {
    /// The first address
    pub start: u128,
    /// The decision
    pub verdict: Verdict,
}

/// The least number of boundaries in a set: the program in the kernel reads this many at once.
pub const GROUP: usize = 4;

/// The rules of one subject at one port: of those with the same effect and addresses (by number), the first.
pub(crate) type Concern<'p> = BTreeMap<(Effect, u32), (Verdict, &'p [AddressSet])>;

/// `::ffff:0:0/96`, the IPv4 addresses. Its first address stands for the IPv4 wildcard.
const V4: (u128, u8) = (0xffff << 32, 96);
/// All addresses; the first stands for the wildcard of both families.
const ALL: (u128, u8) = (0, 0);

/// The intervals of `concern`, whose rules without addresses decide `everywhere`. There is always one at 0. Their
/// number is a power of two and at least [`GROUP`], as the search needs: the last one is repeated at the last address.
pub(crate) fn boundaries(concern: &Concern<'_>, everywhere: Verdict) -> Vec<Boundary> {
    padded(intervals(&decided(concern, everywhere)))
}

/// `boundaries`, with the last one repeated at the last address until their number fits the search.
pub(crate) fn padded(mut boundaries: Vec<Boundary>) -> Vec<Boundary> {
    let last = boundaries.last().map_or(Verdict::NOTHING, |last| last.verdict);
    boundaries.resize(boundaries.len().next_power_of_two().max(GROUP), Boundary { start: u128::MAX, verdict: last });
    boundaries
}

/// The verdict at `address`, in boundaries whose number is a power of two: the same steps as in the kernel's program.
pub(crate) fn search(boundaries: &[Boundary], address: u128) -> Verdict {
    let (mut at, mut half) = (0, boundaries.len() / 2);
    while half != 0 {
        if boundaries[at + half].start <= address {
            at += half;
        }
        half /= 2;
    }
    boundaries[at].verdict
}

/// Every prefix in a rule, in order, with the verdict of all rules that contain it; and the wildcards, after all
/// prefixes that begin at their number.
fn decided(concern: &Concern<'_>, everywhere: Verdict) -> Vec<((u128, u8), Verdict)> {
    let mut own: BTreeMap<(u128, u8), Verdict> = BTreeMap::from([(ALL, everywhere), (V4, everywhere)]);
    for (verdict, list) in concern.values() {
        for prefix in list.iter().filter_map(prefix) {
            let held = own.entry(prefix).or_insert(Verdict::NOTHING);
            *held = (*held).min(*verdict);
        }
    }
    // In this order a containing prefix comes first, and the open prefixes are those that contain the current one.
    let mut open: Vec<((u128, u8), Verdict)> = Vec::new();
    let mut decided = BTreeMap::new();
    for (prefix, verdict) in own {
        while open.last().is_some_and(|(outer, _)| prefix.0 > last(*outer)) {
            open.pop();
        }
        // No IPv6 prefix contains IPv4 addresses.
        let inherited = open.last().filter(|_| prefix != V4).map_or(Verdict::NOTHING, |outer| outer.1);
        open.push((prefix, verdict.min(inherited)));
        decided.insert(prefix, verdict.min(inherited));
    }
    for (network, span) in [(ALL.0, Span::DualWildcard), (V4.0, Span::V4Wildcard)] {
        let says = |((effect, _), (verdict, list)): (&(Effect, u32), &(Verdict, &[AddressSet]))| match effect {
            Effect::Permit => span.is_within(list).then_some(*verdict),
            Effect::Deny => span.overlaps(list).then_some(*verdict),
        };
        let verdict = concern.iter().filter_map(says).min().unwrap_or(Verdict::NOTHING);
        decided.insert((network, 128), verdict);
    }
    decided.into_iter().collect()
}

/// `prefixes`, which are in order and begin with [`ALL`], as boundaries. Neighbours have different verdicts.
fn intervals(prefixes: &[((u128, u8), Verdict)]) -> Vec<Boundary> {
    let mut boundaries: Vec<Boundary> = Vec::new();
    let mut begin = |start, verdict| match boundaries.last_mut().filter(|last| last.start == start) {
        Some(last) => last.verdict = verdict,
        None => boundaries.push(Boundary { start, verdict }),
    };
    let mut open: Vec<(u128, Verdict)> = Vec::new();
    for prefix in prefixes.iter().map(Some).chain([None]) {
        // After the end of a prefix the surrounding one applies again.
        while let Some((end, _)) = open.pop_if(|(end, _)| prefix.is_none_or(|(next, _)| *end < next.0)) {
            if let (Some(behind), Some((_, around))) = (end.checked_add(1), open.last()) {
                begin(behind, *around);
            }
        }
        if let Some(&(prefix, verdict)) = prefix {
            begin(prefix.0, verdict);
            open.push((last(prefix), verdict));
        }
    }
    boundaries.dedup_by(|next, before| next.verdict == before.verdict);
    boundaries
}

/// The prefix of an element of an `on` clause; a wildcard has none.
fn prefix(set: &AddressSet) -> Option<(u128, u8)> {
    match *set {
        AddressSet::V4(network, length) => Some((network.to_ipv6_mapped().to_bits(), 96 + length)),
        AddressSet::V6(network, length) => Some((network.to_bits(), length)),
        AddressSet::V4Wildcard | AddressSet::DualWildcard => None,
    }
}

/// The last address of a prefix.
fn last((network, length): (u128, u8)) -> u128 {
    network | u128::MAX.checked_shr(length.into()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Verdict = Verdict(1);
    const B: Verdict = Verdict(2);

    fn starts(prefixes: &[((u128, u8), Verdict)]) -> Vec<(u128, i64)> {
        intervals(prefixes).iter().map(|boundary| (boundary.start, boundary.verdict.0)).collect()
    }

    #[test]
    fn after_a_prefix_the_surrounding_rule_applies_again() {
        let last = u128::MAX;
        assert_eq!(starts(&[(ALL, A)]), [(0, 1)]);
        assert_eq!(starts(&[(ALL, A), ((16, 124), B)]), [(0, 1), (16, 2), (32, 1)]);
        assert_eq!(starts(&[(ALL, A), ((0, 124), B), ((0, 128), A)]), [(0, 1), (1, 2), (16, 1)]);
        assert_eq!(starts(&[(ALL, A), ((16, 124), B), ((31, 128), A)]), [(0, 1), (16, 2), (31, 1)]);
        assert_eq!(starts(&[(ALL, A), ((16, 124), B), ((32, 124), B)]), [(0, 1), (16, 2), (48, 1)]);
        assert_eq!(starts(&[(ALL, A), ((last, 128), B)]), [(0, 1), (last, 2)]);
    }

    #[test]
    fn the_search_finds_the_last_boundary_at_or_before_the_address() {
        for count in 1..40u128 {
            let list: Vec<AddressSet> = (0..count).map(|n| AddressSet::V6((n << 64 | 1 << 96).into(), 128)).collect();
            let concern = Concern::from([((Effect::Permit, 0), (A, &list[..]))]);
            let boundaries = boundaries(&concern, Verdict::NOTHING);
            assert!(boundaries.len().is_power_of_two() && boundaries.is_sorted_by_key(|boundary| boundary.start));
            for address in [0, 1, 1 << 96, (1 << 96) + 1, (count - 1) << 64 | 1 << 96, count << 64 | 1 << 96, u128::MAX]
            {
                let permitted = list.iter().any(|set| prefix(set) == Some((address, 128)));
                assert_eq!(search(&boundaries, address).permits().is_some(), permitted, "{count}: {address:x}");
            }
        }
    }
}
