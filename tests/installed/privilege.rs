//! How much runs with privilege, counted from outside: the system calls between execve(2) and the loss of uid 0, and those
//! made while CAP_NET_BIND_SERVICE is effective.

use std::os::unix::fs::PermissionsExt;

use portgrant_tests::{BINDER, Install, LAUNCHER, POLICY, World, both_installs};

both_installs![
    few_system_calls_are_made_with_privilege,
    the_helper_reads_nothing_of_the_caller_before_the_drop,
    the_first_system_calls_of_the_helper_drop_privilege,
    nothing_is_printed_if_the_drop_fails,
    explain_list_and_check_have_no_privilege,
];

/// The calls of the helper, from its first instruction on. Traced by root, so that the kernel gives privilege all the same.
fn calls(world: &World, words: &[&str]) -> Vec<String> {
    let strace = ["strace", "-u", "alice", "-o", "/tmp/calls", "-s", "4096", BINDER];
    let _ = world.as_root().run([&strace, words].concat());
    let trace = std::fs::read_to_string("/tmp/calls").expect("a trace");
    let calls: Vec<String> = trace.lines().map(str::to_owned).collect();
    let start = calls.iter().position(|call| call.starts_with("execve(")).expect("a start") + 1;
    let end = calls.iter().skip(start).position(|call| call.starts_with("execve(") || call.starts_with("exit_group("));
    calls[start..start + end.expect("an end")].to_vec()
}

fn raises(call: &str) -> bool {
    call.starts_with("capset(") && call.contains("effective=1<<CAP_NET_BIND_SERVICE")
}

/// How many calls are made up to the drop of uid 0, and how many with the capability effective.
fn privileged(calls: &[String], install: Install) -> (usize, usize) {
    let as_root = match install {
        Install::Setuid => calls.iter().position(|call| call.starts_with("setresuid(")).expect("a drop") + 1,
        Install::FileCapability => 0,
    };
    let (mut raised, mut effective) = (false, 0);
    for call in calls {
        effective += usize::from(raised);
        if call.starts_with("capset(") {
            raised = raises(call);
        }
    }
    (as_root, effective)
}

/// PG-2
fn few_system_calls_are_made_with_privilege(world: &World) {
    world.policy("permit alice 80 81 82/udp\n");
    for endpoints in [&["-l", "80"][..], &["-l", "80", "-l", "81"], &["-l", "80", "-l", "81", "-l", "82/udp"]] {
        let calls = calls(world, &[&["exec"], endpoints, &["--", "/bin/true"]].concat());
        let (as_root, effective) = privileged(&calls, world.install());
        let count = endpoints.len() / 2;
        assert_eq!(
            calls.iter().filter(|call| call.starts_with("bind(") && call.ends_with("= 0")).count(),
            count,
            "{calls:#?}"
        );
        assert!(as_root <= 6, "{as_root} calls as root: {calls:#?}");
        // bind(2), and the capset(2) that lowers it again.
        assert_eq!(effective, 2 * count, "{calls:#?}");
        // Every attempt to have more fails, and is made again after the last bind.
        let last = calls.iter().rposition(|call| call.starts_with("bind(")).expect("a bind");
        let after: Vec<&String> = calls.iter().skip(last).filter(|call| call.contains("EPERM")).collect();
        assert!(after.iter().any(|call| call.starts_with("setuid(0)")), "{calls:#?}");
        assert!(after.iter().filter(|call| call.starts_with("capset(")).count() >= 2, "{calls:#?}");
    }
}

/// PG-5
fn the_helper_reads_nothing_of_the_caller_before_the_drop(world: &World) {
    world.policy("permit alice 80\n");
    let calls = calls(world, &["exec", "-l", "80", "--", "/bin/true"]);
    let dropped = calls.iter().position(|call| call.starts_with("setresuid(")).expect("a drop");
    let harmless = ["mprotect(", "prctl(", "capget(", "setresgid(", "setresuid("];
    for call in &calls[..=dropped] {
        assert!(harmless.iter().any(|name| call.starts_with(name)), "{call}");
    }
    assert!(calls[..=dropped].iter().all(|call| !call.contains('"')), "{calls:#?}");
    // setresuid(2) sets what fs.suid_dumpable says; only then is it final.
    assert!(calls[dropped + 1].starts_with("prctl(PR_SET_DUMPABLE, SUID_DUMP_DISABLE"), "{calls:#?}");
}

