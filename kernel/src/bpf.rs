//! bpf(2): maps, programs, links and pins as values, and the ring buffer's memory. The crate's only unsafe code.
//!
//! Each command's attributes are laid out as `union bpf_attr` of linux/bpf.h has them; the kernel takes a shorter one for
//! one whose rest is zero.
#![allow(unsafe_code, clippy::cast_possible_truncation, reason = "sizes of this page as the kernel's u32")]

use std::ffi::CStr;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use rustix::io::Errno;

use crate::assembly::Instruction;

/// What a map is (`enum bpf_map_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Keys are 0, 1, …
    Array = 2,
    /// An array of maps
    Maps = 12,
    /// Records for one reader
    Ring = 27,
}

/// What is asked of a map.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    /// What it is
    pub kind: Kind,
    /// At most 15 bytes, for bpftool(8) and whoever looks
    pub name: &'a str,
    /// Bytes of a key
    pub key: usize,
    /// Bytes of a value
    pub value: usize,
    /// How many entries, or bytes of a ring
    pub entries: usize,
    /// Programs only read it
    pub read_only: ReadOnly,
}

/// Whether a program may write to a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOnly {
    /// It may not
    Yes,
    /// It may
    No,
}

/// A map.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    info: MapInfo,
}

/// A program that the verifier took.
#[derive(Debug)]
pub struct Program(OwnedFd);

/// A program at a cgroup's hook.
#[derive(Debug)]
pub struct Link(OwnedFd);

/// Why a program was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The error
    pub errno: Errno,
    /// What the verifier wrote, as far as it wrote anything
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

const MAP_CREATE: i64 = 0;
const MAP_LOOKUP: i64 = 1;
const MAP_UPDATE: i64 = 2;
const MAP_DELETE: i64 = 3;
const PROGRAM_LOAD: i64 = 5;
const PROGRAM_TEST_RUN: i64 = 10;
const PIN: i64 = 6;
const GET: i64 = 7;
const INFO: i64 = 15;
const MAP_UPDATE_BATCH: i64 = 26;
const LINK_CREATE: i64 = 28;
const LINK_DETACH: i64 = 34;

const READ_ONLY_FOR_PROGRAMS: u32 = 1 << 7;
/// BPF_F_MMAPABLE: for nothing but that the values then begin with a page, so that none of 64 bytes is in two lines of the
/// processor's cache.
const ON_PAGES: u32 = 1 << 10;
const SOCKET_FILTER: u32 = 1;
const CGROUP_SOCK_ADDR: u32 = 18;
const LINK_OF_A_CGROUP: u32 = 3;
/// More than the verifier says of our programs at its first level.
const LOG_SIZE: usize = 1 << 24;

#[repr(C)]
#[derive(Default)]
struct CreateMap {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: [u8; 16],
}

#[repr(C)]
struct Element {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct LoadProgram {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    program_fd: u32,
    result: u32,
    data_size: u32,
    data_size_after: u32,
    data: u64,
    data_after: u64,
    repeat: u32,
    duration: u32,
}

#[repr(C)]
struct AtPath {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct Info {
    fd: u32,
    length: u32,
    info: u64,
}

#[repr(C)]
struct CreateLink {
    program_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// The first of what the kernel tells of a map.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    cgroup: u64,
    attach_type: u32,
}

impl Map {
    /// Makes a map; of an array of maps, `inner` is what each of them is like.
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
        let mut told = MapInfo::default();
        info(fd.as_fd(), &mut told)?;
        Ok(Map { fd, info: told })
    }

    /// Its number, while it is there.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.info.id
    }

    /// Bytes of a value.
    #[must_use]
    pub fn value_size(&self) -> usize {
        self.info.value_size as usize
    }

    /// Whether it is what `shape` asks for, but for the number of entries.
    #[must_use]
    pub fn is(&self, shape: Shape<'_>) -> bool {
        (self.info.kind, self.info.key_size as usize, self.info.value_size as usize)
            == (shape.kind as u32, shape.key, shape.value)
    }

