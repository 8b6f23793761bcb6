//! What is refused again and again: a program that tries a port in a loop must not fill the terminal that it shares.
//!
//! The same refusal is printed once, and then counted. The number is printed when it has stopped, at the end, and each minute.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long nothing of the kind must come for it to have stopped.
const QUIET: Duration = Duration::from_secs(10);
/// How long it is counted at most before the number is printed.
const LONGEST: Duration = Duration::from_secs(60);
/// How many different ones are counted at once.
const MOST: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Repeats {
    /// By what is printed
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
    /// Whether `what` is to be printed now. Otherwise it is counted.
    pub(crate) fn is_news(&mut self, what: &str, now: Instant) -> bool {
        if let Some(count) = self.counts.get_mut(what) {
            (count.last, count.silenced) = (now, count.silenced + 1);
            return false;
        }
        if self.counts.len() < MOST {
            self.counts.insert(what.to_owned(), Count::from(now));
        }
        true
    }

    /// When the next number is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.counts.values().map(Count::due).min()
    }

    /// The numbers that are due at `now`, a line each; all of them if there is no `now`.
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
            // One that goes on is not news after a minute either.
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
        assert!(repeats.is_news("80/tcp is refused", start));
        for _ in 1..500 {
            assert!(!repeats.is_news("80/tcp is refused", start));
        }
        assert!(repeats.is_news("81/tcp is refused", start), "another one");
        assert_eq!(repeats.due(Some(start)), [""; 0]);
        assert_eq!(repeats.next(), Some(start + QUIET));
        assert_eq!(repeats.due(Some(start + QUIET)), ["portgrant: 80/tcp is refused, 499 more times\n"]);
        assert!(repeats.is_news("80/tcp is refused", start + QUIET) && !repeats.is_news("80/tcp is refused", start));
        assert_eq!(repeats.due(None), ["portgrant: 80/tcp is refused, 1 more time\n"]);
        assert_eq!(repeats.next(), None);
    }

    #[test]
    fn a_refusal_that_repeats_is_counted_once_a_minute() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut lines = Vec::new();
        for second in 0..130 {
            let news = repeats.is_news("80/tcp is refused", after(second));
            assert_eq!(news, second == 0, "{second}");
            lines.extend(repeats.due(Some(after(second))));
        }
        let line = "portgrant: 80/tcp is refused, 60 more times\n";
        assert_eq!(lines, [line, line]);
    }
}
