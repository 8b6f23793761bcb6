//! The allocator, for a process with one thread. The size of a block is a power of two, and a freed block is used again
//! for its size. Large blocks are separate pages, returned to the kernel at once. So repeated work needs no more memory
//! than one pass.
//!
//! The first blocks come from pages of the file, so a short run needs no memory from the kernel.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{self, NonNull};

use portgrant_sys::{map, remap, unmap};

/// The smallest block, and the alignment of all.
const LEAST: usize = 16;
/// Larger blocks get separate pages.
const MOST: usize = 32 << 10;
/// 16 bytes to `MOST`.
const SIZES: usize = (MOST / LEAST).trailing_zeros() as usize + 1;
/// The memory in the file.
const FIRST: usize = 96 << 10;
/// How much is requested from the kernel at a time after that.
const MORE: usize = 256 << 10;
/// No alignment beyond that of a page, the smallest there is.
const PAGE: usize = 4096;

/// The heap of a process with one thread.
#[repr(C, align(16))]
pub struct Heap {
    first: UnsafeCell<[u8; FIRST]>,
    state: UnsafeCell<State>,
}

struct State {
    /// The start of the memory that is not used yet
    next: *mut u8,
    left: usize,
    /// Freed blocks of each size; each holds the address of the next one
    free: [*mut u8; SIZES],
    begun: bool,
}

// SAFETY: for processes with one thread alone, as the type says: nothing else runs while a method does, and no method calls
// another program's code.
unsafe impl Sync for Heap {}

impl Heap {
    /// An empty heap.
    #[must_use]
    pub const fn new() -> Heap {
        let state = State { next: ptr::null_mut(), left: 0, free: [ptr::null_mut(); SIZES], begun: false };
        Heap { first: UnsafeCell::new([0; FIRST]), state: UnsafeCell::new(state) }
    }

    fn small(&self, size: usize) -> *mut u8 {
        // SAFETY: one thread, and no reference of another call is alive.
        let state = unsafe { &mut *self.state.get() };
        if !state.begun {
            (state.next, state.left, state.begun) = (self.first.get().cast(), FIRST, true);
        }
        let free = &mut state.free[index(size)];
        if let Some(block) = NonNull::new(*free) {
            // SAFETY: a block that was freed is of this heap, at least 16 bytes, and holds the address of the next one.
            *free = unsafe { block.cast::<*mut u8>().read() };
            return block.as_ptr();
        }
        let size = LEAST << index(size);
        if state.left < size {
            // The rest of the old pages, less than a block of this size, stays unused.
            let Some(pages) = map(MORE) else { return ptr::null_mut() };
            (state.next, state.left) = (pages.as_ptr(), MORE);
        }
        let block = state.next;
        state.next = block.wrapping_add(size);
        state.left -= size;
        block
    }
}

impl Default for Heap {
    fn default() -> Heap {
        Heap::new()
    }
}

/// The index of the smallest block size for `size` bytes.
fn index(size: usize) -> usize {
    (size.max(LEAST).next_power_of_two() / LEAST).trailing_zeros() as usize
}

fn is_large(layout: Layout) -> bool {
    layout.size() > MOST || layout.align() > LEAST
}

