//! Why an address is in use although nobody listens there: an earlier connection is in TIME_WAIT, and the program does
//! not set SO_REUSEADDR.

use std::fs;
use std::os::fd::BorrowedFd;

use portgrant_protocol::Message;
use rustix::net::{SocketType, sockopt};

/// tcp_states.h
const TIME_WAIT: &str = "06";
const LISTEN: &str = "0A";

/// `refused`, with this reason and its fix if they apply to `port` and `socket`.
pub(crate) fn explained(refused: Message, socket: BorrowedFd<'_>, port: u16) -> Message {
    let is_stream = sockopt::socket_type(socket) == Ok(SocketType::STREAM);
    let is_bare = sockopt::socket_reuseaddr(socket) == Ok(false);
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    if !is_stream || !is_bare || !is_only_remembered(&tables.concat(), port) {
        return refused;
    }
    refused
        .why("no socket listens there, but a closed connection is in TIME_WAIT, and the program does not set SO_REUSEADDR")
        .fix("set SO_REUSEADDR before bind(2), in the program or its configuration; or wait a minute")
}

/// Whether the port has connections in TIME_WAIT and no listener.
fn is_only_remembered(table: &str, port: u16) -> bool {
    let end = format!(":{port:04X}");
    let states = || {
        table.lines().filter_map(|line| {
            let mut words = line.split_ascii_whitespace().skip(1);
            let local = words.next()?;
            words.nth(1).filter(|_| local.ends_with(&end))
        })
    };
    states().any(|state| state == TIME_WAIT) && !states().any(|state| state == LISTEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_time_wait_without_a_listener_is_recognized() {
        let line =
            |local: &str, state: &str| format!("   0: {local} 0100007F:C350 {state} 00000000:00000000 00:00000000\n");
        let remembered = line("0100007F:0050", "06");
        assert!(is_only_remembered(&remembered, 80));
        assert!(!is_only_remembered(&remembered, 5), "another port");
        assert!(!is_only_remembered(&(remembered + &line("00000000:0050", "0A")), 80), "somebody listens");
        assert!(!is_only_remembered(&line("0100007F:0050", "01"), 80), "it is connected");
        assert!(!is_only_remembered("  sl  local_address rem_address   st\n", 80));
    }
}
