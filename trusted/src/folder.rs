//! Files that belong to root. Each file, and every folder above it, is opened once and judged by its descriptor.
//!
//! Runs as the caller, after the drop; nothing here needs privilege. No name is looked up twice.

use alloc::borrow::ToOwned;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use portgrant_policy::{Distrust, Finding};
use portgrant_protocol::user_namespace;
use rustix::buffer::spare_capacity;
use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, PROC_SUPER_MAGIC, Stat, fstat, fstatfs, openat, readlinkat, statat,
};
use rustix::io::Errno;

use crate::stamps::Stamps;

/// The most bytes that a trusted file may have.
const MAX_LEN: u64 = 16 << 20;
/// As many symlinks as the kernel follows (path_resolution(7)).
const MAX_SYMLINKS: u32 = 40;

/// A folder that belongs to root and that only root can write, like all folders above it. Files that are opened in it
/// are noted in its stamps.
#[derive(Debug)]
pub(crate) struct Folder {
    fd: OwnedFd,
    path: Vec<u8>,
    stamps: Rc<Stamps>,
}

impl Folder {
    /// Opens the folder at absolute `path`, which holds no symlink.
    pub(crate) fn open(path: &[u8], stamps: Rc<Stamps>) -> Result<Folder, Finding> {
        let mut folder = Folder::root(stamps)?;
        for name in names(path) {
            folder = folder.enter(name)?;
        }
        Ok(folder)
    }

    fn root(stamps: Rc<Stamps>) -> Result<Folder, Finding> {
        let path = b"/".to_vec();
        let fd = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let fd = fd.map_err(|errno| finding(&path, Distrust::System(errno)))?;
        Folder { fd, path, stamps }.judged()
    }

    /// Its path.
    pub(crate) fn path(&self) -> &[u8] {
        &self.path
    }

    /// The names in it.
    pub(crate) fn names(&self) -> Result<Vec<Vec<u8>>, Finding> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listed = openat(&self.fd, ".", flags, Mode::empty()).and_then(|fd| {
            self.stamps.about_to_read(&self.path, &fstat(&fd)?);
            Dir::new(fd)?.map(|entry| Ok(entry?.file_name().to_bytes().to_owned())).collect()
        });
        listed.map_err(|errno| match errno {
            Errno::ACCESS => finding(&self.path, Distrust::Closed),
            errno => finding(&self.path, opening(errno)),
        })
    }

    /// Opens the folder `name` in it.
    pub(crate) fn enter(&self, name: &[u8]) -> Result<Folder, Finding> {
        let path = join(&self.path, name);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOTDIR => finding(&path, Distrust::NotAFolder),
            errno => self.not_opened(name, &path, errno),
        })?;
        Folder { fd, path, stamps: Rc::clone(&self.stamps) }.judged()
    }

    fn judged(self) -> Result<Folder, Finding> {
        let judged = fstat(&self.fd).map_err(Distrust::System).and_then(|stat| {
            self.stamps.passed(&self.path, &stat);
            judge(&stat)
        });
        match judged {
            Ok(()) => Ok(self),
            Err(why) => Err(finding(&self.path, why)),
        }
    }

    /// Reads file `name` of this folder, whole.
    pub(crate) fn read(&self, name: &[u8]) -> Result<Vec<u8>, Finding> {
        let path = join(&self.path, name);
        let opened = openat(&self.fd, name, READ | OFlags::NOFOLLOW, Mode::empty());
        let fd = opened.map_err(|errno| self.not_opened(name, &path, errno))?;
        self.read_judged(fd, &path).map_err(|why| finding(&path, why))
    }

    /// The same, but the file may be a symlink: only root may be able to change every folder and every symlink on the
    /// way.
    pub(crate) fn read_through_links(&self, name: &[u8]) -> Result<Vec<u8>, Finding> {
        match self.read(name) {
            Err((path, Distrust::Symlink)) => {
                let place = Place::find(&path, &self.stamps)?;
                place.folder.read(&place.name)
            }
            other => other,
        }
    }

    fn read_judged(&self, fd: OwnedFd, path: &[u8]) -> Result<Vec<u8>, Distrust> {
        let stat = fstat(&fd).map_err(Distrust::System)?;
        self.stamps.about_to_read(path, &stat);
        judge(&stat)?;
        match read_whole(fd)? {
            text if text.is_empty() => Err(Distrust::Empty),
            text => Ok(text),
        }
    }

    /// The meaning of an error of open(2), and the path that caused it: this folder, if its mode forbids access. A missing file
    /// is noted in the stamps too.
    fn not_opened(&self, name: &[u8], path: &[u8], errno: Errno) -> Finding {
        if errno == Errno::ACCESS && matches!(statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW), Err(Errno::ACCESS)) {
            return finding(&self.path, Distrust::Closed);
        }
        finding(path, self.absent(path, errno))
    }

    /// The same, for a path whose folder the caller may enter.
    fn absent(&self, path: &[u8], errno: Errno) -> Distrust {
        if errno == Errno::NOENT {
            self.stamps.missing(path);
        }
        opening(errno)
    }
}

/// NONBLOCK: opening a FIFO must not block before it is recognized.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// Reads a file that no decision depends on, within the same bounds, through any path.
pub fn read_unjudged(path: &[u8]) -> Result<Vec<u8>, Distrust> {
    let fd = rustix::fs::open(path, READ, Mode::empty()).map_err(Distrust::System)?;
    read_whole(fd)
}

