//! The loaded policy: objects in the kernel, pinned on a BPF file system, so that they outlive every process.
//!
//! | pin | what it is |
//! |---|---|
//! | `policy` | one slot: the ports of the active generation |
//! | `buckets`, `groups` | the rows of an even generation in the first half, those of an odd one in the second |
//! | `grants`, `counters` | the ring buffer and the counts |
//! | `reported` | how many lost grants are reported in the log |
//! | `description-N` | the description of generation N, with the id of the map of its ports |
//! | `bind4`, `bind6` | the links: while they are attached, the policy is active |
//! | `audit` | a folder that the reader of the grants holds locked |
//!
//! A generation is complete before the one slot of `policy` is set to it, and nothing of the one before is touched until
//! that call returned: the kernel waits there until no program uses it any more. So each decision is made by one generation,
//! and the slot is never empty. A process that changes anything holds the folder locked.

mod generation;
mod pins;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{self, FlockOperation, Mode, flock};
use rustix::io::Errno;

use self::generation::*;
use self::pins::{HOOKS, Pins, judged_folder};
use crate::Error;
use crate::bpf::{self, Link, Map, Program, Ring, Shape};
use crate::cgroup::Cgroup;
use crate::description::Description;
use crate::layout::{counter, record};
use crate::program::{self, Maps};
use crate::tables::Tables;

pub use pins::{BPF_FILE_SYSTEM, FOLDER};

/// The loaded policy.
#[derive(Debug)]
pub struct Loaded {
    pins: Pins,
    slots: Slots,
    grants: Map,
    counters: Map,
    reported: Map,
}

/// The counts since it was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Grants
    pub granted: u64,
    /// Grants without a record, since the ring buffer was full
    pub unlogged: u64,
    /// Refused requests for a port that another user is permitted; the kernel decided them
    pub passed: u64,
}

/// Whether the program is attached to both hooks of the cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attached {
    /// Both
    Yes,
    /// The cgroup was removed, or the program was detached: nothing is granted
    No,
}

/// Whether a process reads the grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// Somebody
    There,
    /// Nobody
    None,
}

impl Loaded {
    /// Loads `tables` for `cgroup`, and for the network namespace of `description`.
    pub fn load(tables: &Tables, cgroup: &Cgroup, mut description: Description) -> Result<(), Error> {
        let pins = Pins::make()?.locked()?;
        if pins.is_loaded() {
            return Err(Error::Loaded);
        }
        if !pins.names()?.is_empty() {
            // Remove what an interrupted load has left.
            pins.clear()?;
            return Loaded::load(tables, cgroup, description);
        }
        let done = Loaded::fill(&pins, tables, cgroup, &mut description);
        if done.is_err() {
            let _ = pins.clear();
        }
        done
    }

    fn fill(pins: &Pins, tables: &Tables, cgroup: &Cgroup, description: &mut Description) -> Result<(), Error> {
        if !finds_elements()? {
            return Err(Error::FirstElementOnly);
        }
        let slots = Slots {
            policy: create(POLICY, Some(&create(PORTS, None)?))?,
            buckets: create(BUCKET_PAGES, Some(&create(BUCKETS, None)?))?,
            groups: create(GROUP_PAGES, Some(&create(GROUPS, None)?))?,
        };
        let (grants, counters, reported) = (create(GRANTS, None)?, create(COUNTERS, None)?, create(REPORTED, None)?);
        for (map, name) in
            slots.named().into_iter().chain([(&grants, "grants"), (&counters, "counters"), (&reported, "reported")])
        {
            pins.pin(map, name)?;
        }
        let audit = pins.path("audit");
        fs::mkdir(&audit, Mode::RWXU).map_err(|errno| Error::Call { call: "mkdir, for the pins,", errno })?;
        fill(pins, &slots, tables, description)?;

        let [policy, buckets, groups] = slots.named().map(|(map, _)| fd(map));
        let maps = Maps { policy, buckets, groups, grants: fd(&grants), counters: fd(&counters) };
        for (name, hook, family) in HOOKS {
            let code = program::program(maps, family, description.network_namespace);
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

    /// Opens the loaded policy for reading. Waits while it is being changed.
    pub fn open() -> Result<Loaded, Error> {
        let call = |errno| Error::Call { call: "flock", errno };
        let pins = Pins::open()?;
        flock(&pins.fd, FlockOperation::LockShared).map_err(call)?;
        let loaded = Loaded::at(pins)?;
        flock(&loaded.pins.fd, FlockOperation::Unlock).map_err(call)?;
        Ok(loaded)
    }

    /// Opens the loaded policy for a change.
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
            reported: pins.map("reported", REPORTED)?,
            pins,
        };
        if loaded.description()?.program == program::number() { Ok(loaded) } else { Err(Error::OtherVersion) }
    }

