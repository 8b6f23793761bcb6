//! The strings that execve(2) handed over, where it put them.

use alloc::vec::Vec;
use core::ffi::{CStr, c_char};
use core::marker::PhantomData;
use core::ptr::NonNull;

/// The address of a NUL-ended string of argv or envp. Its length is not known; each method reads only as far as it
/// must.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct Word<'a>(NonNull<c_char>, PhantomData<&'a CStr>);

impl<'a> From<&'a CStr> for Word<'a> {
    fn from(string: &'a CStr) -> Word<'a> {
        Word(NonNull::from(string).cast(), PhantomData)
    }
}

impl<'a> Word<'a> {
    /// The whole string.
    #[must_use]
    pub fn to_c_str(self) -> &'a CStr {
        // SAFETY: every Word is made of a string that lives for 'a.
        unsafe { CStr::from_ptr(self.0.as_ptr()) }
    }

    /// What follows `prefix`, if the string begins with it. `prefix` holds no NUL.
    #[must_use]
    pub fn strip_prefix(self, prefix: &[u8]) -> Option<Word<'a>> {
        let mut rest = self.0.cast::<u8>();
        for &byte in prefix {
            // SAFETY: no byte before this one was the NUL, since each was equal to one of `prefix` that is not NUL.
            let found = unsafe { rest.read() };
            if byte == 0 || found != byte {
                return None;
            }
            // SAFETY: as above: `found` is not the NUL, so the string goes on.
            rest = unsafe { rest.add(1) };
        }
        Some(Word(rest.cast(), PhantomData))
    }

    /// The value, if it is the variable `name` (`NAME=VALUE`).
    #[must_use]
    pub fn value_of(self, name: &str) -> Option<Word<'a>> {
        self.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
    }

    pub(crate) fn as_ptr(self) -> *const c_char {
        self.0.as_ptr()
    }
}

/// The entries of `environment`, unchanged, without the variables `names`.
pub fn without<'a>(environment: &'a [Word<'a>], names: &'a [&str]) -> impl Iterator<Item = Word<'a>> {
    environment.iter().filter(|entry| names.iter().all(|name| entry.value_of(name).is_none())).copied()
}

/// The strings to which `list` points.
///
/// # Safety
/// `list` is null, or points to pointers to NUL-ended strings that are never freed nor written to, the last pointer being
/// null: argv and envp as execve(2) lays them out. The pointers are not written to either.
#[must_use]
pub unsafe fn words(list: *const *const c_char) -> &'static [Word<'static>] {
    if list.is_null() {
        return &[];
    }
    let mut len = 0;
    // SAFETY: by the contract every pointer up to the null one may be read.
    while !unsafe { list.add(len).read() }.is_null() {
        len += 1;
    }
    // SAFETY: `len` pointers, none of them null, each of a string that is never freed: that is what a Word is, with the
    // layout of a pointer (repr(transparent)).
    unsafe { core::slice::from_raw_parts(list.cast(), len) }
}

/// The same, with their lengths.
///
/// # Safety
/// As [`words`].
#[must_use]
pub unsafe fn strings(list: *const *const c_char) -> Vec<&'static CStr> {
    // SAFETY: by the same contract.
    unsafe { words(list) }.iter().map(|word| word.to_c_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_ends_at_its_null_pointer() {
        let list = [c"a=1".as_ptr(), c"".as_ptr(), c"b".as_ptr(), core::ptr::null(), c"beyond".as_ptr()];
        // SAFETY: strings of the program itself, and a null pointer at the end.
        let found = unsafe { strings(list.as_ptr()) };
        assert_eq!(found, [c"a=1", c"", c"b"]);
        // SAFETY: nothing is read of a null list.
        assert!(unsafe { words(core::ptr::null()) }.is_empty());
    }

    #[test]
    fn a_prefix_is_compared_within_the_string() {
        let word = Word::from(c"PATH=/bin");
        let rest = |prefix: &[u8]| word.strip_prefix(prefix).map(|rest| rest.to_c_str().to_bytes());
        assert_eq!(rest(b"PATH="), Some(&b"/bin"[..]));
        assert_eq!(rest(b"PATH=/bin"), Some(&b""[..]));
        for other in [&b"PATH=/bin\0"[..], b"PATH=/bin/x", b"path=", b"\0"] {
            assert_eq!(rest(other), None, "{other:?}");
        }
        assert_eq!(rest(b""), Some(&b"PATH=/bin"[..]));
        let value = |name| word.value_of(name).map(|value| value.to_c_str().to_bytes());
        assert_eq!((value("PATH"), value("PAT"), value("PATH=")), (Some(&b"/bin"[..]), None, None));
        let entries = [word, c"PATHS=1".into(), c"PATH".into(), c"A=".into()];
        let left: Vec<_> = without(&entries, &["A", "PATH"]).map(Word::to_c_str).collect();
        assert_eq!(left, [c"PATHS=1", c"PATH"]);
    }
}
