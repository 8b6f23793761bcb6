//! The output of the helper: failures, help and version.

use alloc::format;
use core::ffi::CStr;

use portgrant_binder::privilege::Renounced;
use portgrant_binder::{Error, handover};
use portgrant_protocol::record::Reply;
use portgrant_protocol::{status, transfer};
use portgrant_sys::Word;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use rustix::io::Errno;

use crate::command::Reporting;

/// Prints `text`, for --help and --version.
pub(crate) fn print(text: &str) -> Result<u8, Error> {
    match write(portgrant_sys::stdout(), text) {
        // Nobody reads a closed standard output, so that is not an error.
        Ok(()) | Err(Errno::BADF) => Ok(status::OK),
        Err(errno) => Err(Error::Call { call: "write", errno }),
    }
}

/// Writes all of `text`.
fn write(to: BorrowedFd<'_>, text: &str) -> Result<(), Errno> {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The destination of a failure: the caller's socket, a program that is executed with the record, or text on standard
/// error.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    answer: Option<OwnedFd>,
    on_failure: Option<&'static CStr>,
}

impl Failures {
    /// Takes the descriptor over; from now on it is close-on-exec.
    pub(crate) fn new(
        reporting: Reporting,
        own: impl FnOnce(RawFd) -> Result<OwnedFd, Error>,
    ) -> Result<Failures, Error> {
        let answer = reporting.answer.map(own).transpose()?;
        if let Some(answer) = &answer {
            rustix::io::fcntl_setfd(answer, rustix::io::FdFlags::CLOEXEC)
                .map_err(|errno| Error::Call { call: "fcntl", errno })?;
            transfer::check(answer.as_fd()).map_err(|error| Error::Usage {
                what: format!("the descriptor given with --answer cannot be used: {error}"),
                expected: "expected a connected Unix socket of type SOCK_SEQPACKET",
            })?;
        }
        Ok(Failures { answer, on_failure: reporting.on_failure })
    }

    /// Reports `error` and returns its status. It waits for a reader only if standard error is full. A report that
    /// cannot be delivered is dropped.
    pub(crate) fn report(&self, error: Error, environment: &[Word<'_>], renounced: Option<&Renounced>) -> u8 {
        let message = error.message();
        let status = message.status;
        let text = message.text("portgrant-binder");
        match (renounced, Reply::Failed(message).encode()) {
            (Some(renounced), Ok(record)) => match (&self.answer, &self.on_failure) {
                (Some(answer), _) => {
                    let _ = transfer::send_now(answer.as_fd(), &record);
                    return status;
                }
                (None, Some(program)) => handover::execute_on_failure(renounced, program, &record, environment),
                (None, None) => {}
            },
            (None, _) | (_, Err(_)) => {}
        }
        let _ = write(portgrant_sys::stderr(), &text);
        status
    }
}
