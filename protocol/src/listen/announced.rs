//! Reads the variables of sd_listen_fds(3), which announce descriptors to a program.

use std::ffi::{CString, OsString};
use std::fmt;

use super::{MAX, VARIABLES, announcement};
use crate::decimal;
use crate::text::printable;

/// What the environment announces to this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// A name for each descriptor from [`super::FIRST`] on; `unknown` if none was given (sd_listen_fds(3)).
    pub names: Vec<String>,
    /// `LISTEN_PIDFDID`, if it is set: the inode of the pidfd of the intended process (sd_pidfd_get_inode_id(3)).
    pub pidfd_id: Option<u64>,
}

/// `environment` (`NAME=VALUE` entries) for the program. The variables of the convention announce `names` to process
/// `pid`, or are removed if `names` is `None`. All other entries stay the same, byte for byte.
pub fn environment(environment: Vec<CString>, pid: u32, names: Option<&[String]>) -> Vec<CString> {
    let stale = |entry: &CString| {
        VARIABLES
            .iter()
            .any(|name| entry.to_bytes().strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b"=")))
    };
    let mut kept: Vec<CString> = environment.into_iter().filter(|entry| !stale(entry)).collect();
    kept.extend(names.into_iter().flat_map(|names| announcement(pid, names)));
    kept
}

/// Why the announcement is not valid for this process. The words are made printable.
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
    /// Reads the announcement for process `own` from the variables that `lookup` finds; `None` if there is no announcement.
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

    /// Checks that the announcement is for the process whose pidfd has the inode `own`. The kernel reuses process ids,
    /// but not these inodes. Before Linux 6.9 there are none: `own` is `None`, and the check succeeds.
    pub fn is_meant_for(&self, own: Option<u64>) -> Result<(), AnnouncementError> {
        match (self.pidfd_id, own) {
            (Some(pidfd_id), Some(own)) if pidfd_id != own => Err(AnnouncementError::Stale { pidfd_id, own }),
            _ => Ok(()),
        }
    }
}

fn number<T: TryFrom<u64>>(
    value: &OsString,
    name: &'static str,
    expected: &'static str,
    fits: impl Fn(&T) -> bool,
) -> Result<T, AnnouncementError> {
    let value = value.as_encoded_bytes();
    let wrong = || AnnouncementError::Variable { name, value: printable(value), expected };
    decimal(value).filter(fits).ok_or_else(wrong)
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
                write!(f, "LISTEN_FDNAMES has {names} names, but LISTEN_FDS is {fds}")?;
                if names > fds { f.write_str(" (a name cannot contain a colon)") } else { Ok(()) }
            }
        }
    }
}

impl core::error::Error for AnnouncementError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &'static [(&str, &str)]) -> Result<Option<Announced>, AnnouncementError> {
        Announced::read(|name| variables.iter().find(|entry| entry.0 == name).map(|entry| entry.1.into()), 42)
    }

    #[test]
    fn an_announcement_is_read_as_it_was_written() {
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
    fn an_announcement_to_an_earlier_process_with_the_same_pid_is_stale() {
        let announced = read(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "42"), ("LISTEN_PIDFDID", "7001")]);
        let announced = announced.expect("well-formed").expect("announced");
        assert_eq!(announced.pidfd_id, Some(7001));
        assert_eq!(announced.is_meant_for(Some(7001)), Ok(()));
        assert_eq!(announced.is_meant_for(None), Ok(()), "an older kernel");
        assert_eq!(announced.is_meant_for(Some(7002)), Err(AnnouncementError::Stale { pidfd_id: 7001, own: 7002 }));
        let without = Announced { pidfd_id: None, ..announced };
        assert_eq!(without.is_meant_for(Some(7002)), Ok(()), "an older service manager");
    }

    #[test]
    fn too_many_descriptors_and_names_with_a_colon_are_different_errors() {
        let many = read(&[("LISTEN_FDS", "254"), ("LISTEN_PID", "42")]);
        assert_eq!(many, Err(AnnouncementError::TooMany { fds: 254 }));
        let most = read(&[("LISTEN_FDS", "253"), ("LISTEN_PID", "42")]);
        assert_eq!(most.map(|most| most.map(|most| most.names.len())), Ok(Some(253)));
        let colon = read(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "42"), ("LISTEN_FDNAMES", "[::1]:80")]);
        let colon = colon.expect_err("five names");
        assert!(colon.to_string().contains("a name cannot contain a colon"), "{colon}");
        let few = read(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "42"), ("LISTEN_FDNAMES", "a")]).expect_err("one name");
        assert_eq!(few.to_string(), "LISTEN_FDNAMES has 1 names, but LISTEN_FDS is 2");
    }

    #[test]
    fn a_malformed_announcement_is_an_error() {
        assert_eq!(
            read(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "41")]),
            Err(AnnouncementError::ForAnother { pid: 41, own: 42 })
        );
        assert_eq!(
            read(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "42"), ("LISTEN_FDNAMES", "a")]),
            Err(AnnouncementError::Names { fds: 2, names: 1 })
        );
        let least = |name: &str| ["LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID"].contains(&name).then(|| "1".into());
        assert_eq!(Announced::read(least, 1), Ok(Some(Announced { names: vec!["unknown".into()], pidfd_id: Some(1) })));
        let wrong: [&'static [(&str, &str)]; 8] = [
            &[("LISTEN_FDS", "1"), ("LISTEN_PID", "0")],
            &[("LISTEN_FDS", "1"), ("LISTEN_PID", "42"), ("LISTEN_PIDFDID", "0")],
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

    fn entries(list: &[&str]) -> Vec<CString> {
        list.iter().map(|entry| CString::new(*entry).expect("no NUL")).collect()
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
}
