//! accept(2), and its errors that would occur again at once.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use crate::canonical;

/// The pause after an error that would occur again at once.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// Waits for the next client of `listener`, for a server that has a thread for each listener.
///
/// `for client in listener.incoming().flatten()` skips the error of a client that has already gone, as this function
/// does. But if there are no more descriptors (EMFILE), accept(2) fails again at once, since the client stays in the
/// queue, and that loop uses a whole processor. This function waits for a tenth of a second and tries again until it
/// succeeds. [`Listeners`](crate::Listeners) waits as well, and reports the error.
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
/// The peer's address is IPv4 for an IPv4 client, also on a dual-stack socket.
///
/// # Errors Errors after which this listener cannot accept any more, for example because it was shut down.
/// [`io::ErrorKind::WouldBlock`] if it is non-blocking and no client waits.
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

/// Whether descriptors (of this process or of the system) or memory have run out, or a security module or a seccomp
/// filter forbids the call. The client stays in the queue.
pub(crate) fn would_recur(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::PERM)
    )
}

/// Whether the client has gone, or the error is about its connection alone (see accept(2)), so that the next call may
/// succeed.
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
