//! A hash table that the program in the kernel reads without calling the kernel: every key is in one of two buckets,
//! given by its hashes (cuckoo hashing). So a lookup reads at most two buckets, usually one. A bucket is one cache
//! line.
//!
//! A lookup in the kernel's own hash maps is several calls; arrays are read by instructions.

use crate::entry::{Entry, Key};

/// The factor for a key, before its upper half is mixed into the lower one.
pub const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
/// The factors for the mixed key, one for each of its two buckets. All three are odd, so that no bit of a key is lost.
pub const HASHES: [u64; 2] = [0xd6e8_feb8_6659_fd93, 0xa076_1d64_78bd_642f];
/// The number of lower bits of a key's block that are not hashed for its first bucket, so that the first buckets of a
/// subject's ports below 1024 are in one page of memory. A page that is not in the cache costs more than everything
/// else here, and servers bind several ports.
pub const NEAR: u32 = 10;
/// How many of these bits choose the bucket within the page.
pub const PAGE: u32 = 6;
/// How many cells a bucket has.
pub const BUCKET: usize = 4;

/// The most moves for one key, before the table is made larger.
const MOST_MOVES: usize = 500;
/// The fewest buckets, as bits.
const FEWEST: u32 = PAGE;
/// The most buckets, as bits.
pub(crate) const MOST: u32 = 21;

/// A cell: an entry and its key, or nothing.
pub type Cell = Option<(Key, Entry)>;

/// The table: a power of two of buckets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cells {
    buckets: Vec<[Cell; BUCKET]>,
    bits: u32,
}

impl Cells {
    /// The table of `entries`, whose keys differ; `None` if there are too many.
    pub fn of(entries: impl ExactSizeIterator<Item = (Key, Entry)> + Clone) -> Option<Cells> {
        // Half of the cells stay empty, so that nearly all keys are in their first bucket. If one does not
        // fit, the table is doubled.
        let buckets = (entries.len() * 2).div_ceil(BUCKET).next_power_of_two();
        (buckets.trailing_zeros().max(FEWEST)..=MOST).find_map(|bits| Cells::with(bits, entries.clone()))
    }

    fn with(bits: u32, mut entries: impl Iterator<Item = (Key, Entry)>) -> Option<Cells> {
        let mut table = Cells { buckets: vec![[None; BUCKET]; 1 << bits], bits };
        entries.all(|entry| table.place(entry)).then_some(table)
    }

    /// Puts the entry into its first or second bucket. If both are full, another key moves to its other bucket, and so
    /// on.
    fn place(&mut self, mut entry: (Key, Entry)) -> bool {
        let mut places = self.places(entry.0);
        let mut full = places[0];
        for moves in 0..MOST_MOVES {
            for bucket in places {
                if let Some(free) = self.buckets[bucket].iter_mut().find(|cell| cell.is_none()) {
                    *free = Some(entry);
                    return true;
                }
            }
            entry = self.buckets[full][moves % BUCKET].replace(entry).expect("it is full");
            places = self.places(entry.0);
            full = if full == places[0] { places[1] } else { places[0] };
        }
        false
    }

    /// The entry for `key`.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<&Entry> {
        let mut cells = self.places(key).into_iter().flat_map(|bucket| &self.buckets[bucket]).flatten();
        cells.find(|cell| cell.0 == key).map(|cell| &cell.1)
    }

    /// Every bucket, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[Cell; BUCKET]> {
        self.buckets.iter()
    }

    /// How many lower bits of a hash are not used.
    #[must_use]
    pub fn shift(&self) -> u32 {
        u64::BITS - self.bits
    }

    #[allow(clippy::cast_possible_truncation, reason = "at most 21 bits are left")]
    fn places(&self, key: Key) -> [usize; 2] {
        let hashed = |key: u64, hash| {
            let mixed = key.wrapping_mul(MIX);
            ((mixed ^ mixed >> 32).wrapping_mul(hash) >> self.shift()) as usize
        };
        let near = (key.0 >> Key::BLOCK) as usize & ((1 << PAGE) - 1);
        [hashed(key.0 & !Key::below(NEAR), HASHES[0]) ^ near, hashed(key.0, HASHES[1])]
    }
}

