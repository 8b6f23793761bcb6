//! A generation that serves: signals, whoever asks by the control socket, a successor's start, and the end.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use portgrant_protocol::Protocol;
use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

use super::control::{self, Control};
use super::conversation::Item;
use super::drain::{Drain, watch_over};
use super::error::RestartError;
use super::holdings::Holdings;
use super::order::{Order, Upgraded};
use super::predecessor::Draining;
use super::program::Program;
use super::signals::{Asked, UpgradeSignals};
use super::successor::{Progress, Successor};
use crate::adopting::Socket;
use crate::daemon::{Notify, PidFile, Running};
use crate::descriptor;
use crate::failure::Error;
use crate::serving::epoll::Ready;

/// Peers of the control socket that may keep silent. One more, and the one that came first is sent away.
const PEERS: usize = 8;
/// How long the control socket rests when there is no descriptor for another peer.
const PAUSE: Duration = Duration::from_secs(1);

/// What is waited for, by its number in epoll(7).
const SIGNALS: u64 = 0;
const CONTROL: u64 = 1;
const TIMER: u64 = 2;
const PREDECESSOR: u64 = 3;
const CONVERSATION: u64 = 4;
const EXIT: u64 = 5;
const IDLE: u64 = 6;
const FIRST_PEER: u64 = 7;

/// What SIGHUP means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hangup {
    Reloads,
    Upgrades,
}

/// How long what may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) start: Duration,
    pub(super) drain: Duration,
}

/// This process, while it serves. See the [module](super).
///
/// What comes is told by [`Serving::wait`], by `next` (feature `tokio`), or by [`Serving::pending`] in a loop of your own,
/// when this value is readable (its [`AsFd`]). It must be asked for: upgrades happen in there, without a thread.
///
/// Dropped, it ends a successor that is starting: a server that ends must not come back.
#[derive(Debug)]
pub struct Serving {
    number: u64,
    program: Program,
    signals: UpgradeSignals,
    holdings: Option<Holdings>,
    pid_file: Option<PidFile>,
    control: Option<Control>,
    drain: Drain,
    limits: Limits,
    hangup: Hangup,
    manager: Option<Notify>,
    ready: Ready,
    timer: OwnedFd,
    predecessor: Option<Draining>,
    upgrade: Option<Upgrade>,
    peers: BTreeMap<u64, OwnedFd>,
    next_peer: u64,
    control_rests: Option<Instant>,
    /// Until when what is there is finished; nothing new is taken
    end: Option<Instant>,
    #[cfg(feature = "tokio")]
    readiness: Option<tokio::io::unix::AsyncFd<OwnedFd>>,
}

/// A successor that starts, and whoever asked for it by the control socket.
#[derive(Debug)]
struct Upgrade {
    successor: Successor,
    asker: Option<OwnedFd>,
}

/// What a [`Serving`] is made of.
pub(super) struct Parts {
    pub(super) number: u64,
    pub(super) program: Program,
    pub(super) signals: UpgradeSignals,
    pub(super) control: Option<Control>,
    pub(super) drain: Drain,
    pub(super) limits: Limits,
    pub(super) hangup: Hangup,
    pub(super) manager: Option<Notify>,
}

