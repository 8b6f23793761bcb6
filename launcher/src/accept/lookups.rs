//! Looks up the names of the two ends of a connection (`--lookup`), while other connections are served.
//!
//! The server crate's [`Names`] asks in a separate thread; its futures wake this loop, which polls them. A name is used
//! only if it has the address, and each lookup has a time limit.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use log::debug;
use portgrant_server::{Names, ReverseName};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};

use super::connection::{Connection, HostNames};
use crate::Error;

type Lookup = Pin<Box<dyn Future<Output = HostNames> + Send>>;

pub(super) struct Lookups {
    names: Names,
    wakeups: Arc<Wakeups>,
    under_way: HashMap<u64, (Connection, Lookup)>,
    /// The number of the next lookup
    next: u64,
}

/// Wakes the loop, and lists the lookups to poll.
struct Wakeups {
    eventfd: OwnedFd,
    woken: Mutex<Vec<u64>>,
}

struct LookupWaker {
    number: u64,
    wakeups: Arc<Wakeups>,
}

impl Lookups {
    pub(super) fn new() -> Result<Lookups, Error> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let eventfd = eventfd.map_err(|errno| Error::Accepting(errno.into()))?;
        let wakeups = Arc::new(Wakeups { eventfd, woken: Mutex::default() });
        Ok(Lookups { names: Names::from_system()?, wakeups, under_way: HashMap::new(), next: 0 })
    }

    /// The connection with its names, if they are already known. Otherwise [`answered`](Lookups::answered) returns it
    /// later.
    pub(super) fn ask(&mut self, connection: Connection) -> Option<Connection> {
        let number = self.next;
        self.next += 1;
        let (names, local, remote) = (self.names.clone(), connection.local.ip(), connection.remote.ip());
        let lookup: Lookup = Box::pin(async move {
            let remote = text_of(names.of_async(remote).await);
            HostNames { local: text_of(names.of_async(local).await), remote }
        });
        self.under_way.insert(number, (connection, lookup));
        self.poll(number)
    }

    /// The connections whose lookups have ended.
    pub(super) fn answered(&mut self) -> Vec<Connection> {
        // Reset the counter before the list is taken: a wake in between then wakes the loop again.
        let _ = read(&self.wakeups.eventfd, &mut [0; 8]);
        let woken = std::mem::take(&mut *self.wakeups.woken.lock().unwrap_or_else(PoisonError::into_inner));
        woken.into_iter().filter_map(|number| self.poll(number)).collect()
    }

    /// Drops the connections that wait for a lookup.
    pub(super) fn clear(&mut self) {
        self.under_way.clear();
    }

    fn poll(&mut self, number: u64) -> Option<Connection> {
        let (_, lookup) = self.under_way.get_mut(&number)?;
        let waker = Waker::from(Arc::new(LookupWaker { number, wakeups: Arc::clone(&self.wakeups) }));
        let Poll::Ready(names) = lookup.as_mut().poll(&mut Context::from_waker(&waker)) else { return None };
        let (connection, _) = self.under_way.remove(&number)?;
        Some(Connection { names, ..connection })
    }
}

impl AsFd for Lookups {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wakeups.eventfd.as_fd()
    }
}

impl Wake for LookupWaker {
    fn wake(self: Arc<Self>) {
        self.wakeups.woken.lock().unwrap_or_else(PoisonError::into_inner).push(self.number);
        // It fails only if the counter is full, and then the loop is awake.
        let _ = write(&self.wakeups.eventfd, &1u64.to_ne_bytes());
    }
}

fn text_of(name: ReverseName) -> Option<String> {
    debug!("lookup: {name}");
    name.name().map(ToString::to_string)
}
