//! An assembler for BPF, with named instructions, registers and labels.
//!
//! It has the part of the instruction set (RFC 9669) that the program needs, and optimises nothing. The kernel's
//! verifier checks the result.

use std::collections::BTreeMap;
use std::fmt::Debug;

/// A register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// The result of a function, and of the program
    R0,
    /// Argument 1. A call overwrites R0 to R5
    R1,
    /// Argument 2
    R2,
    /// Argument 3
    R3,
    /// A call keeps R6 to R9
    R6,
    /// Kept
    R7,
    /// Kept
    R8,
    /// Kept
    R9,
    /// R10: the stack lies below this address
    Stack,
}

/// A function of the kernel's (bpf-helpers(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Helper {
    /// `bpf_map_lookup_elem(map, key)`
    MapLookup = 1,
    /// `bpf_get_current_pid_tgid()`
    CurrentPid = 14,
    /// `bpf_get_current_uid_gid()`: the real ids, gid in the upper half
    CurrentIds = 15,
    /// `bpf_get_netns_cookie(context)`
    NetnsCookie = 122,
    /// `bpf_ringbuf_reserve(ring, size, flags)`
    RingReserve = 131,
    /// `bpf_ringbuf_submit(record, flags)`
    RingSubmit = 132,
    /// `bpf_ringbuf_query(ring, what)`
    RingQuery = 134,
}

/// A condition of a jump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum If {
    /// Equal
    Equal = 0x10,
    /// Not equal
    Differs = 0x50,
    /// Greater, as unsigned numbers
    Above = 0x20,
    /// At least, as unsigned numbers
    NotBelow = 0x30,
    /// Less, as unsigned numbers
    Below = 0xa0,
    /// At least, as signed numbers
    AtLeast = 0x70,
    /// Less, as signed numbers
    Less = 0xc0,
}

/// How many bytes of memory an instruction moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// 4 bytes
    Word = 0x00,
    /// 2 bytes
    Half = 0x08,
    /// 1 byte
    Byte = 0x10,
    /// 8 bytes
    Double = 0x18,
}

/// One instruction, as the kernel reads it (`struct bpf_insn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    /// As it lies in memory.
    #[must_use]
    pub fn bytes(self) -> [u8; 8] {
        let ([first, second], [a, b, c, d]) = (self.offset.to_ne_bytes(), self.immediate.to_ne_bytes());
        [self.code, self.registers, first, second, a, b, c, d]
    }
}

/// A program under construction, whose jumps go to labels of type `L`. A missing or too distant label is a defect of
/// this crate.
#[derive(Debug)]
pub struct Assembly<L> {
    code: Vec<Instruction>,
    labels: BTreeMap<L, usize>,
    jumps: Vec<(usize, L)>,
}

impl<L> Default for Assembly<L> {
    fn default() -> Assembly<L> {
        Assembly { code: Vec::new(), labels: BTreeMap::new(), jumps: Vec::new() }
    }
}

/// Classes and modes, as linux/bpf.h and linux/bpf_common.h have them.
mod class {
    pub(super) const LOAD_DOUBLE_IMMEDIATE: u8 = 0x18;
    pub(super) const LOAD: u8 = 0x61;
    pub(super) const STORE: u8 = 0x63;
    pub(super) const STORE_IMMEDIATE: u8 = 0x62;
    pub(super) const ADD_ATOMICALLY: u8 = 0xdb;
    pub(super) const JUMP: u8 = 0x05;
    pub(super) const REGISTER: u8 = 0x08;
    pub(super) const ARITHMETIC: u8 = 0x07;
    pub(super) const ARITHMETIC_32: u8 = 0x04;
    pub(super) const CALL: u8 = 0x85;
    pub(super) const EXIT: u8 = 0x95;
    pub(super) const TO_BIG_ENDIAN: u8 = 0xdc;
}

/// Source "registers" of the wide load: the meaning of its number.
const MAP: u8 = 1;
const MAP_VALUE: u8 = 2;

impl<L: Ord + Debug> Assembly<L> {
    /// `to = number`
    pub fn set(&mut self, to: Register, number: i32) {
        self.push(class::ARITHMETIC | 0xb0, to, 0, 0, number);
    }

    /// `to = number`, all 64 bits
    #[allow(clippy::cast_possible_truncation, reason = "its two halves")]
    pub fn set_wide(&mut self, to: Register, number: u64) {
        self.wide(to, 0, number as i32, (number >> 32) as i32);
    }

    /// `to = map`, by its descriptor
    pub fn set_map(&mut self, to: Register, map: i32) {
        self.wide(to, MAP, map, 0);
    }

    /// `to = address of byte `offset` of the one value of an array map`, by its descriptor
    pub fn set_map_value(&mut self, to: Register, map: i32, offset: i32) {
        self.wide(to, MAP_VALUE, map, offset);
    }

    /// `to = from`
    pub fn copy(&mut self, to: Register, from: Register) {
        self.push(class::ARITHMETIC | class::REGISTER | 0xb0, to, from.number(), 0, 0);
    }

    /// `to = lower half of from`
    pub fn copy_lower(&mut self, to: Register, from: Register) {
        self.push(class::ARITHMETIC_32 | class::REGISTER | 0xb0, to, from.number(), 0, 0);
    }

    /// `to += number`
    pub fn add(&mut self, to: Register, number: i32) {
        self.push(class::ARITHMETIC, to, 0, 0, number);
    }

    /// `to += from`
    pub fn add_register(&mut self, to: Register, from: Register) {
        self.push(class::ARITHMETIC | class::REGISTER, to, from.number(), 0, 0);
    }