    /// Sets `key` to `value`. In an array of maps, it returns when no program uses the one before any more.
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
        // here has more elements than a u32 tells.
        unsafe { call(MAP_UPDATE_BATCH, &mut batch) }.map(|_| ())
    }

    /// Puts `map` at `index` of this array of maps.
    pub fn put(&self, index: u32, map: &Map) -> Result<(), Errno> {
        self.set(&index.to_ne_bytes(), &number(map.as_fd()).to_ne_bytes())
    }

    /// What stands at `key`; of an array of maps, the map's id.
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

    /// Takes `key` out.
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
    /// Has the verifier judge `instructions`, which are for a bind hook.
    pub fn load(instructions: &[Instruction], hook: Hook, called: &str) -> Result<Program, Refused> {
        // First without a log: it costs time, and a kernel without room for it would refuse the program for that.
        let attach = hook as u32;
        Program::try_load(instructions, CGROUP_SOCK_ADDR, attach, called, &mut []).or_else(|_| {
            let mut log = vec![0; LOG_SIZE];
            let loaded = Program::try_load(instructions, CGROUP_SOCK_ADDR, attach, called, &mut log);
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
            loaded.map_err(|errno| Refused { errno, log: String::from_utf8_lossy(&log[..end]).into_owned() })
        })
    }

    /// Runs `instructions` once, as a socket filter that is attached nowhere: what they return.
    pub fn run(instructions: &[Instruction], called: &str) -> Result<u32, Errno> {
        let program = Program::try_load(instructions, SOCKET_FILTER, 0, called, &mut [])?;
        // A frame without a payload is the least that the kernel takes.
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
        // None of the helpers that it calls asks for another one.
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
    /// Attaches `program` to `cgroup`, beside those of others that are or will be there.
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

    /// The id of the cgroup (its inode number) that it holds in; none if that is gone, or it was detached.
    pub fn cgroup(&self) -> Result<Option<u64>, Errno> {
        Ok(Some(self.info()?.cgroup).filter(|&id| id != 0))
    }

    /// Detaches it at once. The link stays, without effect, until nobody holds it.
    pub fn detach(&self) -> Result<(), Errno> {
        let mut fd = number(self.as_fd());
        // SAFETY: no pointers among the attributes.
        unsafe { call(LINK_DETACH, &mut fd) }.map(|_| ())
    }

    fn info(&self) -> Result<LinkInfo, Errno> {
        let mut told = LinkInfo::default();
        info(self.as_fd(), &mut told).map(|()| told)
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

/// Pins what `fd` is at `path`, on a BPF file system.
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

/// Fills `told`, one of the structures above, which are of integers only.
fn info<T>(fd: BorrowedFd<'_>, told: &mut T) -> Result<(), Errno> {
    let length = size_of::<T>() as u32;
    let mut info = Info { fd: number(fd), length, info: (&raw mut *told).expose_provenance() as u64 };
    // SAFETY: the kernel writes at most `length` bytes, the size of `told`, which lives across the call.
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

/// A ring buffer's memory: what the kernel wrote, and how far we have read.
#[derive(Debug)]
pub struct Ring<'m> {
    map: &'m Map,
    consumer: NonNull<u8>,
    producer: NonNull<u8>,
    page: usize,
    size: usize,
    next: u64,
}

const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
/// Bytes before each record.
pub const RECORD_HEADER: u32 = 8;

impl<'m> Ring<'m> {
    /// Maps the memory of `map`, a ring.
    pub fn of(map: &'m Map) -> Result<Ring<'m>, Errno> {
        if map.info.kind != Kind::Ring as u32 {
            return Err(Errno::INVAL);
        }
        let (page, size) = (rustix::param::page_size(), map.info.max_entries as usize);
        let writable = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let consumer = shared(map, page, writable, 0)?;
        // The data stand there twice in a row, so that a record never breaks off at the end.
        let producer = match shared(map, page + 2 * size, ProtFlags::PROT_READ, page) {
            Ok(producer) => producer,
            Err(errno) => {
                unmap(consumer, page);
                return Err(errno);
            }
        };
        let mut ring = Ring { map, consumer, producer, page, size, next: 0 };
        ring.next = ring.consumed().load(Ordering::Acquire);
        Ok(ring)
    }

    /// The oldest record that has not been let go, or none. Always the same until [`Ring::advance`].
    pub fn peek(&mut self) -> Option<Vec<u8>> {
        loop {
            let at = self.consumed().load(Ordering::Relaxed);
            if at >= self.produced() {
                return None;
            }
            let header = self.header(at).load(Ordering::Acquire);
            if header & BUSY != 0 {
                return None;
            }
            let length = header & !DISCARDED;
            self.next = at + u64::from(length + RECORD_HEADER).next_multiple_of(8);
            if header & DISCARDED == 0 {
                return Some(self.bytes(at + u64::from(RECORD_HEADER), length as usize));
            }
            self.advance();
        }
    }

    /// Lets the record go that [`Ring::peek`] gave: its room may be written to again.
    pub fn advance(&mut self) {
        self.consumed().store(self.next, Ordering::Release);
    }

    /// How many bytes of records nobody has read, headers included.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.produced().saturating_sub(self.consumed().load(Ordering::Acquire))
    }

    /// How many bytes of records were ever written, headers included.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.produced()
    }

    fn consumed(&self) -> &AtomicU64 {
        // SAFETY: the mapping begins with this counter, lives as long as `self`, and is accessed atomically by both sides.
        unsafe { AtomicU64::from_ptr(self.consumer.as_ptr().cast()) }
    }

    fn produced(&self) -> u64 {
        // SAFETY: as above. The kernel alone writes it: the mapping is read-only, and nothing but a load is made here.
        unsafe { AtomicU64::from_ptr(self.producer.as_ptr().cast()) }.load(Ordering::Acquire)
    }

    fn header(&self, at: u64) -> &AtomicU32 {
        // SAFETY: within the data, at a multiple of 8, as all records begin; nothing but a load is made of it.
        unsafe { AtomicU32::from_ptr(self.data(at).as_ptr().cast()) }
    }

    fn bytes(&self, at: u64, length: usize) -> Vec<u8> {
        let length = length.min(self.size);
        // SAFETY: at most `size` bytes from within the first copy of the data end within the second one. The record is
        // complete, and the kernel does not write there before `advance` has let it go.
        unsafe { std::slice::from_raw_parts(self.data(at).as_ptr(), length) }.to_vec()
    }

    fn data(&self, at: u64) -> NonNull<u8> {
        // `size` is a power of two, as the kernel asks for.
        let offset = self.page + (at as usize & (self.size - 1));
        // SAFETY: within the mapping of one page and twice the data.
        unsafe { self.producer.add(offset) }
    }
}

impl AsFd for Ring<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

impl Drop for Ring<'_> {
    fn drop(&mut self) {
        unmap(self.consumer, self.page);
        unmap(self.producer, self.page + 2 * self.size);
    }
}

fn shared(map: &Map, length: usize, protection: ProtFlags, offset: usize) -> Result<NonNull<u8>, Errno> {
    let length = NonZeroUsize::new(length).ok_or(Errno::INVAL)?;
    let offset = libc::off_t::try_from(offset).map_err(|_| Errno::INVAL)?;
    // SAFETY: at an address that the kernel chooses, so nothing that is there changes.
    let mapped = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, map, offset) };
    mapped.map(NonNull::cast).map_err(|errno| Errno::from_raw_os_error(errno as i32))
}

fn unmap(start: NonNull<u8>, length: usize) {
    // SAFETY: one of the two mappings of a ring, whole, and no reference into it is left: they borrow the ring.
    let _ = unsafe { munmap(start.cast(), length) };
}
