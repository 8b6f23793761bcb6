//! The program to execute: the file that a name stands for, and why it cannot be executed. Look it up with the caller's
//! rights: with more, the answer would show the caller which hidden files exist.

use alloc::borrow::ToOwned;
use alloc::ffi::CString;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::fmt;

use rustix::fs::{Access, FileType, Mode, OFlags, access, open, stat};
use rustix::io::Errno;

use crate::errno::Described;
use crate::status;
use crate::text::printable;

/// Where a name is looked up without PATH (confstr(3), `_CS_PATH`).
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// A program that cannot be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// The name that was given, or the path that was found
    pub program: Vec<u8>,
    /// Why it cannot be executed
    pub why: Why,
}

/// Why a program cannot be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant's Display is its description")]
pub enum Why {
    NotAlongPath,
    NoSuchFile,
    NoInterpreter(String),
    InterpreterNotPermitted(String),
    InterpreterLoader(String),
    CarriageReturn,
    ByteOrderMark,
    NoLoader,
    Folder,
    NotAFile,
    NotPermitted,
    NotAProgram,
    TooLong,
    ProcessLimit,
    System(Errno),
}

/// The file that execvp(3) would execute for `name`, where `path` is the value of PATH. A file that is not executable
/// is an error; it is not tried with a shell. An empty element of PATH is the working directory.
pub fn look_up(name: &CStr, path: Option<&CStr>) -> Result<CString, Unfit> {
    if name.to_bytes().contains(&b'/') || name.is_empty() {
        return judge(name.to_owned());
    }
    let path = path.map_or(DEFAULT_PATH, CStr::to_bytes);
    let mut nearest = Unfit { program: name.to_bytes().to_vec(), why: Why::NotAlongPath };
    for folder in path.split(|&byte| byte == b':') {
        let folder = if folder.is_empty() { b"." } else { folder };
        let separator: &[u8] = if folder.ends_with(b"/") { b"" } else { b"/" };
        let candidate = CString::new([folder, separator, name.to_bytes()].concat()).unwrap_or_default();
        // A folder that this user may not search, such as another user's home in an inherited PATH, is skipped.
        if stat(&candidate).is_err() {
            continue;
        }
        match judge(candidate) {
            Err(unfit) if nearest.why == Why::NotAlongPath && unfit.status() == status::NOT_EXECUTABLE => {
                nearest = unfit;
            }
            Err(_) => {}
            found => return found,
        }
    }
    Err(nearest)
}

fn judge(path: CString) -> Result<CString, Unfit> {
    let unfit = |why| Err(Unfit { program: path.to_bytes().to_vec(), why });
    let kind = match stat(&path) {
        Ok(file) => FileType::from_raw_mode(file.st_mode),
        Err(Errno::NOENT | Errno::NOTDIR) => return unfit(Why::NoSuchFile),
        Err(errno) => return unfit(Why::System(errno)),
    };
    if kind.is_dir() {
        return unfit(Why::Folder);
    }
    match access(&path, Access::EXEC_OK) {
        _ if !kind.is_file() => unfit(Why::NotAFile),
        Ok(()) => Ok(path),
        Err(Errno::ACCESS) => unfit(Why::NotPermitted),
        Err(errno) => unfit(Why::System(errno)),
    }
}

/// Whether the program at `path` is a script that can only fail, since a carriage return ends its first line: env(1)
/// finds no program of that name, and a shell has no such option. execve(2) would succeed, so it is checked before.
/// Other interpreters, such as perl, ignore the carriage return.
pub fn ends_in_carriage_return(path: &CStr) -> bool {
    let start = start(path);
    let Some(line) = start.strip_prefix(b"#!").and_then(|script| script.split(|&byte| byte == b'\n').next()) else {
        return false;
    };
    let Some(line) = line.strip_suffix(b"\r") else { return false };
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    let name = words.next().and_then(|interpreter| interpreter.rsplit(|&byte| byte == b'/').next());
    match (name, words.next()) {
        // env -S divides its argument, also at a carriage return.
        (Some(b"env"), Some(argument)) => !argument.starts_with(b"-"),
        (Some(b"sh" | b"bash" | b"dash" | b"ash" | b"ksh" | b"zsh"), Some(argument)) => argument.starts_with(b"-"),
        _ => false,
    }
}

