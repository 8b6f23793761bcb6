//! What is loaded, as the kernel holds it: pins on a BPF file system, which outlive every process.
//!
//! | pin | what it is |
//! |---|---|
//! | `policy` | one slot: the ports of the generation in force |
//! | `buckets`, `groups` | the rows of an even generation in the first half, those of an odd one in the second |
//! | `grants`, `counters` | the ring buffer and the counts |
//! | `told` | how many of the lost grants the log was told |
//! | `about-N` | what is known of generation N, which names the id of its ports |
//! | `bind4`, `bind6` | the links: while they are attached, the policy holds |
//! | `audit` | a folder that the reader of the grants holds locked |
//!
//! A generation is complete before the one slot of `policy` is set to it, and nothing of the one before is touched until
//! that call returned: the kernel waits there until no program uses it any more. So each decision is one generation's,
//! and the slot is never empty. Whoever changes anything holds the folder locked.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{self, Dir, FlockOperation, Mode, OFlags, flock, fstat, fstatfs};
use rustix::io::Errno;

use crate::Error;
use crate::about::About;
use crate::bpf::{self, Hook, Kind, Link, Map, Program, ReadOnly, Ring, Shape};
use crate::cgroup::Cgroup;
use crate::layout::{Pages, bucket, counter, group, port, record, ring};
use crate::program::{self, Family, Maps};
use crate::rows::Rows;
use crate::tables::{self, Tables};

/// Where BPF file systems are mounted.
pub const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";
/// Our folder there.
pub const FOLDER: &str = "portgrant";
/// BPF_FS_MAGIC (statfs(2)).
const MAGIC: fs::FsWord = 0xcafe_4a11;

const PORTS: Shape<'_> = Shape {
    kind: Kind::Array,
    name: "portgrant_ports",
    key: 4,
    value: port::SIZE,
    entries: tables::PORTS,
    read_only: ReadOnly::Yes,
};
const BUCKETS: Shape<'_> =
    Shape { name: "portgrant_page", value: bucket::SIZE, entries: 1 << bucket::PAGES.bits, ..PORTS };
const GROUPS: Shape<'_> = Shape { value: group::SIZE, entries: 1 << group::PAGES.bits, ..BUCKETS };
const POLICY: Shape<'_> =
    Shape { kind: Kind::Maps, name: "portgrant_slot", key: 4, value: 4, entries: 1, read_only: ReadOnly::No };
const BUCKET_PAGES: Shape<'_> = Shape { entries: 2 * bucket::PAGES.most as usize, name: "portgrant_cells", ..POLICY };
const GROUP_PAGES: Shape<'_> = Shape { entries: 2 * group::PAGES.most as usize, name: "portgrant_addrs", ..POLICY };
const GRANTS: Shape<'_> = Shape {
    kind: Kind::Ring,
    name: "portgrant_log",
    key: 0,
    value: 0,
    entries: ring::SIZE as usize,
    read_only: ReadOnly::No,
};
const COUNTERS: Shape<'_> = Shape {
    kind: Kind::Array,
    name: "portgrant_count",
    key: 4,
    value: counter::SIZE,
    entries: 1,
    read_only: ReadOnly::No,
};
const TOLD: Shape<'_> = Shape { name: "portgrant_told", value: 8, ..COUNTERS };
const HOOKS: [(&str, Hook, Family); 2] = [("bind4", Hook::Bind4, Family::V4), ("bind6", Hook::Bind6, Family::V6)];

/// Our folder, root's alone; locked where anything is to be changed.
#[derive(Debug)]
pub struct Pins {
    fd: OwnedFd,
    path: PathBuf,
}

/// What is loaded.
#[derive(Debug)]
pub struct Loaded {
    pins: Pins,
    slots: Slots,
    grants: Map,
    counters: Map,
    told: Map,
}

/// Where the maps of the generations are.
#[derive(Debug)]
struct Slots {
    policy: Map,
    buckets: Map,
    groups: Map,
}

/// What was counted since it was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Grants
    pub granted: u64,
    /// Grants whose record found no room
    pub unlogged: u64,
    /// Requests for a port that somebody has, by somebody who has it not; the kernel decided them
    pub passed: u64,
}

/// Whether the cgroup's hooks have our program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attached {
    /// Both
    Yes,
    /// The cgroup was removed, or somebody detached it: nothing is granted
    No,
}

/// Whether anybody reads the grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// Somebody
    There,
    /// Nobody
    None,
}

