//! A generation's tables as the program reads them: which row has which number, and the bytes of rows and ports
//! ([`crate::program::row`], [`crate::program::port`]).

use std::ops::Range;

use crate::addresses::Boundary;
use crate::cells;
use crate::entry::{Entry, Key};
use crate::program::{entry, port, row};
use crate::tables::{MAX_ENTRIES, PortEntry, Tables};

/// Where a generation's rows are: its cells first, then all its boundaries.
#[derive(Debug)]
pub(crate) struct Rows {
    generation: u32,
    first: u32,
    first_boundary: u32,
    shift: u32,
}

// As many as there can be of both have a number, and the search comes to its end in the largest set.
const _: () = assert!((1 << cells::MOST) + MAX_ENTRIES <= (row::PAGES as usize) << row::PAGE_BITS);
const _: () = assert!(MAX_ENTRIES / 2 < 1 << row::MOST_STEPS);

/// The numbers of all pages that a generation may have.
pub(crate) fn pages(generation: u32) -> Range<u32> {
    let first = (generation & 1) * row::PAGES;
    first..first + row::PAGES
}

impl Rows {
    pub(crate) fn of(tables: &Tables, generation: u32) -> Rows {
        let first = pages(generation).start << row::PAGE_BITS;
        Rows { generation, first, first_boundary: first + tables.cells.count(), shift: tables.cells.shift() }
    }

    /// The numbers of the pages for them, with more behind those that are needed.
    pub(crate) fn pages(&self) -> Range<u32> {
        pages(self.generation)
    }

    /// Every row in order; none where it stays zero.
    pub(crate) fn values<'t>(&'t self, tables: &'t Tables) -> impl Iterator<Item = Option<[u8; row::SIZE]>> + 't {
        let cells = tables.cells.iter().map(|cell| cell.map(|cell| self.cell(cell)));
        cells.chain(tables.boundaries.iter().map(|boundary| Some(Rows::boundary(boundary))))
    }

    /// What a port's value is.
    pub(crate) fn port(&self, entry: &PortEntry) -> [u8; port::SIZE] {
        let (has_sole, (uid, sole)) = match entry.sole {
            Some(sole) => (port::HAS_SOLE, sole),
            None => (0, (0, entry.anybody)),
        };
        let words = [entry.tables | has_sole, self.generation, self.first, self.shift, uid, 0].map(u32::to_ne_bytes);
        joined([&self.entry(&entry.anybody), words.as_flattened(), &self.entry(&sole)])
    }

    fn cell(&self, (key, entry): &(Key, Entry)) -> [u8; row::SIZE] {
        joined([&key.0.to_ne_bytes(), &self.entry(entry)])
    }

    #[allow(clippy::cast_possible_truncation, reason = "its two halves")]
    fn boundary(boundary: &Boundary) -> [u8; row::SIZE] {
        let halves = [boundary.start >> 64, boundary.start].map(|half| (half as u64).to_ne_bytes());
        joined([halves.as_flattened(), &boundary.verdict.0.to_ne_bytes()])
    }

    fn entry(&self, entry: &Entry) -> [u8; entry::SIZE] {
        // There are cells before every boundary, so 0 is free to say that there is none.
        let words = entry.set.map_or([0, 0], |set| [self.first_boundary + set.first, set.half]).map(u32::to_ne_bytes);
        joined([&entry.verdict.0.to_ne_bytes(), words.as_flattened()])
    }
}

/// The parts of a value, one behind the other.
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
    use crate::entry::{Set, Verdict};

    #[test]
    fn the_bytes_are_where_the_program_reads_them() {
        let tables = Tables { boundaries: vec![Boundary { start: 0, verdict: Verdict::DENY }], ..Tables::default() };
        let rows = Rows::of(&tables, 3);
        let word = |bytes: &[u8], at: i16| {
            let at = usize::try_from(at).expect("an offset");
            u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
        };
        let anybody = Entry { verdict: Verdict(7), set: None };
        let sole = Entry { verdict: Verdict::NOTHING, set: Some(Set { first: 8, half: 4 }) };
        let value = rows.port(&PortEntry { anybody, tables: 5, sole: Some((1000, sole)) });
        let first = row::PAGES << row::PAGE_BITS;
        assert_eq!((value.len(), rows.pages().len()), (port::SIZE, 512));
        assert_eq!(word(&value, port::TABLES), 5 | port::HAS_SOLE);
        assert_eq!(
            [port::GENERATION, port::CELLS, port::SHIFT, port::SOLE_UID].map(|at| word(&value, at)),
            [3, first, 60, 1000]
        );
        assert_eq!([entry::FIRST, entry::HALF].map(|at| word(&value, at)), [0, 0], "no set");
        assert_eq!([entry::FIRST, entry::HALF].map(|at| word(&value, port::SOLE + at)), [first + 16 + 8, 4]);
        let values: Vec<_> = rows.values(&tables).collect();
        assert!(values[..16].iter().all(Option::is_none), "no cell is used");
        let boundary = values[16].as_ref().expect("the boundary");
        assert_eq!((boundary.len(), &boundary[16..]), (row::SIZE, &Verdict::DENY.0.to_ne_bytes()[..]));
    }
}
