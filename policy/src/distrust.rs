//! Why a file or a folder is not believed, and what to do about it.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use portgrant_protocol::errno::Described;
use rustix::io::Errno;

/// Why a file or a folder is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant's Display is its description")]
pub enum Distrust {
    Missing,
    Owner(u32),
    Writable(u32),
    Symlink,
    NotAFile,
    NotAFolder,
    Unreadable,
    Empty,
    TooLarge,
    Loop,
    System(Errno),
}

/// A path, and what is wrong there.
pub type Finding = (Vec<u8>, Distrust);

impl Distrust {
    /// What to do about it.
    pub fn fix(self, path: &[u8]) -> String {
        let path = portgrant_protocol::text::printable(path);
        match self {
            Distrust::Missing => format!("as root, create {path}"),
            Distrust::Owner(_) => format!("as root, chown root {path}"),
            Distrust::Writable(_) => format!("as root, chmod go-w {path}"),
            Distrust::Symlink => format!("as root, put the file itself at {path}"),
            Distrust::NotAFile | Distrust::NotAFolder | Distrust::Loop => format!("as root, look at {path}"),
            Distrust::Unreadable => format!("as root, chmod 0644 {path} (folders 0755): a policy is no secret"),
            Distrust::Empty => format!("as root, write rules into {path}; a comment will do where there are none"),
            Distrust::TooLarge => format!("as root, divide {path} into files below 16 MiB"),
            Distrust::System(Errno::MFILE) => "raise RLIMIT_NOFILE (ulimit -n)".to_owned(),
            Distrust::System(_) => format!("look at {path}"),
        }
    }
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Distrust::Missing => f.write_str("it does not exist"),
            Distrust::Owner(uid) => write!(f, "it belongs to uid {uid}, not to root"),
            Distrust::Writable(mode) => write!(f, "its mode is {mode:04o}: others than root may write to it"),
            Distrust::Symlink => f.write_str("it is a symlink"),
            Distrust::NotAFile => f.write_str("it is not a regular file"),
            Distrust::NotAFolder => f.write_str("it is not a folder (a symlink does not count)"),
            Distrust::Unreadable => f.write_str("the caller may not read it"),
            Distrust::Empty => f.write_str("it is empty"),
            Distrust::TooLarge => f.write_str("it is larger than 16 MiB"),
            Distrust::Loop => f.write_str("it leads through more than 40 symlinks"),
            Distrust::System(errno) => Described(*errno).fmt(f),
        }
    }
}