/// PG-2: no C library runs first.
fn the_first_system_calls_of_the_helper_drop_privilege(world: &World) {
    let calls = calls(world, &["--version"]);
    let names: Vec<&str> = calls.iter().map(|call| call.split('(').next().unwrap_or_default()).collect();
    let drop = ["mprotect", "prctl", "capget", "prctl", "setresgid", "setresuid", "prctl", "capset"];
    assert_eq!(names[..drop.len()], drop, "{calls:#?}");
    // The proof of it, and attempts to have more.
    assert_eq!(
        names[drop.len()..][..6],
        ["getresuid", "getresgid", "capget", "setuid", "setgid", "capset"],
        "{calls:#?}"
    );
}

/// PG-2: what cannot be given up is not told either, as whoever reads it may make the helper wait.
fn nothing_is_printed_if_the_drop_fails(world: &World) {
    world.policy("permit alice 80\n");
    let is_setuid = matches!(world.install(), Install::Setuid);
    for (fault, is_told) in [
        ("setresuid:error=EAGAIN:when=1", true),
        ("setresuid:error=EAGAIN", !is_setuid),
        ("setresgid:error=EPERM", true),
        ("capset:error=EPERM:when=1", true),
        ("capset:error=EPERM", false),
        ("getresuid:error=EFAULT:when=1", true),
        ("getresuid:error=EFAULT:when=2", true),
    ] {
        let inject = format!("inject={fault}");
        let strace = ["strace", "-u", "alice", "-o", "/tmp/calls", "-s", "4096", "-e", &inject, BINDER];
        let outcome = world.as_root().run([&strace[..], &["exec", "-l", "80", "--", "/bin/true"]].concat());
        outcome.exits(71);
        assert_eq!(outcome.stderr.contains("privilege could not be given up"), is_told, "{fault}: {outcome}");
        let trace = std::fs::read_to_string("/tmp/calls").expect("a trace");
        let calls: Vec<&str> = trace.lines().collect();
        let told = calls.iter().position(|call| call.starts_with("write("));
        assert_eq!(told.is_some(), is_told, "{fault}: {trace}");
        let before = &calls[..told.unwrap_or_default()];
        let last = |name: &str| before.iter().rfind(|call| call.starts_with(name) && call.ends_with("= 0"));
        if is_told {
            assert!(last("capset(").is_some_and(|call| call.contains("permitted=0,")), "{fault}: {trace}");
            assert!(!is_setuid || last("setresuid(").is_some(), "{fault}: {trace}");
        }
    }
}

fn explain_list_and_check_have_no_privilege(world: &World) {
    world.policy("permit alice 80\n");
    let mode = std::fs::metadata(POLICY).expect("installed").permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
    assert_eq!(world.as_root().run(["getcap", POLICY]).succeeds().stdout, "");
    for words in [&["explain", "80"][..], &["explain", "81"], &["check"], &["list"]] {
        let trace = format!("/tmp/trace-{}", words.join("-"));
        let _ = world.as_user("alice").run([&["strace", "-f", "-o", &trace, LAUNCHER], words].concat());
        let calls = std::fs::read_to_string(trace).expect("a trace");
        assert!(calls.contains("\"portgrant.conf\""), "the policy is read: {calls}");
        assert!(!["capset(", "setresuid(", "setuid("].iter().any(|call| calls.contains(call)), "{calls}");
        // check looks at the helper's mode, and nothing executes it.
        let executes = |call: &str| call.contains("execve(") && call.contains("/portgrant-binder\"");
        assert!(!calls.lines().any(executes), "{calls}");
        // Whether the address is there is asked of the kernel, on no port.
        assert!(calls.lines().all(|call| !call.contains("bind(") || call.contains("port=htons(0)")), "{calls}");
    }
    for verb in ["explain", "check", "list"] {
        world.as_user("alice").run([BINDER, verb, "-l", "80"]).exits(64).complains("is not a verb");
    }
}
