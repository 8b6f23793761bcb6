//! A generation's tables as the program reads them: the numbers of rows, and the bytes of rows and ports
//! ([`crate::layout`]).

use std::ops::Range;

use crate::addresses::{Boundary, GROUP};
use crate::cells::{self, BUCKET, Cell};
use crate::entry::{Entry, Set};
use crate::layout::{Pages, bucket, group, outcome, port};
use crate::tables::{MAX_ENTRIES, PortEntry, Tables};

/// A generation's rows.
#[derive(Debug)]
pub(crate) struct Rows<'t> {
    tables: &'t Tables,
    generation: u32,
}

// Checks that the near buckets fit into one page, that every possible row has a number, and that the search has enough
// steps for the largest set.
const _: () = assert!(bucket::SIZE << cells::PAGE == 4096);
const _: () = assert!(1 << cells::MOST <= bucket::PAGES.most << bucket::PAGES.bits);
const _: () = assert!(MAX_ENTRIES / GROUP <= (group::PAGES.most as usize) << group::PAGES.bits);
const _: () = assert!(MAX_ENTRIES / GROUP / 2 < 1 << group::MOST_STEPS);
// The set of classes is a generation's first set, so the lower bits of its first group's number are 0.
const _: () = assert!((group::PAGES.most << group::PAGES.bits).is_multiple_of(1 << group::MOST_STEPS));

impl Pages {
    /// The numbers of all pages that a generation may have.
    pub(crate) fn of(self, generation: u32) -> Range<u32> {
        let first = (generation & 1) * self.most;
        first..first + self.most
    }

    /// The number of a generation's first row.
    fn first_row(self, generation: u32) -> u32 {
        self.of(generation).start << self.bits
    }
}

impl<'t> Rows<'t> {
    pub(crate) fn of(tables: &'t Tables, generation: u32) -> Rows<'t> {
        Rows { tables, generation }
    }

    /// The values of the ports, each with its index.
    pub(crate) fn ports(&self) -> impl Iterator<Item = (u32, [u8; port::SIZE])> {
        self.tables.ports.iter().map(|(index, port)| (*index, self.port(port)))
    }

    /// Every bucket in order; `None` if it is empty.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = Option<[u8; bucket::SIZE]>> {
        self.tables.cells.iter().map(|cells| cells.iter().any(Option::is_some).then(|| self.bucket(cells)))
    }

    /// Every group of boundaries, in order.
    pub(crate) fn groups(&self) -> impl Iterator<Item = Option<[u8; group::SIZE]>> {
        let (groups, _) = self.tables.boundaries.as_chunks::<GROUP>();
        groups.iter().map(|boundaries| Some(Rows::group(boundaries)))
    }

    fn port(&self, entry: &PortEntry) -> [u8; port::SIZE] {
        let uids = entry.few.map(|few| few.0.to_ne_bytes());
        let first = bucket::PAGES.first_row(self.generation);
        let words = [self.generation, entry.tables, first, self.tables.cells.shift()].map(u32::to_ne_bytes);
        let outcomes = entry.few.map(|few| self.outcome(&few.1));
        let classes =
            self.tables.classes.map_or(0, |set| self.groups_of(set).into_iter().fold(0, |all, part| all | part));
        let parts = [&self.outcome(&entry.anybody), words.as_flattened(), uids.as_flattened(), &classes.to_ne_bytes()];
        joined([joined::<4, { port::OUTCOMES as usize }>(parts).as_slice(), outcomes.as_flattened()])
    }

    fn bucket(&self, cells: &[Cell; BUCKET]) -> [u8; bucket::SIZE] {
        let cell = |cell: &Cell| match cell {
            Some((key, entry)) => joined([&key.0.to_ne_bytes(), &self.outcome(entry)]),
            None => [0; bucket::CELL],
        };
        joined(cells.each_ref().map(cell).each_ref().map(|cell: &[u8; bucket::CELL]| &cell[..]))
    }

    #[allow(clippy::cast_possible_truncation, reason = "its two halves")]
    fn group(boundaries: &[Boundary; GROUP]) -> [u8; group::SIZE] {
        let boundary = |boundary: &Boundary| -> [u8; group::SIZE / GROUP] {
            let halves = [boundary.start >> 64, boundary.start].map(|half| (half as u64).to_ne_bytes());
            joined([halves.as_flattened(), &boundary.verdict.0.to_ne_bytes()])
        };
        joined(boundaries.each_ref().map(boundary).each_ref().map(|boundary| &boundary[..]))
    }

