//! Executes another program without changing anything that it inherits.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;

/// execve(2). std's `exec` would reset SIGPIPE and the signal mask. Returns only if it failed.
pub(crate) fn execute(path: &Path, arguments: &[OsString], environment: &[CString]) -> Result<Infallible, Errno> {
    // An argument of argv ends at a NUL, so it contains none.
    let c_string = |word: &OsStr| CString::new(word.as_bytes()).unwrap_or_default();
    let arguments: Vec<CString> = arguments.iter().map(|word| c_string(word)).collect();
    let failed = |errno: nix::Error| Errno::from_raw_os_error(errno as i32);
    nix::unistd::execve(&c_string(path.as_os_str()), &arguments, environment).map_err(failed)
}
