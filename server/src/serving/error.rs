//! Errors of `Listeners` and of `EachUdp`.

use std::io;
use std::net::SocketAddr;

use portgrant_protocol::status;
use rustix::io::Errno;

use crate::failure::{Report, failure, quoted};

/// Why a listener, or a udp socket for each address, does not work
#[derive(Debug)]
#[non_exhaustive]
pub enum ListenerError {
    /// There is no listener, or all have failed
    NoListener,
    /// A listener failed permanently, and is no longer served
    Failed {
        /// Its name
        name: String,
        /// Why it failed
        source: io::Error,
    },
    /// A udp socket of this process could not be bound to an address
    NotBound {
        /// The address
        address: SocketAddr,
        /// Why not
        source: io::Error,
    },
    /// The sockets do not belong to an `each` endpoint
    NotEach {
        /// The name of the wrong socket, or of the set if the wildcard is missing
        name: String,
        /// What was expected of it
        expected: &'static str,
    },
}

impl ListenerError {
    pub(super) fn report(&self) -> Report<'_> {
        match self {
            ListenerError::NoListener => Report::what("there is no listener")
                .fix("add a tcp listener or a udp socket before you wait for an event"),
            ListenerError::Failed { name, source } => {
                Report::what(format!("{} failed and is no longer served", quoted(name)))
                    .because(source)
                    .fix("check which other process holds it: it was shut down, or is no longer a listener")
            }
            ListenerError::NotBound { address, source } => {
                let report = Report::what(format!("cannot bind {address}/udp")).because(source);
                match Errno::from_io_error(source) {
                    Some(Errno::ADDRINUSE) => report
                        .fix("stop the program that holds the port (see ss -lunp), or choose another port")
                        .status(status::UNAVAILABLE),
                    Some(Errno::ADDRNOTAVAIL) => {
                        report.fix("add the address to an interface first (see ip address)").status(status::UNAVAILABLE)
                    }
                    Some(Errno::ACCESS) => report
                        .fix("choose a port above 1023, or have the port permitted (see portgrant explain)")
                        .status(status::REFUSED),
                    Some(Errno::AFNOSUPPORT) => {
                        report.why("this host has no IPv6").fix("serve 0.0.0.0 with an AddressedUdp instead")
                    }
                    _ => report,
                }
            }
            ListenerError::NotEach { name, expected } => {
                Report::what(format!("{} does not belong to an each endpoint", quoted(name)))
                    .why(format!("expected {expected}"))
                    .fix("ask for each:PORT/udp, and take all sockets with that name")
            }
        }
    }
}

failure!(ListenerError);
