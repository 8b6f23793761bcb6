//! A generation that starts: what it takes over, what it adds, and when it serves.

use std::fmt;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use portgrant_protocol::Protocol;

use super::control::Control;
use super::conversation::Item;
use super::drain::{Drain, LONGEST};
use super::holdings::{Holdings, Names};
use super::predecessor::{self, Predecessor};
use super::program::Program;
use super::serving::{Hangup, Limits, Prepared, Serving, Settings};
use super::signals::UpgradeSignals;
use crate::adopting::socket_file::Identity;
use crate::adopting::{Socket, Sockets};
use crate::daemon::{Daemon, Notify, PidFile, Starting};
use crate::failure::Error;

/// This process while it starts: the first generation of its server, or one that a predecessor started as its
/// successor. See the [module](super).
///
/// If a successor is dropped or ends before [`Generation::ready`], the predecessor continues to serve.
#[derive(Debug)]
#[must_use = "it does not serve before it is ready"]
pub struct Generation {
    number: u64,
    program: Program,
    predecessor: Option<Predecessor>,
    holdings: Holdings,
    handed_pid_file: Option<OwnedFd>,
    handed_control: Option<(Identity, OwnedFd)>,
    signals: Option<UpgradeSignals>,
    starting: Option<Starting>,
    pid_file: Option<PidFile>,
    control: Option<Control>,
    drain: Drain,
    limits: Limits,
    hangup: Hangup,
}

impl Generation {
    /// Finds out which generation this process is, and adopts its sockets: from a predecessor, or for the first
    /// generation from [`Sockets::inherited`]. Call it once, first in `main` and before any thread.
    ///
    /// In a process that a predecessor started, this starts the program once more as the successor, and returns only
    /// there. See [What runs twice](super#what-runs-twice).
    ///
    /// # Errors
    /// [`NotPredecessor`] if `PORTGRANT_PREDECESSOR` is set but not meant for this process; [`PredecessorGone`] if the
    /// predecessor ended during the handover; those of [`Sockets::inherited`].
    ///
    /// [`NotPredecessor`]: crate::error::RestartError::NotPredecessor
    /// [`PredecessorGone`]: crate::error::RestartError::PredecessorGone
    pub fn begin() -> Result<Generation, Error> {
        let program = Program::of_this_process();
        let mut generation = Generation {
            number: 1,
            program,
            predecessor: None,
            holdings: Holdings::new(Sockets::default(), Names::Bind, Vec::new()),
            handed_pid_file: None,
            handed_control: None,
            signals: None,
            starting: None,
            pid_file: None,
            control: None,
            drain: Drain::new()?,
            limits: Limits { start: Duration::from_secs(30), drain: Duration::from_secs(30) },
            hangup: Hangup::Reloads,
        };
        match predecessor::meet(&generation.program)? {
            Some((predecessor, handed)) => {
                generation.predecessor = Some(predecessor);
                // A signal may be sent to this process by its name already, and an uncaught SIGUSR2 would end it.
                generation.signals = Some(UpgradeSignals::catch()?);
                generation.number = handed.generation;
                generation.adopt(handed.items);
            }
            None => generation.holdings.handed = Sockets::inherited()?.unwrap_or_default(),
        }
        Ok(generation)
    }

    fn adopt(&mut self, items: Vec<(Item, OwnedFd)>) {
        let (mut sockets, mut states) = (Vec::new(), Vec::new());
        for (item, descriptor) in items {
            match item {
                Item::Socket(name) => sockets.push(Socket::new(name, descriptor)),
                Item::State(name) => states.push((name, descriptor)),
                Item::PidFile => self.handed_pid_file = Some(descriptor),
                Item::Control(file) => self.handed_control = Some((file, descriptor)),
                // It was taken when it was received.
                Item::Predecessor => {}
            }
        }
        self.holdings = Holdings::new(sockets.into_iter().collect(), Names::Describe, states);
    }

    /// Its number: 1 for the first generation, and one more for each successor.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The pid of the process that started this one as its successor.
    pub fn predecessor(&self) -> Option<u32> {
        self.predecessor.as_ref().map(Predecessor::pid)
    }

    /// How long a successor may take to become ready. The default is 30 seconds. After that time it is ended, and this
    /// process continues to serve.
    pub fn start_limit(mut self, limit: Duration) -> Generation {
        self.limits.start = limit.min(LONGEST);
        self
    }

    /// How long this process may take to finish its connections, once a successor serves or it is to end gracefully.
    /// The default is 30 seconds. One second later it is killed.
    pub fn drain_limit(mut self, limit: Duration) -> Generation {
        self.limits.drain = limit.min(LONGEST);
        self
    }

    /// Lets SIGHUP start an upgrade, like SIGUSR2: for a server that reads its configuration only when it starts.
    pub fn upgrade_on_hangup(mut self) -> Generation {
        self.hangup = Hangup::Upgrades;
        self
    }

    /// Uses the helper at `path` instead of the one that [`helper::locate`](crate::helper::locate) finds.
    pub fn helper(mut self, path: impl Into<PathBuf>) -> Generation {
        self.holdings.ask_helper(path.into());
        self
    }

    /// Becomes a daemon. The first generation goes into the background, like [`Daemon::start`], and its starter waits
    /// for [`Generation::ready`]. A successor only sets the pid file, the working folder and the umask.
    pub fn daemon(&mut self, daemon: Daemon) -> Result<(), Error> {
        if self.predecessor.is_none() {
            self.starting = Some(daemon.start()?);
        } else {
            self.pid_file = daemon.go_on(self.handed_pid_file.as_ref().map(AsFd::as_fd))?;
        }
        Ok(())
    }

