//! Put beside the files of a crate that is mutated: which of its mutants is on, by PORTGRANT_MUTANT. Written by
//! tests/mutants/run into a copy, never into the crate.
#![allow(missing_docs, unreachable_pub, dead_code)]

use std::ops::Not;
use std::sync::OnceLock;

/// Whether mutant `number` is on.
pub fn on(number: u32) -> bool {
    static ON: OnceLock<u32> = OnceLock::new();
    let chosen = || std::env::var("PORTGRANT_MUTANT").ok().and_then(|number| number.parse().ok()).unwrap_or(0);
    *ON.get_or_init(chosen) == number
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
pub fn number<T: From<bool> + std::ops::Add<Output = T>>(number: u32, value: T) -> T {
    value + T::from(on(number))
}
