//! The kernel mode: what the loaded policy lets bind, and what stays as it was. Each test has a cgroup of its own, and the
//! policy holds in its world's network alone.

use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::time::Duration;

use portgrant_kernel::about::About;
use portgrant_kernel::assembly::Assembly;
use portgrant_kernel::bpf::{self, Hook, Kind, Link, Map, Program, ReadOnly, Shape};
use portgrant_kernel::program;
use portgrant_kernel::projection::{Bind, Groups, Projection, Transport, decide_bind};
use portgrant_policy::{Decision, Names, Policy, Source};
use portgrant_protocol::Port;
use portgrant_tests::{Cgroup, Install, KERNEL, Outcome, Running, Signal, World, skip};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

/// Binds what each line of its input asks for, as whom it says: `UID GID PROTOCOL FAMILY ADDRESS PORT`, in a child each.
const PROBE: &str = r#"
import errno, os, socket, sys
for line in sys.stdin:
    uid, gid, protocol, family, address, port = line.split()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(*[int(gid)] * 3)
        os.setresuid(*[int(uid)] * 3)
        kind = socket.SOCK_DGRAM if protocol in ("udp", "udplite") else socket.SOCK_STREAM
        number = {"tcp": 6, "udp": 17, "mptcp": 262, "udplite": 136}[protocol]
        try:
            s = socket.socket(socket.AF_INET6 if family == "6" else socket.AF_INET, kind, number)
            s.bind((address, int(port)))
            said = "bound"
        except OSError as e:
            said = errno.errorcode[e.errno]
        print(said, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"#;

/// Runs `test` where BPF programs can be loaded.
pub(crate) fn with_kernel_mode(test: impl FnOnce(&World, &Cgroup) + Send + 'static) {
    World::with(Install::FileCapability, |world| match world.cgroup() {
        Some(cgroup) => test(world, &cgroup),
        None => skip("BPF programs are loaded by root of the first user namespace alone"),
    });
}

pub(crate) fn kernel(world: &World, words: &[&str]) -> Outcome {
    world.as_root().run([&[KERNEL], words].concat())
}

pub(crate) fn load(world: &World, cgroup: &Cgroup, words: &[&str]) -> Outcome {
    let path = cgroup.path().to_str().expect("a plain path");
    kernel(world, &[&["load", "--cgroup", path], words].concat())
}

/// What became of each bind, made in `cgroup`.
pub(crate) fn binds(world: &World, cgroup: &Cgroup, asked: &[impl AsRef<str>]) -> Vec<String> {
    let input = asked.iter().map(|line| line.as_ref().to_owned() + "\n").collect::<String>();
    let outcome = world.as_root().in_cgroup(cgroup).stdin(input).run(["python3", "-c", PROBE]);
    let said: Vec<String> = outcome.succeeds().stdout.lines().map(str::to_owned).collect();
    assert_eq!(said.len(), asked.len(), "{outcome}");
    said
}

#[track_caller]
fn expect(world: &World, cgroup: &Cgroup, expected: &[(&str, &str)]) {
    let asked: Vec<&str> = expected.iter().map(|(asked, _)| *asked).collect();
    let said = binds(world, cgroup, &asked);
    let found: Vec<(&str, &str)> = asked.into_iter().zip(said.iter().map(String::as_str)).collect();
    assert_eq!(found, expected);
}

/// PG-21
#[test]
fn what_the_policy_permits_is_bound_without_privilege_and_nothing_else_is() {
    with_kernel_mode(|world, cgroup| {
        world.policy("permit alice 80 on 127.0.0.0/8 [::1]\npermit alice 53/udp\npermit any 443\ndeny bob 443\n");
        expect(world, cgroup, &[("1000 1000 tcp 4 127.0.0.1 80", "EACCES"), ("1000 1000 udp 4 0.0.0.0 53", "EACCES")]);
        load(world, cgroup, &[]).succeeds().is_silent();
        let expected = [
            ("1000 1000 tcp 4 127.0.0.1 80", "bound"),
            ("1000 1000 tcp 4 127.9.9.9 80", "bound"),
            ("1000 1000 tcp 6 ::1 80", "bound"),
            ("1000 1000 tcp 6 ::ffff:127.0.0.1 80", "bound"),
            // Another user, port, protocol, address, both wildcards.
            ("1001 1001 tcp 4 127.0.0.1 80", "EACCES"),
            ("1000 1000 tcp 4 127.0.0.1 81", "EACCES"),
            ("1000 1000 udp 4 127.0.0.1 80", "EACCES"),
            ("1000 1000 tcp 4 0.0.0.0 80", "EACCES"),
            ("1000 1000 tcp 6 :: 80", "EACCES"),
            ("1000 1000 tcp 6 ::ffff:0.0.0.0 80", "EACCES"),
            ("1000 1000 tcp 6 ::ffff:10.0.0.1 80", "EACCES"),
            ("1000 1000 udp 4 0.0.0.0 53", "bound"),
            ("1000 1000 udp 6 :: 53", "bound"),
            ("1000 1000 tcp 4 0.0.0.0 53", "EACCES"),
            ("1002 1002 tcp 6 :: 443", "bound"),
            ("1001 1001 tcp 6 :: 443", "EACCES"),
            // What needs no privilege, and whom the kernel lets, stay as they were.
            ("1001 1001 tcp 4 127.0.0.1 8080", "bound"),
            ("1001 1001 tcp 4 127.0.0.1 0", "bound"),
            ("0 0 tcp 4 127.0.0.1 81", "bound"),
            ("0 0 udp 4 127.0.0.1 80", "bound"),
        ];
        expect(world, cgroup, &expected);
    });
}

/// PG-21
#[test]
fn mptcp_is_tcp_and_other_protocols_are_none() {
    with_kernel_mode(|world, cgroup| {
        world.policy("permit alice 80 80/udp\n");
        load(world, cgroup, &[]).succeeds();
        let said = binds(world, cgroup, &["1000 1000 mptcp 4 127.0.0.1 80", "1000 1000 mptcp 4 127.0.0.1 81"]);
        if said[0] == "EPROTONOSUPPORT" {
            return skip("this kernel has no mptcp");
        }
        assert_eq!(said, ["bound", "EACCES"]);
        let lite = binds(world, cgroup, &["1000 1000 udplite 4 127.0.0.1 80"]);
        assert!(["EACCES", "EPROTONOSUPPORT"].contains(&lite[0].as_str()), "{lite:?}");
    });
}

/// PG-21
#[test]
fn another_network_and_another_cgroup_are_as_they_were() {
    with_kernel_mode(|world, cgroup| {
        world.policy("permit alice 80\n");
        load(world, cgroup, &[]).succeeds();
        let bind = "import socket; socket.socket().bind(('127.0.0.1', 80))";
        let alice = || world.as_user("alice").in_cgroup(cgroup);
        alice().run(["python3", "-c", bind]).succeeds();
        // Owner of a network of her own she may bind what she likes, by the kernel. Without that capability not.
        let apart =
            ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", "ip link set lo up; exec \"$@\"", "-"];
        alice().run([&apart[..], &["python3", "-c", bind]].concat()).succeeds();
        let powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "python3", "-c", bind];
        alice().run([&apart[..], &powerless].concat()).exits(1).complains("Permission denied");
        // A user namespace alone changes nobody's uid.
        alice().run(["unshare", "--user", "--map-root-user", "python3", "-c", bind]).succeeds();
        world.as_user("alice").run(["python3", "-c", bind]).exits(1).complains("Permission denied");
    });
}

