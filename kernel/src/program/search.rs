//! The searches among boundaries: for an address, and for the class of a subordinate id.

use super::labels::{Label, Part, Place};
use super::{Code, Family, Maps, Register, context, in_tables, row, stack};
use crate::assembly::{If, Width};
use crate::entry::{Verdict, protocol};
use crate::layout::{group, port};
use crate::projection::Transport;
use crate::subordinates;

use Register::{R0, R1, R2, R3, R6, R7, R8, R9, Stack};
use Width::{Double, Word};

/// Sets with fewer groups than twice this power of two skip the steps for larger sets.
const SMALL: u32 = 5;

/// The key that is searched among boundaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sought {
    Address(Family),
    Uid,
    Gid,
}

/// Combines the outcome in R1 with the verdict so far: a deny ends the program; of permits, the first in the policy
/// counts.
pub(super) fn consider(code: &mut Code, maps: Maps, family: Family, part: Part) {
    let [no_set, done] = [Place::NoSet, Place::Done].map(|place| part.at(place));
    code.jump_if(R1, If::AtLeast, -1, no_set);
    code.copy(R9, R1);
    code.shift_left(R9, 1);
    code.shift_right(R9, 1);
    if family == Family::V6 {
        datagrams_of_both_families(code, maps, part);
    }
    search(code, maps, Sought::Address(family), part);
    code.label(no_set);
    code.jump_if(R1, If::Less, 0, Label::Refused);
    code.jump_if_register(R1, If::AtLeast, R7, done);
    code.copy(R7, R1);
    code.label(done);
}

/// A datagram socket that is bound to an IPv4 address, here `::ffff:a.b.c.d`, can send from IPv6 addresses as well. If
/// the set in R9 denies any of these, it denies all, so `::1` is tested: it is in the first interval, or in a separate
/// one.
fn datagrams_of_both_families(code: &mut Code, maps: Maps, part: Part) {
    let [first, known, other] = [Place::FirstOfAll, Place::Ipv6Known, Place::OneFamily].map(|place| part.at(place));
    code.load(Word, R1, R6, context::PROTOCOL);
    code.jump_if(R1, If::Differs, protocol(Transport::Udp).into(), other);
    code.load(Double, R1, R6, context::USER_IP6);
    code.jump_if(R1, If::Differs, 0, other);
    code.load(Word, R1, R6, context::USER_IP6 + 8);
    code.network_order(Word, R1);
    code.jump_if(R1, If::Differs, 0xffff, other);
    row(code, maps.groups, group::PAGES, |code| code.copy_lower(R1, R9));
    code.load(Double, R1, R0, group::BOUNDARY + group::START);
    code.jump_if(R1, If::Differs, 0, first);
    code.load(Double, R1, R0, group::BOUNDARY + group::START + 8);
    code.jump_if(R1, If::Differs, 1, first);
    code.load(Double, R1, R0, group::BOUNDARY + group::VERDICT);
    code.jump(known);
    code.label(first);
    code.load(Double, R1, R0, group::VERDICT);
    code.label(known);
    code.jump_if(R1, If::Less, 0, Label::Refused);
    code.label(other);
}

