//! The start of a program without a C library, on x86-64 and aarch64: what runs between execve(2) and the program's own
//! first line, and what compiled Rust expects of a C library.
//!
//! In a set-user-ID program all of this runs with privilege. So it is short, and it looks at nothing that the caller of
//! execve(2) chose: it reads what it needs from the numbers that the kernel puts on the stack.
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
pub use stack::Process;
