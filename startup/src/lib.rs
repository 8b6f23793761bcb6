//! The start of a program without a C library, on x86-64 and aarch64: the code between execve(2) and the program's
//! first line, and the functions that compiled Rust expects from a C library.
//!
//! In a set-user-ID program all of this runs with privilege. So it is short, and depends on nothing that the caller of
//! execve(2) chose: it only reads numbers that the kernel puts on the stack.
//!
//! | file | what |
//! |---|---|
//! | `entry.rs` | the first instructions; relocation, RELRO, then `portgrant_main`; the end; what a panic does |
//! | `relocate.rs` | adds the load address to each pointer that the linker left in the file |
//! | `stack.rs` | argc, argv, envp and the auxiliary vector |
//! | `heap.rs` | the allocator |
//! | `memory/` | memcpy, memmove, memset, memcmp, bcmp, strlen |
//!
//! The functions are exported, and the program starts here, if cfg(bare) is set. Without it they are an ordinary library,
//! whose tests run on std.

#![cfg_attr(not(test), no_std)]
#![allow(unsafe_code)]

#[cfg(bare)]
mod entry;
pub mod heap;
pub mod relocate;
pub mod stack;

#[cfg(bare)]
use portgrant_memory as _;
pub use portgrant_sys::words;
pub use stack::Process;

/// Makes `$run`, of type `fn(&'static [Word<'static>], &'static [Word<'static>]) -> u8`, the program, called `$name`: it gets
/// argv and envp, and its result is the exit status. For a program without privilege. The program's file has `#![no_main]`.
/// Without cfg(bare) the C library starts first.
#[macro_export]
macro_rules! main {
    ($name:literal, $run:path) => {
        // SAFETY: the one function of this name, with the signature that the start calls.
        #[cfg(bare)]
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        fn portgrant_main(process: $crate::Process) -> u8 {
            $run(process.arguments, process.environment)
        }

        // SAFETY: the one static of this name, of the type that the start reads.
        #[cfg(bare)]
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        static PORTGRANT_NAME: &str = $name;

        // SAFETY: the only `main` of this program, with the signature that the C library calls.
        #[cfg(not(bare))]
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        extern "C" fn main(
            _: ::core::ffi::c_int,
            argv: *const *const ::core::ffi::c_char,
            envp: *const *const ::core::ffi::c_char,
        ) -> ::core::ffi::c_int {
            // SAFETY: the C library calls this once, with what execve(2) laid out: pointers to strings that live as long as
            // the process, and a null pointer.
            let (arguments, environment) = unsafe { ($crate::words(argv), $crate::words(envp)) };
            $run(arguments, environment).into()
        }
    };
}
