//! Where the sockets stand when the program is executed.

use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

use portgrant_protocol::listen::{self, PlaceError};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

/// Where the sockets stand when the program is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Places {
    /// From 3 on, in order
    FromThree,
    /// The one socket as 0 and 1
    Standard,
    /// The same, and 3 is open: /dev/null, where the caller has nothing there
    StandardParked,
}

impl Places {
    /// The number of each socket.
    pub(crate) fn numbers(self) -> impl Iterator<Item = RawFd> {
        match self {
            Places::FromThree => listen::FIRST..,
            Places::Standard | Places::StandardParked => 0..,
        }
    }

    /// Whether there is room for `count` sockets. Asked before anything is bound.
    pub(crate) fn free(self, count: usize) -> Result<(), PlaceError> {
        match self {
            Places::FromThree => listen::free(count),
            Places::Standard | Places::StandardParked => Ok(()),
        }
    }

    /// Puts `sockets` there, to be inherited across execve(2). What is returned is to stay open until then.
    pub(crate) fn place(self, sockets: Vec<OwnedFd>) -> Result<Vec<OwnedFd>, PlaceError> {
        match (self, sockets.first()) {
            (Places::Standard | Places::StandardParked, Some(socket)) => {
                listen::place_inetd(socket)?;
                // It may have stood at 3.
                drop(sockets);
                self.park().map(|()| Vec::new())
            }
            _ => listen::place(sockets),
        }
    }

    /// Opens what must be open besides the sockets.
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
