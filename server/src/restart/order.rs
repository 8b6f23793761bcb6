//! The orders that a serving generation gets.

use std::fmt;

use crate::failure::Error;

/// What a server must do.
#[derive(Debug)]
pub enum Order {
    /// SIGHUP: read the configuration again
    Reload,
    /// A successor serves. [`Serving::finish`](super::Serving::finish), and end
    Retire(Upgraded),
    /// SIGQUIT: [`Serving::finish`](super::Serving::finish), and end
    Finish,
    /// SIGTERM, SIGINT: end
    Terminate,
    /// An upgrade failed, and nothing else has changed: write it to the log
    Failed(Error),
}

/// The successor that took over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgraded {
    /// The number of its generation
    pub generation: u64,
    /// Its pid
    pub pid: u32,
    /// The sockets that it closed, since its configuration no longer has them
    pub closed: Vec<String>,
}

impl fmt::Display for Upgraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {}, process {}, took over", self.generation, self.pid)?;
        if self.closed.is_empty() { Ok(()) } else { write!(f, "; closed: {}", self.closed.join(", ")) }
    }
}
