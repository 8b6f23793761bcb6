//! The program that the kernel runs at each bind(2), for `cgroup/bind4` and `cgroup/bind6` alike.
//!
//! It returns [`GRANT`] if the policy permits the bind to this caller, in the network namespace that it was made for.
//! In all other cases, also if something is missing or unknown, it returns [`PASS`]: it never forbids what the kernel
//! would allow.
//!
//! It reads once which generation of the policy is active ([`Maps::policy`], its ports); everything else is read from
//! that generation. [`crate::tables`] describes the tables, and `Tables::verdict` does the same lookups.
//!
//! It only calls the kernel for the ids, the network namespace and the record. A lookup in an array is a few
//! instructions, but in the kernel's hash or trie it is a call, which costs more than the whole search here.

mod labels;
mod search;

use crate::projection::Transport;

use self::labels::{Label, Part, Place};
use self::search::{Sought, class, consider};
use crate::assembly::{Assembly, Helper, If, Instruction, Register, Width};
use crate::cells::{BUCKET, HASHES, MIX, NEAR, PAGE};
use crate::entry::{BLOCK_BITS, Key, Verdict, protocol};
use crate::layout::{Pages, bucket, counter, port, record, ring};
use crate::tables::{FEW, index};

use Register::{R0, R1, R2, R3, R6, R7, R8, R9, Stack};
use Width::{Byte, Double, Half, Word};

type Code = Assembly<Label>;

/// The kernel decides as if there were no program.
pub const PASS: i32 = 1;
/// The bind is allowed without CAP_NET_BIND_SERVICE (Linux 5.12).
pub const GRANT: i32 = 3;

/// The maps' descriptors.
#[derive(Debug, Clone, Copy)]
pub struct Maps {
    /// An array of one map: the ports of the active generation
    pub policy: i32,
    /// An array of maps: the pages of [`bucket`]s of both generations
    pub buckets: i32,
    /// An array of maps: the pages of [`group`](crate::layout::group)s of both generations
    pub groups: i32,
    /// The ring buffer of grants
    pub grants: i32,
    /// An array of one value, [`counter`]
    pub counters: i32,
}

/// The address family of the bind(2) hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// AF_INET
    V4,
    /// AF_INET6
    V6,
}

/// `struct bpf_sock_addr`, offsets in bytes.
mod context {
    pub(super) const USER_IP4: i16 = 4;
    pub(super) const USER_IP6: i16 = 8;
    pub(super) const USER_PORT: i16 = 24;
    pub(super) const PROTOCOL: i16 = 36;
}

/// Offsets on the stack. Little is kept there: since the program is loaded without CAP_PERFMON, the kernel adds a
/// barrier (against Spectre variant 4) after the first store to each place, and after each store to a lower half only.
mod stack {
    /// u32: the key of a lookup
    pub(super) const INDEX: i16 = -4;
    /// u64: gid and uid, as the kernel reports them
    pub(super) const IDS: i16 = -16;
    /// u64: the class of a subordinate id
    pub(super) const CLASS: i16 = -24;
}

/// Writes the program for binds of `family` in the network namespace of `cookie`.
///
/// In all parts, R6 is the context, R7 the least verdict so far, R8 the port's entry, R9 the key that is searched.
#[must_use]
pub fn program(maps: Maps, family: Family, cookie: u64) -> Vec<Instruction> {
    let mut code = Code::default();
    request(&mut code);
    generation(&mut code, maps);
    port(&mut code);
    network_namespace(&mut code, cookie);
    ids(&mut code);
    anybody(&mut code);
    consider(&mut code, maps, family, Part::Anybody);
    few_users(&mut code);
    subject(&mut code, maps, family, Part::User, Key::UIDS);
    subject(&mut code, maps, family, Part::Group, Key::GIDS);
    class(&mut code, maps, Part::SubordinateUser, Key::SUBORDINATE_UIDS, Sought::Uid);
    subject(&mut code, maps, family, Part::SubordinateUser, Key::SUBORDINATE_UIDS);
    class(&mut code, maps, Part::SubordinateGroup, Key::SUBORDINATE_GIDS, Sought::Gid);
    subject(&mut code, maps, family, Part::SubordinateGroup, Key::SUBORDINATE_GIDS);
    grant(&mut code, maps, family);

    code.label(Label::Refused);
    count(&mut code, maps, counter::PASSED);
    code.label(Label::Pass);
    code.exit(PASS);
    code.finish()
}

