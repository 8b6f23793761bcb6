//! `portgrant`, as people type it: a plain `exec` is done here, from the first word to execve(2), with the helper as a child.
//! For everything else the launcher is executed, with the same words: other commands and options, every mistake, and
//! whatever must be reported.
//!
//! It has no privilege. It links no C library on x86-64 and aarch64, so it starts about as quickly as the helper.
//!
//! Nothing is done here that the launcher would do otherwise, and nothing that it would notice when it is executed after
//! all: what is opened here is close-on-exec.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod exec;
pub mod plain;

use alloc::borrow::ToOwned;
use alloc::ffi::CString;
use alloc::format;
use alloc::vec::Vec;

use portgrant_protocol::errno::Described;
use portgrant_protocol::text::printable;
use portgrant_protocol::{installation, status};
use portgrant_sys::{Word, execve, give_up, occupy_standard_descriptors};
use rustix::fs::{FileType, readlink, stat};
use rustix::io::Errno;

use exec::{Exec, Left};

/// From the entry point on. Returns only if nothing could be executed.
pub fn run(arguments: &[Word<'_>], environment: &[Word<'_>]) -> u8 {
    // If one stays closed, so be it: the launcher finds it as it was.
    let _ = occupy_standard_descriptors();
    let installation = Installation::of_this_program();
    let left = Exec::of(arguments, environment, &installation).map_or(Left::All, Exec::perform);
    let record = match &left {
        Left::All => None,
        Left::Report(record) => Some(record.as_c_str().into()),
    };
    let words = match (record, arguments.first()) {
        (Some(record), Some(name)) => &[*name, c"answer".into(), record],
        _ => arguments,
    };
    let (path, errno) = match installation.find(LAUNCHER) {
        Ok(launcher) => {
            let errno = execve(&launcher, words, environment);
            (launcher, errno)
        }
        Err(missing) => missing,
    };
    let path = printable(path.as_bytes());
    let fix = match (errno, path.rsplit_once('/')) {
        (Errno::ACCESS, Some((folder, _))) => format!("as root, chmod 0755 {folder} {path}"),
        _ => "as root, install portgrant again (packaging/install, or its package)".to_owned(),
    };
    let what = "the launcher cannot be executed";
    give_up("portgrant", what, &format!("{path}: {}", Described(errno)), &fix);
    status::BROKEN
}

const LAUNCHER: &str = "portgrant";
const HELPER: &str = "portgrant-binder";

/// The folders that may hold the launcher and the helper, as [`portgrant_protocol::installation`] has them.
struct Installation {
    folders: Vec<Vec<u8>>,
}

impl Installation {
    fn of_this_program() -> Installation {
        // The path of the link itself. After an upgrade it no longer leads to the running program.
        let program = readlink("/proc/self/exe", Vec::new()).map(CString::into_bytes).unwrap_or_default();
        let usual = installation::PREFIXES.iter().map(|prefix| prefix.as_bytes());
        let prefixes = installation::prefix(&program).into_iter().chain(usual);
        let below = |prefix: &[u8]| [prefix, b"/", installation::FOLDER.as_bytes()].concat();
        Installation { folders: prefixes.map(below).collect() }
    }

    /// The first file of this name; else the path that is to blame, and why. What is there and cannot be entered is to blame
    /// before what is missing.
    fn find(&self, name: &str) -> Result<CString, (CString, Errno)> {
        let mut to_blame: Option<(CString, Errno)> = None;
        for folder in &self.folders {
            let file = CString::new([folder, &b"/"[..], name.as_bytes()].concat()).unwrap_or_default();
            let errno = match stat(&file).map(|found| FileType::from_raw_mode(found.st_mode).is_file()) {
                Ok(true) => return Ok(file),
                Ok(false) => Errno::NOENT,
                Err(errno) => errno,
            };
            if to_blame.as_ref().is_none_or(|known| known.1 == Errno::NOENT && errno != Errno::NOENT) {
                to_blame = Some((file, errno));
            }
        }
        Err(to_blame.unwrap_or((CString::default(), Errno::NOENT)))
    }
}
