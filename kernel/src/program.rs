//! The program that the kernel runs at each bind(2), for `cgroup/bind4` and `cgroup/bind6` alike.
//!
//! It returns [`GRANT`] for what the policy permits to this caller in the one network namespace that it was made for, and
//! [`PASS`] for everything else: it never takes away what the kernel would have allowed. Wherever something is missing or
//! unknown, that is [`PASS`].
//!
//! One generation of the policy is one inner map, and which one it is, is read once ([`Maps::policy`]): all that is read
//! afterwards hangs on it. What is compared is what [`crate::tables`] describes; `Tables::verdict` does the same lookups.
//!
//! It stores as little on its stack as it can: for a loader without CAP_PERFMON the kernel puts a barrier behind the first
//! store to each place there (against Spectre variant 4), and these were half of what a grant cost.

use portgrant_binder::policy::bind::Transport;

use crate::assembly::{Assembly, Helper, If, Instruction, Register, Width};
use crate::tables::{BLOCK_BITS, Key, Verdict, index, protocol};

use Register::{R0, R1, R2, R3, R6, R7, R8, R9, Stack};
use Width::{Byte, Double, Half, Word};

/// Nothing is changed: the kernel decides as if there were no program.
pub const PASS: i32 = 1;
/// Allowed, and CAP_NET_BIND_SERVICE is not asked for (Linux 5.12).
pub const GRANT: i32 = 3;

/// The maps' descriptors.
#[derive(Debug, Clone, Copy)]
pub struct Maps {
    /// An array of one map: the ports of the generation in force
    pub policy: i32,
    /// An array of two maps: the hash of an even generation and of an odd one
    pub rules: i32,
    /// The same of the tries
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

/// A value of the hash, and what a port's value begins with; offsets in bytes.
pub mod value {
    /// i64: what is decided where no set is
    pub const VERDICT: i16 = 0;
    /// u32
    pub const SET: i16 = 8;
    /// Of all, with 4 bytes unused
    pub const SIZE: usize = 16;
}

/// A port's value, offsets in bytes: what holds for anybody, and this.
pub mod port {
    /// u32
    pub const TABLES: i16 = 16;
    /// u32: the generation that all of this is of, or 0 where nobody has the port
    pub const GENERATION: i16 = 20;
    /// u32: where the generation's other maps are, 0 or 1
    pub const SLOT: i16 = 24;
    /// u32: the sole user's uid, where there is one
    pub const SOLE_UID: i16 = 28;
    /// As in [`super::value`]: what holds for that user
    pub const SOLE: i16 = 32;
    /// Of all
    pub const SIZE: usize = 48;
    /// In the tables' bits: there is a sole user
    pub const HAS_SOLE: u32 = 1 << 8;
}

/// A key of the trie, offsets in bytes.
pub mod trie {
    /// u32: how many bits of what follows count; behind it, u32, the set
    pub const LENGTH: i16 = 0;
    /// 16 bytes
    pub const ADDRESS: i16 = 8;
    /// Of all
    pub const SIZE: i16 = 24;
    /// The bits of a set and of an address
    pub const BITS: u32 = 32 + 128;
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
    /// Grants for which the ring buffer had no room
    pub const UNLOGGED: i32 = 0;
    /// Requests for a port that somebody has, by somebody who has it not
    pub const PASSED: i32 = 8;
    /// No count: a key that is always 0
    pub const ZERO: i32 = 16;
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
    use super::trie;

