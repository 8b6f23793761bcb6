//! Subordinate ids: a process with a uid that /etc/subuid gives to a user is that user to every deny.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use portgrant_tests::{BINDER, LAUNCHER, Outcome, World, both_installs};

both_installs![
    a_deny_treats_a_subordinate_uid_as_its_owner,
    a_deny_for_a_group_applies_to_subordinate_gids_of_its_members,
    a_setuid_program_of_a_subordinate_uid_is_denied_as_well,
    the_helper_reads_subordinate_ids_only_if_a_permit_meets_a_deny,
    check_warns_of_subordinate_ids_from_another_source,
];

const EXEC: [&str; 6] = [BINDER, "exec", "-l", "80", "--", "true"];

fn ask(world: &World, uid: u32, gid: u32) -> Outcome {
    world.as_root().uids(uid, uid, uid).gids(gid, gid, gid).groups(&[]).run(EXEC)
}

/// PG-51
fn a_deny_treats_a_subordinate_uid_as_its_owner(world: &World) {
    world.file("/etc/subuid", "bob:50000:100\n1000:50050:100\n");
    world.policy("permit any 80\ndeny bob any\n");
    for (uid, denied) in [(1001, true), (49_999, false), (50_000, true), (50_099, true), (50_100, false), (1000, false)]
    {
        let outcome = ask(world, uid, 7);
        outcome.exits(if denied { 77 } else { 0 });
        if denied && uid != 1001 {
            let whose = format!("deny bob any (uid {uid} is one of uid 1001's in /etc/subuid)");
            outcome.complains(&whose).complains("/etc/portgrant.conf:2");
        }
    }
    // Each owner of a range that two have, and in every way in.
    world.policy("permit any 80\ndeny alice any\n");
    ask(world, 50_049, 7).succeeds();
    let caller = || world.as_root().uids(50_060, 50_060, 50_060).gids(7, 7, 7).groups(&[]);
    caller().run(EXEC).exits(77);
    let bind = "import socket, subprocess, sys\ns = socket.socket()\n\
        sys.exit(subprocess.run([sys.argv[1], 'bind', '-l', '127.0.0.1:80', '--socket', str(s.fileno())], pass_fds=[s.fileno()]).returncode)\n";
    caller().run(["python3", "-c", bind, BINDER]).exits(77).complains("denied by the rule");
    caller().run([LAUNCHER, "exec", "-l", "80", "--", "true"]).exits(77).complains("denied by the rule");
    caller()
        .run([LAUNCHER, "explain", "80"])
        .exits(77)
        .prints("80/tcp is refused for uid 50060")
        .prints("deny alice any");
    caller().run([LAUNCHER, "list"]).succeeds().prints("nothing /etc/portgrant.conf:2  deny alice any");
    // Its owner's permits are not its own.
    world.policy("permit alice 80\n");
    ask(world, 50_060, 7).exits(77).complains("does not permit it");
}

/// PG-51
fn a_deny_for_a_group_applies_to_subordinate_gids_of_its_members(world: &World) {
    world.file("/etc/subuid", "bob:50000:100\n");
    world.file("/etc/subgid", "bob:51000:100\n");
    world.policy("permit any 80\ndeny :web any\n");
    ask(world, 50_005, 7)
        .exits(77)
        .complains("gid 2000 is a group of the caller's account, or of the account that owns these ids");
    ask(world, 7, 51_000).exits(77);
    ask(world, 7, 51_100).succeeds();
    world.as_root().uids(7, 7, 7).gids(7, 7, 7).groups(&[6, 51_099]).run(EXEC).exits(77);
    world.as_root().uids(7, 7, 7).gids(7, 7, 7).groups(&[6, 7]).run(EXEC).succeeds();
}

/// PG-51: out of a user namespace, where such an id can be had, it is carried by a file.
fn a_setuid_program_of_a_subordinate_uid_is_denied_as_well(world: &World) {
    world.file("/etc/subuid", "alice:50000:100\n");
    world.policy("permit any 80\ndeny alice any\n");
    let program = "/tmp/python3";
    fs::copy("/usr/bin/python3", program).expect("a copy");
    world.as_root().run(["chown", "50000", program]).succeeds();
    fs::set_permissions(program, fs::Permissions::from_mode(0o4755)).expect("chmod");
    let script = "import os, sys\nos.setresuid(50000, 50000, 50000)\nos.execv(sys.argv[1], sys.argv[1:])\n";
    let words = [&[program, "-I", "-c", script], &EXEC[..]].concat();
    world.as_user("alice").run(words).exits(77).complains("uid 50000 is one of uid 1000's in /etc/subuid");
}

fn the_helper_reads_subordinate_ids_only_if_a_permit_meets_a_deny(world: &World) {
    for file in ["/etc/subuid", "/etc/subgid"] {
        world.file("/etc/subuid", "bob:50000:100\n");
        world.file("/etc/subgid", "bob:50000:100\n");
        fs::set_permissions(file, fs::Permissions::from_mode(0o666)).expect("chmod");
        let group = file == "/etc/subgid";
        let deny = if group { ":web" } else { "bob" };
        world.policy(&format!("permit any 80\ndeny {deny} any\n"));
        let outcome = world.as_user("alice").run(EXEC);
        outcome.exits(78).complains(&format!("{file}: its mode is 0666")).complains(&format!("chmod go-w {file}"));
        for other in ["permit any 80\ndeny any 81\n", "permit alice 80\n"] {
            world.policy(other);
            world.as_user("alice").run(EXEC).succeeds();
        }
        world.policy(&format!("permit root 80\ndeny {deny} any\n"));
        world.as_user("alice").run(EXEC).exits(77);
        fs::remove_file(file).expect("rm");
        world.policy(&format!("permit any 80\ndeny {deny} any\n"));
        world.as_user("alice").run(EXEC).succeeds();
    }
}

fn check_warns_of_subordinate_ids_from_another_source(world: &World) {
    world.policy("permit any 80\ndeny mail any\n");
    let check = || world.as_user("alice").run([LAUNCHER, "check"]);
    check().succeeds().prints("0 warnings");
    world.file("/etc/nsswitch.conf", "passwd: files\nsubid: sss\n");
    check()
        .succeeds()
        .prints(
            "/etc/portgrant.conf:2:1: warning: /etc/nsswitch.conf takes subordinate ids from 'sss', which portgrant does not read",
        )
        .prints("1 warning");
    world.policy("permit alice 80\n");
    check().succeeds().prints("0 warnings");
}
