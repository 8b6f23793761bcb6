//! How long the helper may run. The caller can stop it at any moment, but must not be able to use a verdict later.
//!
//! A kernel timer ends it by SIGKILL, even while it is stopped. The timer does not count time in which the machine is
//! suspended, and does not survive execve(2) (timer_create(2)).

use core::time::Duration;

use portgrant_sys::{KillTimer, monotonic};

use crate::Error;

/// After this time the kernel ends the helper.
const LIFE: Duration = Duration::from_secs(10);
/// After this time the helper gives up by itself, with a message.
const GIVE_UP_AFTER: Duration = Duration::from_secs(5);
/// The most time between the comparison of the policy and a bind(2) that cannot be undone.
const LAST_STEP: Duration = Duration::from_secs(1);

/// The helper's time limit. Dropping it disarms the timer, which is done once no capability is left.
#[derive(Debug)]
pub struct TimeLimit {
    /// In the time of [`monotonic`]
    began: Duration,
    _timer: KillTimer,
}

impl TimeLimit {
    /// Starts the time limit.
    pub fn begin() -> Result<TimeLimit, Error> {
        Ok(TimeLimit { _timer: timer(LIFE)?, began: monotonic() })
    }

    /// An error if the helper took too long. Checked right before a bind.
    pub fn check(&self) -> Result<(), Error> {
        if monotonic().saturating_sub(self.began) < GIVE_UP_AFTER { Ok(()) } else { Err(Error::TimeLimit) }
    }

    /// Runs `act`. If it takes more than a second, the kernel ends this process.
    pub fn last_step<T>(&self, act: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let _timer = timer(LAST_STEP)?;
        act()
    }
}

fn timer(after: Duration) -> Result<KillTimer, Error> {
    KillTimer::after(after).map_err(|errno| Error::Timer { errno })
}
