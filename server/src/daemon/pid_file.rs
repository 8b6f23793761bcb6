//! The file that says which process is the daemon, and whose lock says that it lives.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::Error;

/// A file with the pid of this process, locked for as long as it lives. Removed when it is dropped.
///
/// The lock is what counts: a file that nobody locks was left by somebody who died, and is taken over. No number in it
/// is ever believed.
///
/// ```
/// use portgrant_server::Error;
/// use portgrant_server::daemon::PidFile;
///
/// let path = std::env::temp_dir().join(format!("doc-{}.pid", std::process::id()));
/// let file = PidFile::lock(&path)?.write()?;
/// assert!(matches!(PidFile::lock(&path), Err(Error::PidFileHeld { pid: Some(pid), .. }) if pid == std::process::id()));
/// drop(file);
/// assert!(!path.exists());
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct PidFile {
    file: File,
    path: PathBuf,
    /// Whose it is to remove: a child that fork(2) made has this value, too.
    owner: Option<u32>,
}

impl PidFile {
    /// Opens, or makes, the file and locks it. It holds no pid yet: fork first.
    pub fn lock(path: impl AsRef<Path>) -> Result<PidFile, Error> {
        let failed = |source| Error::PidFile { path: path.as_ref().to_owned(), source };
        // The working folder may change before the file is removed.
        let path = std::path::absolute(path.as_ref()).map_err(failed)?;
        let failed = |source| Error::PidFile { path: path.clone(), source };
        let occupied = |by| Error::PidFileOccupied { path: path.clone(), by };
        loop {
            // No link is followed (somebody else's may lie in /tmp), and no FIFO waited for.
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let opened = open(&path, flags | OFlags::NOCTTY, Mode::from_bits_truncate(0o644));
            let mut file = match opened {
                Ok(file) => File::from(file),
                Err(Errno::LOOP) => return Err(occupied("a symbolic link")),
                Err(errno) => return Err(failed(errno.into())),
            };
            let found = file.metadata().map_err(failed)?;
            if !found.is_file() {
                return Err(occupied(if found.file_type().is_fifo() { "a FIFO" } else { "something that is no file" }));
            }
            if found.uid() != geteuid().as_raw() {
                return Err(occupied("another user's file"));
            }
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(Error::PidFileHeld { pid: told(&mut file), path }),
                Err(errno) => return Err(failed(errno.into())),
            }
            // The one who held it may have removed it between our open and our lock.
            if fs::symlink_metadata(&path).is_ok_and(|there| is_same(&there, &found)) {
                return Ok(PidFile { file, path, owner: None });
            }
        }
    }

    /// Writes this process's pid into it.
    pub fn write(mut self) -> Result<PidFile, Error> {
        let pid = std::process::id();
        let written = write(&mut self.file, pid);
        written.map_err(|source| Error::PidFile { path: self.path.clone(), source })?;
        self.owner = Some(pid);
        Ok(self)
    }

    /// Where it is, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PidFile {
    /// While it is still locked, so that it is nobody else's.
    fn drop(&mut self) {
        let same = |there: fs::Metadata| self.file.metadata().is_ok_and(|ours| is_same(&there, &ours));
        if self.owner == Some(std::process::id()) && fs::symlink_metadata(&self.path).is_ok_and(same) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn write(file: &mut File, pid: u32) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{pid}")
}

fn told(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim_end().parse().ok()
}

fn is_same(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("portgrant-{name}-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        path
    }

    #[test]
    fn what_a_dead_one_left_is_taken_over_and_goes_with_its_new_owner() {
        let path = path("dead");
        fs::write(&path, "4194304999\nand more").expect("written");
        let file = PidFile::lock(&path).and_then(PidFile::write).expect("taken over");
        assert_eq!(fs::read_to_string(&path).expect("there"), format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_living_ones_is_held_and_named_and_stays() {
        let path = path("held");
        let held = PidFile::lock(&path).and_then(PidFile::write).expect("locked");
        let error = PidFile::lock(&path).expect_err("held");
        assert!(error.to_string().contains(&format!("process {} holds it", std::process::id())), "{error}");
        assert!(path.exists());
        drop(held);
    }

    #[test]
    fn one_that_was_not_written_and_a_successors_are_not_removed() {
        let path = path("successor");
        drop(PidFile::lock(&path).expect("locked"));
        assert!(path.exists(), "the parent of a daemon lets go of it, and it stays");
        let old = PidFile::lock(&path).and_then(PidFile::write).expect("locked");
        fs::remove_file(&path).expect("removed");
        let new = PidFile::lock(&path).and_then(PidFile::write).expect("a file of its own");
        drop(old);
        assert!(path.exists());
        drop(new);
    }

    #[test]
    fn what_is_no_file_of_this_users_is_never_written_to() {
        let (link, target) = (path("link"), path("target"));
        fs::write(&target, "precious").expect("written");
        std::os::unix::fs::symlink(&target, &link).expect("a link");
        assert!(matches!(PidFile::lock(&link), Err(Error::PidFileOccupied { by: "a symbolic link", .. })));
        assert_eq!(fs::read_to_string(&target).expect("there"), "precious");
        assert!(matches!(PidFile::lock(std::env::temp_dir()), Err(Error::PidFile { .. })), "a folder");
        assert!(matches!(PidFile::lock("/dev/null"), Err(Error::PidFileOccupied { .. })));
        assert!(matches!(PidFile::lock("/no/such/folder/pid"), Err(Error::PidFile { .. })));
        for file in [link, target] {
            fs::remove_file(file).expect("removed");
        }
    }
}
