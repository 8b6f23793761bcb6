//! Reads everything that a verdict depends on, and repeats this until it is consistent: the policy and the tables of
//! names may be changed while they are read, and the caller can stop the helper in between.
//!
//! The helper, `portgrant-explain` and the kernel mode read the policy here.

use core::time::Duration;

use portgrant_policy::Error;
use portgrant_sys::monotonic;
use rustix::thread::{NanosleepRelativeResult, nanosleep};
use rustix::time::Timespec;

use crate::installed::System;
use crate::stamps::{Age, SETTLED, Unchanged};

/// How long a reader tries: half of the helper's time.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// A consistent reading.
#[derive(Debug)]
pub struct Reading<T> {
    /// The tables of names, and the stamps of everything that was read
    pub system: System,
    /// The result of the reading function
    pub value: T,
}

/// Attempts to read, within a bounded time.
#[derive(Debug)]
pub struct Attempts {
    /// By [`monotonic`]
    until: Duration,
    waited_for_the_future: bool,
}

/// The result of `read`, when no file has changed during the reading.
///
/// # Errors
/// Those of `read`, and [`Error::Changed`] if the files keep changing.
pub fn consistent<T>(mut read: impl FnMut(&System) -> Result<T, Error>) -> Result<Reading<T>, Error> {
    let mut attempts = Attempts::from_now();
    loop {
        let reading = attempts.read_until_stable(&mut read)?;
        match unchanged(&reading.system) {
            Err(Error::Changed) if attempts.has_time_left() => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(reading),
        }
    }
}

/// Proof that nothing that `system` has read has changed since.
pub fn unchanged(system: &System) -> Result<Unchanged, Error> {
    let compared = system.stamps().unchanged();
    compared.map_err(|errno| Error::Call { call: "reading the policy again", errno })?.ok_or(Error::Changed)
}

impl Attempts {
    /// Starts the time for the attempts.
    #[must_use]
    pub fn from_now() -> Attempts {
        Attempts { until: monotonic() + TIME_LIMIT, waited_for_the_future: false }
    }

    /// Whether there is time for another attempt.
    #[must_use]
    pub fn has_time_left(&self) -> bool {
        monotonic() < self.until
    }

    /// What `read` makes of files whose stamps will show any later change. Whether they were changed while they were read
    /// is asked for an error alone; after anything else [`unchanged`] must be.
    ///
    /// # Errors
    /// Those of `read`, and [`Error::Changed`] if the files keep changing.
    pub fn read_until_stable<T, E: From<Error>>(
        &mut self,
        mut read: impl FnMut(&System) -> Result<T, E>,
    ) -> Result<Reading<T>, E> {
        loop {
            let system = System::default();
            let read = read(&system);
            let pause = match system.stamps().age() {
                Age::Young(wait) => Some(wait),
                Age::Future if !self.waited_for_the_future => {
                    self.waited_for_the_future = true;
                    Some(SETTLED)
                }
                Age::Settled | Age::Future => None,
            };
            match (pause, read) {
                (None, Ok(value)) => return Ok(Reading { system, value }),
                (None, Err(error)) if !matches!(unchanged(&system), Err(Error::Changed)) => return Err(error),
                (pause, _) => sleep(pause.unwrap_or_default()),
            }
            if !self.has_time_left() {
                return Err(Error::Changed.into());
            }
        }
    }
}

/// Waits for all of `time`, whatever signals come.
fn sleep(time: Duration) {
    let nanoseconds = i64::from(time.subsec_nanos());
    #[allow(clippy::useless_conversion, reason = "the type of this field differs between architectures")]
    let mut left = Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: nanoseconds.try_into().unwrap_or_default(),
    };
    while let NanosleepRelativeResult::Interrupted(rest) = nanosleep(&left) {
        left = rest;
    }
}
