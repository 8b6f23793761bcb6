//! The predecessor's side: starts a successor, watches it, and ends it if it fails.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use portgrant_protocol::listen;
use portgrant_protocol::record::RecordError;
use portgrant_protocol::transfer::{self, TransferError};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::conversation::{Handover, Item, Word, say, send};
use super::drain::LONGEST;
use super::error::RestartError;
use super::process::Process;
use super::program::Program;
use crate::adopting::HandoverError;
use crate::adopting::environment::PREDECESSOR;
use crate::failure::Error;

/// How long a successor that closed its conversation may take to end, so that its status is known.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The next generation, until it serves.
#[derive(Debug)]
pub(super) struct Successor {
    /// The child that starts it and ends as it ends
    starter: Child,
    starter_process: Process,
    /// The successor itself, once it has introduced itself
    process: Option<Process>,
    conversation: OwnedFd,
    phase: Phase,
    closed: Vec<String>,
    limit: Duration,
    deadline: Instant,
    modes: Modes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Its starter runs
    Launched,
    /// It starts
    Starting,
    /// It was given permission to serve
    Taking,
    /// It closed its conversation
    Ending,
}

/// The progress of an upgrade.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing is decided yet
    Waiting,
    /// It sends nothing more; its status will follow
    HungUp,
    /// It serves
    Serving,
}