/// The value of the second element of the array that [`probe`] reads.
pub const FOUND: u32 = 0x7067;

/// Writes a program that returns [`FOUND`] if the kernel finds the second element of the array in `outer`, an array of
/// one map, and else 0. Some kernels always read the first element.
#[must_use]
pub fn probe(outer: i32) -> Vec<Instruction> {
    let mut code = Code::default();
    code.set_map(R1, outer);
    for element in 0..2 {
        code.store_number(Word, Stack, stack::INDEX, element);
        on_stack(&mut code, stack::INDEX);
        lookup(&mut code, Label::Missing);
        code.copy(R1, R0);
    }
    code.load(Word, R1, R1, 0);
    code.jump_if(R1, If::Differs, FOUND.cast_signed(), Label::Missing);
    code.exit(FOUND.cast_signed());
    code.label(Label::Missing);
    code.exit(0);
    code.finish()
}

/// A hash of the program's instructions (FNV-1a, 32 bits), which imply the layout of the tables. Tables are only given
/// to a program with the same hash.
#[must_use]
pub fn number() -> u32 {
    let maps = Maps { policy: 0, buckets: 0, groups: 0, grants: 0, counters: 0 };
    let text = [Family::V4, Family::V6].into_iter().flat_map(|family| program(maps, family, 0));
    text.flat_map(Instruction::bytes).fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Computes the index of the port from protocol (mptcp binds a tcp socket) and port. Port 0, which lets the kernel
/// choose, is passed.
fn request(code: &mut Code) {
    code.copy(R6, R1);
    code.load(Word, R2, R6, context::USER_PORT);
    code.jump_if(R2, If::Equal, 0, Label::Pass);
    code.network_order(Half, R2);
    code.load(Word, R1, R6, context::PROTOCOL);
    code.jump_if(R1, If::Equal, protocol(Transport::Tcp).into(), Label::KnownProtocol);
    code.jump_if(R1, If::Differs, protocol(Transport::Udp).into(), Label::Pass);
    code.or_number(R2, index(Transport::Udp, 0).cast_signed());
    code.label(Label::KnownProtocol);
    code.store(Word, Stack, stack::INDEX, R2);
}

/// Reads once which generation is active.
fn generation(code: &mut Code, maps: Maps) {
    code.set_map(R1, maps.policy);
    code.set_map_value(R2, maps.counters, counter::ZERO);
    lookup(code, Label::Pass);
    code.copy(R1, R0);
}

/// Looks up the port. Nobody has a permit for most ports, so most binds end here.
fn port(code: &mut Code) {
    on_stack(code, stack::INDEX);
    lookup(code, Label::Pass);
    code.load(Word, R1, R0, port::GENERATION);
    code.jump_if(R1, If::Equal, 0, Label::Pass);
    code.copy(R8, R0);
}

/// Checks the socket's network namespace: a program at the root cgroup sees the binds of every container.
fn network_namespace(code: &mut Code, cookie: u64) {
    code.copy(R1, R6);
    code.call(Helper::NetnsCookie);
    code.set_wide(R1, cookie);
    code.jump_if_register(R0, If::Differs, R1, Label::Pass);
}

/// Gets the caller's ids. This call costs more than all lookups, so it is made once.
fn ids(code: &mut Code) {
    code.call(Helper::CurrentIds);
    code.store(Double, Stack, stack::IDS, R0);
}

fn anybody(code: &mut Code) {
    code.set_wide(R7, Verdict::NOTHING.0.cast_unsigned());
    code.load(Double, R1, R8, port::ANYBODY);
}

/// Compares the caller with the few users in the port's entry. For others, continues with groups.
fn few_users(code: &mut Code) {
    let slots = || (0..).take(FEW);
    let known = |slot| Part::User.at(Place::PortsUser(slot));
    in_tables(code, Key::UIDS);
    code.jump_if(R1, If::Differs, 0, Part::User.at(Place::ManyUsers));
    code.load(Double, R2, Stack, stack::IDS);
    code.copy_lower(R2, R2);
    for slot in slots() {
        code.load(Word, R1, R8, port::UIDS + 4 * slot);
        code.jump_if_register(R1, If::Equal, R2, known(slot));
    }
    code.jump(Part::User.at(Place::Done));
    for slot in slots() {
        code.label(known(slot));
        code.load(Double, R1, R8, port::OUTCOMES + 8 * slot);
        code.jump(Part::User.at(Place::Outcome));
    }
    code.label(Part::User.at(Place::ManyUsers));
}

/// R1 becomes non-zero if one of the tables from `first` on has an entry for this port.
fn in_tables(code: &mut Code, first: u8) {
    code.load(Word, R1, R8, port::TABLES);
    code.and_number(R1, (first..).zip(BLOCK_BITS).map(|(table, _)| 1 << (table - 1)).sum());
}

/// Looks up the outcome for this subject. At most one table has it.
fn subject(code: &mut Code, maps: Maps, family: Family, part: Part, first_table: u8) {
    let in_cell = |cell| part.at(Place::Cell(cell));
    in_tables(code, first_table);
    code.jump_if(R1, If::Equal, 0, part.at(Place::Done));
    for (table, bits) in (first_table..).zip(BLOCK_BITS) {
        let next = part.at(Place::AfterTable(table));
        code.load(Word, R1, R8, port::TABLES);
        code.and_number(R1, 1 << (table - 1));
        code.jump_if(R1, If::Equal, 0, next);
        match first_table {
            Key::UIDS => code.load(Double, R9, Stack, stack::IDS),
            Key::GIDS => {
                code.load(Double, R9, Stack, stack::IDS);
                code.shift_right(R9, 32);
            }
            _ => code.load(Double, R9, Stack, stack::CLASS),
        }
        code.shift_left(R9, 32);
        code.shift_right(R9, 16);
        code.load(Word, R2, R6, context::USER_PORT);
        code.network_order(Half, R2);
        code.shift_right(R2, bits.into());
        code.or(R9, R2);
        find(code, maps, table, in_cell);
        code.label(next);
    }
    code.jump(part.at(Place::Done));
    for (cell, offset) in cells() {
        code.label(in_cell(cell));
        code.load(Double, R1, R0, offset + bucket::OUTCOME);
        code.jump(part.at(Place::Outcome));
    }
    code.label(part.at(Place::Outcome));
    consider(code, maps, family, part);
}

/// Each cell of a bucket, and its offset in bytes.
fn cells() -> impl Iterator<Item = (usize, i16)> {
    (0..BUCKET).zip((0..).step_by(bucket::CELL))
}

/// Searches `table`'s key for the id and the block (lower 16 bits) in R9, like `Cells::get`. If a cell has it, goes to
/// the label of the cell, with the bucket in R0; otherwise continues.
fn find(code: &mut Code, maps: Maps, table: u8, in_cell: impl Fn(usize) -> Label) {
    code.load(Word, R2, R6, context::PROTOCOL);
    code.shift_left(R2, 8);
    code.shift_left(R9, Key::BLOCK.cast_signed());
    code.or(R9, R2);
    code.or_number(R9, table.into());
    for number in [first_bucket, second_bucket] {
        row(code, maps.buckets, bucket::PAGES, number);
        for (cell, offset) in cells() {
            code.load(Double, R1, R0, offset + bucket::KEY);
            code.jump_if_register(R1, If::Equal, R9, in_cell(cell));
        }
    }
}

/// R1 becomes the number of the first bucket for the key in R9. R2 is lost.
fn first_bucket(code: &mut Code) {
    code.copy(R1, R9);
    code.and_number(R1, i32::try_from(!Key::below(NEAR).cast_signed()).expect("few bits"));
    hash(code, HASHES[0]);
    code.copy(R2, R9);
    code.shift_right(R2, Key::BLOCK.cast_signed());
    code.and_number(R2, (1 << PAGE) - 1);
    code.xor(R1, R2);
    code.load(Word, R2, R8, port::BUCKETS);
    code.add_register(R1, R2);
}

/// R1 becomes the number of the second bucket for the key in R9. R2 is lost.
fn second_bucket(code: &mut Code) {
    code.copy(R1, R9);
    hash(code, HASHES[1]);
    code.load(Word, R2, R8, port::BUCKETS);
    code.add_register(R1, R2);
}

/// R1 becomes its product by `hash`. R2 is lost.
fn hash(code: &mut Code, hash: u64) {
    code.set_wide(R2, MIX);
    code.multiply(R1, R2);
    code.copy(R2, R1);
    code.shift_right(R2, 32);
    code.xor(R1, R2);
    code.set_wide(R2, hash);
    code.multiply(R1, R2);
    code.load(Word, R2, R8, port::SHIFT);
    code.shift_right_by(R1, R2);
}

/// R0 becomes the address of a row of `rows`. `number` puts the row's number into R1, and is used twice. Every row of a
/// generation exists; if one is missing, nothing is granted.
fn row(code: &mut Code, rows: i32, pages: Pages, number: impl Fn(&mut Code)) {
    number(code);
    code.shift_right(R1, pages.bits.cast_signed());
    code.store(Word, Stack, stack::INDEX, R1);
    code.set_map(R1, rows);
    on_stack(code, stack::INDEX);
    lookup(code, Label::Refused);
    number(code);
    code.and_number(R1, (1 << pages.bits) - 1);
    code.store(Word, Stack, stack::INDEX, R1);
    code.copy(R1, R0);
    on_stack(code, stack::INDEX);
    lookup(code, Label::Refused);
}

/// If there is a permit, records, counts and grants it. If the ring buffer is full, there is no record, and the bind is
/// not delayed.
fn grant(code: &mut Code, maps: Maps, family: Family) {
    code.set_wide(R1, Verdict::NOTHING.0.cast_unsigned());
    code.jump_if_register(R7, If::Equal, R1, Label::Refused);

    // If nobody reads, asking for the free room costs less than a failed reservation.
    code.set_map_value(R9, maps.counters, counter::FULL);
    code.load(Double, R1, R9, 0);
    code.jump_if(R1, If::Equal, 0, Label::Room);
    code.set_map(R1, maps.grants);
    code.set(R2, ring::WAITING);
    code.call(Helper::RingQuery);
    code.jump_if(R0, If::AtLeast, ring::FULL, Label::NoRoom);
    code.store_number(Double, R9, 0, 0);
    code.label(Label::Room);
    code.set_map(R1, maps.grants);
    code.set(R2, record::SIZE.into());
    code.set(R3, 0);
    code.call(Helper::RingReserve);
    code.jump_if(R0, If::Equal, 0, Label::Full);
    code.copy(R9, R0);
    code.store(Double, R9, record::VERDICT, R7);
    code.load(Double, R1, Stack, stack::IDS);
    code.store(Word, R9, record::UID, R1);
    code.shift_right(R1, 32);
    code.store(Word, R9, record::GID, R1);
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

    code.label(Label::Full);
    code.store_number(Double, R9, 0, 1);
    code.label(Label::NoRoom);
    count(code, maps, counter::UNLOGGED);
    code.exit(GRANT);
}

/// Writes the address to the record in R9, IPv4 as `::ffff:a.b.c.d`, in the network's order. R1 is lost.
fn address(code: &mut Code, family: Family) {
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

/// R0 becomes the address of the value in the map in R1 for the key at R2. If there is none, goes to `missing`.
fn lookup(code: &mut Code, missing: Label) {
    code.call(Helper::MapLookup);
    code.jump_if(R0, If::Equal, 0, missing);
}

fn on_stack(code: &mut Code, offset: i16) {
    code.copy(R2, Stack);
    code.add(R2, offset.into());
}

fn count(code: &mut Code, maps: Maps, counter: i32) {
    code.set_map_value(R1, maps.counters, counter);
    code.set(R2, 1);
    code.add_atomically(R1, R2);
}
