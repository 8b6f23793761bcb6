//! Descriptors that a service manager passed to this process (LISTEN_FDS): the error if they are where a socket must
//! go, and `--keep-listen`, which passes them on before the sockets.

use std::ffi::{CString, OsStr};
use std::os::fd::RawFd;

use portgrant_protocol::listen::{self, Announced, AnnouncementError, PlaceError};
use portgrant_protocol::text::printable;
use portgrant_server::Message;

use super::usage;
use crate::servers::Adoption;
use crate::{Error, Exec, environment as variables};

/// Refuses options that do not work with `--keep-listen`: LISTEN_* is only for a program in this same process.
pub(super) fn check(asked: &Exec, adoption: Adoption, option: &str) -> Result<(), Error> {
    let other = match adoption {
        Adoption::ListenFds if asked.life.daemon => "--daemon",
        Adoption::ListenFds if asked.first_fd.is_some() => "--first-fd",
        Adoption::ListenFds => return Ok(()),
        Adoption::Connection => "--accept",
        Adoption::Variable(_)
        | Adoption::Argument(_)
        | Adoption::Standard
        | Adoption::StandardParked
        | Adoption::Never => option,
    };
    let message = Message::new(format!("--keep-listen cannot be used with {other}"));
    let why =
        "it adds to the sockets that LISTEN_FDS announces, and the program must read LISTEN_FDS in this very process";
    let fix = format!(
        "leave out {other} (if something passes sockets to portgrant, such as a socket unit); or leave out --keep-listen"
    );
    usage(message.why(why).fix(fix))
}

/// What to do if the announcement is for another process.
const FOR_THIS_PROCESS: &str = "start portgrant as the main process of the service; or leave out --keep-listen";

/// The names of the descriptors that the environment announces to this process. Fails if `count` more would be too
/// many.
pub(super) fn names(environment: &[CString], count: usize) -> Result<Vec<String>, Error> {
    let wrong = |why: String, fix: &str| usage(Message::new("--keep-listen cannot be used here").why(why).fix(fix));
    let announced = match announced(environment) {
        Ok(Some(announced)) => announced,
        // For example at the first start of a service, whose descriptor store is still empty.
        Ok(None) => return Ok(Vec::new()),
        Err(error) => {
            let fix = match error {
                AnnouncementError::ForAnother { .. } | AnnouncementError::Stale { .. } => FOR_THIS_PROCESS,
                AnnouncementError::Variable { .. }
                | AnnouncementError::TooMany { .. }
                | AnnouncementError::Names { .. } => "correct the variable; or leave out --keep-listen",
            };
            return wrong(error.to_string(), fix);
        }
    };
    if let Some(number) = (listen::FIRST..).take(announced.names.len()).find(|number| !is_open(*number)) {
        return wrong(format!("LISTEN_FDS announces descriptor {number}, which is not open"), FOR_THIS_PROCESS);
    }
    if announced.names.len() + count > listen::MAX {
        let why = format!("there would be more than {} descriptors", listen::MAX);
        return usage(Message::new("too many descriptors").why(why).fix("ask for fewer sockets"));
    }
    Ok(announced.names)
}

/// The error if a descriptor is open where a socket must go.
pub(super) fn place_in_use(error: PlaceError, environment: &[CString]) -> Error {
    let PlaceError::Occupied(number) = error else { return Error::Place(error) };
    let is_announced = |count: usize| usize::try_from(number - listen::FIRST).is_ok_and(|distance| distance < count);
    let what = Message::new(format!("descriptor {number} is open already"));
    let message = match announced(environment) {
        Ok(Some(announced)) if is_announced(announced.names.len()) => {
            let names = announced.names.iter().map(|name| printable(name.as_bytes())).collect::<Vec<_>>().join(", ");
            let why = format!("LISTEN_FDS announces it ({names}): a socket unit or a descriptor store passed it");
            what.why(why).fix("add --keep-listen (the program gets these first, and the sockets after them)")
        }
        Err(AnnouncementError::ForAnother { pid, own }) => what
            .why(format!("LISTEN_FDS announces descriptors to process {pid}, and this is process {own}"))
            .fix("in the script that starts portgrant, write exec before portgrant, and add --keep-listen; if the variable is \
                 left over, unset LISTEN_FDS"),
        Ok(_) | Err(_) => return Error::Place(error),
    };
    Error::Usage(Box::new(message))
}

/// The announcement to this process.
fn announced(environment: &[CString]) -> Result<Option<Announced>, AnnouncementError> {
    let lookup = |name: &str| variables::value(environment, name).map(OsStr::to_owned);
    let announced = Announced::read(lookup, std::process::id())?;
    if let Some(announced) = &announced
        && announced.pidfd_id.is_some()
    {
        announced.is_meant_for(portgrant_server::environment::pidfd_id())?;
    }
    Ok(announced)
}

fn is_open(number: RawFd) -> bool {
    std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok()
}
