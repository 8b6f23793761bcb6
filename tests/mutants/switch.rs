//! Put beside the files of a crate that is mutated: which of its mutants is on. In the crate's own tests PORTGRANT_MUTANT says
//! so; in a program, the bytes behind a word that tests/mutants/installed finds in its file. Written by tests/mutants/run into a
//! copy, never into the crate.
#![allow(missing_docs, unreachable_pub, dead_code)]

use core::ops::Not;

/// Whether mutant `number` is on.
pub fn on(number: u32) -> bool {
    chosen() == number
}

#[cfg(test)]
fn chosen() -> u32 {
    static CHOSEN: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    let chosen = || std::env::var("PORTGRANT_MUTANT").ok().and_then(|number| number.parse().ok()).unwrap_or(0);
    *CHOSEN.get_or_init(chosen)
}

#[cfg(not(test))]
fn chosen() -> u32 {
    static CHOSEN: [u8; 20] = *b"portgrant's mutant\0\0";
    let [.., low, high] = *core::hint::black_box(&CHOSEN);
    u16::from_le_bytes([low, high]).into()
}

/// `<` that becomes `<=`, and so on for the other three.
pub fn lt<T: PartialOrd + ?Sized>(number: u32, a: &T, b: &T) -> bool {
    if on(number) { a <= b } else { a < b }
}
pub fn le<T: PartialOrd + ?Sized>(number: u32, a: &T, b: &T) -> bool {
    if on(number) { a < b } else { a <= b }
}
pub fn gt<T: PartialOrd + ?Sized>(number: u32, a: &T, b: &T) -> bool {
    if on(number) { a >= b } else { a > b }
}
pub fn ge<T: PartialOrd + ?Sized>(number: u32, a: &T, b: &T) -> bool {
    if on(number) { a > b } else { a >= b }
}

/// `!` that is left out.
pub fn not<T: Not<Output = T>>(number: u32, value: T) -> T {
    if on(number) { value } else { !value }
}

/// A number that is one larger.
pub fn number<T: From<bool> + core::ops::Add<Output = T>>(number: u32, value: T) -> T {
    value + T::from(on(number))
}
