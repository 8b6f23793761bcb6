//! What people read of the helper: its messages, its help, its version.

use std::io::Write as _;

use portgrant_binder::{Error, Report};
use portgrant_protocol::status;

/// Prints `text`, for --help and --version.
pub(crate) fn print(text: &str) -> Result<u8, Error> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Ok(status::OK),
        Err(error) => {
            let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO);
            Err(Error::Call { call: "write", errno })
        }
    }
}

/// Writes `report` to standard error and gives its status. A standard error that cannot be written to changes nothing.
pub(crate) fn complain(report: Report) -> u8 {
    let text = format!("portgrant-binder: {}\n  why: {}\n  fix: {}\n", report.what, report.why, report.fix);
    let _ = std::io::stderr().write_all(text.as_bytes());
    report.status
}