/// PG-21
#[test]
fn a_program_that_cannot_gain_privilege_binds_as_well() {
    with_kernel_mode(|world, cgroup| {
        world.policy("permit alice 80\n");
        load(world, cgroup, &[]).succeeds();
        let bind = "import socket; socket.socket().bind(('127.0.0.1', 80))";
        let confined = world.as_user("alice").in_cgroup(cgroup).no_new_privs().no_bounding_set();
        confined.run(["python3", "-c", bind]).succeeds();
        // The real uid counts, as for the helper.
        world.as_root().uids(1001, 1000, 1000).in_cgroup(cgroup).run(["python3", "-c", bind]).exits(1);
        world.as_root().uids(1000, 1001, 1001).in_cgroup(cgroup).run(["python3", "-c", bind]).succeeds();
    });
}

/// PG-21
#[test]
fn where_no_cgroup_is_named_it_is_all_of_them_and_this_network_alone() {
    with_kernel_mode(|world, cgroup| {
        world.policy("permit alice 80\n");
        kernel(world, &["load"]).succeeds();
        kernel(world, &["show"]).prints("cgroup: /sys/fs/cgroup (id 1)").prints("network: this one");
        let asked = "1000 1000 tcp 4 127.0.0.1 80";
        expect(world, cgroup, &[(asked, "bound")]);
        let apart = ["unshare", "--net", "python3", "-c", PROBE];
        let outcome = world.as_root().in_cgroup(cgroup).stdin(format!("{asked}\n")).run(apart);
        outcome.succeeds().prints("EACCES");
        world.as_root().run(["unshare", "--net", KERNEL, "reload"]).exits(69).complains("another network namespace");
        world.as_root().run(["unshare", "--net", KERNEL, "show"]).succeeds().prints("NOT THIS ONE");
        kernel(world, &["unload"]).succeeds().complains("the last grants were not read");
    });
}

