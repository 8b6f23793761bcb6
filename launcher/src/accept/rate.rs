//! `--max-rate`: how many connections are accepted in a second. If more come, none is accepted for a while; they wait
//! in the backlog. The connection that exceeded the rate is kept here.

use std::time::{Duration, Instant};

use super::connection::Connection;
use crate::MaxRate;

const SECOND: Duration = Duration::from_secs(1);

pub(super) struct Rate<T = Connection> {
    limit: MaxRate,
    /// When the current second began, and how many connections it had
    second: Option<(Instant, u32)>,
    paused_until: Option<Instant>,
    kept: Option<T>,
}

impl<T> Rate<T> {
    pub(super) fn new(limit: MaxRate) -> Rate<T> {
        Rate { limit, second: None, paused_until: None, kept: None }
    }

    /// The connection, if the rate permits it. If not, it is kept, and the pause begins.
    pub(super) fn admit(&mut self, connection: T, now: Instant) -> Option<T> {
        let (since, count) = self.second.filter(|(since, _)| now.duration_since(*since) < SECOND).unwrap_or((now, 0));
        if count >= self.limit.most {
            (self.second, self.paused_until, self.kept) = (None, Some(now + self.limit.rest), Some(connection));
            return None;
        }
        self.second = Some((since, count + 1));
        Some(connection)
    }

    pub(super) fn limit(&self) -> MaxRate {
        self.limit
    }

    /// Whether nothing is accepted now.
    pub(super) fn is_paused(&self) -> bool {
        self.paused_until.is_some()
    }

    pub(super) fn paused_until(&self) -> Option<Instant> {
        self.paused_until
    }

    /// The connection that was kept, when the pause is over.
    pub(super) fn wake(&mut self, now: Instant) -> Option<T> {
        self.paused_until.take_if(|until| *until <= now)?;
        self.kept.take()
    }

    /// Drops the kept connection: the launcher ends.
    pub(super) fn clear(&mut self) {
        self.kept = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_connections_than_the_rate_permits_make_all_wait() {
        let (mut rate, start) = (Rate::new(MaxRate { most: 2, rest: Duration::from_secs(5) }), Instant::now());
        assert_eq!((rate.admit(1, start), rate.admit(2, start)), (Some(1), Some(2)));
        assert_eq!(rate.admit(3, start + SECOND), Some(3), "the next second");
        assert_eq!(rate.admit(4, start + SECOND), Some(4));
        let late = start + SECOND + SECOND / 2;
        assert!(rate.admit(5, late).is_none() && rate.is_paused());
        assert_eq!(rate.wake(late), None);
        let over = late + Duration::from_secs(5);
        assert_eq!((rate.paused_until(), rate.wake(over)), (Some(over), Some(5)));
        assert!(!rate.is_paused());
    }
}
