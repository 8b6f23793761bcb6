//! The programs that run, and how many more may.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use super::connection::Source;

/// What a program was started for.
#[derive(Debug)]
pub(super) enum Service {
    /// A connection
    Connection {
        /// Whose
        source: Source,
        /// The socket once more, where it is watched for idleness
        kept: Option<OwnedFd>,
    },
    /// The datagrams of the socket with this number
    Datagrams(usize),
}

/// The programs by their pids: a pid is a program's own until it is waited for.
///
/// One that a thread is about to start may have ended, and have been waited for, before the thread knows its pid. So the
/// end of a process that is not known is kept as long as it can be such a one's, and so are the signals for all of them.
#[derive(Debug)]
pub(super) struct Table {
    running: BTreeMap<Pid, Service>,
    /// The starts under way, by numbers that rise
    starting: Vec<Start>,
    next_start: u64,
    early: Vec<EarlyEnd>,
    missed: Vec<Missed>,
    connections: usize,
    of_source: HashMap<Source, usize>,
    limit: usize,
    limit_of_source: Option<usize>,
}

/// A start under way.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Start(u64);

/// The end of a process whose start may still be under way: one with a number below this.
#[derive(Debug)]
struct EarlyEnd {
    status: WaitStatus,
    before: u64,
}

/// A signal for all programs, which those whose start was under way did not get: the ones with a number below this.
#[derive(Debug, PartialEq, Eq)]
struct Missed {
    signal: Signal,
    before: u64,
}

impl Table {
    /// `limit` connections at once, and of one source `limit_of_source`.
    pub(super) fn new(limit: usize, limit_of_source: Option<usize>) -> Table {
        let (running, of_source) = (BTreeMap::new(), HashMap::new());
        let (starting, early, missed) = (Vec::new(), Vec::new(), Vec::new());
        Table { running, starting, next_start: 0, early, missed, connections: 0, of_source, limit, limit_of_source }
    }

    /// Whether one more connection may be.
    pub(super) fn has_room(&self) -> bool {
        self.connections < self.limit
    }

    /// Whether one more of this source may be.
    pub(super) fn admits(&self, source: Source) -> bool {
        let here = self.of_source.get(&source).copied().unwrap_or(0);
        self.limit_of_source.is_none_or(|limit| here < limit)
    }

    /// Counts a connection, from before its program starts.
    pub(super) fn count(&mut self, source: Source) {
        self.connections += 1;
        if self.limit_of_source.is_some() {
            *self.of_source.entry(source).or_default() += 1;
        }
    }

    /// Counts it no more.
    pub(super) fn release(&mut self, source: Source) {
        self.connections -= 1;
        if let Some(here) = self.of_source.get_mut(&source) {
            *here -= 1;
            if *here == 0 {
                self.of_source.remove(&source);
            }
        }
    }

    /// A program is about to be started, here or in another thread.
    pub(super) fn begin(&mut self) -> Start {
        let number = self.next_start;
        self.next_start += 1;
        self.starting.push(Start(number));
        Start(number)
    }

    /// It could not be.
    pub(super) fn give_up(&mut self, start: &Start) {
        self.starting.retain(|other| other != start);
        let starting = &self.starting;
        self.early.retain(|end| starting.iter().any(|start| start.0 < end.before));
        self.missed.retain(|missed| starting.iter().any(|start| start.0 < missed.before));
    }

    /// It was. Its connection is counted already. Where it has ended by now, how; then this is to be told to
    /// [`ended`](Table::ended) once more.
    pub(super) fn add(&mut self, start: &Start, pid: Pid, service: Service) -> Option<WaitStatus> {
        let early = self.early.iter().position(|end| end.status.pid() == Some(pid) && start.0 < end.before);
        let early = early.map(|at| self.early.swap_remove(at).status);
        self.running.insert(pid, service);
        self.give_up(start);
        early
    }

    /// A signal goes to all programs. Those whose start is under way shall get it when their pid is known.
    pub(super) fn miss(&mut self, signal: Signal) {
        let missed = Missed { signal, before: self.next_start };
        if !self.starting.is_empty() && !self.missed.contains(&missed) {
            self.missed.push(missed);
        }
    }

    /// The signals that went to the others since this start began.
    pub(super) fn missed(&self, start: &Start) -> Vec<Signal> {
        self.missed.iter().filter(|missed| start.0 < missed.before).map(|missed| missed.signal).collect()
    }

