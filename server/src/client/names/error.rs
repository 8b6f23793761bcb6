//! Why the name service cannot be used.

use std::io;
use std::path::PathBuf;

use crate::failure::{Report, failure, shown};

/// A file of the name service, resolv.conf(5) or hosts(5), could not be read
#[derive(Debug)]
#[non_exhaustive]
pub struct NameServiceError {
    /// The file
    pub path: PathBuf,
    /// Why it could not be read
    pub source: io::Error,
}

impl NameServiceError {
    fn report(&self) -> Report<'_> {
        Report::what(format!("cannot read {}", shown(&self.path)))
            .because(&self.source)
            .fix("check that it is well-formed and that this user may read it")
    }
}

failure!(NameServiceError);
