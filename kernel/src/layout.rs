//! The layout of the values in the maps that the program in the kernel reads and writes ([`crate::program`]), in this
//! machine's byte order.

/// The outcome for a subject at a port, i64: a verdict, or if a set of addresses decides, a number less than all
/// verdicts.
pub mod outcome {
    /// The bit that marks a set. Half of the number of its groups is in the bits from 32 on, the number of its first
    /// group below
    pub const SET: u64 = 1 << 63;
    /// Of an outcome, in bytes
    pub const SIZE: usize = 8;
}

/// A port's value, one cache line; offsets in bytes.
pub mod port {
    use super::outcome;
    use crate::tables::FEW;

    /// The outcome for anybody
    pub const ANYBODY: i16 = 0;
    /// u32: the generation of this value, or 0 if no user has the port
    pub const GENERATION: i16 = 8;
    /// u32
    pub const TABLES: i16 = 12;
    /// u32: the number of the first bucket
    pub const BUCKETS: i16 = 16;
    /// u32: how many lower bits of a hash are not used
    pub const SHIFT: i16 = 20;
    /// u32 each: the few users
    pub const UIDS: i16 = 24;
    /// u32: the generation's first group of boundaries; in the lower [`group::MOST_STEPS`](super::group::MOST_STEPS)
    /// bits, half of the number of groups for subordinate ids
    pub const CLASSES: i16 = 36;
    /// The outcome for each of them
    pub const OUTCOMES: i16 = 40;
    /// Of all
    pub const SIZE: usize = OUTCOMES as usize + FEW * outcome::SIZE;
}

/// A bucket of the hash, one cache line; offsets in bytes. It has cells, each a key and its outcome.
pub mod bucket {
    use super::{Pages, outcome};
    use crate::cells::BUCKET;

    /// In a cell, u64: the key, or 0 if the cell is empty
    pub const KEY: i16 = 0;
    /// In a cell
    pub const OUTCOME: i16 = 8;
    /// Of a cell
    pub const CELL: usize = 8 + outcome::SIZE;
    /// Of all
    pub const SIZE: usize = BUCKET * CELL;
    /// Where they are
    pub const PAGES: Pages = Pages { bits: 14, most: 128 };
}

/// Some neighbouring boundaries of a set, offsets in bytes.
pub mod group {
    use super::Pages;
    use crate::addresses::GROUP;

    /// In a boundary, u64 and u64: the upper and lower half of the address where the interval begins
    pub const START: i16 = 0;
    /// In a boundary, i64
    pub const VERDICT: i16 = 16;
    /// Of a boundary
    pub const BOUNDARY: i16 = 24;
    /// Of all
    pub const SIZE: usize = (BOUNDARY as usize) * GROUP;
    /// Where they are
    pub const PAGES: Pages = Pages { bits: 14, most: 64 };
    /// The most steps of a search among a set's groups
    pub const MOST_STEPS: u32 = 20;
}

/// How rows are kept. A row's number is the number of its page, and in the lower bits its index in the page. The pages
/// of even generations are in the first half of the map of pages, those of odd ones in the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pages {
    /// How many bits of a row's number choose the row within its page
    pub bits: u32,
    /// How many pages each of the two generations has at most
    pub most: u32,
}

/// A record of a grant, offsets in bytes.
pub mod record {
    /// i64: the rule that permits
    pub const VERDICT: i16 = 0;
    /// u32
    pub const UID: i16 = 8;
    /// u32
    pub const GID: i16 = 12;
    /// u32
    pub const PID: i16 = 16;
    /// u32
    pub const GENERATION: i16 = 20;
    /// u16, this machine's order
    pub const PORT: i16 = 24;
    /// u8
    pub const PROTOCOL: i16 = 26;
    /// 16 bytes
    pub const ADDRESS: i16 = 32;
    /// Of all
    pub const SIZE: i16 = 48;
}

/// The ring buffer of the records, in bytes.
pub mod ring {
    use super::record;
    use crate::bpf::RECORD_HEADER;

    /// Its size: some 18,000 records
    pub const SIZE: u32 = 1 << 20;
    /// BPF_RB_AVAIL_DATA: how many bytes are unread
    pub const WAITING: i32 = 0;
    /// From this number of bytes on there is no room for another record
    pub const FULL: i32 = (SIZE - RECORD_HEADER).cast_signed() - record::SIZE as i32;
}

/// The counters, 8 bytes each.
pub mod counter {
    /// Grants for which the ring buffer had no room
    pub const UNLOGGED: i32 = 0;
    /// Refused requests for a port that another user is permitted
    pub const PASSED: i32 = 8;
    /// Not a counter: a key that is always 0
    pub const ZERO: i32 = 16;
    /// Not a counter: whether there was no room for the last record
    pub const FULL: i32 = 24;
    /// Of all
    pub const SIZE: usize = 32;
}