impl Serving {
    /// Everything that can fail for want of descriptors is made before the predecessor is told.
    pub(super) fn new(parts: Parts) -> Result<Serving, Error> {
        let failed = |errno: Errno| Error::system("cannot wait for what comes", errno);
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).map_err(failed)?;
        let mut ready = Ready::new()?;
        ready.add(&timer, TIMER)?;
        ready.add(&parts.signals, SIGNALS)?;
        ready.add(parts.drain.idle(), IDLE)?;
        if let Some(control) = &parts.control {
            ready.add(control, CONTROL)?;
        }
        Ok(Serving {
            number: parts.number,
            program: parts.program,
            signals: parts.signals,
            holdings: None,
            pid_file: None,
            control: parts.control,
            drain: parts.drain,
            limits: parts.limits,
            hangup: parts.hangup,
            manager: parts.manager,
            ready,
            timer,
            predecessor: None,
            upgrade: None,
            peers: BTreeMap::new(),
            next_peer: FIRST_PEER,
            control_rests: None,
            end: None,
            #[cfg(feature = "tokio")]
            readiness: None,
        })
    }

    pub(super) fn take_over(
        &mut self,
        holdings: Holdings,
        pid_file: Option<PidFile>,
        predecessor: Option<Draining>,
    ) -> Result<(), Error> {
        (self.holdings, self.pid_file, self.predecessor) = (Some(holdings), pid_file, predecessor);
        if let Some(control) = &mut self.control {
            control.own();
        }
        if let Some(predecessor) = &self.predecessor {
            self.ready.add(&predecessor.process, PREDECESSOR)?;
        }
        self.arm()
    }

    /// A daemon of the first generation is up.
    pub(super) fn started(&mut self, running: Running) {
        self.pid_file = running.into_pid_file();
    }

    /// Tells the service manager.
    pub(super) fn announce(&self) -> Result<(), Error> {
        let Some(manager) = &self.manager else { return Ok(()) };
        if self.number == 1 {
            return manager.ready();
        }
        // A predecessor that lives does it, and is believed. If it died, the manager may believe this process, an orphan by
        // now; and a manager that cannot be told must not end the only process that serves.
        if self.predecessor.is_none() {
            let _ = manager.main_pid().and_then(|()| manager.ready());
        }
        Ok(())
    }

    /// Which generation this is.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The service manager, where there is one: it was told `READY=1`, and is told of upgrades.
    pub fn manager(&self) -> Option<&Notify> {
        self.manager.as_ref()
    }

    /// What counts the connections.
    pub fn drain(&self) -> Drain {
        self.drain.clone()
    }

    /// Adds a socket while it serves, as [`Generation::listen`](super::Generation::listen) does.
    pub fn listen(&mut self, endpoint: &str) -> Result<Socket, Error> {
        self.holdings()?.listen(endpoint, Protocol::default())
    }

    /// Keeps a copy of `descriptor` for the next generation, as [`Generation::keep`](super::Generation::keep) does.
    pub fn keep(&mut self, name: &str, descriptor: impl AsFd) -> Result<(), Error> {
        self.holdings()?.keep(name, descriptor)
    }

    /// Hands the sockets of that name over no more, and closes the copies that were kept for it.
    pub fn forget(&mut self, name: &str) -> Result<(), Error> {
        self.holdings()?.forget(name);
        Ok(())
    }

    fn holdings(&mut self) -> Result<&mut Holdings, RestartError> {
        self.holdings.as_mut().ok_or(RestartError::Retired)
    }

    /// Waits for what the server is to do next. Meanwhile upgrades are started, watched and decided.
    pub fn wait(&mut self) -> Result<Order, Error> {
        loop {
            if let Some(order) = self.pending()? {
                return Ok(order);
            }
            self.ready.begin(None)?;
        }
    }

    /// The same without waiting.
    pub fn pending(&mut self) -> Result<Option<Order>, Error> {
        loop {
            if let Some(order) = self.signalled()? {
                return Ok(Some(order));
            }
            let Some(number) = self.ready.turn() else {
                if self.ready.begin(Some(Duration::ZERO))? {
                    continue;
                }
                return Ok(None);
            };
            if let Some(order) = self.serve(number)? {
                return Ok(Some(order));
            }
        }
    }

    /// The same, awaited. Dropped before it is ready, it loses nothing (feature `tokio`).
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
    /// Outside of a tokio runtime, or in one without I/O, as everything of tokio's does.
    #[cfg(feature = "tokio")]
    pub async fn next(&mut self) -> Result<Order, Error> {
        loop {
            if let Some(order) = self.pending()? {
                return Ok(order);
            }
            self.readable().await?;
        }
    }

    /// Waits until every [`Token`](super::Token) is gone, until the drain's limit, or for SIGTERM or SIGINT. How many are
    /// left: their connections end with the process. After it, end.
    ///
    /// After SIGQUIT the listening sockets' copies are closed first, and the control socket's file goes. After an
    /// upgrade both are the successor's.
    pub fn finish(mut self) -> Result<usize, Error> {
        self.stop()?;
        while !self.is_finished()? {
            self.ready.begin(None)?;
        }
        Ok(self.drain.left())
    }

    /// The same, awaited (feature `tokio`).
    #[cfg(feature = "tokio")]
    pub async fn finished(mut self) -> Result<usize, Error> {
        self.stop()?;
        while !self.is_finished()? {
            self.readable().await?;
        }
        Ok(self.drain.left())
    }

    /// Starts an upgrade, as SIGUSR2 does. An [`Order`] tells how it went.
    ///
    /// # Errors
    /// [`RestartError::UpgradeUnderWay`], [`RestartError::PredecessorDrains`], [`RestartError::Retired`]: one at a time,
    /// and at most two generations live. [`RestartError::Successor`] where the program cannot be executed.
    pub fn upgrade(&mut self) -> Result<(), Error> {
        match self.refusal() {
            Some(refusal) => Err(refusal),
            None => self.start_successor(),
        }
    }

    #[cfg(feature = "tokio")]
    async fn readable(&mut self) -> Result<(), Error> {
        let failed = |source| Error::system("cannot wait for what comes", source);
        let readiness = match self.readiness.take() {
            Some(readiness) => readiness,
            None => {
                let copy = self.ready.as_fd().try_clone_to_owned().map_err(failed)?;
                descriptor::awaited(copy, tokio::io::Interest::READABLE).map_err(failed)?
            }
        };
        let readiness = self.readiness.insert(readiness);
        let mut readable = readiness.readable().await.map_err(failed)?;
        // Cleared before what is there is looked at: what comes in between wakes it again.
        readable.clear_ready();
        Ok(())
    }

    fn signalled(&mut self) -> Result<Option<Order>, Error> {
        if self.signals.take(Asked::Terminate) {
            self.abandon();
            self.say_stopping();
            return Ok(Some(Order::Terminate));
        }
        if self.signals.take(Asked::Finish) && self.end.is_none() {
            self.stop()?;
            return Ok(Some(Order::Finish));
        }
        if self.signals.take(Asked::Upgrade) {
            return Ok(self.asked_to_upgrade(None));
        }
        Ok(match (self.signals.take(Asked::Hangup), self.hangup) {
            (false, _) => None,
            (true, Hangup::Reloads) => Some(Order::Reload),
            (true, Hangup::Upgrades) => self.asked_to_upgrade(None),
        })
    }

    /// One turn of what is readable.
    fn serve(&mut self, number: u64) -> Result<Option<Order>, Error> {
        match number {
            SIGNALS => self.signals.rest(),
            CONTROL => self.accept()?,
            TIMER => {
                let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                return self.timed_out();
            }
            PREDECESSOR => self.forget_predecessor(),
            CONVERSATION => return self.hear(),
            EXIT => return self.successor_ended(),
            IDLE => drop(rustix::io::read(self.drain.idle(), &mut [0; 8])),
            peer => return Ok(self.heard(peer)),
        }
        Ok(None)
    }

    fn accept(&mut self) -> Result<(), Error> {
        let Some(control) = &self.control else { return Ok(()) };
        match control.accept() {
            Ok(None) => {}
            Ok(Some(peer)) => {
                let number = self.next_peer;
                self.next_peer += 1;
                self.ready.add(&peer, number)?;
                self.peers.insert(number, peer);
                if self.peers.len() > PEERS
                    && let Some((_, silent)) = self.peers.pop_first()
                {
                    self.ready.remove(&silent);
                }
            }
            // Out of descriptors, most likely: it would be readable again at once.
            Err(_) => {
                self.ready.set(control, CONTROL, false)?;
                self.control_rests = Some(Instant::now() + PAUSE);
                self.arm()?;
            }
        }
        Ok(())
    }

    /// A peer says something, or is gone.
    fn heard(&mut self, number: u64) -> Option<Order> {
        let peer = self.peers.remove(&number)?;
        self.ready.remove(&peer);
        match control::asks(&peer) {
            Ok(()) => self.asked_to_upgrade(Some(peer)),
            Err(error) => {
                control::tell(Some(&peer), None, Err(&error.into()));
                None
            }
        }
    }

    /// Whoever asked by the control socket is told of a refusal, and nobody else.
    fn asked_to_upgrade(&mut self, asker: Option<OwnedFd>) -> Option<Order> {
        if let Some(refusal) = self.refusal() {
            control::tell(asker.as_ref(), None, Err(&refusal));
            return asker.is_none().then_some(Order::Failed(refusal));
        }
        match self.start_successor() {
            Ok(()) => {
                if let Some(upgrade) = &mut self.upgrade {
                    upgrade.asker = asker;
                }
                None
            }
            Err(error) => {
                control::tell(asker.as_ref(), self.manager.as_ref(), Err(&error));
                Some(Order::Failed(error))
            }
        }
    }

    /// Why there is no upgrade now.
    fn refusal(&mut self) -> Option<Error> {
        if self.end.is_some() {
            return Some(RestartError::Retired.into());
        }
        if std::process::id() == 1 {
            return Some(RestartError::FirstProcess.into());
        }
        if let Some(Upgrade { successor, .. }) = &self.upgrade {
            let left = successor.deadline().saturating_duration_since(Instant::now());
            return Some(RestartError::UpgradeUnderWay { pid: successor.pid(), left }.into());
        }
        if self.predecessor.as_ref().is_some_and(Draining::has_ended) {
            self.forget_predecessor();
        }
        let draining = self.predecessor.as_ref()?;
        let left = draining.until.saturating_duration_since(Instant::now());
        Some(RestartError::PredecessorDrains { pid: draining.process.pid(), left }.into())
    }

    fn start_successor(&mut self) -> Result<(), Error> {
        let Some(holdings) = &self.holdings else { return Err(RestartError::Retired.into()) };
        let pid_file = self.pid_file.iter().map(|file| (Item::PidFile, file.as_fd()));
        let control = self.control.iter().map(|control| (control.item(), control.as_fd()));
        let items = holdings.items().chain(pid_file).chain(control).collect();
        let successor = Successor::start(&self.program, self.number + 1, items, self.limits.start)?;
        if let Some(manager) = &self.manager {
            // A manager that is not there any more is no reason not to upgrade.
            let _ = manager.reloading();
        }
        let watched = self
            .ready
            .add(successor.conversation(), CONVERSATION)
            .and_then(|()| self.ready.add(successor.exit(), EXIT));
        self.upgrade = Some(Upgrade { successor, asker: None });
        if let Err(error) = watched {
            self.abandon();
            return Err(error);
        }
        self.arm()
    }

    /// The successor says something.
    fn hear(&mut self) -> Result<Option<Order>, Error> {
        let Some(Upgrade { successor, .. }) = &mut self.upgrade else { return Ok(None) };
        match successor.hear(self.limits.drain) {
            Ok(Progress::Waiting) => Ok(None),
            Ok(Progress::HungUp) => {
                self.ready.remove(successor.conversation());
                self.arm()?;
                Ok(None)
            }
            Ok(Progress::Serving) => Ok(self.retire()),
            Err(error) => Ok(self.fail(error)),
        }
    }

    fn successor_ended(&mut self) -> Result<Option<Order>, Error> {
        let Some(Upgrade { successor, .. }) = &mut self.upgrade else { return Ok(None) };
        let Some(ended) = successor.ended() else { return Ok(None) };
        match successor.hear(self.limits.drain) {
            // It ended its starter by itself.
            Ok(Progress::Serving) => Ok(self.retire()),
            // Its own words, if it left some, say more.
            Err(said) => Ok(self.fail(said)),
            Ok(Progress::Waiting | Progress::HungUp) => Ok(self.fail(ended.into())),
        }
    }

    /// The successor does not serve. Everything is as it was before it was started.
    fn fail(&mut self, error: Error) -> Option<Order> {
        let Upgrade { successor, asker } = self.end_upgrade()?;
        successor.end();
        if let Some(pid_file) = &self.pid_file {
            // It may have come as far as to write its own.
            pid_file.rewrite();
        }
        control::tell(asker.as_ref(), self.manager.as_ref(), Err(&error));
        Some(Order::Failed(error))
    }

    /// The successor serves. What it has is its own from now on: the files too.
    fn retire(&mut self) -> Option<Order> {
        let Upgrade { mut successor, asker } = self.end_upgrade()?;
        let upgraded = Upgraded { generation: self.number + 1, pid: successor.pid(), closed: successor.closed() };
        if let Some(pid_file) = self.pid_file.take() {
            pid_file.leave();
        }
        if let Some(control) = self.control.take() {
            self.ready.remove(&control);
            control.leave();
        }
        // Without a thread to watch over it, the successor still does.
        let _ = self.take_nothing_new();
        control::tell(asker.as_ref(), self.manager.as_ref(), Ok(&upgraded));
        Some(Order::Retire(upgraded))
    }

    /// Watches a successor no more. To close what it is watched by would not do: a child that this server forked may have
    /// copies, which would be ready for ever.
    fn end_upgrade(&mut self) -> Option<Upgrade> {
        let upgrade = self.upgrade.take()?;
        self.ready.remove(upgrade.successor.conversation());
        self.ready.remove(upgrade.successor.exit());
        Some(upgrade)
    }

    /// Ends a successor that is starting.
    fn abandon(&mut self) {
        let Some(Upgrade { successor, asker }) = self.end_upgrade() else { return };
        successor.end();
        if let Some(pid_file) = &self.pid_file {
            pid_file.rewrite();
        }
        control::tell(asker.as_ref(), None, Err(&RestartError::Retired.into()));
    }

    fn stop(&mut self) -> Result<(), Error> {
        if self.end.is_some() {
            return Ok(());
        }
        self.abandon();
        if let Some(control) = self.control.take() {
            self.ready.remove(&control);
        }
        self.say_stopping();
        self.take_nothing_new()
    }

    fn take_nothing_new(&mut self) -> Result<(), Error> {
        self.holdings = None;
        for peer in std::mem::take(&mut self.peers).values() {
            self.ready.remove(peer);
        }
        self.end = Some(Instant::now() + self.limits.drain);
        self.drain.begin();
        self.arm()?;
        watch_over(self.limits.drain)
    }

    fn say_stopping(&self) {
        // Of one that was succeeded, the manager wants to know nothing any more.
        if let Some(manager) = self.manager.as_ref().filter(|_| self.end.is_none()) {
            let _ = manager.stopping();
        }
    }

    fn is_finished(&mut self) -> Result<bool, Error> {
        self.ready.begin(Some(Duration::ZERO))?;
        while let Some(number) = self.ready.turn() {
            self.serve(number)?;
        }
        let is_over = self.end.is_none_or(|end| Instant::now() >= end);
        Ok(is_over || self.drain.left() == 0 || self.signals.take(Asked::Terminate))
    }

    fn forget_predecessor(&mut self) {
        if let Some(predecessor) = self.predecessor.take() {
            self.ready.remove(&predecessor.process);
        }
    }

    fn timed_out(&mut self) -> Result<Option<Order>, Error> {
        let now = Instant::now();
        if let Some(predecessor) = &mut self.predecessor {
            predecessor.kill_when_due(now);
        }
        if self.control_rests.is_some_and(|until| now >= until) {
            self.control_rests = None;
            if let Some(control) = &self.control {
                self.ready.set(control, CONTROL, true)?;
            }
        }
        let late = self.upgrade.as_ref().filter(|upgrade| now >= upgrade.successor.deadline());
        let late = late.map(|upgrade| upgrade.successor.late());
        let order = late.and_then(|error| self.fail(error.into()));
        self.arm()?;
        Ok(order)
    }

    /// Sets the timer to the next moment at which something is due.
    fn arm(&self) -> Result<(), Error> {
        let upgrade = self.upgrade.as_ref().map(|upgrade| upgrade.successor.deadline());
        let predecessor = self.predecessor.as_ref().and_then(|predecessor| predecessor.due);
        // Once it is over, only the server can end this process.
        let end = self.end.filter(|end| *end > Instant::now());
        let next = [upgrade, predecessor, self.control_rests, end].into_iter().flatten().min();
        // What is due already is due in a nanosecond: zero would be never.
        let left = next.map(|next| next.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1)));
        let left = left.map_or(Ok(Timespec::default()), Timespec::try_from).unwrap_or_default();
        let times = Itimerspec { it_interval: Timespec::default(), it_value: left };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &times)
            .map(drop)
            .map_err(|errno| Error::system("cannot set a timer", errno))
    }
}

impl AsFd for Serving {
    /// Readable while [`Serving::pending`] may have something to tell.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.abandon();
    }
}
