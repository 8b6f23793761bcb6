//! Adoption of the sockets that a process was started with: sd_listen_fds(3).

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use portgrant_protocol::listen::{Announced, FIRST};
use rustix::fs::{fstat, fstatfs};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::error::AdoptionError;
use super::socket::Socket;
use super::sockets::Sockets;
use crate::failure::Error;
use portgrant_sys::inherited::{self, Unavailable};

/// The file system in which each pidfd has a separate inode (`PID_FS_MAGIC`, since Linux 6.9).
const PIDFS: u32 = 0x5049_4446;

/// Whether the descriptors of this process were already taken: two owners would close each other's.
static TAKEN: AtomicBool = AtomicBool::new(false);

impl Sockets {
    /// Adopts the sockets that this process was started with: `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES`
    /// (sd_listen_fds(3)). Returns `None` if the variables are not set.
    ///
    /// Call it once, early in `main`. The descriptors are owned from then on, and a second call returns
    /// [`AdoptedBefore`](crate::error::AdoptionError::AdoptedBefore). They are made close-on-exec, so that the children
    /// of the server do not hold its ports. A descriptor that is announced but was not inherited is
    /// [`Missing`](crate::error::AdoptionError::Missing); no other number is touched. The announcement is ignored if
    /// `LISTEN_PIDFDID` names another process (sd_pidfd_get_inode_id(3)). Descriptors that are not internet sockets are
    /// kept for [`Sockets::fd`].
    ///
    /// ```
    /// # use portgrant_server::Sockets;
    /// if let Some(sockets) = Sockets::inherited()? {
    ///     for socket in &sockets {
    ///         println!("{} at {}", socket.name(), socket.local()?);
    ///     }
    /// }
    /// # Ok::<(), portgrant_server::Error>(())
    /// ```
    pub fn inherited() -> Result<Option<Sockets>, Error> {
        adopt()
    }
}

fn adopt() -> Result<Option<Sockets>, Error> {
    adopt_from(FIRST, |name| std::env::var_os(name), std::process::id(), &TAKEN)
}

/// The inode of this process's pidfd (sd_pidfd_get_inode_id(3)), which LISTEN_PIDFDID names. `None` without pidfs, or if
/// inode numbers are too short for it.
pub fn pidfd_id() -> Option<u64> {
    let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
    let is_pidfs = u64::try_from(fstatfs(&pidfd).ok()?.f_type).is_ok_and(|kind| kind == u64::from(PIDFS));
    let is_wide = cfg!(target_pointer_width = "64");
    fstat(&pidfd).ok().filter(|_| is_pidfs && is_wide).map(|pidfd| pidfd.st_ino)
}

