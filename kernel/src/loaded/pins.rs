//! The folder of pins on the BPF file system. Only root can use it; it is locked during changes.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, Dir, FlockOperation, Mode, OFlags, flock, fstat, fstatfs};
use rustix::io::Errno;

use crate::Error;
use crate::bpf::{self, Hook, Link, Map, Shape};
use crate::program::Family;

/// Where BPF file systems are mounted.
pub const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";
/// Our folder there.
pub const FOLDER: &str = "portgrant";
/// BPF_FS_MAGIC (statfs(2)).
const MAGIC: fs::FsWord = 0xcafe_4a11;

/// Each link: the name of its pin, its hook, and the family whose bind(2) it sees.
pub(super) const HOOKS: [(&str, Hook, Family); 2] =
    [("bind4", Hook::Bind4, Family::V4), ("bind6", Hook::Bind6, Family::V6)];

/// Removes a new folder without pins. A folder with pins cannot be removed this way.
fn remove_if_empty(folder: &Path) {
    let _ = fs::rmdir(folder);
}

/// Our folder, which only root can use; locked for a change.
#[derive(Debug)]
pub(super) struct Pins {
    pub(super) fd: OwnedFd,
    pub(super) path: PathBuf,
}

impl Pins {
    /// Our folder; an error if it does not exist.
    pub(super) fn open() -> Result<Pins, Error> {
        let folder = file_system()?.join(FOLDER);
        match judged_folder(&folder) {
            Ok(fd) => Ok(Pins { fd, path: folder }),
            Err(Error::Call { errno: Errno::NOENT, .. }) => Err(Error::NotLoaded),
            Err(error) => Err(error),
        }
    }

    /// Makes our folder if it is missing.
    pub(super) fn make() -> Result<Pins, Error> {
        let folder = file_system()?.join(FOLDER);
        match fs::mkdir(&folder, Mode::RWXU) {
            Ok(()) => Pins::open().inspect_err(|_| remove_if_empty(&folder)),
            Err(Errno::EXIST) => Pins::open(),
            Err(errno) => Err(Error::Call { call: "mkdir, for the pins,", errno }),
        }
    }

    /// Locks the folder against other changes. Waits for the lock.
    pub(super) fn locked(self) -> Result<Pins, Error> {
        flock(&self.fd, FlockOperation::LockExclusive).map_err(|errno| {
            remove_if_empty(&self.path);
            Error::Call { call: "flock", errno }
        })?;
        // The previous holder of the lock may have removed the folder.
        if fstat(&self.fd).is_ok_and(|stat| stat.st_nlink == 0) { Err(Error::NotLoaded) } else { Ok(self) }
    }

    pub(super) fn path(&self, name: &str) -> CString {
        bpf::c_path(&self.path.join(name))
    }

    pub(super) fn pin(&self, object: &impl AsFd, name: &str) -> Result<(), Error> {
        bpf::pin(object.as_fd(), &self.path(name)).map_err(|errno| Error::Call { call: "bpf(BPF_OBJ_PIN)", errno })
    }

    pub(super) fn map(&self, name: &str, shape: Shape<'_>) -> Result<Map, Error> {
        let foreign = |why| Error::Foreign { path: self.path.join(name), why };
        match Map::open(&self.path(name)) {
            Ok(map) if map.is(shape) => Ok(map),
            Ok(_) => Err(foreign("portgrant-kernel did not make it")),
            // The other pins exist (checked before), so another version made them.
            Err(Errno::NOENT) => Err(Error::OtherVersion),
            Err(Errno::ACCESS) => Err(foreign("it is not a BPF map that this user may open")),
            Err(errno) => Err(Error::Call { call: "bpf(BPF_OBJ_GET)", errno }),
        }
    }

    pub(super) fn links(&self) -> Result<Vec<Link>, Errno> {
        HOOKS.iter().map(|(name, ..)| Link::open(&self.path(name))).collect()
    }

    pub(super) fn is_loaded(&self) -> bool {
        HOOKS.iter().all(|(name, ..)| fs::stat(self.path(name)).is_ok())
    }

    /// Every name in it.
    pub(super) fn names(&self) -> Result<Vec<String>, Error> {
        let failed = |errno| Error::Call { call: "readdir", errno };
        let entries = Dir::read_from(&self.fd).map_err(failed)?;
        let names = entries.map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned()));
        Ok(names.collect::<Result<Vec<_>, Error>>()?.into_iter().filter(|name| name != "." && name != "..").collect())
    }

    /// Detaches what is attached, then removes all pins and the folder. An interrupted call can be repeated.
    pub(super) fn clear(self) -> Result<(), Error> {
        let gone = |call| move |errno| if errno == Errno::NOENT { Ok(()) } else { Err(Error::Call { call, errno }) };
        for (name, ..) in HOOKS {
            match Link::open(&self.path(name)) {
                Ok(link) => link.detach().map_err(|errno| Error::Call { call: "bpf(BPF_LINK_DETACH)", errno })?,
                // No pin, or not a link.
                Err(Errno::NOENT | Errno::INVAL | Errno::ACCESS) => {}
                // Keep the pin: without it, a link that another process holds could not be detached any more.
                Err(errno) => return Err(Error::Call { call: "bpf(BPF_OBJ_GET)", errno }),
            }
        }
        for name in self.names()? {
            match name.as_str() {
                "audit" => fs::rmdir(self.path("audit")).or_else(gone("rmdir"))?,
                name => fs::unlink(self.path(name)).or_else(gone("unlink"))?,
            }
        }
        fs::rmdir(&self.path).or_else(gone("rmdir"))
    }
}

/// The BPF file system. Fails if others than root could have made or replaced our folder.
fn file_system() -> Result<PathBuf, Error> {
    let path = PathBuf::from(BPF_FILE_SYSTEM);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let none = || Error::NoBpfFileSystem { path: path.clone() };
    let fd = fs::open(&path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::ACCESS => Error::NoPrivilege,
        _ => none(),
    })?;
    if fstatfs(&fd).map_err(|_| none())?.f_type != MAGIC {
        return Err(none());
    }
    let stat = fstat(&fd).map_err(|errno| Error::Call { call: "fstat", errno })?;
    let open_to_others = stat.st_mode & 0o022 != 0 && stat.st_mode & 0o1000 == 0;
    match (stat.st_uid, open_to_others) {
        (0, false) => Ok(path),
        (0, true) => Err(Error::Foreign { path, why: "users other than root can rename files in it (chmod 0700)" }),
        _ => Err(Error::Foreign { path, why: "it does not belong to root" }),
    }
}

pub(super) fn judged_folder(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOTDIR | Errno::LOOP => Error::Foreign { path: path.to_owned(), why: "it is not a folder" },
        // Root without capabilities cannot enter a folder that another user made.
        Errno::ACCESS if fs::lstat(path).is_ok_and(|stat| stat.st_uid != 0) => {
            Error::Foreign { path: path.to_owned(), why: "it does not belong to root" }
        }
        Errno::ACCESS | Errno::PERM => Error::NoPrivilege,
        errno => Error::Call { call: "open, of the pins' folder,", errno },
    })?;
    let stat = fstat(&fd).map_err(|errno| Error::Call { call: "fstat", errno })?;
    match (stat.st_uid, stat.st_mode & 0o077) {
        (0, 0) => Ok(fd),
        (0, _) => Err(Error::Foreign {
            path: path.to_owned(),
            why: "users other than root can enter it (expected mode 0700)",
        }),
        _ => Err(Error::Foreign { path: path.to_owned(), why: "it does not belong to root" }),
    }
}
