//! execve(2). Strings are not copied; only the list of their addresses is.

use alloc::vec::Vec;
use core::ffi::CStr;

use linux_raw_sys::general::__NR_execve;
use rustix::io::Errno;

use crate::call::{NULL, call};
use crate::strings::Word;

/// Executes the file at `path`. Returns only if that failed.
///
/// Unlike execvp(3) it never falls back to /bin/sh, and it does not change signals.
#[must_use]
pub fn execve(path: &CStr, arguments: &[Word<'_>], environment: &[Word<'_>]) -> Errno {
    let (arguments, environment) = (list(arguments), list(environment));
    // SAFETY: a string and two lists of strings, each list ended by a null pointer; all of it lives across the call, and
    // the kernel only reads it.
    match unsafe { call!(__NR_execve, path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) } {
        Err(errno) => errno,
        // execve(2) does not return unless it failed.
        Ok(_) => Errno::NOSYS,
    }
}

/// Their addresses, and a null pointer.
pub(crate) fn list(words: &[Word<'_>]) -> Vec<*const u8> {
    words.iter().map(|word| word.as_ptr().cast()).chain([NULL]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_an_error_number() {
        assert_eq!(execve(c"/nonexistent/program", &[c"x".into()], &[]), Errno::NOENT);
        assert_eq!(execve(c"/etc/passwd", &[c"x".into()], &[]), Errno::ACCESS);
    }
}
