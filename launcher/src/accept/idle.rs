//! Connections on which nothing happens, and their end.
//!
//! The bytes go past the launcher, so it keeps the socket once more and asks the kernel how long nothing was received
//! and nothing was sent (TCP_INFO). It ends a connection by shutdown(2), which every holder of the socket sees: the
//! program reads the end of its input, and writing fails with EPIPE. What keeping it costs: while the program runs, the
//! client does not see that the program has closed the connection.

use std::time::{Duration, Instant};

use log::debug;
use portgrant_server::TcpInfo;
use rustix::net::{Shutdown, shutdown};

use super::table::Table;

#[derive(Debug)]
pub(super) struct Idle {
    limit: Duration,
    /// The soonest that a connection can reach the limit
    next: Option<Instant>,
}

impl Idle {
    pub(super) fn new(limit: Duration) -> Idle {
        Idle { limit, next: None }
    }

    /// When to look next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// A connection has begun.
    pub(super) fn watch(&mut self, now: Instant) {
        self.next.get_or_insert(now + self.limit);
    }

    /// Ends the connections that have reached the limit.
    pub(super) fn look(&mut self, table: &mut Table, now: Instant) {
        if self.next.is_none_or(|next| now < next) {
            return;
        }
        self.next = None;
        for (pid, kept) in table.kept() {
            let Some(idle) = kept.as_ref().and_then(|socket| TcpInfo::of(socket).ok()).map(|info| info.idle()) else {
                *kept = None;
                continue;
            };
            if idle < self.limit {
                let reaches = now + (self.limit - idle);
                self.next = Some(self.next.map_or(reaches, |next| next.min(reaches)));
            } else if let Some(socket) = kept.take() {
                debug!("idle {pid}: nothing sent or received for {} s", idle.as_secs());
                // It fails only where the connection is gone already.
                let _ = shutdown(&socket, Shutdown::Both);
            }
        }
    }
}
