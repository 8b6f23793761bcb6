//! The kernel's decisions beside those of `decide_bind`, under large policies and random ones.

use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use portgrant_kernel::bpf::{Kind, Map, Program, ReadOnly, Shape};
use portgrant_kernel::program;
use portgrant_kernel::projection::{Bind, Groups, Projection, Transport, decide_bind};
use portgrant_policy::{Decision, Names, Policy, Source};
use portgrant_protocol::Port;
use portgrant_tests::KERNEL;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;

#[test]
fn a_hundred_thousand_rules_are_decided_exactly() {
    with_kernel_mode(|world, cgroup| {
        let mut rules = String::new();
        for n in 0..100_000u32 {
            let (uid, port) = (2000 + n / 5, 1 + n % 500);
            rules += &format!("permit uid:{uid} {port} on 10.{}.{}.0/24\n", n >> 8 & 255, n & 255);
        }
        rules += "deny uid:2001 6\n";
        // More than one page has.
        let many: String = (0..40_000).map(|n| format!(" 172.{}.{}.1", 16 + (n >> 8), n & 255)).collect();
        rules += &format!("permit uid:3 443 on{many}\n");
        world.policy(&rules);
        for sysctl in ["ipv4/ip_nonlocal_bind", "ipv6/ip_nonlocal_bind"] {
            fs::write(format!("/proc/sys/net/{sysctl}"), "1").expect(sysctl);
        }
        load(world, cgroup, &[]).succeeds();
        // Rule n: user 2000 + n / 5, port 1 + n % 500.
        let expected = [
            ("2000 1 tcp 4 10.0.0.7 1", "bound"),
            ("2000 1 tcp 4 10.0.1.7 1", "EACCES"),
            ("2001 1 tcp 4 10.0.5.7 6", "EACCES"),
            ("2001 1 tcp 4 10.0.6.7 7", "bound"),
            ("21999 1 tcp 4 10.134.159.255 500", "bound"),
            ("21999 1 tcp 4 10.134.158.255 500", "EACCES"),
            ("22000 1 tcp 4 10.134.159.255 500", "EACCES"),
            // The first, the last and one of 40,000 addresses, and those beside them.
            ("3 1 tcp 4 172.16.0.0 443", "EACCES"),
            ("3 1 tcp 4 172.16.0.1 443", "bound"),
            ("3 1 tcp 4 172.16.0.2 443", "EACCES"),
            ("3 1 tcp 6 ::ffff:172.40.7.1 443", "bound"),
            ("3 1 tcp 4 172.40.7.0 443", "EACCES"),
            ("3 1 tcp 4 172.172.63.1 443", "bound"),
            ("3 1 tcp 4 172.172.63.2 443", "EACCES"),
            ("3 1 tcp 4 172.172.64.1 443", "EACCES"),
        ];
        expect(world, cgroup, &expected);
        kernel(world, &["reload"]).succeeds();
        expect(world, cgroup, &expected);
        // The memory of a generation is freed when it is no longer active.
        let used = || {
            [(c"/sys/fs/bpf/portgrant/buckets", 256u32), (c"/sys/fs/bpf/portgrant/groups", 128)].map(|(pin, most)| {
                let pages = Map::open(pin).expect("the pages");
                (0..most).filter(|page| pages.read(&page.to_ne_bytes()).expect("a number").is_some()).count()
            })
        };
        assert_eq!(used(), [4, 9], "pages for 100,000 entries, and for 530,000 boundaries");
        world.policy("permit uid:3 443\n");
        kernel(world, &["reload"]).succeeds();
        assert_eq!(used(), [1, 0]);
    });
}

#[test]
fn a_kernel_that_finds_only_the_first_element_is_recognized() {
    with_kernel_mode(|_, _| {
        let shape = Shape { kind: Kind::Array, name: "probe", key: 4, value: 4, entries: 2, read_only: ReadOnly::Yes };
        for (second, answer) in [(program::FOUND, program::FOUND), (0, 0)] {
            let array = Map::create(shape, None).expect("an array");
            array.set(&1u32.to_ne_bytes(), &second.to_ne_bytes()).expect("its second element");
            let maps = Shape { kind: Kind::Maps, entries: 1, read_only: ReadOnly::No, ..shape };
            let outer = Map::create(maps, Some(&array)).expect("an array of maps");
            outer.put(0, &array).expect("an element");
            assert_eq!(Program::run(&program::probe(outer.as_fd().as_raw_fd()), "probe"), Ok(answer));
        }
    });
}

fn rules() -> impl Strategy<Value = String> {
    let subject = select(vec![
        "uid:1000",
        "uid:1001",
        "uid:1002",
        "uid:1003",
        "uid:1004",
        "any",
        "gid:33",
        "gid:2000",
        "uid:100000",
    ]);
    let ports = select(vec!["80", "80 81", "79-82", "1-1023", "16-31 80", "81 90-1500", "70-85", "80-95", "64-127"]);
    let on = prop::collection::vec(select(ON.to_vec()), 0..4);
    let protocol = select(vec!["", "", "/udp"]);
    let effect = select(vec!["permit", "permit", "permit", "permit", "permit", "deny"]);
    (effect, subject, ports, protocol, on).prop_map(|(effect, subject, ports, protocol, on)| {
        let ports: Vec<_> = ports.split(' ').map(|port| format!("{port}{protocol}")).collect();
        let on = if on.is_empty() { String::new() } else { format!(" on {}", on.join(" ")) };
        let reserved = if effect == "permit" { " reserved" } else { "" };
        format!("{effect} {subject} {}{on}{reserved}\n", ports.join(" "))
    })
}

