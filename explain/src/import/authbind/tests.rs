//! Compares the rules with a model of authbind-helper(8).

use std::net::{IpAddr, Ipv4Addr};

use portgrant_policy::{Ask, Caller, Decision, Domain, decide};
use portgrant_protocol::Endpoint;
use portgrant_protocol::service::Services;
use proptest::prelude::*;

use super::*;
use crate::relation::tests::policy;

const PORTS: [u16; 4] = [80, 511, 512, 600];
const ADDRESSES: [&str; 6] = ["0.0.0.0", "10.0.0.1", "10.0.0.2", "127.0.0.1", "::", "::1"];
/// Nobody on this machine has these numbers.
const OWNERS: [u32; 3] = [0, 4001, 4002];
const GROUP: u32 = 4242;

fn callers() -> [Caller; 3] {
    let caller = |uid, groups: &[u32]| Caller {
        uid,
        gid: uid,
        groups: groups.to_vec(),
        account_groups: groups.to_vec(),
        ..Caller::default()
    };
    [caller(4001, &[]), caller(4002, &[GROUP]), caller(4003, &[])]
}

/// access(2), and which file decides.
fn authbind_permits(found: &Authbind, caller: &Caller, address: IpAddr, port: u16) -> bool {
    let may_execute = |flag: &Flag| {
        let bit = match caller {
            _ if caller.uid == flag.owner => 0o100,
            _ if caller.groups.contains(&flag.group) => 0o010,
            _ => 0o001,
        };
        flag.mode & bit != 0
    };
    match (found.by_port.get(&port), found.by_address.get(&(port, address))) {
        (Some(flag), _) | (None, Some(flag)) => may_execute(flag),
        (None, None) => found
            .by_uid
            .iter()
            .any(|line| line.uid == caller.uid && line.block.holds(address) && line.ports.contains(&port)),
    }
}

fn flag() -> impl Strategy<Value = Flag> {
    let mode = prop::sample::select(vec![0o000, 0o100, 0o010, 0o110, 0o111, 0o001, 0o101, 0o011]);
    (prop::sample::select(OWNERS.to_vec()), mode).prop_map(|(owner, mode)| Flag {
        place: "file".to_owned(),
        owner,
        group: GROUP,
        mode,
        unclear: None,
    })
}

fn line_of() -> impl Strategy<Value = Line> {
    let blocks = vec![
        "0.0.0.0/0,80",
        "10.0.0.0/8,1-511",
        "127.0.0.1,600",
        "::/0,80",
        "::1,1-1023",
        "0.0.0.0/32:1,1023",
        "10.0.0.1-127.0.0.1,512-600",
    ];
    let ports = prop::sample::select(vec![1..=511, 512..=1023]);
    (prop::sample::select(vec![4001, 4002]), prop::sample::select(blocks), ports).prop_map(|(uid, text, ports)| {
        let (block, range) = addresses::line(text).expect("a line");
        let ports = *range.start().max(ports.start())..=*range.end().min(ports.end());
        Line { place: "file:1".to_owned(), uid, block, ports }
    })
}

fn anything() -> impl Strategy<Value = Authbind> {
    let by_port = prop::collection::btree_map(prop::sample::select(PORTS.to_vec()), flag(), 0..3);
    let address = prop::sample::select(ADDRESSES.to_vec()).prop_map(|text| text.parse().expect("an address"));
    let by_address = prop::collection::btree_map((prop::sample::select(PORTS.to_vec()), address), flag(), 0..3);
    let by_uid = prop::collection::vec(line_of(), 0..4);
    (by_port, by_address, by_uid).prop_map(|(by_port, by_address, by_uid)| Authbind { by_port, by_address, by_uid })
}

proptest! {
    #[test]
    fn a_rule_permits_what_authbind_permits_and_never_more(found in anything()) {
        let mut draft = Draft::default();
        found.rules(&mut draft);
        let text: String = draft.rules.iter().map(|(_, rule)| format!("{rule}\n")).collect();
        let has_deny = text.contains("deny ");
        let policy = policy(&text);
        for caller in callers() {
            for (port, protocol) in PORTS.iter().flat_map(|port| ["", "/udp", "/sctp"].map(|end| (*port, end))) {
                for address in ADDRESSES.map(|text| text.parse::<IpAddr>().expect("an address")) {
                    let text = match address {
                        IpAddr::V4(ip) => format!("{ip}:{port}{protocol}"),
                        IpAddr::V6(ip) => format!("[{ip}]:{port}{protocol}"),
                    };
                    let endpoint = text.parse::<Endpoint>().expect("an endpoint").resolve(&Services::default()).expect("a port");
                    let ask = Ask { endpoint, domain: Domain::OfAddress, program: None };
                    let ours = matches!(decide(&policy, &caller, ask), Decision::Permit(_));
                    let theirs = authbind_permits(&found, &caller, address, port);
                    // [::] is both wildcards, and a socket on it receives for both.
                    let by_dual = address == IpAddr::V4(Ipv4Addr::UNSPECIFIED)
                        && authbind_permits(&found, &caller, "::".parse().expect("an address"), port);
                    prop_assert!(!ours || theirs || by_dual, "{text} for {}: wider\n{policy:?}", caller.uid);
                    prop_assert!(ours || !theirs || has_deny, "{text} for {}: narrower\n{policy:?}", caller.uid);
                }
            }
        }
    }
}
