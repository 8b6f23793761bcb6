//! PROGRAM: which file it is, and whether it can be executed. Found before anything is bound.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use portgrant_protocol::text::printable;
use rustix::fs::{Access, FileType, access, stat};
use rustix::io::Errno;

use crate::Error;

/// Where a name is looked up without PATH (confstr(3), `_CS_PATH`).
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// The file that execvp(3) would execute for `name`, with `environment`'s PATH; but a file that is not executable is
/// said to be so, and there is no shell to try it with.
pub(crate) fn find(name: &OsStr, environment: &[CString]) -> Result<PathBuf, Error> {
    if name.as_bytes().contains(&b'/') || name.is_empty() {
        return judge(Path::new(name));
    }
    let path = environment.iter().find_map(|entry| entry.as_bytes().strip_prefix(b"PATH="));
    let mut found = Err(Error::NotFound { program: name.into(), why: "it is in no folder of PATH".to_owned() });
    for folder in path.unwrap_or(DEFAULT_PATH).split(|&byte| byte == b':') {
        // An empty element is the working directory.
        let folder = if folder.is_empty() { b"." } else { folder };
        match judge(&Path::new(OsStr::from_bytes(folder)).join(name)) {
            Ok(path) => return Ok(path),
            Err(unfit @ Error::NotExecutable { .. }) if !matches!(found, Err(Error::NotExecutable { .. })) => {
                found = Err(unfit);
            }
            Err(_) => {}
        }
    }
    found
}

fn judge(path: &Path) -> Result<PathBuf, Error> {
    let unfit = |why: &str| Error::NotExecutable { program: path.to_owned(), why: why.to_owned() };
    let file = match stat(path) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => {
            return Err(Error::NotFound { program: path.into(), why: "there is no such file".to_owned() });
        }
        Err(errno) => return Err(unfit(&errno.to_string())),
    };
    let kind = FileType::from_raw_mode(file.st_mode);
    if !kind.is_file() {
        return Err(unfit(if kind.is_dir() { "it is a folder" } else { "it is no regular file" }));
    }
    match access(path, Access::EXEC_OK) {
        Ok(()) => Ok(path.to_owned()),
        Err(Errno::ACCESS) => Err(unfit("it is not executable for this user, or its file system is mounted noexec")),
        Err(errno) => Err(unfit(&errno.to_string())),
    }
}

/// execve(2) itself: std's `exec` would set SIGPIPE and the signal mask anew. Returns only where it failed.
pub(crate) fn execute(path: &Path, arguments: &[OsString], environment: &[CString]) -> Result<Infallible, Errno> {
    // Words of a command line end at a NUL, so none holds one.
    let c_string = |word: &OsStr| CString::new(word.as_bytes()).unwrap_or_default();
    let arguments: Vec<CString> = arguments.iter().map(|word| c_string(word)).collect();
    let failed = |errno: nix::Error| Errno::from_raw_os_error(errno as i32);
    nix::unistd::execve(&c_string(path.as_os_str()), &arguments, environment).map_err(failed)
}

/// Why execve(2) would not execute a file that [`find`] found.
pub(crate) fn refused_by_the_kernel(path: &Path, errno: Errno) -> Error {
    let program = path.to_owned();
    match errno {
        Errno::NOENT => Error::NotFound {
            program: program.into(),
            why: match interpreter(path) {
                Some(interpreter) => format!("it is a script, and its interpreter {interpreter} is not there"),
                None => {
                    "it needs a loader that is not there (is it of another distribution or architecture?)".to_owned()
                }
            },
        },
        Errno::NOEXEC => Error::NotExecutable {
            program,
            why: "it is neither a binary for this machine nor a script that begins with #!".to_owned(),
        },
        Errno::TOOBIG => {
            Error::NotExecutable { program, why: "its arguments and its environment are too long".to_owned() }
        }
        errno => Error::NotExecutable { program, why: errno.to_string() },
    }
}

/// The first word after `#!`. The kernel reads 256 bytes (BINPRM_BUF_SIZE).
fn interpreter(path: &Path) -> Option<String> {
    let mut start = Vec::new();
    std::fs::File::open(path).ok()?.take(256).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    line.split(u8::is_ascii_whitespace).find(|word| !word.is_empty()).map(printable)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A folder with `bin/tool` (0755), `bin/plain` (0644), `other/plain` (0755), `bin/folder/`.
    fn world(name: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("portgrant-{name}-{}", std::process::id()));
        for folder in ["bin/folder", "other"] {
            fs::create_dir_all(root.join(folder)).expect("a folder");
        }
        for (file, mode) in [("bin/tool", 0o755), ("bin/plain", 0o644), ("other/plain", 0o755)] {
            fs::write(root.join(file), "").expect("a file");
            fs::set_permissions(root.join(file), fs::Permissions::from_mode(mode)).expect("chmod");
        }
        root
    }

    fn path(folders: &[&Path]) -> Vec<CString> {
        let joined = folders.iter().map(|folder| folder.as_os_str()).collect::<Vec<_>>().join(OsStr::new(":"));
        let mut entry = OsString::from("PATH=");
        entry.push(joined);
        vec![c"LANG=C".to_owned(), CString::new(entry.as_bytes()).expect("no NUL")]
    }

    #[test]
    fn a_name_is_looked_up_and_a_path_is_not() {
        let root = world("looked-up");
        let (bin, other) = (root.join("bin"), root.join("other"));
        let both = path(&[&bin, &other]);
        assert_eq!(find("tool".as_ref(), &both).expect("found"), bin.join("tool"));
        assert_eq!(
            find("plain".as_ref(), &both).expect("found"),
            other.join("plain"),
            "what cannot be executed is passed over"
        );
        assert_eq!(find(bin.join("tool").as_ref(), &path(&[])).expect("found"), bin.join("tool"));
        assert_eq!(find("sh".as_ref(), &[]).expect("found"), Path::new("/bin/sh"), "without PATH");
        fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn what_cannot_be_executed_says_why() {
        let root = world("says-why");
        let bin = root.join("bin");
        let only = path(&[Path::new("/nonexistent"), &bin]);
        let cases = [
            (OsStr::new("folder"), 126, "folder"),
            (OsStr::new("plain"), 126, "not executable"),
            (OsStr::new("nothing"), 127, "in no folder of PATH"),
            (OsStr::new(""), 127, "no such file"),
            (OsStr::new("/nonexistent/tool"), 127, "no such file"),
            (OsStr::new("/dev/null"), 126, "no regular file"),
        ];
        for (name, status, expected) in cases {
            let error = find(name, &only).expect_err("unfit");
            let message = error.message().to_string();
            assert_eq!(error.status(), status, "{message}");
            assert!(message.contains(expected) && message.contains(&*name.to_string_lossy()), "{message}");
        }
        let below_a_file = find(bin.join("tool/x").as_ref(), &only).expect_err("no folder");
        assert_eq!(below_a_file.status(), 127);
        fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn the_working_directory_is_looked_in_only_where_path_says_so() {
        let here = path(&[Path::new("/nonexistent"), Path::new("")]);
        // Tests run in the crate's folder; what is there is not executable, and that it was seen is told.
        assert_eq!(find("Cargo.toml".as_ref(), &here).expect_err("not executable").status(), 126);
        assert_eq!(find("Cargo.toml".as_ref(), &path(&[Path::new("/nonexistent")])).expect_err("unseen").status(), 127);
    }
}
