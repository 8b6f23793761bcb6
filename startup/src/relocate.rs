//! Relocation: the file is linked for address 0 and loaded anywhere, so the load address is added to each pointer in its
//! data. The linker lists their places in two tables, which the dynamic section names (elf(5), and RELR in the generic ABI).
//!
//! This runs before any pointer in static data may be used: no table of functions, no text of a panic. It reads nothing but
//! the file itself, which is root's.

use core::ptr;

// elf.h
const DT_NULL: usize = 0;
const DT_RELA: usize = 7;
const DT_RELASZ: usize = 8;
const DT_RELRSZ: usize = 35;
const DT_RELR: usize = 36;
const PT_GNU_RELRO: u32 = 0x6474_e552;
/// The only kind that a static program may have: the load address and an addend.
#[cfg(not(target_arch = "aarch64"))]
const RELATIVE: usize = 8;
#[cfg(target_arch = "aarch64")]
const RELATIVE: usize = 1027;

/// An entry of the dynamic section.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Dynamic {
    /// What it is
    pub tag: usize,
    /// An address as it was linked, or a size
    pub value: usize,
}

/// An entry of the table RELA.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Rela {
    place: usize,
    kind: usize,
    addend: usize,
}

/// Relocates the program that is loaded at `base`. Returns `false` for relocations that a static program cannot have;
/// then it must not continue.
///
/// # Safety
/// `base` is where the file is loaded, which was linked for address 0, and `dynamic` its dynamic section. Called once,
/// before anything else uses the file's data.
#[must_use]
#[inline(always)]
pub unsafe fn relocate(base: *mut u8, dynamic: *const Dynamic) -> bool {
    let (mut rela, mut rela_len, mut relr, mut relr_len) = (0, 0, 0, 0);
    let mut entry = dynamic;
    loop {
        // SAFETY: the section ends with an entry of DT_NULL, which ends the loop.
        let Dynamic { tag, value } = unsafe { entry.read() };
        match tag {
            DT_NULL => break,
            DT_RELA => rela = value,
            DT_RELASZ => rela_len = value / size_of::<Rela>(),
            DT_RELR => relr = value,
            DT_RELRSZ => relr_len = value / size_of::<usize>(),
            _ => {}
        }
        // SAFETY: as above.
        entry = unsafe { entry.add(1) };
    }
    // SAFETY: the linker put both tables, of these lengths, at these addresses.
    unsafe {
        relocate_packed(base, base.wrapping_add(relr).cast(), relr_len);
        relocate_listed(base, base.wrapping_add(rela).cast(), rela_len)
    }
}

/// The table RELR. An even entry is the address of a pointer. An odd one is a bitmap of the 63 words that follow the last
/// address or the last bitmap's words.
#[inline(always)]
unsafe fn relocate_packed(base: *mut u8, table: *const usize, len: usize) {
    let mut next: *mut usize = ptr::null_mut();
    let mut index = 0;
    while index < len {
        // SAFETY: within the table.
        let entry = unsafe { table.add(index).read() };
        if entry & 1 == 0 {
            next = base.wrapping_add(entry).cast();
            // SAFETY: the linker lists the address of a pointer.
            unsafe { add(next, base) };
            next = next.wrapping_add(1);
        } else {
            let mut bits = entry >> 1;
            while bits != 0 {
                // SAFETY: as above.
                unsafe { add(next.wrapping_add(bits.trailing_zeros() as usize), base) };
                bits &= bits - 1;
            }
            next = next.wrapping_add(usize::BITS as usize - 1);
        }
        index += 1;
    }
}

#[inline(always)]
unsafe fn add(place: *mut usize, base: *mut u8) {
    // SAFETY: by the caller: the place of a pointer in the file's data.
    unsafe { place.write_unaligned(place.read_unaligned().wrapping_add(base.addr())) };
}

#[inline(always)]
unsafe fn relocate_listed(base: *mut u8, table: *const Rela, len: usize) -> bool {
    let mut index = 0;
    while index < len {
        // SAFETY: within the table.
        let Rela { place, kind, addend } = unsafe { table.add(index).read() };
        // The kind is the low half; the high half names a symbol, which RELATIVE has not.
        if kind != RELATIVE {
            return false;
        }
        // SAFETY: the linker lists the address of a pointer.
        unsafe { base.wrapping_add(place).cast::<usize>().write_unaligned(base.addr().wrapping_add(addend)) };
        index += 1;
    }
    true
}

