//! The final message of a program that cannot continue.

use linux_raw_sys::general::__NR_write;
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, set_capabilities, set_thread_res_gid, set_thread_res_uid,
};

use crate::call::call;
use crate::ids::{getresgid, getresuid};

/// Gives up all remaining privilege after a failure. Returns whether all of it is gone: no capability, and the real ids
/// in every slot. If not, the program must not write anything: a reader could make it wait.
#[must_use]
pub fn abandon() -> bool {
    let none = CapabilitySet::empty();
    let given_up =
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none }).is_ok();
    // The result of these calls is read back below.
    if let (Ok([uid, ..]), Ok([gid, ..])) = (getresuid(), getresgid()) {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let _ = set_thread_res_gid(gid, gid, gid);
        let _ = set_thread_res_uid(uid, uid, uid);
    }
    let of_one =
        |ids: Result<[u32; 3], _>| ids.is_ok_and(|[real, effective, saved]| real == effective && real == saved);
    given_up && of_one(getresuid()) && of_one(getresgid())
}

/// Writes a message of three lines to standard error, as `program`, if [`abandon`] gives all privilege up.
pub fn give_up(program: &str, what: &str, why: &str, fix: &str) {
    if abandon() {
        for text in [program, ": ", what, "\n  why: ", why, "\n  fix: ", fix, "\n"] {
            // SAFETY: the kernel reads the bytes of `text`.
            let _ = unsafe { call!(__NR_write, 2, text.as_ptr(), text.len()) };
        }
    }
}
