//! The program `portgrant`: the C entry point, and the one place with unsafe code. All else is in the library.
//!
//! Why not `fn main`: Rust's runtime sets SIGPIPE to ignored before it, and what the caller had can then not be told any
//! more. The program that is executed must find every signal as the caller left it.

#![no_main]
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;

use portgrant_launcher::Start;
use portgrant_sys::strings;

/// Where the program starts.
///
/// # Safety
/// Called once, by the C library, with argv and envp as execve(2) laid them out.
// SAFETY: the one `main` of this program, with the signature that the C library calls.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(argc: c_int, argv: *const *const c_char, envp: *const *const c_char) -> c_int {
    // SAFETY: execve(2) lays out pointers to NUL-ended strings, the last pointer null. Nothing has written to them since,
    // and no other thread runs.
    let (arguments, environment) = unsafe { (strings(argv), strings(envp)) };
    let environment: Vec<CString> = environment.into_iter().map(CStr::to_owned).collect();
    let arguments = arguments.into_iter().take(usize::try_from(argc).unwrap_or(0));
    let arguments: Vec<OsString> = arguments.map(|word| OsStr::from_bytes(word.to_bytes()).to_owned()).collect();
    portgrant_launcher::run(Start { arguments, environment }).into()
}
