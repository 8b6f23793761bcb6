//! Asks a server for an upgrade by its control socket, and receives the result.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use portgrant_protocol::transfer::{self, TransferError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::conversation::{parse_answer, request, send};
use super::error::RestartError;
use super::order::Upgraded;
use crate::adopting::HandoverError;
use crate::failure::Error;

/// Asks the server with the control socket `path` to replace itself. Waits for the result, at most for `limit`.
///
/// ```no_run
/// use std::time::Duration;
/// use portgrant_server::restart;
///
/// match restart::ask("/run/my-server/control", Duration::from_secs(120)) {
///     Ok(upgraded) => println!("{upgraded}"), // generation 2, process 4711, took over
///     Err(error) => eprintln!("{error}"),     // and the old one serves on as if nothing had happened
/// }
/// ```
///
/// # Errors
/// [`RestartError::Control`] if no server is there; [`Refused`](crate::error::Refused), with the reason, if it was not
/// replaced; [`RestartError::ControlSilent`] if the server ended or did not answer in time.
pub fn ask(path: impl AsRef<Path>, limit: Duration) -> Result<Upgraded, Error> {
    let path: PathBuf = path.as_ref().to_owned();
    let failed = |errno: Errno| RestartError::Control { path: path.clone(), source: errno.into() };
    let address = SocketAddrUnix::new(&path).map_err(failed)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let socket = socket.map_err(failed)?;
    connect(&socket, &address).map_err(failed)?;
    send(&socket, &request().map_err(HandoverError::Record)?, &[]).map_err(HandoverError::Transfer)?;
    let deadline = Instant::now().checked_add(limit);
    let mut closed = Vec::new();
    loop {
        if !is_readable(&socket, deadline).map_err(failed)? {
            return Err(RestartError::ControlSilent { path }.into());
        }
        let record = match transfer::receive(socket.as_fd()) {
            Ok((record, _)) => record,
            Err(TransferError::Ended) => return Err(RestartError::ControlSilent { path }.into()),
            Err(error) => return Err(HandoverError::Transfer(error).into()),
        };
        let (part, left) = parse_answer(&record)?;
        closed.extend(part.closed);
        if left == 0 {
            return Ok(Upgraded { closed, ..part });
        }
    }
}

fn is_readable(socket: &OwnedFd, deadline: Option<Instant>) -> Result<bool, Errno> {
    loop {
        // A time that is too long for the kernel means without limit.
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(socket, PollFlags::IN)], left.as_ref()) {
            Err(Errno::INTR) => {}
            polled => return polled.map(|count| count > 0),
        }
    }
}
