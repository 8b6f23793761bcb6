//! The caller chooses when the helper runs: they may stop it between any two system calls. It never grants what the
//! policy does not permit at that moment, and it never lives long.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use portgrant_tests::{BINDER, KERNEL, LAUNCHER, Outcome, Resource, Signal, World, both_installs};

both_installs![
    a_deny_that_moves_between_two_files_is_never_missed,
    a_rule_that_is_removed_before_the_bind_permits_nothing,
    every_reader_sees_a_consistent_policy,
    a_stopped_helper_is_killed_after_ten_seconds,
    a_helper_that_was_stopped_for_five_seconds_gives_up,
    without_a_timer_nothing_is_bound,
    a_policy_that_changes_all_the_time_ends_the_helper_in_time,
    a_policy_that_changes_sometimes_stops_no_server,
];

const EXEC: [&str; 6] = [BINDER, "exec", "-l", "80", "--", "/bin/true"];

/// Replaces a file as administrators should: by a rename.
fn replace(path: &str, text: &str) {
    fs::write(format!("{path}.new"), text).expect("written");
    fs::rename(format!("{path}.new"), path).expect("renamed");
}

/// The deny moves from the second file to the first, and is there all the time.
fn move_the_deny() {
    replace("/etc/portgrant.conf", "permit any 80\ndeny alice any\n");
    fs::remove_file("/etc/portgrant.d/deny.conf").expect("removed");
}

fn deny_in_the_second_file(world: &World) {
    world.policy("permit any 80\n");
    world.policy_file("deny.conf", "deny alice any\n");
}

/// Stopped after each of its system calls in turn. PG-9
fn a_deny_that_moves_between_two_files_is_never_missed(world: &World) {
    let mut places = 0;
    for call in ["openat", "read", "fstat", "newfstatat", "close", "getdents64", "getgroups", "socket", "bind"] {
        for nth in 1.. {
            deny_in_the_second_file(world);
            let Some(stopped) = world.stopped_after("alice", call, nth, &EXEC) else { break };
            move_the_deny();
            stopped.goes_on().exits(77);
            assert_eq!(world.listening(), [], "{call} {nth}");
            places += 1;
        }
    }
    assert!(places > 20, "stopped at {places} places only");
}

/// A grant cannot be kept for later. PG-9
fn a_rule_that_is_removed_before_the_bind_permits_nothing(world: &World) {
    let log = world.syslog();
    // Right before bind(2) in exec is the socket's last option; in the bind verb capset(2) raises the capability.
    for (call, nth) in [("socket", 2), ("setsockopt", 1), ("bind", 1)] {
        world.policy("permit alice 80\n");
        let stopped = world.stopped_after("alice", call, nth, &EXEC).expect("stopped");
        world.policy("permit bob 80\n");
        stopped.goes_on().exits(77).complains("80/tcp is refused for alice");
        assert_eq!(world.listening(), [], "{call}");
        let lines = log.lines();
        let grants = lines.iter().filter(|line| line.contains("]: grant ")).count();
        let fails = lines.iter().filter(|line| line.contains("]: fail ")).count();
        assert_eq!(grants, fails, "each grant that came to nothing has its second line: {lines:#?}");
    }
}

/// The reports and the kernel mode's loader read as the helper does. PG-9, PG-22
fn every_reader_sees_a_consistent_policy(world: &World) {
    every_place_sees_the_deny(world, &[LAUNCHER, "explain", "--as-user", "alice", "80"], |outcome| {
        outcome.exits(77);
    });
    let Some(cgroup) = world.cgroup() else { return };
    let path = cgroup.path().to_str().expect("a plain path");
    every_place_sees_the_deny(world, &[KERNEL, "load", "--dry-run", "--cgroup", path], |outcome| {
        outcome.succeeds().prints("rules: 2,");
    });
}

fn every_place_sees_the_deny(world: &World, words: &[&str], sees_it: impl Fn(&Outcome)) {
    let mut places = 0;
    for call in ["openat", "read", "fstat", "newfstatat", "statx", "close", "getdents64"] {
        for nth in 1.. {
            deny_in_the_second_file(world);
            let Some(stopped) = world.stopped_after("root", call, nth, words) else { break };
            move_the_deny();
            sees_it(&stopped.goes_on());
            places += 1;
        }
    }
    assert!(places > 10, "{words:?} stopped at {places} places only");
}

/// PG-9
fn a_stopped_helper_is_killed_after_ten_seconds(world: &World) {
    world.policy("permit alice 80\n");
    let began = Instant::now();
    let stopped = world.stopped_after("alice", "bind", 1, &EXEC).expect("stopped");
    stopped.stays_stopped().dies_of(Signal::SIGKILL);
    assert!(began.elapsed() > Duration::from_secs(9), "{:?}", began.elapsed());
    assert_eq!(world.listening(), []);
}

/// PG-9
fn a_helper_that_was_stopped_for_five_seconds_gives_up(world: &World) {
    world.policy("permit alice 80\n");
    thread::sleep(Duration::from_millis(100)); // or the policy changed too recently to be believed
    let stopped = world.stopped_after("alice", "openat", 1, &EXEC).expect("stopped");
    thread::sleep(Duration::from_millis(5500));
    stopped.goes_on().exits(71).complains("the helper gave up after 5 seconds");
    assert_eq!(world.listening(), []);
}

/// PG-9
fn without_a_timer_nothing_is_bound(world: &World) {
    world.policy("permit alice 80\n");
    let limited = world.as_user("alice").limit(Resource::RLIMIT_SIGPENDING, 0);
    limited.run(EXEC).exits(71).complains("the helper cannot limit its own time").complains("ulimit -i");
}

/// PG-7, PG-9
fn a_policy_that_changes_all_the_time_ends_the_helper_in_time(world: &World) {
    world.policy("permit alice 80\n");
    let script = "while :; do cp /etc/portgrant.conf /etc/new; mv /etc/new /etc/portgrant.conf; done";
    let writer = world.as_root().spawn(["sh", "-c", script]);
    // However busy the machine is, the file is replaced between its stamp and the comparison.
    let slow = ["strace", "-qq", "-o", "/dev/null", "-u", "alice", "-e", "inject=fstat:delay_exit=300000"];
    let outcome = world.as_root().within(Duration::from_secs(20)).run([&slow[..], &EXEC].concat());
    outcome.exits(71).complains("the policy changed while it was read").complains("fix: try again");
    drop(writer);
}

/// PG-7
fn a_policy_that_changes_sometimes_stops_no_server(world: &World) {
    world.policy("permit alice 80\n");
    let script = "while :; do cp /etc/passwd /etc/passwd.new; mv /etc/passwd.new /etc/passwd; sleep 0.2; done";
    let writer = world.as_root().spawn(["sh", "-c", script]);
    for _ in 0..20 {
        world.as_user("alice").within(Duration::from_secs(20)).run(EXEC).succeeds();
    }
    drop(writer);
}
