//! A connection: its two addresses, and the variables that pass them to the program.
//!
//! The variables are those of UCSPI-TCP. IPv4 has `PROTO=TCP` and `TCP...`; IPv6 has `PROTO=TCP6`, `TCP6...` and
//! `TCP...`, as in ucspi-tcp with the IPv6 patch. IPv4 on an IPv6 socket counts as IPv4. `TCPREMOTEINFO` is never set,
//! since ident is not asked. `REMOTE_ADDR` and `REMOTE_PORT` are systemd's.

use std::ffi::CString;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use portgrant_protocol::Protocol;

/// An accepted socket and its two ends.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: OwnedFd,
    pub(super) protocol: Protocol,
    /// IPv4 on an IPv6 socket is IPv4 here
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) names: HostNames,
    /// Variables that the access rules set; they replace others
    pub(super) settings: Vec<CString>,
}

/// The names of the two ends, if they were looked up and confirmed.
#[derive(Debug, Default)]
pub(super) struct HostNames {
    pub(super) local: Option<String>,
    pub(super) remote: Option<String>,
}

/// The clients that count as one for limits: an IPv4 address, or an IPv6 /64, since one site can use all addresses of a
/// /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Source(IpAddr);

impl Connection {
    pub(super) fn source(&self) -> Source {
        Source::of(self.remote.ip())
    }

    /// The variables, `NAME=VALUE`.
    pub(super) fn variables(&self) -> Vec<CString> {
        let (local, remote) = (self.local.ip(), self.remote.ip());
        let (proto, prefixes): (_, &[_]) = match (self.protocol, remote) {
            (Protocol::Sctp, _) => ("SCTP", &["TCP"]),
            (Protocol::Tcp | Protocol::Mptcp | Protocol::Udp, IpAddr::V4(_)) => ("TCP", &["TCP"]),
            (Protocol::Tcp | Protocol::Mptcp | Protocol::Udp, IpAddr::V6(_)) => ("TCP6", &["TCP", "TCP6"]),
        };
        let mut variables = vec![format!("PROTO={proto}")];
        for prefix in prefixes {
            variables.push(format!("{prefix}LOCALIP={local}"));
            variables.push(format!("{prefix}LOCALPORT={}", self.local.port()));
            variables.extend(self.names.local.as_ref().map(|name| format!("{prefix}LOCALHOST={name}")));
            variables.push(format!("{prefix}REMOTEIP={remote}"));
            variables.push(format!("{prefix}REMOTEPORT={}", self.remote.port()));
            variables.extend(self.names.remote.as_ref().map(|name| format!("{prefix}REMOTEHOST={name}")));
        }
        variables.extend(self.interface().map(|name| format!("TCP6INTERFACE={name}")));
        variables.push(format!("REMOTE_ADDR={remote}"));
        variables.push(format!("REMOTE_PORT={}", self.remote.port()));
        // Addresses and interface names contain no NUL.
        variables.into_iter().filter_map(|variable| CString::new(variable).ok()).collect()
    }

    /// The interface that a link-local address belongs to.
    fn interface(&self) -> Option<String> {
        match self.remote {
            SocketAddr::V6(remote) if remote.scope_id() != 0 => {
                // If the interface no longer exists, nix 0.31 returns an empty name.
                let name = nix::net::if_::if_indextoname(remote.scope_id()).ok()?.into_string().ok();
                name.filter(|name| !name.is_empty())
            }
            SocketAddr::V6(_) | SocketAddr::V4(_) => None,
        }
    }
}

impl Source {
    pub(super) fn of(address: IpAddr) -> Source {
        Source(match address {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
            IpAddr::V4(_) => address,
        })
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            IpAddr::V4(address) => write!(f, "{address}"),
            IpAddr::V6(network) => write!(f, "{network}/64"),
        }
    }
}

/// Whether an environment entry is one of the variables that describe a connection. The launcher's own are removed:
/// otherwise the program would take them for its connection's, for example `TCPREMOTEHOST` without a lookup.
pub(super) fn is_connections(entry: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 4] = [b"TCPLOCAL", b"TCPREMOTE", b"TCP6LOCAL", b"TCP6REMOTE"];
    const NAMES: [&[u8]; 4] = [b"PROTO=", b"TCP6INTERFACE=", b"REMOTE_ADDR=", b"REMOTE_PORT="];
    PREFIXES.iter().chain(&NAMES).any(|start| entry.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(local: &str, remote: &str, names: HostNames) -> Vec<String> {
        let [local, remote] = [local, remote].map(|address| address.parse().expect("an address"));
        let socket = std::fs::File::open("/dev/null").expect("/dev/null").into();
        let connection = Connection { socket, protocol: Protocol::Tcp, local, remote, names, settings: Vec::new() };
        let variables = connection.variables();
        assert!(variables.iter().all(|variable| is_connections(variable.as_bytes())), "{variables:?}");
        variables.into_iter().map(|variable| variable.into_string().expect("text")).collect()
    }

    #[test]
    fn ipv4_is_tcp() {
        let expected = [
            "PROTO=TCP",
            "TCPLOCALIP=192.0.2.1",
            "TCPLOCALPORT=25",
            "TCPREMOTEIP=198.51.100.7",
            "TCPREMOTEPORT=40000",
            "REMOTE_ADDR=198.51.100.7",
            "REMOTE_PORT=40000",
        ];
        assert_eq!(variables("192.0.2.1:25", "198.51.100.7:40000", HostNames::default()), expected);
        let names = HostNames { local: None, remote: Some("client.example".to_owned()) };
        let named = variables("192.0.2.1:25", "198.51.100.7:40000", names);
        assert!(named.contains(&"TCPREMOTEHOST=client.example".to_owned()), "{named:?}");
        assert!(!named.iter().any(|variable| variable.starts_with("TCPLOCALHOST")), "{named:?}");
    }

    #[test]
    fn ipv6_is_tcp6_and_sets_the_variables_of_both_names() {
        let expected = [
            "PROTO=TCP6",
            "TCPLOCALIP=2001:db8::1",
            "TCPLOCALPORT=25",
            "TCPREMOTEIP=2001:db8::2",
            "TCPREMOTEPORT=40000",
            "TCP6LOCALIP=2001:db8::1",
            "TCP6LOCALPORT=25",
            "TCP6REMOTEIP=2001:db8::2",
            "TCP6REMOTEPORT=40000",
            "REMOTE_ADDR=2001:db8::2",
            "REMOTE_PORT=40000",
        ];
        assert_eq!(variables("[2001:db8::1]:25", "[2001:db8::2]:40000", HostNames::default()), expected);
    }

    #[test]
    fn a_link_local_client_is_shown_with_its_interface() {
        let index = nix::net::if_::if_nametoindex("lo").expect("lo");
        let there = variables("[fe80::1]:25", &format!("[fe80::2%{index}]:40000"), HostNames::default());
        assert!(there.contains(&"TCP6INTERFACE=lo".to_owned()), "{there:?}");
        let gone = variables("[fe80::1]:25", "[fe80::2%4000000000]:40000", HostNames::default());
        assert!(!gone.iter().any(|variable| variable.starts_with("TCP6INTERFACE")), "{gone:?}");
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_64() {
        let source = |address: &str| Source::of(address.parse().expect("an address"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:0:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("2001:db8::1").to_string(), "2001:db8::/64");
    }
}
