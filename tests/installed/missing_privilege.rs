//! Installations that give no privilege: each has its own message with a fix, and nothing is bound.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use portgrant_tests::{BINDER, Caller, World, both_installs, skip};

both_installs![
    under_no_new_privs_the_helper_reports_it,
    without_setuid_bit_and_capability_the_helper_reports_it,
    on_a_nosuid_mount_the_helper_reports_it,
    without_the_capability_in_the_bounding_set_the_helper_reports_it,
    inside_a_user_namespace_the_helper_reports_it,
    inside_a_user_namespace_with_every_id_the_helper_reports_it,
    the_helper_reports_that_its_caller_traces_it,
    the_helper_reports_that_it_shares_its_folder,
    a_helper_without_privilege_binds_if_none_is_needed,
    a_refusal_is_reported_before_a_broken_installation,
];

fn inert(caller: Caller, words: &[&str], why: &str, fix: &str) {
    let outcome = caller.run(words);
    outcome.exits(78).complains("80/tcp is permitted but cannot be bound").complains(why).complains(fix);
}

const EXEC: [&str; 6] = [BINDER, "exec", "-l", "80", "--", "true"];

fn under_no_new_privs_the_helper_reports_it(world: &World) {
    world.policy("permit alice 80\n");
    inert(world.as_user("alice").no_new_privs(), &EXEC, "no_new_privs is set", "NoNewPrivileges=");
}

fn without_setuid_bit_and_capability_the_helper_reports_it(world: &World) {
    world.policy("permit alice 80\n");
    // What a copy, a backup or a package upgrade leaves behind.
    fs::copy(BINDER, "/usr/local/bin/copy").expect("copy");
    fs::set_permissions("/usr/local/bin/copy", fs::Permissions::from_mode(0o755)).expect("chmod");
    let words = ["/usr/local/bin/copy", "exec", "-l", "80", "--", "true"];
    let fix = "setcap cap_net_bind_service=p /usr/local/bin/copy";
    inert(world.as_user("alice"), &words, "it has neither cap_net_bind_service=p nor root's setuid bit", fix);
    // Another capability, or another owner's bit, is none of these.
    world.as_root().run(["setcap", "cap_net_raw=p", "/usr/local/bin/copy"]).succeeds();
    inert(world.as_user("alice"), &words, "it has neither", fix);
    world.as_root().run(["setcap", "-r", "/usr/local/bin/copy"]).succeeds();
    world.as_root().run(["chown", "bob", "/usr/local/bin/copy"]).succeeds();
    world.as_root().run(["chmod", "4755", "/usr/local/bin/copy"]).succeeds();
    inert(world.as_user("alice"), &words, "it has neither", fix);
}

fn on_a_nosuid_mount_the_helper_reports_it(world: &World) {
    world.policy("permit alice 80\n");
    world.as_root().run(["mount", "-o", "remount,nosuid", "/usr/libexec"]).succeeds();
    inert(world.as_user("alice"), &EXEC, "mounted nosuid", BINDER);
}

fn without_the_capability_in_the_bounding_set_the_helper_reports_it(world: &World) {
    world.policy("permit alice 80\n");
    inert(world.as_user("alice").no_bounding_set(), &EXEC, "not in the bounding set", "CapabilityBoundingSet=");
}

fn inside_a_user_namespace_the_helper_reports_it(world: &World) {
    world.policy("permit alice 80\npermit root 80\n");
    for apart in [&["--user"][..], &["--user", "--map-root-user"], &["--user", "--map-current-user"]] {
        let words = [&["unshare"], apart, &EXEC].concat();
        let outcome = world.as_user("alice").run(words);
        // Either the caller is nobody there, or the policy's root is.
        outcome.exits(78).complains("user namespace");
        assert!(!outcome.stderr.contains("chown"), "{apart:?}: {outcome}");
    }
    // In a new network, too: its owner binds the port there without any helper.
    let own = [
        "unshare",
        "--user",
        "--map-root-user",
        "--net",
        "python3",
        "-c",
        "import socket; socket.socket().bind(('', 80))",
    ];
    world.as_user("alice").run(own).succeeds();
    assert_eq!(world.listening(), []);
}

/// As systemd's `PrivateUsers=full` makes it: its map is that of the first namespace.
fn inside_a_user_namespace_with_every_id_the_helper_reports_it(world: &World) {
    let first = fs::read_link("/proc/self/ns/user").expect("/proc");
    if first.as_os_str() != "user:[4026531837]" {
        return skip("a user namespace with every id is made by root of the first one");
    }
    world.policy("permit alice 80\n");
    let script = "import ctypes, os, sys\n\
        (made, make), (mapped, map) = os.pipe(), os.pipe()\n\
        pid = os.fork()\n\
        if pid == 0:\n    \
            assert ctypes.CDLL(None).unshare(0x10000000) == 0\n    \
            os.write(make, b'x')\n    \
            os.read(mapped, 1)\n    \
            os.setgroups([]); os.setgid(1000); os.setuid(1000)\n    \
            os.execv(sys.argv[1], sys.argv[1:])\n\
        os.read(made, 1)\n\
        for ids in ['uid_map', 'gid_map']: open(f'/proc/{pid}/{ids}', 'w').write('0 0 4294967295')\n\
        os.write(map, b'x')\n\
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n";
    let words = [&["python3", "-c", script][..], &EXEC].concat();
    inert(world.as_root(), &words, "no privilege in this user namespace", "run it outside of the user namespace");
}

fn the_helper_reports_that_its_caller_traces_it(world: &World) {
    world.policy("permit alice 80\n");
    let words = [&["strace", "-o", "/dev/null"], &EXEC[..]].concat();
    inert(world.as_user("alice"), &words, "a process without privilege traces it", "trace it as root");
}

fn the_helper_reports_that_it_shares_its_folder(world: &World) {
    world.policy("permit alice 80\n");
    // fork(2) as clone(2) with CLONE_FS makes it.
    let script = "import ctypes, os, platform, sys\n\
        clone = 56 if platform.machine() == 'x86_64' else 220\n\
        pid = ctypes.CDLL(None).syscall(clone, 0x200 | 17, 0, 0, 0, 0)\n\
        if pid == 0: os.execv(sys.argv[1], sys.argv[1:])\n\
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n";
    let words = [&["python3", "-c", script][..], &EXEC].concat();
    inert(world.as_user("alice"), &words, "it shares its working folder with another process (CLONE_FS)", "fork(2)");
}

fn a_helper_without_privilege_binds_if_none_is_needed(world: &World) {
    world.policy("permit alice 80\n");
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "80").expect("the world's own sysctl");
    world.as_user("alice").no_new_privs().run(EXEC).succeeds();
}

fn a_refusal_is_reported_before_a_broken_installation(world: &World) {
    world.policy("permit bob 80\n");
    world.as_user("alice").no_new_privs().run(EXEC).exits(77).complains("refused for alice");
}