impl Unfit {
    /// Why execve(2) of the file at `path` failed with `errno`.
    pub fn of_execve(path: &CStr, errno: Errno) -> Unfit {
        let why = match errno {
            Errno::NOENT if stat(path).is_err() => Why::NoSuchFile,
            Errno::NOENT => of_interpreter(path).unwrap_or(Why::NoLoader),
            Errno::ACCESS => of_interpreter(path).unwrap_or(Why::NotPermitted),
            Errno::NOEXEC if start(path).starts_with(b"\xef\xbb\xbf#!") => Why::ByteOrderMark,
            Errno::NOEXEC => Why::NotAProgram,
            Errno::TOOBIG => Why::TooLong,
            Errno::AGAIN => Why::ProcessLimit,
            errno => Why::System(errno),
        };
        Unfit { program: path.to_bytes().to_vec(), why }
    }

    /// The exit status, as env(1) has it: 127 if the program was not found, else 126.
    pub fn status(&self) -> u8 {
        match self.why {
            Why::NotAlongPath
            | Why::NoSuchFile
            | Why::NoInterpreter(_)
            | Why::InterpreterLoader(_)
            | Why::CarriageReturn
            | Why::NoLoader => status::NOT_FOUND,
            Why::InterpreterNotPermitted(_)
            | Why::ByteOrderMark
            | Why::Folder
            | Why::NotAFile
            | Why::NotPermitted
            | Why::NotAProgram
            | Why::TooLong
            | Why::ProcessLimit
            | Why::System(_) => status::NOT_EXECUTABLE,
        }
    }

    /// What to do about it.
    pub fn fix(&self) -> String {
        let program = printable(&self.program);
        let fix = match &self.why {
            Why::NotAlongPath | Why::NoSuchFile => "name a program in PATH, or its path",
            Why::NoInterpreter(name) => {
                return alloc::format!("install {name}, or write another interpreter into the first line");
            }
            Why::InterpreterLoader(name) => return alloc::format!("install {name} for this machine"),
            Why::InterpreterNotPermitted(name) => {
                return alloc::format!("let this user execute {name} and enter each folder above it; see ls -l {name}");
            }
            Why::CarriageReturn => return alloc::format!("run: sed -i 's/\\r$//' {program}"),
            Why::ByteOrderMark => return alloc::format!("run: sed -i '1s/^\\xEF\\xBB\\xBF//' {program}"),
            Why::NoLoader => "install what it needs, or name another",
            Why::Folder | Why::NotAFile => "name the program itself",
            Why::NotPermitted | Why::System(_) => {
                "let this user execute it (chmod +x) and enter each folder above it; the mount must not be noexec"
            }
            Why::NotAProgram => "begin a script with #! and its interpreter; nothing is tried with /bin/sh",
            Why::TooLong => "give it less",
            Why::ProcessLimit => "raise RLIMIT_NPROC (ulimit -u), or end other processes of this user",
        };
        fix.to_owned()
    }
}

impl fmt::Display for Unfit {
    /// What happened, without the reason: `'x' was not found`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = printable(&self.program);
        match self.status() {
            status::NOT_FOUND => write!(f, "'{program}' was not found"),
            _ => write!(f, "'{program}' cannot be executed"),
        }
    }
}

impl core::error::Error for Unfit {}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NotAlongPath => f.write_str("it is in no folder of PATH that this user may enter"),
            Why::NoSuchFile => f.write_str("there is no such file"),
            Why::NoInterpreter(name) => write!(f, "it is a script, and its interpreter {name} does not exist"),
            Why::InterpreterNotPermitted(name) => {
                write!(f, "it is a script, and this user may not execute its interpreter {name}")
            }
            Why::InterpreterLoader(name) => {
                write!(f, "it is a script, and the loader of its interpreter {name} does not exist")
            }
            Why::CarriageReturn => f.write_str("it is a script, and its first line ends in a carriage return (\\r)"),
            Why::ByteOrderMark => f.write_str("it is a script, and a byte order mark stands before its #!"),
            Why::NoLoader => f.write_str("it needs a loader that is not there (another distribution or architecture?)"),
            Why::Folder => f.write_str("it is a folder"),
            Why::NotAFile => f.write_str("it is not a regular file"),
            Why::NotPermitted => {
                f.write_str("it is not executable for this user, or its file system is mounted noexec")
            }
            Why::NotAProgram => f.write_str("it is neither a binary for this machine nor a script that begins with #!"),
            Why::TooLong => f.write_str("its arguments and its environment are too long"),
            Why::ProcessLimit => f.write_str("this user has too many processes"),
            Why::System(errno) => Described(*errno).fmt(f),
        }
    }
}