impl Pins {
    /// Our folder; an error where there is none.
    pub fn open() -> Result<Pins, Error> {
        let folder = file_system()?.join(FOLDER);
        match judged_folder(&folder) {
            Ok(fd) => Ok(Pins { fd, path: folder }),
            Err(Error::Call { errno: Errno::NOENT, .. }) => Err(Error::NotLoaded),
            Err(error) => Err(error),
        }
    }

    /// Makes our folder where it is missing.
    fn make() -> Result<Pins, Error> {
        let folder = file_system()?.join(FOLDER);
        match fs::mkdir(&folder, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Pins::open(),
            Err(errno) => Err(Error::Call { call: "mkdir, for the pins,", errno }),
        }
    }

    /// Waits until nobody else changes anything, and keeps others from it.
    fn locked(self) -> Result<Pins, Error> {
        flock(&self.fd, FlockOperation::LockExclusive).map_err(|errno| Error::Call { call: "flock", errno })?;
        // Whoever had it may have removed it.
        if fstat(&self.fd).is_ok_and(|stat| stat.st_nlink == 0) { Err(Error::NotLoaded) } else { Ok(self) }
    }

    fn path(&self, name: &str) -> CString {
        bpf::c_path(&self.path.join(name))
    }

    fn pin(&self, object: &impl AsFd, name: &str) -> Result<(), Error> {
        bpf::pin(object.as_fd(), &self.path(name)).map_err(|errno| Error::Call { call: "bpf(BPF_OBJ_PIN)", errno })
    }

    fn map(&self, name: &str, shape: Shape<'_>) -> Result<Map, Error> {
        let foreign = |why| Error::Foreign { path: self.path.join(name), why };
        match Map::open(&self.path(name)) {
            Ok(map) if map.is(shape) => Ok(map),
            Ok(_) => Err(foreign("portgrant-kernel did not make it")),
            // All else is there, as it was asked before.
            Err(Errno::NOENT) => Err(Error::OtherVersion),
            Err(Errno::ACCESS) => Err(foreign("it is not a BPF map that this user may open")),
            Err(errno) => Err(Error::Call { call: "bpf(BPF_OBJ_GET)", errno }),
        }
    }

    fn links(&self) -> Result<Vec<Link>, Errno> {
        HOOKS.iter().map(|(name, ..)| Link::open(&self.path(name))).collect()
    }

    fn is_loaded(&self) -> bool {
        HOOKS.iter().all(|(name, ..)| fs::stat(self.path(name)).is_ok())
    }

