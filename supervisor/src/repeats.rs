//! Counts repeated refusals: a program that tries a port in a loop must not fill the terminal.
//!
//! A refusal is printed once, and then counted. The count is printed after 10 s without another, each minute, and at
//! the end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// After this long without another one, a refusal counts as new again.
const QUIET: Duration = Duration::from_secs(10);
/// The count is printed after this long at the latest.
const LONGEST: Duration = Duration::from_secs(60);
/// How many different refusals are counted at once. Others are always printed.
const MOST: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Repeats {
    /// The counts, by the text that is printed
    counts: BTreeMap<String, Count>,
}

#[derive(Debug)]
struct Count {
    since: Instant,
    last: Instant,
    /// How many were not printed
    silenced: u64,
}

impl Count {
    fn from(now: Instant) -> Count {
        Count { since: now, last: now, silenced: 0 }
    }

    fn due(&self) -> Instant {
        (self.last + QUIET).min(self.since + LONGEST)
    }
}

impl Repeats {
    /// Whether `what` must be printed now. Otherwise it is counted.
    pub(crate) fn is_new(&mut self, what: &str, now: Instant) -> bool {
        if let Some(count) = self.counts.get_mut(what) {
            (count.last, count.silenced) = (now, count.silenced + 1);
            return false;
        }
        if self.counts.len() < MOST {
            self.counts.insert(what.to_owned(), Count::from(now));
        }
        true
    }

    /// When the next count is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.counts.values().map(Count::due).min()
    }

    /// The counts that are due at `now`, one line each; all counts if `now` is `None`.
    pub(crate) fn due(&mut self, now: Option<Instant>) -> Vec<String> {
        let mut lines = Vec::new();
        self.counts.retain(|what, count| {
            if now.is_some_and(|now| now < count.due()) {
                return true;
            }
            let times = if count.silenced == 1 { "time" } else { "times" };
            if count.silenced > 0 {
                lines.push(format!("portgrant: {what}, {} more {times}\n", count.silenced));
            }
            // A refusal that still repeats is not printed again after its minute.
            let goes_on = now.filter(|now| *now < count.last + QUIET);
            goes_on.inspect(|now| *count = Count::from(*now)).is_some()
        });
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_refusal_is_printed_once_and_then_counted() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        assert!(repeats.is_new("80/tcp is refused", start));
        for _ in 1..500 {
            assert!(!repeats.is_new("80/tcp is refused", start));
        }
        assert!(repeats.is_new("81/tcp is refused", start), "another one");
        assert_eq!(repeats.due(Some(start)), [""; 0]);
        assert_eq!(repeats.next(), Some(start + QUIET));
        assert_eq!(repeats.due(Some(start + QUIET)), ["portgrant: 80/tcp is refused, 499 more times\n"]);
        assert!(repeats.is_new("80/tcp is refused", start + QUIET) && !repeats.is_new("80/tcp is refused", start));
        assert_eq!(repeats.due(None), ["portgrant: 80/tcp is refused, 1 more time\n"]);
        assert_eq!(repeats.next(), None);
    }

    #[test]
    fn a_refusal_that_repeats_is_counted_once_a_minute() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut lines = Vec::new();
        for second in 0..130 {
            let news = repeats.is_new("80/tcp is refused", after(second));
            assert_eq!(news, second == 0, "{second}");
            lines.extend(repeats.due(Some(after(second))));
        }
        let line = "portgrant: 80/tcp is refused, 60 more times\n";
        assert_eq!(lines, [line, line]);
    }
}
