//! The program that the kernel runs at each bind(2), for `cgroup/bind4` and `cgroup/bind6` alike.
//!
//! It returns [`GRANT`] for what the policy permits to this caller in the one network namespace that it was made for, and
//! [`PASS`] for everything else: it never takes away what the kernel would have allowed. Wherever something is missing or
//! unknown, that is [`PASS`].
//!
//! Which generation of the policy is in force is read once ([`Maps::policy`], its ports): all that is read afterwards hangs on
//! that. What is compared is what [`crate::tables`] describes; `Tables::verdict` does the same lookups.
//!
//! It calls the kernel for nothing but ids, the network namespace and the record: a look into an array is a few instructions
//! of its own, while into a hash or a trie of the kernel's it is calls, each of which cost more than the whole search here.

use portgrant_binder::policy::bind::Transport;

use crate::assembly::{Assembly, Helper, If, Instruction, Register, Width};
use crate::cells::{HASHES, MIX};
use crate::entry::{BLOCK_BITS, Key, Verdict, protocol};
use crate::tables::index;

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
    /// An array of maps: the pages of [`row`]s of both generations
    pub pages: i32,
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

/// What holds for a subject at a port, offsets in bytes.
pub mod entry {
    /// i64: what is decided where no set is
    pub const VERDICT: i16 = 0;
    /// u32: the row of the set's first boundary, or 0 where no set is
    pub const FIRST: i16 = 8;
    /// u32: half of how many it has
    pub const HALF: i16 = 12;
    /// Of all
    pub const SIZE: usize = 16;
}

/// A port's value, offsets in bytes: the entry of anybody, and this.
pub mod port {
    /// u32
    pub const TABLES: i16 = 16;
    /// u32: the generation that all of this is of, or 0 where nobody has the port
    pub const GENERATION: i16 = 20;
    /// u32: the row of the first cell
    pub const CELLS: i16 = 24;
    /// u32: how many lower bits of a hash do not count
    pub const SHIFT: i16 = 28;
    /// u32: the sole user's uid, where there is one; 4 bytes unused
    pub const SOLE_UID: i16 = 32;
    /// The entry of that user
    pub const SOLE: i16 = 40;
    /// Of all
    pub const SIZE: usize = 56;
    /// In the tables' bits: there is a sole user
    pub const HAS_SOLE: u32 = 1 << 8;
}

/// A row, of either kind, offsets in bytes. The number of a row is that of its page and, in the lower bits, which one it is
/// there. A generation's rows, its cells first and then all its boundaries, are in the half of the pages that is its own.
pub mod row {
    /// A cell: u64, the key, or 0 of an empty one
    pub const KEY: i16 = 0;
    /// A cell: the entry
    pub const ENTRY: i16 = 8;
    /// A boundary: u64 and u64, the upper and lower half of the address
    pub const START: i16 = 0;
    /// A boundary: i64
    pub const VERDICT: i16 = 16;
    /// Of either
    pub const SIZE: usize = 24;
    /// How many bits of a row's number tell which one of its page it is
    pub const PAGE_BITS: u32 = 16;
    /// How many pages each of the two generations has at most
    pub const PAGES: u32 = 512;
    /// How many steps the search in a set takes at most: so many bits has half of its boundaries
    pub const MOST_STEPS: u32 = 22;
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
    /// u32: where a lookup looks. All that is on the stack, and in the upper half of its place: behind the first store to
    /// each place, and behind each into a lower half alone, the kernel puts a barrier (against Spectre variant 4), as this
    /// program is loaded without CAP_PERFMON.
    pub(super) const INDEX: i16 = -4;
}

/// Sets whose half is less than this power of two skip the steps that only larger ones need.
const SMALL: u32 = 5;

