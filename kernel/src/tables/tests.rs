//! Compares the tables with `decide_bind`, for random policies and requests.

use crate::projection::{Groups, decide_bind};
use portgrant_policy::Names;
use portgrant_policy::{Decision, Policy, Source};
use portgrant_protocol::Port;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// Ranges that overlap, that touch, that reach the last id, and a range whose owner's uid is in another range.
const SUBUID: &[u8] = b"alice:2000:3\n1001:2002:2\nuid2:2004:1\n2001:2010:1\n1002:4294967294:9\n1003:0:5\n";
const SUBGID: &[u8] = b"alice:3000:3\n1001:3002:2\n2001:3010:1\n1002:4294967294:1\n";

fn names() -> Names {
    let passwd = b"alice:x:1000:1000:::\nuid1:x:1001:33:::\nuid2:x:1002:1002:::\n";
    Names::of(passwd, b"web:x:33:alice\nmore:x:34:uid2\n", b"").with_subordinate_ids(SUBUID, SUBGID)
}

fn projection(text: &str) -> Projection {
    projection_by(text, Groups::RealGid)
}

fn projection_by(text: &str, groups: Groups) -> Projection {
    let sources = vec![Source { path: "/etc/portgrant.conf".into(), text: text.as_bytes().to_vec() }];
    let policy = Policy::parse(sources, &names()).expect("given").unwrap_or_else(|(_, bad)| panic!("{text}: {bad:?}"));
    Projection::of(policy, groups, &names()).expect("given").expect("all can be decided")
}

fn tables(text: &str) -> Tables {
    Tables::of(&projection(text)).unwrap_or_else(|error| panic!("{}", error.message().what))
}

fn expected(projection: &Projection, bind: &Bind) -> Option<usize> {
    match decide_bind(projection, bind) {
        Decision::Permit(permit) => Some(permit.rule().line),
        Decision::Refuse(_) => None,
    }
}

fn rules() -> impl Strategy<Value = String> {
    let subject = select(vec![
        "alice", "uid:1001", "any", "gid:33", "uid:1002", "uid:1003", "uid:1004", "uid:2002", "gid:34", "gid:3002",
    ]);
    let ports = select(vec![
        "80",
        "80 81",
        "79-82",
        "1-1023",
        "16-31",
        "81 90-4200",
        "80-80 80",
        "65535",
        "255-256",
        "60000-65535",
    ]);
    let protocol = select(vec!["", "/udp"]);
    let on = prop::collection::vec(select(ON.to_vec()), 0..4);
    let effect = select(vec!["permit", "permit", "permit", "deny"]);
    (effect, subject, ports, protocol, on).prop_map(|(effect, subject, ports, protocol, on)| {
        let ports: Vec<_> = ports.split(' ').map(|port| format!("{port}{protocol}")).collect();
        let on = if on.is_empty() { String::new() } else { format!(" on {}", on.join(" ")) };
        let reserved = if effect == "permit" { " reserved" } else { "" };
        format!("{effect} {subject} {}{on}{reserved}\n", ports.join(" "))
    })
}

const ON: [&str; 16] = [
    "0.0.0.0",
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/30",
    "10.0.0.1",
    "0.0.0.0/1",
    "128.0.0.0/1",
    "127.0.0.1",
    "[::]",
    "[::]/0",
    "[::]/64",
    "[::1]",
    "[fe80::]/10",
    "[fe80::1]",
    "[::]/95",
    "[::fffe:0:0]/95",
];
const ADDRESSES: [&str; 14] = [
    "0.0.0.0",
    "10.0.0.1",
    "10.0.0.2",
    "10.9.9.9",
    "127.0.0.1",
    "200.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:0.0.0.0",
    "::",
    "::1",
    "::2",
    "fe80::1",
    "fe80::2",
    "2001:db8::1",
];

