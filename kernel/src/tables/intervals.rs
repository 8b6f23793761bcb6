//! The rules of one subject over its ports.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

use portgrant_policy::{AddressSet, Effect, Rule};

use super::ANYBODY;
use crate::addresses::Concern;
use crate::entry::{Entry, Verdict};

/// The active rules at a port, by effect and addresses. Each verdict has a count, since a rule may name a port twice,
/// and an expanded rule occurs several times.
#[derive(Default)]
pub(super) struct Holding<'p>(BTreeMap<(Effect, u32), Alike<'p>>);

/// Rules of one effect for the same addresses.
struct Alike<'p> {
    verdicts: BTreeMap<Verdict, usize>,
    addresses: &'p [AddressSet],
}

impl<'p> Holding<'p> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, rule: &'p Rule, list: u32) {
        let new = || Alike { verdicts: BTreeMap::new(), addresses: &rule.addresses };
        let alike = self.0.entry((rule.effect, list)).or_insert_with(new);
        *alike.verdicts.entry(Verdict::of(rule)).or_default() += 1;
    }

    pub(super) fn take(&mut self, rule: &Rule, list: u32) {
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

    pub(super) fn concern(&self) -> Concern<'p> {
        let first = |alike: &Alike<'p>| Some((*alike.verdicts.keys().next()?, alike.addresses));
        self.0.iter().filter_map(|(&key, alike)| Some((key, first(alike)?))).collect()
    }
}

/// An interval of ports with the same outcome for a subject.
pub(super) struct Interval {
    /// The first of the tables for such subjects
    pub(super) table: u8,
    pub(super) id: u32,
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) entry: Entry,
}

impl Interval {
    /// The number of entries for this interval: one for each port that is `open`.
    pub(super) fn named_ports(&self, open: &[bool]) -> usize {
        let ports = usize::from(self.first)..=usize::from(self.last);
        if self.table == ANYBODY { 0 } else { open[ports].iter().filter(|&&open| open).count() }
    }
}