/// PG-22
#[test]
fn what_the_kernel_cannot_see_is_left_out_and_named() {
    with_kernel_mode(|world, cgroup| {
        world.policy(
            "permit alice 80\npermit alice 81 exec /usr/bin/python3\npermit alice 82 dev lo\npermit alice 83/sctp\n\
            permit :web 84\ndeny alice 80 on 127.0.0.9 dev lo\n",
        );
        let outcome = load(world, cgroup, &[]);
        outcome.succeeds();
        for (line, why) in
            [(2, "which program binds"), (3, "the interface"), (4, "sctp is not seen"), (5, "the real gid")]
        {
            outcome.complains(&format!("left out: /etc/portgrant.conf:{line}  permit ")).complains(why);
        }
        kernel(world, &["show"]).prints("rules: 6; left out, or in part: 4").prints(":3  permit alice 82 dev lo");
        let expected = [
            ("1000 1000 tcp 4 127.0.0.1 80", "bound"),
            ("1000 1000 tcp 4 127.0.0.9 80", "EACCES"),
            ("1000 1000 tcp 4 127.0.0.1 81", "EACCES"),
            ("1000 1000 tcp 4 127.0.0.1 82", "EACCES"),
            ("1001 2000 tcp 4 127.0.0.1 84", "bound"),
            ("1001 1001 tcp 4 127.0.0.1 84", "EACCES"),
        ];
        expect(world, cgroup, &expected);
    });
}

/// PG-22
#[test]
fn a_deny_that_the_kernel_cannot_see_is_an_error_and_groups_can_be_expanded() {
    with_kernel_mode(|world, cgroup| {
        world.policy("permit any 80\npermit :web 81\ndeny :web 80\n");
        let outcome = load(world, cgroup, &[]);
        outcome
            .exits(78)
            .complains("a deny cannot be decided in the kernel")
            .complains("portgrant.conf:3  deny :web 80");
        assert!(!fs::exists("/sys/fs/bpf/portgrant").expect("a file system"));
        load(world, cgroup, &["--expand-groups"]).succeeds().is_silent();
        let expected = [
            ("1000 1000 tcp 4 127.0.0.1 80", "bound"),
            ("1001 1001 tcp 4 127.0.0.1 80", "EACCES"),
            ("1005 2000 tcp 4 127.0.0.1 80", "EACCES"),
            ("1001 1001 tcp 4 127.0.0.1 81", "bound"),
            ("1000 1000 tcp 4 127.0.0.1 81", "EACCES"),
        ];
        expect(world, cgroup, &expected);
        kernel(world, &["reload"]).succeeds();
        expect(world, cgroup, &expected);
        // Who its members are must be known.
        for (file, rule) in [("/etc/passwd", ":web"), ("/etc/passwd", "gid:2000"), ("/etc/group", "gid:2000")] {
            world.policy(&format!("permit any 80\npermit gid:2000 81\ndeny {rule} 80\n"));
            let script = format!(
                "cp -p {file} /tmp/whole; echo > {file}; $0 reload; status=$?; cp -p /tmp/whole {file}; exit $status"
            );
            let outcome = world.as_root().run(["sh", "-c", &script, KERNEL]);
            outcome
                .exits(78)
                .complains(&format!("{file} is missing or has no entries, and /etc/portgrant.conf:3 denies a group"));
            expect(world, cgroup, &expected);
        }
    });
}

/// PG-51
#[test]
fn a_deny_holds_for_the_subordinate_ids_of_whom_it_denies() {
    with_kernel_mode(|world, cgroup| {
        world.file("/etc/subuid", "alice:100000:65536\nbob:165536:65536\n");
        world.file("/etc/subgid", "bob:300000:65536\n");
        world.policy("permit any 80 81\ndeny alice 80\n");
        load(world, cgroup, &[]).succeeds().is_silent();
        let asked = |uid: u32, gid: u32, port: u16| format!("{uid} {gid} tcp 4 127.0.0.1 {port}");
        let of = |asked: &[String], said: &[&str]| assert_eq!(binds(world, cgroup, asked), said, "{asked:?}");
        let uids = [1000, 99_999, 100_000, 165_535, 165_536].map(|uid| asked(uid, 7, 80));
        of(&uids, &["EACCES", "bound", "EACCES", "EACCES", "bound"]);
        of(&[asked(100_000, 7, 81)], &["bound"]);
        kernel(world, &["unload"]).succeeds();

        // And of the members of a group, by their gids as well.
        world.policy("permit any 80\ndeny :web 80\n");
        load(world, cgroup, &["--expand-groups"]).succeeds().is_silent();
        let ids = [(1001, 1001), (165_536, 7), (100_000, 7), (7, 2000), (7, 299_999), (7, 300_000), (7, 365_535)];
        let said = ["EACCES", "EACCES", "bound", "EACCES", "bound", "EACCES", "EACCES"];
        of(&ids.map(|(uid, gid)| asked(uid, gid, 80)), &said);
    });
}

