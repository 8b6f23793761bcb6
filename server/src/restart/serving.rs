//! A generation that serves until it finishes.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use portgrant_protocol::Protocol;

use super::control::{Control, Peers};
use super::drain::{Drain, watch_over};
use super::events::{Event, Events};
use super::holdings::Holdings;
use super::order::Order;
use super::predecessor::Draining;
use super::program::Program;
use super::signals::{Asked, UpgradeSignals};
use super::state::{Held, Other, State};
use crate::adopting::Socket;
use crate::daemon::{Notify, PidFile, Running};
use crate::failure::Error;

/// What SIGHUP means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hangup {
    Reloads,
    Upgrades,
}

/// Time limits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) start: Duration,
    pub(super) drain: Duration,
}

/// What was decided before this generation serves.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) number: u64,
    pub(super) program: Program,
    pub(super) drain: Drain,
    pub(super) limits: Limits,
    pub(super) hangup: Hangup,
    pub(super) manager: Option<Notify>,
}

/// A generation that could serve. Everything that needs a descriptor exists.
pub(super) struct Prepared {
    settings: Settings,
    events: Events,
    control: Option<Control>,
}

impl Prepared {
    pub(super) fn new(
        settings: Settings,
        signals: UpgradeSignals,
        control: Option<Control>,
    ) -> Result<Prepared, Error> {
        let mut events = Events::new(signals)?;
        events.watch(settings.drain.idle(), Event::Idle)?;
        if let Some(control) = &control {
            events.watch(control, Event::Connect)?;
        }
        Ok(Prepared { settings, events, control })
    }

    /// Serves. From now on this process removes the pid file and the control socket's file.
    pub(super) fn serve(
        mut self,
        holdings: Holdings,
        pid_file: Option<PidFile>,
        predecessor: Option<Draining>,
    ) -> Result<Serving, Error> {
        if let Some(control) = &mut self.control {
            control.own();
        }
        if let Some(predecessor) = &predecessor {
            self.events.watch(&predecessor.process, Event::PredecessorEnded)?;
        }
        let other = predecessor.map_or(Other::Nobody, Other::Predecessor);
        let held = Held { holdings, pid_file, peers: Peers::of(self.control), other };
        let state = State::Serving(Box::new(held));
        let mut serving = Serving { settings: self.settings, events: self.events, state };
        serving.wake_when_due()?;
        Ok(serving)
    }
}

/// This process while it serves. See the [module](super).
///
/// [`Serving::wait`] returns what the server is to do next. So do `next` (feature `tokio`), and [`Serving::pending`] in
/// your own loop when this value is readable (its [`AsFd`]). Call one of them all the time: upgrades happen inside,
/// without a thread.
///
/// If it is dropped, a successor that is starting is ended, so that a server that was stopped does not come back.
#[derive(Debug)]
pub struct Serving {
    pub(super) settings: Settings,
    pub(super) events: Events,
    pub(super) state: State,
}

impl Serving {
    /// The daemon of the first generation is ready.
    pub(super) fn started(&mut self, running: Running) {
        if let Some(held) = self.state.held() {
            held.pid_file = running.into_pid_file();
        }
    }

    /// Notifies the service manager.
    pub(super) fn announce(&mut self) -> Result<(), Error> {
        let Some(manager) = &self.settings.manager else { return Ok(()) };
        if self.settings.number == 1 {
            return manager.ready();
        }
        // A predecessor that is alive does this, and the manager accepts it. If it died, the manager may accept this
        // process, which is an orphan by now. If the manager cannot be notified, the only process that serves must go
        // on.
        if self.state.predecessor().is_none() {
            let _ = manager.main_pid().and_then(|()| manager.ready());
        }
        Ok(())
    }

    /// The number of this generation.
    pub fn number(&self) -> u64 {
        self.settings.number
    }

    /// The service manager, if there is one. It has received `READY=1`, and is notified of upgrades.
    pub fn manager(&self) -> Option<&Notify> {
        self.settings.manager.as_ref()
    }

    /// Counts the connections.
    pub fn drain(&self) -> Drain {
        self.settings.drain.clone()
    }

    /// Adds a socket, like [`Generation::listen`](super::Generation::listen).
    pub fn listen(&mut self, endpoint: &str) -> Result<Socket, Error> {
        self.state.holdings()?.listen(endpoint, Protocol::default())
    }

    /// Keeps a copy of `descriptor` for the next generation, like [`Generation::keep`](super::Generation::keep).
    pub fn keep(&mut self, name: &str, descriptor: impl AsFd) -> Result<(), Error> {
        self.state.holdings()?.keep(name, descriptor)
    }

    /// Closes the copies of the sockets with that name. The next generation does not receive them.
    pub fn forget(&mut self, name: &str) -> Result<(), Error> {
        self.state.holdings()?.forget(name);
        Ok(())
    }

    /// Waits for what the server is to do next. Upgrades happen meanwhile.
    pub fn wait(&mut self) -> Result<Order, Error> {
        loop {
            if let Some(order) = self.pending()? {
                return Ok(order);
            }
            self.events.begin(None)?;
        }
    }

    /// The same, without waiting.
    pub fn pending(&mut self) -> Result<Option<Order>, Error> {
        loop {
            if let Some(order) = self.signalled()? {
                return Ok(Some(order));
            }
            let Some(event) = self.events.next() else {
                if self.events.begin(Some(Duration::ZERO))? {
                    continue;
                }
                return Ok(None);
            };
            if let Some(order) = self.serve(event)? {
                return Ok(Some(order));
            }
        }
    }

