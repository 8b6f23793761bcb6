//! accept(2), and which of its errors would come again at once.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use crate::canonical;

/// How long nothing is accepted after an error that would come again at once.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// Waits for the next client of `listener`, for a server that has a thread for each listener.
///
/// `for client in listener.incoming().flatten()` skips the error of a client that is gone again, as this does. But out of
/// descriptors (EMFILE) accept(2) fails again at once, since the client stays in the queue, and that loop then takes a
/// whole processor. This function waits for a tenth of a second and tries again, as often as it takes.
/// [`Listeners`](crate::Listeners) waits as well, and reports it.
///
/// ```no_run
/// use std::io::Write;
///
/// let listener = std::net::TcpListener::bind("127.0.0.1:8080")?;
/// loop {
///     let (mut client, peer) = portgrant_server::accept(&listener)?;
///     std::thread::spawn(move || writeln!(client, "hello, {}", peer.ip()));
/// }
/// # #[allow(unreachable_code)]
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// The peer's address is IPv4 where the client is, also on a socket for both.
///
/// # Errors
/// What ends this listener for good: it was shut down, say. [`io::ErrorKind::WouldBlock`] where it does not block and
/// nobody is there.
pub fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    loop {
        match listener.accept() {
            Ok((stream, peer)) => return Ok((stream, canonical(peer))),
            Err(error) if would_recur(&error) => thread::sleep(PAUSE),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock && is_the_clients(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Out of descriptors, of this process or of all, or of memory; or a security module or a seccomp filter forbids it. The
/// client stays where it is.
pub(crate) fn would_recur(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::PERM)
    )
}

/// Nobody there any more, or an error of the connection's own that accept(2) passes on (see there): the next may fare
/// better.
pub(crate) fn is_the_clients(error: &io::Error) -> bool {
    const OWN: &[Errno] = &[
        Errno::AGAIN,
        Errno::INTR,
        Errno::CONNABORTED,
        Errno::PROTO,
        Errno::NETDOWN,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::NONET,
        Errno::HOSTUNREACH,
        Errno::NETUNREACH,
        Errno::TIMEDOUT,
    ];
    Errno::from_io_error(error).is_some_and(|errno| OWN.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_waits_after_errors_that_leave_the_client_in_the_queue() {
        // A security module or a seccomp filter answers EPERM before it reads the queue.
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::PERM] {
            let error = errno.into();
            assert!(would_recur(&error) && !is_the_clients(&error), "{error}");
        }
        for errno in [Errno::CONNABORTED, Errno::INTR, Errno::PROTO] {
            let error = errno.into();
            assert!(is_the_clients(&error) && !would_recur(&error), "{error}");
        }
        let shut_down = Errno::INVAL.into();
        assert!(!would_recur(&shut_down) && !is_the_clients(&shut_down));
    }
}
