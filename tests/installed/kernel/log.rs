//! The log lines of grants.

use std::fs;
use std::time::Duration;

use portgrant_tests::{KERNEL, Signal};

use super::*;

/// PG-24, PG-25
#[test]
fn each_grant_is_logged_as_by_the_helper_also_those_before_the_reader() {
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
fn lost_grants_are_counted_and_reported() {
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
        until("each grant has its line or is reported as lost", || {
            log.lines().len() == (granted - unlogged + 1) as usize
        });
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
