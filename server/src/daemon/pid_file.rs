//! A pid file: it contains the pid of the daemon, and is locked while the daemon runs.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use portgrant_protocol::text::printable;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::error::DaemonError;
use crate::failure::Error;

/// A file with the pid of this process. It is locked while the process runs, and removed when this value is dropped.
///
/// Only the lock counts, never the number in the file. A file without a lock was left behind by a process that died,
/// and is replaced.
///
/// ```
/// use portgrant_server::Error;
/// use portgrant_server::daemon::PidFile;
/// use portgrant_server::error::DaemonError;
///
/// let folder = std::env::temp_dir().join(format!("doc-{}", std::process::id()));
/// std::fs::create_dir(&folder).expect("a folder");
/// let path = folder.join("pid");
/// let file = PidFile::lock(&path)?.write()?;
/// let own = Some(std::process::id());
/// let error = PidFile::lock(&path).expect_err("this process holds it");
/// assert!(matches!(error.downcast_ref(), Some(DaemonError::PidFileHeld { pid, .. }) if *pid == own));
/// drop(file);
/// assert!(!path.exists());
/// # std::fs::remove_dir(folder).expect("removed");
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct PidFile {
    file: File,
    path: PathBuf,
    /// The pid of the process that removes the file: a child made by fork(2) has a copy of this value
    owner: Option<u32>,
}

impl PidFile {
    /// Opens or creates the file, and locks it. It does not contain a pid yet: fork first.
    ///
    /// For root, every folder in the path must belong to root, and others must not be able to write to it: a user could
    /// replace the file at any moment. A folder of root below a sticky one, such as /tmp, is accepted; the sticky one
    /// itself is not.
    pub fn lock(path: impl AsRef<Path>) -> Result<PidFile, Error> {
        let failed = |source| DaemonError::PidFile { path: path.as_ref().to_owned(), source };
        // The working folder may change before the file is removed.
        let path = std::path::absolute(path.as_ref()).map_err(failed)?;
        let failed = |source| Error::from(DaemonError::PidFile { path: path.clone(), source });
        if geteuid().is_root() {
            require_root_only(&path).map_err(failed)?;
        }
        let occupied = |by| Error::from(DaemonError::PidFileOccupied { path: path.clone(), by });
        loop {
            // Does not follow a link (another user's may be in /tmp), and does not wait for a FIFO.
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
            // With fs.protected_hardlinks=0, anybody may create a hard link to a file of this user.
            if found.nlink() > 1 {
                return Err(occupied("a file with another name besides (a hard link)"));
            }
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    return Err(DaemonError::PidFileHeld { pid: read_pid(&mut file), path }.into());
                }
                Err(errno) => return Err(failed(errno.into())),
            }
            // The previous holder may have removed the file between open(2) and flock(2).
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

    /// Adopts the file at `path` that was handed over, and that the predecessor has locked. `None` if `handed` is
    /// another file.
    #[cfg(feature = "restart")]
    fn adopt(path: &Path, handed: BorrowedFd<'_>) -> Result<Option<PidFile>, Error> {
        let failed = |source| DaemonError::PidFile { path: path.to_owned(), source };
        let path = std::path::absolute(path).map_err(failed)?;
        let file = File::from(handed.try_clone_to_owned().map_err(failed)?);
        let ours = file.metadata().map_err(failed)?;
        let is_there = fs::symlink_metadata(&path).is_ok_and(|there| is_same(&there, &ours));
        // The lock belongs to the open file, not to a process. So locking it again succeeds, unless it is another open
        // file.
        let is_locked = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        Ok((is_there && is_locked).then_some(PidFile { file, path, owner: None }))
    }

    /// The same, or else locks a new one.
    #[cfg(feature = "restart")]
    pub(crate) fn adopt_or_lock(path: &Path, handed: Option<BorrowedFd<'_>>) -> Result<PidFile, Error> {
        match handed.map(|handed| PidFile::adopt(path, handed)).transpose()?.flatten() {
            Some(adopted) => Ok(adopted),
            None => PidFile::lock(path),
        }
    }

    /// Writes this process's pid into it again, after a successor that failed.
    #[cfg(feature = "restart")]
    pub(crate) fn rewrite(&self) {
        // Errors are ignored: only the lock counts.
        let _ = write(&self.file, std::process::id());
    }

    /// Leaves the file to a successor, which holds the lock as well.
    #[cfg(feature = "restart")]
    pub(crate) fn leave(mut self) {
        self.owner = None;
    }