    /// Activates `tables` instead of the old ones, at once and for both families.
    pub fn replace(&self, tables: &Tables, mut description: Description) -> Result<(), Error> {
        let generation = description.generation;
        let done = fill(&self.pins, &self.slots, tables, &mut description);
        if done.is_err() {
            // The new generation is not in use: its activation is the last step.
            let _ = self.slots.clear(generation);
            let _ = fs::unlink(self.pins.path(&format!("description-{generation}")));
            return done;
        }
        // From now on no program uses the previous generation. The reader of the grants may still need its description.
        self.slots.clear(generation ^ 1)?;
        for name in self.pins.names()? {
            let old = name.strip_prefix("description-").and_then(|number| number.parse::<u32>().ok());
            if old.is_some_and(|old| old + 1 < generation) {
                let _ = fs::unlink(self.pins.path(&name));
            }
        }
        Ok(())
    }

    /// The description of the active generation.
    pub fn description(&self) -> Result<Description, Error> {
        let id = self.slots.policy.read(&0u32.to_ne_bytes()).map_err(|errno| Error::Call { call: LOOKUP, errno })?;
        let id = id.and_then(|id| Some(u32::from_ne_bytes(id.try_into().ok()?)));
        for name in self.pins.names()?.into_iter().filter(|name| name.starts_with("description-")) {
            if let Some(description) = self.read_description(&name)?.filter(|description| Some(description.map) == id) {
                return Ok(description);
            }
        }
        Err(Error::Foreign { path: self.pins.path.clone(), why: "no file there describes the active policy" })
    }

    /// The description of `generation`, if it is the active one or the one before. `None` if the policy was unloaded
    /// since: then the pin of that name belongs to another load.
    pub fn description_of(&self, generation: u32) -> Result<Option<Description>, Error> {
        let description = self.read_description(&format!("description-{generation}"))?;
        Ok(description.filter(|_| !self.is_gone()))
    }

    fn read_description(&self, name: &str) -> Result<Option<Description>, Error> {
        match Map::open(&self.pins.path(name)) {
            Ok(map) if map.is(Shape { value: map.value_size(), ..COUNTERS }) => {
                let bytes = map.read(&0u32.to_ne_bytes()).map_err(|errno| Error::Call { call: LOOKUP, errno })?;
                Ok(bytes.and_then(|bytes| Description::from_bytes(&bytes)))
            }
            Ok(_) | Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::Call { call: "bpf(BPF_OBJ_GET)", errno }),
        }
    }

    /// The counts.
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

    /// Whether the policy is active.
    #[must_use]
    pub fn attached(&self) -> Attached {
        let links = self.pins.links().unwrap_or_default();
        let holds = links.len() == HOOKS.len() && links.iter().all(|link| link.cgroup().is_ok_and(|id| id.is_some()));
        if holds { Attached::Yes } else { Attached::No }
    }

    /// Whether there are unread grants and no reader.
    pub fn unread(&self) -> Result<bool, Error> {
        Ok(self.reader()? != Reader::There && self.grants()?.waiting() > 0)
    }

    /// The grants that wait for a reader.
    pub fn grants(&self) -> Result<Ring<'_>, Error> {
        Ring::of(&self.grants).map_err(|errno| Error::Call { call: "mmap, of the ring buffer,", errno })
    }

    /// Becomes the reader of the grants, until the descriptor is closed. A process that only checks for a reader
    /// ([`Loaded::reader`]) has the lock for a moment, so this is tried again.
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

    /// Whether a process reads the grants.
    pub fn reader(&self) -> Result<Reader, Error> {
        match self.try_become_reader() {
            Ok(_) => Ok(Reader::None),
            Err(Error::AnotherReader) => Ok(Reader::There),
            Err(error) => Err(error),
        }
    }

    /// Whether the policy was unloaded since. Does not wait for the lock, since grants arrive meanwhile.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match Map::open(&self.pins.path("grants")) {
            Ok(grants) => grants.id() != self.grants.id(),
            Err(errno) => errno == Errno::NOENT,
        }
    }

    /// How many lost grants are reported in the log.
    pub fn reported(&self) -> Result<u64, Error> {
        let bytes = self.reported.read(&0u32.to_ne_bytes()).map_err(|errno| Error::Call { call: LOOKUP, errno })?;
        Ok(bytes.and_then(|bytes| Some(u64::from_ne_bytes(bytes.try_into().ok()?))).unwrap_or(0))
    }

    /// Notes that `lost` grants in all are reported in the log.
    pub fn set_reported(&self, lost: u64) -> Result<(), Error> {
        set(&self.reported, &0u32.to_ne_bytes(), &lost.to_ne_bytes())
    }

    /// Removes everything, also what an interrupted load has left.
    pub fn unload() -> Result<(), Error> {
        Pins::open()?.locked()?.clear()
    }
}

const LOOKUP: &str = "bpf(BPF_MAP_LOOKUP_ELEM)";

/// The map's descriptor, as programs name it.
fn fd(map: &Map) -> i32 {
    map.as_fd().as_raw_fd()
}

/// Whether the kernel finds all elements of an array in an array of maps. If it cannot be tested, the answer is yes.
fn finds_elements() -> Result<bool, Error> {
    let array = create(Shape { name: "portgrant_probe", value: 4, entries: 2, ..PORTS }, None)?;
    set(&array, &1u32.to_ne_bytes(), &program::FOUND.to_ne_bytes())?;
    let outer = create(POLICY, Some(&array))?;
    put(&outer, 0, &array)?;
    let found = Program::run(&program::probe(fd(&outer)), "portgrant_probe");
    Ok(found.is_err() || found == Ok(program::FOUND))
}
