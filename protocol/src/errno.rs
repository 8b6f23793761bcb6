//! The kernel's error numbers in the words of strerror(3), which std prints as well.
//!
//! The helper has no C library. Every program uses this table for shared messages, so that these do not depend on how
//! the program is linked.

use core::fmt;

use rustix::io::Errno;

/// An error number that prints as std prints it: `Address already in use (os error 98)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Described(pub Errno);

impl fmt::Display for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.0.raw_os_error();
        match words(self.0) {
            Some(words) => write!(f, "{words} (os error {number})"),
            None => write!(f, "Unknown error {number} (os error {number})"),
        }
    }
}

/// The words alone; `None` for a number that Linux does not have.
#[must_use]
pub fn words(errno: Errno) -> Option<&'static str> {
    let index = usize::try_from(errno.raw_os_error()).ok()?.checked_sub(1)?;
    WORDS.split('\n').nth(index).filter(|words| !words.is_empty())
}

/// One line for each number, from 1 on. One text, since a table of pointers would have to be relocated before the
/// helper gives up privilege. The numbers are those of asm-generic/errno.h, the same on all processors that portgrant
/// is built for. An empty line is an unused number.
const WORDS: &str = include_str!("errno.txt");

#[cfg(test)]
mod tests {
    use super::*;

    /// std gets the words from the C library.
    #[test]
    #[cfg(target_env = "gnu")]
    fn every_number_has_the_words_that_std_prints() {
        for number in 1..=200 {
            let errno = Errno::from_raw_os_error(number);
            assert_eq!(Described(errno).to_string(), std::io::Error::from_raw_os_error(number).to_string());
        }
    }
}