    /// Every name in it.
    fn names(&self) -> Result<Vec<String>, Error> {
        let failed = |errno| Error::Call { call: "readdir", errno };
        let entries = Dir::read_from(&self.fd).map_err(failed)?;
        let names = entries.map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned()));
        Ok(names.collect::<Result<Vec<_>, Error>>()?.into_iter().filter(|name| name != "." && name != "..").collect())
    }

    /// Detaches what is attached, then removes all pins and the folder. Begins anew where it was interrupted.
    fn clear(self) -> Result<(), Error> {
        let gone = |call| move |errno| if errno == Errno::NOENT { Ok(()) } else { Err(Error::Call { call, errno }) };
        for (name, ..) in HOOKS {
            match Link::open(&self.path(name)) {
                Ok(link) => link.detach().map_err(|errno| Error::Call { call: "bpf(BPF_LINK_DETACH)", errno })?,
                // None, or no link.
                Err(Errno::NOENT | Errno::INVAL | Errno::ACCESS) => {}
                // Without its pin nobody could detach it any more, and whoever else holds it keeps it in force.
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

impl Loaded {
    /// Loads `tables` for `cgroup`, and for the network namespace of `about`.
    pub fn load(tables: &Tables, cgroup: &Cgroup, mut about: About) -> Result<(), Error> {
        let pins = Pins::make()?.locked()?;
        if pins.is_loaded() {
            return Err(Error::Loaded);
        }
        if !pins.names()?.is_empty() {
            // Somebody was interrupted here.
            pins.clear()?;
            return Loaded::load(tables, cgroup, about);
        }
        let done = Loaded::fill(&pins, tables, cgroup, &mut about);
        if done.is_err() {
            let _ = pins.clear();
        }
        done
    }

    fn fill(pins: &Pins, tables: &Tables, cgroup: &Cgroup, about: &mut About) -> Result<(), Error> {
        if !finds_elements()? {
            return Err(Error::FirstElementOnly);
        }
        let slots = Slots {
            policy: create(POLICY, Some(&create(PORTS, None)?))?,
            buckets: create(BUCKET_PAGES, Some(&create(BUCKETS, None)?))?,
            groups: create(GROUP_PAGES, Some(&create(GROUPS, None)?))?,
        };
        let (grants, counters, told) = (create(GRANTS, None)?, create(COUNTERS, None)?, create(TOLD, None)?);
        for (map, name) in
            slots.named().into_iter().chain([(&grants, "grants"), (&counters, "counters"), (&told, "told")])
        {
            pins.pin(map, name)?;
        }
        let audit = pins.path("audit");
        fs::mkdir(&audit, Mode::RWXU).map_err(|errno| Error::Call { call: "mkdir, for the pins,", errno })?;
        fill(pins, &slots, tables, about)?;

        let [policy, buckets, groups] = slots.named().map(|(map, _)| fd(map));
        let maps = Maps { policy, buckets, groups, grants: fd(&grants), counters: fd(&counters) };
        for (name, hook, family) in HOOKS {
            let code = program::program(maps, family, about.network_namespace);
            let program =
                Program::load(&code, hook, &format!("portgrant_{name}")).map_err(|refused| match refused.errno {
                    Errno::PERM => Error::NoPrivilege,
                    _ => Error::Program(refused),
                })?;
            let link = Link::attach(&program, cgroup.fd.as_fd(), hook).map_err(|errno| match errno {
                Errno::PERM => Error::Exclusive { path: cgroup.path.clone() },
                errno => Error::Call { call: "bpf(BPF_LINK_CREATE)", errno },
            })?;
            pins.pin(&link, name)?;
        }
        Ok(())
    }

    /// What is loaded, to be looked at. Waits while it is being changed.
    pub fn open() -> Result<Loaded, Error> {
        let call = |errno| Error::Call { call: "flock", errno };
        let pins = Pins::open()?;
        flock(&pins.fd, FlockOperation::LockShared).map_err(call)?;
        let loaded = Loaded::at(pins)?;
        flock(&loaded.pins.fd, FlockOperation::Unlock).map_err(call)?;
        Ok(loaded)
    }

    /// What is loaded, to be changed.
    pub fn open_locked() -> Result<Loaded, Error> {
        Loaded::at(Pins::open()?.locked()?)
    }

    fn at(pins: Pins) -> Result<Loaded, Error> {
        if !pins.is_loaded() {
            return Err(if pins.names()?.is_empty() { Error::NotLoaded } else { Error::Interrupted });
        }
        let loaded = Loaded {
            slots: Slots {
                policy: pins.map("policy", POLICY)?,
                buckets: pins.map("buckets", BUCKET_PAGES)?,
                groups: pins.map("groups", GROUP_PAGES)?,
            },
            grants: pins.map("grants", GRANTS)?,
            counters: pins.map("counters", COUNTERS)?,
            told: pins.map("told", TOLD)?,
            pins,
        };
        if loaded.about()?.program == program::number() { Ok(loaded) } else { Err(Error::OtherVersion) }
    }

    /// Puts `tables` in force, instead of what was, at once and for both families.
    pub fn replace(&self, tables: &Tables, mut about: About) -> Result<(), Error> {
        let generation = about.generation;
        let done = fill(&self.pins, &self.slots, tables, &mut about);
        if done.is_err() {
            // Nobody uses it: putting it in force is the last step.
            let _ = self.slots.clear(generation);
            let _ = fs::unlink(self.pins.path(&format!("about-{generation}")));
            return done;
        }
        // From here on no program uses the generation before. Who reads the grants may be one behind.
        self.slots.clear(generation ^ 1)?;
        for name in self.pins.names()? {
            let old = name.strip_prefix("about-").and_then(|number| number.parse::<u32>().ok());
            if old.is_some_and(|old| old + 1 < generation) {
                let _ = fs::unlink(self.pins.path(&name));
            }
        }
        Ok(())
    }

    /// What is known of the generation in force.
    pub fn about(&self) -> Result<About, Error> {
        let id = self.slots.policy.read(&0u32.to_ne_bytes()).map_err(|errno| Error::Call { call: LOOKUP, errno })?;
        let id = id.and_then(|id| Some(u32::from_ne_bytes(id.try_into().ok()?)));
        for name in self.pins.names()?.into_iter().filter(|name| name.starts_with("about-")) {
            if let Some(about) = self.read_about(&name)?.filter(|about| Some(about.map) == id) {
                return Ok(about);
            }
        }
        Err(Error::Foreign { path: self.pins.path.clone(), why: "no file there describes the active policy" })
    }

    /// What is known of `generation`, if it is in force, or was before the one that is, and was not unloaded since: what is
    /// pinned by its name then is another load's.
    pub fn about_generation(&self, generation: u32) -> Result<Option<About>, Error> {
        let about = self.read_about(&format!("about-{generation}"))?;
        Ok(about.filter(|_| !self.is_gone()))
    }

    fn read_about(&self, name: &str) -> Result<Option<About>, Error> {
        match Map::open(&self.pins.path(name)) {
            Ok(map) if map.is(Shape { value: map.value_size(), ..COUNTERS }) => {
                let bytes = map.read(&0u32.to_ne_bytes()).map_err(|errno| Error::Call { call: LOOKUP, errno })?;
                Ok(bytes.and_then(|bytes| About::from_bytes(&bytes)))
            }
            Ok(_) | Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::Call { call: "bpf(BPF_OBJ_GET)", errno }),
        }
    }

    /// What was counted.
    pub fn counts(&self) -> Result<Counts, Error> {
        let bytes = self.counters.read(&0u32.to_ne_bytes()).map_err(|errno| Error::Call { call: LOOKUP, errno })?;
        let bytes = bytes.unwrap_or_default();
        let at = |offset: i32| {
            let bytes = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..offset + 8)?.try_into().ok());
            bytes.map_or(0, u64::from_ne_bytes)
        };
        let unlogged = at(counter::UNLOGGED);
        // All records have one size, so their number need not be counted at each bind.
        let logged = self.grants()?.written() / u64::from(bpf::RECORD_HEADER + u32::from(record::SIZE.cast_unsigned()));
        Ok(Counts { granted: logged + unlogged, unlogged, passed: at(counter::PASSED) })
    }

    /// Whether the policy holds.
    #[must_use]
    pub fn attached(&self) -> Attached {
        let links = self.pins.links().unwrap_or_default();
        let holds = links.len() == HOOKS.len() && links.iter().all(|link| link.cgroup().is_ok_and(|id| id.is_some()));
        if holds { Attached::Yes } else { Attached::No }
    }

    /// Whether grants wait that nobody is there to read.
    pub fn unread(&self) -> Result<bool, Error> {
        Ok(self.reader()? != Reader::There && self.grants()?.waiting() > 0)
    }

    /// The grants that wait for a reader.
    pub fn grants(&self) -> Result<Ring<'_>, Error> {
        Ring::of(&self.grants).map_err(|errno| Error::Call { call: "mmap, of the ring buffer,", errno })
    }

    /// Becomes the reader of the grants for as long as the descriptor lives. Somebody who only looks whether there is one
    /// ([`Loaded::reader`]) is in the way for a moment.
    pub fn become_reader(&self) -> Result<OwnedFd, Error> {
        for _ in 0..10 {
            match self.try_become_reader() {
                Err(Error::AnotherReader) => sleep(Duration::from_millis(20)),
                outcome => return outcome,
            }
        }
        Err(Error::AnotherReader)
    }

    fn try_become_reader(&self) -> Result<OwnedFd, Error> {
        let folder = judged_folder(&self.pins.path.join("audit"))?;
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(folder),
            Err(Errno::WOULDBLOCK) => Err(Error::AnotherReader),
            Err(errno) => Err(Error::Call { call: "flock", errno }),
        }
    }

    /// Whether anybody reads the grants.
    pub fn reader(&self) -> Result<Reader, Error> {
        match self.try_become_reader() {
            Ok(_) => Ok(Reader::None),
            Err(Error::AnotherReader) => Ok(Reader::There),
            Err(error) => Err(error),
        }
    }

    /// Whether it was unloaded since. Waits for nobody who changes anything, as grants come meanwhile.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match Map::open(&self.pins.path("grants")) {
            Ok(grants) => grants.id() != self.grants.id(),
            Err(errno) => errno == Errno::NOENT,
        }
    }

    /// How many of the lost grants the log was told.
    pub fn told(&self) -> Result<u64, Error> {
        let bytes = self.told.read(&0u32.to_ne_bytes()).map_err(|errno| Error::Call { call: LOOKUP, errno })?;
        Ok(bytes.and_then(|bytes| Some(u64::from_ne_bytes(bytes.try_into().ok()?))).unwrap_or(0))
    }

    /// That the log was told of `lost` grants in all.
    pub fn tell(&self, lost: u64) -> Result<(), Error> {
        set(&self.told, &0u32.to_ne_bytes(), &lost.to_ne_bytes())
    }

    /// Takes everything away, also what an interrupted load left.
    pub fn unload() -> Result<(), Error> {
        Pins::open()?.locked()?.clear()
    }
}

