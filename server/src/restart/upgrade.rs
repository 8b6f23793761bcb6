//! An upgrade, from its start to its result, in the generation that serves.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use super::control::tell;
use super::conversation::Item;
use super::error::RestartError;
use super::events::Event;
use super::order::{Order, Upgraded};
use super::serving::{Serving, Settings};
use super::state::{Held, Other, Upgrade};
use super::successor::{Progress, Successor};
use crate::failure::Error;

impl Serving {
    /// Starts an upgrade, like SIGUSR2. An [`Order`] reports the result.
    ///
    /// # Errors
    /// [`RestartError::UpgradeUnderWay`], [`RestartError::PredecessorDrains`], [`RestartError::Retired`] and
    /// [`RestartError::FirstProcess`]: there is one upgrade at a time, and two generations at most.
    /// [`RestartError::Successor`] if the program cannot be executed.
    pub fn upgrade(&mut self) -> Result<(), Error> {
        match self.refusal() {
            Some(refusal) => Err(refusal.into()),
            None => self.start_successor(),
        }
    }

    /// A refusal is reported to the peer that asked, or else to the server.
    pub(super) fn asked_to_upgrade(&mut self, asker: Option<OwnedFd>) -> Option<Order> {
        if let Some(refusal) = self.refusal() {
            let refusal = Error::from(refusal);
            tell(asker.as_ref(), None, Err(&refusal));
            return asker.is_none().then_some(Order::Failed(refusal));
        }
        match self.start_successor() {
            Ok(()) => {
                if let Some(upgrade) = self.state.upgrade() {
                    upgrade.asker = asker;
                }
                None
            }
            Err(error) => {
                tell(asker.as_ref(), self.settings.manager.as_ref(), Err(&error));
                Some(Order::Failed(error))
            }
        }
    }

    /// Why no successor can be started now.
    fn refusal(&mut self) -> Option<RestartError> {
        if self.state.predecessor().is_some_and(|predecessor| predecessor.process.has_ended()) {
            self.forget_predecessor();
        }
        self.state.refusal()
    }

    fn start_successor(&mut self) -> Result<(), Error> {
        let Settings { program, number, limits, manager, .. } = &self.settings;
        let held = self.state.held().ok_or(RestartError::Retired)?;
        let pid_file = held.pid_file.iter().map(|file| (Item::PidFile, file.as_fd()));
        let control = held.peers.control().map(|control| (control.item(), control.as_fd()));
        let items = held.holdings.items().chain(pid_file).chain(control).collect();
        let successor = Successor::start(program, number + 1, items, limits.start)?;
        if let Some(manager) = manager {
            // If the manager cannot be notified, upgrade anyway.
            let _ = manager.reloading();
        }
        let spoke = self.events.watch(successor.conversation(), Event::SuccessorSpoke);
        let watched = spoke.and_then(|()| self.events.watch(successor.starter(), Event::StarterEnded));
        held.other = Other::Successor(Upgrade { successor, asker: None });
        watched.and_then(|()| self.wake_when_due()).inspect_err(|_| self.abandon())
    }

    /// The successor sent something.
    pub(super) fn receive(&mut self) -> Result<Option<Order>, Error> {
        let drain = self.settings.limits.drain;
        let Some(Upgrade { successor, .. }) = self.state.upgrade() else { return Ok(None) };
        match successor.receive(drain) {
            Ok(Progress::Waiting) => Ok(None),
            Ok(Progress::HungUp) => {
                self.events.forget(successor.conversation());
                self.wake_when_due()?;
                Ok(None)
            }
            Ok(Progress::Serving) => Ok(self.retire()),
            Err(error) => Ok(self.fail(error)),
        }
    }

    /// The starter has ended, and so has the successor, unless it serves.
    pub(super) fn starter_ended(&mut self) -> Option<Order> {
        let drain = self.settings.limits.drain;
        let Upgrade { successor, .. } = self.state.upgrade()?;
        let ended = successor.ended()?;
        match successor.receive(drain) {
            // The successor ended the starter.
            Ok(Progress::Serving) => self.retire(),
            // The successor's own message says more, if there is one.
            Err(error) => self.fail(error),
            Ok(Progress::Waiting | Progress::HungUp) => self.fail(ended.into()),
        }
    }

    pub(super) fn end_late_successor(&mut self, now: Instant) -> Option<Order> {
        let Upgrade { successor, .. } = self.state.upgrade()?;
        let late = (now >= successor.deadline()).then(|| successor.late())?;
        self.fail(late.into())
    }

    /// The successor does not serve. Everything is as it was before it was started.
    fn fail(&mut self, error: Error) -> Option<Order> {
        let asker = self.end_successor()?;
        tell(asker.as_ref(), self.settings.manager.as_ref(), Err(&error));
        Some(Order::Failed(error))
    }

    /// Ends a successor that is starting, since this process is ending.
    pub(super) fn abandon(&mut self) {
        if let Some(asker) = self.end_successor() {
            tell(asker.as_ref(), None, Err(&RestartError::Retired.into()));
        }
    }

    /// Stops watching the successor. Closing the watched descriptors is not enough: a forked child may have copies,
    /// which would stay ready.
    fn take_upgrade(&mut self) -> Option<Upgrade> {
        let upgrade = self.state.take_upgrade()?;
        self.events.forget(upgrade.successor.conversation());
        self.events.forget(upgrade.successor.starter());
        Some(upgrade)
    }

    /// Ends a successor that is starting. Returns the peer that asked for it.
    fn end_successor(&mut self) -> Option<Option<OwnedFd>> {
        let Upgrade { successor, asker } = self.take_upgrade()?;
        successor.end();
        if let Some(Held { pid_file: Some(pid_file), .. }) = self.state.held() {
            // The successor may have written its own pid.
            pid_file.rewrite();
        }
        Some(asker)
    }

    /// The successor serves. From now on it owns the sockets and the files.
    fn retire(&mut self) -> Option<Order> {
        let Upgrade { mut successor, asker } = self.take_upgrade()?;
        let generation = self.settings.number + 1;
        let upgraded = Upgraded { generation, pid: successor.pid(), closed: successor.closed() };
        // If no thread can limit the time of this process, the successor does.
        let (held, _) = self.stop_accepting();
        if let Some(Held { pid_file, peers, .. }) = held {
            if let Some(pid_file) = pid_file {
                pid_file.leave();
            }
            peers.leave(&mut self.events);
        }
        tell(asker.as_ref(), self.settings.manager.as_ref(), Ok(&upgraded));
        Some(Order::Retire(upgraded))
    }
}
