//! The events of a serving generation, as one descriptor: epoll(7), a timer, and the signals.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

use super::signals::{Asked, UpgradeSignals};
use crate::failure::Error;
use crate::serving::epoll::Epoll;

/// Something that may have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Signal,
    Timer,
    /// No connection is left
    Idle,
    /// A peer connected to the control socket
    Connect,
    /// The predecessor has ended
    PredecessorEnded,
    /// The successor sent something
    SuccessorSpoke,
    /// The successor's starter has ended
    StarterEnded,
    /// This peer of the control socket sent something
    PeerSpoke(u64),
}

impl Event {
    const PEERS: u64 = 7;

    fn number(self) -> u64 {
        match self {
            Event::Signal => 0,
            Event::Timer => 1,
            Event::Idle => 2,
            Event::Connect => 3,
            Event::PredecessorEnded => 4,
            Event::SuccessorSpoke => 5,
            Event::StarterEnded => 6,
            Event::PeerSpoke(peer) => Event::PEERS + peer,
        }
    }

    fn of(number: u64) -> Event {
        match number {
            0 => Event::Signal,
            1 => Event::Timer,
            2 => Event::Idle,
            3 => Event::Connect,
            4 => Event::PredecessorEnded,
            5 => Event::SuccessorSpoke,
            6 => Event::StarterEnded,
            peer => Event::PeerSpoke(peer - Event::PEERS),
        }
    }
}

/// The watched descriptors. Readable (its [`AsFd`]) while an event is possible.
#[derive(Debug)]
pub(super) struct Events {
    epoll: Epoll,
    timer: OwnedFd,
    signals: UpgradeSignals,
    #[cfg(feature = "tokio")]
    readiness: Option<tokio::io::unix::AsyncFd<OwnedFd>>,
}

impl Events {
    pub(super) fn new(signals: UpgradeSignals) -> Result<Events, Error> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let made = timerfd_create(TimerfdClockId::Monotonic, flags);
        let timer = made.map_err(|errno| Error::system("cannot create a timer", errno))?;
        let mut epoll = Epoll::new()?;
        epoll.add(&timer, Event::Timer.number())?;
        epoll.add(&signals, Event::Signal.number())?;
        Ok(Events {
            epoll,
            timer,
            signals,
            #[cfg(feature = "tokio")]
            readiness: None,
        })
    }

    /// Watches `descriptor` for `event`.
    pub(super) fn watch(&mut self, descriptor: impl AsFd, event: Event) -> Result<(), Error> {
        self.epoll.add(descriptor, event.number())
    }

    /// Watches it again, or pauses.
    pub(super) fn set(&mut self, descriptor: impl AsFd, event: Event, watched: bool) -> Result<(), Error> {
        self.epoll.set(descriptor, event.number(), watched)
    }

    /// Stops watching it.
    pub(super) fn forget(&mut self, descriptor: impl AsFd) {
        self.epoll.remove(descriptor);
    }

    /// Whether a signal asked for this and was not taken yet.
    pub(super) fn take(&self, asked: Asked) -> bool {
        self.signals.take(asked)
    }

    /// The next event of this round; `None` at its end. Timer and signals become unreadable again.
    pub(super) fn next(&mut self) -> Option<Event> {
        let event = Event::of(self.epoll.turn()?);
        match event {
            Event::Signal => self.signals.rest(),
            Event::Timer => drop(rustix::io::read(&self.timer, &mut [0; 8])),
            Event::Idle
            | Event::Connect
            | Event::PredecessorEnded
            | Event::SuccessorSpoke
            | Event::StarterEnded
            | Event::PeerSpoke(_) => {}
        }
        Some(event)
    }

    /// Starts a round. Waits at most for `limit` (`None` means without limit). Returns whether there is an event.
    pub(super) fn begin(&mut self, limit: Option<Duration>) -> Result<bool, Error> {
        self.epoll.begin(limit)
    }

    /// Waits for events without blocking the thread.
    #[cfg(feature = "tokio")]
    pub(super) async fn readable(&mut self) -> Result<(), Error> {
        let failed = |source| Error::system("cannot wait for events", source);
        let readiness = match self.readiness.take() {
            Some(readiness) => readiness,
            None => {
                let copy = self.epoll.as_fd().try_clone_to_owned().map_err(failed)?;
                portgrant_sys::awaited(copy, tokio::io::Interest::READABLE).map_err(failed)?
            }
        };
        let readiness = self.readiness.insert(readiness);
        let mut readable = readiness.readable().await.map_err(failed)?;
        // Cleared before the events are checked: an event in between makes it readable again.
        readable.clear_ready();
        Ok(())
    }

    /// Sets the timer to `next`, or to never.
    pub(super) fn wake_at(&self, next: Option<Instant>) -> Result<(), Error> {
        // A time in the past becomes a nanosecond from now: zero would mean never.
        let left = next.map(|next| next.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1)));
        let left = left.map_or(Ok(Timespec::default()), Timespec::try_from).unwrap_or_default();
        let times = Itimerspec { it_interval: Timespec::default(), it_value: left };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &times)
            .map(drop)
            .map_err(|errno| Error::system("cannot set a timer", errno))
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
