//! Which binds the loaded policy permits, and which it leaves to the kernel.

use std::fs;
use std::os::fd::AsFd;

use portgrant_kernel::assembly::Assembly;
use portgrant_kernel::bpf::{Hook, Link, Program};
use portgrant_tests::{KERNEL, skip};

use super::*;

/// PG-21
#[test]
fn only_permitted_binds_need_no_privilege() {
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
fn mptcp_is_tcp_and_other_protocols_are_not_permitted() {
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
fn other_networks_and_cgroups_are_not_affected() {
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
fn a_program_under_no_new_privs_binds_in_kernel_mode() {
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
fn without_a_named_cgroup_the_policy_applies_to_all_in_this_network() {
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
fn rules_that_the_kernel_cannot_decide_are_left_out_and_named() {
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
fn a_deny_that_the_kernel_cannot_decide_is_an_error_and_groups_can_be_expanded() {
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
fn a_deny_applies_to_the_subordinate_ids_of_a_denied_user() {
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
fn a_deny_with_an_address_refuses_udp_sockets_that_could_send_from_it() {
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

/// PG-21
#[test]
fn other_bpf_programs_at_the_same_cgroup_still_decide() {
    with_kernel_mode(|world, cgroup| {
        world.policy("permit alice 80\n");
        load(world, cgroup, &[]).succeeds();
        let asked = "1000 1000 tcp 4 127.0.0.1 80";
        let other = |answer| {
            let mut code = Assembly::<()>::default();
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
