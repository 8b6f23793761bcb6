//! The descriptors that a program inherits: `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES` (sd_listen_fds(3)) written and
//! read, and descriptors put where that convention, or inetd's, wants them.

use std::ffi::{CString, OsString};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

use crate::text::printable;

/// `SD_LISTEN_FDS_START`: the number of the first inherited descriptor.
pub const FIRST: RawFd = 3;
/// The most descriptors that one message carries (`SCM_MAX_FD`), and so the most that are ever handed over.
pub const MAX: usize = 253;

/// The variables of the convention. `LISTEN_PIDFDID` binds the others to a process; a stale one voids them.
pub const VARIABLES: [&str; 4] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID"];

/// `environment` (`NAME=VALUE` entries) as the program shall have it: everything as it was, byte for byte, but for the
/// variables of the convention. Those announce `names` to process `pid`, or are absent where `names` is `None`.
pub fn environment(environment: Vec<CString>, pid: u32, names: Option<&[String]>) -> Vec<CString> {
    let stale = |entry: &CString| {
        VARIABLES
            .iter()
            .any(|name| entry.to_bytes().strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b"=")))
    };
    let mut kept: Vec<CString> = environment.into_iter().filter(|entry| !stale(entry)).collect();
    if let Some(names) = names {
        let ours = [
            format!("LISTEN_FDS={}", names.len()),
            format!("LISTEN_PID={pid}"),
            format!("LISTEN_FDNAMES={}", names.join(":")),
        ];
        // No name holds a NUL: the endpoint grammar knows none.
        kept.extend(ours.into_iter().filter_map(|entry| CString::new(entry).ok()));
    }
    kept
}

/// What the environment announces to this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// A name for each descriptor from [`FIRST`] on; `unknown` where none was given (sd_listen_fds(3)).
    pub names: Vec<String>,
    /// `LISTEN_PIDFDID`: the process that is meant, by the inode of its pidfd (sd_pidfd_get_inode_id(3)), if it is told.
    pub pidfd_id: Option<u64>,
}

/// Why the environment's announcement cannot be believed. The words are made printable.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant's Display is its description")]
pub enum AnnouncementError {
    Variable { name: &'static str, value: String, expected: &'static str },
    TooMany { fds: usize },
    ForAnother { pid: u32, own: u32 },
    Stale { pidfd_id: u64, own: u64 },
    Names { fds: usize, names: usize },
}

impl Announced {
    /// Reads the announcement for process `own` from the variables that `lookup` finds; `None` where there is none.
    pub fn read(lookup: impl Fn(&str) -> Option<OsString>, own: u32) -> Result<Option<Announced>, AnnouncementError> {
        let Some(fds) = lookup("LISTEN_FDS") else { return Ok(None) };
        let fds = number(&fds, "LISTEN_FDS", "1 to 253", |&fds: &usize| fds > 0)?;
        if fds > MAX {
            return Err(AnnouncementError::TooMany { fds });
        }
        let pid = lookup("LISTEN_PID").unwrap_or_default();
        let pid: u32 = number(&pid, "LISTEN_PID", "a process id", |&pid| pid > 0)?;
        if pid != own {
            return Err(AnnouncementError::ForAnother { pid, own });
        }
        let pidfd_id = match lookup("LISTEN_PIDFDID") {
            Some(id) => Some(number(&id, "LISTEN_PIDFDID", "the inode of a pidfd", |&id: &u64| id > 0)?),
            None => None,
        };
        let names = match lookup("LISTEN_FDNAMES") {
            None => vec!["unknown".to_owned(); fds],
            Some(names) => names.to_string_lossy().split(':').map(str::to_owned).collect(),
        };
        if names.len() != fds {
            return Err(AnnouncementError::Names { fds, names: names.len() });
        }
        Ok(Some(Announced { names, pidfd_id }))
    }

    /// Whether the process is meant whose pidfd has the inode `own`: the number of a process is given again one day, and
    /// that inode is not. Where the kernel has no such inodes (before 6.9), `None`, nothing is held against it.
    pub fn is_meant_for(&self, own: Option<u64>) -> Result<(), AnnouncementError> {
        match (self.pidfd_id, own) {
            (Some(pidfd_id), Some(own)) if pidfd_id != own => Err(AnnouncementError::Stale { pidfd_id, own }),
            _ => Ok(()),
        }
    }
}

fn number<T: std::str::FromStr>(
    value: &OsString,
    name: &'static str,
    expected: &'static str,
    fits: impl Fn(&T) -> bool,
) -> Result<T, AnnouncementError> {
    let digits = value.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let parsed = value.to_str().filter(|_| digits).and_then(|text| text.parse().ok()).filter(fits);
    parsed.ok_or_else(|| AnnouncementError::Variable { name, value: printable(value.as_encoded_bytes()), expected })
}

impl fmt::Display for AnnouncementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AnnouncementError::Variable { name, value, expected } => {
                write!(f, "{name} is '{value}'; expected {expected}")
            }
            AnnouncementError::ForAnother { pid, own } => write!(
                f,
                "LISTEN_PID is {pid}, but this process is {own}: the sockets were handed to another process \
                 (does a wrapper start the program without exec?)"
            ),
            AnnouncementError::TooMany { fds } => write!(f, "LISTEN_FDS is {fds}; at most {MAX} are taken"),
            AnnouncementError::Stale { pidfd_id, own } => write!(
                f,
                "LISTEN_PIDFDID is {pidfd_id}, but this process is {own}: it was started again under the number of the \
                 process that was meant"
            ),
            AnnouncementError::Names { fds, names } => {
                write!(f, "LISTEN_FDNAMES holds {names} names for {fds} descriptors")?;
                if names > fds { f.write_str(" (a colon separates names, so none can hold one)") } else { Ok(()) }
            }
        }
    }
}

