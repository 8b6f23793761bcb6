//! The standard descriptors, borrowed. Programs of portgrant see to it that each of them is open, and close none.

use rustix::fd::BorrowedFd;

/// Standard output.
#[must_use]
pub fn stdout() -> BorrowedFd<'static> {
    // SAFETY: descriptor 1 is open until the process ends: what the caller had there, or what was put there at the start.
    unsafe { BorrowedFd::borrow_raw(1) }
}

/// Standard error.
#[must_use]
pub fn stderr() -> BorrowedFd<'static> {
    // SAFETY: as for descriptor 1.
    unsafe { BorrowedFd::borrow_raw(2) }
}
