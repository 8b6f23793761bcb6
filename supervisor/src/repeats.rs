//! What is refused again and again: a program that tries a port in a loop must not fill the terminal that it shares.
//!
//! The same refusal is printed once, and then counted. The number is printed after a while, and at the end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long one silences the next.
const SILENCE: Duration = Duration::from_secs(10);
/// How many different ones are counted at once.
const MOST: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Repeats {
    /// By what is printed: since when, and how many were not printed
    said: BTreeMap<String, (Instant, u64)>,
}

impl Repeats {
    /// Whether `what` is to be printed now. Otherwise it is counted.
    pub(crate) fn is_news(&mut self, what: &str, now: Instant) -> bool {
        if let Some((_, silenced)) = self.said.get_mut(what) {
            *silenced += 1;
            return false;
        }
        if self.said.len() < MOST {
            self.said.insert(what.to_owned(), (now, 0));
        }
        true
    }

    /// When the next number is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.said.values().map(|(since, _)| *since + SILENCE).min()
    }

    /// The numbers that are due at `now`, a line each; all of them if there is no `now`.
    pub(crate) fn due(&mut self, now: Option<Instant>) -> Vec<String> {
        let is_over = |since: Instant| now.is_none_or(|now| since + SILENCE <= now);
        let over: Vec<String> =
            self.said.iter().filter(|(_, (since, _))| is_over(*since)).map(|(what, _)| what.clone()).collect();
        let lines = over.into_iter().filter_map(|what| {
            let (_, silenced) = self.said.remove(&what)?;
            let times = if silenced == 1 { "time" } else { "times" };
            (silenced > 0).then(|| format!("portgrant: {what}, {silenced} more {times}\n"))
        });
        lines.collect()
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
        assert_eq!(repeats.next(), Some(start + SILENCE));
        assert_eq!(repeats.due(Some(start + SILENCE)), ["portgrant: 80/tcp is refused, 499 more times\n"]);
        assert!(repeats.is_news("80/tcp is refused", start + SILENCE) && !repeats.is_news("80/tcp is refused", start));
        assert_eq!(repeats.due(None), ["portgrant: 80/tcp is refused, 1 more time\n"]);
        assert_eq!(repeats.next(), None);
    }
}
