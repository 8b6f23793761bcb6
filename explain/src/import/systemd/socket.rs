//! `[Socket]`: which sockets, with which options, and how many connections.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use portgrant_protocol::{Endpoint, Protocol};

use super::unit::{Unit, is_yes};
use crate::import::server::{Listen, Place, Server};

/// How many connections systemd serves at once by default.
const MAX_CONNECTIONS: &str = "64";
/// Settings without a meaning for IPv4 and IPv6 sockets, or that need not be kept.
const MEANINGLESS: [&str; 24] = [
    "Accept",
    "Service",
    "SocketMode",
    "SocketUser",
    "SocketGroup",
    "DirectoryMode",
    "RemoveOnStop",
    "Symlinks",
    "Writable",
    "PipeSize",
    "PassCredentials",
    "PassSecurity",
    "PassFileDescriptorsToExec",
    "TimeoutSec",
    "FlushPending",
    "BindIPv6Only",
    "KeepAliveTimeSec",
    "KeepAliveIntervalSec",
    "KeepAliveProbes",
    "SocketProtocol",
    "FileDescriptorName",
    "AcceptFileDescriptors",
    "MaxConnections",
    "MaxConnectionsPerSource",
];

pub(super) fn convert(unit: &Unit, accepts: bool, server: &mut Server) {
    let options = options(unit, server);
    for (key, value) in unit.section("Socket") {
        let protocol = match key {
            "ListenStream" => match unit.last("Socket", "SocketProtocol").as_deref() {
                Some("sctp") => Protocol::Sctp,
                Some("mptcp") => Protocol::Mptcp,
                Some(_) | None => Protocol::Tcp,
            },
            "ListenDatagram" => Protocol::Udp,
            key if key.starts_with("Listen") => {
                server.obstacle(format!(
                    "{key}= is not a socket that portgrant binds, and a service gets its sockets from one"
                ));
                continue;
            }
            _ => continue,
        };
        if value.is_empty() {
            server.listen.clear();
            continue;
        }
        match place(value, unit) {
            Ok((place, port)) => {
                let mut options = options.clone();
                options.retain(|option| {
                    let fits = format!("1/{},{option}", protocol.word()).parse::<Endpoint>().is_ok();
                    // For datagrams, systemd ignores options of streams.
                    if !fits && protocol.is_stream() {
                        server.note(format!("{option} is not taken over: {value} cannot have it"));
                    }
                    fits
                });
                server.listen.push(Listen { name: None, place, port, protocol, options });
            }
            Err(why) => server.obstacle(format!("{key}={value}: {why}")),
        }
    }
    if accepts {
        let most = |key| unit.last("Socket", key);
        server
            .options
            .extend(["--max-conns".to_owned(), most("MaxConnections").unwrap_or_else(|| MAX_CONNECTIONS.to_owned())]);
        if let Some(most) = most("MaxConnectionsPerSource") {
            server.options.extend(["--max-per-source".to_owned(), most]);
        }
    }
}

/// As systemd.socket(5) has it: a port, or an address and a port.
fn place(value: &str, unit: &Unit) -> Result<(Place, u16), &'static str> {
    let v6only = match unit.last("Socket", "BindIPv6Only").as_deref() {
        Some("ipv6-only") => true,
        Some("both") => false,
        _ => fs::read_to_string("/proc/sys/net/ipv6/bindv6only").is_ok_and(|text| text.trim() == "1"),
    };
    let wildcard = if v6only { Place::V6Only } else { Place::Dual };
    if let Ok(port) = value.parse() {
        return if port == 0 { Err("port 0 is any port") } else { Ok((wildcard, port)) };
    }
    if value.starts_with(['/', '@', '%']) {
        return Err("a Unix socket needs no portgrant: keep the socket unit");
    }
    match value.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => Err("port 0 is any port"),
        Ok(address) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ok((wildcard, address.port())),
        Ok(address) => Ok((Place::Address(address.ip()), address.port())),
        Err(_) => Err("it is not a port, and not an address with a port"),
    }
}

/// The options of every socket.
fn options(unit: &Unit, server: &mut Server) -> Vec<String> {
    let mut options = Vec::new();
    for (key, value) in unit.section("Socket") {
        let whole = match key {
            "DeferAcceptSec" => "defer_accept",
            "ReceiveBuffer" => "rcvbuf",
            "SendBuffer" => "sndbuf",
            "Backlog" => "backlog",
            "IPTOS" => "tos",
            "BindToDevice" => "dev",
            _ => "",
        };
        match key {
            _ if value.is_empty() => {}
            "DeferAcceptSec" | "Backlog" | "BindToDevice" | "ReceiveBuffer" | "SendBuffer" | "IPTOS" => {
                match whole == "dev" || value.parse::<u32>().is_ok() {
                    true => options.push(format!("{whole}={value}")),
                    false => server.note(format!("{key}={value} is not taken over: write {whole}=N with a number")),
                }
            }
            "ReusePort" if is_yes(value) => options.push("reuseport".to_owned()),
            "FreeBind" if is_yes(value) => options.push("freebind".to_owned()),
            "KeepAlive" if is_yes(value) => options.push(keepalive(unit)),
            "Transparent" if is_yes(value) => {
                server.obstacle("Transparent= needs a capability that portgrant never holds");
            }
            "Mark" => server.obstacle("Mark= needs a capability that portgrant never holds"),
            "IPAddressAllow" | "IPAddressDeny" | "SocketBindAllow" | "SocketBindDeny" => {
                server.obstacle(format!("{key}= is the socket unit's: write it in the service, and import it again"));
            }
            "ReusePort" | "FreeBind" | "KeepAlive" | "Transparent" => {}
            key if key.starts_with("Listen") || MEANINGLESS.contains(&key) => {}
            key => server.note(format!("{key}= has no equal in portgrant")),
        }
    }
    options
}

fn keepalive(unit: &Unit) -> String {
    let value = |key, usual: &str| unit.last("Socket", key).unwrap_or_else(|| usual.to_owned());
    let is_given =
        ["KeepAliveTimeSec", "KeepAliveIntervalSec", "KeepAliveProbes"].iter().any(|key| unit.has("Socket", key));
    let [idle, interval, count] =
        [("KeepAliveTimeSec", "7200"), ("KeepAliveIntervalSec", "75"), ("KeepAliveProbes", "9")]
            .map(|(key, usual)| value(key, usual));
    let is_number = |value: &String| value.parse::<u32>().is_ok();
    let is_given = is_given && [&idle, &interval, &count].into_iter().all(is_number);
    if is_given { format!("keepalive={idle}:{interval}:{count}") } else { "keepalive".to_owned() }
}
