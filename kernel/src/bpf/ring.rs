//! The memory of a ring buffer, which the kernel writes and this program reads.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use rustix::io::Errno;

use super::{Kind, Map};

/// A ring buffer's memory, with the positions of the kernel and of this reader.
#[derive(Debug)]
pub struct Ring<'m> {
    map: &'m Map,
    consumer: NonNull<u8>,
    producer: NonNull<u8>,
    page: usize,
    size: usize,
    next: u64,
}

/// Bytes before each record.
pub const RECORD_HEADER: u32 = 8;
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;

impl<'m> Ring<'m> {
    /// Maps the memory of `map`, a ring.
    pub fn of(map: &'m Map) -> Result<Ring<'m>, Errno> {
        if map.info.kind != Kind::Ring as u32 {
            return Err(Errno::INVAL);
        }
        let (page, size) = (rustix::param::page_size(), map.info.max_entries as usize);
        let writable = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let consumer = shared(map, page, writable, 0)?;
        // The data are mapped twice in a row, so that every record is contiguous.
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

    /// The oldest record, if any. It stays the same until [`Ring::advance`].
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

    /// Releases the record that [`Ring::peek`] returned: the kernel may overwrite it.
    pub fn advance(&mut self) {
        self.consumed().store(self.next, Ordering::Release);
    }

    /// How many bytes of records are unread, headers included.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.produced().saturating_sub(self.consumed().load(Ordering::Acquire))
    }

    /// How many bytes of records were written in all, headers included.
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
