//! Pages of memory (mmap(2)), their protection, and the end of the process.

use core::ptr::NonNull;

use linux_raw_sys::general::{
    __NR_exit_group, __NR_mprotect, __NR_mremap, __NR_munmap, MAP_ANONYMOUS, MAP_PRIVATE, MREMAP_MAYMOVE, PROT_READ,
    PROT_WRITE,
};
use rustix::io::Errno;

use crate::call::call;

#[cfg(not(any(target_arch = "arm", target_arch = "x86")))]
use linux_raw_sys::general::__NR_mmap as MMAP;
#[cfg(any(target_arch = "arm", target_arch = "x86"))]
use linux_raw_sys::general::__NR_mmap2 as MMAP;

/// New pages for `len` bytes, all zero.
#[must_use]
pub fn map(len: usize) -> Option<NonNull<u8>> {
    // SAFETY: at an address of the kernel's choice, so nothing that is there already is changed.
    let address = unsafe { call!(MMAP, 0usize, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0usize) };
    NonNull::new(core::ptr::with_exposed_provenance_mut(address.ok()?))
}

/// The same pages, with room for `len` bytes, perhaps elsewhere; `None` leaves them as they are.
///
/// # Safety
/// `pages` and `old` are what [`map`] or this function gave, and nothing else refers to them.
#[must_use]
pub unsafe fn remap(pages: NonNull<u8>, old: usize, len: usize) -> Option<NonNull<u8>> {
    // SAFETY: by the contract they are the caller's to move.
    let address = unsafe { call!(__NR_mremap, pages.as_ptr(), old, len, MREMAP_MAYMOVE) };
    NonNull::new(core::ptr::with_exposed_provenance_mut(address.ok()?))
}

/// Gives pages back.
///
/// # Safety
/// As [`remap`]; they are gone then.
pub unsafe fn unmap(pages: NonNull<u8>, len: usize) {
    // SAFETY: by the contract they are the caller's to give back.
    let _ = unsafe { call!(__NR_munmap, pages.as_ptr(), len) };
}

/// Makes pages read-only.
///
/// # Safety
/// Nothing writes to them from now on.
pub unsafe fn protect(pages: *mut u8, len: usize) -> Result<(), Errno> {
    // SAFETY: by the contract; a page that is only read stays as it is.
    unsafe { call!(__NR_mprotect, pages, len, PROT_READ) }.map(drop)
}

/// Ends the process.
pub fn exit(status: u8) -> ! {
    loop {
        // SAFETY: takes a number, and does not return.
        let _ = unsafe { call!(__NR_exit_group, u32::from(status)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_grow_and_keep_their_bytes() {
        let pages = map(4096).expect("a page");
        // SAFETY: one page of this test's own, then five.
        unsafe {
            pages.add(4095).write(7);
            let grown = remap(pages, 4096, 5 * 4096).expect("five pages");
            assert_eq!((grown.add(4095).read(), grown.add(5 * 4096 - 1).read()), (7, 0));
            assert_eq!(protect(grown.as_ptr(), 4096), Ok(()));
            assert_eq!(protect(grown.as_ptr().wrapping_add(1), 4096), Err(Errno::INVAL));
            unmap(grown, 5 * 4096);
        }
        assert_eq!(map(0), None);
        assert_eq!(map(usize::MAX / 2), None);
    }
}
