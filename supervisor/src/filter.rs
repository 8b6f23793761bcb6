//! The system call filter. It only reports bind(2), in each ABI of the machine.
//!
//! A classic BPF program over `struct seccomp_data` (seccomp(2)). It adds about 50 ns to each other call. It is not a
//! security boundary: without it the program has only its own rights.

use portgrant_sys::seccomp::Instruction;

/// How an ABI calls bind(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A separate call
    Direct,
    /// By socketcall(2): the arguments are three words of 32 bits in the caller's memory
    Socketcall,
}

/// (AUDIT_ARCH_*, number of the call, form)
#[cfg(target_arch = "x86_64")]
const CALLS: &[(u32, u32, Form)] = &[
    (0xC000_003E, 49, Form::Direct),
    (0xC000_003E, 0x4000_0031, Form::Direct), // x32
    (0x4000_0003, 361, Form::Direct),
    (0x4000_0003, 102, Form::Socketcall),
];
#[cfg(target_arch = "aarch64")]
const CALLS: &[(u32, u32, Form)] = &[(0xC000_00B7, 200, Form::Direct), (0x4000_0028, 282, Form::Direct)];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const CALLS: &[(u32, u32, Form)] = &[];

/// SYS_BIND of linux/net.h
pub(crate) const SOCKETCALL_BIND: u32 = 2;

const ALLOW: u32 = 0x7fff_0000;
const NOTIFY: u32 = 0x7fc0_0000;

/// Offsets in `struct seccomp_data`; the low half of the first argument (both machines are little-endian).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

/// Whether the calls of this architecture are known.
pub(crate) fn is_known_machine() -> bool {
    !CALLS.is_empty()
}

/// The form of a call, or `None` if the filter does not report it.
pub(crate) fn form(architecture: u32, call: i32) -> Option<Form> {
    let call = u32::from_ne_bytes(call.to_ne_bytes());
    CALLS.iter().find(|known| (known.0, known.1) == (architecture, call)).map(|known| known.2)
}

/// The filter: five or seven instructions for each known call.
pub(crate) fn program() -> Vec<Instruction> {
    let load = |k| Instruction { code: 0x20, jt: 0, jf: 0, k }; // BPF_LD | BPF_W | BPF_ABS
    let equal = |k, jf| Instruction { code: 0x15, jt: 0, jf, k }; // BPF_JMP | BPF_JEQ | BPF_K
    let end = |k| Instruction { code: 0x06, jt: 0, jf: 0, k }; // BPF_RET | BPF_K
    let mut program = Vec::new();
    for &(architecture, call, form) in CALLS {
        match form {
            Form::Direct => {
                program.extend([load(ARCHITECTURE), equal(architecture, 3), load(NUMBER), equal(call, 1), end(NOTIFY)]);
            }
            Form::Socketcall => program.extend([
                load(ARCHITECTURE),
                equal(architecture, 5),
                load(NUMBER),
                equal(call, 3),
                load(FIRST_ARGUMENT),
                equal(SOCKETCALL_BIND, 1),
                end(NOTIFY),
            ]),
        }
    }
    program.push(end(ALLOW));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets the filter as the kernel does, for the instructions that it uses.
    fn outcome(program: &[Instruction], architecture: u32, call: u32, argument: u32) -> u32 {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let i = program[at];
            at += 1;
            match (i.code, i.k) {
                (0x20, NUMBER) => loaded = call,
                (0x20, ARCHITECTURE) => loaded = architecture,
                (0x20, FIRST_ARGUMENT) => loaded = argument,
                (0x15, k) => at += usize::from(if loaded == k { i.jt } else { i.jf }),
                (0x06, k) => return k,
                _ => panic!("{i:?}"),
            }
        }
    }

    #[test]
    fn the_filter_reports_every_bind_and_nothing_else() {
        let program = program();
        for &(architecture, call, form) in CALLS {
            assert_eq!(outcome(&program, architecture, call, SOCKETCALL_BIND), NOTIFY);
            let other = if form == Form::Direct { NOTIFY } else { ALLOW };
            assert_eq!(outcome(&program, architecture, call, 1), other, "listen, say");
            for call in [0, 41, 50, 231, 360, 0x4000_0000] {
                assert_eq!(outcome(&program, architecture, call, SOCKETCALL_BIND), ALLOW);
            }
        }
        assert_eq!(outcome(&program, 0x1234, 49, 2), ALLOW, "a machine that is not known");
        #[cfg(target_arch = "x86_64")]
        {
            assert_eq!(outcome(&program, 0x4000_0003, 49, 2), ALLOW, "49 is another call in the 32-bit ABI");
            assert_eq!(outcome(&program, 0xC000_003E, 361, 2), ALLOW);
        }
    }
}