/// PG-50
#[test]
fn an_address_in_a_deny_holds_no_udp_socket_that_could_send_from_it() {
    with_kernel_mode(|world, cgroup| {
        world.policy("permit any 53/udp 53 54/udp\ndeny any 53 on 127.0.0.53\ndeny any 54 on [::1]\n");
        load(world, cgroup, &[]).succeeds().is_silent();
        let expected = [
            ("1000 1000 udp 4 127.0.0.53 53", "EACCES"),
            ("1000 1000 udp 4 127.0.0.1 53", "EACCES"),
            ("1000 1000 udp 4 0.0.0.0 53", "EACCES"),
            ("1000 1000 udp 6 ::ffff:127.0.0.1 53", "EACCES"),
            ("1000 1000 udp 6 :: 53", "EACCES"),
            ("1000 1000 udp 6 ::1 53", "bound"),
            ("1000 1000 tcp 4 127.0.0.1 53", "bound"),
            ("1000 1000 tcp 4 127.0.0.53 53", "EACCES"),
            // IPv6 is denied: an AF_INET socket cannot send from there, and an AF_INET6 one can, whatever it is bound to.
            ("1000 1000 udp 4 127.0.0.1 54", "bound"),
            ("1000 1000 udp 4 0.0.0.0 54", "bound"),
            ("1000 1000 udp 6 ::ffff:127.0.0.1 54", "EACCES"),
            ("1000 1000 udp 6 ::ffff:0.0.0.0 54", "EACCES"),
            ("1000 1000 udp 6 ::1 54", "EACCES"),
        ];
        expect(world, cgroup, &expected);
    });
}

/// PG-22
#[test]
fn a_policy_that_is_no_good_leaves_the_old_one() {
    with_kernel_mode(|world, cgroup| {
        world.policy("permit alice 80\n");
        load(world, cgroup, &[]).succeeds();
        let still = [("1000 1000 tcp 4 127.0.0.1 80", "bound"), ("1000 1000 tcp 4 127.0.0.1 81", "EACCES")];
        let before = kernel(world, &["show"]).stdout;
        let reload = |what: &str| {
            kernel(world, &["reload"]).exits(78).complains(what);
            expect(world, cgroup, &still);
        };
        world.policy("permit alice 81\npermit alice\n");
        reload("/etc/portgrant.conf:2:13: ");
        world.policy("permit alice 81\ndeny :web 80\n");
        reload("a deny cannot be decided");
        world.policy("permit alice 81");
        reload("'permit alice 81' has no line feed at its end, so it may be cut off");
        world.policy("permit alice 81\n");
        fs::set_permissions("/etc/portgrant.conf", fs::Permissions::from_mode(0o666)).expect("chmod");
        reload("the policy cannot be used");
        fs::remove_file("/etc/portgrant.conf").expect("remove");
        reload("the policy cannot be used");
        assert_eq!(kernel(world, &["show"]).stdout, before.replace("grants: 0", "grants: 5"));
        world.policy("permit alice 81\n");
        kernel(world, &["reload"]).succeeds().is_silent();
        expect(world, cgroup, &[(still[0].0, "EACCES"), (still[1].0, "bound")]);
    });
}

/// PG-23
#[test]
fn unload_leaves_nothing() {
    with_kernel_mode(|world, cgroup| {
        let asked = "1000 1000 tcp 4 127.0.0.1 80";
        for verb in ["show", "reload", "unload", "audit"] {
            kernel(world, &[verb]).exits(69).complains("no policy is loaded");
        }
        world.policy("permit alice 80\n");
        for _ in 0..2 {
            load(world, cgroup, &[]).succeeds();
            load(world, cgroup, &[]).exits(69).complains("a policy is loaded already");
            expect(world, cgroup, &[(asked, "bound")]);
            kernel(world, &["unload"]).succeeds().complains("the last grants were not read");
            expect(world, cgroup, &[(asked, "EACCES")]);
            kernel(world, &["show"]).exits(69).complains("no policy is loaded");
            let left = fs::read_dir("/sys/fs/bpf").expect("a BPF file system").flatten();
            let left: Vec<_> = left.map(|entry| entry.file_name()).filter(|name| name != "maps.debug").collect();
            assert!(left.iter().all(|name| name == "progs.debug"), "{left:?}");
        }
    });
}

/// PG-23
#[test]
fn what_another_version_loaded_is_not_given_this_ones_tables() {
    with_kernel_mode(|world, cgroup| {
        let holds = [("1000 1000 tcp 4 127.0.0.1 80", "bound")];
        let another = || {
            for verb in ["show", "reload", "audit"] {
                kernel(world, &[verb]).exits(69).complains("another version of portgrant-kernel loaded the policy");
            }
            expect(world, cgroup, &holds);
            kernel(world, &["unload"]).succeeds();
        };
        world.policy("permit alice 80\n");
        load(world, cgroup, &[]).succeeds();
        let pin = c"/sys/fs/bpf/portgrant/about-1";
        let told = Map::open(pin).and_then(|map| map.read(&[0; 4])).expect("what is known of it").expect("an element");
        let mut about = About::from_bytes(&told).expect("this version's");
        about.program += 1;
        let told = about.to_bytes();
        let shape =
            Shape { kind: Kind::Array, name: "about", key: 4, value: told.len(), entries: 1, read_only: ReadOnly::No };
        let map = Map::create(shape, None).expect("a map");
        map.set(&[0; 4], &told).expect("an element");
        fs::remove_file("/sys/fs/bpf/portgrant/about-1").expect("a pin");
        bpf::pin(map.as_fd(), pin).expect("a pin");
        another();
        load(world, cgroup, &[]).succeeds();
        fs::remove_file("/sys/fs/bpf/portgrant/buckets").expect("a pin");
        another();
    });
}

