//! Numbers in text.

/// The number that `word` is: decimal digits alone, without a sign or blanks; leading zeros count for nothing. `None` for
/// every other word, and for a number that `T` cannot hold.
#[must_use]
pub fn decimal<T: TryFrom<u64>>(word: &[u8]) -> Option<T> {
    let digit = |byte: &u8| Some(byte.wrapping_sub(b'0')).filter(|digit| *digit < 10).map(u64::from);
    let (first, rest) = word.split_first()?;
    let number =
        rest.iter().try_fold(digit(first)?, |number, byte| number.checked_mul(10)?.checked_add(digit(byte)?))?;
    T::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_decimal_number_is_digits_alone_and_fits_its_type() {
        let found = [
            ("0", Some(0)),
            ("007", Some(7)),
            ("255", Some(255)),
            ("256", None),
            ("18446744073709551616", None),
            ("", None),
            ("+1", None),
            ("-1", None),
            (" 1", None),
            ("1 ", None),
            ("1\u{661}", None),
            ("1:", None),
            ("1/", None),
            ("0x1", None),
        ];
        for (word, expected) in found {
            assert_eq!(decimal::<u8>(word.as_bytes()), expected, "{word:?}");
        }
        assert_eq!(decimal::<u64>(b"18446744073709551615"), Some(u64::MAX));
    }

    proptest! {
        #[test]
        fn each_number_is_read_as_it_is_written(number: u64) {
            prop_assert_eq!(decimal(number.to_string().as_bytes()), Some(number));
        }
    }
}
