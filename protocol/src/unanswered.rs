//! Why the helper ended without an answer, if its exit status shows that.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use crate::status;

/// The number on x86 and Arm.
const SIGSYS: i32 = 31;
const UNIT_LINE: &str = "in a unit of systemd, add the line SystemCallFilter=capset @setuid";

/// The reason and the fix, if a system call filter is the likely reason.
#[must_use]
pub fn reason(ended: ExitStatus) -> Option<(&'static str, &'static str)> {
    if ended.signal() == Some(SIGSYS) {
        Some(("a system call filter killed it (SIGSYS)", UNIT_LINE))
    } else if ended.code() == Some(status::SYSTEM.into()) {
        Some((
            "it ended with status 71 and no answer, as it does if a system call filter keeps it from giving up its privilege",
            UNIT_LINE,
        ))
    } else {
        None
    }
}
