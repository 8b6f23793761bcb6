//! The helper's file, as an ELF program: where it is loaded, what may be written, and that nothing else is linked.

use portgrant_tests::{BINDER, World, both_installs};

both_installs![
    the_helper_is_loaded_anywhere_and_what_relocation_wrote_is_read_only,
    no_part_of_the_helper_is_writable_and_executable,
    the_helper_is_loaded_at_a_random_address,
];

// elf.h
const ET_DYN: u16 = 3;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PT_TLS: u32 = 7;
const PT_GNU_STACK: u32 = 0x6474_e551;
const PT_GNU_RELRO: u32 = 0x6474_e552;
const DT_NEEDED: u64 = 1;
const DT_TEXTREL: u64 = 22;
const DT_FLAGS: u64 = 30;
const DF_BIND_NOW: u64 = 8;
const DT_FLAGS_1: u64 = 0x6fff_fffb;
const DF_1_NOW_PIE: u64 = 0x0800_0001;

/// A program header.
#[derive(Debug)]
struct Part {
    kind: u32,
    flags: u32,
    offset: usize,
    address: u64,
    size: usize,
    memory: u64,
}

impl Part {
    fn is_writable(&self) -> bool {
        self.flags & 2 != 0
    }
}

struct Program {
    bytes: Vec<u8>,
}

impl Program {
    fn installed() -> Program {
        Program { bytes: std::fs::read(BINDER).expect("the helper") }
    }

    fn number<const N: usize>(&self, at: usize) -> u64 {
        let mut number = [0; 8];
        number[..N].copy_from_slice(&self.bytes[at..at + N]);
        u64::from_le_bytes(number)
    }

    fn at(&self, at: usize) -> usize {
        usize::try_from(self.number::<8>(at)).expect("an offset")
    }

    fn parts(&self) -> Vec<Part> {
        let (table, size, count) = (self.at(32), self.number::<2>(54), self.number::<2>(56));
        let part = |index| {
            let at = table + usize::try_from(index * size).expect("small");
            let word = |at| u32::try_from(self.number::<4>(at)).expect("32 bits");
            Part {
                kind: word(at),
                flags: word(at + 4),
                offset: self.at(at + 8),
                address: self.number::<8>(at + 16),
                size: self.at(at + 32),
                memory: self.number::<8>(at + 40),
            }
        };
        (0..count).map(part).collect()
    }

    fn dynamic(&self) -> Vec<(u64, u64)> {
        let parts = self.parts();
        let section = parts.iter().find(|part| part.kind == PT_DYNAMIC).expect("a dynamic section");
        let places = (section.offset..section.offset + section.size).step_by(16);
        places.map(|at| (self.number::<8>(at), self.number::<8>(at + 8))).collect()
    }
}

fn the_helper_is_loaded_anywhere_and_what_relocation_wrote_is_read_only(_: &World) {
    let program = Program::installed();
    assert_eq!(program.number::<2>(16), u64::from(ET_DYN), "position-independent");
    let parts = program.parts();
    for kind in [PT_INTERP, PT_TLS] {
        assert!(parts.iter().all(|part| part.kind != kind), "linked to something else: {parts:?}");
    }
    let relro = parts.iter().find(|part| part.kind == PT_GNU_RELRO).expect("RELRO");
    let dynamic = program.dynamic();
    let value = |tag| dynamic.iter().find(|entry| entry.0 == tag).map(|entry| entry.1);
    assert_eq!((value(DT_NEEDED), value(DT_TEXTREL)), (None, None), "{dynamic:x?}");
    let now = value(DT_FLAGS).is_some_and(|flags| flags & DF_BIND_NOW != 0);
    assert!(now || value(DT_FLAGS_1).is_some_and(|flags| flags & 1 != 0), "{dynamic:x?}");
    assert!(value(DT_FLAGS_1).is_some_and(|flags| flags & DF_1_NOW_PIE & !1 != 0), "not a PIE: {dynamic:x?}");
    // All that is writable besides is what the program writes while it runs: its heap, and little else.
    let writable = parts.iter().filter(|part| part.kind == PT_LOAD && part.is_writable());
    let within = |part: &&Part| part.address >= relro.address && part.address < relro.address + relro.memory;
    let initialized: usize = writable.filter(|part| !within(part)).map(|part| part.size).sum();
    assert!(initialized <= 64, "{initialized} bytes of initialized data stay writable: {parts:x?}");
}

fn no_part_of_the_helper_is_writable_and_executable(_: &World) {
    let parts = Program::installed().parts();
    assert!(parts.iter().all(|part| !(part.is_writable() && part.flags & 1 != 0)), "{parts:?}");
    let stack = parts.iter().find(|part| part.kind == PT_GNU_STACK).expect("a stack");
    assert_eq!(stack.flags & 1, 0, "the stack is executable");
}

fn the_helper_is_loaded_at_a_random_address(world: &World) {
    let mut addresses = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let strace = ["strace", "-u", "alice", "-o", "/tmp/address", "-e", "trace=mprotect", BINDER, "--version"];
        world.as_root().run(strace).succeeds();
        let trace = std::fs::read_to_string("/tmp/address").expect("a trace");
        let address =
            trace.split_once("mprotect(").and_then(|call| call.1.split_once(',')).expect("RELRO").0.to_owned();
        addresses.insert(address);
    }
    assert!(addresses.len() >= 3, "{addresses:?}");
}
