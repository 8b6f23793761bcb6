//! Private functions for the fuzz targets. Only built with `--cfg fuzzing`, by `fuzz/run`.
#![allow(missing_docs, reason = "for the targets in fuzz/, which say what must hold")]

use std::sync::Once;

use portgrant_protocol::Protocol;

use crate::adopting::descriptor_numbers as numbers;
use crate::binding::{read_sock_diag, sockets};

/// An answer of sock_diag(7).
pub fn sock_diag(packet: &[u8], port: u16) {
    static ASKED: Once = Once::new();
    ASKED.call_once(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let local = listener.local_addr().expect("bound");
        assert!(sockets(Protocol::Tcp, local.port()).expect("asked").iter().any(|entry| entry.local == local));
        let _ = [Protocol::Udp, Protocol::Sctp].map(|protocol| sockets(protocol, 1));
    });
    let mut entries = Vec::new();
    let _ = read_sock_diag(packet, port, &mut entries);
    assert!(entries.len() * 88 <= packet.len(), "{} entries in {} bytes", entries.len(), packet.len());
    for entry in entries {
        assert_eq!((entry.local.port(), entry.local.ip().to_canonical()), (port, entry.local.ip()));
        assert!(entry.remote.ip().to_canonical() == entry.remote.ip());
    }
}

/// The value of a variable that numbers descriptors.
pub fn descriptor_numbers(value: &str) -> Option<Vec<i32>> {
    numbers(value)
}

/// Bytes of a client to a server that reads single characters.
#[cfg(feature = "telnet")]
pub fn telnet_by_character(bytes: &[u8]) {
    crate::telnet::fuzz(bytes);
}

/// A record between two generations of a server, or of a peer that asks for an upgrade.
#[cfg(feature = "restart")]
pub fn conversation(bytes: &[u8]) {
    crate::restart::fuzz(bytes);
}
