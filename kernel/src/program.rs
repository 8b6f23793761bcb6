//! The program that the kernel runs at each bind(2), for `cgroup/bind4` and `cgroup/bind6` alike.
//!
//! It returns [`GRANT`] for what the policy permits to this caller in the one network namespace that it was made for, and
//! [`PASS`] for everything else: it never takes away what the kernel would have allowed. Wherever something is missing or
//! unknown, that is [`PASS`].
//!
//! One generation of the policy is one inner map, and which one it is, is read once ([`Maps::policy`]): all that is read
//! afterwards hangs on it. What is compared is what [`crate::tables`] describes; `Tables::verdict` does the same lookups.

use crate::assembly::{Assembly, Helper, If, Instruction, Register, Width};
use crate::tables::{BLOCK_BITS, Key, Verdict};

use Register::{R0, R1, R2, R3, R4, R6, R7, R8, R9, Stack};
use Width::{Byte, Double, Half, Word};

/// Nothing is changed: the kernel decides as if there were no program.
pub const PASS: i32 = 1;
/// Allowed, and CAP_NET_BIND_SERVICE is not asked for (Linux 5.12).
pub const GRANT: i32 = 3;

/// The maps' descriptors.
#[derive(Debug, Clone, Copy)]
pub struct Maps {
    /// An array of one map: the hash of the generation in force
    pub policy: i32,
    /// An array of two maps: the trie of an even generation and of an odd one
    pub addresses: i32,
    /// The ring buffer of grants
    pub grants: i32,
    /// An array of one value, [`counter`]
    pub counters: i32,
}

/// Which family's bind(2) it is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// AF_INET
    V4,
    /// AF_INET6
    V6,
}

/// A value of the hash, offsets in bytes.
pub mod value {
    /// i64: what is decided where no set is
    pub const VERDICT: i16 = 0;
    /// u32
    pub const SET: i16 = 8;
    /// u32
    pub const TABLES: i16 = 12;
    /// u32: the generation that all of this is of
    pub const GENERATION: i16 = 16;
    /// Of all
    pub const SIZE: usize = 24;
}

/// A key of the trie, offsets in bytes.
pub mod trie {
    /// u32: how many bits of what follows count
    pub const LENGTH: i16 = 0;
    /// u32
    pub const SET: i16 = 4;
    /// 16 bytes
    pub const ADDRESS: i16 = 8;
    /// Of all
    pub const SIZE: i16 = 24;
    /// The bits of a set and of an address
    pub const BITS: i32 = 32 + 128;
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

/// What is counted, each 8 bytes.
pub mod counter {
    /// Grants
    pub const GRANTED: i32 = 0;
    /// Grants for which the ring buffer had no room
    pub const UNLOGGED: i32 = 8;
    /// Requests for a port that somebody has, by somebody who has it not
    pub const PASSED: i32 = 16;
    /// Of all
    pub const SIZE: usize = 24;
}

/// `struct bpf_sock_addr`, offsets in bytes.
mod context {
    pub(super) const USER_IP4: i16 = 4;
    pub(super) const USER_IP6: i16 = 8;
    pub(super) const USER_PORT: i16 = 24;
    pub(super) const PROTOCOL: i16 = 36;
}

/// Where things lie on the stack.
mod stack {
    use super::{record, trie};