impl Default for Cells {
    fn default() -> Self {
        Cells { buckets: vec![[None; BUCKET]; 1 << FEWEST], bits: FEWEST }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use crate::projection::Transport;

    use super::*;
    use crate::entry::Verdict;

    fn entries(keys: impl Iterator<Item = Key>) -> Vec<(Key, Entry)> {
        keys.zip(0..).map(|(key, number)| (key, Entry { verdict: Verdict(number), set: None })).collect()
    }

    /// Keys as in policies: many users at one port, many ports of one user, blocks, distant ids.
    #[test]
    fn every_key_is_found_and_no_other() {
        let key = |table: u8, port: u16, id: u32| Key::new(table, Transport::Tcp, port, id);
        let kinds: [Vec<Key>; 7] = [
            vec![],
            vec![key(1, 80, 1000)],
            (0..100_000).map(|id| key(1, 80, id)).collect(),
            (0..=u16::MAX).map(|port| key(2, port, 33)).collect(),
            (0..50_000).map(|n| key(5, 443, n << 16)).collect(),
            (0..256).flat_map(|id| (1..1024).map(move |port| key(1, port, id))).collect(),
            (0..400).flat_map(|id| (0..250).map(move |port| key(3, port, 1_000_000 * id))).collect(),
        ];
        for keys in kinds {
            let (entries, known) = (entries(keys.iter().copied()), HashSet::<Key>::from_iter(keys.iter().copied()));
            let cells = Cells::of(entries.iter().copied()).expect("not too many");
            let count = cells.buckets.len() * BUCKET;
            assert!(count <= (4 * keys.len()).max(256), "{count} cells for {}", keys.len());
            for (key, entry) in &entries {
                assert_eq!(cells.get(*key), Some(entry));
                for other in [1 << 32, 1 << Key::BLOCK, 1 << 8, 1].map(|bit| Key(key.0 ^ bit)) {
                    assert_eq!(cells.get(other).is_some(), known.contains(&other), "its neighbour {other:?}");
                }
            }
            assert_eq!(cells.iter().flatten().flatten().count(), keys.len());
        }
    }

    #[test]
    fn most_keys_are_in_their_first_bucket_and_a_subjects_in_one_page() {
        let keys = (0..8_000).flat_map(|id| [25, 80, 443, 993].map(|port| Key::new(1, Transport::Tcp, port, id)));
        let keys: Vec<Key> = keys.collect();
        let cells = Cells::of(entries(keys.iter().copied()).into_iter()).expect("not too many");
        assert_eq!(cells.buckets.len(), 1 << 14, "as full as it gets");
        let is_first = |key: &&Key| cells.buckets[cells.places(**key)[0]].iter().flatten().any(|cell| cell.0 == **key);
        let first = keys.iter().filter(is_first).count();
        assert!(first >= keys.len() * 9 / 10, "only {first} of {} are in their first bucket", keys.len());
        let page = |key: Key| cells.places(key)[0] >> PAGE;
        assert!(keys.chunks(4).all(|keys| keys.iter().all(|key| page(*key) == page(keys[0]))));
    }

    /// The program in the kernel computes the same numbers. If they change here, they must change there.
    #[test]
    fn a_key_has_its_buckets() {
        let table = Cells { buckets: Vec::new(), bits: 12 };
        let key = |table, port| Key::new(table, Transport::Udp, port, 1000);
        assert_eq!(
            [key(1, 80), key(1, 81), key(5, 1104)].map(|key| table.places(key)),
            [[3380, 3462], [3381, 3131], [891, 1518]]
        );
    }

    #[test]
    fn the_table_grows_if_a_key_does_not_fit() {
        let keys = (0..).map(Key).filter(|&key| Cells::default().places(key) == [1, 3]).take(2 * BUCKET + 1);
        let entries = entries(keys);
        assert!(Cells::with(FEWEST, entries[1..].iter().copied()).is_some(), "as many keys as two buckets have cells");
        assert_eq!(Cells::with(FEWEST, entries.iter().copied()), None, "and one more");
        let cells = Cells::of(entries.iter().copied()).expect("a larger one");
        assert!(entries.iter().all(|(key, entry)| cells.get(*key) == Some(entry)));
    }
}