    /// Its absolute path.
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
    /// Removed while it is locked, so it cannot belong to another process.
    fn drop(&mut self) {
        let same = |there: fs::Metadata| self.file.metadata().is_ok_and(|ours| is_same(&there, &ours));
        if self.owner == Some(std::process::id()) && fs::symlink_metadata(&self.path).is_ok_and(same) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A reader finds the old pid or the new one, and never an empty file.
fn write(file: &File, pid: u32) -> io::Result<()> {
    let line = format!("{pid}\n");
    file.write_all_at(line.as_bytes(), 0)?;
    file.set_len(line.len() as u64)
}

/// Whether nobody but root can change where `path` leads, and what lies there. Else a user could have root write to another
/// file, or remove one, between any two looks at it.
///
/// Each folder is judged before anything is looked up in it, so by then nobody else can change what is found.
fn require_root_only(path: &Path) -> io::Result<()> {
    let untrusted = |folder: &Path, why: &str| {
        let folder = printable(folder.as_os_str().as_bytes());
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{folder} {why}, who could put another file there"),
        ))
    };
    let mut ahead: Vec<OsString> = path.iter().rev().map(OsStr::to_owned).collect();
    let (mut folder, mut links) = (PathBuf::new(), 0);
    while let Some(name) = ahead.pop() {
        let there = folder.join(&name);
        if ahead.is_empty() {
            break;
        }
        let found = fs::symlink_metadata(&there)?;
        if found.uid() != 0 {
            return untrusted(&there, "belongs to another user");
        }
        if found.is_symlink() {
            links += 1;
            if links > 40 {
                return Err(Errno::LOOP.into());
            }
            ahead.extend(fs::read_link(&there)?.iter().rev().map(OsStr::to_owned));
            continue;
        }
        // In a sticky folder, others can create files but not change root's. This is not enough for the last folder.
        let (is_last, mode) = (ahead.len() == 1, found.mode());
        if mode & 0o022 != 0 && (is_last || mode & 0o1000 == 0) {
            return untrusted(&there, "can be written to by other users");
        }
        folder = there;
    }
    Ok(())
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim_end().parse().ok()
}

fn is_same(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    /// A path in a new folder that others cannot write to.
    fn path(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("portgrant-pid-files-{}", std::process::id()));
        let _ = fs::create_dir(&folder);
        let path = folder.join(name);
        let _ = fs::remove_file(&path);
        path
    }

    #[test]
    fn a_stale_pid_file_is_taken_over_and_removed_by_its_new_owner() {
        let path = path("dead");
        fs::write(&path, "4194304999\nand more").expect("written");
        let file = PidFile::lock(&path).and_then(PidFile::write).expect("taken over");
        assert_eq!(fs::read_to_string(&path).expect("there"), format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn the_pid_file_of_a_running_process_is_an_error_and_stays() {
        let path = path("held");
        let held = PidFile::lock(&path).and_then(PidFile::write).expect("locked");
        let error = PidFile::lock(&path).expect_err("held");
        assert!(error.to_string().contains(&format!("process {} holds it", std::process::id())), "{error}");
        assert!(path.exists());
        drop(held);
    }

    #[test]
    fn a_pid_file_of_a_successor_is_not_removed() {
        let path = path("successor");
        drop(PidFile::lock(&path).expect("locked"));
        assert!(path.exists(), "the parent of a daemon lets go of it, and it stays");
        let old = PidFile::lock(&path).and_then(PidFile::write).expect("locked");
        fs::remove_file(&path).expect("removed");
        let new = PidFile::lock(&path).and_then(PidFile::write).expect("another file");
        drop(old);
        assert!(path.exists());
        drop(new);
    }

    #[test]
    fn a_pid_file_of_another_user_is_never_written() {
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
        let refused = |path: &Path| PidFile::lock(path).expect_err("not locked");
        let folder = target.parent().expect("a folder");
        assert!(matches!(refused(folder).downcast_ref(), Some(DaemonError::PidFile { .. })), "a folder");
        fs::remove_file(&link).expect("removed");
        nix::unistd::mkfifo(&link, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        let occupied = refused(&link);
        assert!(matches!(occupied.downcast_ref(), Some(DaemonError::PidFileOccupied { by: "a FIFO", .. })));
        let missing = refused(Path::new("/no/such/folder/pid"));
        assert!(matches!(missing.downcast_ref(), Some(DaemonError::PidFile { .. })));
        for file in [link, target] {
            fs::remove_file(file).expect("removed");
        }
    }

    #[test]
    fn roots_pid_file_must_be_in_a_folder_that_only_root_can_write() {
        if !geteuid().is_root() {
            return;
        }
        let folder = path("folders");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).expect("a folder");
        let made = |name: &str, mode, owner| {
            let path = folder.join(name);
            fs::create_dir(&path).expect("a folder");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
            chown(&path, Some(owner), None).expect("an owner");
            path
        };
        let [own, shared, sticky] = [("own", 0o755), ("shared", 0o775), ("sticky", 0o1777)].map(|(n, m)| made(n, m, 0));
        let anothers = made("anothers", 0o755, 1);
        fs::create_dir(anothers.join("roots")).expect("a folder");
        fs::create_dir(sticky.join("roots")).expect("a folder");
        for (name, to) in [("good", &own), ("bad", &anothers), ("loop", &folder.join("loop"))] {
            std::os::unix::fs::symlink(to, folder.join(name)).expect("a link");
        }
        std::os::unix::fs::symlink(&own, anothers.join("link")).expect("a link");
        for good in [own.join("pid"), sticky.join("roots/pid"), folder.join("good/../own/pid")] {
            drop(PidFile::lock(&good).unwrap_or_else(|error| panic!("{}: {error}", good.display())));
            fs::remove_file(good).expect("it is there");
        }
        for (bad, why) in [
            (shared.join("pid"), "can be written to by other users"),
            (sticky.join("pid"), "can be written to by other users"),
            (anothers.join("pid"), "belongs to another user"),
            (anothers.join("roots/pid"), "belongs to another user"),
            (anothers.join("link/pid"), "belongs to another user"),
            (folder.join("bad/pid"), "belongs to another user"),
            (folder.join("loop/pid"), "Too many levels"),
        ] {
            let error = PidFile::lock(&bad).map(drop).expect_err("refused");
            assert!(error.to_string().contains(why), "{}: {error}", bad.display());
            assert!(!bad.exists(), "{}", bad.display());
        }
        fs::remove_dir_all(folder).expect("removed");
    }
}
