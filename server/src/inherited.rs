//! Adoption of what a process was started with: sd_listen_fds(3).

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use portgrant_protocol::listen::{Announced, FIRST};

use crate::{Error, Socket, Sockets, descriptor};

/// Whether this process's descriptors were taken already: two owners would close each other's.
static TAKEN: AtomicBool = AtomicBool::new(false);

pub(crate) fn adopt() -> Result<Option<Sockets>, Error> {
    adopt_from(FIRST, |name| std::env::var_os(name), std::process::id(), &TAKEN)
}

fn adopt_from(
    first: RawFd,
    variable: impl Fn(&str) -> Option<OsString>,
    own: u32,
    taken: &AtomicBool,
) -> Result<Option<Sockets>, Error> {
    let Some(announced) = Announced::read(variable, own).map_err(Error::Announcement)? else { return Ok(None) };
    if taken.swap(true, Ordering::SeqCst) {
        return Err(Error::AdoptedBefore { what: "LISTEN_FDS" });
    }
    // All are looked at before one is taken: after an error each is as it was, and may be asked for again.
    let missing = (first..).zip(&announced.names).find(|(number, _)| !descriptor::is_inherited(*number));
    if let Some((number, name)) = missing {
        taken.store(false, Ordering::SeqCst);
        return Err(Error::Missing { number, name: name.clone() });
    }
    let sockets = (first..).zip(announced.names).map(|(number, name)| Socket::new(name, descriptor::take(number)));
    Ok(Some(sockets.collect()))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};

    use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd};

    use super::*;

    /// Puts `descriptor` at `number` as if it had been inherited: nobody's, and not close-on-exec.
    fn leave_at(number: RawFd, descriptor: impl AsFd) {
        let copy: OwnedFd = fcntl_dupfd_cloexec(descriptor, number).expect("a duplicate");
        assert_eq!(copy.as_raw_fd(), number, "each test has numbers of its own");
        fcntl_setfd(&copy, FdFlags::empty()).expect("open");
        let _ = copy.into_raw_fd();
    }

    fn announcing(variables: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
        |name| variables.iter().find(|entry| entry.0 == name).map(|entry| entry.1.into())
    }

    #[test]
    fn what_is_announced_is_adopted_in_order_and_close_on_exec() {
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
        assert!(descriptor::is_inherited(502), "the number after the last was not announced, and stays as it was");
    }

    #[test]
    fn a_second_adoption_is_its_own_error() {
        leave_at(510, TcpListener::bind("127.0.0.1:0").expect("a listener"));
        let taken = AtomicBool::new(false);
        let variables = announcing(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "7")]);
        let first = adopt_from(510, &variables, 7, &taken).expect("adopted");
        assert!(matches!(adopt_from(510, &variables, 7, &taken), Err(Error::AdoptedBefore { .. })));
        assert!(first.is_some_and(|sockets| sockets.names().eq(["unknown"])));
    }

    #[test]
    fn a_number_that_is_not_open_or_this_processs_own_is_missing_and_nothing_is_touched() {
        let own = TcpListener::bind("127.0.0.1:0").expect("a listener");
        leave_at(520, &own);
        let taken = AtomicBool::new(false);
        let variables = announcing(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "7"), ("LISTEN_FDNAMES", "there:not-there")]);
        let missing = |result| matches!(result, Err(Error::Missing { number: 521, name }) if name == "not-there");
        assert!(missing(adopt_from(520, &variables, 7, &taken)));
        assert!(descriptor::is_inherited(520), "what was there was neither taken nor changed");

        let _opened_since = fcntl_dupfd_cloexec(&own, 521).expect("a duplicate");
        assert!(missing(adopt_from(520, &variables, 7, &taken)), "what this process opened is not what was announced");
    }

    #[test]
    fn nothing_announced_is_nothing_and_a_foreign_announcement_an_error() {
        let taken = AtomicBool::new(false);
        assert!(matches!(adopt_from(530, announcing(&[]), 7, &taken), Ok(None)));
        let foreign = announcing(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "6")]);
        let error = adopt_from(530, foreign, 7, &taken).expect_err("another's").to_string();
        assert!(error.contains("LISTEN_PID is 6, but this process is 7"), "{error}");
        assert!(error.contains("exec"), "what to do: {error}");
    }
}