/// PG-23
#[test]
fn what_was_interrupted_is_said_and_cleared_by_unload_and_by_load() {
    with_kernel_mode(|world, cgroup| {
        world.policy("permit alice 80\n");
        load(world, cgroup, &[]).succeeds();
        // As if the loader had been killed in the middle.
        let interrupted = || {
            fs::remove_file("/sys/fs/bpf/portgrant/bind6").expect("a pin");
            kernel(world, &["show"]).exits(78).complains("was interrupted");
            kernel(world, &["reload"]).exits(78).complains("portgrant-kernel unload removes it");
        };
        interrupted();
        kernel(world, &["unload"]).succeeds();
        expect(world, cgroup, &[("1000 1000 tcp 4 127.0.0.1 80", "EACCES")]);
        load(world, cgroup, &[]).succeeds();
        interrupted();
        load(world, cgroup, &[]).succeeds();
        expect(world, cgroup, &[("1000 1000 tcp 4 127.0.0.1 80", "bound"), ("1000 1000 tcp 6 ::1 80", "bound")]);
        kernel(world, &["unload"]).succeeds();
        expect(world, cgroup, &[("1000 1000 tcp 4 127.0.0.1 80", "EACCES")]);
    });
}

/// Binds as fast as it can, counts what it was told, and says so on SIGTERM.
const STORM: &str = r#"
import collections, errno, os, signal, socket, sys, time
protocol, expected, address, port = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
said = collections.Counter()
def end(*_):
    print(sum(said.values()), dict(said), flush=True)
    os._exit(0 if set(said) <= set(expected.split(",")) else 1)
signal.signal(signal.SIGTERM, end)
family = socket.AF_INET6 if ":" in address else socket.AF_INET
kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
print("ready", flush=True)
while True:
    with socket.socket(family, kind) as s:
        try:
            s.bind((address, port))
            said["bound"] += 1
        except OSError as e:
            said[errno.errorcode[e.errno]] += 1
"#;

fn storm(world: &World, cgroup: &Cgroup, bind: [&str; 4]) -> Running {
    let words = [&["python3", "-c", STORM], &bind[..]].concat();
    let running = world.as_user("alice").in_cgroup(cgroup).spawn(words);
    until("the storm begins", || !running.output().0.is_empty());
    running
}

#[track_caller]
fn calm(storm: Running, what: &str) {
    storm.signal(Signal::SIGTERM);
    let outcome = storm.wait(Duration::from_secs(10));
    assert!(outcome.status.success(), "{what}: {outcome}");
    let counted = outcome.stdout.lines().nth(1).and_then(|line| line.split(' ').next()?.parse::<u32>().ok());
    assert!(counted.is_some_and(|count| count > 100), "{what}: too few binds: {outcome}");
}

/// PG-23
#[test]
fn in_a_storm_of_binds_no_reload_is_ever_seen_by_halves() {
    with_kernel_mode(|world, cgroup| {
        // The same numbers mean other sets and other ports in each: a decision out of two generations would be wrong.
        let one = "permit alice 80 on 127.0.0.1 [::1]\npermit alice 90 on 127.0.0.2\ndeny alice 81\npermit any 81\npermit any 53/udp\n";
        let other = "permit alice 90 on 127.0.0.3\npermit alice 91 on 127.0.0.2\npermit alice 80 on 127.0.0.0/29 [::1]\n\
            deny alice 80 on 127.0.0.2\npermit bob 81\npermit alice 53/udp 70-79\n";
        world.policy(one);
        load(world, cgroup, &[]).succeeds();
        let storms = [
            ["tcp", "bound,EADDRINUSE", "127.0.0.1", "80"],
            ["tcp", "bound,EADDRINUSE", "::1", "80"],
            ["udp", "bound,EADDRINUSE", "127.0.0.1", "53"],
            ["tcp", "EACCES", "127.0.0.2", "80"],
            ["tcp", "EACCES", "127.0.0.1", "81"],
            ["tcp", "EACCES", "127.0.0.1", "90"],
        ];
        let running: Vec<_> = storms.iter().map(|&bind| (storm(world, cgroup, bind), bind)).collect();
        for round in 0..40 {
            world.policy(if round % 2 == 0 { other } else { one });
            kernel(world, &["reload"]).succeeds().is_silent();
        }
        kernel(world, &["show"]).prints("(generation 41)");
        for (storm, bind) in running {
            calm(storm, &bind.join(" "));
        }
    });
}