/// How many interpreters that are scripts the kernel follows (`exec_binprm`).
const MOST_SCRIPTS: usize = 5;

/// Why the interpreter of the script at `path` cannot be executed; `None` if the fault is in `path` itself.
fn of_interpreter(path: &CStr) -> Option<Why> {
    let mut path = path.to_owned();
    let mut last = None;
    for _ in 0..MOST_SCRIPTS {
        // A file that this user may not execute needs no further check. A binary needs its loader.
        if access(&path, Access::EXEC_OK).is_err() {
            break;
        }
        let Some(word) = interpreter(&path) else {
            return last.map(Why::InterpreterLoader);
        };
        last = Some(printable(word.as_bytes()));
        let found = stat(&word);
        if word.as_bytes().ends_with(b"\r") && found.is_err() {
            return Some(Why::CarriageReturn);
        }
        if matches!(found, Err(Errno::NOENT | Errno::NOTDIR)) {
            return last.map(Why::NoInterpreter);
        }
        path = word;
    }
    last.map(Why::InterpreterNotPermitted)
}

/// The first word after `#!`, as the kernel divides it: by spaces and tabs.
fn interpreter(path: &CStr) -> Option<CString> {
    let start = start(path);
    let line = start.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t'));
    words.find(|word| !word.is_empty()).and_then(|word| CString::new(word).ok())
}

/// The start of the file that the kernel checks (BINPRM_BUF_SIZE). Empty if this user may not read it.
fn start(path: &CStr) -> Vec<u8> {
    let mut start = [0; 256];
    let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let read = file.and_then(|file| rustix::io::read(&file, &mut start)).unwrap_or(0);
    start.get(..read).unwrap_or_default().to_vec()
}

#[cfg(any(test, feature = "std"))]
mod of_std {
    use std::ffi::OsStr;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use super::*;

    /// [`look_up`] with std's types, and with the PATH of `environment`. A script that can only fail is an error too.
    pub fn find(name: &OsStr, environment: &[CString]) -> Result<PathBuf, Unfit> {
        let path = environment.iter().find_map(|entry| {
            let value = entry.as_bytes_with_nul().strip_prefix(b"PATH=")?;
            CStr::from_bytes_with_nul(value).ok()
        });
        let name = CString::new(name.as_bytes())
            .map_err(|_| Unfit { program: name.as_bytes().to_vec(), why: Why::NoSuchFile })?;
        let found = look_up(&name, path)?;
        if ends_in_carriage_return(&found) {
            return Err(Unfit { program: found.into_bytes(), why: Why::CarriageReturn });
        }
        Ok(std::ffi::OsString::from_vec(found.into_bytes()).into())
    }

    impl Unfit {
        /// [`Unfit::of_execve`] with std's type.
        pub fn by_execve(path: &Path, errno: Errno) -> Unfit {
            Unfit::of_execve(&CString::new(path.as_os_str().as_bytes()).unwrap_or_default(), errno)
        }
    }
}

#[cfg(any(test, feature = "std"))]
pub use of_std::find;

