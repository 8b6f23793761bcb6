//! The start of the program, and the helper's other unsafe code: the environment as execve(2) left it, and descriptors
//! that the caller names by number.
//!
//! On x86-64 and aarch64 the helper's first instructions are those of `portgrant-startup` (cfg(bare)), and no C library
//! is linked. Elsewhere the C library starts first. Both starts get the caller's real ids from the kernel, and then run
//! the same code, whose first step gives up privilege. Nothing that a program inherits is changed here.
#![allow(unsafe_code)]

use alloc::vec::Vec;
use core::ffi::CStr;

use portgrant_sys::Word;
use rustix::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The arguments of execve(2).
pub(crate) struct Start {
    /// argv
    pub(crate) arguments: Vec<&'static CStr>,
    /// envp, byte for byte
    pub(crate) environment: &'static [Word<'static>],
}

/// The helper continues here after its first instructions.
// SAFETY: the one function of this name, with the signature that `portgrant-startup` calls.
#[cfg(bare)]
#[unsafe(no_mangle)]
fn portgrant_main(process: portgrant_startup::Process) -> u8 {
    crate::run(process.uid, process.gid, || Start {
        arguments: process.argument_strings().collect(),
        environment: process.environment,
    })
}

// SAFETY: the one static of this name, of the type that `portgrant-startup` reads.
#[cfg(bare)]
#[unsafe(no_mangle)]
static PORTGRANT_NAME: &str = "portgrant-binder";

#[cfg(not(bare))]
mod c_library;

/// The caller's descriptor `number`, which they name on the command line; `None` if it is not open.
pub(crate) fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: not -1, and F_GETFD with any number only asks about it.
    if number < 0 || unsafe { rustix::io::fcntl_getfd(BorrowedFd::borrow_raw(number)) }.is_err() {
        return None;
    }
    // SAFETY: it is open, and was open when this program started (all that this program has opened are the folders on
    // closed standard descriptors, which have no owner); called once, for one number.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}
