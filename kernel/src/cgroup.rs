//! The cgroup to which the policy applies.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstat, fstatfs, open};

use crate::Error;

/// CGROUP2_SUPER_MAGIC (statfs(2)).
const CGROUP2: rustix::fs::FsWord = 0x6367_7270;

/// An open folder of cgroup v2.
#[derive(Debug)]
pub struct Cgroup {
    /// Its descriptor
    pub fd: OwnedFd,
    /// The path that it was opened by
    pub path: PathBuf,
    /// Its id, which is its inode number
    pub id: u64,
}

impl Cgroup {
    /// Opens `path`, or without a path the root of the hierarchy.
    pub fn open(path: Option<&Path>) -> Result<Cgroup, Error> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => root().ok_or(Error::NoCgroups)?,
        };
        let failed = |errno| Error::Cgroup { path: path.clone(), errno: Some(errno) };
        let fd = open(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        if fstatfs(&fd).map_err(failed)?.f_type != CGROUP2 {
            return Err(Error::Cgroup { path, errno: None });
        }
        let id = fstat(&fd).map_err(failed)?.st_ino;
        Ok(Cgroup { fd, path, id })
    }
}

/// Where the root of the hierarchy is mounted (proc_pid_mountinfo(5)).
fn root() -> Option<PathBuf> {
    let mounts = std::fs::read("/proc/self/mountinfo").ok()?;
    mounts.split(|&byte| byte == b'\n').find_map(mounted_root)
}

fn mounted_root(line: &[u8]) -> Option<PathBuf> {
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let kind = fields.iter().position(|&field| field == b"-").and_then(|at| fields.get(at + 1));
    let is_root = kind == Some(&&b"cgroup2"[..]) && fields.get(3) == Some(&&b"/"[..]);
    is_root.then(|| unescaped(fields[4]).into())
}

/// White space and the backslash are written as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> OsString {
    let mut rest = field.iter().copied();
    let mut bytes = Vec::with_capacity(field.len());
    while let Some(byte) = rest.next() {
        let mut digit = || rest.next().unwrap_or(b'0').wrapping_sub(b'0');
        bytes.push(if byte == b'\\' { digit() << 6 | digit() << 3 | digit() } else { byte });
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_root_is_found_under_any_mount_point() {
        let line = b"31 24 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(mounted_root(line), Some("/sys/fs/cgroup".into()));
        assert_eq!(mounted_root(b"31 24 0:27 / /a\\040b\\134 rw - cgroup2 none rw"), Some("/a b\\".into()));
        assert_eq!(mounted_root(b"31 24 0:27 /below /mnt rw - cgroup2 none rw"), None);
        assert_eq!(mounted_root(b"31 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup none rw"), None);
        assert_eq!(mounted_root(b""), None);
    }
}