    /// A process has ended. What it was there for, unless it was none of these (what the caller left, an orphan that came
    /// to the first process of a namespace), or is not known yet.
    pub(super) fn ended(&mut self, status: WaitStatus) -> Option<Service> {
        let Some(service) = self.running.remove(&status.pid()?) else {
            if !self.starting.is_empty() {
                self.early.push(EarlyEnd { status, before: self.next_start });
            }
            return None;
        };
        if let Service::Connection { source, .. } = &service {
            self.release(*source);
        }
        Some(service)
    }

    pub(super) fn pids(&self) -> impl Iterator<Item = Pid> {
        self.running.keys().copied()
    }

    /// The connections that are watched, to be taken from where the watch is over.
    pub(super) fn kept(&mut self) -> impl Iterator<Item = (Pid, &mut Option<OwnedFd>)> {
        self.running.iter_mut().filter_map(|(&pid, service)| match service {
            Service::Connection { kept, .. } if kept.is_some() => Some((pid, kept)),
            Service::Connection { .. } | Service::Datagrams(_) => None,
        })
    }

    /// Whether nothing runs, nor is about to.
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty() && self.starting.is_empty()
    }
}

impl std::fmt::Display for Table {
    /// As tcpserver says it: `3/40`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.connections, self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(address: &str) -> Source {
        Source::of(address.parse().expect("an address"))
    }

    fn exited(pid: i32) -> WaitStatus {
        WaitStatus::Exited(Pid::from_raw(pid), 0)
    }

    fn connection(address: &str) -> Service {
        Service::Connection { source: source(address), kept: None }
    }

    #[test]
    fn a_full_table_has_room_again_when_a_program_has_ended() {
        let mut table = Table::new(2, None);
        for pid in [10, 11] {
            assert!(table.has_room());
            table.count(source("192.0.2.1"));
            let start = table.begin();
            assert_eq!(table.add(&start, Pid::from_raw(pid), connection("192.0.2.1")), None);
        }
        assert!(!table.has_room() && table.to_string() == "2/2");
        assert!(table.ended(exited(12)).is_none(), "not one of these");
        assert!(!table.has_room());
        assert!(table.ended(exited(10)).is_some());
        assert!(table.has_room() && !table.is_empty());
    }

    #[test]
    fn an_end_that_comes_before_the_pid_is_known_is_kept_for_it() {
        let mut table = Table::new(2, None);
        table.count(source("192.0.2.1"));
        let start = table.begin();
        assert!(!table.is_empty(), "it may run");
        assert!(table.ended(exited(10)).is_none());
        let status = table.add(&start, Pid::from_raw(10), connection("192.0.2.1"));
        assert_eq!(status, Some(exited(10)));
        assert!(table.ended(exited(10)).is_some() && table.is_empty() && table.to_string() == "0/2");
    }

    #[test]
    fn an_end_is_kept_no_longer_than_it_can_be_a_programs() {
        let mut table = Table::new(10, None);
        assert!(table.ended(exited(9)).is_none() && table.early.is_empty(), "nothing is being started");
        let first = table.begin();
        assert!(table.ended(exited(10)).is_none(), "an orphan");
        let second = table.begin();
        assert!(table.ended(exited(11)).is_none(), "another");
        assert_eq!(table.add(&second, Pid::from_raw(10), Service::Datagrams(0)), None, "that one was before its start");
        assert_eq!(table.early.len(), 2);
        table.give_up(&first);
        assert!(table.early.is_empty());
    }

    #[test]
    fn a_signal_is_kept_for_those_whose_start_is_under_way() {
        let mut table = Table::new(10, None);
        table.miss(Signal::SIGUSR1);
        let first = table.begin();
        table.miss(Signal::SIGUSR2);
        table.miss(Signal::SIGUSR2);
        let second = table.begin();
        assert_eq!((table.missed(&first), table.missed(&second)), (vec![Signal::SIGUSR2], vec![]));
        table.give_up(&first);
        assert!(table.missed.is_empty());
    }

    #[test]
    fn a_source_at_its_bound_does_not_stand_in_the_way_of_others() {
        let mut table = Table::new(10, Some(1));
        table.count(source("192.0.2.1"));
        assert!(!table.admits(source("192.0.2.1")) && table.admits(source("192.0.2.2")));
        table.release(source("192.0.2.1"));
        assert!(table.admits(source("192.0.2.1")) && table.of_source.is_empty(), "nothing stays of it");
    }

    #[test]
    fn a_program_for_datagrams_takes_no_connections_place() {
        let mut table = Table::new(1, None);
        let start = table.begin();
        table.add(&start, Pid::from_raw(10), Service::Datagrams(0));
        assert!(table.has_room() && !table.is_empty());
        assert_eq!(table.kept().count(), 0);
    }
}