const LOOKUP: &str = "bpf(BPF_MAP_LOOKUP_ELEM)";

/// Makes the maps of a generation, and puts it in force as the last step.
fn fill(pins: &Pins, slots: &Slots, tables: &Tables, about: &mut About) -> Result<(), Error> {
    let rows = Rows::of(tables, about.generation);
    // What an interrupted reload left there is nobody's.
    slots.clear(about.generation)?;
    write(&slots.buckets, bucket::PAGES, BUCKETS, about.generation, rows.buckets())?;
    write(&slots.groups, group::PAGES, GROUPS, about.generation, rows.groups())?;
    let ports = create(PORTS, None)?;
    set_all(&ports, rows.ports())?;
    about.map = ports.id();
    let text = about.to_bytes();
    let map = create(Shape { value: text.len(), name: "portgrant_about", ..COUNTERS }, None)?;
    set(&map, &0u32.to_ne_bytes(), &text)?;
    let name = format!("about-{}", about.generation);
    let _ = fs::unlink(pins.path(&name));
    pins.pin(&map, &name)?;
    put(&slots.policy, 0, &ports)
}

/// The descriptor, as programs name a map.
fn fd(map: &Map) -> i32 {
    map.as_fd().as_raw_fd()
}

/// Whether the kernel finds all elements of an array that is in an array of maps. One that takes no such question is believed.
fn finds_elements() -> Result<bool, Error> {
    let array = create(Shape { name: "portgrant_probe", value: 4, entries: 2, ..PORTS }, None)?;
    set(&array, &1u32.to_ne_bytes(), &program::FOUND.to_ne_bytes())?;
    let outer = create(POLICY, Some(&array))?;
    put(&outer, 0, &array)?;
    let found = Program::run(&program::probe(fd(&outer)), "portgrant_probe");
    Ok(found.is_err() || found == Ok(program::FOUND))
}

