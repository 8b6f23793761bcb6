//! The names of the two ends of a connection (`--lookup`), asked for while others are served.
//!
//! The server crate's [`Names`] asks, in a separate thread; its futures are polled here, when they wake this one. No name is
//! believed that does not have the address, and none is waited for beyond its time limit.

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
    bell: Arc<Bell>,
    under_way: HashMap<u64, (Connection, Lookup)>,
    /// The number of the next one
    next: u64,
}

/// Wakes the loop, and says for which lookups.
struct Bell {
    eventfd: OwnedFd,
    rung: Mutex<Vec<u64>>,
}

struct Rope {
    number: u64,
    bell: Arc<Bell>,
}

impl Lookups {
    pub(super) fn new() -> Result<Lookups, Error> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let eventfd = eventfd.map_err(|errno| Error::Accepting(errno.into()))?;
        let bell = Arc::new(Bell { eventfd, rung: Mutex::default() });
        Ok(Lookups { names: Names::from_system()?, bell, under_way: HashMap::new(), next: 0 })
    }

    /// The connection with its names, where they are known already; else [`answered`](Lookups::answered) has it later.
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

    /// The connections whose names are known by now.
    pub(super) fn answered(&mut self) -> Vec<Connection> {
        // The counter back to 0 before the list is taken: a ring in between wakes the loop once more.
        let _ = read(&self.bell.eventfd, &mut [0; 8]);
        let rung = std::mem::take(&mut *self.bell.rung.lock().unwrap_or_else(PoisonError::into_inner));
        rung.into_iter().filter_map(|number| self.poll(number)).collect()
    }

    /// Nobody waits for the others any more.
    pub(super) fn clear(&mut self) {
        self.under_way.clear();
    }

    fn poll(&mut self, number: u64) -> Option<Connection> {
        let (_, lookup) = self.under_way.get_mut(&number)?;
        let waker = Waker::from(Arc::new(Rope { number, bell: Arc::clone(&self.bell) }));
        let Poll::Ready(names) = lookup.as_mut().poll(&mut Context::from_waker(&waker)) else { return None };
        let (connection, _) = self.under_way.remove(&number)?;
        Some(Connection { names, ..connection })
    }
}

impl AsFd for Lookups {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.eventfd.as_fd()
    }
}

impl Wake for Rope {
    fn wake(self: Arc<Self>) {
        self.bell.rung.lock().unwrap_or_else(PoisonError::into_inner).push(self.number);
        // It fails only where the counter is full, and then the loop is awake.
        let _ = write(&self.bell.eventfd, &1u64.to_ne_bytes());
    }
}

fn text_of(name: ReverseName) -> Option<String> {
    debug!("lookup: {name}");
    name.name().map(ToString::to_string)
}
