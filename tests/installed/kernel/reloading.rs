//! Replacing a policy while programs bind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use portgrant_tests::{Cgroup, KERNEL, Running, Signal, World};

use super::*;

/// PG-22
#[test]
fn a_broken_policy_leaves_the_old_one_active() {
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
fn no_bind_sees_a_half_done_reload() {
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
fn load_and_unload_during_many_binds_grant_nothing_extra() {
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
fn simultaneous_reloads_run_one_after_the_other() {
    with_kernel_mode(|world, cgroup| {
        world.policy("permit alice 80\n");
        load(world, cgroup, &[]).succeeds();
        let reloads: Vec<_> = (0..8).map(|_| world.as_root().spawn([KERNEL, "reload"])).collect();
        for reload in reloads {
            reload.wait(Duration::from_secs(120)).succeeds();
        }
        kernel(world, &["show"]).prints("(generation 9)");
        let about = fs::read_dir("/sys/fs/bpf/portgrant").expect("pins").flatten();
        let about = about.filter(|entry| entry.file_name().to_string_lossy().starts_with("description-")).count();
        assert_eq!(about, 2, "what is known of old generations stays");
    });
}
