//! Stamps of every file and folder that a verdict depends on, so that a later change is noticed.
//!
//! The caller chooses when this process runs. They may stop it between reading two files of the policy, or between the
//! verdict and bind(2), and the administrator may change the policy meanwhile. So each stamp is taken from the open
//! descriptor before its first byte is read. To compare, every path is looked up again.
//!
//! Runs as the caller, after the drop; nothing here needs privilege.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::time::Duration;

use portgrant_sys::realtime;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags, Stat, fstat, open, openat, statat};
use rustix::io::Errno;
use rustix::time::Timespec;

/// A change this long before its stamp shows in the stamp. Below it a second change can leave the same ctime, since the
/// kernel takes ctime from a clock that ticks every 1 to 10 ms (before Linux 6.13, and later on some file systems).
pub(crate) const SETTLED: Duration = Duration::from_millis(20);

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The stamps of one reading, in the order of the lookups: a folder comes before its files.
#[derive(Debug)]
pub struct Stamps {
    began: Timespec,
    stamps: RefCell<Vec<(Box<[u8]>, Stamp)>>,
}

/// Proof that nothing had changed at that moment. Functions that need an unchanged policy take it.
#[derive(Debug)]
#[must_use]
pub struct Unchanged(());

/// How long ago the files last changed when the reading began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// Long enough: a later change has another ctime
    Settled,
    /// So recently that the stamps prove nothing. After this time the files must be read again
    Young(Duration),
    /// In the future: the clock was set back, or the clock of another machine is ahead
    Future,
}

/// What was found at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stamp {
    /// A folder that was only passed through. Its size and times change with every file in it, so they are not compared
    Passed(Identity),
    /// A file that was read, or a folder that was listed: its identity, size, mtime and ctime
    Read(Identity, i64, Timespec, Timespec),
    /// Nothing
    Missing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    owner: u32,
    mode: u32,
}

impl Default for Stamps {
    fn default() -> Stamps {
        Stamps { began: realtime(), stamps: RefCell::default() }
    }
}

impl Stamps {
    /// Notes a folder on the way to something else.
    pub(crate) fn passed(&self, path: &[u8], stat: &Stat) {
        self.note(path, Stamp::passed(stat));
    }

    /// Notes a file that is about to be read, or a folder that is about to be listed.
    pub(crate) fn about_to_read(&self, path: &[u8], stat: &Stat) {
        self.note(path, Stamp::read(stat));
    }

    /// Notes that there is nothing at `path`.
    pub(crate) fn missing(&self, path: &[u8]) {
        self.note(path, Stamp::Missing);
    }

    fn note(&self, path: &[u8], stamp: Stamp) {
        self.stamps.borrow_mut().push((Box::from(path), stamp));
    }

    /// Whether the stamps prove anything yet.
    #[must_use]
    pub fn age(&self) -> Age {
        let stamps = self.stamps.borrow();
        let changes = stamps.iter().filter_map(|(_, stamp)| match stamp {
            Stamp::Read(.., changed) => Some(nanoseconds(*changed)),
            Stamp::Passed(_) | Stamp::Missing => None,
        });
        let settled = i128::try_from(SETTLED.as_nanos()).unwrap_or_default();
        let Some(latest) = changes.max() else { return Age::Settled };
        if nanoseconds(self.began) - latest >= settled {
            return Age::Settled;
        }
        let ago = nanoseconds(realtime()) - latest;
        match u64::try_from(ago) {
            Ok(_) => Age::Young(Duration::from_nanos(u64::try_from(settled - ago).unwrap_or_default())),
            Err(_) => Age::Future,
        }
    }

    /// Looks up every path again, from the root on. `None` if any of them has changed.
    pub fn unchanged(&self) -> Result<Option<Unchanged>, Errno> {
        let mut folders = Vec::new();
        let stamps = self.stamps.borrow();
        for (path, stamp) in stamps.iter() {
            let now = match look(path, *stamp, &mut folders) {
                Err(Errno::NOENT) => Stamp::Missing,
                Err(Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => return Ok(None),
                other => other?,
            };
            if now != *stamp {
                return Ok(None);
            }
        }
        Ok(Some(Unchanged(())))
    }
}

/// The current stamp of `path`, of the same kind as `was`. Its folder is among `folders`, which were opened before.
fn look<'a>(path: &'a [u8], was: Stamp, folders: &mut Vec<(&'a [u8], OwnedFd)>) -> Result<Stamp, Errno> {
    let (parent, name) = split(path);
    if name.is_empty() {
        return entered(path, open("/", FOLDER, Mode::empty())?, folders);
    }
    let folder = &folders.iter().find(|folder| folder.0 == parent).ok_or(Errno::NOTDIR)?.1;
    match was {
        Stamp::Passed(_) => entered(path, openat(folder, name, FOLDER, Mode::empty())?, folders),
        Stamp::Read(..) | Stamp::Missing => Ok(Stamp::read(&statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?)),
    }
}

fn entered<'a>(path: &'a [u8], folder: OwnedFd, folders: &mut Vec<(&'a [u8], OwnedFd)>) -> Result<Stamp, Errno> {
    let stamp = Stamp::passed(&fstat(&folder)?);
    folders.push((path, folder));
    Ok(stamp)
}

/// The folder that holds `path`, and the last name, which is empty for the root alone. Paths are absolute and have one
/// slash between names.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(0) => path.split_at(1),
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (&[], path),
    }
}

impl Stamp {
    fn passed(stat: &Stat) -> Stamp {
        Stamp::Passed(Identity::of(stat))
    }

    #[allow(clippy::useless_conversion, reason = "the types of these fields differ between architectures")]
    fn read(stat: &Stat) -> Stamp {
        let time =
            |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanoseconds).unwrap_or(0) };
        let modified = time(stat.st_mtime.into(), stat.st_mtime_nsec);
        let changed = time(stat.st_ctime.into(), stat.st_ctime_nsec);
        Stamp::Read(Identity::of(stat), stat.st_size.into(), modified, changed)
    }
}

impl Identity {
    #[allow(clippy::useless_conversion, reason = "the types of these fields differ between architectures")]
    fn of(stat: &Stat) -> Identity {
        Identity { device: stat.st_dev.into(), inode: stat.st_ino.into(), owner: stat.st_uid, mode: stat.st_mode }
    }
}

fn nanoseconds(time: Timespec) -> i128 {
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}
