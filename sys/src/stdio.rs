//! The standard descriptors, borrowed. Programs of portgrant open each one that is closed, and never close one.

#[cfg(not(any(target_arch = "arm", target_arch = "x86")))]
use linux_raw_sys::general::__NR_fcntl as FCNTL;
#[cfg(any(target_arch = "arm", target_arch = "x86"))]
use linux_raw_sys::general::__NR_fcntl64 as FCNTL;
use linux_raw_sys::general::F_GETFD;
use rustix::fd::{BorrowedFd, IntoRawFd};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::call::call;

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

/// Opens a folder (O_PATH, close-on-exec) on each closed standard descriptor, so that no socket or file gets its
/// number. The program that is executed later finds these descriptors closed again. Call it before anything is opened.
///
/// # Errors
/// If one of them stays closed.
pub fn occupy_standard_descriptors() -> Result<(), Errno> {
    for number in 0..3 {
        // SAFETY: F_GETFD with any number only asks about it.
        if unsafe { call!(FCNTL, number, F_GETFD) } != Err(Errno::BADF) {
            continue;
        }
        let folder = open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        // It has the lowest number that was free, which is this one; it stays open.
        let _ = folder.into_raw_fd();
    }
    Ok(())
}
