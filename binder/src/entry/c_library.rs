//! The start by the C library, on processors other than x86-64 and aarch64, and in builds of the whole workspace.
//!
//! Why not `fn main`: Rust's runtime sets SIGPIPE to ignored first, and then the program cannot find out what the caller had set.

use std::ffi::{CStr, c_char, c_int, c_ulong};

use portgrant_sys::{Word, words};

use super::Start;

/// The file's name, where execve(2) put it (getauxval(3)).
const AT_EXECFN: c_ulong = 31;

unsafe extern "C" {
    fn getauxval(kind: c_ulong) -> c_ulong;
}

/// Where the helper starts, called by the C library.
// SAFETY: the one `main` of this program, with the signature that the C library calls.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn main(argc: c_int, argv: *const *const c_char, envp: *const *const c_char) -> c_int {
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    crate::run(uid.as_raw(), gid.as_raw(), || {
        // SAFETY: the C library passes argv and envp as execve(2) laid them out: pointers to strings that live as long
        // as the process, ended by a null pointer. Nothing has written to them since.
        let (arguments, pointed) = unsafe { (words(argv), words(envp)) };
        let arguments = arguments.iter().take(usize::try_from(argc).unwrap_or(0));
        let arguments: Vec<&'static CStr> = arguments.map(|word| word.to_c_str()).collect();
        // SAFETY: as above.
        let environment = unsafe { original_environment(arguments.last().copied()) };
        Start { arguments, environment: environment.unwrap_or(pointed) }
    })
    .into()
}

/// The environment as the caller gave it to execve(2).
///
/// A static glibc unlinks TMPDIR, LD_LIBRARY_PATH and others from `envp` in a program with AT_SECURE (ld.so(8)), but
/// the program that is executed next runs without privilege and must have them. The kernel lays the strings out in
/// one piece: arguments, environment, the file's name (AT_EXECFN; see fs/exec.c), and the bytes are still there.
///
/// # Safety
/// `last` is the last of argv's strings, in the place where execve(2) put it.
unsafe fn original_environment(last: Option<&'static CStr>) -> Option<&'static [Word<'static>]> {
    let start = last?.to_bytes_with_nul().as_ptr_range().end;
    // SAFETY: getauxval(3) takes any number and touches nothing of ours.
    let end = unsafe { getauxval(AT_EXECFN) };
    let len = usize::try_from(end).ok()?.checked_sub(start.addr())?;
    // The kernel's bound for all strings together is a quarter of the stack limit, and at most 6 MiB.
    if len > 6 << 20 {
        return None;
    }
    // SAFETY: both ends lie in the one area of the strings, which stays mapped and unwritten while the process lives.
    let bytes = unsafe { std::slice::from_raw_parts(start, len) };
    let entries =
        bytes.split_inclusive(|&byte| byte == 0).map(|entry| CStr::from_bytes_with_nul(entry).ok().map(Word::from));
    entries.collect::<Option<Vec<_>>>().map(|entries| &*entries.leak())
}