/// PG-23
#[test]
fn in_a_storm_of_binds_load_and_unload_grant_nothing_else() {
    with_kernel_mode(|world, cgroup| {
        world.policy("permit alice 80 on 127.0.0.1\ndeny alice 81\npermit any 81\n");
        let never = [["tcp", "EACCES", "127.0.0.1", "81"], ["tcp", "EACCES", "127.0.0.2", "80"]];
        let now_and_then = ["tcp", "EACCES,bound,EADDRINUSE", "127.0.0.1", "80"];
        let running =
            [storm(world, cgroup, never[0]), storm(world, cgroup, never[1]), storm(world, cgroup, now_and_then)];
        for _ in 0..8 {
            load(world, cgroup, &[]).succeeds();
            let bound = &binds(world, cgroup, &["1000 1000 tcp 4 127.0.0.1 80"])[0];
            assert!(bound == "bound" || bound == "EADDRINUSE", "{bound}");
            kernel(world, &["unload"]).succeeds();
            expect(world, cgroup, &[("1000 1000 tcp 4 127.0.0.1 80", "EACCES")]);
        }
        for storm in running {
            calm(storm, "load and unload");
        }
    });
}

/// PG-23
#[test]
fn reloads_at_the_same_time_come_one_after_the_other() {
    with_kernel_mode(|world, cgroup| {
        world.policy("permit alice 80\n");
        load(world, cgroup, &[]).succeeds();
        let reloads: Vec<_> = (0..8).map(|_| world.as_root().spawn([KERNEL, "reload"])).collect();
        for reload in reloads {
            reload.wait(Duration::from_secs(120)).succeeds();
        }
        kernel(world, &["show"]).prints("(generation 9)");
        let about = fs::read_dir("/sys/fs/bpf/portgrant").expect("pins").flatten();
        let about = about.filter(|entry| entry.file_name().to_string_lossy().starts_with("about-")).count();
        assert_eq!(about, 2, "what is known of old generations stays");
    });
}

/// PG-21
#[test]
fn programs_of_others_at_the_same_cgroup_keep_their_say() {
    with_kernel_mode(|world, cgroup| {
        world.policy("permit alice 80\n");
        load(world, cgroup, &[]).succeeds();
        let asked = "1000 1000 tcp 4 127.0.0.1 80";
        let other = |answer| {
            let mut code = Assembly::default();
            code.exit(answer);
            let program = Program::load(&code.finish(), Hook::Bind4, "other").expect("a program");
            let folder = fs::File::open(cgroup.path()).expect("the cgroup");
            Link::attach(&program, folder.as_fd(), Hook::Bind4).expect("a link")
        };
        let indifferent = other(1);
        expect(world, cgroup, &[(asked, "bound"), ("1000 1000 tcp 4 127.0.0.1 81", "EACCES")]);
        let denying = other(0);
        expect(world, cgroup, &[(asked, "EPERM"), ("1001 1001 tcp 4 127.0.0.1 8080", "EPERM")]);
        drop((indifferent, denying));
    });
}

/// PG-24
#[test]
fn all_privilege_but_two_capabilities_is_gone_before_anything_is_read() {
    with_kernel_mode(|world, cgroup| {
        world.policy("permit alice 80 on 127.0.0.1\n");
        let path = cgroup.path().to_str().expect("a plain path");
        let calls = "--trace=capset,prctl,openat,open,bpf,getsockopt,mkdir";
        let traced = ["strace", "-v", "-s0", "-o", "/tmp/strace", calls, KERNEL, "load", "--cgroup", path];
        world.as_root().run(traced).succeeds();
        let record = fs::read_to_string("/tmp/strace").expect("a record");
        let both = "1<<CAP_NET_ADMIN|1<<CAP_BPF";
        let mut effective = "everything".to_owned();
        let (mut loaded, mut read) = (0, 0);
        for line in record.lines() {
            if line.starts_with("capset(") {
                let sets = line.split('{').nth(2).expect("sets");
                effective =
                    sets.split("effective=").nth(1).and_then(|rest| rest.split(',').next()).expect("a set").into();
                let permitted = sets.split("permitted=").nth(1).and_then(|rest| rest.split(',').next()).expect("a set");
                assert!([both, "0"].contains(&permitted) && line.ends_with("= 0"), "{line}");
            } else if line.starts_with("bpf(") {
                assert_eq!(effective, both, "{line}");
                loaded += 1;
            } else if line.contains("\"/etc\"")
                || line.contains("\"portgrant.conf\"")
                || line.contains("/sys/fs/cgroup")
            {
                assert_eq!(effective, "0", "{line}");
                read += 1;
            }
        }
        assert!(loaded > 10 && read > 0 && effective == "0", "{record}");
        assert!(record.contains("prctl(PR_SET_NO_NEW_PRIVS, 1"), "{record}");
    });
}