/// Writes the program for binds of `family` in the network namespace of `cookie`.
///
/// Throughout: R6 the context, R7 the least verdict so far, R8 the port's entry, R9 what is looked for.
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
    code.network_order(Half, R2);
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
    let [no_set, done] = ["no set", "done"].map(|place| format!("{who}: {place}"));
    code.load(Double, R1, R0, entry::VERDICT);
    code.load(Word, R9, R0, entry::FIRST);
    code.jump_if(R9, If::Equal, 0, &no_set);

    // As `addresses::search`, step by step: of a loop the verifier did not see the end before some Linux 6, as it follows
    // jumps that cannot happen, too. Half of the set's size is in the upper half of R9.
    code.load(Word, R1, R0, entry::HALF);
    code.copy(R2, R1);
    code.shift_left(R2, 32);
    code.or(R9, R2);
    let boundary = |code: &mut Assembly| code.copy_lower(R1, R9);
    let step = |bit: u32| format!("{who}: step {bit}");
    // Most sets are small.
    code.jump_if(R1, If::Below, 1 << SMALL, &step(SMALL - 1));
    for bit in (0..row::MOST_STEPS).rev() {
        let [before, next] = ["before", "next"].map(|place| format!("{who}: {place} {bit}"));
        code.label(&step(bit));
        code.copy(R1, R9);
        code.shift_right(R1, 32);
        code.jump_if(R1, If::Below, 1 << bit, &next);
        code.add(R9, 1 << bit);
        row(code, maps, boundary);
        unless_before(code, family, &before, &next);
        code.label(&before);
        code.add(R9, -(1 << bit));
        code.label(&next);
    }
    row(code, maps, boundary);
    code.load(Double, R1, R0, row::VERDICT);
    code.label(&no_set);
    code.jump_if(R1, If::Less, 0, "refused");
    code.jump_if_register(R1, If::AtLeast, R7, &done);
    code.copy(R7, R1);
    code.label(&done);
}

/// Goes to `not_before` where the address is the start of the boundary in R0 or behind it. Where it is before it, goes to
/// `before`, or on.
fn unless_before(code: &mut Assembly, family: Family, before: &str, not_before: &str) {
    let half = |code: &mut Assembly, offset| {
        code.load(Double, R1, R0, row::START + offset);
        code.load(Double, R2, R6, context::USER_IP6 + offset);
        code.network_order(Double, R2);
    };
    if family == Family::V4 {
        code.load(Double, R1, R0, row::START);
        code.jump_if(R1, If::Differs, 0, before);
        code.load(Double, R1, R0, row::START + 8);
        code.load(Word, R2, R6, context::USER_IP4);
        code.network_order(Word, R2);
        code.set_wide(R3, 0xffff << 32);
        code.or(R2, R3);
    } else {
        half(code, 0);
        code.jump_if_register(R2, If::Above, R1, not_before);
        code.jump_if_register(R2, If::Differs, R1, before);
        half(code, 8);
    }
    code.jump_if_register(R2, If::NotBelow, R1, not_before);
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
    code.jump("user: has this");
    code.label("several users");
}

/// The entry of this subject, if there is one: in one table at most, among those that have something at this port.
fn subject(code: &mut Assembly, maps: Maps, family: Family, who: &str, first_table: u8) {
    let tables = (first_table..).zip(BLOCK_BITS);
    code.load(Word, R1, R8, port::TABLES);
    code.and_number(R1, tables.clone().map(|(table, _)| 1 << (table - 1)).sum());
    code.jump_if(R1, If::Equal, 0, &format!("{who}: done"));
    for (table, bits) in tables {
        let next = format!("{who}: after table {table}");
        code.load(Word, R1, R8, port::TABLES);
        code.and_number(R1, 1 << (table - 1));
        code.jump_if(R1, If::Equal, 0, &next);
        code.call(Helper::CurrentIds);
        if first_table == Key::GIDS {
            code.shift_right(R0, 32);
        }
        code.copy(R9, R0);
        code.shift_left(R9, 32);
        code.shift_right(R9, 16);
        code.load(Word, R2, R6, context::USER_PORT);
        code.network_order(Half, R2);
        code.shift_right(R2, bits.into());
        code.or(R9, R2);
        find(code, maps, table, &format!("{who}: in its table"));
        code.label(&next);
    }
    code.jump(&format!("{who}: done"));
    code.label(&format!("{who}: in its table"));
    code.add(R0, row::ENTRY.into());
    code.label(&format!("{who}: has this"));
    consider(code, maps, family, who);
}

