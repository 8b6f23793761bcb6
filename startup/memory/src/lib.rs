//! The memory functions that compiled code calls: memcpy, memmove, memset, memcmp, bcmp and strlen (string(3)).
//!
//! The crate is `no_builtins`, so that the compiler does not turn a loop into a call of the same function;
//! `tests/disassembly.rs` checks this. It uses no other crate. The functions are exported if cfg(bare) is set. Words of
//! 8 bytes are read and written unaligned, which both processors can do. The rest at the end is done with a word that
//! overlaps the previous one.

#![cfg_attr(not(test), no_std)]
#![no_builtins]
#![allow(unsafe_code)]

type Long = u64;
const LONG: usize = size_of::<Long>();

#[inline(always)]
unsafe fn load<T>(from: *const u8, at: usize) -> T {
    // SAFETY: by the caller: so many bytes may be read there.
    unsafe { from.add(at).cast::<T>().read_unaligned() }
}

#[inline(always)]
unsafe fn store<T>(to: *mut u8, at: usize, value: T) {
    // SAFETY: by the caller: so many bytes may be written there.
    unsafe { to.add(at).cast::<T>().write_unaligned(value) }
}

/// Copies up to 16 bytes, which may overlap: everything is read before anything is written.
#[inline(always)]
unsafe fn copy_short(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: every access lies within the `len` bytes.
    unsafe {
        if len >= LONG {
            let (first, last) = (load::<Long>(from, 0), load::<Long>(from, len - LONG));
            store(to, 0, first);
            store(to, len - LONG, last);
        } else if len >= 4 {
            let (first, last) = (load::<u32>(from, 0), load::<u32>(from, len - 4));
            store(to, 0, first);
            store(to, len - 4, last);
        } else if len != 0 {
            let (first, middle, last) = (load::<u8>(from, 0), load::<u8>(from, len / 2), load::<u8>(from, len - 1));
            store(to, 0, first);
            store(to, len / 2, middle);
            store(to, len - 1, last);
        }
    }
}

/// memcpy(3) and memmove(3): the two may overlap.
///
/// # Safety
/// `len` bytes may be read at `from` and written at `to`.
#[cfg_attr(bare, unsafe(export_name = "memmove"))]
pub unsafe extern "C" fn copy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: every access lies within the `len` bytes. Forward, a word is written only below the words that are still to be
    // read, or they do not overlap; backward, only above them. The word at the far end is read before anything is written.
    unsafe {
        if len <= 2 * LONG {
            copy_short(to, from, len);
        } else if to.addr().wrapping_sub(from.addr()) >= len {
            let last = load::<Long>(from, len - LONG);
            let mut at = 0;
            while at < len - LONG {
                store(to, at, load::<Long>(from, at));
                at += LONG;
            }
            store(to, len - LONG, last);
        } else {
            let first = load::<Long>(from, 0);
            let mut left = len;
            while left > LONG {
                left -= LONG;
                store(to, left, load::<Long>(from, left));
            }
            store(to, 0, first);
        }
    }
    to
}

/// memcpy(3), by the same code.
///
/// # Safety
/// As [`copy`].
#[cfg(bare)]
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: by the same contract.
    unsafe { copy(to, from, len) }
}

/// memset(3).
///
/// # Safety
/// `len` bytes may be written at `to`.
#[cfg_attr(bare, unsafe(export_name = "memset"))]
pub unsafe extern "C" fn fill(to: *mut u8, value: i32, len: usize) -> *mut u8 {
    let byte = value.to_le_bytes()[0];
    let long = Long::from_ne_bytes([byte; LONG]);
    // SAFETY: every access lies within the `len` bytes.
    unsafe {
        if len < LONG {
            let mut at = 0;
            while at < len {
                store(to, at, byte);
                at += 1;
            }
        } else {
            let mut at = 0;
            while at < len - LONG {
                store(to, at, long);
                at += LONG;
            }
            store(to, len - LONG, long);
        }
    }
    to
}