impl Successor {
    /// Starts `program`. All records are sent first, so that the successor does not depend on this process.
    pub(super) fn start(
        program: &Program,
        generation: u64,
        items: Vec<(Item, BorrowedFd<'_>)>,
        limit: Duration,
    ) -> Result<Successor, Error> {
        let failed = |what| move |source: io::Error| Error::system(what, source);
        let pair = transfer::pair().map_err(io::Error::from);
        let (ours, theirs) = pair.map_err(failed("cannot create a pair of sockets"))?;
        let this = Process::this()?;
        let items = [(Item::Predecessor, this.as_fd())].into_iter().chain(items);
        let (items, descriptors): (Vec<Item>, Vec<BorrowedFd<'_>>) = items.unzip();
        let mut rest = descriptors.as_slice();
        for handover in Handover::of(generation, &items) {
            let (now, later) = rest.split_at(handover.items.len());
            send(&ours, &handover.encode().map_err(HandoverError::Record)?, now).map_err(HandoverError::Transfer)?;
            rest = later;
        }
        rustix::io::ioctl_fionbio(&ours, true)
            .map_err(|errno| failed("cannot make a socket non-blocking")(errno.into()))?;
        let modes = Modes::of(&descriptors);
        let mut starter = spawn(program, theirs)?;
        let starter_process = match Process::child(&starter) {
            Ok(process) => process,
            Err(error) => {
                end(&mut starter);
                return Err(error);
            }
        };
        Ok(Successor {
            starter,
            starter_process,
            process: None,
            conversation: ours,
            phase: Phase::Launched,
            closed: Vec::new(),
            limit,
            deadline: Instant::now() + limit,
            modes,
        })
    }

    /// Its pid, or that of its starter until its own is known.
    pub(super) fn pid(&self) -> u32 {
        self.process.as_ref().map_or(self.starter.id(), Process::pid)
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Readable when it has sent something or closed its conversation.
    pub(super) fn conversation(&self) -> BorrowedFd<'_> {
        self.conversation.as_fd()
    }

    /// Readable when its starter has ended, and so it has ended as well.
    pub(super) fn starter(&self) -> BorrowedFd<'_> {
        self.starter_process.as_fd()
    }

    /// The names of the sockets that it did not use.
    pub(super) fn closed(&mut self) -> Vec<String> {
        std::mem::take(&mut self.closed)
    }

    /// Receives its records and answers them. An error ends this upgrade.
    pub(super) fn receive(&mut self, drain: Duration) -> Result<Progress, Error> {
        loop {
            let (record, descriptors) = match transfer::receive(self.conversation.as_fd()) {
                Ok(received) => received,
                Err(TransferError::System(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Progress::Waiting);
                }
                Err(TransferError::System(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Ok(self.hung_up());
                }
                Err(TransferError::Ended) => return Ok(self.hung_up()),
                Err(error) => return Err(HandoverError::Transfer(error).into()),
            };
            match (Word::parse(&record).map_err(HandoverError::Record)?, self.phase) {
                (Word::Started { pid }, Phase::Launched) => {
                    self.process = Some(introduced(pid, descriptors)?);
                    self.phase = Phase::Starting;
                }
                (Word::Ready { closed, left }, Phase::Starting) => {
                    self.closed.extend(closed);
                    if left == 0 {
                        self.tell_to_take(drain)?;
                    }
                }
                (Word::Failed { why }, _) => {
                    return Err(RestartError::SuccessorFailed { pid: self.pid(), message: why }.into());
                }
                // It has ended since, and this process has stopped nothing yet.
                (Word::Serving, Phase::Taking) if self.process.as_ref().is_some_and(Process::has_ended) => {
                    return Ok(self.hung_up());
                }
                (Word::Serving, Phase::Taking) => {
                    // The pid of the successor is announced next. By then its parent must be the service manager.
                    end(&mut self.starter);
                    return Ok(Progress::Serving);
                }
                (Word::Started { .. } | Word::Ready { .. } | Word::Take { .. } | Word::Serving, _) => {
                    return Err(HandoverError::Record(RecordError::Key("PHASE".to_owned())).into());
                }
            }
        }
    }

    fn tell_to_take(&mut self, drain: Duration) -> Result<(), HandoverError> {
        match say(&self.conversation, &Word::Take { drain }) {
            // If it has ended, that is noticed later.
            Ok(()) | Err(HandoverError::Transfer(TransferError::Ended)) => {
                self.phase = Phase::Taking;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn hung_up(&mut self) -> Progress {
        if self.phase != Phase::Ending {
            self.deadline = self.deadline.min(Instant::now() + LAST_WORDS);
            self.phase = Phase::Ending;
        }
        Progress::HungUp
    }

    /// How it ended, if it has ended. The status is unknown if SIGCHLD is ignored.
    pub(super) fn ended(&mut self) -> Option<RestartError> {
        let pid = self.pid();
        let gone = |status| Some(RestartError::SuccessorEnded { pid, status });
        match self.starter.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => gone(Some(status)),
            Err(_) => gone(None),
        }
    }

    /// Why it is ended at its time limit.
    pub(super) fn late(&self) -> RestartError {
        let pid = self.pid();
        match self.phase {
            Phase::Launched | Phase::Starting | Phase::Taking => RestartError::SuccessorSlow { pid, limit: self.limit },
            Phase::Ending => RestartError::SuccessorEnded { pid, status: None },
        }
    }

    /// Ends it, and restores the flags of the sockets that it shares with this process.
    pub(super) fn end(mut self) {
        end(&mut self.starter);
        // The starter may have started it a moment ago. A successor that introduces itself later than this finds that
        // its starter is gone, and ends by itself.
        while self.process.is_none()
            && let Ok((record, descriptors)) = transfer::receive(self.conversation.as_fd())
        {
            if let Ok(Word::Started { pid }) = Word::parse(&record) {
                self.process = introduced(pid, descriptors).ok();
            }
        }
        if let Some(process) = &self.process {
            process.end(LONGEST);
        }
        self.modes.restore();
    }
}

/// The successor, by the pidfd in its first record.
fn introduced(pid: u32, descriptors: Vec<OwnedFd>) -> Result<Process, HandoverError> {
    let [pidfd] = <[OwnedFd; 1]>::try_from(descriptors)
        .map_err(|descriptors| HandoverError::Count { names: 1, descriptors: descriptors.len() })?;
    Ok(Process::new(pid, pidfd))
}

fn spawn(program: &Program, conversation: OwnedFd) -> Result<Child, RestartError> {
    let mut command = program.command();
    for name in listen::VARIABLES.into_iter().chain(["WATCHDOG_PID"]) {
        command.env_remove(name);
    }
    command.env(PREDECESSOR, std::process::id().to_string()).stdin(Stdio::from(conversation));
    let spawned = command.spawn();
    // The command holds a copy of the successor's end. With it, this process would not notice when the successor closes
    // it.
    drop(command);
    spawned.map_err(|source| RestartError::Successor { program: program.path().to_owned(), source })
}

/// Ends a child. When this returns, the children of that process have another parent.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Copies of descriptors, and whether each blocked. Both generations share O_NONBLOCK. If a successor sets or clears it
/// and then fails, this process must still wait as before.
#[derive(Debug)]
struct Modes(Vec<(OwnedFd, OFlags)>);

impl Modes {
    fn of(descriptors: &[BorrowedFd<'_>]) -> Modes {
        let mode =
            |descriptor: &BorrowedFd<'_>| Some((descriptor.try_clone_to_owned().ok()?, fcntl_getfl(descriptor).ok()?));
        Modes(descriptors.iter().filter_map(mode).collect())
    }

    fn restore(self) {
        for (descriptor, flags) in self.0 {
            let _ = fcntl_setfl(&descriptor, flags);
        }
    }
}
