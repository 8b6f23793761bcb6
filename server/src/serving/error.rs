//! Sockets that are waited on: those of `Listeners`, and of `EachUdp` among them.

use std::io;
use std::net::SocketAddr;

use portgrant_protocol::status;
use rustix::io::Errno;

use crate::failure::{Report, failure, quoted};

/// Why nothing comes from a listener, or from a udp socket for each address
#[derive(Debug)]
#[non_exhaustive]
pub enum ListenerError {
    /// There is none, or each has failed: nothing will ever happen
    NoListener,
    /// A listener failed for good, and is served no more
    Failed {
        /// Its name
        name: String,
        /// Why
        source: io::Error,
    },
    /// A udp socket of this process's own could not be bound to an address
    NotBound {
        /// Where
        address: SocketAddr,
        /// Why not
        source: io::Error,
    },
    /// A set of udp sockets that is not what `each` gives
    NotEach {
        /// The name of the socket that does not belong, or of the set where the wildcard is missing
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
