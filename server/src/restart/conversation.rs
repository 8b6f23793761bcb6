//! The records between two generations, and between a server and a peer that asks for an upgrade: SOCK_SEQPACKET.
//!
//! ```text
//! predecessor  PORTGRANT=1  PHASE=handover  GENERATION=2  [PREDECESSOR=1 | SOCKET=name | STATE=name | PIDFILE=1 | CONTROL=dev:ino]…  LEFT=n
//! successor    PORTGRANT=1  PHASE=started  PID=n
//! successor    PORTGRANT=1  PHASE=ready  [CLOSED=name]…  LEFT=n      or      PORTGRANT=1  PHASE=failed  WHY=…
//! predecessor  PORTGRANT=1  PHASE=take  DRAIN=milliseconds
//! successor    PORTGRANT=1  PHASE=serving
//!
//! the asker    PORTGRANT=1  VERB=upgrade
//! the server   PORTGRANT=1  STATUS=0  GENERATION=2  PID=n  [CLOSED=name]…  LEFT=n      or a refusal, as the helper's
//! ```
//! Each PREDECESSOR, SOCKET, STATE, PIDFILE and CONTROL stands for one descriptor of the message, in this order.
//! `started` has one as well. That one and PREDECESSOR's are pidfds. If a list is too long for a record, `LEFT` is the
//! number of items that follow in further records.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use portgrant_protocol::decimal;
use portgrant_protocol::record::{self, MAX_LEN, MAX_LINES, RecordError, Reply};
use portgrant_protocol::text::printable;
use portgrant_protocol::transfer::TransferError;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::order::Upgraded;
use crate::adopting::socket_file::Identity;
use crate::adopting::{HandoverError, Refused};
use crate::failure::Error;

/// The longest name of a descriptor.
pub(super) const NAME: usize = 128;

/// A descriptor that one generation passes to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// The pidfd of the predecessor
    Predecessor,
    /// A socket, by its name
    Socket(String),
    /// A descriptor that the server keeps for its successor, by its name
    State(String),
    /// The locked pid file
    PidFile,
    /// The control socket, and its file
    Control(Identity),
}

/// What the predecessor sends before it starts the successor.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Handover {
    /// The number of the successor
    pub(super) generation: u64,
    /// The items of this record, in order
    pub(super) items: Vec<Item>,
    /// How many items follow in further records
    pub(super) left: usize,
}

/// The messages after the handover.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The successor runs, with this pid; its pidfd is in the message
    Started { pid: u32 },
    /// The successor could serve, and uses all sockets but these; more names follow in further records
    Ready { closed: Vec<String>, left: usize },
    /// The successor cannot serve
    Failed { why: String },
    /// The successor may serve; the predecessor drains for this time
    Take { drain: Duration },
    /// The successor serves
    Serving,
}