impl Slots {
    /// Each with the name of its pin.
    fn named(&self) -> [(&Map, &'static str); 3] {
        [(&self.policy, "policy"), (&self.buckets, "buckets"), (&self.groups, "groups")]
    }

    /// Lets all pages of a generation go.
    fn clear(&self, generation: u32) -> Result<(), Error> {
        for (pages, all) in [(bucket::PAGES, &self.buckets), (group::PAGES, &self.groups)] {
            for number in pages.of(generation) {
                let key = number.to_ne_bytes();
                // Before it answers the kernel may wait for all programs, also where nothing was there; so that is asked first.
                if all.read(&key).map_err(|errno| Error::Call { call: LOOKUP, errno })?.is_some() {
                    all.remove(&key).map_err(|errno| Error::Call { call: "bpf(BPF_MAP_DELETE_ELEM)", errno })?;
                }
            }
        }
        Ok(())
    }
}

/// Writes the rows of a generation into `all`, page by page.
fn write<const SIZE: usize>(
    all: &Map,
    pages: Pages,
    page: Shape<'_>,
    generation: u32,
    rows: impl Iterator<Item = Option<[u8; SIZE]>>,
) -> Result<(), Error> {
    let mut left = rows.peekable();
    for number in pages.of(generation) {
        if left.peek().is_none() {
            break;
        }
        let page = create(page, None)?;
        let here = (0..1 << pages.bits).zip(left.by_ref());
        set_all(&page, here.filter_map(|(index, row)| Some((index, row?))))?;
        put(all, number, &page)?;
    }
    Ok(())
}

fn set(map: &Map, key: &[u8], value: &[u8]) -> Result<(), Error> {
    map.set(key, value).map_err(|errno| Error::Call { call: "bpf(BPF_MAP_UPDATE_ELEM)", errno })
}

fn set_all<const SIZE: usize>(map: &Map, elements: impl Iterator<Item = (u32, [u8; SIZE])>) -> Result<(), Error> {
    map.set_all(elements).map_err(|errno| Error::Call { call: "bpf(BPF_MAP_UPDATE_BATCH)", errno })
}

fn create(shape: Shape<'_>, inner: Option<&Map>) -> Result<Map, Error> {
    Map::create(shape, inner).map_err(|errno| match errno {
        Errno::PERM => Error::NoPrivilege,
        errno => Error::Call { call: "bpf(BPF_MAP_CREATE)", errno },
    })
}

fn put(slots: &Map, index: u32, map: &Map) -> Result<(), Error> {
    slots.put(index, map).map_err(|errno| Error::Call { call: "bpf(BPF_MAP_UPDATE_ELEM)", errno })
}

/// The BPF file system, in which nobody but root can have made or replaced our folder.
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

fn judged_folder(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOTDIR | Errno::LOOP => Error::Foreign { path: path.to_owned(), why: "it is not a folder" },
        // Root without its capabilities is kept out of what others made there.
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