/// Goes to `found` with R0 the cell in `table` of the id and block in R9 (the block in its lower 16 bits), or on if there is
/// none. As `Cells::get`.
fn find(code: &mut Assembly, maps: Maps, table: u8, found: &str) {
    code.load(Word, R2, R6, context::PROTOCOL);
    code.shift_left(R2, 8);
    code.shift_left(R9, 16);
    code.or(R9, R2);
    code.or_number(R9, table.into());
    for hash in HASHES {
        row(code, maps, |code| cell(code, hash));
        code.load(Double, R1, R0, row::KEY);
        code.jump_if_register(R1, If::Equal, R9, found);
    }
}

/// R1 becomes the number of the cell that `hash` has for the key in R9. R2 is lost.
fn cell(code: &mut Assembly, hash: u64) {
    code.set_wide(R1, MIX);
    code.multiply(R1, R9);
    code.copy(R2, R1);
    code.shift_right(R2, 32);
    code.xor(R1, R2);
    code.set_wide(R2, hash);
    code.multiply(R1, R2);
    code.load(Word, R2, R8, port::SHIFT);
    code.shift_right_by(R1, R2);
    code.load(Word, R2, R8, port::CELLS);
    code.add_register(R1, R2);
}

/// R0 becomes the row whose number `number` leaves in R1, twice, without a call. Every row that a generation names is there;
/// without it, nothing is granted.
fn row(code: &mut Assembly, maps: Maps, number: impl Fn(&mut Assembly)) {
    number(code);
    code.shift_right(R1, row::PAGE_BITS.cast_signed());
    code.store(Word, Stack, stack::INDEX, R1);
    code.set_map(R1, maps.pages);
    on_stack(code, stack::INDEX);
    lookup(code, "refused");
    number(code);
    code.and_number(R1, (1 << row::PAGE_BITS) - 1);
    code.store(Word, Stack, stack::INDEX, R1);
    code.copy(R1, R0);
    on_stack(code, stack::INDEX);
    lookup(code, "refused");
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
    code.network_order(Half, R1);
    code.store(Half, R9, record::PORT, R1);
    code.load(Word, R1, R6, context::PROTOCOL);
    code.store(Byte, R9, record::PROTOCOL, R1);
    address(code, family);
    code.copy(R1, R9);
    code.set(R2, 0);
    code.call(Helper::RingSubmit);
    code.exit(GRANT);

    code.label("no room");
    count(code, maps, counter::UNLOGGED);
    code.exit(GRANT);
}

/// Writes the address to the record in R9, IPv4 as `::ffff:a.b.c.d`, in the network's order. R1 is lost.
fn address(code: &mut Assembly, family: Family) {
    if family == Family::V4 {
        code.store_number(Double, R9, record::ADDRESS, 0);
        code.store_number(Word, R9, record::ADDRESS + 8, i32::from_ne_bytes([0, 0, 0xff, 0xff]));
        code.load(Word, R1, R6, context::USER_IP4);
        code.store(Word, R9, record::ADDRESS + 12, R1);
        return;
    }
    for half in [0, 8] {
        code.load(Double, R1, R6, context::USER_IP6 + half);
        code.store(Double, R9, record::ADDRESS + half, R1);
    }
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

fn count(code: &mut Assembly, maps: Maps, counter: i32) {
    code.set_map_value(R1, maps.counters, counter);
    code.set(R2, 1);
    code.add_atomically(R1, R2);
}