/// The pages with data that is read-only after relocation (PT_GNU_RELRO): address and length. The length is 0 if there
/// are none.
///
/// # Safety
/// `base` points to the file's ELF header, and its program headers are loaded with it.
#[must_use]
#[inline(always)]
pub unsafe fn relro(base: *mut u8, page: usize) -> (*mut u8, usize) {
    // SAFETY: Elf64_Ehdr: e_phoff at 32, e_phentsize at 54, e_phnum at 56.
    let (table, size, count) = unsafe {
        let table = base.add(32).cast::<usize>().read_unaligned();
        (table, base.add(54).cast::<u16>().read_unaligned(), base.add(56).cast::<u16>().read_unaligned())
    };
    let mut header = base.wrapping_add(table);
    let mut left = count;
    while left != 0 {
        // SAFETY: Elf64_Phdr: p_type at 0, p_vaddr at 16, p_memsz at 40.
        let (kind, address, len) = unsafe {
            (
                header.cast::<u32>().read_unaligned(),
                header.add(16).cast::<usize>().read_unaligned(),
                header.add(40).cast::<usize>().read_unaligned(),
            )
        };
        if kind == PT_GNU_RELRO {
            let mask = page.wrapping_sub(1);
            let (start, end) = (address & !mask, address.wrapping_add(len) & !mask);
            return (base.wrapping_add(start), end.saturating_sub(start));
        }
        header = header.wrapping_add(size.into());
        left -= 1;
    }
    (base, 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WORDS: usize = 400;

    /// An image of `WORDS` words, each holding its own number, and the tables behind it.
    fn relocated(relr: &[usize], rela: &[(usize, usize, usize)]) -> (bool, Vec<usize>, usize) {
        let mut image: Vec<usize> = (0..WORDS).collect();
        image.extend(relr);
        let rela_at = image.len() * size_of::<usize>();
        image.extend(rela.iter().flat_map(|&(place, kind, addend)| [place, kind, addend]));
        let dynamic = [
            (DT_RELRSZ, size_of_val(relr)),
            (5, 1),
            (DT_RELR, WORDS * size_of::<usize>()),
            (DT_RELA, rela_at),
            (DT_RELASZ, rela.len() * size_of::<Rela>()),
            (DT_NULL, 0),
            (DT_RELA, 0),
        ];
        let dynamic = dynamic.map(|(tag, value)| Dynamic { tag, value });
        let base = image.as_mut_ptr();
        // SAFETY: the tables lie in the image, and name places in it.
        let done = unsafe { relocate(base.cast(), dynamic.as_ptr()) };
        image.truncate(WORDS);
        (done, image, base.addr())
    }

    /// The table RELR of `places`, which are word numbers in order, as a linker packs them.
    fn packed(places: &[usize]) -> Vec<usize> {
        let mut table = Vec::new();
        let mut places = places.iter().copied().peekable();
        while let Some(first) = places.next() {
            table.push(first * size_of::<usize>());
            let mut next = first + 1;
            loop {
                let mut bitmap = 0;
                while let Some(&place) = places.peek().filter(|&&place| place < next + 63) {
                    bitmap |= 1usize << (place - next);
                    places.next();
                }
                if bitmap == 0 {
                    break;
                }
                table.push(bitmap << 1 | 1);
                next += 63;
            }
        }
        table
    }

    #[test]
    fn an_unknown_relocation_type_is_skipped() {
        let symbol = RELATIVE | 5 << 32;
        for kind in [RELATIVE + 1, symbol, 0] {
            let (done, image, _) = relocated(&[], &[(8, kind, 1)]);
            assert!(!done && image[1] == 1, "{kind}");
        }
    }

    #[test]
    fn a_program_without_relocations_is_left_as_it_is() {
        assert_eq!(relocated(&[], &[]).1, (0..WORDS).collect::<Vec<_>>());
    }

    #[test]
    fn the_read_only_range_is_page_aligned() {
        let mut file = vec![0u8; 4096];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(32, &64u64.to_ne_bytes());
        put(54, &56u16.to_ne_bytes());
        put(56, &2u16.to_ne_bytes());
        put(64, &1u32.to_ne_bytes());
        put(120, &PT_GNU_RELRO.to_ne_bytes());
        put(120 + 16, &0x5_2300u64.to_ne_bytes());
        put(120 + 40, &0x2d00u64.to_ne_bytes());
        let base = file.as_mut_ptr();
        // SAFETY: an ELF header with two program headers.
        let found = |page| unsafe { relro(base, page) };
        assert_eq!(found(4096), (base.wrapping_add(0x5_2000), 0x3000));
        assert_eq!(found(65536), (base.wrapping_add(0x5_0000), 0), "larger pages than the linker thought of");
        file[56] = 1;
        // SAFETY: as above.
        assert_eq!(unsafe { relro(base, 4096) }.1, 0, "no such part");
    }

    proptest! {
        #[test]
        fn every_listed_word_is_relocated_and_no_other(
            packed_places in proptest::collection::btree_set(0..WORDS, 0..WORDS),
            listed in proptest::collection::btree_map(0..WORDS, any::<usize>(), 0..20),
        ) {
            let places: Vec<usize> = packed_places.iter().copied().filter(|place| !listed.contains_key(place)).collect();
            let rela: Vec<_> = listed.iter().map(|(&place, &addend)| (place * size_of::<usize>(), RELATIVE, addend)).collect();
            let (done, image, base) = relocated(&packed(&places), &rela);
            prop_assert!(done);
            for (number, &word) in image.iter().enumerate() {
                let expected = match listed.get(&number) {
                    Some(addend) => base.wrapping_add(*addend),
                    None if places.contains(&number) => base.wrapping_add(number),
                    None => number,
                };
                prop_assert_eq!(word, expected, "word {}", number);
            }
        }
    }
}