fn adopt_from(
    first: RawFd,
    variable: impl Fn(&str) -> Option<OsString>,
    own: u32,
    taken: &AtomicBool,
) -> Result<Option<Sockets>, Error> {
    let Some(announced) = Announced::read(variable, own).map_err(AdoptionError::Announcement)? else { return Ok(None) };
    if announced.pidfd_id.is_some() {
        announced.is_meant_for(pidfd_id()).map_err(AdoptionError::Announcement)?;
    }
    if taken.swap(true, Ordering::SeqCst) {
        return Err(AdoptionError::AdoptedBefore { what: "LISTEN_FDS" }.into());
    }
    let numbers: Vec<RawFd> = (first..).take(announced.names.len()).collect();
    let adopted = inherited::take(&numbers);
    // After an error each descriptor is unchanged, and can be adopted again.
    taken.store(adopted.is_ok(), Ordering::SeqCst);
    match adopted {
        Ok(descriptors) => {
            let sockets = announced.names.into_iter().zip(descriptors);
            Ok(Some(sockets.map(|(name, descriptor)| Socket::new(name, descriptor)).collect()))
        }
        Err(Unavailable::Taken(number)) => Err(AdoptionError::NumberTaken { number }.into()),
        Err(Unavailable::Missing(number)) => {
            let name = (first..).zip(announced.names).find(|named| named.0 == number).map(|named| named.1);
            Err(AdoptionError::Missing { number, name: name.unwrap_or_default() }.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd};

    use super::*;
    use crate::adopting::tests::{is_left_at, leave_at};

    fn announcing(variables: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
        |name| variables.iter().find(|entry| entry.0 == name).map(|entry| entry.1.into())
    }

    #[test]
    fn announced_sockets_are_adopted_in_order_and_close_on_exec() {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        leave_at(500, &tcp);
        leave_at(501, &udp);
        leave_at(502, &udp);
        let variables = &[("LISTEN_FDS", "2"), ("LISTEN_PID", "7"), ("LISTEN_FDNAMES", "web:53/udp")];
        let sockets = adopt_from(500, announcing(variables), 7, &AtomicBool::new(false));
        let sockets = sockets.expect("adopted").expect("announced");
        assert_eq!(sockets.names().collect::<Vec<_>>(), ["web", "53/udp"]);
        let local: Vec<_> = sockets.iter().map(|socket| socket.local().expect("bound")).collect();
        assert_eq!(local, [tcp.local_addr().expect("bound"), udp.local_addr().expect("bound")]);
        for socket in &sockets {
            assert!(fcntl_getfd(socket).expect("open").contains(FdFlags::CLOEXEC));
        }
        assert!(is_left_at(502), "the number after the last was not announced, and stays as it was");
    }

    #[test]
    fn a_second_adoption_is_a_separate_error() {
        leave_at(510, TcpListener::bind("127.0.0.1:0").expect("a listener"));
        let taken = AtomicBool::new(false);
        let variables = announcing(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "7")]);
        let first = adopt_from(510, &variables, 7, &taken).expect("adopted");
        let error = adopt_from(510, &variables, 7, &taken).expect_err("a second time");
        assert!(matches!(error.downcast_ref(), Some(AdoptionError::AdoptedBefore { .. })), "{error}");
        assert!(first.is_some_and(|sockets| sockets.names().eq(["unknown"])));
    }

    #[test]
    fn a_closed_or_own_descriptor_is_reported_as_missing() {
        let own = TcpListener::bind("127.0.0.1:0").expect("a listener");
        leave_at(520, &own);
        let taken = AtomicBool::new(false);
        let variables = announcing(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "7"), ("LISTEN_FDNAMES", "there:not-there")]);
        let missing = |result: &Result<Option<Sockets>, Error>| {
            let Some(AdoptionError::Missing { number, name }) = result.as_ref().err().and_then(Error::downcast_ref)
            else {
                return false;
            };
            *number == 521 && name == "not-there"
        };
        assert!(missing(&adopt_from(520, &variables, 7, &taken)));
        assert!(is_left_at(520), "what was there was neither taken nor changed");

        let _opened_since = fcntl_dupfd_cloexec(&own, 521).expect("a duplicate");
        assert!(missing(&adopt_from(520, &variables, 7, &taken)), "what this process opened is not what was announced");
    }

    #[test]
    fn an_announcement_to_an_earlier_process_with_this_pid_is_stale() {
        let Some(own) = pidfd_id() else { return };
        assert_eq!(pidfd_id(), Some(own), "it is the same each time");
        leave_at(540, TcpListener::bind("127.0.0.1:0").expect("a listener"));
        let announcing = |id: u64| {
            move |name: &str| match name {
                "LISTEN_FDS" => Some(OsString::from("1")),
                "LISTEN_PID" => Some(OsString::from("7")),
                "LISTEN_PIDFDID" => Some(id.to_string().into()),
                _ => None,
            }
        };
        let taken = AtomicBool::new(false);
        let error = adopt_from(540, announcing(own + 1), 7, &taken).expect_err("stale").to_string();
        assert!(error.contains(&format!("LISTEN_PIDFDID is {}, but this process is {own}", own + 1)), "{error}");
        assert!(is_left_at(540));
        assert!(adopt_from(540, announcing(own), 7, &taken).is_ok_and(|sockets| sockets.is_some()));
    }

    #[test]
    fn no_announcement_is_empty_and_a_foreign_one_is_an_error() {
        let taken = AtomicBool::new(false);
        assert!(matches!(adopt_from(530, announcing(&[]), 7, &taken), Ok(None)));
        let foreign = announcing(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "6")]);
        let error = adopt_from(530, foreign, 7, &taken).expect_err("another's").to_string();
        assert!(error.contains("LISTEN_PID is 6, but this process is 7"), "{error}");
        assert!(error.contains("exec"), "what to do: {error}");
    }
}
