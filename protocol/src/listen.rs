//! The descriptors that a program inherits: writes and reads `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES`
//! (sd_listen_fds(3)), and puts descriptors where that convention or inetd's expects them.

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
/// The most descriptors in one message (`SCM_MAX_FD`), so the most that can be handed over.
pub const MAX: usize = 253;

/// The variables of the convention. `LISTEN_PIDFDID` says which process the others are for; with a stale one they are
/// invalid.
pub const VARIABLES: [&str; 4] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID"];

/// The environment entries that announce `names` to process `pid`.
pub fn announcement(pid: u32, names: &[String]) -> Vec<CString> {
    let entries = [
        format!("LISTEN_FDS={}", names.len()),
        format!("LISTEN_PID={pid}"),
        format!("LISTEN_FDNAMES={}", names.join(":")),
    ];
    // A name cannot contain a NUL, by the endpoint grammar.
    entries.into_iter().filter_map(|entry| CString::new(entry).ok()).collect()
}

/// Why a descriptor could not get its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceError {
    /// The caller has this number open. It stays open
    Occupied(RawFd),
    /// A system call failed, for example because of RLIMIT_NOFILE
    System(Errno),
}

/// Checks that the `count` numbers from `first` on are free. Call it before anything is bound.
pub fn free(first: RawFd, count: usize) -> Result<(), PlaceError> {
    let opened = open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(PlaceError::System)?;
    // The probe must not occupy one of the numbers itself.
    let probe = duplicate(opened.as_fd(), above(first, count))?;
    drop(opened);
    (first..).take(count).try_for_each(|number| duplicate_at(probe.as_fd(), number).map(drop))
}

fn above(first: RawFd, count: usize) -> RawFd {
    (first..).nth(count).unwrap_or(RawFd::MAX)
}

/// Puts `sockets` at `first` and the numbers that follow, to be inherited across execve(2).
///
/// If the caller has one of these numbers open, that is an error: a descriptor of the caller is never closed.
pub fn place(first: RawFd, sockets: Vec<OwnedFd>) -> Result<Vec<OwnedFd>, PlaceError> {
    let in_place = (first..).zip(&sockets).all(|(number, socket)| socket.as_raw_fd() == number);
    let placed = if in_place { sockets } else { moved(first, sockets)? };
    for socket in &placed {
        fcntl_setfd(socket, FdFlags::empty()).map_err(PlaceError::System)?;
    }
    Ok(placed)
}

/// First moves all sockets above their final numbers, so that none occupies the number of another, then each to its
/// own.
fn moved(first: RawFd, sockets: Vec<OwnedFd>) -> Result<Vec<OwnedFd>, PlaceError> {
    let above = above(first, sockets.len());
    let high = sockets.iter().map(|socket| duplicate(socket.as_fd(), above)).collect::<Result<Vec<_>, _>>()?;
    drop(sockets);
    (first..).zip(&high).map(|(number, socket)| duplicate_at(socket.as_fd(), number)).collect()
}

/// F_DUPFD returns the lowest free number from `number` on. If it returns another, `number` is open.
fn duplicate_at(fd: BorrowedFd<'_>, number: RawFd) -> Result<OwnedFd, PlaceError> {
    let duplicate = duplicate(fd, number)?;
    if duplicate.as_raw_fd() == number { Ok(duplicate) } else { Err(PlaceError::Occupied(number)) }
}

fn duplicate(fd: BorrowedFd<'_>, least: RawFd) -> Result<OwnedFd, PlaceError> {
    fcntl_dupfd_cloexec(fd, least).map_err(|errno| {
        // For a number beyond RLIMIT_NOFILE, fcntl(2) returns EINVAL. EMFILE is the clearer error.
        PlaceError::System(if errno == Errno::INVAL { Errno::MFILE } else { errno })
    })
}

/// Puts `sockets` where the program with process id `pid` expects them: from 3 on, announced by the returned
/// environment entries; or with `inetd`, the first one at 0 and 1. The returned descriptors must stay open until
/// execve(2).
pub fn hand_over(
    sockets: Vec<OwnedFd>,
    names: &[String],
    inetd: bool,
    pid: u32,
) -> Result<(Vec<OwnedFd>, Vec<CString>), PlaceError> {
    match (inetd, sockets.first()) {
        // The original is close-on-exec.
        (true, Some(socket)) => place_inetd(socket).map(|()| (sockets, Vec::new())),
        _ => place(FIRST, sockets).map(|placed| (placed, announcement(pid, names))),
    }
}

/// Puts `socket` at 0 and 1, as for a `wait` service of inetd. Standard error stays the caller's.
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
