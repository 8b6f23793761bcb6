//! Limits how often a repeated problem is reported: clients must not be able to fill a log.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use portgrant_server::Message;

use crate::output::say;

/// After a notice, others of its kind are only counted for this long.
const SILENCE: Duration = Duration::from_secs(10);

/// The problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// The program could not be started
    Start,
    /// Descriptors, memory or processes have run out
    Shortage,
    /// A source has all the connections that it may have
    Source,
    /// A client may not connect
    Denied,
    /// The rules for clients could not be read again
    Rules,
    /// Too many connections have come in a second
    Rate,
    /// The program for this udp socket does not read
    Unread(usize),
}

#[derive(Debug, Default)]
pub(super) struct Notices {
    printed: HashMap<Kind, (Instant, u64)>,
}

impl Notices {
    /// Prints the notice on standard error, or counts it if one of its kind was printed shortly before.
    pub(super) fn say(&mut self, kind: Kind, now: Instant, message: impl FnOnce() -> Message) {
        if let Some(silenced) = self.silenced(kind, now) {
            let mut message = message();
            if silenced > 0 {
                message.what = format!("{} (and {silenced} times before)", message.what);
            }
            say(&message);
        }
    }

    /// How many were only counted since the last one, if it is time to print the next.
    fn silenced(&mut self, kind: Kind, now: Instant) -> Option<u64> {
        let Some((last, silenced)) = self.printed.get_mut(&kind) else {
            self.printed.insert(kind, (now, 0));
            return Some(0);
        };
        if now.duration_since(*last) < SILENCE {
            *silenced += 1;
            return None;
        }
        *last = now;
        Some(std::mem::take(silenced))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_notices_of_one_kind_are_counted_instead_of_printed() {
        let (mut notices, start) = (Notices::default(), Instant::now());
        assert_eq!(notices.silenced(Kind::Start, start), Some(0));
        assert_eq!(notices.silenced(Kind::Start, start + SILENCE / 2), None);
        assert_eq!(notices.silenced(Kind::Start, start + SILENCE / 2), None);
        assert_eq!(notices.silenced(Kind::Source, start + SILENCE / 2), Some(0), "another kind");
        assert_eq!(notices.silenced(Kind::Start, start + SILENCE), Some(2));
        assert_eq!(notices.silenced(Kind::Start, start + SILENCE * 2), Some(0));
    }
}