#[cfg(test)]
mod tests {
    use std::ffi::{OsStr, OsString};
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

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
        assert_eq!(find("tool".as_ref(), &both), Ok(bin.join("tool")));
        assert_eq!(find("plain".as_ref(), &both), Ok(other.join("plain")), "a file that is not executable is skipped");
        assert_eq!(find(bin.join("tool").as_ref(), &path(&[])), Ok(bin.join("tool")));
        assert_eq!(find("sh".as_ref(), &[]).as_deref(), Ok(Path::new("/bin/sh")), "without PATH");
        fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn a_program_that_cannot_be_executed_is_reported_with_the_reason() {
        let root = world("says-why");
        let bin = root.join("bin");
        let only = path(&[Path::new("/nonexistent"), &bin]);
        let cases = [
            (OsStr::new("folder"), 126, Why::Folder),
            (OsStr::new("plain"), 126, Why::NotPermitted),
            (OsStr::new("nothing"), 127, Why::NotAlongPath),
            (OsStr::new(""), 127, Why::NoSuchFile),
            (OsStr::new("/nonexistent/tool"), 127, Why::NoSuchFile),
            (OsStr::new("/etc/passwd/tool"), 127, Why::NoSuchFile),
            (OsStr::new("/dev/null"), 126, Why::NotAFile),
        ];
        for (name, status, why) in cases {
            let unfit = find(name, &only).expect_err("unfit");
            assert_eq!((unfit.status(), &unfit.why), (status, &why), "{name:?}");
            assert!(unfit.to_string().contains(&*name.to_string_lossy()), "{unfit}");
        }
        fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn the_working_directory_is_searched_only_if_path_contains_it() {
        let here = path(&[Path::new("/nonexistent"), Path::new("")]);
        // Tests run in the crate's folder. Its files are not executable, so status 126 shows that the file was found.
        assert_eq!(find("Cargo.toml".as_ref(), &here).expect_err("not executable").status(), 126);
        assert_eq!(find("Cargo.toml".as_ref(), &path(&[Path::new("/nonexistent")])).expect_err("unseen").status(), 127);
    }

    #[test]
    fn a_script_whose_interpreter_would_fail_by_a_carriage_return_is_not_started() {
        let root = world("carriage-return");
        let tool = root.join("bin/tool");
        for (text, fails) in [
            ("#!/bin/sh -e\r\necho\r\n", true),
            ("#! /usr/bin/env  python3\r\n", true),
            ("#!/bin/bash\t-eu\r\n", true),
            ("#!/usr/bin/env -S python3 -u\r\n", false),
            ("#!/usr/bin/perl -w\r\n", false),
            ("#!/bin/sh -e\necho\r\n", false),
            // execve(2) itself fails.
            ("#!/bin/sh\r\n", false),
            ("echo a -e\r\n", false),
            ("", false),
        ] {
            fs::write(&tool, text).expect("a script");
            let found = find(tool.as_os_str(), &[]);
            match fails {
                true => assert_eq!(found.map_err(|unfit| unfit.why), Err(Why::CarriageReturn), "{text:?}"),
                false => assert_eq!(found.as_ref(), Ok(&tool), "{text:?}"),
            }
        }
        fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn each_error_of_execve_has_a_message() {
        let root = world("execve");
        let tool = root.join("bin/tool");
        assert_eq!(Unfit::by_execve(&tool, Errno::NOENT).why, Why::NoLoader);
        assert_eq!(Unfit::by_execve(&root.join("gone"), Errno::NOENT).why, Why::NoSuchFile);
        let other = root.join("bin/plain");
        let shell = |text: &str| text.replace("PLAIN", &other.display().to_string());
        for (text, errno, status, why, fix) in [
            (
                "#! /no/such/sh -e\n",
                Errno::NOENT,
                127,
                "it is a script, and its interpreter /no/such/sh does not exist",
                "install /no/such/sh, or write another interpreter into the first line",
            ),
            (
                "#!/bin/sh\r\necho\r\n",
                Errno::NOENT,
                127,
                "it is a script, and its first line ends in a carriage return (\\r)",
                "run: sed -i 's/\\r$//' TOOL",
            ),
            (
                "#!PLAIN\n",
                Errno::ACCESS,
                126,
                "it is a script, and this user may not execute its interpreter PLAIN",
                "let this user execute PLAIN and enter each folder above it; see ls -l PLAIN",
            ),
            (
                "#!/bin/sh\n",
                Errno::NOENT,
                127,
                "it is a script, and the loader of its interpreter /bin/sh does not exist",
                "install /bin/sh for this machine",
            ),
            (
                "\u{feff}#!/bin/sh\n",
                Errno::NOEXEC,
                126,
                "it is a script, and a byte order mark stands before its #!",
                "run: sed -i '1s/^\\xEF\\xBB\\xBF//' TOOL",
            ),
        ] {
            fs::write(&tool, shell(text)).expect("a script");
            let unfit = Unfit::by_execve(&tool, errno);
            let reported = (unfit.status(), unfit.why.to_string(), unfit.fix());
            let fix = fix.replace("TOOL", &tool.display().to_string());
            assert_eq!(reported, (status, shell(why), shell(&fix)), "{text:?}");
        }
        // The interpreter is a script as well: the last interpreter is reported.
        fs::write(&other, "#!/no/such/sh\n").expect("a script");
        fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).expect("chmod");
        fs::write(&tool, shell("#!PLAIN\n")).expect("a script");
        assert_eq!(Unfit::by_execve(&tool, Errno::NOENT).why, Why::NoInterpreter("/no/such/sh".into()));
        assert_eq!(Unfit::by_execve(&tool, Errno::NOEXEC).status(), 126);
        fs::remove_dir_all(root).expect("removed");
    }
}