    /// `to *= from`
    pub fn multiply(&mut self, to: Register, from: Register) {
        self.push(class::ARITHMETIC | class::REGISTER | 0x20, to, from.number(), 0, 0);
    }

    /// `to ^= from`
    pub fn xor(&mut self, to: Register, from: Register) {
        self.push(class::ARITHMETIC | class::REGISTER | 0xa0, to, from.number(), 0, 0);
    }

    /// `to |= from`
    pub fn or(&mut self, to: Register, from: Register) {
        self.push(class::ARITHMETIC | class::REGISTER | 0x40, to, from.number(), 0, 0);
    }

    /// `to |= number`, which is not negative
    pub fn or_number(&mut self, to: Register, number: i32) {
        self.push(class::ARITHMETIC | 0x40, to, 0, 0, number);
    }

    /// `to &= number`, whose sign fills the upper half
    pub fn and_number(&mut self, to: Register, number: i32) {
        self.push(class::ARITHMETIC | 0x50, to, 0, 0, number);
    }

    /// `to <<= bits`
    pub fn shift_left(&mut self, to: Register, bits: i32) {
        self.push(class::ARITHMETIC | 0x60, to, 0, 0, bits);
    }

    /// `to >>= bits`, filled up with zeros
    pub fn shift_right(&mut self, to: Register, bits: i32) {
        self.push(class::ARITHMETIC | 0x70, to, 0, 0, bits);
    }

    /// `to >>= bits`, filled up with zeros
    pub fn shift_right_by(&mut self, to: Register, bits: Register) {
        self.push(class::ARITHMETIC | class::REGISTER | 0x70, to, bits.number(), 0, 0);
    }

    /// Between this machine's order of bytes and the network's: the lower bits of this width, the others zero
    pub fn network_order(&mut self, width: Width, register: Register) {
        let bits = match width {
            Width::Byte => 8,
            Width::Half => 16,
            Width::Word => 32,
            Width::Double => 64,
        };
        self.push(class::TO_BIG_ENDIAN, register, 0, 0, bits);
    }

    /// `to = memory at base + offset`
    pub fn load(&mut self, width: Width, to: Register, base: Register, offset: i16) {
        self.push(class::LOAD | width as u8, to, base.number(), offset, 0);
    }

    /// `memory at base + offset = from`
    pub fn store(&mut self, width: Width, base: Register, offset: i16, from: Register) {
        self.push(class::STORE | width as u8, base, from.number(), offset, 0);
    }

    /// `memory at base + offset = number`
    pub fn store_number(&mut self, width: Width, base: Register, offset: i16, number: i32) {
        self.push(class::STORE_IMMEDIATE | width as u8, base, 0, offset, number);
    }

    /// `8 bytes of memory at base += from`, atomically
    pub fn add_atomically(&mut self, base: Register, from: Register) {
        self.push(class::ADD_ATOMICALLY, base, from.number(), 0, 0);
    }

    /// `r0 = helper(r1, r2, …)`
    pub fn call(&mut self, helper: Helper) {
        self.push(class::CALL, Register::R0, 0, 0, helper as i32);
    }

    /// The program ends and returns `number`
    pub fn exit(&mut self, number: i32) {
        self.set(Register::R0, number);
        self.push(class::EXIT, Register::R0, 0, 0, 0);
    }

    /// Goes to `label`
    pub fn jump(&mut self, label: L) {
        self.jumps.push((self.code.len(), label));
        self.push(class::JUMP, Register::R0, 0, 0, 0);
    }

    /// Goes to `label` if `register` compared with `number` fulfils `condition`
    pub fn jump_if(&mut self, register: Register, condition: If, number: i32, label: L) {
        self.jumps.push((self.code.len(), label));
        self.push(class::JUMP | condition as u8, register, 0, 0, number);
    }

    /// Goes to `label` if `register` compared with `other` fulfils `condition`
    pub fn jump_if_register(&mut self, register: Register, condition: If, other: Register, label: L) {
        self.jumps.push((self.code.len(), label));
        self.push(class::JUMP | class::REGISTER | condition as u8, register, other.number(), 0, 0);
    }

    /// Names the place of the next instruction
    pub fn label(&mut self, label: L) {
        debug_assert!(!self.labels.contains_key(&label), "label {label:?} is there already");
        self.labels.insert(label, self.code.len());
    }

    /// The program.
    ///
    /// # Panics
    /// If a jump's label is missing or too far away.
    #[must_use]
    pub fn finish(mut self) -> Vec<Instruction> {
        for (at, label) in self.jumps {
            let target = self.labels.get(&label).unwrap_or_else(|| panic!("there is no label {label:?}"));
            let distance = target.cast_signed() - at.cast_signed() - 1;
            self.code[at].offset = distance.try_into().expect("a program of a few thousand instructions");
        }
        self.code
    }

    fn wide(&mut self, to: Register, what: u8, lower: i32, upper: i32) {
        self.push(class::LOAD_DOUBLE_IMMEDIATE, to, what, 0, lower);
        self.code.push(Instruction { code: 0, registers: 0, offset: 0, immediate: upper });
    }

    fn push(&mut self, code: u8, to: Register, from: u8, offset: i16, immediate: i32) {
        let (low, high) = if cfg!(target_endian = "little") { (to.number(), from) } else { (from, to.number()) };
        self.code.push(Instruction { code, registers: high << 4 | low, offset, immediate });
    }
}

impl Register {
    fn number(self) -> u8 {
        match self {
            Register::R0 => 0,
            Register::R1 => 1,
            Register::R2 => 2,
            Register::R3 => 3,
            Register::R6 => 6,
            Register::R7 => 7,
            Register::R8 => 8,
            Register::R9 => 9,
            Register::Stack => 10,
        }
    }
}