fn read_whole(fd: OwnedFd) -> Result<Vec<u8>, Distrust> {
    let stat = fstat(&fd).map_err(Distrust::System)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Distrust::NotAFile);
    }
    let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
    if size > MAX_LEN {
        return Err(Distrust::TooLarge);
    }
    let mut text = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    loop {
        match rustix::io::read(&fd, spare_capacity(&mut text)) {
            Ok(0) => return Ok(text),
            // The file grew meanwhile.
            Ok(_) if text.len() as u64 > MAX_LEN => return Err(Distrust::TooLarge),
            Ok(_) if text.len() == text.capacity() => text.reserve(4096),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Distrust::System(errno)),
        }
    }
}

/// Checks that only root can change the file at absolute `path`, and every folder and symlink on the way.
///
/// Then a caller cannot change which file execve(2) of this path finds.
pub fn judge_program(path: &[u8]) -> Result<(), Finding> {
    let place = Place::find(path, &Rc::default())?; // compared by judging the program again
    let at = |why| finding(&join(&place.folder.path, &place.name), why);
    if FileType::from_raw_mode(place.stat.st_mode) != FileType::RegularFile {
        return Err(at(Distrust::NotAFile));
    }
    judge(&place.stat).map_err(at)
}

/// The target of a path that may go through symlinks: the last folder, and the name in it.
struct Place {
    folder: Folder,
    name: Vec<u8>,
    stat: Stat,
}

impl Place {
    /// Follows absolute `path`. Every folder and every symlink on the way must be root's, and is noted in `stamps`.
    ///
    /// A folder that a group can write to is accepted if it is sticky, such as /nix/store: others cannot rename or
    /// remove root's files there. The text of each symlink is followed here, never the link by the kernel: a link of
    /// /proc leads elsewhere than its text, and the caller decides where.
    fn find(path: &[u8], stamps: &Rc<Stamps>) -> Result<Place, Finding> {
        let mut folders = vec![Folder::root(Rc::clone(stamps))?];
        let mut ahead: Vec<Vec<u8>> = components(path);
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            let here = folders.last().expect("the root is never popped");
            if name == b".." {
                if folders.len() > 1 {
                    folders.pop();
                }
                continue;
            }
            let found = join(&here.path, &name);
            let at = |why| finding(&found, why);
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = openat(&here.fd, name.as_slice(), flags, Mode::empty())
                .map_err(|errno| at(here.absent(&found, errno)))?;
            let system = |errno| at(Distrust::System(errno));
            let stat = fstat(&fd).map_err(system)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::Symlink {
                stamps.about_to_read(&found, &stat);
                links += 1;
                if stat.st_uid != 0 {
                    return Err(at(Distrust::Owner(stat.st_uid)));
                }
                if links > MAX_SYMLINKS {
                    return Err(at(Distrust::Loop));
                }
                if fstatfs(&fd).map_err(system)?.f_type == PROC_SUPER_MAGIC {
                    return Err(at(Distrust::Symlink));
                }
                let target = readlinkat(&fd, "", Vec::new()).map_err(system)?;
                let target = target.as_bytes();
                if target.starts_with(b"/") {
                    folders.truncate(1);
                }
                ahead.extend(components(target));
            } else if ahead.is_empty() {
                let folder = folders.pop().expect("the root is never popped");
                return Ok(Place { folder, name, stat });
            } else if kind == FileType::Directory {
                stamps.passed(&found, &stat);
                judge_folder(&stat).map_err(at)?;
                folders.push(Folder { fd, path: found, stamps: Rc::clone(stamps) });
            } else {
                return Err(at(Distrust::NotAFile));
            }
        }
        Err(finding(path, Distrust::NotAFile))
    }
}

/// The names in `path`, last first, for a stack.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let mut components: Vec<Vec<u8>> = names(path).map(<[u8]>::to_vec).collect();
    components.reverse();
    components
}

/// The names in `path`, including `..`, without empty names and `.`.
fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

/// The path of `name` in the folder at `path`.
fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let separator: &[u8] = if path.ends_with(b"/") { b"" } else { b"/" };
    [path, separator, name].concat()
}

/// Judges a folder on the way to a file of root's.
fn judge_folder(stat: &Stat) -> Result<(), Distrust> {
    const OF_A_GROUP: u32 = 0o1020;
    let sticky = stat.st_uid == 0 && stat.st_mode & 0o1022 == OF_A_GROUP;
    if sticky { Ok(()) } else { judge(stat) }
}

fn judge(stat: &Stat) -> Result<(), Distrust> {
    if stat.st_uid == user_namespace::OVERFLOW_ID && !user_namespace::is_first() {
        return Err(Distrust::Unmapped);
    }
    if stat.st_uid != 0 {
        return Err(Distrust::Owner(stat.st_uid));
    }
    // An ACL that lets others write shows in the group bits (acl(5)).
    if stat.st_mode & 0o022 != 0 { Err(Distrust::Writable(stat.st_mode & 0o7777)) } else { Ok(()) }
}

fn finding(path: &[u8], why: Distrust) -> Finding {
    (path.to_vec(), why)
}

/// What an error of open(2) means.
fn opening(errno: Errno) -> Distrust {
    match errno {
        Errno::NOENT => Distrust::Missing,
        Errno::LOOP => Distrust::Symlink,
        Errno::ACCESS => Distrust::Unreadable,
        other => Distrust::System(other),
    }
}
