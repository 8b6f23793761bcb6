//! The program to execute, found as the caller: else the helper would tell which hidden files there are.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, FileType, access, stat};
use rustix::io::Errno;

use crate::Error;

/// Where programs are looked for when the caller has no PATH (as execvp(3) does, less the folder one stands in).
const DEFAULT_PATH: &[u8] = b"/usr/local/bin:/usr/bin:/bin";

/// The path of `program`: itself if it holds a slash, else the first executable of that name along the PATH of
/// `environment`. An empty element of PATH is the current folder.
pub fn find(program: &OsStr, environment: &[CString]) -> Result<PathBuf, Error> {
    if program.as_bytes().contains(&b'/') {
        let path = PathBuf::from(program);
        return match examine(&path) {
            Ok(()) => Ok(path),
            Err(errno) => Err(failure(path, errno)),
        };
    }
    let search = environment.iter().find_map(|entry| entry.to_bytes().strip_prefix(b"PATH=")).unwrap_or(DEFAULT_PATH);
    let mut forbidden = None;
    for folder in search.split(|&byte| byte == b':').filter(|_| !program.is_empty()) {
        let folder = if folder.is_empty() { b"." } else { folder };
        let path = Path::new(OsStr::from_bytes(folder)).join(program);
        match examine(&path) {
            Ok(()) => return Ok(path),
            Err(errno @ (Errno::ACCESS | Errno::ISDIR)) => forbidden = forbidden.or(Some((path, errno))),
            _ => {}
        }
    }
    Err(match forbidden {
        Some((path, errno)) => failure(path, errno),
        None => Error::ProgramNotFound { program: program.to_owned(), errno: Errno::NOENT },
    })
}

fn examine(path: &Path) -> Result<(), Errno> {
    let mode = stat(path)?.st_mode;
    if FileType::from_raw_mode(mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    access(path, Access::EXEC_OK)
}

fn failure(path: PathBuf, errno: Errno) -> Error {
    match errno {
        Errno::NOENT | Errno::NOTDIR => Error::ProgramNotFound { program: path.into_os_string(), errno },
        _ => Error::ProgramNotExecutable { program: path, errno },
    }
}

/// `words` for execve(2). Words of the command line hold no NUL; nothing else comes here.
pub fn c_strings(words: Vec<OsString>) -> Vec<CString> {
    words.into_iter().filter_map(|word| CString::new(word.into_vec()).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(value: &str) -> Vec<CString> {
        vec![CString::new(format!("PATH={value}")).expect("no NUL")]
    }

    #[test]
    fn a_name_is_found_along_the_path_and_a_path_is_taken_as_it_is() {
        assert_eq!(find("sh".as_ref(), &path("/nonexistent:/bin")).ok(), Some(PathBuf::from("/bin/sh")));
        assert_eq!(find("sh".as_ref(), &[]).ok().map(|path| path.ends_with("sh")), Some(true));
        assert_eq!(find("/bin/../bin/sh".as_ref(), &[]).ok(), Some(PathBuf::from("/bin/../bin/sh")));
    }

    #[test]
    fn what_cannot_be_executed_is_told_from_what_is_not_there() {
        for (word, search) in
            [("", "/bin"), ("no-such", "/bin"), ("/no/such", ""), ("/etc/passwd/x", ""), ("sh", "/proc")]
        {
            assert!(matches!(find(word.as_ref(), &path(search)), Err(Error::ProgramNotFound { .. })), "{word}");
        }
        for (word, search) in [("/etc", ""), ("/etc/passwd", ""), ("passwd", "/etc"), ("etc", "/")] {
            assert!(matches!(find(word.as_ref(), &path(search)), Err(Error::ProgramNotExecutable { .. })), "{word}");
        }
    }
}
