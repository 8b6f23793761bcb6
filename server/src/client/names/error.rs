//! Why no name service can be asked.

use std::io;
use std::path::PathBuf;

use crate::failure::{Report, failure, shown};

/// A file that says whom to ask for names, resolv.conf(5) or hosts(5), could not be read
#[derive(Debug)]
#[non_exhaustive]
pub struct NameServiceError {
    /// Which
    pub path: PathBuf,
    /// Why not
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
