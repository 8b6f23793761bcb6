//! The kernel mode's compiler: of any policy, the tables decide each bind(2) as `decide_bind` does, by the same rule, and so
//! do tables of blocks, as large policies have them.
#![no_main]

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use portgrant_kernel::projection::{Bind, Groups, Projection, Transport, decide_bind};
use portgrant_kernel::tables::{self, Tables};
use portgrant_policy::{Decision, Names, Policy, Source};
use portgrant_protocol::Port;
use words::Choices;

const SUBJECTS: [&str; 12] = [
    "alice",
    "bob",
    "uid:1002",
    "uid:1003",
    "uid:2002",
    "any",
    "gid:33",
    "gid:34",
    "gid:3002",
    ":web",
    "uid:4294967294",
    "ghost",
];
const PORTS: [u16; 12] = [1, 15, 16, 80, 81, 255, 256, 512, 1023, 1024, 4096, 65535];
const ON: [&str; 14] = [
    "0.0.0.0",
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.1",
    "0.0.0.0/1",
    "128.0.0.0/1",
    "[::]",
    "[::]/0",
    "[::]/64",
    "[::1]",
    "[fe80::]/10",
    "[::]/95",
    "[::fffe:0:0]/95",
    "255.255.255.255",
];

fn names() -> Names {
    let passwd = b"alice:x:1000:1000:::\nbob:x:1001:1001:::\ncarol:x:1002:33:::\n";
    Names::of(passwd, b"web:x:33:alice,bob\n", b"http 80/tcp\n")
        .with_subordinate_ids(b"alice:2000:10\nbob:2005:10\n1002:1003:1\n", b"alice:3000:5\nbob:3003:5\n")
}

fn text(choices: &mut Choices<'_>, uids: &mut Vec<u32>) -> String {
    let mut text = String::new();
    for _ in 0..choices.byte() % 12 {
        let effect = choices.one(&["permit", "permit", "permit", "deny"]);
        let _ = match choices.byte() {
            byte @ 0..=250 => write!(text, "{effect} {}", SUBJECTS[usize::from(byte) % SUBJECTS.len()]),
            _ => {
                uids.push(choices.long().min(u32::MAX - 1));
                write!(text, "{effect} uid:{}", uids.last().copied().unwrap_or_default())
            }
        };
        for _ in 0..=choices.byte() % 3 {
            let first = if choices.byte() & 1 == 0 { choices.one(&PORTS) } else { choices.short().max(1) };
            let last = first.saturating_add(choices.one(&[0, 0, 0, 1, 15, 16, 255, 300, 4096]));
            let _ = write!(text, " {first}-{last}{}", choices.one(&["", "", "/udp", "/tcp", "/sctp"]));
        }
        let count = choices.byte() % 4;
        for index in 0..count {
            let _ = write!(text, "{} {}", if index == 0 { " on" } else { "" }, choices.one(&ON));
        }
        if effect == "permit" {
            text.push_str(choices.one(&[
                " reserved",
                " reserved",
                " reserved dev",
                " reserved reuseport",
                " reserved exec",
            ]));
            text = text.replace(" reserved dev", " dev lo reserved").replace("exec", "exec /bin/true");
        } else if choices.byte() == 1 {
            text.push_str(" dev lo");
        }
        text.push('\n');
    }
    text
}

fn bind(choices: &mut Choices<'_>, uids: &[u32]) -> Bind {
    let uid = match uids.get(usize::from(choices.byte())) {
        Some(uid) => *uid,
        None => choices.one(&[0, 1000, 1001, 1002, 1003, 1999, 2000, 2002, 2005, 2009, 2010, 2014, 2015, u32::MAX - 1]),
    };
    let v4 = choices.one(&[0, 1, 0x0a00_0000, 0x0a00_0001, 0x7f00_0001, 0x8000_0000, u32::MAX]);
    let address: IpAddr = match choices.byte() % 4 {
        0 => Ipv4Addr::from_bits(v4).into(),
        1 => Ipv4Addr::from_bits(v4).to_ipv6_mapped().into(),
        2 => Ipv6Addr::from_bits(choices.one(&[
            0,
            1,
            2,
            0xfe80 << 112,
            0xfe80 << 112 | 1,
            1 << 96,
            u128::MAX,
            0xfffe_0000_0000,
        ]))
        .into(),
        _ => Ipv6Addr::from_bits(u128::from(choices.long()) << 32 | u128::from(choices.long())).into(),
    };
    Bind {
        uid,
        gid: choices.one(&[33, 34, 1000, 2999, 3000, 3002, 3003, 3004, 3005, 3008, u32::MAX - 1]),
        transport: choices.one(&[Transport::Tcp, Transport::Udp]),
        address,
        port: Port::new(if choices.byte() & 1 == 0 { choices.one(&PORTS) } else { choices.short().max(1) })
            .expect("not 0"),
    }
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::of(data);
    let groups = choices.one(&[Groups::Members, Groups::RealGid]);
    let mut uids = Vec::new();
    let text = text(&mut choices, &mut uids);
    let sources = vec![Source { path: "/etc/portgrant.conf".into(), text: text.clone().into_bytes() }];
    let names = names();
    let Ok(policy) = Policy::parse(sources, &names).expect("given") else { return };
    let Ok(projection) = Projection::of(policy, groups, &names).expect("given") else { return };
    let all = [Tables::of(&projection), tables::blocks(&projection)];
    for _ in 0..40 {
        let bind = bind(&mut choices, &uids);
        let expected = match decide_bind(&projection, &bind) {
            Decision::Permit(permit) => Some(permit.rule().line),
            Decision::Refuse(_) => None,
        };
        for tables in all.iter().flatten() {
            let found = tables.verdict(&bind).permits().map(|place| place.line);
            assert_eq!(found, expected, "{text}{bind:?}");
        }
        if choices.is_empty() {
            break;
        }
    }
});