    fn outcome(&self, entry: &Entry) -> [u8; outcome::SIZE] {
        let Some(set) = entry.set else { return entry.verdict.0.to_ne_bytes() };
        let [first, half] = self.groups_of(set);
        (outcome::SET | u64::from(half) << 32 | u64::from(first)).to_ne_bytes()
    }

    /// The number of a set's first group, and half of the number of its groups.
    fn groups_of(&self, set: Set) -> [u32; 2] {
        let [first, half] = [set.first, set.half].map(|boundaries| boundaries >> GROUP.trailing_zeros());
        [group::PAGES.first_row(self.generation) + first, half]
    }
}

/// The concatenated parts of a value.
fn joined<const PARTS: usize, const SIZE: usize>(parts: [&[u8]; PARTS]) -> [u8; SIZE] {
    let mut value = [0; SIZE];
    let mut rest = &mut value[..];
    for part in parts {
        let (place, behind) = rest.split_at_mut(part.len());
        place.copy_from_slice(part);
        rest = behind;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::Cells;
    use crate::entry::{Key, Verdict};

    fn word(bytes: &[u8], at: i16) -> u32 {
        let at = usize::try_from(at).expect("an offset");
        u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    }

    fn double(bytes: &[u8], at: i16) -> i64 {
        let at = usize::try_from(at).expect("an offset");
        i64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
    }

    #[test]
    fn each_value_is_at_the_offset_that_the_program_reads() {
        let plain = Entry { verdict: Verdict(7), set: None };
        let set = Entry { verdict: Verdict::NOTHING, set: Some(Set { first: 8, half: 4 }) };
        let cells = Cells::of([(Key(9), plain), (Key(1 << 40), set)].into_iter()).expect("two keys");
        let boundary =
            |number: u8| Boundary { start: u128::from(number) << 64 | 2, verdict: Verdict(i64::from(number)) };
        let boundaries = (0..8).map(boundary).collect();
        let classes = Some(Set { first: 0, half: 8 });
        let tables = Tables { cells, boundaries, classes, ..Tables::default() };
        let rows = Rows::of(&tables, 3);
        let [first_bucket, first_group] = [bucket::PAGES, group::PAGES].map(|pages| pages.most << pages.bits);
        let of_set = i64::MIN | 1 << 32 | i64::from(first_group + 2);
        assert!(of_set < Verdict::DENY.0, "no verdict");

        let few = [(1000, set), (1001, plain), (u32::MAX, Entry::NOTHING)];
        let value = rows.port(&PortEntry { anybody: plain, tables: 5, few });
        assert_eq!((value.len(), double(&value, port::ANYBODY)), (64, 7), "a line");
        let words = [port::GENERATION, port::TABLES, port::BUCKETS, port::SHIFT].map(|at| word(&value, at));
        assert_eq!(words, [3, 5, first_bucket, 58]);
        assert_eq!([0, 4, 8].map(|at| word(&value, port::UIDS + at)), [1000, 1001, u32::MAX]);
        assert_eq!(word(&value, port::CLASSES), first_group | 2);
        assert_eq!([0, 8, 16].map(|at| double(&value, port::OUTCOMES + at)), [of_set, 7, Verdict::NOTHING.0]);

        let without = Rows::of(&Tables { classes: None, ..tables.clone() }, 3).port(&PortEntry {
            anybody: plain,
            tables: 5,
            few,
        });
        assert_eq!(word(&without, port::CLASSES), 0);

        let buckets: Vec<_> = rows.buckets().collect();
        assert_eq!((buckets.len(), buckets[0].map_or(64, |bucket| bucket.len())), (64, 64), "a line");
        let cells = buckets.iter().flatten().flat_map(|bucket| bucket.chunks(bucket::CELL));
        let cells = cells.map(|cell| [bucket::KEY, bucket::OUTCOME].map(|at| double(cell, at)));
        let mut cells: Vec<_> = cells.filter(|cell| cell[0] != 0).collect();
        cells.sort_unstable();
        assert_eq!(cells, [[9, 7], [1 << 40, of_set]]);

        let groups: Vec<_> = rows.groups().flatten().collect();
        assert_eq!((groups.len(), groups[0].len()), (2, 96));
        let third = group::BOUNDARY * 2;
        let places = [group::START, group::START + 8, group::VERDICT].map(|at| double(&groups[1], third + at));
        assert_eq!(places, [6, 2, 6]);
    }
}
