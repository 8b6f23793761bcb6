//! Reading all that a verdict rests on, as often as it takes to get it in one piece: the policy and the tables of names
//! may be changed while they are read, and the caller may see to it that the change falls in between.
//!
//! Everything that reads the policy does it here: the helper, the reports, the kernel mode's loader.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Error;
use crate::names::Names;
use crate::stamps::{Age, SETTLED, Unchanged};

/// How long a reader tries: half of the helper's time.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was read, and the tables of names that were read with it.
#[derive(Debug)]
pub struct Reading<T> {
    /// The tables, and the stamps of everything that was read
    pub names: Names,
    /// What was made of it
    pub value: T,
}

/// Attempts to read, within a bounded time.
#[derive(Debug)]
pub struct Attempts {
    until: Instant,
    waited_for_the_future: bool,
}

/// What `read` makes of the system's files, once it has read them in one piece.
///
/// # Errors
/// Those of `read`, and [`Error::Changed`] where the files do not come to rest.
pub fn consistent<T>(mut read: impl FnMut(&Names) -> Result<T, Error>) -> Result<Reading<T>, Error> {
    let mut attempts = Attempts::from_now();
    loop {
        let reading = attempts.settled(&mut read)?;
        match unchanged(&reading.names) {
            Err(Error::Changed) if attempts.may_go_on() => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(reading),
        }
    }
}

/// Proof that everything that was read with `names` is still as it was.
pub fn unchanged(names: &Names) -> Result<Unchanged, Error> {
    let compared = names.stamps().unchanged();
    compared.map_err(|errno| Error::Call { call: "reading the policy again", errno })?.ok_or(Error::Changed)
}

impl Attempts {
    /// The first of them begins now.
    #[must_use]
    pub fn from_now() -> Attempts {
        Attempts { until: Instant::now() + PATIENCE, waited_for_the_future: false }
    }

    /// Whether there is time for another one.
    #[must_use]
    pub fn may_go_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// What `read` makes of files whose stamps will show any later change. Whether they were changed while they were read
    /// is asked for an error alone; after anything else [`unchanged`] must be.
    pub fn settled<T>(&mut self, mut read: impl FnMut(&Names) -> Result<T, Error>) -> Result<Reading<T>, Error> {
        loop {
            let names = Names::system();
            let read = read(&names);
            let pause = match names.stamps().age() {
                Age::Young(wait) => Some(wait),
                Age::Future if !self.waited_for_the_future => {
                    self.waited_for_the_future = true;
                    Some(SETTLED)
                }
                Age::Settled | Age::Future => None,
            };
            match (pause, read) {
                (None, Ok(value)) => return Ok(Reading { names, value }),
                (None, Err(error)) if !matches!(unchanged(&names), Err(Error::Changed)) => return Err(error),
                (pause, _) => sleep(pause.unwrap_or_default()),
            }
            if !self.may_go_on() {
                return Err(Error::Changed);
            }
        }
    }
}
