//! The C entry point of a program: its arguments and environment, before Rust's runtime has changed anything.
//!
//! Why not `fn main`: Rust's runtime ignores SIGPIPE before it calls `main`, so a program could no longer find out what its
//! caller had set. A program that is executed later must find every signal as the caller left it.

use std::borrow::ToOwned;
use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::vec::Vec;

use crate::strings;

/// The arguments of execve(2).
#[derive(Debug)]
pub struct Start {
    /// argv
    pub arguments: Vec<OsString>,
    /// envp, byte for byte
    pub environment: Vec<CString>,
}

impl Start {
    /// The arguments of C's `main`.
    ///
    /// # Safety
    /// They are those of this program's `main`, and nothing has written to them since.
    #[must_use]
    pub unsafe fn from_main(argc: c_int, argv: *const *const c_char, envp: *const *const c_char) -> Start {
        // SAFETY: execve(2) lays out pointers to NUL-ended strings, the last pointer null; the rest is the caller's promise.
        let (arguments, environment) = unsafe { (strings(argv), strings(envp)) };
        let arguments = arguments.into_iter().take(usize::try_from(argc).unwrap_or(0));
        Start {
            arguments: arguments.map(|word| OsStr::from_bytes(word.to_bytes()).to_owned()).collect(),
            environment: environment.into_iter().map(CStr::to_owned).collect(),
        }
    }
}

/// Makes `$run`, of type `fn(Start) -> u8`, the program. With `one thread:` it is of type `fn(Start, OnlyThread) -> u8`, and
/// the program must never start a second thread. The program's file has `#![no_main]`.
#[macro_export]
macro_rules! main {
    (one thread: $run:expr) => {
        $crate::main!(|start| {
            #[allow(unsafe_code)]
            // SAFETY: nothing has run before, and the program promises to start no thread.
            let only_thread = unsafe { $crate::OnlyThread::promised() };
            $run(start, only_thread)
        });
    };
    ($run:expr) => {
        // SAFETY: the only `main` of this program, with the signature that the C library calls.
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        extern "C" fn main(
            argc: ::core::ffi::c_int,
            argv: *const *const ::core::ffi::c_char,
            envp: *const *const ::core::ffi::c_char,
        ) -> ::core::ffi::c_int {
            let run: fn($crate::Start) -> u8 = $run;
            // SAFETY: the C library calls this once, with what execve(2) laid out, and nothing has run before.
            run(unsafe { $crate::Start::from_main(argc, argv, envp) }).into()
        }
    };
}