fn binds() -> impl Strategy<Value = Bind> {
    let port =
        select(vec![1, 15, 16, 31, 32, 78, 79, 80, 81, 82, 89, 90, 255, 256, 257, 512, 1023, 1024, 4096, 4200, 65535]);
    let (transport, address) = (select(vec![Transport::Tcp, Transport::Udp]), select(ADDRESSES.to_vec()));
    let uid = select(vec![
        0,
        4,
        5,
        1000,
        1001,
        1002,
        1003,
        1004,
        1005,
        1999,
        2000,
        2001,
        2002,
        2003,
        2004,
        2005,
        2010,
        u32::MAX - 1,
    ]);
    let gid = select(vec![33, 34, 1000, 2999, 3000, 3001, 3002, 3003, 3004, 3010, u32::MAX - 1]);
    (uid, gid, transport, address, port).prop_map(|(uid, gid, transport, address, port)| Bind {
        uid,
        gid,
        transport,
        address: address.parse().expect("an address"),
        port: Port::new(port).expect("a port"),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_tables_give_the_verdict_and_rule_of_decide_bind(
        rules in prop::collection::vec(rules(), 0..12), binds in prop::collection::vec(binds(), 40),
    ) {
        let text = rules.concat();
        let projection = projection_by(&text, Groups::Members);
        for single in [LIMITS.single, 0] {
            let tables = Tables::within(&projection, Limits { single, ..LIMITS }).expect("not too large");
            for bind in &binds {
                let found = tables.verdict(bind).permits().map(|place| place.line);
                prop_assert_eq!(found, expected(&projection, bind), "{}\n{:?}", text, bind);
            }
        }
    }
}

/// Any prefix, mostly at the edges of IPv4 and of all addresses.
fn prefix() -> impl Strategy<Value = String> {
    let v4 = 0xffff_0000_0000;
    let edges = [0, 1, 2, v4 - 1, v4, v4 + 1, v4 + 0x0a00_0001, v4 + 0x7fff_ffff, v4 + 0x8000_0000, v4 + 0xffff_ffff]
        .into_iter()
        .chain([v4 << 1, (v4 << 1) + 1, u128::MAX >> 1, 1 << 127, u128::MAX - 1, u128::MAX]);
    let address = prop_oneof![8 => select(edges.collect::<Vec<u128>>()), 1 => any::<u128>()];
    let length = prop_oneof![select(vec![0u8, 1, 64, 80, 81, 95, 96, 97, 127, 128]), 0..=128u8];
    (address, length).prop_map(move |(address, length)| {
        let network = |length: u8| address & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
        let of_v4 = |address: u128| address >> 32 == v4 >> 32;
        match std::net::Ipv6Addr::from_bits(network(length.max(if of_v4(address) { 96 } else { 0 }))).to_ipv4_mapped() {
            Some(v4) => format!("{v4}/{}", length.saturating_sub(96)),
            None => format!("[{}]/{length}", std::net::Ipv6Addr::from_bits(network(length))),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_prefix_has_its_exact_bounds(
        rules in prop::collection::vec((select(vec!["permit alice", "permit any", "deny alice"]), prefix(), prefix()), 1..10),
    ) {
        let text: String = rules.iter().map(|(rule, one, other)| format!("{rule} 80 on {one} {other}\n")).collect();
        let (projection, tables) = (projection(&text), tables(&text));
        let sets = projection.policy().rules.iter().flat_map(|rule| &rule.addresses);
        let edges = sets.flat_map(|set| {
            let (first, length) = match *set {
                AddressSet::V4(network, length) => (network.to_ipv6_mapped().to_bits(), 96 + length),
                AddressSet::V6(network, length) => (network.to_bits(), length),
                AddressSet::V4Wildcard | AddressSet::DualWildcard => (0, 0),
            };
            let last = first | u128::MAX.checked_shr(length.into()).unwrap_or(0);
            [first.wrapping_sub(1), first, first + (last - first) / 2, last, last.wrapping_add(1)]
        });
        for address in edges {
            let address = std::net::Ipv6Addr::from_bits(address).into();
            let bind = Bind { uid: 1000, gid: 1000, transport: Transport::Tcp, address, port: Port::new(80).expect("a port") };
            let found = tables.verdict(&bind).permits().map(|place| place.line);
            prop_assert_eq!(found, expected(&projection, &bind), "{}\n{:?}", text, bind);
        }
    }
}

/// Debian gives every new user a range of 65,536.
#[test]
fn a_range_of_subordinate_ids_is_one_subject() {
    let one = tables("permit any 80\ndeny alice any\n");
    assert_eq!((one.ports.len(), one.entries, one.boundaries.len()), (1, 3, 8), "alice, and two classes");
    let many: String = (5000..5500).map(|uid| format!("deny uid:{uid} any\n")).collect();
    let subuid: String =
        (5000..5500u32).map(|uid| format!("{uid}:{}:65536\n", 100_000 + (uid - 5000) * 65_536)).collect();
    let names = Names::of(b"", b"", b"").with_subordinate_ids(subuid.as_bytes(), b"");
    let sources = vec![Source { path: "/x".into(), text: format!("permit any 80 53/udp\n{many}").into_bytes() }];
    let policy = Policy::parse(sources, &names).expect("given").expect("well-formed");
    let projection = Projection::of(policy, Groups::RealGid, &names).expect("given").expect("decided");
    let tables = Tables::of(&projection).unwrap_or_else(|error| panic!("{}", error.message().what));
    assert_eq!((tables.ports.len(), tables.entries, tables.boundaries.len()), (2, 2000, 512));
}

#[test]
fn one_rule_makes_one_port_entry_and_one_user() {
    let plain = tables("permit alice 80\n");
    assert_eq!((plain.ports.len(), plain.entries, plain.boundaries.len()), (1, 1, 0));
    let loopback = tables("permit alice 80 on 127.0.0.1\n");
    assert_eq!((loopback.ports.len(), loopback.entries, loopback.boundaries.len()), (1, 1, 4));
    let starts: Vec<u128> = loopback.boundaries.iter().map(|boundary| boundary.start).collect();
    let address = u128::from(0xffff_7f00_0001_u64);
    assert_eq!(starts, [0, address, address + 1, u128::MAX], "before it, it, behind it, and a power of two");
    let every = tables("permit any 1-65535 1-65535/udp reserved\n");
    let zeros = [Transport::Tcp, Transport::Udp].map(|transport| every.ports.contains_key(&index(transport, 0)));
    assert_eq!(zeros, [false, false], "port 0: the kernel chooses");
    let last = [Transport::Tcp, Transport::Udp].map(|transport| index(transport, u16::MAX) as usize + 1);
    assert_eq!(last, [PORTS / 2, PORTS]);
    let denied = tables("deny any any\npermit alice 80\n");
    assert!(denied.ports.is_empty(), "a port that nobody has is not there");
}

/// Half a megabyte of rules. Comparing each list for each port would take 60 s.
#[test]
fn long_address_lists_for_many_ports_compile_quickly() {
    let list: String = (0..20_000).map(|n| format!(" 10.{}.{}.1", n >> 8, n & 255)).collect();
    let ports: String = (1..2000).step_by(2).map(|port| format!(" {port}")).collect();
    let begin = std::time::Instant::now();
    tables(&format!("permit alice{ports} on{list} reserved\n"));
    assert!(begin.elapsed() < std::time::Duration::from_secs(10), "{:?}", begin.elapsed());
}

fn within(projection: &Projection, entries: usize) -> Result<Tables, Error> {
    Tables::within(projection, Limits { entries, ..LIMITS })
}

#[test]
fn a_policy_that_would_take_too_long_is_an_error() {
    // One address at 4 ports, both at 6, the other at 10. Each counts once for its rule and once for itself.
    let addresses = "permit uid:1 1-10 on 10.0.0.1\npermit uid:1 5-20 on 10.0.0.2\n";
    let within = |work| Tables::within(&projection(addresses), Limits { work, ..LIMITS });
    assert!(within(8).is_ok() && within(7).is_err_and(|error| error.message().status == 78));
}

#[test]
fn classes_of_subordinate_ids_take_so_much_work_and_none_is_before_the_first() {
    let least = |text: &str| {
        let projection = projection(text);
        (0..).find(|&most| classes(&projection.policy().rules, most).is_ok())
    };
    assert_eq!(least("permit any 80\ndeny alice 80\n"), Some(2), "her range, and that of one of it");
    assert_eq!(least("permit any 80\ndeny alice 80\ndeny uid:1001 80\n"), Some(5));
    let names = Names::of(b"", b"", b"").with_subordinate_ids(b"1000:1:3\n", b"");
    let sources = vec![Source { path: "/x".into(), text: b"permit any 80\ndeny uid:1000 any\n".to_vec() }];
    let policy = Policy::parse(sources, &names).expect("given").expect("well-formed");
    let projection = Projection::of(policy, Groups::RealGid, &names).expect("given").expect("decided");
    let tables = Tables::of(&projection).expect("small");
    let permitted = [0, 1, 3, 4].map(|uid| tables.verdict(&http(uid)).permits().is_some());
    assert_eq!(permitted, [true, false, false, true]);
}

#[test]
fn a_deny_of_an_address_is_of_its_family_for_udp_and_a_permit_is_not() {
    let rules = |text: &str| -> Vec<(usize, usize)> {
        let projection = projection(text);
        projection.policy().rules.iter().map(|rule| (rule.ports.len(), rule.addresses.len())).collect()
    };
    assert_eq!(rules("deny any 53/udp 54/udp on 10.0.0.1 10.0.0.2\n"), [(2, 1)]);
    assert_eq!(rules("deny any 53/udp 54 on 10.0.0.1 10.0.0.2\n"), [(1, 2), (2, 1)]);
    let tables = tables("permit any 80/udp on 10.0.0.1\n");
    let bind =
        |address: &str| Bind { transport: Transport::Udp, address: address.parse().expect("an address"), ..http(1000) };
    let permitted = ["10.0.0.1", "10.0.0.2"].map(|address| tables.verdict(&bind(address)).permits().is_some());
    assert_eq!(permitted, [true, false]);
}

#[test]
fn subordinate_ids_are_looked_up_where_a_permit_meets_a_deny() {
    let has_uids =
        |text: &str| projection(text).policy().rules.iter().any(|rule| matches!(rule.subject, Subject::Uids(..)));
    assert!(has_uids("permit any 80\ndeny alice any\n") && !has_uids("deny alice any\n"));
}

/// The program in the kernel uses the same numbers.
#[test]
fn a_key_and_a_verdict_are_laid_out_as_the_program_reads_them() {
    assert_eq!(Key::new(5, Transport::Udp, 80, 1000), Key(1000 << 32 | 80 << 16 | 17 << 8 | 5));
    assert_eq!(Key::new(1, Transport::Tcp, 80, 1000), Key(1000 << 32 | 80 << 16 | 6 << 8 | 1));
    let sources = ["", "\npermit any 80\n"].map(|text| Source { path: "/x".into(), text: text.into() });
    let policy = Policy::parse(sources.into(), &names()).expect("given").expect("well-formed");
    let verdict = Verdict::of(&policy.rules[0]);
    assert_eq!(
        (verdict, verdict.permits().map(|place| (place.file, place.line))),
        (Verdict(1 << 32 | 2), Some((1, 2)))
    );
}

#[test]
fn ports_have_their_own_entries_up_to_a_limit_and_blocks_beyond() {
    let entries = |text: &str, single| {
        Tables::within(&projection(text), Limits { single, ..LIMITS }).expect("not too large").entries
    };
    let users = "permit uid:1 16-31\npermit any 16-31 40-63\n";
    assert_eq!((entries(users, 16), entries(users, 15)), (16, 1));
    assert_eq!(entries("permit uid:1 80 200\n", 0), 2, "and nothing between them");
}

#[test]
fn each_of_many_users_of_a_port_is_found() {
    let users = 1..=u32::try_from(2 * FEW).expect("few");
    let tables = tables(&users.clone().map(|uid| format!("permit uid:{uid} 80\n")).collect::<String>());
    assert!(users.clone().all(|uid| tables.verdict(&http(uid)).permits().is_some()));
    assert_eq!(tables.verdict(&http(users.end() + 1)), Verdict::NOTHING);
}

fn http(uid: u32) -> Bind {
    Bind {
        uid,
        gid: uid,
        transport: Transport::Tcp,
        address: "127.0.0.1".parse().expect("an address"),
        port: Port::new(80).expect("a port"),
    }
}

#[test]
fn a_datagram_socket_of_both_families_is_denied_what_one_of_them_is() {
    let text = "permit any 80/udp\ndeny alice 80/udp on [::1]\n";
    let (projection, tables) = (projection(text), tables(text));
    for (address, permitted) in [("10.0.0.1", true), ("::ffff:10.0.0.1", false), ("fe80::1", false)] {
        let address = address.parse().expect("an address");
        let bind = Bind { transport: Transport::Udp, address, ..http(1000) };
        assert_eq!(tables.verdict(&bind).permits().is_some(), permitted, "{address}");
        assert_eq!(expected(&projection, &bind).is_some(), permitted, "{address}");
    }
}

#[test]
fn a_policy_that_needs_too_much_kernel_memory_is_an_error() {
    let text = "permit uid:1 2-65534 reserved\npermit uid:2 2-65534 on 10.0.0.0/8 reserved\n";
    let projection = projection(text);
    let blocks = Limits { entries: 150, single: 0, ..LIMITS };
    assert!(Tables::within(&projection, blocks).is_err_and(|error| error.message().status == 78));
    assert!(within(&projection, 131_065).is_err(), "2 users at 65,533 ports");
    assert!(within(&projection, 131_066).is_ok());
    let loopback = (1..100).map(|net| format!(" 127.0.{net}.1")).collect::<String>();
    let projection = self::projection(&format!("permit uid:1 80 on{loopback}\n"));
    assert!(within(&projection, 255).is_err() && within(&projection, 256).is_ok());
    let classes = self::projection("permit any 80\ndeny alice any\n");
    assert!(within(&classes, 7).is_err() && within(&classes, 8).is_ok(), "boundaries of subordinate ids");
    let closed = self::projection("deny uid:1 1 3 5 7\n");
    assert!(within(&closed, 3).is_err() && within(&closed, 4).is_ok(), "intervals");
}
