//! What the kernel puts on the stack of a new program (execve(2), getauxval(3)): a count, argv, a null pointer, envp, a null
//! pointer, then pairs of a kind and a value, the last of kind 0.

use core::ffi::{CStr, c_char};

use linux_raw_sys::auxvec::{AT_GID, AT_PAGESZ, AT_UID};
use portgrant_sys::{Word, words};

/// A process as execve(2) started it.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    /// argv, as many as the kernel counted
    pub arguments: &'static [Word<'static>],
    /// envp, byte for byte as the caller gave it
    pub environment: &'static [Word<'static>],
    /// The real uid (AT_UID)
    pub uid: u32,
    /// The real gid (AT_GID)
    pub gid: u32,
    /// The size of a page (AT_PAGESZ)
    pub page: usize,
}

impl Process {
    /// Reads the stack. `None` if the kernel's numbers are missing.
    ///
    /// # Safety
    /// `stack` is the stack pointer at the first instruction of the process, and nothing has been written from there on.
    #[must_use]
    pub unsafe fn read(stack: *const usize) -> Option<Process> {
        // SAFETY: by the contract: the count, so many pointers and a null pointer; each is a string that lives as long as
        // the process.
        let arguments = unsafe { words(stack.add(1).cast::<*const c_char>()) };
        // SAFETY: the second list follows the first one's null pointer.
        let environment = unsafe { words(stack.add(arguments.len() + 2).cast::<*const c_char>()) };
        // SAFETY: the auxiliary vector follows the second list's null pointer.
        let mut pair = unsafe { stack.add(arguments.len() + environment.len() + 3) };
        let (mut uid, mut gid, mut page) = (None, None, None);
        loop {
            if let (Some(uid), Some(gid), Some(page)) = (uid, gid, page) {
                return Some(Process { arguments, environment, uid, gid, page });
            }
            // SAFETY: pairs up to the one of kind 0, AT_NULL, which ends the loop.
            let (kind, value) = unsafe { (pair.read(), pair.add(1).read()) };
            match u32::try_from(kind) {
                Ok(0) => return None,
                Ok(AT_UID) => uid = u32::try_from(value).ok(),
                Ok(AT_GID) => gid = u32::try_from(value).ok(),
                Ok(AT_PAGESZ) => page = Some(value),
                _ => {}
            }
            // SAFETY: as above.
            pair = unsafe { pair.add(2) };
        }
    }

    /// argv as strings.
    pub fn argument_strings(&self) -> impl Iterator<Item = &'static CStr> {
        self.arguments.iter().map(|word| word.to_c_str())
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use proptest::prelude::*;

    use super::*;

    const UID: usize = AT_UID as usize;
    const GID: usize = AT_GID as usize;
    const PAGE: usize = AT_PAGESZ as usize;

    /// A stack, whose strings are never freed.
    fn stack(arguments: &[CString], environment: &[CString], pairs: &[(usize, usize)]) -> Vec<usize> {
        let strings = |list: &[CString]| -> Vec<usize> {
            list.iter().map(|string| string.clone().into_raw().expose_provenance()).chain([0]).collect()
        };
        let mut stack = vec![arguments.len()];
        stack.extend(strings(arguments));
        stack.extend(strings(environment));
        stack.extend(pairs.iter().flat_map(|&(kind, value)| [kind, value]));
        stack.extend([0, 0]);
        stack
    }

    fn read(arguments: &[CString], environment: &[CString], pairs: &[(usize, usize)]) -> Option<Process> {
        // SAFETY: laid out as the kernel does, and never freed.
        unsafe { Process::read(stack(arguments, environment, pairs).leak().as_ptr()) }
    }

    #[test]
    fn a_process_without_argv_and_without_environment_is_read() {
        let process = read(&[], &[], &[(3, 1), (UID, 7), (PAGE, 4096), (GID, 8), (99, 9)]).expect("complete");
        assert_eq!((process.uid, process.gid, process.page), (7, 8, 4096));
        assert!(process.arguments.is_empty() && process.environment.is_empty());
    }

    #[test]
    fn an_auxiliary_vector_without_ids_is_rejected() {
        for missing in [UID, GID, PAGE] {
            let pairs: Vec<_> =
                [(UID, 0), (GID, 0), (PAGE, 4096)].into_iter().filter(|pair| pair.0 != missing).collect();
            assert!(read(&[], &[], &pairs).is_none(), "{missing}");
        }
        assert!(read(&[], &[], &[(UID, usize::MAX), (GID, 0), (PAGE, 4096)]).is_none(), "not an id");
    }

    proptest! {
        #[test]
        fn every_string_is_found_where_it_is(
            arguments in proptest::collection::vec("[ -~]{0,20}", 0..8),
            environment in proptest::collection::vec("[ -~]{0,20}", 0..8),
            (uid, gid) in (0..u32::MAX, 0..u32::MAX),
            at in 0..3usize,
        ) {
            let strings = |list: &[String]| -> Vec<CString> {
                list.iter().map(|string| CString::new(string.as_str()).expect("no NUL")).collect()
            };
            let (arguments, environment) = (strings(&arguments), strings(&environment));
            let mut pairs = vec![(UID, uid as usize), (GID, gid as usize), (PAGE, 65536)];
            pairs.rotate_left(at);
            let process = read(&arguments, &environment, &pairs).expect("complete");
            prop_assert_eq!((process.uid, process.gid, process.page), (uid, gid, 65536));
            let found: Vec<CString> = process.argument_strings().map(CStr::to_owned).collect();
            prop_assert_eq!(found, arguments);
            let found: Vec<CString> = process.environment.iter().map(|word| word.to_c_str().to_owned()).collect();
            prop_assert_eq!(found, environment);
        }
    }
}
