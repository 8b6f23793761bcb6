//! The successor's side: whether a predecessor started this process, what it hands over, and when it stops.

use std::env;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use portgrant_protocol::record::RecordError;
use portgrant_protocol::text::printable;
use portgrant_protocol::transfer::{self, TransferError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::geteuid;
use rustix::stdio;

use super::conversation::{Handover, Item, Word, say, send};
use super::drain::{GRACE, LONGEST};
use super::error::RestartError;
use super::process::Process;
use super::program::Program;
use super::starter::{self, Ancestors};
use crate::adopting::environment::PREDECESSOR;
use crate::adopting::{HandoverError, inetd};
use crate::failure::Error;

/// How long the starter may take to end after SIGKILL.
const STARTER_ENDS: Duration = Duration::from_secs(1);

/// The process that this one replaces, and its starter.
#[derive(Debug)]
pub(super) struct Predecessor {
    pid: u32,
    conversation: OwnedFd,
    /// The parent of this process
    starter: Process,
    /// Its pidfd, which it handed over
    process: Option<Process>,
}

/// What it handed over.
#[derive(Debug)]
pub(super) struct Handed {
    /// The number of this generation
    pub(super) generation: u64,
    /// The descriptors, in order
    pub(super) items: Vec<(Item, OwnedFd)>,
}

/// A predecessor that finishes its connections.
#[derive(Debug)]
pub(super) struct Draining {
    pub(super) process: Process,
    /// When it must have ended
    pub(super) until: Instant,
    /// When this process kills it; `None` afterwards
    pub(super) due: Option<Instant>,
}

/// Finds the predecessor, if there is one. Descriptor 0 is the conversation with it, and /dev/null afterwards.
///
/// The process that the predecessor itself started is the [starter](super::starter), and does not return from here.
///
/// The variable alone proves nothing, since a child of a server may have inherited it. Descriptor 0 must be connected
/// to the process that it names, which must have this process's user. The parent must be the one that the variable
/// names.
pub(super) fn meet(program: &Program) -> Result<Option<(Predecessor, Handed)>, Error> {
    let Some(value) = env::var_os(PREDECESSOR) else { return Ok(None) };
    let refuse = |why| Error::from(RestartError::NotPredecessor { value: printable(value.as_encoded_bytes()), why });
    let ancestors = value.to_str().and_then(Ancestors::parse).ok_or_else(|| refuse("expected a process id"))?;
    inetd::once(|| {
        transfer::check(stdio::stdin()).map_err(|_| refuse("descriptor 0 is not connected to it"))?;
        let credentials = getsockopt(&stdio::stdin(), PeerCredentials)
            .map_err(|errno| Error::system("cannot identify the predecessor", errno))?;
        if credentials.uid() != geteuid().as_raw() {
            return Err(refuse("descriptor 0 is connected to another user's process"));
        }
        if credentials.pid() != ancestors.predecessor.as_raw_pid() {
            return Err(refuse("descriptor 0 is connected to another process"));
        }
        let Some(starter) = ancestors.starter else {
            return if Process::parent(ancestors.predecessor)?.is_some() || is_hung_up() {
                Err(starter::run(program, ancestors.predecessor))
            } else {
                Err(refuse("it did not start this process"))
            };
        };
        let conversation = inetd::take_standard_input()?;
        // The order matters. A predecessor that abandons this upgrade ends the starter first, and then looks for this
        // record. Either it finds the record and ends this process, or the starter is no longer the parent, and nothing
        // is taken over.
        introduce(&conversation)?;
        let starter = Process::parent(starter)?.ok_or_else(|| refuse("the upgrade was abandoned"))?;
        let pid = ancestors.predecessor.as_raw_pid().cast_unsigned();
        let mut predecessor = Predecessor { pid, conversation, starter, process: None };
        let handed = predecessor.receive()?;
        Ok(Some((predecessor, handed)))
    })
}

/// Tells the predecessor which process the successor is.
fn introduce(conversation: &OwnedFd) -> Result<(), Error> {
    let this = Process::this()?;
    let record = Word::Started { pid: this.pid() }.encode().map_err(HandoverError::Record)?;
    match send(conversation, &record, &[this.as_fd()]) {
        Err(TransferError::Ended) => Ok(()),
        sent => Ok(sent.map_err(HandoverError::Transfer)?),
    }
}

/// Whether no process holds the other end of descriptor 0 any more.
fn is_hung_up() -> bool {
    let mut input = [PollFd::from_borrowed_fd(stdio::stdin(), PollFlags::empty())];
    poll(&mut input, Some(&Timespec::default())).is_ok() && input[0].revents().contains(PollFlags::HUP)
}

impl Predecessor {
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    fn receive(&mut self) -> Result<Handed, Error> {
        let mut handed = Handed { generation: 0, items: Vec::new() };
        loop {
            let (record, descriptors) = match transfer::receive(self.conversation.as_fd()) {
                // It died before it had read everything. What it sent is still here.
                Err(TransferError::System(error)) if error.kind() == io::ErrorKind::ConnectionReset => continue,
                Err(TransferError::Ended) => return Err(RestartError::PredecessorGone { pid: self.pid }.into()),
                received => received.map_err(HandoverError::Transfer)?,
            };
            let part = Handover::parse(&record).map_err(HandoverError::Record)?;
            if part.items.len() != descriptors.len() {
                return Err(HandoverError::Count { names: part.items.len(), descriptors: descriptors.len() }.into());
            }
            handed.generation = part.generation;
            for (item, descriptor) in part.items.into_iter().zip(descriptors) {
                if item == Item::Predecessor {
                    self.process = Some(Process::new(self.pid, descriptor));
                } else {
                    handed.items.push((item, descriptor));
                }
            }
            if part.left == 0 {
                return Ok(handed);
            }
        }
    }

    /// Reports that this process could serve, and waits for the permission. Returns how long the predecessor drains;
    /// `None` if it died, so that no other process serves.
    pub(super) fn ready(&self, closed: &[String]) -> Result<Option<Duration>, Error> {
        for word in Word::ready(closed) {
            self.say(&word)?;
        }
        match transfer::receive(self.conversation.as_fd()) {
            Ok((record, _)) => match Word::parse(&record).map_err(HandoverError::Record)? {
                Word::Take { drain } => Ok(Some(drain)),
                Word::Started { .. } | Word::Ready { .. } | Word::Failed { .. } | Word::Serving => {
                    Err(HandoverError::Record(RecordError::Missing("DRAIN")).into())
                }
            },
            // ECONNRESET means that it died before it had read everything.
            Err(TransferError::Ended) => Ok(None),
            Err(TransferError::System(error)) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(HandoverError::Transfer(error).into()),
        }
    }

    /// The predecessor that is to be watched from now on, if it is still there: it finishes within `drain`.
    pub(super) fn draining(&mut self, drain: Option<Duration>) -> Option<Draining> {
        let (drain, process) = drain.zip(self.process.take())?;
        let until = Instant::now() + drain.min(LONGEST);
        // It ends itself first.
        Some(Draining { process, until, due: Some(until + 2 * GRACE) })
    }

    /// Reports that this process serves, so that the predecessor stops. Then becomes the service manager's child by
    /// ending the starter.
    pub(super) fn serving(self) -> Result<(), Error> {
        self.say(&Word::Serving)?;
        // The predecessor may have ended it already. If it cannot be ended, this process serves anyway.
        let _ = self.starter.end(STARTER_ENDS);
        Ok(())
    }

    /// Reports that this process cannot serve, and why.
    pub(super) fn failed(self, why: &str) {
        // If the predecessor died, the failure need not be reported.
        let _ = self.say(&Word::Failed { why: why.to_owned() });
    }

    /// It is not an error if the predecessor died: this process continues alone.
    fn say(&self, word: &Word) -> Result<(), HandoverError> {
        match say(&self.conversation, word) {
            Err(HandoverError::Transfer(TransferError::Ended)) => Ok(()),
            word => word,
        }
    }
}

impl Draining {
    /// Kills it after its time, for instance if it is stopped and so cannot end itself.
    pub(super) fn kill_when_due(&mut self, now: Instant) {
        if self.due.take_if(|due| now >= *due).is_some() {
            self.process.kill();
        }
    }
}