const ON: [&str; 14] = [
    "0.0.0.0",
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/30",
    "10.0.0.1",
    "0.0.0.0/1",
    "127.0.0.1",
    "[::]",
    "[::]/0",
    "[fd00::]/16",
    "[::1]",
    "[fd00::1]",
    "[fd00::]/127",
    "[::]/64",
];

/// Address, and the families of the sockets that can be bound to it.
const ADDRESSES: [(&str, &str); 13] = [
    ("0.0.0.0", "4"),
    ("10.0.0.1", "4"),
    ("10.0.0.2", "4"),
    ("10.9.9.9", "4"),
    ("127.0.0.1", "4"),
    ("192.0.2.1", "4"),
    ("::ffff:10.0.0.1", "6"),
    ("::ffff:0.0.0.0", "6"),
    ("::", "6"),
    ("::1", "6"),
    ("fd00::1", "6"),
    ("fd00::2", "6"),
    ("2001:db8::1", "6"),
];

type Asked = (Bind, &'static str, &'static str);

fn asked() -> impl Strategy<Value = Asked> {
    let port = select(vec![16, 64, 69, 70, 79, 80, 80, 80, 81, 81, 82, 85, 86, 90, 95, 96, 127, 128, 1023, 1024]);
    let (transport, place) = (select(vec![Transport::Tcp, Transport::Udp]), select(ADDRESSES.to_vec()));
    let uid = select(vec![1000, 1000, 1001, 1001, 1002, 1003, 1004, 1005, 100_000, 100_001, 165_535, 165_536, 165_537]);
    let gid = select(vec![33, 1000, 2000, 200_000, 200_001, 200_002]);
    (uid, gid, transport, place, port).prop_map(|(uid, gid, transport, place, port)| {
        let address: IpAddr = place.0.parse().expect("an address");
        (Bind { uid, gid, transport, address, port: Port::new(port).expect("a port") }, place.0, place.1)
    })
}

const SUBUID: &str = "alice:100000:65536\nbob:165535:2\n1002:100001:1\n";

const SUBGID: &str = "bob:200000:2\n";

/// PG-21
#[test]
fn the_kernel_decides_as_decide_bind_does() {
    with_kernel_mode(|world, cgroup| {
        for sysctl in ["ipv4/ip_nonlocal_bind", "ipv6/ip_nonlocal_bind"] {
            fs::write(format!("/proc/sys/net/{sysctl}"), "1").expect(sysctl);
        }
        // So that ports beyond 1023 need a permit as well.
        fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "2000").expect("sysctl");
        world.file("/etc/subuid", SUBUID);
        world.file("/etc/subgid", SUBGID);
        world.policy("# none yet\n");
        load(world, cgroup, &["--expand-groups"]).succeeds();
        let mut runner = TestRunner::default();
        // Now the users at a port are few, then many; and beside so many ports all ranges are blocks.
        let policies = prop::collection::vec(rules(), 0..12);
        let wide: String = (2000..2005).map(|uid| format!("permit uid:{uid} 1-65535 reserved\n")).collect();
        let requests = prop::collection::vec(asked(), 60);
        let (log, mut permitted) = (world.syslog(), 0);
        let _audit = world.as_root().spawn([KERNEL, "audit"]);
        for wide in [wide.as_str(), "# none\n"].repeat(20) {
            let text = policies.new_tree(&mut runner).expect("a policy").current().concat() + wide;
            let requests = requests.new_tree(&mut runner).expect("requests").current();
            world.policy(&text);
            kernel(world, &["reload"]).succeeds();
            let projection = projection(&text);
            let lines: Vec<String> = requests.iter().map(line).collect();
            let mut rules = Vec::new();
            for ((bind, ..), (line, said)) in requests.iter().zip(lines.iter().zip(binds(world, cgroup, &lines))) {
                let expected = match decide_bind(&projection, bind) {
                    Decision::Permit(permit) => {
                        rules.push(format!("rule=/etc/portgrant.conf:{}", permit.rule().line));
                        "bound"
                    }
                    Decision::Refuse(_) => "EACCES",
                };
                assert_eq!(said, expected, "{line}\n{text}");
            }
            // And by the same rule.
            permitted += rules.len();
            until("each grant has its line", || log.lines().len() >= permitted);
            let told: Vec<String> = log.lines().into_iter().skip(permitted - rules.len()).collect();
            let told: Vec<&str> = told.iter().filter_map(|line| line.split(' ').next_back()).collect();
            assert_eq!(told, rules, "{lines:?}\n{text}");
        }
        assert!((100..2300).contains(&permitted), "of 2400 requests {permitted} were permitted: these say little");
    });
}

fn line((bind, address, family): &Asked) -> String {
    let protocol = match bind.transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    };
    format!("{} {} {protocol} {family} {address} {}", bind.uid, bind.gid, bind.port)
}

fn projection(text: &str) -> Projection {
    let [passwd, group] = ["/etc/passwd", "/etc/group"].map(|path| fs::read(path).expect(path));
    let names = Names::of(&passwd, &group, b"").with_subordinate_ids(SUBUID.as_bytes(), SUBGID.as_bytes());
    let sources = vec![Source { path: "/etc/portgrant.conf".into(), text: text.into() }];
    let policy = Policy::parse(sources, &names).expect("given");
    let policy = policy.unwrap_or_else(|(_, problems)| panic!("{text}: {problems:?}"));
    Projection::of(policy, Groups::Members, &names).expect("given").expect("all can be decided")
}
