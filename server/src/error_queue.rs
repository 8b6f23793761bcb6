//! Sockets that poll(2) calls ready although nothing can be read. A program that waits for such a socket never sleeps.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{MsgFlags, recvmsg};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How many errors are dropped at a time. SO_RCVBUF limits their number.
const MOST: usize = 1024;

/// Empties the error queue of `socket`: ICMP errors if IP_RECVERR is set (ip(7)), timestamps of sent data, and others.
/// While the queue has an entry, poll(2) reports POLLERR.
pub(crate) fn drain(socket: &impl AsFd) {
    let number = socket.as_fd().as_raw_fd();
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let next = || recvmsg::<()>(number, &mut [], None, flags).ok();
    std::iter::from_fn(next).take(MOST).for_each(drop);
}

/// Call this if a datagram `socket` was reported as ready and nothing could be read.
///
/// # Errors ESHUTDOWN if the socket was shut down for reading: it would always be ready.
pub(crate) fn clear(socket: &impl AsFd) -> io::Result<()> {
    drain(socket);
    let mut ends = [PollFd::new(socket, PollFlags::RDHUP)];
    poll(&mut ends, Some(&Timespec::default()))?;
    match ends[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP) {
        true => Err(Errno::SHUTDOWN.into()),
        false => Ok(()),
    }
}
