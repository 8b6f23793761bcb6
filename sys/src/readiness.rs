//! Readiness of a descriptor, by tokio.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers `descriptor` with the current tokio runtime.
pub fn awaited(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor must stay open and the same while it is registered. An OwnedFd stays open while it lives
    // and always returns the same number. It lives in the AsyncFd, which deregisters it before it drops it.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, interest) }?)
}
