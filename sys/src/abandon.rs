//! The last words of a program that cannot go on.

use linux_raw_sys::general::__NR_write;
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::call::call;
use crate::ids::{getresgid, getresuid};

/// Writes a message of three lines to standard error, without privilege: capabilities are given up first, and a process that
/// has another uid or gid in any place writes nothing. Whoever reads it may make it wait.
pub fn give_up(what: &str, why: &str, fix: &str) {
    let none = CapabilitySet::empty();
    let given_up =
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none }).is_ok();
    let of_one =
        |ids: Result<[u32; 3], _>| ids.is_ok_and(|[real, effective, saved]| real == effective && real == saved);
    if given_up && of_one(getresuid()) && of_one(getresgid()) {
        for text in ["portgrant-binder: ", what, "\n  why: ", why, "\n  fix: ", fix, "\n"] {
            // SAFETY: the kernel reads the bytes of `text`.
            let _ = unsafe { call!(__NR_write, 2, text.as_ptr(), text.len()) };
        }
    }
}
