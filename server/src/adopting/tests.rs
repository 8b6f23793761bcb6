//! Descriptors as if they had been inherited.

use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd, RawFd};

use portgrant_sys::inherited::is_inherited;
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

/// Puts `descriptor` at `number` as if it had been inherited: without an owner, and not close-on-exec.
pub(crate) fn leave_at(number: RawFd, descriptor: impl AsFd) {
    let copy: OwnedFd = fcntl_dupfd_cloexec(descriptor, number).expect("a duplicate");
    assert_eq!(copy.as_raw_fd(), number, "each test uses numbers that no other test uses");
    fcntl_setfd(&copy, FdFlags::empty()).expect("open");
    let _ = copy.into_raw_fd();
}

/// Whether the number can still be taken.
pub(crate) fn is_left_at(number: RawFd) -> bool {
    is_inherited(number)
}
