//! Why a file or a folder is not trusted, and what to do about it.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use portgrant_protocol::errno::Described;
use rustix::io::Errno;

/// Why a file or a folder is not trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant's Display is its description")]
pub enum Distrust {
    Missing,
    Owner(u32),
    Unmapped,
    Writable(u32),
    Symlink,
    NotAFile,
    NotAFolder,
    Unreadable,
    Closed,
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
        let path = shell_word(path);
        match self {
            Distrust::Missing if path.ends_with(".conf") => format!("as root: echo '# no rule yet' >>{path}"),
            Distrust::Missing => format!("as root, create {path}"),
            Distrust::Owner(_) => format!("check its content, then as root: chown root {path}"),
            Distrust::Unmapped => {
                "run it outside of the user namespace, or install it inside as that namespace's root".to_owned()
            }
            Distrust::Writable(_) => format!("check its content, then as root: chmod go-w {path}"),
            Distrust::Symlink => format!("as root, put the file itself at {path}"),
            Distrust::NotAFile | Distrust::NotAFolder | Distrust::Loop => format!("as root, look at {path}"),
            Distrust::Unreadable => format!("as root: chmod 0644 {path}"),
            Distrust::Closed => format!("as root: chmod 0755 {path}"),
            Distrust::Empty => format!("as root: echo '# no rule yet' >>{path}"),
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
            Distrust::Unmapped => f.write_str("its owner has no id in this user namespace, so it may be anybody's"),
            Distrust::Writable(mode) => write!(f, "its mode is {mode:04o}: others than root may write to it"),
            Distrust::Symlink => f.write_str("it is a symlink"),
            Distrust::NotAFile => f.write_str("it is not a regular file"),
            Distrust::NotAFolder => f.write_str("it is not a folder (a symlink does not count)"),
            Distrust::Unreadable => f.write_str("the caller may not read it"),
            Distrust::Closed => f.write_str("the caller may not list or enter it"),
            Distrust::Empty => f.write_str("it is empty"),
            Distrust::TooLarge => f.write_str("it is larger than 16 MiB"),
            Distrust::Loop => f.write_str("it leads through more than 40 symlinks"),
            Distrust::System(errno) => Described(*errno).fmt(f),
        }
    }
}

/// `path` as a word that can be pasted into a shell. If it has a backslash or an unprintable byte, it can only be read.
#[must_use]
pub fn shell_word(path: &[u8]) -> String {
    let shown = portgrant_protocol::text::printable(path);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+,:@%".contains(&byte);
    if shown.bytes().all(is_plain) || shown.contains('\\') {
        return shown;
    }
    format!("'{}'", shown.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fix_names_one_path_and_can_be_pasted() {
        for (why, path, fix) in [
            (Distrust::Unreadable, "/etc/portgrant.conf", "as root: chmod 0644 /etc/portgrant.conf"),
            (Distrust::Closed, "/etc/portgrant.d", "as root: chmod 0755 /etc/portgrant.d"),
            (Distrust::Unreadable, "/etc/portgrant.d/a b.conf", "as root: chmod 0644 '/etc/portgrant.d/a b.conf'"),
            (Distrust::Closed, "/etc/portgrant.d/a'b", r"as root: chmod 0755 '/etc/portgrant.d/a'\''b'"),
            (Distrust::Unreadable, "/etc/portgrant.d/a\n.conf", "as root: chmod 0644 /etc/portgrant.d/a\\x0a.conf"),
        ] {
            assert_eq!(why.fix(path.as_bytes()), fix);
        }
    }
}