    /// The same, awaited. Nothing is lost if the future is dropped (feature `tokio`).
    ///
    /// ```
    /// use portgrant_server::restart::{Generation, Order};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let generation = Generation::begin()?;
    /// let token = generation.drain().token();
    /// let mut serving = generation.ready()?;
    /// let connection = tokio::spawn(async move {
    ///     tokio::select! {
    ///         () = token.stopping() => "the last answer",
    ///         // request = stream.next() => …
    ///     }
    /// });
    /// # rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::QUIT)?;
    /// tokio::select! {
    ///     order = serving.next() => assert!(matches!(order?, Order::Finish)),
    ///     // event = listeners.event() => …
    /// }
    /// assert_eq!(serving.finished().await?, 0);
    /// assert_eq!(connection.await?, "the last answer");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// Outside of a tokio runtime, or in a runtime without I/O.
    #[cfg(feature = "tokio")]
    pub async fn next(&mut self) -> Result<Order, Error> {
        loop {
            if let Some(order) = self.pending()? {
                return Ok(order);
            }
            self.events.readable().await?;
        }
    }

    /// Waits until every [`Token`](super::Token) is dropped, until the limit of the drain, or for SIGTERM or SIGINT.
    /// Returns how many are left; their connections end with the process. Exit afterwards.
    ///
    /// After SIGQUIT it first closes the copies of the listening sockets, and removes the control socket's file. After
    /// an upgrade both belong to the successor.
    pub fn finish(mut self) -> Result<usize, Error> {
        self.stop()?;
        while !self.is_finished()? {
            self.events.begin(None)?;
        }
        Ok(self.settings.drain.left())
    }

    /// The same, awaited (feature `tokio`).
    #[cfg(feature = "tokio")]
    pub async fn finished(mut self) -> Result<usize, Error> {
        self.stop()?;
        while !self.is_finished()? {
            self.events.readable().await?;
        }
        Ok(self.settings.drain.left())
    }

    fn signalled(&mut self) -> Result<Option<Order>, Error> {
        if self.events.take(Asked::Terminate) {
            self.abandon();
            self.say_stopping();
            return Ok(Some(Order::Terminate));
        }
        if self.events.take(Asked::Finish) && matches!(self.state, State::Serving(_)) {
            self.stop()?;
            return Ok(Some(Order::Finish));
        }
        if self.events.take(Asked::Upgrade) {
            return Ok(self.asked_to_upgrade(None));
        }
        Ok(match (self.events.take(Asked::Hangup), self.settings.hangup) {
            (false, _) => None,
            (true, Hangup::Reloads) => Some(Order::Reload),
            (true, Hangup::Upgrades) => self.asked_to_upgrade(None),
        })
    }

    fn serve(&mut self, event: Event) -> Result<Option<Order>, Error> {
        match event {
            Event::Signal => Ok(None),
            Event::Timer => self.timed_out(),
            Event::Idle => {
                let _ = rustix::io::read(self.settings.drain.idle(), &mut [0; 8]);
                Ok(None)
            }
            Event::PredecessorEnded => {
                self.forget_predecessor();
                Ok(None)
            }
            Event::SuccessorSpoke => self.receive(),
            Event::StarterEnded => Ok(self.starter_ended()),
            Event::Connect => {
                if let Some(held) = self.state.held() {
                    held.peers.accept(&mut self.events)?;
                }
                self.wake_when_due()?;
                Ok(None)
            }
            Event::PeerSpoke(peer) => {
                let asker = self.state.held().and_then(|held| held.peers.read_request(peer, &mut self.events));
                Ok(asker.and_then(|asker| self.asked_to_upgrade(Some(asker))))
            }
        }
    }

    pub(super) fn forget_predecessor(&mut self) {
        if let Some(draining) = self.state.take_predecessor() {
            self.events.forget(&draining.process);
        }
    }

    fn stop(&mut self) -> Result<(), Error> {
        self.abandon();
        self.say_stopping();
        let (held, finishing) = self.stop_accepting();
        if let Some(held) = held {
            held.peers.close(&mut self.events);
        }
        finishing
    }

    /// From serving to finishing. Returns what it held, and whether the time limit could be set.
    pub(super) fn stop_accepting(&mut self) -> (Option<Held>, Result<(), Error>) {
        let limit = self.settings.limits.drain;
        let Some(held) = self.state.finish(Instant::now() + limit) else { return (None, Ok(())) };
        self.settings.drain.begin();
        (Some(held), self.wake_when_due().and_then(|()| watch_over(limit)))
    }

    fn say_stopping(&self) {
        // After an upgrade the manager watches the successor.
        if let (State::Serving(_), Some(manager)) = (&self.state, &self.settings.manager) {
            let _ = manager.stopping();
        }
    }

    fn is_finished(&mut self) -> Result<bool, Error> {
        self.events.begin(Some(Duration::ZERO))?;
        while let Some(event) = self.events.next() {
            self.serve(event)?;
        }
        let is_over = match self.state {
            State::Finishing { until, .. } => Instant::now() >= until,
            State::Serving(_) => true,
        };
        Ok(is_over || self.settings.drain.left() == 0 || self.events.take(Asked::Terminate))
    }

    fn timed_out(&mut self) -> Result<Option<Order>, Error> {
        let now = Instant::now();
        if let Some(predecessor) = self.state.predecessor() {
            predecessor.kill_when_due(now);
        }
        if let Some(held) = self.state.held() {
            held.peers.resume(now, &mut self.events)?;
        }
        let order = self.end_late_successor(now);
        self.wake_when_due()?;
        Ok(order)
    }

    /// Sets the timer to the next time at which something must be done.
    pub(super) fn wake_when_due(&mut self) -> Result<(), Error> {
        self.events.wake_at(self.state.due())
    }
}

impl AsFd for Serving {
    /// Readable while [`Serving::pending`] may return something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.abandon();
    }
}
