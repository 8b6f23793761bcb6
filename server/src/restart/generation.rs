//! A generation that starts: what it takes over, what it adds, and the moment from which it serves.

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

/// This process, while it starts: the first generation of its server, or one that a predecessor started to take its
/// place. See the [module](super).
///
/// A successor that is dropped, or whose process ends, before [`Generation::ready`] leaves the predecessor serving.
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
    /// Finds out which generation this is, and adopts what was handed over: by a predecessor, or by whoever started the
    /// first one ([`Sockets::inherited`]). Call it once, first thing in `main` and before any thread.
    ///
    /// In a process that a predecessor started this starts the program once more, which is the successor, and returns only
    /// there. See [What runs twice](super#what-runs-twice).
    ///
    /// # Errors
    /// [`NotPredecessor`] where `PORTGRANT_PREDECESSOR` is set and is not meant for this process; [`PredecessorGone`]
    /// where it ended before it handed over everything; those of [`Sockets::inherited`].
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
                // Somebody may mean this process by its name already, and SIGUSR2 ends whoever does not catch it.
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
                // Its receiver took it.
                Item::Predecessor => {}
            }
        }
        self.holdings = Holdings::new(sockets.into_iter().collect(), Names::Describe, states);
    }

    /// Its number: 1 for the first, and one more for each that took over.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The process that started this one to take its place.
    pub fn predecessor(&self) -> Option<u32> {
        self.predecessor.as_ref().map(Predecessor::pid)
    }

    /// How long a successor may take to become ready, instead of 30 seconds. Then it is ended, and this process serves
    /// on.
    pub fn start_limit(mut self, limit: Duration) -> Generation {
        self.limits.start = limit.min(LONGEST);
        self
    }

    /// How long this process may take to finish what it has, instead of 30 seconds, once a successor serves or it is
    /// to end gracefully. A second later it is ended, whatever it does.
    pub fn drain_limit(mut self, limit: Duration) -> Generation {
        self.limits.drain = limit.min(LONGEST);
        self
    }

    /// Has SIGHUP start an upgrade, as SIGUSR2 does, for a server that reads its configuration when it starts and not
    /// again.
    pub fn upgrade_on_hangup(mut self) -> Generation {
        self.hangup = Hangup::Upgrades;
        self
    }

    /// Asks the helper at `path` instead of the one that [`helper::locate`](crate::helper::locate) finds.
    pub fn helper(mut self, path: impl Into<PathBuf>) -> Generation {
        self.holdings.ask_helper(path.into());
        self
    }

    /// The first generation goes into the background, as [`Daemon::start`] does, and its starter waits for
    /// [`Generation::ready`]. A successor is there already: only the pid file, working folder and umask are as told.
    pub fn daemon(&mut self, daemon: Daemon) -> Result<(), Error> {
        if self.predecessor.is_none() {
            self.starting = Some(daemon.start()?);
        } else {
            self.pid_file = daemon.go_on(self.handed_pid_file.as_ref().map(AsFd::as_fd))?;
        }
        Ok(())
    }

    /// A pid file for a server that stays in the foreground. It is locked from now on (its lock goes from generation to
    /// generation), and says this process's pid from [`Generation::ready`] on.
    pub fn pid_file(&mut self, path: impl AsRef<Path>) -> Result<(), Error> {
        let handed = self.handed_pid_file.as_ref().map(AsFd::as_fd);
        self.pid_file = Some(PidFile::adopt_or_lock(path.as_ref(), handed)?);
        Ok(())
    }

    /// A socket file by which [`ask`](super::ask) asks for an upgrade and learns the result: mode 0600, and nobody but
    /// this user and root is heard. It goes from generation to generation. A relative path starts at the folder in which
    /// the program was started, whatever its working folder is now.
    pub fn control(&mut self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = self.program.absolute(path.as_ref());
        self.control = Some(Control::at(&path, self.handed_control.take())?);
        Ok(())
    }

    /// The socket for `endpoint`, as [`Server::listen`](crate::Server::listen) gets it: handed over, bound, or asked
    /// for. The next generation gets a copy.
    ///
    /// What a predecessor handed over is found at its address. Another one of the same name is no error here, unlike
    /// one from whoever started the first generation: the configuration may have changed.
    ///
    /// Copies share their flags: where one generation makes a socket non-blocking, it is so for the other as well.
    /// [`Listeners`](crate::Listeners) does not mind.
    pub fn listen(&mut self, endpoint: &str) -> Result<Socket, Error> {
        self.holdings.listen(endpoint, Protocol::default())
    }

    /// The same, as a listener of the standard library.
    pub fn tcp(&mut self, endpoint: &str) -> Result<TcpListener, Error> {
        self.listen(endpoint)?.into_tcp()
    }

    /// The same, as a udp socket of the standard library. `53` need not say `/udp` here.
    pub fn udp(&mut self, endpoint: &str) -> Result<UdpSocket, Error> {
        self.holdings.listen(endpoint, Protocol::Udp)?.into_udp()
    }

    /// A SO_REUSEPORT group, as [`Server::group`](crate::Server::group): of `workers`, **and at least of as many as the
    /// predecessor had**. A member that closes resets the connections in its queue, so none is closed; where there are
    /// more than workers, some worker serves two ([`Listeners`](crate::Listeners)).
    pub fn group(&mut self, endpoint: &str, workers: usize) -> Result<Vec<Socket>, Error> {
        self.holdings.group(endpoint, workers)
    }

    /// What was handed over and not taken yet, to take from by name: the several sockets of an `each`, or one of a kind
    /// that no endpoint describes. [`Generation::keep_socket`] hands it on.
    pub fn handed(&mut self) -> &mut Sockets {
        &mut self.holdings.handed
    }

    /// Keeps a copy of `socket` for the next generation, under `name`.
    pub fn keep_socket(&mut self, name: &str, socket: impl AsFd) -> Result<(), Error> {
        self.holdings.keep_socket(name, socket)
    }

    /// Keeps a copy of `descriptor` for the next generation, which finds it by [`Generation::state`]: a memfd with what
    /// it should know, say. Instead of what was kept under `name`, if anything.
    pub fn keep(&mut self, name: &str, descriptor: impl AsFd) -> Result<(), Error> {
        self.holdings.keep(name, descriptor)
    }

    /// Takes what the predecessor kept under `name`.
    pub fn state(&mut self, name: &str) -> Option<OwnedFd> {
        self.holdings.state(name)
    }

    /// What counts the connections.
    pub fn drain(&self) -> Drain {
        self.drain.clone()
    }

    /// It could serve. Sockets that were handed over and not taken are closed. A successor waits until the predecessor
    /// lets it; then the pid file is written, the service manager and whoever started a daemon are told. **When this
    /// returns, accept.**
    ///
    /// If the predecessor died meanwhile, whatever killed it, this process serves all the same.
    ///
    /// # Errors
    /// After one, end: the predecessor serves on.
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
            // The last thing that may fail: the predecessor stops for this word, and what comes after it is no reason
            // to leave nobody who serves.
            (Some(predecessor), _) => predecessor.serving()?,
            (None, Some(starting)) => serving.started(starting.ready()?),
            (None, None) => {}
        }
        serving.announce()?;
        Ok(serving)
    }

    /// It cannot serve, and will end with `status`. Why is told to whom it concerns: the predecessor, which tells
    /// whoever asked for the upgrade; or, by the status alone, whoever started the daemon.
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
