//! The strings that execve(2) handed over.

use std::ffi::{CStr, c_char};

/// The strings to which `list` points.
///
/// # Safety
/// `list` is null, or points to pointers to NUL-ended strings that are never freed, the last pointer being null: argv and
/// envp as execve(2) lays them out.
pub unsafe fn strings(list: *const *const c_char) -> Vec<&'static CStr> {
    let mut strings = Vec::new();
    let mut next = list;
    // SAFETY: by the contract every pointer up to the null one may be read, and each but that is of such a string.
    while let Some(&pointer) = unsafe { next.as_ref() }
        && !pointer.is_null()
    {
        // SAFETY: not null, so by the contract a string.
        strings.push(unsafe { CStr::from_ptr(pointer) });
        next = next.wrapping_add(1);
    }
    strings
}
