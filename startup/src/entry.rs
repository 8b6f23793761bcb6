//! The first instructions of the program, its end, and other symbols that compiled Rust needs.

use core::arch::global_asm;
use core::panic::PanicInfo;

use portgrant_sys::{exit, give_up, protect};

use crate::heap::Heap;
use crate::relocate::{Dynamic, relocate, relro};
use crate::stack::Process;

unsafe extern "Rust" {
    /// The program itself. Its result is the exit status.
    // SAFETY: defined by the program, by this very signature; the linker refuses one that is not defined.
    safe fn portgrant_main(process: Process) -> u8;
    /// Its name.
    // SAFETY: as above.
    safe static PORTGRANT_NAME: &'static str;
}

/// The exit status if no message can be printed: EX_OSERR of sysexits.h.
const FAILED: u8 = 71;

#[global_allocator]
static HEAP: Heap = Heap::new();

// The stack pointer points to the kernel's data, and is a multiple of 16. A frame without a caller ends every
// backtrace.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".hidden __ehdr_start",
    ".hidden _DYNAMIC",
    ".globl _start",
    ".type _start, @function",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "lea rsi, [rip + __ehdr_start]",
    "lea rdx, [rip + _DYNAMIC]",
    "and rsp, -16",
    "call {start}",
    "ud2",
    start = sym start,
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".hidden __ehdr_start",
    ".hidden _DYNAMIC",
    ".globl _start",
    ".type _start, %function",
    "_start:",
    "mov x29, #0",
    "mov x30, #0",
    "mov x0, sp",
    "adrp x1, __ehdr_start",
    "add x1, x1, :lo12:__ehdr_start",
    "adrp x2, _DYNAMIC",
    "add x2, x2, :lo12:_DYNAMIC",
    "bl {start}",
    "brk #1",
    start = sym start,
);

#[cfg(target_arch = "x86_64")]
macro_rules! trap {
    () => {
        "ud2"
    };
}
#[cfg(target_arch = "aarch64")]
macro_rules! trap {
    () => {
        "brk #1"
    };
}

// The library alloc is compiled for unwinding and refers to these two symbols. A program that aborts never calls them.
global_asm!(
    ".globl _Unwind_Resume",
    ".hidden _Unwind_Resume",
    ".globl rust_eh_personality",
    ".hidden rust_eh_personality",
    "_Unwind_Resume:",
    "rust_eh_personality:",
    trap!(),
);

// The compiler's functions for atomic instructions on aarch64, as rustup has them, ask for the processor's features in a
// constructor. None is called here, so they use the instructions that every processor has.
#[cfg(target_arch = "aarch64")]
global_asm!(".globl getauxval", ".hidden getauxval", "getauxval:", trap!());

/// After the first instructions.
///
/// # Safety
/// Called once: by them.
unsafe extern "C" fn start(stack: *const usize, base: *mut u8, dynamic: *const Dynamic) -> ! {
    // SAFETY: the linker's own names of the file's beginning and of its dynamic section; nothing was used of its data yet.
    if !unsafe { relocate(base, dynamic) } {
        exit(FAILED);
    }
    // SAFETY: the stack as the kernel left it: the first instructions wrote nothing to it, and this function writes below.
    let Some(process) = (unsafe { Process::read(stack) }) else { exit(FAILED) };
    // SAFETY: the file's ELF header is where the file begins, and its program headers are behind it.
    let (pages, len) = unsafe { relro(base, process.page) };
    // SAFETY: the linker put there what is written by relocation alone.
    if len != 0 && unsafe { protect(pages, len) }.is_err() {
        exit(FAILED);
    }
    exit(portgrant_main(process))
}

/// A panic, or no more memory: gives up privilege, prints a fixed message, and ends.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    let what = "internal error";
    give_up(
        PORTGRANT_NAME,
        what,
        "memory is short, or the program has a defect",
        "see that memory is free (ulimit -v), or report it",
    );
    exit(FAILED)
}