    pub(super) const INDEX: i16 = -8;
    pub(super) const KEY: i16 = -16;
    pub(super) const TRIE_KEY: i16 = KEY - trie::SIZE;
}

/// Writes the program for binds of `family` in the network namespace of `cookie`.
///
/// Throughout: R6 the context, R7 the least verdict so far, R8 the port's entry, R9 the hash once it is needed.
#[must_use]
pub fn program(maps: Maps, family: Family, cookie: u64) -> Vec<Instruction> {
    let mut code = Assembly::default();
    request(&mut code);
    generation(&mut code, maps);
    port(&mut code);
    network_namespace(&mut code, cookie);
    anybody(&mut code);
    consider(&mut code, maps, family, "anybody");
    sole_user(&mut code);
    subject(&mut code, maps, family, "user", Key::UIDS);
    subject(&mut code, maps, family, "group", Key::GIDS);
    grant(&mut code, maps, family);

    code.label("refused");
    count(&mut code, maps, counter::PASSED);
    code.label("pass");
    code.exit(PASS);
    code.finish()
}

/// Which protocol (mptcp binds a tcp socket), and which port, as an index of the ports; 0 lets the kernel choose one.
fn request(code: &mut Assembly) {
    code.copy(R6, R1);
    code.load(Word, R2, R6, context::USER_PORT);
    code.jump_if(R2, If::Equal, 0, "pass");
    code.network_order_16(R2);
    code.load(Word, R1, R6, context::PROTOCOL);
    code.jump_if(R1, If::Equal, protocol(Transport::Tcp).into(), "known");
    code.jump_if(R1, If::Differs, protocol(Transport::Udp).into(), "pass");
    code.or_number(R2, index(Transport::Udp, 0).cast_signed());
    code.label("known");
    code.store(Word, Stack, stack::INDEX, R2);
}

/// The one look at which generation is in force.
fn generation(code: &mut Assembly, maps: Maps) {
    code.set_map(R1, maps.policy);
    code.set_map_value(R2, maps.counters, counter::ZERO);
    lookup(code, "pass");
    code.copy(R1, R0);
}

/// Whether anybody has this port: most binds end here.
fn port(code: &mut Assembly) {
    on_stack(code, stack::INDEX);
    lookup(code, "pass");
    code.load(Word, R1, R0, port::GENERATION);
    code.jump_if(R1, If::Equal, 0, "pass");
    code.copy(R8, R0);
}

/// The socket's namespace; a program at the root of all cgroups meets those of every container.
fn network_namespace(code: &mut Assembly, cookie: u64) {
    code.copy(R1, R6);
    code.call(Helper::NetnsCookie);
    code.set_wide(R1, cookie);
    code.jump_if_register(R0, If::Differs, R1, "pass");
}

/// What holds for anybody stands where the port's entry begins.
fn anybody(code: &mut Assembly) {
    code.set_wide(R7, Verdict::NOTHING.0.cast_unsigned());
    code.copy(R0, R8);
}

/// Takes the verdict of the entry in R0 into account: a deny ends it, of permits the first in the policy counts.
fn consider(code: &mut Assembly, maps: Maps, family: Family, who: &str) {
    code.load(Double, R1, R0, value::VERDICT);
    code.load(Word, R2, R0, value::SET);
    code.jump_if(R2, If::Equal, 0, &format!("{who}: no set"));

    code.copy(R1, R2);
    store_words(code, Stack, stack::TRIE_KEY + trie::LENGTH, trie::BITS);
    address(code, family, Stack, stack::TRIE_KEY + trie::ADDRESS);
    code.set_map(R1, maps.addresses);
    at_entry(code, port::SLOT);
    lookup(code, "refused");
    code.copy(R1, R0);
    on_stack(code, stack::TRIE_KEY);
    lookup(code, &format!("{who}: done"));
    code.load(Double, R1, R0, 0);

    code.label(&format!("{who}: no set"));
    code.jump_if(R1, If::Less, 0, "refused");
    code.jump_if_register(R1, If::AtLeast, R7, &format!("{who}: done"));
    code.copy(R7, R1);
    code.label(&format!("{who}: done"));
}

/// Writes the address to `base` + `offset` as the trie has it, IPv4 as `::ffff:a.b.c.d`, in the network's order. R1 and R2
/// are lost.
fn address(code: &mut Assembly, family: Family, base: Register, offset: i16) {
    if family == Family::V4 {
        code.store_number(Double, base, offset, 0);
        code.load(Word, R1, R6, context::USER_IP4);
        store_words(code, base, offset + 8, u32::from_ne_bytes([0, 0, 0xff, 0xff]));
        return;
    }
    for half in [0, 8] {
        code.load(Double, R1, R6, context::USER_IP6 + half);
        code.store(Double, base, offset + half, R1);
    }
}

/// Writes `first` to `base` + `offset` and the word in R1 behind it, in one store. R1 and R2 are lost.
fn store_words(code: &mut Assembly, base: Register, offset: i16, first: u32) {
    let first_is_lower = cfg!(target_endian = "little");
    if first_is_lower {
        code.shift_left(R1, 32);
    }
    code.set_wide(R2, u64::from(first) << if first_is_lower { 0 } else { 32 });
    code.or(R1, R2);
    code.store(Double, base, offset, R1);
}

/// The sole user of the port, where it has one; others go to what groups have.
fn sole_user(code: &mut Assembly) {
    code.load(Word, R1, R8, port::TABLES);
    code.and_number(R1, port::HAS_SOLE.cast_signed());
    code.jump_if(R1, If::Equal, 0, "several users");
    code.call(Helper::CurrentIds);
    code.load(Word, R1, R8, port::SOLE_UID);
    code.copy_lower(R0, R0);
    code.jump_if_register(R0, If::Differs, R1, "user: done");
    code.copy(R0, R8);
    code.add(R0, port::SOLE.into());
    code.jump("user: found");
    code.label("several users");
}

/// The entry of this subject, if there is one: in one table at most, among those that have something at this port.
fn subject(code: &mut Assembly, maps: Maps, family: Family, who: &str, first_table: u8) {
    let tables = (first_table..).zip(BLOCK_BITS);
    code.load(Word, R1, R8, port::TABLES);
    code.and_number(R1, tables.clone().map(|(table, _)| 1 << (table - 1)).sum());
    code.jump_if(R1, If::Equal, 0, &format!("{who}: done"));
    rules(code, maps);
    for (table, bits) in tables {
        let next = format!("{who}: after table {table}");
        code.load(Word, R1, R8, port::TABLES);
        code.and_number(R1, 1 << (table - 1));
        code.jump_if(R1, If::Equal, 0, &next);
        code.call(Helper::CurrentIds);
        if first_table == Key::GIDS {
            code.shift_right(R0, 32);
        }
        code.copy(R1, R0);
        code.shift_left(R1, 32);
        code.shift_right(R1, 16);
        code.load(Word, R2, R6, context::USER_PORT);
        code.network_order_16(R2);
        code.shift_right(R2, bits.into());
        code.or(R1, R2);
        find(code, table, &next);
        code.jump(&format!("{who}: found"));
        code.label(&next);
    }
    code.jump(&format!("{who}: done"));
    code.label(&format!("{who}: found"));
    consider(code, maps, family, who);
}

/// R9 becomes the hash of this very generation.
fn rules(code: &mut Assembly, maps: Maps) {
    code.set_map(R1, maps.rules);
    at_entry(code, port::SLOT);
    lookup(code, "refused");
    code.copy(R9, R0);
}

/// R0 becomes the entry in `table`, of the id and block in R1 (the block in its lower 16 bits); without one, goes to
/// `missing`.
fn find(code: &mut Assembly, table: u8, missing: &str) {
    code.load(Word, R2, R6, context::PROTOCOL);
    code.shift_left(R2, 8);
    code.shift_left(R1, 16);
    code.or(R1, R2);
    code.or_number(R1, table.into());
    code.store(Double, Stack, stack::KEY, R1);
    code.copy(R1, R9);
    on_stack(code, stack::KEY);
    lookup(code, missing);
}

/// A permit, if there is one: recorded, counted, granted. A record that finds no room delays nobody.
fn grant(code: &mut Assembly, maps: Maps, family: Family) {
    code.set_wide(R1, Verdict::NOTHING.0.cast_unsigned());
    code.jump_if_register(R7, If::Equal, R1, "refused");

    code.set_map(R1, maps.grants);
    code.set(R2, record::SIZE.into());
    code.set(R3, 0);
    code.call(Helper::RingReserve);
    code.jump_if(R0, If::Equal, 0, "no room");
    code.copy(R9, R0);
    code.store(Double, R9, record::VERDICT, R7);
    code.call(Helper::CurrentIds);
    code.store(Word, R9, record::UID, R0);
    code.shift_right(R0, 32);
    code.store(Word, R9, record::GID, R0);
    code.call(Helper::CurrentPid);
    code.shift_right(R0, 32);
    code.store(Word, R9, record::PID, R0);
    code.load(Word, R1, R8, port::GENERATION);
    code.store(Word, R9, record::GENERATION, R1);
    code.store_number(Double, R9, record::PORT, 0);
    code.load(Word, R1, R6, context::USER_PORT);
    code.network_order_16(R1);
    code.store(Half, R9, record::PORT, R1);
    code.load(Word, R1, R6, context::PROTOCOL);
    code.store(Byte, R9, record::PROTOCOL, R1);
    address(code, family, R9, record::ADDRESS);
    code.copy(R1, R9);
    code.set(R2, 0);
    code.call(Helper::RingSubmit);
    code.exit(GRANT);

    code.label("no room");
    count(code, maps, counter::UNLOGGED);
    code.exit(GRANT);
}

/// R0 becomes what the map in R1 has for the key at R2; where it has nothing, goes to `missing`.
fn lookup(code: &mut Assembly, missing: &str) {
    code.call(Helper::MapLookup);
    code.jump_if(R0, If::Equal, 0, missing);
}

fn on_stack(code: &mut Assembly, offset: i16) {
    code.copy(R2, Stack);
    code.add(R2, offset.into());
}

fn at_entry(code: &mut Assembly, offset: i16) {
    code.copy(R2, R8);
    code.add(R2, offset.into());
}

fn count(code: &mut Assembly, maps: Maps, counter: i32) {
    code.set_map_value(R1, maps.counters, counter);
    code.set(R2, 1);
    code.add_atomically(R1, R2);
}