    pub(super) const INDEX: i16 = -4;
    pub(super) const TABLES: i16 = -8;
    pub(super) const KEY: i16 = -16;
    pub(super) const TRIE_KEY: i16 = KEY - trie::SIZE;
    pub(super) const RECORD: i16 = TRIE_KEY - record::SIZE;
}

/// Writes the program for binds of `family` in the network namespace of `cookie`.
///
/// Throughout: R6 the context, R7 the part of a key that never changes, R8 the port, R9 the generation's hash. The best
/// verdict so far lies in the record.
#[must_use]
pub fn program(maps: Maps, family: Family, cookie: u64) -> Vec<Instruction> {
    let mut code = Assembly::default();
    request(&mut code);
    network_namespace(&mut code, cookie);
    generation(&mut code, maps);
    port(&mut code);
    address(&mut code, family);
    consider(&mut code, maps, "anybody");
    ids(&mut code);
    subject(&mut code, maps, "user", Key::UIDS, record::UID);
    subject(&mut code, maps, "group", Key::GIDS, record::GID);
    grant(&mut code, maps);

    code.label("refused");
    count(&mut code, maps, counter::PASSED);
    code.label("pass");
    code.exit(PASS);
    code.finish()
}

/// Which protocol (mptcp binds a tcp socket), and which port; 0 lets the kernel choose one.
fn request(code: &mut Assembly) {
    code.copy(R6, R1);
    code.load(Word, R7, R6, context::PROTOCOL);
    code.jump_if(R7, If::Equal, 6, "known");
    code.jump_if(R7, If::Differs, 17, "pass");
    code.label("known");
    code.load(Word, R8, R6, context::USER_PORT);
    code.network_order_16(R8);
    code.jump_if(R8, If::Equal, 0, "pass");
}

/// The socket's namespace; a program at the root of all cgroups meets those of every container.
fn network_namespace(code: &mut Assembly, cookie: u64) {
    code.copy(R1, R6);
    code.call(Helper::NetnsCookie);
    code.set_wide(R1, cookie);
    code.jump_if_register(R0, If::Differs, R1, "pass");
}

/// The one look at which generation is in force.
fn generation(code: &mut Assembly, maps: Maps) {
    code.store_number(Word, Stack, stack::INDEX, 0);
    code.set_map(R1, maps.policy);
    lookup(code, stack::INDEX, "pass");
    code.copy(R9, R0);
}

/// Whether anybody has this port: most binds end here. R7 becomes protocol and port as a key has them, R0 the entry.
fn port(code: &mut Assembly) {
    code.shift_left(R7, 8);
    code.copy(R1, R8);
    code.shift_left(R1, 16);
    code.or(R1, R7);
    code.store(Double, Stack, stack::KEY, R1);
    code.copy(R1, R9);
    lookup(code, stack::KEY, "pass");
    code.load(Word, R1, R0, value::TABLES);
    code.store(Word, Stack, stack::TABLES, R1);
    code.load(Word, R1, R0, value::GENERATION);
    code.store(Word, Stack, stack::RECORD + record::GENERATION, R1);
    code.set_wide(R1, Verdict::NOTHING.0.cast_unsigned());
    code.store(Double, Stack, stack::RECORD + record::VERDICT, R1);
}

/// The address as the trie has it, IPv4 as `::ffff:a.b.c.d`, in the network's order.
fn address(code: &mut Assembly, family: Family) {
    let at = |word: i16| stack::TRIE_KEY + trie::ADDRESS + 4 * word;
    code.store_number(Word, Stack, stack::TRIE_KEY + trie::LENGTH, trie::BITS);
    if family == Family::V4 {
        code.store_number(Double, Stack, at(0), 0);
        code.store_number(Word, Stack, at(2), i32::from_ne_bytes([0, 0, 0xff, 0xff]));
        code.load(Word, R1, R6, context::USER_IP4);
        code.store(Word, Stack, at(3), R1);
        return;
    }
    for word in 0..4 {
        code.load(Word, R1, R6, context::USER_IP6 + 4 * word);
        code.store(Word, Stack, at(word), R1);
    }
}

/// Takes the verdict of the entry in R0 into account: a deny ends it, of permits the first in the policy counts.
fn consider(code: &mut Assembly, maps: Maps, who: &str) {
    code.load(Double, R1, R0, value::VERDICT);
    code.load(Word, R2, R0, value::SET);
    code.jump_if(R2, If::Equal, 0, &format!("{who}: no set"));

    code.store(Word, Stack, stack::TRIE_KEY + trie::SET, R2);
    code.load(Word, R1, Stack, stack::RECORD + record::GENERATION);
    code.and_number(R1, 1);
    code.store(Word, Stack, stack::INDEX, R1);
    code.set_map(R1, maps.addresses);
    lookup(code, stack::INDEX, "refused");
    code.copy(R1, R0);
    lookup(code, stack::TRIE_KEY, &format!("{who}: done"));
    code.load(Double, R1, R0, 0);

    code.label(&format!("{who}: no set"));
    code.jump_if(R1, If::Less, 0, "refused");
    code.load(Double, R2, Stack, stack::RECORD + record::VERDICT);
    code.jump_if_register(R1, If::AtLeast, R2, &format!("{who}: done"));
    code.store(Double, Stack, stack::RECORD + record::VERDICT, R1);
    code.label(&format!("{who}: done"));
}

/// The real ids, into the record.
fn ids(code: &mut Assembly) {
    code.call(Helper::CurrentIds);
    code.store(Word, Stack, stack::RECORD + record::UID, R0);
    code.shift_right(R0, 32);
    code.store(Word, Stack, stack::RECORD + record::GID, R0);
}

/// The entry of this subject, if there is one: in one table at most, among those that have something at this port.
fn subject(code: &mut Assembly, maps: Maps, who: &str, first_table: u8, id: i16) {
    for (table, bits) in (first_table..).zip(BLOCK_BITS) {
        let next = format!("{who}: after table {table}");
        code.load(Word, R1, Stack, stack::TABLES);
        code.and_number(R1, 1 << (table - 1));
        code.jump_if(R1, If::Equal, 0, &next);
        code.load(Word, R1, Stack, stack::RECORD + id);
        code.shift_left(R1, 16);
        code.copy(R2, R8);
        code.shift_right(R2, bits.into());
        code.or(R1, R2);
        code.shift_left(R1, 16);
        code.or(R1, R7);
        code.or_number(R1, table.into());
        code.store(Double, Stack, stack::KEY, R1);
        code.copy(R1, R9);
        lookup(code, stack::KEY, &next);
        code.jump(&format!("{who}: found"));
        code.label(&next);
    }
    code.jump(&format!("{who}: none"));
    code.label(&format!("{who}: found"));
    consider(code, maps, who);
    code.label(&format!("{who}: none"));
}

/// A permit, if there is one: recorded, counted, granted. A record that finds no room delays nobody.
fn grant(code: &mut Assembly, maps: Maps) {
    let at = |offset| stack::RECORD + offset;
    code.load(Double, R1, Stack, at(record::VERDICT));
    code.set_wide(R2, Verdict::NOTHING.0.cast_unsigned());
    code.jump_if_register(R1, If::Equal, R2, "refused");

    code.call(Helper::CurrentPid);
    code.shift_right(R0, 32);
    code.store(Word, Stack, at(record::PID), R0);
    code.store_number(Double, Stack, at(record::PORT), 0);
    code.store(Half, Stack, at(record::PORT), R8);
    code.shift_right(R7, 8);
    code.store(Byte, Stack, at(record::PROTOCOL), R7);
    for half in [0, 8] {
        code.load(Double, R1, Stack, stack::TRIE_KEY + trie::ADDRESS + half);
        code.store(Double, Stack, at(record::ADDRESS) + half, R1);
    }
    code.set_map(R1, maps.grants);
    code.copy(R2, Stack);
    code.add(R2, stack::RECORD.into());
    code.set(R3, record::SIZE.into());
    code.set(R4, 0);
    code.call(Helper::RingOutput);
    code.jump_if(R0, If::Equal, 0, "logged");
    count(code, maps, counter::UNLOGGED);
    code.label("logged");
    count(code, maps, counter::GRANTED);
    code.exit(GRANT);
}

/// R0 becomes what the map in R1 has for the key on the stack; where it has nothing, goes to `missing`.
fn lookup(code: &mut Assembly, key: i16, missing: &str) {
    code.copy(R2, Stack);
    code.add(R2, key.into());
    code.call(Helper::MapLookup);
    code.jump_if(R0, If::Equal, 0, missing);
}

fn count(code: &mut Assembly, maps: Maps, counter: i32) {
    code.set_map_value(R1, maps.counters, counter);
    code.set(R2, 1);
    code.add_atomically(R1, R2);
}
