//! The programs that run, and the limits.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;

use nix::unistd::Pid;

use super::connection::Source;

/// What a program was started for.
#[derive(Debug)]
pub(super) enum Service {
    /// A connection
    Connection {
        /// The client
        source: Source,
        /// A copy of the socket, if idle connections are ended
        kept: Option<OwnedFd>,
    },
    /// The datagrams of the socket with this number
    Datagrams(usize),
}

/// The programs by pid. A pid is not reused until it is reaped.
#[derive(Debug)]
pub(super) struct Table {
    running: BTreeMap<Pid, Service>,
    connections: usize,
    of_source: HashMap<Source, usize>,
    limit: usize,
    limit_of_source: Option<usize>,
}

impl Table {
    /// At most `limit` connections at once, and `limit_of_source` from one source.
    pub(super) fn new(limit: usize, limit_of_source: Option<usize>) -> Table {
        let (running, of_source) = (BTreeMap::new(), HashMap::new());
        Table { running, connections: 0, of_source, limit, limit_of_source }
    }

    /// Whether the limit permits another connection.
    pub(super) fn has_room(&self) -> bool {
        self.connections < self.limit
    }

    /// Whether the limit of `source` permits another connection.
    pub(super) fn admits(&self, source: Source) -> bool {
        let here = self.of_source.get(&source).copied().unwrap_or(0);
        self.limit_of_source.is_none_or(|limit| here < limit)
    }

    /// Counts a connection, before its program starts.
    pub(super) fn count(&mut self, source: Source) {
        self.connections += 1;
        if self.limit_of_source.is_some() {
            *self.of_source.entry(source).or_default() += 1;
        }
    }

    /// Uncounts a connection.
    pub(super) fn release(&mut self, source: Source) {
        self.connections -= 1;
        if let Some(here) = self.of_source.get_mut(&source) {
            *here -= 1;
            if *here == 0 {
                self.of_source.remove(&source);
            }
        }
    }

    /// A program runs. Its connection is counted already.
    pub(super) fn add(&mut self, pid: Pid, service: Service) {
        self.running.insert(pid, service);
    }

    /// A process has ended. Returns its service if it is in this table. The caller's own children and orphans are not.
    pub(super) fn ended(&mut self, pid: Pid) -> Option<Service> {
        let service = self.running.remove(&pid)?;
        if let Service::Connection { source, .. } = &service {
            self.release(*source);
        }
        Some(service)
    }

    pub(super) fn pids(&self) -> impl Iterator<Item = Pid> {
        self.running.keys().copied()
    }

    /// The sockets that are watched for idleness. The caller takes those that it no longer watches.
    pub(super) fn kept(&mut self) -> impl Iterator<Item = (Pid, &mut Option<OwnedFd>)> {
        self.running.iter_mut().filter_map(|(&pid, service)| match service {
            Service::Connection { kept, .. } if kept.is_some() => Some((pid, kept)),
            Service::Connection { .. } | Service::Datagrams(_) => None,
        })
    }

    /// Whether nothing runs.
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }
}

impl std::fmt::Display for Table {
    /// In the form of tcpserver: `3/40`.
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

    fn connection(address: &str) -> Service {
        Service::Connection { source: source(address), kept: None }
    }

    #[test]
    fn a_full_table_has_room_after_a_program_ends() {
        let mut table = Table::new(2, None);
        for pid in [10, 11] {
            assert!(table.has_room());
            table.count(source("192.0.2.1"));
            table.add(Pid::from_raw(pid), connection("192.0.2.1"));
        }
        assert!(!table.has_room() && table.to_string() == "2/2");
        assert!(table.ended(Pid::from_raw(12)).is_none(), "not one of these");
        assert!(!table.has_room());
        assert!(table.ended(Pid::from_raw(10)).is_some());
        assert!(table.has_room() && !table.is_empty());
    }

    #[test]
    fn a_source_at_its_limit_does_not_block_others() {
        let mut table = Table::new(10, Some(1));
        table.count(source("192.0.2.1"));
        assert!(!table.admits(source("192.0.2.1")) && table.admits(source("192.0.2.2")));
        table.release(source("192.0.2.1"));
        assert!(table.admits(source("192.0.2.1")) && table.of_source.is_empty(), "nothing stays of it");
    }

    #[test]
    fn a_program_for_datagrams_does_not_count_as_a_connection() {
        let mut table = Table::new(1, None);
        table.add(Pid::from_raw(10), Service::Datagrams(0));
        assert!(table.has_room() && !table.is_empty());
        assert_eq!(table.kept().count(), 0);
    }
}
