//! What another process sends over a Unix socket: a record, and descriptors with it.

use std::os::fd::OwnedFd;

use portgrant_protocol::Message;
use portgrant_protocol::record::RecordError;
use portgrant_protocol::transfer::TransferError;

use super::socket::Socket;
use crate::failure::{Report, failure};

/// Why nothing usable came from another process
#[derive(Debug)]
#[non_exhaustive]
pub enum HandoverError {
    /// A record or its descriptors did not get through
    Transfer(TransferError),
    /// What came is no record
    Record(RecordError),
    /// Not as many descriptors as names
    Count {
        /// How many names came
        names: usize,
        /// How many descriptors came
        descriptors: usize,
    },
}

impl HandoverError {
    fn report(&self) -> Report<'_> {
        match self {
            HandoverError::Transfer(source) => {
                let report = Report::what("the sockets could not be transferred").because(source);
                if matches!(source, TransferError::Truncated) {
                    report.fix("raise the limit of open files (ulimit -n)")
                } else {
                    report
                }
            }
            HandoverError::Record(source) => Report::what("the answer is not valid").because(source).fix(ONE_VERSION),
            HandoverError::Count { names, descriptors } => {
                Report::what(format!("received {names} names and {descriptors} descriptors"))
                    .why("each descriptor must have one name")
                    .fix(ONE_VERSION)
            }
        }
    }
}

failure!(HandoverError);

/// Where what one version of portgrant sent does not fit another.
pub(crate) const ONE_VERSION: &str = "install the helper and this program from the same version of portgrant";

/// The answer is no
#[derive(Debug)]
pub struct Refused(pub Message);

impl Refused {
    fn report(&self) -> Report<'_> {
        Report { message: self.0.clone(), source: None }
    }
}

failure!(Refused);

/// Names and descriptors that came in one reply.
pub(crate) fn pair(names: Vec<String>, descriptors: Vec<OwnedFd>) -> Result<Vec<Socket>, HandoverError> {
    if names.len() != descriptors.len() {
        return Err(HandoverError::Count { names: names.len(), descriptors: descriptors.len() });
    }
    Ok(names.into_iter().zip(descriptors).map(|(name, descriptor)| Socket::new(name, descriptor)).collect())
}
