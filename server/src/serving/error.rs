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
            ListenerError::NoListener => Report::what("there is nothing to listen on")
                .fix("add a tcp listener or a udp socket before the first event is waited for"),
            ListenerError::Failed { name, source } => {
                Report::what(format!("{} failed, and is served no more", quoted(name)))
                    .because(source)
                    .fix("look at what else holds it: it was shut down, or is no listener any more")
            }
            ListenerError::NotBound { address, source } => {
                let report = Report::what(format!("cannot bind {address}/udp")).because(source);
                match Errno::from_io_error(source) {
                    Some(Errno::ADDRINUSE) => report
                        .fix("stop what holds the port there (ss -lunp tells), or choose another")
                        .status(status::UNAVAILABLE),
                    Some(Errno::ADDRNOTAVAIL) => report
                        .fix("give the address to an interface first (ip address tells which are)")
                        .status(status::UNAVAILABLE),
                    Some(Errno::ACCESS) => {
                        report.fix("choose a port above 1023, or have portgrant permit it").status(status::REFUSED)
                    }
                    Some(Errno::AFNOSUPPORT) => {
                        report.why("this host has no IPv6").fix("serve 0.0.0.0 with an AddressedUdp instead")
                    }
                    _ => report,
                }
            }
            ListenerError::NotEach { name, expected } => {
                Report::what(format!("{} is not one of a socket for each address", quoted(name)))
                    .why(format!("expected {expected}"))
                    .fix("ask for it as each:PORT/udp, and take all that bear the name")
            }
        }
    }
}

failure!(ListenerError);
