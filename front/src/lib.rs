//! The installed program `portgrant`. It does a plain `exec` itself, with the helper as a child. For everything else
//! (other commands and options, mistakes, messages) it executes the launcher with the same words.
//!
//! It has no privilege. It links no C library on x86-64 and aarch64, so it starts about as quickly as the helper.
//!
//! It behaves like the launcher, and changes nothing that a launcher executed later would notice: everything that it
//! opens is close-on-exec.

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

/// Runs the program. Returns only if nothing could be executed.
pub fn run(arguments: &[Word<'_>], environment: &[Word<'_>]) -> u8 {
    // A failure is ignored: the launcher tries this again.
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
        (Errno::ACCESS, Some((folder, _))) => format!("as root: chmod 0755 {folder} {path}"),
        _ => "as root, install portgrant again (packaging/install, or its package)".to_owned(),
    };
    let what = "the launcher cannot be executed";
    give_up("portgrant", what, &format!("{path}: {}", Described(errno)), &fix);
    status::BROKEN
}

const LAUNCHER: &str = "portgrant";
const HELPER: &str = "portgrant-binder";

/// The folders that may have the launcher and the helper (see [`portgrant_protocol::installation`]).
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

    /// The first file with this name; else the path to report, and why. A folder that cannot be entered is reported
    /// rather than a missing one.
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
