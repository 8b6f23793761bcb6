//! A hash table that a program in the kernel reads with no call into the kernel: every key is in one of two cells that its
//! hashes name (cuckoo hashing), so that a lookup looks at two cells at most, whatever the keys.
//!
//! The kernel's own hash maps cost a call for each lookup, and several within it; arrays are read by instructions.

use crate::entry::{Entry, Key};

/// What a key is multiplied with before its upper half is mixed into the lower one.
pub const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
/// What the mixed key is multiplied with, for each of its two cells. All three are odd, so that no bit of a key is lost.
pub const HASHES: [u64; 2] = [0xd6e8_feb8_6659_fd93, 0xa076_1d64_78bd_642f];

/// The most moves for one key, before the table is made larger.
const MOST_MOVES: usize = 500;
/// The fewest cells, as bits.
const FEWEST: u32 = 4;
/// The most cells, as bits.
pub(crate) const MOST: u32 = 24;

/// The table: a power of two of cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cells {
    cells: Vec<Option<(Key, Entry)>>,
    bits: u32,
}

impl Cells {
    /// A place for each of `entries`, whose keys differ; none where they are too many.
    pub fn of(entries: impl ExactSizeIterator<Item = (Key, Entry)> + Clone) -> Option<Cells> {
        // Above half full, some keys find no place; so it is less than that from the start. Now and then they find none then
        // either, and it is doubled.
        let fewest = (entries.len() * 9 / 4).next_power_of_two().trailing_zeros().max(FEWEST);
        (fewest..=MOST).find_map(|bits| Cells::with(bits, entries.clone()))
    }

    fn with(bits: u32, entries: impl Iterator<Item = (Key, Entry)>) -> Option<Cells> {
        let mut table = Cells { cells: vec![None; 1 << bits], bits };
        entries.into_iter().all(|entry| table.place(entry)).then_some(table)
    }

    /// Whoever is where the entry belongs moves to its own other cell, and so on.
    fn place(&mut self, mut entry: (Key, Entry)) -> bool {
        let mut at = self.places(entry.0)[0];
        for _ in 0..MOST_MOVES {
            match self.cells[at].replace(entry) {
                None => return true,
                Some(moved) => entry = moved,
            }
            let [first, second] = self.places(entry.0);
            at = if at == first { second } else { first };
        }
        false
    }

    /// What is there for `key`.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<&Entry> {
        let found = self.places(key).map(|at| self.cells[at].as_ref().filter(|cell| cell.0 == key));
        found.into_iter().flatten().next().map(|cell| &cell.1)
    }

    /// Every cell, in order.
    pub fn iter(&self) -> impl Iterator<Item = Option<&(Key, Entry)>> {
        self.cells.iter().map(Option::as_ref)
    }

    /// How many cells there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        1 << self.bits
    }

    /// How many lower bits of a hash do not count.
    #[must_use]
    pub fn shift(&self) -> u32 {
        u64::BITS - self.bits
    }

    #[allow(clippy::cast_possible_truncation, reason = "at most 24 bits are left")]
    fn places(&self, key: Key) -> [usize; 2] {
        let mixed = key.0.wrapping_mul(MIX);
        let mixed = mixed ^ mixed >> 32;
        HASHES.map(|hash| (mixed.wrapping_mul(hash) >> self.shift()) as usize)
    }
}

impl Default for Cells {
    fn default() -> Self {
        Cells { cells: vec![None; 1 << FEWEST], bits: FEWEST }
    }
}

#[cfg(test)]
mod tests {
    use portgrant_binder::policy::bind::Transport;

    use super::*;
    use crate::entry::Verdict;

    fn entries(keys: impl Iterator<Item = Key>) -> Vec<(Key, Entry)> {
        keys.zip(0..).map(|(key, number)| (key, Entry { verdict: Verdict(number), set: None })).collect()
    }

    /// As policies have them: many users at one port, many ports of one user, blocks, ids far apart.
    #[test]
    fn every_key_is_found_and_no_other() {
        let key = |table: u8, port: u16, id: u32| Key::new(table, Transport::Tcp, port, id);
        let kinds: [Vec<Key>; 6] = [
            vec![],
            vec![key(1, 80, 1000)],
            (0..100_000).map(|id| key(1, 80, id)).collect(),
            (0..=u16::MAX).map(|port| key(2, port, 33)).collect(),
            (0..50_000).map(|n| key(5, 443, n << 16)).collect(),
            (0..400).flat_map(|id| (0..250).map(move |port| key(3, port, 1_000_000 * id))).collect(),
        ];
        for keys in kinds {
            let entries = entries(keys.iter().copied());
            let cells = Cells::of(entries.iter().copied()).expect("not too many");
            assert!(cells.cells.len() <= (8 * keys.len()).max(16), "{} cells for {}", cells.count(), keys.len());
            for (key, entry) in &entries {
                assert_eq!(cells.get(*key), Some(entry));
                assert_eq!(cells.get(Key(key.0 ^ 0xff)), None, "a key that is not there");
            }
            assert_eq!(cells.iter().flatten().count(), keys.len());
        }
    }

    #[test]
    fn keys_that_find_no_place_make_it_larger() {
        let keys = (0..).map(Key).filter(|&key| Cells::default().places(key) == [3, 7]).take(3);
        let entries = entries(keys);
        assert_eq!(Cells::with(FEWEST, entries.iter().copied()), None, "three keys, two cells");
        let cells = Cells::of(entries.iter().copied()).expect("a larger one");
        assert!(entries.iter().all(|(key, entry)| cells.get(*key) == Some(entry)));
    }
}
