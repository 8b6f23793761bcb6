//! The state of a generation, and the other generation, if there is one.

use std::os::fd::OwnedFd;
use std::time::Instant;

use super::control::Peers;
use super::error::RestartError;
use super::holdings::Holdings;
use super::predecessor::Draining;
use super::successor::Successor;
use crate::daemon::PidFile;

/// ```text
/// Serving, after its predecessor ──(that ends)──→ Serving, alone ──(a successor starts)──→ Serving, before its successor
///            │                                      │    ↑  └──(the successor fails)──────────┘  │
///            └──────(SIGQUIT)───→ Finishing ←───────┴────────────────(the successor serves)──────┘
/// ```
#[derive(Debug)]
pub(super) enum State {
    /// It serves
    Serving(Box<Held>),
    /// It accepts nothing new, and finishes its connections
    Finishing {
        /// The time limit
        until: Instant,
        /// The predecessor, which may still finish its own connections
        predecessor: Option<Draining>,
    },
}

/// What a generation has only while it serves.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) holdings: Holdings,
    pub(super) pid_file: Option<PidFile>,
    pub(super) peers: Peers,
    pub(super) other: Other,
}

/// The other generation. There is at most one.
#[derive(Debug)]
pub(super) enum Other {
    Nobody,
    /// It finishes its connections
    Predecessor(Draining),
    /// It starts
    Successor(Upgrade),
}

/// A successor that starts, and the peer that asked for it by the control socket.
#[derive(Debug)]
pub(super) struct Upgrade {
    pub(super) successor: Successor,
    pub(super) asker: Option<OwnedFd>,
}

impl State {
    /// What it has while it serves.
    pub(super) fn held(&mut self) -> Option<&mut Held> {
        match self {
            State::Serving(held) => Some(held),
            State::Finishing { .. } => None,
        }
    }

    pub(super) fn holdings(&mut self) -> Result<&mut Holdings, RestartError> {
        self.held().map(|held| &mut held.holdings).ok_or(RestartError::Retired)
    }

    /// Why no successor can be started now.
    pub(super) fn refusal(&self) -> Option<RestartError> {
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        match self {
            State::Finishing { .. } => Some(RestartError::Retired),
            State::Serving(_) if std::process::id() == 1 => Some(RestartError::FirstProcess),
            State::Serving(held) => match &held.other {
                Other::Nobody => None,
                Other::Predecessor(draining) => {
                    Some(RestartError::PredecessorDrains { pid: draining.process.pid(), left: left(draining.until) })
                }
                Other::Successor(Upgrade { successor, .. }) => {
                    Some(RestartError::UpgradeUnderWay { pid: successor.pid(), left: left(successor.deadline()) })
                }
            },
        }
    }

    pub(super) fn predecessor(&mut self) -> Option<&mut Draining> {
        match self {
            State::Serving(held) => match &mut held.other {
                Other::Predecessor(draining) => Some(draining),
                Other::Nobody | Other::Successor(_) => None,
            },
            State::Finishing { predecessor, .. } => predecessor.as_mut(),
        }
    }

    pub(super) fn take_predecessor(&mut self) -> Option<Draining> {
        match self {
            State::Serving(held) => match std::mem::replace(&mut held.other, Other::Nobody) {
                Other::Predecessor(draining) => Some(draining),
                kept @ (Other::Nobody | Other::Successor(_)) => {
                    held.other = kept;
                    None
                }
            },
            State::Finishing { predecessor, .. } => predecessor.take(),
        }
    }

    pub(super) fn upgrade(&mut self) -> Option<&mut Upgrade> {
        match &mut self.held()?.other {
            Other::Successor(upgrade) => Some(upgrade),
            Other::Nobody | Other::Predecessor(_) => None,
        }
    }

    pub(super) fn take_upgrade(&mut self) -> Option<Upgrade> {
        let other = &mut self.held()?.other;
        match std::mem::replace(other, Other::Nobody) {
            Other::Successor(upgrade) => Some(upgrade),
            kept @ (Other::Nobody | Other::Predecessor(_)) => {
                *other = kept;
                None
            }
        }
    }

    /// Changes from serving to finishing. Returns what it held; `None` if it was finishing already.
    pub(super) fn finish(&mut self, until: Instant) -> Option<Held> {
        self.held()?;
        let predecessor = self.take_predecessor();
        match std::mem::replace(self, State::Finishing { until, predecessor }) {
            State::Serving(held) => Some(*held),
            State::Finishing { .. } => None,
        }
    }

    /// The next time at which something must be done.
    pub(super) fn due(&mut self) -> Option<Instant> {
        let predecessor = self.predecessor().and_then(|predecessor| predecessor.due);
        let successor = self.upgrade().map(|upgrade| upgrade.successor.deadline());
        let own = match self {
            State::Serving(held) => held.peers.due(),
            // After the limit there is no further timer: only the server can end this process.
            State::Finishing { until, .. } => Some(*until).filter(|until| *until > Instant::now()),
        };
        [predecessor, successor, own].into_iter().flatten().min()
    }
}
