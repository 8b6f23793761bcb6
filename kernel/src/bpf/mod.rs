//! bpf(2): maps, programs, links and pins as values, and the ring buffer's memory. The crate's only unsafe code.
#![allow(unsafe_code, clippy::cast_possible_truncation, reason = "sizes of these structures as the kernel's u32")]

mod attributes;
mod ring;

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::libc;
use rustix::io::Errno;

use self::attributes::*;
use crate::assembly::Instruction;

pub use ring::{RECORD_HEADER, Ring};

/// The type of a map (`enum bpf_map_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Keys are 0, 1, …
    Array = 2,
    /// An array of maps
    Maps = 12,
    /// Records for one reader
    Ring = 27,
}

/// The properties of a map.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    /// Its type
    pub kind: Kind,
    /// At most 15 bytes, for bpftool(8)
    pub name: &'a str,
    /// Bytes of a key
    pub key: usize,
    /// Bytes of a value
    pub value: usize,
    /// The number of entries; for a ring, its bytes
    pub entries: usize,
    /// Whether programs may only read it
    pub read_only: ReadOnly,
}

/// Whether a program may write to a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOnly {
    /// They may not write
    Yes,
    /// They may write
    No,
}

/// A map.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    info: MapInfo,
}

/// A program that the verifier has accepted.
#[derive(Debug)]
pub struct Program(OwnedFd);

/// A program at a cgroup's hook.
#[derive(Debug)]
pub struct Link(OwnedFd);

/// Why a program was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The error
    pub errno: Errno,
    /// The verifier's log; may be empty
    pub log: String,
}

/// A hook (`enum bpf_attach_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// bind(2) of AF_INET
    Bind4 = 8,
    /// bind(2) of AF_INET6
    Bind6 = 9,
}

/// More than the verifier's log of our programs at its first level.
const LOG_SIZE: usize = 1 << 24;

impl Map {
    /// Makes a map. For an array of maps, each of them must be like `inner`.
    pub fn create(shape: Shape<'_>, inner: Option<&Map>) -> Result<Map, Errno> {
        let flags = if shape.read_only == ReadOnly::Yes { READ_ONLY_FOR_PROGRAMS | ON_PAGES } else { 0 };
        let mut create = CreateMap {
            kind: shape.kind as u32,
            key_size: shape.key as u32,
            value_size: shape.value as u32,
            max_entries: u32::try_from(shape.entries).map_err(|_| Errno::TOOBIG)?,
            flags,
            inner_map_fd: inner.map_or(0, |inner| number(inner.as_fd())),
            name: name(shape.name),
            ..CreateMap::default()
        };
        // SAFETY: no pointers among the attributes.
        let fd = unsafe { call(MAP_CREATE, &mut create) }?;
        // SAFETY: the kernel has just given it to us.
        Map::of(unsafe { owned(fd) })
    }

    /// The map that is pinned at `path`.
    pub fn open(path: &CStr) -> Result<Map, Errno> {
        Map::of(open(path)?)
    }

    fn of(fd: OwnedFd) -> Result<Map, Errno> {
        let mut found = MapInfo::default();
        info(fd.as_fd(), &mut found)?;
        Ok(Map { fd, info: found })
    }

