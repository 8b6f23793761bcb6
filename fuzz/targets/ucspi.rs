//! The variables of UCSPI-TCP that `exec --accept` sets: each once, with no byte in them that a client chose, and none of the
//! caller's own is left.
#![no_main]
#![allow(dead_code, reason = "the file is the launcher's, and not all of it is used here")]

#[path = "../../launcher/src/accept/connection.rs"]
mod connection;

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use connection::{Connection, HostNames, Source, is_connections};
use libfuzzer_sys::fuzz_target;
use portgrant_protocol::Protocol;
use words::Choices;

fn address(choices: &mut Choices<'_>) -> SocketAddr {
    let port = choices.short();
    if choices.byte() & 1 == 0 {
        return (Ipv4Addr::from(choices.long()), port).into();
    }
    let bits = choices.one(&[0, 1, 0xffff_0000_0000, 0xfe80 << 112]) | u128::from(choices.long());
    SocketAddrV6::new(Ipv6Addr::from_bits(bits), port, 0, choices.byte().into()).into()
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::of(data);
    let (local, remote) = (address(&mut choices), address(&mut choices));
    let protocol = choices.one(&[Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Mptcp]);
    let name = |choices: &mut Choices<'_>| (choices.byte() & 1 == 1).then(|| "host.example".to_owned());
    let (local_name, remote_name) = (name(&mut choices), name(&mut choices));
    let socket = std::fs::File::open("/dev/null").expect("/dev/null").into();
    let names = HostNames { local: local_name.clone(), remote: remote_name.clone() };
    let connection = Connection { socket, protocol, local, remote, names, settings: Vec::new() };
    let variables = connection.variables();
    let mut seen = HashSet::new();
    for variable in &variables {
        let text = variable.to_str().expect("text");
        assert!(words::is_printable(text) && is_connections(text.as_bytes()), "{text}");
        let (name, value) = text.split_once('=').expect("a variable");
        assert!(seen.insert(name), "{name} stands twice");
        match name {
            "REMOTE_ADDR" | "TCPREMOTEIP" | "TCP6REMOTEIP" => assert_eq!(value.parse(), Ok(remote.ip())),
            "TCPLOCALIP" | "TCP6LOCALIP" => assert_eq!(value.parse(), Ok(local.ip())),
            "REMOTE_PORT" | "TCPREMOTEPORT" | "TCP6REMOTEPORT" => assert_eq!(value.parse(), Ok(remote.port())),
            "TCPLOCALPORT" | "TCP6LOCALPORT" => assert_eq!(value.parse(), Ok(local.port())),
            "PROTO" => assert!(["TCP", "TCP6", "SCTP"].contains(&value)),
            "TCPLOCALHOST" | "TCP6LOCALHOST" => assert_eq!(Some(value), local_name.as_deref()),
            "TCPREMOTEHOST" | "TCP6REMOTEHOST" => assert_eq!(Some(value), remote_name.as_deref()),
            "TCP6INTERFACE" => assert!(!value.is_empty()),
            _ => panic!("{name} is not a variable of UCSPI-TCP"),
        }
    }
    assert_eq!(seen.contains("TCPREMOTEHOST"), remote_name.is_some());
    assert_eq!(connection.source(), Source::of(remote.ip()));
    let source = connection.source().to_string();
    assert!(source.ends_with("/64") == remote.is_ipv6() && words::is_printable(&source));
    // What the caller had: the names that a program believes are told by their beginning.
    let rest = choices.rest();
    for entry in rest.split(|byte| *byte == 0) {
        let is_one = ["PROTO=", "REMOTE_ADDR=", "REMOTE_PORT=", "TCPREMOTE", "TCPLOCAL", "TCP6"]
            .iter()
            .any(|start| entry.starts_with(start.as_bytes()));
        assert!(is_one || !is_connections(entry));
    }
});