/// R1 becomes the verdict of the last boundary at or before the key. R9 has the set: its first group, and in the upper
/// half, half of the number of its groups. It does the steps of `addresses::search` without a loop: older verifiers
/// (before some Linux 6) do not find the end of one, since they follow impossible jumps.
fn search(code: &mut Code, maps: Maps, sought: Sought, part: Part) {
    code.copy(R1, R9);
    code.shift_right(R1, 32);
    let at = |code: &mut Code| code.copy_lower(R1, R9);
    let step = |bit: u32| part.at(Place::Step(bit));
    let which = |boundary: i16| part.at(Place::Boundary(boundary));
    let [group, lower, upper, found] =
        [Place::Group, Place::LowerHalf, Place::UpperHalf, Place::Found].map(|place| part.at(place));
    // Most sets are one group, or few.
    code.jump_if(R1, If::Equal, 0, group);
    code.jump_if(R1, If::Below, 1 << SMALL, step(SMALL - 1));
    for bit in (0..group::MOST_STEPS).rev() {
        let [before, next] = [Place::Before(bit), Place::AfterStep(bit)].map(|place| part.at(place));
        code.label(step(bit));
        code.copy(R1, R9);
        code.shift_right(R1, 32);
        code.jump_if(R1, If::Below, 1 << bit, next);
        code.add(R9, 1 << bit);
        row(code, maps.groups, group::PAGES, at);
        unless_before(code, sought, 0, before, next);
        code.label(before);
        code.add(R9, -(1 << bit));
        code.label(next);
    }
    code.label(group);
    row(code, maps.groups, group::PAGES, at);
    unless_before(code, sought, 2, lower, upper);
    for (half, first) in [(lower, 0), (upper, 2)] {
        code.label(half);
        unless_before(code, sought, first + 1, which(first), which(first + 1));
        for boundary in [first, first + 1] {
            code.label(which(boundary));
            code.load(Double, R1, R0, group::BOUNDARY * boundary + group::VERDICT);
            code.jump(found);
        }
    }
    code.label(found);
}

/// Goes to `not_before` if the key is at or after the start of `boundary` in the group in R0. If it is before, goes to
/// `before` or continues.
fn unless_before(code: &mut Code, sought: Sought, boundary: i16, before: Label, not_before: Label) {
    let start = group::BOUNDARY * boundary + group::START;
    let half = |code: &mut Code, offset| {
        code.load(Double, R1, R0, start + offset);
        code.load(Double, R2, R6, context::USER_IP6 + offset);
        code.network_order(Double, R2);
    };
    match sought {
        Sought::Address(Family::V4) => {
            code.load(Double, R1, R0, start);
            code.jump_if(R1, If::Differs, 0, before);
            code.load(Double, R1, R0, start + 8);
            code.load(Word, R2, R6, context::USER_IP4);
            code.network_order(Word, R2);
            code.set_wide(R3, 0xffff << 32);
            code.or(R2, R3);
        }
        Sought::Address(Family::V6) => {
            half(code, 0);
            code.jump_if_register(R2, If::Above, R1, not_before);
            code.jump_if_register(R2, If::Differs, R1, before);
            half(code, 8);
        }
        // The boundaries of ids only use the lower half. A boundary with an upper half that is not 0 is above all ids.
        Sought::Uid => {
            code.load(Double, R1, R0, start + 8);
            code.load(Double, R2, Stack, stack::IDS);
            code.copy_lower(R2, R2);
        }
        Sought::Gid => {
            code.load(Double, R1, R0, start + 8);
            code.load(Double, R2, Stack, stack::IDS);
            code.shift_right(R2, 32);
            code.set_wide(R3, 1 << subordinates::GIDS);
            code.or(R2, R3);
        }
    }
    code.jump_if_register(R2, If::NotBelow, R1, not_before);
}

/// Puts the class of the caller's subordinate id on the stack. If there is none, or no table from `first_table` on has
/// this port, goes to the end of the `part`.
pub(super) fn class(code: &mut Code, maps: Maps, part: Part, first_table: u8, sought: Sought) {
    let done = part.at(Place::Done);
    let class = if sought == Sought::Uid { Part::ClassOfUser } else { Part::ClassOfGroup };
    in_tables(code, first_table);
    code.jump_if(R1, If::Equal, 0, done);
    code.load(Word, R9, R8, port::CLASSES);
    code.copy(R1, R9);
    code.and_number(R1, (1 << group::MOST_STEPS) - 1);
    code.shift_left(R1, 32);
    code.shift_right(R9, group::MOST_STEPS.cast_signed());
    code.shift_left(R9, group::MOST_STEPS.cast_signed());
    code.or(R9, R1);
    search(code, maps, sought, class);
    code.set_wide(R2, Verdict::NOTHING.0.cast_unsigned());
    code.jump_if_register(R1, If::Equal, R2, done);
    code.store(Double, Stack, stack::CLASS, R1);
}
