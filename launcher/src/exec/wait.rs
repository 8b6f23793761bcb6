//! `--wait`: starts the program at the first connection or datagram.

use std::os::fd::OwnedFd;

use log::debug;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::Error;

/// Waits for the first connection or datagram on any of `sockets`, and leaves it there for the program.
///
/// Nothing is set on the sockets, and no signal is caught: a signal ends this process, which closes the sockets.
pub(crate) fn first_arrival(sockets: &[OwnedFd]) -> Result<(), Error> {
    debug!("waiting for the first connection or datagram");
    let mut watched: Vec<PollFd<'_>> = sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
    loop {
        match poll(&mut watched, None) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::Wait(errno.into())),
            Ok(_) => return Ok(()),
        }
    }
}
