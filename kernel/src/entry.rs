//! The elements of the tables: verdicts, and the keys of their entries.

use crate::projection::Transport;
use portgrant_policy::{Effect, Rule};

/// How many ports a block of each size has, as bits; each has a table for each kind of subject.
pub const BLOCK_BITS: [u8; 4] = [0, 4, 8, 12];

/// The verdict of a rule, or of several rules, about a bind. The smaller one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Verdict(pub i64);

/// The place of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which of the policy's files
    pub file: usize,
    /// Which line, from 1
    pub line: usize,
}

/// A key of the hash: a table, a protocol, a block of ports and an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u64);

/// The entry of a subject at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The decision if there is no set
    pub verdict: Verdict,
    /// The set of addresses that decides
    pub set: Option<Set>,
}

/// A set of addresses: where its boundaries are among all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Set {
    /// The first
    pub first: u32,
    /// Half of their number, which is a power of two
    pub half: u32,
}

impl Verdict {
    /// A deny; less than every other verdict.
    pub const DENY: Verdict = Verdict(-1);
    /// No rule applies; more than every other verdict.
    pub const NOTHING: Verdict = Verdict(i64::MAX);

    pub(crate) fn of(rule: &Rule) -> Verdict {
        match rule.effect {
            Effect::Deny => Verdict::DENY,
            // A file has less than 2^24 lines, as it has at most 16 MiB, and there are less than 2^31 files.
            Effect::Permit => Verdict((rule.file as i64) << 32 | rule.line as i64),
        }
    }

    /// The rule that permits, if one does.
    #[must_use]
    pub fn permits(self) -> Option<Place> {
        let place = u64::try_from(self.0).ok().filter(|_| self != Verdict::NOTHING)?;
        Some(Place { file: (place >> 32) as usize, line: (place & 0xffff_ffff) as usize })
    }
}

impl Key {
    /// The first of the tables of users, one for each size of block.
    pub const UIDS: u8 = 1;
    /// The first of the tables of gids.
    pub const GIDS: u8 = 5;
    /// The first of the tables of subordinate uids, by class.
    pub const SUBORDINATE_UIDS: u8 = 9;
    /// The first of the tables of subordinate gids, by class.
    pub const SUBORDINATE_GIDS: u8 = 13;
    /// The position of the block in the number, in bits.
    pub const BLOCK: u32 = 16;

    /// The lower `bits` of the block.
    #[must_use]
    pub const fn below(bits: u32) -> u64 {
        ((1 << bits) - 1) << Key::BLOCK
    }

    /// The key of block `block` in `table`, for `id`.
    #[must_use]
    pub fn new(table: u8, transport: Transport, block: u16, id: u32) -> Key {
        let protocol = u64::from(protocol(transport));
        Key(u64::from(table) | protocol << 8 | u64::from(block) << Key::BLOCK | u64::from(id) << 32)
    }
}

/// The number of a protocol (protocols(5)).
#[must_use]
pub fn protocol(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => 6,
        Transport::Udp => 17,
    }
}

impl Entry {
    /// No rule applies
    pub const NOTHING: Entry = Entry { verdict: Verdict::NOTHING, set: None };
}

impl Set {
    /// The range of its boundaries.
    #[must_use]
    pub fn range(self) -> std::ops::Range<usize> {
        let (first, half) = (self.first as usize, self.half as usize);
        first..first + 2 * half
    }
}
