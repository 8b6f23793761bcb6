//! Sockets that this process binds itself.

use std::io;

use portgrant_protocol::{Protocol, status};

use super::told::Told;
use crate::{Holder, HolderState};

/// Why an endpoint cannot be bound
#[derive(Debug)]
#[non_exhaustive]
pub enum BindError {
    /// An address that another socket holds, or one that overlaps it
    InUse {
        /// What was to be bound, `127.0.0.1:80/tcp`
        endpoint: String,
        /// Who is in the way, the likeliest first; empty where the kernel does not say
        holders: Vec<Holder>,
    },
    /// No interface has the address
    NotThere {
        /// What was to be bound
        endpoint: String,
    },
    /// This host has no IPv6
    NoIpv6 {
        /// What was to be bound
        endpoint: String,
        /// Its port
        port: u16,
    },
    /// This kernel has no such protocol
    NoProtocol {
        /// What was to be bound
        endpoint: String,
        /// The protocol
        protocol: Protocol,
    },
    /// A port that is not for everybody, where nobody was asked or there is nobody to ask
    Privileged {
        /// What was to be bound
        endpoint: String,
    },
    /// `each` is several sockets, and one was asked for
    EachIsSeveral {
        /// The endpoint
        endpoint: String,
    },
    /// The socket could not be made, bound or listened on, for another reason
    Other {
        /// What was to be bound
        endpoint: String,
        /// Why not
        source: io::Error,
    },
}

impl BindError {
    pub(super) fn told(&self) -> Told<'_> {
        match self {
            BindError::InUse { endpoint, holders } => Told::what(format!("{endpoint} is in use"))
                .why(in_use(holders))
                .fix(make_room(endpoint, holders))
                .status(status::UNAVAILABLE),
            BindError::NotThere { endpoint } => cannot_be_bound(endpoint)
                .why("no interface of this network namespace has that address")
                .fix("see ip addr for those there are; freebind, where it is granted, binds before it comes")
                .status(status::UNAVAILABLE),
            BindError::NoIpv6 { endpoint, port } => cannot_be_bound(endpoint)
                .why("this host has no IPv6, and the endpoint asks for it (no address means [::])")
                .fix(format!("ask for 0.0.0.0:{port}"))
                .status(status::UNAVAILABLE),
            BindError::NoProtocol { endpoint, protocol } => cannot_be_bound(endpoint)
                .why(format!("this kernel has no {}", protocol.word()))
                .fix(format!("as root, modprobe {0}, or enable it (sysctl)", protocol.word()))
                .status(status::UNAVAILABLE),
            BindError::Privileged { endpoint } => cannot_be_bound(endpoint)
                .why("ports below net.ipv4.ip_unprivileged_port_start are not for every user")
                .fix(
                    "have portgrant installed and a rule made (portgrant explain), or start this program with the \
                     socket: portgrant exec, a systemd socket unit",
                )
                .status(status::REFUSED),
            BindError::EachIsSeveral { endpoint } => {
                Told::what(format!("{endpoint} is several sockets, and one is asked for"))
                    .why("each is a socket for every address")
                    .fix("take all of them: Sockets::request")
                    .status(status::USAGE)
            }
            BindError::Other { endpoint, source } => cannot_be_bound(endpoint).because(source),
        }
    }
}

fn cannot_be_bound(endpoint: &str) -> Told<'static> {
    Told::what(format!("{endpoint} cannot be bound"))
}

fn in_use(holders: &[Holder]) -> String {
    match holders {
        [] => "another socket holds this address, or one that overlaps it".to_owned(),
        [only] => only.to_string(),
        [first, others @ ..] => format!("{first}, and {} more", others.len()),
    }
}

/// What to do about the first of `holders`.
fn make_room(endpoint: &str, holders: &[Holder]) -> String {
    let flag = if endpoint.ends_with("/udp") { "u" } else { "t" };
    match holders.first() {
        None => format!("as root, see who: ss -Hanp{flag}"),
        Some(holder) if holder.is_own() => "take the socket that is there, or close it first".to_owned(),
        Some(Holder { state: HolderState::TimeWait { .. } | HolderState::Connection(_), .. }) => {
            "wait until it is over; it would not matter if that connection's server had set SO_REUSEADDR".to_owned()
        }
        Some(Holder { process: Some(_), .. }) => "stop it, or serve at another address or port".to_owned(),
        Some(Holder { local, .. }) => format!(
            "stop it, or serve at another address or port; that user and root see its program: ss -Hanp{flag} \
             'sport = :{}'",
            local.port()
        ),
    }
}
