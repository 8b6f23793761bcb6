//! The file that says which process is the daemon, and whose lock says that it lives.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::error::DaemonError;
use crate::failure::Error;

/// A file with the pid of this process, locked for as long as it lives. Removed when it is dropped.
///
/// The lock is what counts: a file that nobody locks was left by somebody who died, and is taken over. No number in it
/// is ever believed.
///
/// ```
/// use portgrant_server::Error;
/// use portgrant_server::daemon::PidFile;
/// use portgrant_server::error::DaemonError;
///
/// let path = std::env::temp_dir().join(format!("doc-{}.pid", std::process::id()));
/// let file = PidFile::lock(&path)?.write()?;
/// let own = Some(std::process::id());
/// let error = PidFile::lock(&path).expect_err("this process holds it");
/// assert!(matches!(error.downcast_ref(), Some(DaemonError::PidFileHeld { pid, .. }) if *pid == own));
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
        let failed = |source| DaemonError::PidFile { path: path.as_ref().to_owned(), source };
        // The working folder may change before the file is removed.
        let path = std::path::absolute(path.as_ref()).map_err(failed)?;
        let failed = |source| Error::from(DaemonError::PidFile { path: path.clone(), source });
        let occupied = |by| Error::from(DaemonError::PidFileOccupied { path: path.clone(), by });
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
                return Err(occupied(if found.file_type().is_fifo() { "a FIFO" } else { "not a regular file" }));
            }
            if found.uid() != geteuid().as_raw() {
                return Err(occupied("another user's file"));
            }
            // Where fs.protected_hardlinks is 0, anybody may make one to any file of this user's.
            if found.nlink() > 1 {
                return Err(occupied("a file with another name besides (a hard link)"));
            }
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(DaemonError::PidFileHeld { pid: told(&mut file), path }.into()),
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
        let written = write(&self.file, pid);
        written.map_err(|source| DaemonError::PidFile { path: self.path.clone(), source })?;
        self.owner = Some(pid);
        Ok(self)
    }

    /// The one at `path` that this process was handed, locked by who handed it over; `None` where that is another.
    #[cfg(feature = "restart")]
    fn adopt(path: &Path, handed: BorrowedFd<'_>) -> Result<Option<PidFile>, Error> {
        let failed = |source| DaemonError::PidFile { path: path.to_owned(), source };
        let path = std::path::absolute(path).map_err(failed)?;
        let file = File::from(handed.try_clone_to_owned().map_err(failed)?);
        let ours = file.metadata().map_err(failed)?;
        let is_there = fs::symlink_metadata(&path).is_ok_and(|there| is_same(&there, &ours));
        // The lock is the open file's, whoever holds that: it is granted again, and not to a file that only looks alike.
        let is_locked = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        Ok((is_there && is_locked).then_some(PidFile { file, path, owner: None }))
    }

    /// The same, or else one that nobody has yet.
    #[cfg(feature = "restart")]
    pub(crate) fn adopt_or_lock(path: &Path, handed: Option<BorrowedFd<'_>>) -> Result<PidFile, Error> {
        match handed.map(|handed| PidFile::adopt(path, handed)).transpose()?.flatten() {
            Some(adopted) => Ok(adopted),
            None => PidFile::lock(path),
        }
    }

    /// Writes this process's pid into it again, whatever a successor that failed left there.
    #[cfg(feature = "restart")]
    pub(crate) fn rewrite(&self) {
        // It was written before; the lock says who serves in any case.
        let _ = write(&self.file, std::process::id());
    }

    /// Leaves it to a successor, who holds the lock as well.
    #[cfg(feature = "restart")]
    pub(crate) fn leave(mut self) {
        self.owner = None;
    }

    /// Where it is, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for PidFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
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

/// Whoever reads meanwhile finds the one pid or the other, and never an empty file.
fn write(file: &File, pid: u32) -> io::Result<()> {
    let line = format!("{pid}\n");
    file.write_all_at(line.as_bytes(), 0)?;
    file.set_len(line.len() as u64)
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
        let error = PidFile::lock(&link).expect_err("a link");
        assert!(
            matches!(error.downcast_ref(), Some(DaemonError::PidFileOccupied { by: "a symbolic link", .. })),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&target).expect("there"), "precious");
        fs::remove_file(&link).expect("removed");
        fs::hard_link(&target, &link).expect("a link");
        assert!(
            matches!(
                PidFile::lock(&link).as_ref().map_err(Error::downcast_ref),
                Err(Some(DaemonError::PidFileOccupied { .. }))
            ),
            "a hard link"
        );
        assert_eq!(fs::read_to_string(&target).expect("there"), "precious");
        assert!(
            matches!(
                PidFile::lock(std::env::temp_dir()).as_ref().map_err(Error::downcast_ref),
                Err(Some(DaemonError::PidFile { .. }))
            ),
            "a folder"
        );
        assert!(matches!(
            PidFile::lock("/dev/null").as_ref().map_err(Error::downcast_ref),
            Err(Some(DaemonError::PidFileOccupied { .. }))
        ));
        assert!(matches!(
            PidFile::lock("/no/such/folder/pid").as_ref().map_err(Error::downcast_ref),
            Err(Some(DaemonError::PidFile { .. }))
        ));
        for file in [link, target] {
            fs::remove_file(file).expect("removed");
        }
    }
}