/// PG-24
#[test]
fn nobody_but_root_loads_and_nothing_that_others_pinned_is_believed() {
    with_kernel_mode(|world, cgroup| {
        world.policy("permit alice 80\n");
        let path = cgroup.path().to_str().expect("a plain path");
        for verb in [&["load", "--cgroup", path][..], &["show"], &["unload"], &["reload"]] {
            let outcome = world.as_user("alice").run([&[KERNEL], verb].concat());
            outcome.exits(77).complains("run it as root");
        }
        let folder = "/sys/fs/bpf/portgrant";
        fs::create_dir(folder).expect("a folder");
        chown(folder, Some(1000), Some(1000)).expect("chown");
        for mode in [0o755, 0o700] {
            fs::set_permissions(folder, fs::Permissions::from_mode(mode)).expect("chmod");
            load(world, cgroup, &[])
                .exits(78)
                .complains("the pinned files are not trusted")
                .complains("it does not belong to root");
        }
        chown(folder, Some(0), Some(0)).expect("chown");
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).expect("chmod");
        load(world, cgroup, &[]).exits(78).complains("users other than root can enter it");
        fs::remove_dir(folder).expect("rmdir");
        load(world, cgroup, &[]).succeeds();
        let folder = fs::metadata(folder).expect("our folder");
        assert_eq!((folder.uid(), folder.mode() & 0o777), (0, 0o700));
        for pin in fs::read_dir("/sys/fs/bpf/portgrant").expect("our folder").flatten() {
            assert_eq!(pin.metadata().expect("a pin").mode() & 0o077, 0, "{:?}", pin.path());
        }
    });
}

#[test]
fn what_is_missing_or_wrong_is_said() {
    with_kernel_mode(|world, cgroup| {
        world.policy("permit alice 80\n");
        kernel(world, &[]).exits(64).complains("no command is given");
        kernel(world, &["lode"]).exits(64).complains("'lode'");
        kernel(world, &["--help"]).succeeds().prints("portgrant-kernel load --cgroup").prints("Exit status");
        kernel(world, &["--version"]).succeeds().prints("portgrant-kernel 0.");
        kernel(world, &["load", "--cgroup", "/tmp"]).exits(69).complains("/tmp is not a cgroup");
        kernel(world, &["load", "--cgroup", "/sys/fs/cgroup/none"]).exits(69).complains("No such file");
        let path = cgroup.path().to_str().expect("a plain path");
        kernel(world, &["load", "--cgroup", path, "--dry-run"])
            .succeeds()
            .prints("rules: 1, ports: 1, entries: 1, intervals of addresses: 0");
        kernel(world, &["show"]).exits(69);
        world.as_root().run(["umount", "/sys/fs/bpf"]).succeeds();
        load(world, cgroup, &[]).exits(69).complains("mount -t bpf -o mode=0700 bpf /sys/fs/bpf");
    });
}

#[test]
fn where_the_cgroup_is_gone_that_is_said() {
    with_kernel_mode(|world, cgroup| {
        world.policy("permit alice 80\n");
        let below = cgroup.path().join("below");
        fs::create_dir(&below).expect("a cgroup");
        kernel(world, &["load", "--cgroup", below.to_str().expect("a plain path")]).succeeds();
        fs::remove_dir(&below).expect("rmdir");
        // The kernel takes the links down when it gets to it.
        let mut patience = 1000;
        while !kernel(world, &["show"]).succeeds().stdout.contains("NOTHING IS GRANTED") {
            assert!(patience > 0, "{}", kernel(world, &["show"]));
            patience -= 1;
            std::thread::sleep(Duration::from_millis(10));
        }
        kernel(world, &["reload"]).exits(69).complains("the policy is no longer attached");
        kernel(world, &["unload"]).succeeds();
    });
}

