//! The program that the kernel runs at each bind(2), for `cgroup/bind4` and `cgroup/bind6` alike.
//!
//! It returns [`GRANT`] for what the policy permits to this caller in the one network namespace that it was made for, and
//! [`PASS`] for everything else: it never takes away what the kernel would have allowed. Wherever something is missing or
//! unknown, that is [`PASS`].
//!
//! Which generation of the policy is active is read once ([`Maps::policy`], its ports): all that is read afterwards hangs on
//! that. What is compared is what [`crate::tables`] describes; `Tables::verdict` does the same lookups.
//!
//! It calls the kernel for nothing but ids, the network namespace and the record: a look into an array is a few instructions
//! of its own, while into a hash or a trie of the kernel's it is calls, each of which cost more than the whole search here.

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

/// Nothing is changed: the kernel decides as if there were no program.
pub const PASS: i32 = 1;
/// Allowed, and CAP_NET_BIND_SERVICE is not asked for (Linux 5.12).
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

/// Which family's bind(2) it is attached to.
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

/// Where things lie on the stack. There is little: behind the first store to each place, and behind each into a lower half
/// alone, the kernel puts a barrier (against Spectre variant 4), as this program is loaded without CAP_PERFMON.
mod stack {
    /// u32: where a lookup looks
    pub(super) const INDEX: i16 = -4;
    /// u64: gid and uid, as the kernel reports them
    pub(super) const IDS: i16 = -16;
    /// u64: the class of a subordinate id
    pub(super) const CLASS: i16 = -24;
}

/// Writes the program for binds of `family` in the network namespace of `cookie`.
///
/// Throughout: R6 the context, R7 the least verdict so far, R8 the port's entry, R9 what is looked for.
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

/// What is in the second element of the array that [`probe`] looks at.
pub const FOUND: u32 = 0x7067;

/// Writes a program that returns [`FOUND`] where the kernel finds the second element of the array that is in `outer`, an array of
/// one, and 0 otherwise. Some kernels look at the first one whatever is asked for.
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

/// A number that stands for the program's text, and so for all that it takes for granted of the tables: where another was
/// loaded, these tables are not for it. (FNV-1a, of 32 bits.)
#[must_use]
pub fn number() -> u32 {
    let maps = Maps { policy: 0, buckets: 0, groups: 0, grants: 0, counters: 0 };
    let text = [Family::V4, Family::V6].into_iter().flat_map(|family| program(maps, family, 0));
    text.flat_map(Instruction::bytes).fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Which protocol (mptcp binds a tcp socket), and which port, as an index of the ports; 0 lets the kernel choose one.
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

/// Whether anybody has this port: most binds end here.
fn port(code: &mut Code) {
    on_stack(code, stack::INDEX);
    lookup(code, Label::Pass);
    code.load(Word, R1, R0, port::GENERATION);
    code.jump_if(R1, If::Equal, 0, Label::Pass);
    code.copy(R8, R0);
}

/// The socket's namespace; a program at the root of all cgroups meets those of every container.
fn network_namespace(code: &mut Code, cookie: u64) {
    code.copy(R1, R6);
    code.call(Helper::NetnsCookie);
    code.set_wide(R1, cookie);
    code.jump_if_register(R0, If::Differs, R1, Label::Pass);
}

/// Who asks: a call that costs more than all lookups, so it is made once.
fn ids(code: &mut Code) {
    code.call(Helper::CurrentIds);
    code.store(Double, Stack, stack::IDS, R0);
}

fn anybody(code: &mut Code) {
    code.set_wide(R7, Verdict::NOTHING.0.cast_unsigned());
    code.load(Double, R1, R8, port::ANYBODY);
}

/// The few users of the port, where it has no more; others go to what groups have.
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

/// R1 becomes not 0 where one of the tables from `first` on has something at this port.
fn in_tables(code: &mut Code, first: u8) {
    code.load(Word, R1, R8, port::TABLES);
    code.and_number(R1, (first..).zip(BLOCK_BITS).map(|(table, _)| 1 << (table - 1)).sum());
}

/// The outcome for this subject, if there is one: in one table at most, among those that have something at this port.
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

/// Goes to the place of the cell, with R0 its bucket, that has `table`'s key for the id and block in R9 (the block in its lower
/// 16 bits), or on if there is none. As `Cells::get`.
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

/// R1 becomes what `hash` makes of it. R2 is lost.
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

/// R0 becomes the row of `rows` whose number `number` leaves in R1, twice, without a call. Every row that a generation names is
/// there; without it, nothing is granted.
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

/// A permit, if there is one: recorded, counted, granted. A record that finds no room delays nobody.
fn grant(code: &mut Code, maps: Maps, family: Family) {
    code.set_wide(R1, Verdict::NOTHING.0.cast_unsigned());
    code.jump_if_register(R7, If::Equal, R1, Label::Refused);

    // While nobody reads, to ask whether there is room costs less than to be refused it.
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

/// R0 becomes what the map in R1 has for the key at R2; where it has nothing, goes to `missing`.
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