    /// Its id, while it exists.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.info.id
    }

    /// Bytes of a value.
    #[must_use]
    pub fn value_size(&self) -> usize {
        self.info.value_size as usize
    }

    /// Whether it has the type and the sizes of `shape`. The number of entries is not compared.
    #[must_use]
    pub fn is(&self, shape: Shape<'_>) -> bool {
        (self.info.kind, self.info.key_size as usize, self.info.value_size as usize)
            == (shape.kind as u32, shape.key, shape.value)
    }

    /// Sets `key` to `value`. In an array of maps, it returns when no program uses the previous map any more.
    ///
    /// # Panics
    /// Where their sizes are not the map's.
    pub fn set(&self, key: &[u8], value: &[u8]) -> Result<(), Errno> {
        self.fits(key, value.len());
        let mut element = self.element(key, value.as_ptr().expose_provenance());
        // SAFETY: key and value are as long as the kernel reads, which the line above makes sure of, and live until then.
        unsafe { call(MAP_UPDATE, &mut element) }.map(|_| ())
    }

    /// Sets many elements of an array.
    ///
    /// # Panics
    /// Where their sizes are not the map's.
    pub fn set_all<const SIZE: usize>(&self, elements: impl Iterator<Item = (u32, [u8; SIZE])>) -> Result<(), Errno> {
        let (keys, values): (Vec<u32>, Vec<[u8; SIZE]>) = elements.unzip();
        if keys.is_empty() {
            return Ok(());
        }
        self.fits(&[0; size_of::<u32>()], SIZE);
        let mut batch = Batch {
            keys: keys.as_ptr().expose_provenance() as u64,
            values: values.as_ptr().expose_provenance() as u64,
            count: keys.len() as u32,
            map_fd: number(self.as_fd()),
            ..Batch::default()
        };
        // SAFETY: `count` keys and as many values, each as long as the map's, are read; both live across the call. No array
        // here has more elements than fit into a u32.
        unsafe { call(MAP_UPDATE_BATCH, &mut batch) }.map(|_| ())
    }

    /// Puts `map` at `index` of this array of maps.
    pub fn put(&self, index: u32, map: &Map) -> Result<(), Errno> {
        self.set(&index.to_ne_bytes(), &number(map.as_fd()).to_ne_bytes())
    }

    /// The value at `key`; in an array of maps, the map's id.
    ///
    /// # Panics
    /// Where the key has not the map's size.
    pub fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        let mut value = vec![0; self.info.value_size as usize];
        self.fits(key, value.len());
        let mut element = self.element(key, value.as_mut_ptr().expose_provenance());
        // SAFETY: the key is as long as the kernel reads and the value as it writes (no map here is one per CPU).
        match unsafe { call(MAP_LOOKUP, &mut element) } {
            Ok(_) => Ok(Some(value)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Removes `key`.
    ///
    /// # Panics
    /// Where it has not the map's size.
    pub fn remove(&self, key: &[u8]) -> Result<(), Errno> {
        self.fits(key, self.info.value_size as usize);
        let mut element = self.element(key, 0);
        // SAFETY: the key is as long as the kernel reads.
        unsafe { call(MAP_DELETE, &mut element) }.map(|_| ())
    }

    fn fits(&self, key: &[u8], value: usize) {
        assert_eq!(
            (key.len(), value),
            (self.info.key_size as usize, self.info.value_size as usize),
            "a map of another kind"
        );
    }

    fn element(&self, key: &[u8], value: usize) -> Element {
        let key = key.as_ptr().expose_provenance() as u64;
        Element { map_fd: number(self.as_fd()), padding: 0, key, value: value as u64, flags: 0 }
    }
}

impl Program {
    /// Loads `instructions`, which are for a bind hook; the verifier checks them.
    pub fn load(instructions: &[Instruction], hook: Hook, called: &str) -> Result<Program, Refused> {
        // First without a log: it takes time, and the kernel refuses the program if the log does not fit.
        let attach = hook as u32;
        Program::try_load(instructions, CGROUP_SOCK_ADDR, attach, called, &mut []).or_else(|_| {
            let mut log = vec![0; LOG_SIZE];
            let loaded = Program::try_load(instructions, CGROUP_SOCK_ADDR, attach, called, &mut log);
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
            loaded.map_err(|errno| Refused { errno, log: String::from_utf8_lossy(&log[..end]).into_owned() })
        })
    }

    /// Runs `instructions` once, as a socket filter that is not attached, and returns their result.
    pub fn run(instructions: &[Instruction], called: &str) -> Result<u32, Errno> {
        let program = Program::try_load(instructions, SOCKET_FILTER, 0, called, &mut [])?;
        // The kernel needs at least a frame without a payload.
        let frame = [0u8; 14];
        let mut run = TestRun {
            program_fd: number(program.0.as_fd()),
            data_size: frame.len() as u32,
            data: frame.as_ptr().expose_provenance() as u64,
            ..TestRun::default()
        };
        // SAFETY: `data_size` bytes are read, and live across the call; where none are to be written, none are.
        unsafe { call(PROGRAM_TEST_RUN, &mut run) }?;
        Ok(run.result)
    }

    fn try_load(
        instructions: &[Instruction],
        kind: u32,
        attach: u32,
        called: &str,
        log: &mut [u8],
    ) -> Result<Program, Errno> {
        // The helpers that the program calls need no other licence.
        let license = c"MIT OR Apache-2.0";
        let mut load = LoadProgram {
            kind,
            count: instructions.len() as u32,
            instructions: instructions.as_ptr().expose_provenance() as u64,
            license: license.as_ptr().expose_provenance() as u64,
            name: name(called),
            expected_attach_type: attach,
            ..LoadProgram::default()
        };
        if !log.is_empty() {
            load.log_level = 1;
            load.log_size = log.len() as u32;
            load.log = log.as_mut_ptr().expose_provenance() as u64;
        }
        // SAFETY: `count` instructions (repr(C), 8 bytes each) and a NUL-ended license are read, at most `log_size` bytes of
        // the log written; all live across the call.
        let fd = unsafe { call(PROGRAM_LOAD, &mut load) }?;
        // SAFETY: the kernel has just given it to us.
        Ok(Program(unsafe { owned(fd) }))
    }
}

impl Link {
    /// Attaches `program` to `cgroup`, beside other programs.
    pub fn attach(program: &Program, cgroup: BorrowedFd<'_>, hook: Hook) -> Result<Link, Errno> {
        let mut create = CreateLink {
            program_fd: number(program.0.as_fd()),
            target_fd: number(cgroup),
            attach_type: hook as u32,
            flags: 0,
        };
        // SAFETY: no pointers among the attributes.
        let fd = unsafe { call(LINK_CREATE, &mut create) }?;
        // SAFETY: the kernel has just given it to us.
        Ok(Link(unsafe { owned(fd) }))
    }

    /// The link that is pinned at `path`, if it is one of a cgroup's.
    pub fn open(path: &CStr) -> Result<Link, Errno> {
        let link = Link(open(path)?);
        if link.info()?.kind == LINK_OF_A_CGROUP { Ok(link) } else { Err(Errno::INVAL) }
    }

    /// The id (inode number) of its cgroup; `None` if the cgroup was removed, or the link was detached.
    pub fn cgroup(&self) -> Result<Option<u64>, Errno> {
        Ok(Some(self.info()?.cgroup).filter(|&id| id != 0))
    }

    /// Detaches it at once. The link itself stays, without effect, until its last holder closes it.
    pub fn detach(&self) -> Result<(), Errno> {
        let mut fd = number(self.as_fd());
        // SAFETY: no pointers among the attributes.
        unsafe { call(LINK_DETACH, &mut fd) }.map(|_| ())
    }

    fn info(&self) -> Result<LinkInfo, Errno> {
        let mut found = LinkInfo::default();
        info(self.as_fd(), &mut found).map(|()| found)
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Pins the object of `fd` at `path`, on a BPF file system.
pub fn pin(fd: BorrowedFd<'_>, path: &CStr) -> Result<(), Errno> {
    let mut pin = AtPath { path: path.as_ptr().expose_provenance() as u64, fd: number(fd), flags: 0 };
    // SAFETY: the path is NUL-ended and lives across the call.
    unsafe { call(PIN, &mut pin) }.map(|_| ())
}

fn open(path: &CStr) -> Result<OwnedFd, Errno> {
    let mut get = AtPath { path: path.as_ptr().expose_provenance() as u64, fd: 0, flags: 0 };
    // SAFETY: the path is NUL-ended and lives across the call.
    let fd = unsafe { call(GET, &mut get) }?;
    // SAFETY: the kernel has just given it to us.
    Ok(unsafe { owned(fd) })
}

/// Fills `into`, one of the structures in `attributes`, which have only integers.
fn info<T>(fd: BorrowedFd<'_>, into: &mut T) -> Result<(), Errno> {
    let length = size_of::<T>() as u32;
    let mut info = Info { fd: number(fd), length, info: (&raw mut *into).expose_provenance() as u64 };
    // SAFETY: the kernel writes at most `length` bytes, the size of `into`, which lives across the call.
    unsafe { call(INFO, &mut info) }.map(|_| ())
}

/// # Safety
/// `attributes` are those of `command`, and every address among them may be read or written as that command does.
unsafe fn call<T>(command: i64, attributes: &mut T) -> Result<i32, Errno> {
    // SAFETY: the size is that of the attributes; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    i32::try_from(result).ok().filter(|&result| result >= 0).ok_or_else(|| {
        let error = std::io::Error::last_os_error();
        Errno::from_io_error(&error).unwrap_or(Errno::IO)
    })
}

/// # Safety
/// `fd` is open, and nobody else's.
unsafe fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the caller's promise. All descriptors of bpf(2) are close-on-exec.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn name(text: &str) -> [u8; 16] {
    let mut name = [0; 16];
    for (to, from) in name.iter_mut().zip(text.bytes().take(15)) {
        *to = from;
    }
    name
}

/// A path as the kernel reads it.
#[must_use]
pub fn c_path(path: &Path) -> std::ffi::CString {
    std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).expect("our own paths have no NUL")
}
