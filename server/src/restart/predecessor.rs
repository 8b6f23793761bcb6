//! The successor's side: whether a predecessor started this process, what it hands over, and when it lets go.

use std::env;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use portgrant_protocol::text::printable;
use portgrant_protocol::transfer::{self, TransferError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, getppid, pidfd_open, pidfd_send_signal};
use rustix::stdio;

use super::conversation::{Handover, Item, Word, say};
use super::drain::GRACE;
use super::generation::LONGEST;
use crate::environment::PREDECESSOR;
use crate::error::RestartError;
use crate::{Error, inetd};

/// Whoever started this process to take its place.
#[derive(Debug)]
pub(super) struct Predecessor {
    pid: u32,
    conversation: OwnedFd,
    /// Readable when it has ended; `None` where it had before this process looked
    exit: Option<OwnedFd>,
}

/// What came from it.
#[derive(Debug)]
pub(super) struct Handed {
    /// This process's number
    pub(super) generation: u64,
    /// What came, in order
    pub(super) items: Vec<(Item, OwnedFd)>,
}

/// A predecessor that finishes what it has.
#[derive(Debug)]
pub(super) struct Draining {
    pub(super) pid: u32,
    /// Readable when it has ended
    pub(super) exit: OwnedFd,
    /// When it is to have ended
    pub(super) until: Instant,
    /// When it is ended from here, unless it was
    pub(super) due: Option<Instant>,
}

/// Meets the predecessor, if there is one: descriptor 0 is its conversation then, and /dev/null afterwards.
///
/// The variable alone is worth nothing, as a child of a server may have it by mistake. Descriptor 0 must be a
/// conversation with the very process that it names, which is this one's user and parent (or was, and has ended).
pub(super) fn meet() -> Result<Option<(Predecessor, Handed)>, Error> {
    let Some(value) = env::var_os(PREDECESSOR) else { return Ok(None) };
    let bytes = value.as_encoded_bytes();
    let refuse = |why| Error::from(RestartError::NotPredecessor { value: printable(bytes), why });
    let digits = bytes.iter().all(u8::is_ascii_digit);
    let pid = value.to_str().filter(|_| digits).and_then(|value| value.parse().ok()).filter(|&pid: &i32| pid > 0);
    let pid = pid.and_then(Pid::from_raw).ok_or_else(|| refuse("expected a process id"))?;
    inetd::once(|| {
        transfer::check(stdio::stdin()).map_err(|_| refuse("descriptor 0 is no conversation with it"))?;
        let credentials = getsockopt(&stdio::stdin(), PeerCredentials)
            .map_err(|errno| Error::System { what: "cannot tell who the predecessor is", source: errno.into() })?;
        if credentials.uid() != geteuid().as_raw() {
            return Err(refuse("descriptor 0 leads to another user's process"));
        }
        if credentials.pid() != pid.as_raw_pid() {
            return Err(refuse("descriptor 0 leads to another process"));
        }
        let exit = parent(pid)?;
        if exit.is_none() && !is_hung_up() {
            return Err(refuse("it did not start this process"));
        }
        let conversation = inetd::take_standard_input()?;
        let predecessor = Predecessor { pid: pid.as_raw_pid().cast_unsigned(), conversation, exit };
        let handed = predecessor.receive()?;
        Ok(Some((predecessor, handed)))
    })
}

/// The pidfd of this process's parent, if that is `pid`.
fn parent(pid: Pid) -> Result<Option<OwnedFd>, Error> {
    if getppid() != Some(pid) {
        return Ok(None);
    }
    let exit = pidfd_open(pid, PidfdFlags::empty());
    // Asked again: while it is the parent, nobody else has its number.
    if getppid() != Some(pid) {
        return Ok(None);
    }
    exit.map(Some).map_err(|errno| Error::System { what: "cannot watch the predecessor", source: errno.into() })
}

/// Whether nobody holds the other end of descriptor 0 any more.
fn is_hung_up() -> bool {
    let mut input = [PollFd::from_borrowed_fd(stdio::stdin(), PollFlags::empty())];
    poll(&mut input, Some(&Timespec::default())).is_ok() && input[0].revents().contains(PollFlags::HUP)
}

impl Predecessor {
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    fn receive(&self) -> Result<Handed, Error> {
        let mut handed = Handed { generation: 0, items: Vec::new() };
        loop {
            let (record, descriptors) = match transfer::receive(self.conversation.as_fd()) {
                Err(TransferError::Ended) => return Err(RestartError::PredecessorGone { pid: self.pid }.into()),
                received => received.map_err(Error::Transfer)?,
            };
            let part = Handover::parse(&record).map_err(Error::Record)?;
            if part.items.len() != descriptors.len() {
                return Err(Error::Count { names: part.items.len(), descriptors: descriptors.len() });
            }
            handed.generation = part.generation;
            handed.items.extend(part.items.into_iter().zip(descriptors));
            if part.left == 0 {
                return Ok(handed);
            }
        }
    }

    /// Says that this process could serve, and waits until it is to. How long the predecessor drains, unless it is
    /// gone: then nobody else serves.
    pub(super) fn ready(&self, closed: &[String]) -> Result<Option<Duration>, Error> {
        for word in Word::ready(closed) {
            self.say(&word)?;
        }
        match transfer::receive(self.conversation.as_fd()) {
            Ok((record, _)) => match Word::parse(&record).map_err(Error::Record)? {
                Word::Take { drain } => Ok(Some(drain)),
                Word::Ready { .. } | Word::Failed { .. } | Word::Serving => {
                    Err(Error::Record(portgrant_protocol::record::RecordError::Missing("DRAIN")))
                }
            },
            // With ECONNRESET where it left something unread.
            Err(TransferError::Ended) => Ok(None),
            Err(TransferError::System(error)) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(Error::Transfer(error)),
        }
    }

    /// What is to be watched of it from now on, if it is still there: it finishes what it has within `drain`.
    pub(super) fn draining(&mut self, drain: Option<Duration>) -> Option<Draining> {
        let (drain, exit) = drain.zip(self.exit.take())?;
        let until = Instant::now() + drain.min(LONGEST);
        // Its own watch comes first.
        Some(Draining { pid: self.pid, exit, until, due: Some(until + 2 * GRACE) })
    }

    /// Says that this process serves. From then on the predecessor does not.
    pub(super) fn serving(self) -> Result<(), Error> {
        self.say(&Word::Serving)
    }

    /// Says that this process cannot serve, and why.
    pub(super) fn failed(self, why: &str) {
        // Whoever is gone need not know.
        let _ = self.say(&Word::Failed { why: why.to_owned() });
    }

    /// Somebody who is gone is no error: this process goes on alone.
    fn say(&self, word: &Word) -> Result<(), Error> {
        match say(&self.conversation, word) {
            Err(Error::Transfer(TransferError::Ended)) => Ok(()),
            said => said,
        }
    }
}

impl Draining {
    pub(super) fn has_ended(&self) -> bool {
        poll(&mut [PollFd::new(&self.exit, PollFlags::IN)], Some(&Timespec::default())) == Ok(1)
    }

    /// Ends it once it is past its time, whatever it does: stopped, say, so that its own watch cannot.
    pub(super) fn kill_when_due(&mut self, now: Instant) {
        if self.due.take_if(|due| now >= *due).is_some() {
            let _ = pidfd_send_signal(&self.exit, Signal::KILL);
        }
    }
}
