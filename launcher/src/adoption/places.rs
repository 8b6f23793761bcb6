//! The descriptor numbers of the sockets when the program is executed.

use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

use portgrant_protocol::listen::{self, PlaceError};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

/// The descriptor numbers of the sockets when the program is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Places {
    /// From this number on, in order
    From(RawFd),
    /// The one socket as 0 and 1
    Standard,
    /// The same, and 3 is open: /dev/null, unless the caller has 3 open
    StandardParked,
}

impl Places {
    /// The default: from 3 on.
    pub(crate) const USUAL: Places = Places::From(listen::FIRST);

    /// The number of each socket.
    pub(crate) fn numbers(self) -> impl Iterator<Item = RawFd> {
        match self {
            Places::From(first) => first..,
            Places::Standard | Places::StandardParked => 0..,
        }
    }

    /// Checks that `count` sockets can be placed. Call it before anything is bound.
    pub(crate) fn free(self, count: usize) -> Result<(), PlaceError> {
        match self {
            Places::From(first) => listen::free(first, count),
            Places::Standard | Places::StandardParked => Ok(()),
        }
    }

    /// Puts `sockets` at their numbers, to be inherited across execve(2). The returned descriptors must stay open until
    /// then.
    pub(crate) fn place(self, sockets: Vec<OwnedFd>) -> Result<Vec<OwnedFd>, PlaceError> {
        match (self, sockets.first()) {
            (Places::Standard | Places::StandardParked, Some(socket)) => {
                listen::place_inetd(socket)?;
                // The socket itself may be descriptor 3.
                drop(sockets);
                self.park().map(|()| Vec::new())
            }
            (Places::From(first), _) => listen::place(first, sockets),
            (Places::Standard | Places::StandardParked, None) => Ok(Vec::new()),
        }
    }

    /// Opens descriptor 3 if it must be open.
    pub(crate) fn park(self) -> Result<(), PlaceError> {
        if self != Places::StandardParked {
            return Ok(());
        }
        let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(PlaceError::System)?;
        let parked = if null.as_raw_fd() == listen::FIRST {
            null
        } else {
            fcntl_dupfd_cloexec(&null, listen::FIRST).map_err(PlaceError::System)?
        };
        if parked.as_raw_fd() == listen::FIRST {
            fcntl_setfd(&parked, FdFlags::empty()).map_err(PlaceError::System)?;
            let _inherited = parked.into_raw_fd();
        }
        Ok(())
    }
}