impl std::error::Error for AnnouncementError {}

/// Why a descriptor could not be put where it must go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceError {
    /// This number is open already: the caller's own descriptor, which stays
    Occupied(RawFd),
    /// The system would not give it (RLIMIT_NOFILE, say)
    System(Errno),
}

/// Closed standard descriptors get a folder that can be neither read nor written, close-on-exec: no socket and no file
/// lands there, and the program that is executed finds them as closed as they were. Called before anything is opened.
pub fn occupy_standard_descriptors() {
    while let Ok(folder) = open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        if folder.as_raw_fd() > 2 {
            return;
        }
        let _kept_open = folder.into_raw_fd();
    }
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
            PlaceError::System(errno) => write!(f, "{errno}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(list: &[&str]) -> Vec<CString> {
        list.iter().map(|entry| CString::new(*entry).expect("no NUL")).collect()
    }

    fn read(variables: &'static [(&str, &str)]) -> Result<Option<Announced>, AnnouncementError> {
        Announced::read(|name| variables.iter().find(|entry| entry.0 == name).map(|entry| entry.1.into()), 42)
    }

    #[test]
    fn stale_variables_are_replaced_and_nothing_else() {
        let before = entries(&[
            "LISTEN_FDS=9",
            "A=1",
            "LISTEN_PIDFDID=7",
            "LISTEN_FDSX=1",
            "LISTEN_FDS",
            "=",
            "A=2",
            "LISTEN_PID=1",
        ]);
        let kept = ["A=1", "LISTEN_FDSX=1", "LISTEN_FDS", "=", "A=2"];
        assert_eq!(environment(before.clone(), 42, None), entries(&kept));
        let names = ["https".to_owned(), "80/tcp".to_owned()];
        let announced = ["LISTEN_FDS=2", "LISTEN_PID=42", "LISTEN_FDNAMES=https:80/tcp"];
        assert_eq!(environment(before, 42, Some(&names)), entries(&[&kept[..], &announced[..]].concat()));
    }

    #[test]
    fn what_was_written_is_read() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(
            read(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "42"), ("LISTEN_FDNAMES", "a:80/tcp")]),
            Ok(Some(Announced { names: vec!["a".into(), "80/tcp".into()], pidfd_id: None }))
        );
        assert_eq!(
            read(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "42")]),
            Ok(Some(Announced { names: vec!["unknown".into()], pidfd_id: None }))
        );
    }

    #[test]
    fn a_process_that_only_has_the_number_of_the_one_that_was_meant_is_told_so() {
        let announced = read(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "42"), ("LISTEN_PIDFDID", "7001")]);
        let announced = announced.expect("well-formed").expect("announced");
        assert_eq!(announced.pidfd_id, Some(7001));
        assert_eq!(announced.is_meant_for(Some(7001)), Ok(()));
        assert_eq!(announced.is_meant_for(None), Ok(()), "an older kernel");
        assert_eq!(announced.is_meant_for(Some(7002)), Err(AnnouncementError::Stale { pidfd_id: 7001, own: 7002 }));
        let untold = Announced { pidfd_id: None, ..announced };
        assert_eq!(untold.is_meant_for(Some(7002)), Ok(()), "an older service manager");
    }

    #[test]
    fn more_than_can_be_meant_and_names_with_a_colon_are_told_apart() {
        let many = read(&[("LISTEN_FDS", "4096"), ("LISTEN_PID", "42")]);
        assert_eq!(many, Err(AnnouncementError::TooMany { fds: 4096 }));
        let colon = read(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "42"), ("LISTEN_FDNAMES", "[::1]:80")]);
        let colon = colon.expect_err("five names");
        assert!(colon.to_string().contains("a colon separates names"), "{colon}");
        let few = read(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "42"), ("LISTEN_FDNAMES", "a")]).expect_err("one name");
        assert!(!few.to_string().contains("colon"), "{few}");
    }

    #[test]
    fn an_announcement_that_cannot_be_meant_is_an_error() {
        assert_eq!(
            read(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "41")]),
            Err(AnnouncementError::ForAnother { pid: 41, own: 42 })
        );
        assert_eq!(
            read(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "42"), ("LISTEN_FDNAMES", "a")]),
            Err(AnnouncementError::Names { fds: 2, names: 1 })
        );
        let wrong: [&'static [(&str, &str)]; 6] = [
            &[("LISTEN_FDS", "0"), ("LISTEN_PID", "42")],
            &[("LISTEN_FDS", "1"), ("LISTEN_PID", "42"), ("LISTEN_PIDFDID", "x")],
            &[("LISTEN_FDS", "+1"), ("LISTEN_PID", "42")],
            &[("LISTEN_FDS", ""), ("LISTEN_PID", "42")],
            &[("LISTEN_FDS", "1"), ("LISTEN_PID", "")],
            &[("LISTEN_FDS", "1")],
        ];
        for variables in wrong {
            assert!(matches!(read(variables), Err(AnnouncementError::Variable { .. })), "{variables:?}");
        }
    }
}