/// PG-24, PG-25
#[test]
fn each_grant_is_the_helpers_line_in_the_log_and_what_came_before_the_reader_too() {
    with_kernel_mode(|world, cgroup| {
        let log = world.syslog();
        world.policy("permit bob 79\npermit alice 80\n");
        world.policy_file("more.conf", "# for dns\npermit any 53/udp 8080\n");
        load(world, cgroup, &[]).succeeds();
        kernel(world, &["show"]).prints("NOBODY READS THE GRANTS");
        binds(world, cgroup, &["1000 1000 tcp 6 :: 80", "1000 1000 tcp 4 127.0.0.1 81"]);
        let audit = world.as_root().spawn([KERNEL, "audit"]);
        let lines = |count: usize| {
            until("there are so many lines", || log.lines().len() >= count);
            log.lines()
        };
        let ends = |lines: &[String], at: usize, end: &str| {
            let line = lines.get(at).unwrap_or_else(|| panic!("no line {at}: {lines:?}"));
            assert!(line.starts_with("<86>portgrant-kernel[") && line.ends_with(end), "{line}");
        };
        ends(&lines(1), 0, "]: grant uid=1000 gid=1000 verb=kernel endpoint=80/tcp rule=/etc/portgrant.conf:2");
        let status = fs::read_to_string(format!("/proc/{}/status", audit.pid())).expect("its status");
        let only_bpf = |set: &str| status.contains(&format!("{set}:\t0000008000000000\n"));
        assert!(only_bpf("CapPrm") && only_bpf("CapEff"), "the reader keeps CAP_BPF alone: {status}");
        kernel(world, &["show"]).prints("read by portgrant-kernel audit").prints("grants: 1; 0 requests");
        kernel(world, &["audit"]).exits(69).complains("another portgrant-kernel audit reads");

        // Another generation, other numbers; and a port for which nobody needs a grant leaves no line.
        world.policy("permit alice 80\n");
        kernel(world, &["reload"]).succeeds();
        let asked =
            ["7 8 tcp 4 0.0.0.0 8080", "7 8 udp 4 127.0.0.1 53", "1000 1000 tcp 4 0.0.0.0 80", "5 5 tcp 4 0.0.0.0 80"];
        binds(world, cgroup, &asked);
        let found = lines(3);
        ends(&found, 1, "grant uid=7 gid=8 verb=kernel endpoint=127.0.0.1:53/udp rule=/etc/portgrant.d/more.conf:2");
        ends(&found, 2, "grant uid=1000 gid=1000 verb=kernel endpoint=0.0.0.0:80/tcp rule=/etc/portgrant.conf:1");
        // Nobody waits for a change that is under way.
        let change = world.as_root().spawn(["flock", "--no-fork", "/sys/fs/bpf/portgrant", "sleep", "300"]);
        until("it is locked", || {
            world.as_root().run(["flock", "-n", "/sys/fs/bpf/portgrant", "true"]).status.code() == Some(1)
        });
        binds(world, cgroup, &["1000 1000 tcp 4 127.0.0.3 80"]);
        ends(&lines(4), 3, "endpoint=127.0.0.3:80/tcp rule=/etc/portgrant.conf:1");
        drop(change);
        kernel(world, &["unload"]).succeeds();
        audit.wait(Duration::from_secs(10)).succeeds();
        assert_eq!(log.lines().len(), 4);
    });
}

/// PG-25
#[test]
fn grants_that_found_no_room_are_counted_and_told() {
    with_kernel_mode(|world, cgroup| {
        let log = world.syslog();
        world.policy("permit alice 80\n");
        load(world, cgroup, &[]).succeeds();
        let flood = "import socket\nfor _ in range(20000):\n    with socket.socket() as s: s.bind(('127.0.0.1', 80))\n";
        world.as_user("alice").in_cgroup(cgroup).run(["python3", "-c", flood]).succeeds();
        let shown = kernel(world, &["show", "--format", "json"]).stdout;
        let number = |name: &str| {
            let rest = shown.split(&format!("\"{name}\":")).nth(1).expect("the field");
            rest.split([',', '}']).next().and_then(|digits| digits.parse::<u32>().ok()).expect("a number")
        };
        let (granted, unlogged) = (number("granted"), number("unlogged"));
        assert!(granted == 20000 && unlogged > 1000 && unlogged < 10000, "{shown}");
        let audit = world.as_root().spawn([KERNEL, "audit"]);
        until("each grant has its line or is told as lost", || log.lines().len() == (granted - unlogged + 1) as usize);
        let lines = log.lines();
        let losses: Vec<&String> = lines.iter().filter(|line| line.contains("lost")).collect();
        let lost = format!("]: lost grants={unlogged} verb=kernel");
        assert!(
            matches!(losses[..], [line] if line.starts_with("<85>") && line.ends_with(&lost)),
            "all at once, and soon: {losses:?}"
        );
        // There is room again, for the very next one.
        binds(world, cgroup, &["1000 1000 tcp 4 127.0.0.1 80"]);
        until("a line tells of a grant after the loss", || log.lines().len() > lines.len());
        // What was told once is not told again by the next reader.
        audit.signal(Signal::SIGTERM);
        let _ = audit.wait(Duration::from_secs(10));
        let _audit = world.as_root().spawn([KERNEL, "audit"]);
        binds(world, cgroup, &["1000 1000 tcp 4 127.0.0.2 80"]);
        let last = || log.lines().last().is_some_and(|line| line.contains("endpoint=127.0.0.2:80/tcp"));
        until("a line tells of a grant after the next reader came", last);
        assert_eq!(log.lines().len(), lines.len() + 2);
    });
}

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
        // What a generation took is given back when it is not in force any more.
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
fn a_kernel_that_finds_the_first_element_alone_is_told_from_this_one() {
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
        // So that ports beyond 1023 are told apart as well.
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

/// Waits for what comes soon.
fn until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..3000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("after 30 s it is not so that {what}");
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
