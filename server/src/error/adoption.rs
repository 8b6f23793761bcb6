//! Descriptors that this process was started with.

use portgrant_protocol::listen;
use portgrant_protocol::listen::AnnouncementError;
use portgrant_protocol::text::printable;

use super::quoted;
use super::told::Told;

/// Why what was handed over cannot be adopted
#[derive(Debug)]
#[non_exhaustive]
pub enum AdoptionError {
    /// `LISTEN_*` that cannot be meant for this process: stale, another's, or malformed
    Announcement(AnnouncementError),
    /// What is adopted once was adopted before
    AdoptedBefore {
        /// `LISTEN_FDS` or `descriptor 0`
        what: &'static str,
    },
    /// A descriptor that was announced and not handed over
    Missing {
        /// Its number
        number: i32,
        /// Its name
        name: String,
    },
    /// A descriptor that was adopted before, by this or another convention
    NumberTaken {
        /// Its number
        number: i32,
    },
    /// A variable that should hold descriptor numbers and does not
    Variable {
        /// The variable
        variable: String,
        /// What it holds, made printable
        value: String,
    },
    /// A descriptor that a variable numbers and that was not handed over
    NotInherited {
        /// Its number
        number: i32,
        /// The variable
        variable: String,
    },
    /// A listener where one connection was expected
    NotAConnection {
        /// The descriptor's name
        name: String,
    },
    /// A connection whose peer is gone already
    PeerGone {
        /// The descriptor's name
        name: String,
    },
}

impl AdoptionError {
    pub(super) fn told(&self) -> Told<'_> {
        match self {
            AdoptionError::Announcement(source) => {
                Told::what("the sockets that the environment announces are not for this process")
                    .because(source)
                    .fix(announce_better(source))
            }
            AdoptionError::AdoptedBefore { what } => Told::what(format!("{what} is adopted a second time"))
                .why(TWO_OWNERS)
                .fix("adopt once, early in main, and hand the result on"),
            AdoptionError::Missing { number, name } => {
                Told::what(format!("descriptor {number} ({}) was not handed over", quoted(name)))
                    .why("LISTEN_FDS counts it, and it was closed before this program began")
                    .fix(LEAVE_IT_OPEN)
            }
            AdoptionError::NumberTaken { number } => {
                Told::what(format!("descriptor {number} is adopted a second time"))
                    .why(TWO_OWNERS)
                    .fix("adopt by one convention, once, early in main, and hand the result on")
            }
            AdoptionError::Variable { variable, value } => {
                Told::what(format!("{} is '{value}'", printable(variable.as_bytes())))
                    .why(format!("expected at most {} descriptor numbers from 3 on", listen::MAX))
                    .fix("write the numbers with commas, 3,4, or unset it if nothing was to be handed over")
            }
            AdoptionError::NotInherited { number, variable } => {
                Told::what(format!("descriptor {number} was not handed over"))
                    .why(format!("{} numbers it, and it was closed before", printable(variable.as_bytes())))
                    .fix(LEAVE_IT_OPEN)
            }
            AdoptionError::NotAConnection { name } => {
                Told::what(format!("{} is a listener, and no connection", quoted(name)))
                    .why("inetd's `wait` hands over the listener itself")
                    .fix("say nowait in inetd.conf (Accept=yes in a socket unit), or adopt a listener")
            }
            AdoptionError::PeerGone { name } => Told::what(format!("the client of {} is gone already", quoted(name)))
                .why("it is not connected any more")
                .fix("end quietly: nobody waits for an answer"),
        }
    }
}

const TWO_OWNERS: &str = "two owners would close each other's descriptors";
const LEAVE_IT_OPEN: &str = "look at what starts this program: it must leave the descriptor open across execve";

fn announce_better(wrong: &AnnouncementError) -> &'static str {
    match wrong {
        AnnouncementError::TooMany { .. } => "hand over fewer, or spread them over more processes",
        AnnouncementError::Stale { .. } => {
            "look at what starts this program: the variables are an earlier process's, and must not be inherited"
        }
        AnnouncementError::Names { .. } => {
            "give each descriptor one name without a colon, as FileDescriptorName= in a socket unit does"
        }
        AnnouncementError::Variable { .. } | AnnouncementError::ForAnother { .. } => {
            "start this program itself, with exec where a script starts it; or unset LISTEN_FDS, LISTEN_PID and \
             LISTEN_FDNAMES if nothing was to be handed over"
        }
    }
}
