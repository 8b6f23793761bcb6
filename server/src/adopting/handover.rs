//! What another process sends over a Unix socket: a record, with descriptors.

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
    /// A record or its descriptors could not be transferred
    Transfer(TransferError),
    /// The record is not valid
    Record(RecordError),
    /// The numbers of names and descriptors differ
    Count {
        /// The number of names
        names: usize,
        /// The number of descriptors
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

/// For a record that another version of portgrant may have sent.
pub(crate) const ONE_VERSION: &str = "install the helper and this program from the same version of portgrant";

/// The request was refused
#[derive(Debug)]
pub struct Refused(pub Message);

impl Refused {
    fn report(&self) -> Report<'_> {
        Report { message: self.0.clone(), source: None }
    }
}

failure!(Refused);

/// The names and descriptors of one reply.
pub(crate) fn pair(names: Vec<String>, descriptors: Vec<OwnedFd>) -> Result<Vec<Socket>, HandoverError> {
    if names.len() != descriptors.len() {
        return Err(HandoverError::Count { names: names.len(), descriptors: descriptors.len() });
    }
    Ok(names.into_iter().zip(descriptors).map(|(name, descriptor)| Socket::new(name, descriptor)).collect())
}