    /// Uses a pid file, for a server that stays in the foreground. The file is locked from now on (the lock passes from
    /// generation to generation), and contains the pid of this process from [`Generation::ready`] on.
    pub fn pid_file(&mut self, path: impl AsRef<Path>) -> Result<(), Error> {
        let handed = self.handed_pid_file.as_ref().map(AsFd::as_fd);
        self.pid_file = Some(PidFile::adopt_or_lock(path.as_ref(), handed)?);
        Ok(())
    }

    /// Creates a socket file by which [`ask`](super::ask) asks for an upgrade and receives the result. It has mode
    /// 0600, and only this user and root are accepted. It passes from generation to generation. A relative path starts
    /// at the folder in which the program was started, whatever the working folder is now.
    pub fn control(&mut self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = self.program.absolute(path.as_ref());
        self.control = Some(Control::at(&path, self.handed_control.take())?);
        Ok(())
    }

    /// Returns the socket for `endpoint`, like [`Server::listen`](crate::Server::listen): handed over, bound, or
    /// requested from the helper. The next generation receives a copy.
    ///
    /// A socket that a predecessor handed over is found by its address. Unlike for the first generation, another socket
    /// of the same name is not an error: the configuration may have changed.
    ///
    /// Copies share their flags: if one generation makes a socket non-blocking, it is non-blocking for the other as
    /// well. [`Listeners`](crate::Listeners) works with both.
    pub fn listen(&mut self, endpoint: &str) -> Result<Socket, Error> {
        self.holdings.listen(endpoint, Protocol::default())
    }

    /// The same, as a listener of the standard library.
    pub fn tcp(&mut self, endpoint: &str) -> Result<TcpListener, Error> {
        self.listen(endpoint)?.into_tcp()
    }

    /// The same, as a udp socket of the standard library. `53` means `53/udp` here.
    pub fn udp(&mut self, endpoint: &str) -> Result<UdpSocket, Error> {
        self.holdings.listen(endpoint, Protocol::Udp)?.into_udp()
    }

    /// Returns a SO_REUSEPORT group, like [`Server::group`](crate::Server::group): one socket for each of `workers`,
    /// **but at least as many as the predecessor had**. If a socket of a group is closed, the connections in its queue
    /// are reset, so none is closed. If there are fewer workers than sockets, a worker serves several
    /// ([`Listeners`](crate::Listeners)).
    pub fn group(&mut self, endpoint: &str, workers: usize) -> Result<Vec<Socket>, Error> {
        self.holdings.group(endpoint, workers)
    }

    /// The sockets that were handed over and not used yet, to take by name: the sockets of an `each`, or of a kind that
    /// no endpoint describes. [`Generation::keep_socket`] passes them on.
    pub fn handed(&mut self) -> &mut Sockets {
        &mut self.holdings.handed
    }

    /// Keeps a copy of `socket` for the next generation as `name`.
    pub fn keep_socket(&mut self, name: &str, socket: impl AsFd) -> Result<(), Error> {
        self.holdings.keep_socket(name, socket)
    }

    /// Keeps a copy of `descriptor` for the next generation, which takes it by [`Generation::state`]: for instance a
    /// memfd with data. It replaces what was kept as `name`.
    pub fn keep(&mut self, name: &str, descriptor: impl AsFd) -> Result<(), Error> {
        self.holdings.keep(name, descriptor)
    }

    /// Takes what the predecessor kept as `name`.
    pub fn state(&mut self, name: &str) -> Option<OwnedFd> {
        self.holdings.state(name)
    }

    /// Counts the connections.
    pub fn drain(&self) -> Drain {
        self.drain.clone()
    }

    /// Reports that this generation could serve. Sockets that were handed over and not taken are closed. A successor
    /// waits for the permission of its predecessor. Then the pid file is written, and the service manager and the
    /// starter of a daemon are notified. **Accept when this returns.**
    ///
    /// If the predecessor died meanwhile, for whatever reason, this process serves anyway.
    ///
    /// # Errors
    /// Exit after an error: the predecessor continues to serve.
    pub fn ready(mut self) -> Result<Serving, Error> {
        let signals = match self.signals.take() {
            Some(signals) => signals,
            None => UpgradeSignals::catch()?,
        };
        let manager = Notify::from_environment()?;
        let settings = Settings {
            number: self.number,
            program: self.program,
            drain: self.drain,
            limits: self.limits,
            hangup: self.hangup,
            manager,
        };
        let prepared = Prepared::new(settings, signals, self.control)?;
        let closed = self.holdings.close_unused();
        let drain = self.predecessor.as_ref().map(|predecessor| predecessor.ready(&closed)).transpose()?.flatten();
        let pid_file = self.pid_file.map(PidFile::write).transpose()?;
        let draining = self.predecessor.as_mut().and_then(|predecessor| predecessor.draining(drain));
        let mut serving = prepared.serve(self.holdings, pid_file, draining)?;
        match (self.predecessor, self.starting) {
            // The last step that may fail: the predecessor stops because of it. No later failure may leave the service
            // without a process.
            (Some(predecessor), _) => predecessor.serving()?,
            (None, Some(starting)) => serving.started(starting.ready()?),
            (None, None) => {}
        }
        serving.announce()?;
        Ok(serving)
    }

    /// Reports that this generation cannot serve and will exit with `status`. The predecessor learns the reason, and
    /// passes it to the one who asked for the upgrade. The starter of a daemon learns the status.
    pub fn fail(self, status: u8, why: impl fmt::Display) -> ExitCode {
        if let Some(predecessor) = self.predecessor {
            predecessor.failed(&why.to_string());
        }
        match self.starting {
            Some(starting) => starting.fail(status),
            None => ExitCode::from(status.max(1)),
        }
    }
}