/// memcmp(3).
///
/// # Safety
/// `len` bytes may be read at `a` and at `b`.
#[cfg_attr(bare, unsafe(export_name = "memcmp"))]
pub unsafe extern "C" fn compare(a: *const u8, b: *const u8, len: usize) -> i32 {
    // SAFETY: every access lies within the `len` bytes.
    unsafe {
        let mut at = 0;
        while at + LONG <= len {
            let (one, other) = (load::<Long>(a, at), load::<Long>(b, at));
            if one != other {
                // As big-endian numbers, since the first byte that differs decides.
                return if Long::from_be(one) < Long::from_be(other) { -1 } else { 1 };
            }
            at += LONG;
        }
        while at < len {
            let (one, other) = (load::<u8>(a, at), load::<u8>(b, at));
            if one != other {
                return i32::from(one) - i32::from(other);
            }
            at += 1;
        }
    }
    0
}

/// bcmp(3), by the same code.
///
/// # Safety
/// As [`compare`].
#[cfg(bare)]
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    // SAFETY: by the same contract.
    unsafe { compare(a, b, len) }
}

/// strlen(3).
///
/// # Safety
/// `string` ends with a NUL.
#[cfg_attr(bare, unsafe(export_name = "strlen"))]
pub unsafe extern "C" fn length(string: *const u8) -> usize {
    let mut len = 0;
    // SAFETY: no byte before this one was the NUL.
    while unsafe { load::<u8>(string, len) } != 0 {
        len += 1;
    }
    len
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_copy_is_what_std_makes_of_it(
            bytes in proptest::collection::vec(any::<u8>(), 1..200),
            (from, to, len) in (any::<usize>(), any::<usize>(), any::<usize>()),
        ) {
            let (from, to) = (from % bytes.len(), to % bytes.len());
            let len = len % (bytes.len() - from.max(to) + 1);
            let (mut ours, mut theirs) = (bytes.clone(), bytes);
            theirs.copy_within(from..from + len, to);
            let start = ours.as_mut_ptr();
            // SAFETY: both ranges lie in the vector.
            let returned = unsafe { copy(start.add(to), start.add(from), len) };
            prop_assert_eq!(returned, start.wrapping_add(to));
            prop_assert_eq!(ours, theirs);
        }

        #[test]
        fn a_fill_is_what_std_makes_of_it(
            bytes in proptest::collection::vec(any::<u8>(), 1..100),
            (at, len, value) in (any::<usize>(), any::<usize>(), any::<i32>()),
        ) {
            let at = at % bytes.len();
            let len = len % (bytes.len() - at + 1);
            let (mut ours, mut theirs) = (bytes.clone(), bytes);
            theirs[at..at + len].fill(value.to_le_bytes()[0]);
            // SAFETY: the range lies in the vector.
            unsafe { fill(ours.as_mut_ptr().add(at), value, len) };
            prop_assert_eq!(ours, theirs);
        }

        #[test]
        fn bytes_are_ordered_as_std_orders_them(
            (a, b) in proptest::collection::vec((any::<u8>(), 0u8..20), 0..40).prop_map(|pairs| {
                let other = pairs.iter().map(|&(byte, change)| if change == 0 { byte.wrapping_add(1) } else { byte });
                let other: Vec<u8> = other.collect();
                (pairs.iter().map(|pair| pair.0).collect::<Vec<u8>>(), other)
            }),
        ) {
            // SAFETY: both have this length.
            let found = unsafe { compare(a.as_ptr(), b.as_ptr(), a.len()) };
            prop_assert_eq!(found.cmp(&0), a.cmp(&b));
        }

        #[test]
        fn a_string_ends_at_its_nul(string in "[a-z]{0,40}") {
            let string = std::ffi::CString::new(string).expect("no NUL");
            // SAFETY: it ends with a NUL.
            prop_assert_eq!(unsafe { length(string.as_ptr().cast()) }, string.count_bytes());
        }
    }
}
