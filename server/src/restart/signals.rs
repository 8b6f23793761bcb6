//! The signals that control a generation.

use std::os::fd::{AsFd, BorrowedFd};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR2};

use crate::daemon::Caught;
use crate::failure::Error;

/// What a signal asks for; the index in [`GROUPS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// End
    Terminate,
    /// Finish the connections, and end
    Finish,
    /// Start a successor
    Upgrade,
    /// SIGHUP, whose meaning the server chooses
    Hangup,
}

const GROUPS: [&[i32]; 4] = [&[SIGTERM, SIGINT], &[SIGQUIT], &[SIGUSR2], &[SIGHUP]];

/// The caught signals. Readable (its [`AsFd`]) after one of them.
#[derive(Debug)]
pub(super) struct UpgradeSignals(Caught<4>);

impl UpgradeSignals {
    /// Catches them from now on, until the process ends.
    pub(super) fn catch() -> Result<UpgradeSignals, Error> {
        let caught = Caught::catch(GROUPS);
        caught.map(UpgradeSignals).map_err(|source| Error::system("cannot catch signals", source))
    }

    /// Makes it unreadable. Call it before [`UpgradeSignals::take`]: a signal in between makes it readable again.
    pub(super) fn rest(&self) {
        self.0.rest();
    }

    /// Whether a signal that asks for this came and was not taken yet.
    pub(super) fn take(&self, asked: Asked) -> bool {
        self.0.take(asked as usize)
    }
}

impl AsFd for UpgradeSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