// SAFETY: a block is handed out once until it is freed, is as large and as aligned as asked for, and stays where it is.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !is_large(layout) {
            return self.small(layout.size());
        }
        if layout.align() > PAGE {
            return ptr::null_mut();
        }
        map(layout.size()).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: by the same contract.
        let block = unsafe { self.alloc(layout) };
        // Pages of the kernel's are zero; a small block may be one that was used.
        if !block.is_null() && !is_large(layout) {
            // SAFETY: a block of this size.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(block) = NonNull::new(block) else { return };
        if is_large(layout) {
            // SAFETY: pages of `alloc`, of this length, which nobody uses any more.
            return unsafe { unmap(block, layout.size()) };
        }
        // SAFETY: one thread, and no reference of another call is alive.
        let free = unsafe { &mut (&mut *self.state.get()).free[index(layout.size())] };
        // SAFETY: a block of this heap, at least 16 bytes and aligned for an address, which nobody uses any more.
        unsafe { block.cast::<*mut u8>().write(*free) };
        *free = block.as_ptr();
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: by the contract of realloc: not larger than an object may be.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (is_large(layout), is_large(new)) {
            (false, false) if index(size) == index(layout.size()) => block,
            (true, true) => match NonNull::new(block) {
                // SAFETY: pages of `alloc`, of this length, which the caller gives up for the new ones.
                Some(block) => unsafe { remap(block, layout.size(), size) }.map_or(ptr::null_mut(), NonNull::as_ptr),
                None => ptr::null_mut(),
            },
            _ => {
                // SAFETY: by the contract of realloc; the two blocks are not the same.
                unsafe {
                    let moved = self.alloc(new);
                    if !moved.is_null() {
                        moved.copy_from_nonoverlapping(block, layout.size().min(size));
                        self.dealloc(block, layout);
                    }
                    moved
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Block {
        start: *mut u8,
        layout: Layout,
        byte: u8,
    }

    impl Block {
        fn holds_its_bytes(&self) -> bool {
            // SAFETY: a block of this length, which `fill` wrote.
            unsafe { std::slice::from_raw_parts(self.start, self.layout.size()) }.iter().all(|&byte| byte == self.byte)
        }

        fn fill(&self) {
            // SAFETY: a block of this length.
            unsafe { self.start.write_bytes(self.byte, self.layout.size()) };
        }
    }

    fn size() -> impl Strategy<Value = usize> {
        prop_oneof![8 => 1usize..300, 2 => 1usize..MOST + 100, 1 => MOST..4 * MOST]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn blocks_are_aligned_and_do_not_overlap(
            steps in proptest::collection::vec((0..4u8, size(), 0..7u32, any::<usize>()), 1..120)
        ) {
            let heap = Box::new(Heap::new());
            let mut blocks: Vec<Block> = Vec::new();
            for (step, (what, size, align, which)) in steps.into_iter().enumerate() {
                let byte = u8::try_from(step % 250 + 1).expect("small");
                match what {
                    0 | 1 => {
                        let layout = Layout::from_size_align(size, 1 << align).expect("small");
                        // SAFETY: the size is not 0.
                        let start = unsafe { if what == 0 { heap.alloc(layout) } else { heap.alloc_zeroed(layout) } };
                        prop_assert!(!start.is_null() && start.addr().is_multiple_of(layout.align()));
                        let block = Block { start, layout, byte: 0 };
                        prop_assert!(what == 0 || block.holds_its_bytes());
                        let block = Block { byte, ..block };
                        block.fill();
                        blocks.push(block);
                    }
                    2 if !blocks.is_empty() => {
                        let block = blocks.swap_remove(which % blocks.len());
                        prop_assert!(block.holds_its_bytes());
                        // SAFETY: a block of this heap, of this layout.
                        unsafe { heap.dealloc(block.start, block.layout) };
                    }
                    3 if !blocks.is_empty() => {
                        let at = which % blocks.len();
                        let block = &mut blocks[at];
                        prop_assert!(block.holds_its_bytes());
                        // SAFETY: a block of this heap, of this layout, and a size that is not 0.
                        block.start = unsafe { heap.realloc(block.start, block.layout, size) };
                        prop_assert!(!block.start.is_null());
                        let kept = block.layout.size().min(size);
                        block.layout = Layout::from_size_align(size, block.layout.align()).expect("small");
                        // SAFETY: the first bytes were kept.
                        let bytes = unsafe { std::slice::from_raw_parts(block.start, kept) };
                        prop_assert!(bytes.iter().all(|&found| found == block.byte));
                        block.byte = byte;
                        block.fill();
                    }
                    _ => {}
                }
            }
            prop_assert!(blocks.iter().all(Block::holds_its_bytes));
        }
    }

    #[test]
    fn a_freed_block_is_used_again() {
        let heap = Box::new(Heap::new());
        let layout = Layout::from_size_align(100, 8).expect("small");
        // SAFETY: each block is freed once, with its layout.
        unsafe {
            let first = heap.alloc(layout);
            for _ in 0..100_000 {
                let block = heap.alloc(layout);
                heap.dealloc(block, layout);
            }
            assert_eq!(heap.alloc(layout).addr() - first.addr(), 128);
        }
    }

    #[test]
    fn an_allocation_that_fails_is_a_null_pointer() {
        let heap = Box::new(Heap::new());
        // SAFETY: the sizes are not 0.
        unsafe {
            assert!(heap.alloc(Layout::from_size_align(1 << 60, 8).expect("a layout")).is_null());
            assert!(heap.alloc(Layout::from_size_align(8, 1 << 16).expect("a layout")).is_null());
        }
    }
}
