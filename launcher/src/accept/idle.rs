//! Ends idle connections (`--idle-timeout`).
//!
//! The launcher does not see the bytes, so it keeps a copy of the socket and asks the kernel when something was last
//! received or sent (TCP_INFO). It ends a connection by shutdown(2): the program reads the end of its input, and
//! writing fails with EPIPE. The copy has a price: if the program closes the connection but keeps running, the client
//! does not notice.

use std::time::{Duration, Instant};

use log::debug;
use portgrant_server::TcpInfo;
use rustix::net::{Shutdown, shutdown};

use super::table::Table;

#[derive(Debug)]
pub(super) struct Idle {
    limit: Duration,
    /// The earliest time at which a connection can reach the limit
    next: Option<Instant>,
}

impl Idle {
    pub(super) fn new(limit: Duration) -> Idle {
        Idle { limit, next: None }
    }

    /// When to check next.
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
                // It fails only if the connection has already ended.
                let _ = shutdown(&socket, Shutdown::Both);
            }
        }
    }
}