impl Handover {
    /// As many records as the `items` need.
    pub(super) fn of(generation: u64, items: &[Item]) -> Vec<Handover> {
        let records = chunks(items, |item| item.line().1.len());
        let of = |(items, left): (&[Item], usize)| Handover { generation, items: items.to_vec(), left };
        records.into_iter().map(of).collect()
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let first = [("PHASE", "handover".to_owned()), ("GENERATION", self.generation.to_string())];
        let last = [("LEFT", self.left.to_string())];
        record::encode(first.into_iter().chain(self.items.iter().map(Item::line)).chain(last))
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Handover, RecordError> {
        let ([mut phase, mut generation, mut left], mut items) = ([None; 3], Vec::new());
        for (key, value) in record::lines(bytes)? {
            match key {
                "PHASE" => record::once(&mut phase, "PHASE", value)?,
                "GENERATION" => record::once(&mut generation, "GENERATION", value)?,
                "LEFT" => record::once(&mut left, "LEFT", value)?,
                "SOCKET" => items.push(Item::Socket(value.to_owned())),
                "STATE" => items.push(Item::State(value.to_owned())),
                "PREDECESSOR" => items.push(Item::Predecessor),
                "PIDFILE" => items.push(Item::PidFile),
                "CONTROL" => items.push(Item::Control(identity(value)?)),
                _ => return Err(RecordError::Key(printable(key.as_bytes()))),
            }
        }
        if phase != Some("handover") {
            return Err(wrong("PHASE", phase.unwrap_or_default()));
        }
        Ok(Handover { generation: number("GENERATION", generation)?, items, left: number("LEFT", left)? })
    }
}

impl Item {
    fn line(&self) -> (&'static str, String) {
        match self {
            Item::Socket(name) => ("SOCKET", name.clone()),
            Item::State(name) => ("STATE", name.clone()),
            Item::Predecessor => ("PREDECESSOR", "1".to_owned()),
            Item::PidFile => ("PIDFILE", "1".to_owned()),
            Item::Control(file) => ("CONTROL", format!("{}:{}", file.device, file.inode)),
        }
    }
}

impl Word {
    /// As many records as `closed` needs.
    pub(super) fn ready(closed: &[String]) -> Vec<Word> {
        let records = chunks(closed, String::len);
        records.into_iter().map(|(names, left)| Word::Ready { closed: names.to_vec(), left }).collect()
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let phase = |phase: &str| ("PHASE", phase.to_owned());
        match self {
            Word::Started { pid } => record::encode([phase("started"), ("PID", pid.to_string())]),
            Word::Ready { closed, left } => {
                let names = closed.iter().map(|name| ("CLOSED", name.clone()));
                record::encode([phase("ready")].into_iter().chain(names).chain([("LEFT", left.to_string())]))
            }
            Word::Failed { why } => record::encode([phase("failed"), ("WHY", printable(why.as_bytes()))]),
            Word::Take { drain } => record::encode([phase("take"), ("DRAIN", drain.as_millis().to_string())]),
            Word::Serving => record::encode([phase("serving")]),
        }
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Word, RecordError> {
        let ([mut phase, mut pid, mut why, mut drain, mut left], mut closed) = ([None; 5], Vec::new());
        for (key, value) in record::lines(bytes)? {
            match key {
                "PHASE" => record::once(&mut phase, "PHASE", value)?,
                "PID" => record::once(&mut pid, "PID", value)?,
                "WHY" => record::once(&mut why, "WHY", value)?,
                "DRAIN" => record::once(&mut drain, "DRAIN", value)?,
                "LEFT" => record::once(&mut left, "LEFT", value)?,
                "CLOSED" => closed.push(value.to_owned()),
                _ => return Err(RecordError::Key(printable(key.as_bytes()))),
            }
        }
        match phase.ok_or(RecordError::Missing("PHASE"))? {
            "started" => Ok(Word::Started { pid: number("PID", pid)? }),
            "ready" => Ok(Word::Ready { closed, left: number("LEFT", left)? }),
            "failed" => Ok(Word::Failed { why: why.ok_or(RecordError::Missing("WHY"))?.to_owned() }),
            "take" => Ok(Word::Take { drain: Duration::from_millis(number("DRAIN", drain)?) }),
            "serving" => Ok(Word::Serving),
            other => Err(wrong("PHASE", other)),
        }
    }
}

/// The request for an upgrade.
pub(super) fn request() -> Result<Vec<u8>, RecordError> {
    record::encode([("VERB", "upgrade".to_owned())])
}

/// Checks that these bytes ask for an upgrade.
pub(super) fn is_request(bytes: &[u8]) -> Result<(), RecordError> {
    match record::lines(bytes)?.as_slice() {
        [("VERB", "upgrade")] => Ok(()),
        [("VERB", other), ..] => Err(wrong("VERB", other)),
        _ => Err(RecordError::Missing("VERB")),
    }
}

/// The answer to a peer, in as many records as it needs.
pub(super) fn answer(result: Result<&Upgraded, &Error>) -> Result<Vec<Vec<u8>>, RecordError> {
    let upgraded = match result {
        Ok(upgraded) => upgraded,
        Err(error) => return Ok(vec![Reply::Failed(error.message()).encode()?]),
    };
    let records = chunks(&upgraded.closed, String::len).into_iter().map(|(names, left)| {
        let first = [("STATUS", "0".to_owned()), ("GENERATION", upgraded.generation.to_string())];
        let pid = [("PID", upgraded.pid.to_string())];
        let names = names.iter().map(|name| ("CLOSED", name.clone()));
        record::encode(first.into_iter().chain(pid).chain(names).chain([("LEFT", left.to_string())]))
    });
    records.collect()
}

/// Reads one record of the answer. Returns as well how many names of closed sockets follow.
pub(super) fn parse_answer(bytes: &[u8]) -> Result<(Upgraded, usize), Error> {
    let fields = record::lines(bytes).map_err(HandoverError::Record)?;
    if !fields.contains(&("STATUS", "0")) {
        return match Reply::parse(bytes).map_err(HandoverError::Record)? {
            Reply::Failed(message) => Err(Refused(message).into()),
            Reply::Granted { .. } => Err(HandoverError::Record(RecordError::Missing("GENERATION")).into()),
        };
    }
    Ok(success(&fields).map_err(HandoverError::Record)?)
}

fn success(fields: &[(&str, &str)]) -> Result<(Upgraded, usize), RecordError> {
    let ([mut status, mut generation, mut pid, mut left], mut closed) = ([None; 4], Vec::new());
    for &(key, value) in fields {
        match key {
            "STATUS" => record::once(&mut status, "STATUS", value)?,
            "GENERATION" => record::once(&mut generation, "GENERATION", value)?,
            "PID" => record::once(&mut pid, "PID", value)?,
            "LEFT" => record::once(&mut left, "LEFT", value)?,
            "CLOSED" => closed.push(value.to_owned()),
            _ => return Err(RecordError::Key(printable(key.as_bytes()))),
        }
    }
    let upgraded = Upgraded { generation: number("GENERATION", generation)?, pid: number("PID", pid)?, closed };
    Ok((upgraded, number("LEFT", left)?))
}

/// Sends one record with `descriptors`, without SIGPIPE and without waiting.
pub(super) fn send(to: impl AsFd, record: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), TransferError> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LINES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(TransferError::Truncated);
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = loop {
        match sendmsg(&to, &[IoSlice::new(record)], &mut control, flags) {
            Err(Errno::INTR) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(TransferError::Ended),
            sent => break sent.map_err(TransferError::System)?,
        }
    };
    if sent == record.len() { Ok(()) } else { Err(TransferError::Truncated) }
}

/// Sends `word`.
pub(super) fn say(to: &OwnedFd, word: &Word) -> Result<(), HandoverError> {
    send(to, &word.encode().map_err(HandoverError::Record)?, &[]).map_err(HandoverError::Transfer)
}

/// Divides `all` into parts that fit into a record each, with the number of items that follow. An empty list is one
/// empty part.
fn chunks<T>(all: &[T], length: impl Fn(&T) -> usize) -> Vec<(&[T], usize)> {
    // Enough for the other lines of a record.
    const AROUND: (usize, usize) = (256, 8);
    let mut runs = Vec::new();
    let mut rest = all;
    loop {
        let mut room = MAX_LEN - AROUND.0;
        let fits = |item: &&T| {
            let needed = length(item) + "CONTROL=\n".len();
            let fits = needed <= room;
            room = room.saturating_sub(needed);
            fits
        };
        let count = rest.iter().take(MAX_LINES - AROUND.1).take_while(fits).count();
        // An item that is too long gets its own record, and an error when that is encoded.
        let (run, left) = rest.split_at(count.max(1).min(rest.len()));
        runs.push((run, left.len()));
        rest = left;
        if rest.is_empty() {
            return runs;
        }
    }
}

fn number<T: TryFrom<u64>>(key: &'static str, value: Option<&str>) -> Result<T, RecordError> {
    let value = value.ok_or(RecordError::Missing(key))?;
    decimal(value.as_bytes()).ok_or_else(|| wrong(key, value))
}

fn identity(value: &str) -> Result<Identity, RecordError> {
    let (device, inode) = value.split_once(':').ok_or_else(|| wrong("CONTROL", value))?;
    Ok(Identity { device: number("CONTROL", Some(device))?, inode: number("CONTROL", Some(inode))? })
}

fn wrong(key: &'static str, value: &str) -> RecordError {
    RecordError::Value { key, value: printable(value.as_bytes()) }
}

/// Checks that a parsed record, written again, parses to the same value (for the fuzzer).
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Ok(handover) = Handover::parse(bytes) {
        assert_eq!(handover.encode().and_then(|again| Handover::parse(&again)).as_ref(), Ok(&handover));
        let parts = Handover::of(handover.generation, &handover.items);
        let items: Vec<Item> = parts.iter().flat_map(|part| part.items.clone()).collect();
        assert_eq!(items, handover.items);
    }
    match Word::parse(bytes) {
        Ok(Word::Failed { why }) => assert!(Word::Failed { why }.encode().is_ok()),
        Ok(word) => assert_eq!(word.encode().and_then(|again| Word::parse(&again)), Ok(word)),
        Err(error) => assert!(error.to_string().bytes().all(|byte| (b' '..=b'~').contains(&byte))),
    }
    let _ = is_request(bytes);
    match parse_answer(bytes) {
        Ok((upgraded, left)) => assert!(left > 0 || answer(Ok(&upgraded)).is_ok()),
        Err(error) => assert!(answer(Err(&error)).is_ok()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::RestartError;

    #[test]
    fn restart_words_are_read_as_they_were_written() {
        let words = [
            Word::Started { pid: 4711 },
            Word::Ready { closed: vec!["web".into(), "53/udp".into()], left: 3 },
            Word::Failed { why: "no such file".into() },
            Word::Take { drain: Duration::from_millis(1500) },
            Word::Serving,
        ];
        for word in words {
            assert_eq!(Word::parse(&word.encode().expect("short")), Ok(word));
        }
        let file = Identity { device: 7, inode: u64::MAX };
        let items = vec![
            Item::Predecessor,
            Item::Socket("web".into()),
            Item::State("a b".into()),
            Item::PidFile,
            Item::Control(file),
        ];
        let handover = Handover { generation: 2, items, left: 0 };
        assert_eq!(Handover::parse(&handover.encode().expect("short")), Ok(handover));
        assert_eq!(is_request(&request().expect("short")), Ok(()));
    }

    #[test]
    fn a_restart_answer_is_read_as_it_was_written() {
        let closed: Vec<String> = (0..200).map(|number| format!("socket-{number:060}")).collect();
        let upgraded = Upgraded { generation: 3, pid: 4711, closed };
        let records = answer(Ok(&upgraded)).expect("short");
        assert!(records.len() > 3, "they do not fit into one");
        let mut names = Vec::new();
        for (at, record) in records.iter().enumerate() {
            let (part, left) = parse_answer(record).expect("read");
            names.extend(part.closed);
            assert_eq!((names.len() + left, left == 0), (200, at + 1 == records.len()));
        }
        assert_eq!(names, upgraded.closed);
        let refused =
            answer(Err(&RestartError::SuccessorSlow { pid: 7, limit: Duration::from_secs(30) }.into())).expect("short");
        let error = parse_answer(&refused[0]).expect_err("refused");
        assert!(
            matches!(error.downcast_ref(), Some(Refused(message)) if message.to_string().contains("process 7")),
            "{error}"
        );
    }

    #[test]
    fn a_malformed_restart_word_is_an_error_with_the_reason() {
        for (record, expected) in [
            ("PORTGRANT=2\nPHASE=serving\n", "PORTGRANT=1 here"),
            ("PORTGRANT=1\nPHASE=sleeping\n", "'sleeping' does not fit PHASE"),
            ("PORTGRANT=1\nPHASE=serving\nUID=0\n", "'UID' is an unknown key"),
            ("PORTGRANT=1\nPHASE=ready\n", "LEFT is missing"),
            ("PORTGRANT=1\nPHASE=take\nDRAIN=-1\n", "'-1' does not fit DRAIN"),
            ("PORTGRANT=1\nPHASE=failed\n", "WHY is missing"),
        ] {
            let message = Word::parse(record.as_bytes()).expect_err(record).to_string();
            assert!(message.contains(expected), "{record:?}: {message}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), tail in "(PHASE|LEFT|CONTROL|SOCKET|STATUS|PID)=[ -~]{0,20}") {
            let record = format!("PORTGRANT=1\n{tail}\n");
            for bytes in [&bytes[..], record.as_bytes()] {
                let _ = (Word::parse(bytes), Handover::parse(bytes), is_request(bytes), parse_answer(bytes));
            }
        }
    }
}
