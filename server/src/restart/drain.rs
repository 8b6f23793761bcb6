//! The work that is left before a process may end, and the time limit for it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portgrant_protocol::status;
use rustix::event::{EventfdFlags, eventfd};

use crate::daemon::leave;
use crate::failure::Error;
use crate::serving::Stopper;

/// How long after the time limit a process is killed.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// A longer time means no limit, and could overflow the clock.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// Counts the work that a server still has to finish: a [`Token`] for each connection, and for each loop that accepts.
///
/// When the drain begins, [`Token::is_stopping`] becomes true, the [`Stopper`]s stop their listeners, and the
/// descriptor behind [`AsFd`] becomes readable for loops that poll(2).
///
/// A loop that accepts must hold a token until it has ended. Otherwise the last connection could end, and the process
/// with it, between an accept(2) and the token for the new connection.
#[derive(Debug, Clone)]
pub struct Drain(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tokens: AtomicUsize,
    stopping: AtomicBool,
    /// Readable once the drain has begun
    begun: OwnedFd,
    /// Readable when the last token was dropped
    idle: OwnedFd,
    stoppers: Mutex<Vec<Stopper>>,
    #[cfg(feature = "tokio")]
    sender: tokio::sync::watch::Sender<bool>,
}

impl Drain {
    pub(super) fn new() -> Result<Drain, Error> {
        let made = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let failed = |errno: rustix::io::Errno| Error::system("cannot create an eventfd", errno);
        Ok(Drain(Arc::new(Shared {
            tokens: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            begun: made().map_err(failed)?,
            idle: made().map_err(failed)?,
            stoppers: Mutex::new(Vec::new()),
            #[cfg(feature = "tokio")]
            sender: tokio::sync::watch::Sender::new(false),
        })))
    }

    /// A token for some work. The work is finished when the token is dropped.
    pub fn token(&self) -> Token {
        self.0.tokens.fetch_add(1, Ordering::SeqCst);
        Token(self.clone())
    }

    /// Stops the listeners of `stopper` when the drain begins, or now if it has begun.
    pub fn stop(&self, stopper: Stopper) {
        let mut stoppers = self.0.stoppers.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_stopping() {
            stopper.stop();
        } else {
            stoppers.push(stopper);
        }
    }

    /// Whether the drain has begun.
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::SeqCst)
    }

    /// The number of tokens.
    pub fn left(&self) -> usize {
        self.0.tokens.load(Ordering::SeqCst)
    }

    pub(super) fn begin(&self) {
        let mut stoppers = self.0.stoppers.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.stopping.swap(true, Ordering::SeqCst) {
            return;
        }
        stoppers.drain(..).for_each(|stopper| stopper.stop());
        wake(&self.0.begun);
        #[cfg(feature = "tokio")]
        self.0.sender.send_replace(true);
    }

    /// Readable when the last token may have been dropped.
    pub(super) fn idle(&self) -> BorrowedFd<'_> {
        self.0.idle.as_fd()
    }
}

impl AsFd for Drain {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.begun.as_fd()
    }
}

/// Work that must be finished before the process ends. Each clone counts.
#[derive(Debug)]
#[must_use = "what it stands for counts as finished when it is dropped"]
pub struct Token(Drain);

impl Token {
    /// Whether the process is to end. Then answer the current request, announce the end of the connection, and accept
    /// no new request. (HTTP/1.1: `Connection: close`.)
    pub fn is_stopping(&self) -> bool {
        self.0.is_stopping()
    }

    /// Waits until the process is to end (feature `tokio`).
    #[cfg(feature = "tokio")]
    pub async fn stopping(&self) {
        let mut receiver = self.0.0.sender.subscribe();
        // It fails only if the sender was dropped, but this token holds it.
        let _ = receiver.wait_for(|&stopping| stopping).await;
    }
}

impl AsFd for Token {
    /// Readable once the process is to end.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Clone for Token {
    fn clone(&self) -> Token {
        self.0.token()
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if self.0.0.tokens.fetch_sub(1, Ordering::SeqCst) == 1 {
            wake(&self.0.0.idle);
        }
    }
}

/// It fails only at 2^64 - 1, and then it is readable anyway.
fn wake(eventfd: &OwnedFd) {
    let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
}

/// Ends this process one second after `limit`, whatever its other threads do.
pub(super) fn watch_over(limit: Duration) -> Result<(), Error> {
    let watch = move || {
        std::thread::sleep(limit.saturating_add(GRACE));
        // Not exit(3): a thread that hangs may hold a lock that an exit handler needs.
        leave(status::SYSTEM)
    };
    let thread = std::thread::Builder::new().name("drain deadline".to_owned()).spawn(watch);
    thread.map(drop).map_err(|source| Error::system("cannot limit the time of the drain", source))
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;
    use crate::Listeners;

    fn is_readable(descriptor: impl AsFd) -> bool {
        poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&Timespec::default())) == Ok(1)
    }

    #[test]
    fn dropping_the_last_connection_token_wakes_the_waiter() {
        let drain = Drain::new().expect("made");
        let token = drain.token();
        let other = token.clone();
        assert_eq!((drain.left(), is_readable(&drain), token.is_stopping()), (2, false, false));
        drain.begin();
        assert!(is_readable(&drain) && is_readable(&token) && token.is_stopping());
        drop(token);
        assert_eq!((drain.left(), is_readable(drain.idle())), (1, false));
        drop(other);
        assert_eq!((drain.left(), is_readable(drain.idle())), (0, true));
    }

    #[test]
    fn listeners_registered_before_or_after_the_drain_are_stopped() {
        let drain = Drain::new().expect("made");
        let mut listeners = [(); 2].map(|()| Listeners::new().expect("made"));
        drain.stop(listeners[0].stopper());
        drain.begin();
        drain.stop(listeners[1].stopper());
        for listeners in &mut listeners {
            assert!(matches!(listeners.try_event(), Ok(Some(crate::Event::Stopped))));
        }
    }

    #[cfg(feature = "tokio")]
    #[tokio::test]
    async fn a_task_that_asks_late_learns_of_the_drain() {
        let drain = Drain::new().expect("made");
        let token = drain.token();
        let short = Duration::from_millis(20);
        assert!(tokio::time::timeout(short, token.stopping()).await.is_err());
        drain.begin();
        token.stopping().await;
        drain.token().stopping().await;
    }
}
