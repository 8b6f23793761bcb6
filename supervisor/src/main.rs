//! The program `portgrant-supervisor`: the C entry point. All else is in the library.

#![no_main]
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int};

use portgrant_supervisor::Start;

/// Where the program starts.
///
/// # Safety
/// Called once, by the C library, with argv and envp as execve(2) laid them out.
// SAFETY: the one `main` of this program, with the signature that the C library calls.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(argc: c_int, argv: *const *const c_char, envp: *const *const c_char) -> c_int {
    // SAFETY: these are `main`'s, and nothing has run before.
    portgrant_supervisor::run(unsafe { Start::from_main(argc, argv, envp) }).into()
}
