//! The descriptors that a program inherits: `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES` (sd_listen_fds(3)) written and
//! read, and descriptors put where that convention, or inetd's, wants them.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

use crate::errno::Described;

#[cfg(any(test, feature = "std"))]
mod announced;

#[cfg(any(test, feature = "std"))]
pub use announced::{Announced, AnnouncementError, environment};

/// `SD_LISTEN_FDS_START`: the number of the first inherited descriptor.
pub const FIRST: RawFd = 3;
/// The most descriptors that one message carries (`SCM_MAX_FD`), and so the most that are ever handed over.
pub const MAX: usize = 253;

/// The variables of the convention. `LISTEN_PIDFDID` binds the others to a process; a stale one voids them.
pub const VARIABLES: [&str; 4] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID"];

/// The entries that announce `names` to process `pid`.
pub fn announcement(pid: u32, names: &[String]) -> Vec<CString> {
    let entries = [
        format!("LISTEN_FDS={}", names.len()),
        format!("LISTEN_PID={pid}"),
        format!("LISTEN_FDNAMES={}", names.join(":")),
    ];
    // No name holds a NUL: the endpoint grammar knows none.
    entries.into_iter().filter_map(|entry| CString::new(entry).ok()).collect()
}

/// Why a descriptor could not be put where it must go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceError {
    /// This number is open already: the caller's own descriptor, which stays
    Occupied(RawFd),
    /// The system would not give it (RLIMIT_NOFILE, say)
    System(Errno),
}

/// Whether the numbers from `first` on are free for `count` descriptors. Asked before anything is bound.
pub fn free(first: RawFd, count: usize) -> Result<(), PlaceError> {
    let opened = open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(PlaceError::System)?;
    // Itself out of the way, above the numbers that it asks about.
    let probe = duplicate(opened.as_fd(), above(first, count))?;
    drop(opened);
    (first..).take(count).try_for_each(|number| duplicate_at(probe.as_fd(), number).map(drop))
}

fn above(first: RawFd, count: usize) -> RawFd {
    (first..).nth(count).unwrap_or(RawFd::MAX)
}

/// Puts `sockets` at `first` and the numbers that follow, to be inherited across execve(2).
///
/// A number that is open already, and none of `sockets`, is an error; nothing of the caller's is ever closed.
pub fn place(first: RawFd, sockets: Vec<OwnedFd>) -> Result<Vec<OwnedFd>, PlaceError> {
    let at_home = (first..).zip(&sockets).all(|(number, socket)| socket.as_raw_fd() == number);
    let placed = if at_home { sockets } else { replaced(first, sockets)? };
    for socket in &placed {
        fcntl_setfd(socket, FdFlags::empty()).map_err(PlaceError::System)?;
    }
    Ok(placed)
}

/// First all of them above the numbers that they will have, so that none stands in another's place; then each to its own.
fn replaced(first: RawFd, sockets: Vec<OwnedFd>) -> Result<Vec<OwnedFd>, PlaceError> {
    let above = above(first, sockets.len());
    let high = sockets.iter().map(|socket| duplicate(socket.as_fd(), above)).collect::<Result<Vec<_>, _>>()?;
    drop(sockets);
    (first..).zip(&high).map(|(number, socket)| duplicate_at(socket.as_fd(), number)).collect()
}

/// F_DUPFD gives the lowest free number from `number` on: another one means that `number` is taken.
fn duplicate_at(fd: BorrowedFd<'_>, number: RawFd) -> Result<OwnedFd, PlaceError> {
    let duplicate = duplicate(fd, number)?;
    if duplicate.as_raw_fd() == number { Ok(duplicate) } else { Err(PlaceError::Occupied(number)) }
}

fn duplicate(fd: BorrowedFd<'_>, least: RawFd) -> Result<OwnedFd, PlaceError> {
    fcntl_dupfd_cloexec(fd, least).map_err(|errno| {
        // Numbers beyond RLIMIT_NOFILE are an invalid argument to fcntl(2); what it means is that there are too few.
        PlaceError::System(if errno == Errno::INVAL { Errno::MFILE } else { errno })
    })
}

/// Puts `sockets` where the program with the id `pid` looks for them: from 3 on, announced by the entries that are returned;
/// or, with `inetd`, the first one at 0 and 1. What else is returned must stay open until execve(2).
pub fn hand_over(
    sockets: Vec<OwnedFd>,
    names: &[String],
    inetd: bool,
    pid: u32,
) -> Result<(Vec<OwnedFd>, Vec<CString>), PlaceError> {
    match (inetd, sockets.first()) {
        // The copy that is left is close-on-exec.
        (true, Some(socket)) => place_inetd(socket).map(|()| (sockets, Vec::new())),
        _ => place(FIRST, sockets).map(|placed| (placed, announcement(pid, names))),
    }
}

/// Puts `socket` at 0 and 1, as inetd's `wait` services have it. Standard error stays the caller's.
pub fn place_inetd(socket: &OwnedFd) -> Result<(), PlaceError> {
    rustix::stdio::dup2_stdin(socket).and_then(|()| rustix::stdio::dup2_stdout(socket)).map_err(PlaceError::System)
}

impl fmt::Display for PlaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlaceError::Occupied(number) => {
                write!(f, "descriptor {number} is open already, and a socket must go there")
            }
            PlaceError::System(errno) => Described(*errno).fmt(f),
        }
    }
}
