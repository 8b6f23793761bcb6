//! `portgrant run` with a supervisor that is not related to the program: everywhere but under Yama's ptrace_scope 1.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use portgrant_tests::{BINDER, LAUNCHER, World, both_installs, http_get, ptrace_scope, skip};

use crate::running::{PATIENCE, await_output, await_port, binding, none_left, supervisors};

both_installs![
    an_unmodified_program_binds_its_port_and_keeps_its_pid,
    the_supervisor_is_small_and_ends_with_the_last_process,
    the_heir_takes_over_from_a_killed_supervisor,
    a_call_is_answered_after_the_supervisor_was_killed,
    no_signal_but_sigkill_ends_a_supervisor,
    the_supervisor_does_not_affect_signals_children_and_status,
];

fn is_the_parent() -> bool {
    let is_it = ptrace_scope() == Some(1);
    if is_it {
        skip("kernel.yama.ptrace_scope is 1, and all worlds have it in common");
    }
    is_it
}

fn an_unmodified_program_binds_its_port_and_keeps_its_pid(world: &World) {
    if is_the_parent() {
        return;
    }
    world.policy("permit alice 80\n");
    let mut server = world.as_user("alice").folder("/home/alice").env("LD_LIBRARY_PATH", "/nowhere").spawn([
        LAUNCHER,
        "run",
        "--",
        "python3",
        "-m",
        "http.server",
        "80",
    ]);
    await_port(&mut server, 80);
    assert!(http_get("127.0.0.1:80", "/").contains("Directory listing"));
    let process = world.process(server.pid());
    assert_eq!((process.uids, process.folder.to_str()), ([1000; 4], Some("/home/alice")));
    assert!(process.is_powerless());
    let environment = fs::read(format!("/proc/{}/environ", server.pid())).expect("alice's");
    assert!(String::from_utf8_lossy(&environment).contains("LD_LIBRARY_PATH=/nowhere"));
    let listening = world.listening();
    assert!(listening.iter().all(|socket| socket.uid == 1000), "{listening:?}");
    server.signal(Signal::SIGINT);
    server.wait(PATIENCE).exits(0);
    none_left(world);
}

fn the_supervisor_is_small_and_ends_with_the_last_process(world: &World) {
    if is_the_parent() {
        return;
    }
    world.policy("permit alice 80\n");
    // The program ends, what it started goes on, and binds.
    let late = format!(
        "while [ ! -e /tmp/go ]; do sleep 0.01; done; python3 -c \"{}\" >/tmp/late",
        binding("AF_INET", "SOCK_STREAM", "('', 80)").replace('"', "'")
    );
    let server =
        world.as_user("alice").run([LAUNCHER, "run", "--", "sh", "-c", &format!("({late}) >/dev/null 2>&1 & echo up")]);
    server.succeeds().prints("up\n");
    let both = supervisors(world);
    assert_eq!(both.len(), 2, "it and its standby");
    let kilobytes: u64 = both.iter().map(|pid| resident_kilobytes(*pid)).sum();
    assert!(kilobytes < 2048, "{kilobytes} kB");
    let process = world.process(both[0]);
    assert!(process.is_powerless());
    for pid in both {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("alice's").count();
        assert!(open <= 8, "{open} descriptors");
    }
    fs::write("/tmp/go", "").expect("written");
    none_left(world);
    assert_eq!(fs::read_to_string("/tmp/late").expect("it ran"), "bound ('0.0.0.0', 80)\n");
}

/// What a process has in memory, private or shared, by smaps_rollup.
fn resident_kilobytes(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("readable");
    let line = rollup.lines().find(|line| line.starts_with("Rss:")).expect("told");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

fn the_heir_takes_over_from_a_killed_supervisor(world: &World) {
    if is_the_parent() {
        return;
    }
    world.policy("permit alice 80-89\n");
    let script = "import socket, os, time\nkept = []\nfor port in (80, 8080, 81, 82):\n \
                  while not os.path.exists(f'/tmp/{port}'): time.sleep(0.005)\n \
                  s = socket.socket(); s.bind(('127.0.0.1', port)); kept.append(s)\n print('bound', port, flush=True)\ntime.sleep(60)";
    let server = world.as_user("alice").spawn([LAUNCHER, "run", "--", "python3", "-c", script]);
    for port in ["80", "8080", "81", "82"] {
        fs::write(format!("/tmp/{port}"), "").expect("written");
        await_output(&server, &format!("bound {port}\n"));
        for pid in supervisors(world).into_iter().take(1) {
            world.as_root().run(["kill", "-9", &pid.to_string()]).succeeds();
        }
        let deadline = Instant::now() + PATIENCE;
        while supervisors(world).len() != 2 {
            assert!(Instant::now() < deadline, "no standby");
        }
    }
    drop(server);
    none_left(world);
}

/// One of the two is killed when the helper has bound the socket and has not ended yet.
fn a_call_is_answered_after_the_supervisor_was_killed(world: &World) {
    if is_the_parent() {
        return;
    }
    world.policy("permit alice 80-89\n");
    world.folder("/opt/slow", "root", 0o755);
    fs::copy("/usr/libexec/portgrant/portgrant-supervisor", "/opt/slow/portgrant-supervisor").expect("copied");
    world.file(
        "/opt/slow/binder",
        &format!("#!/bin/sh\n{BINDER} \"$@\"; end=$?; touch /tmp/asked; while [ ! -e /tmp/on ]; do sleep 0.01; done; exit $end\n"),
    );
    world.as_root().run(["chmod", "755", "/opt/slow/binder"]).succeeds();
    for (which, port) in [(0, "80"), (1, "81")] {
        let script =
            binding("AF_INET", "SOCK_STREAM", &format!("('127.0.0.1', {port})")) + "\nimport time; time.sleep(60)";
        let alice = world.as_user("alice");
        let server =
            alice.env("PORTGRANT_BINDER", "/opt/slow/binder").spawn([LAUNCHER, "run", "--", "python3", "-uc", &script]);
        let deadline = Instant::now() + PATIENCE;
        while !fs::exists("/tmp/asked").expect("stat") {
            assert!(Instant::now() < deadline, "the helper is not asked");
            thread::sleep(Duration::from_millis(2));
        }
        let mut both = supervisors(world);
        both.sort_unstable();
        world.as_root().run(["kill", "-9", &both[which].to_string()]).succeeds();
        fs::write("/tmp/on", "").expect("written");
        await_output(&server, &format!("bound ('127.0.0.1', {port})\n"));
        // After it has answered, it reports this, and reaps its standby and the helper.
        let is_reported = || server.output().1.contains("another has taken over");
        let zombies = || world.as_root().run(["ps", "-o", "stat=", "--ppid", &both[0].to_string()]).stdout;
        let deadline = Instant::now() + PATIENCE;
        while is_reported() != (which == 0) || zombies().contains('Z') {
            assert!(Instant::now() < deadline, "{:?}, zombies: {}", server.output(), zombies());
            thread::sleep(Duration::from_millis(5));
        }
        drop(server);
        none_left(world);
        for file in ["/tmp/asked", "/tmp/on"] {
            fs::remove_file(file).expect("removed");
        }
    }
}

fn no_signal_but_sigkill_ends_a_supervisor(world: &World) {
    if is_the_parent() {
        return;
    }
    world.policy("permit alice 80\n");
    let script = binding("AF_INET", "SOCK_STREAM", "('127.0.0.1', 80)");
    let script = format!(
        "import os, time\nprint('up', flush=True)\nwhile not os.path.exists('/tmp/go'): time.sleep(0.005)\n{script}"
    );
    let server = world.as_user("alice").spawn([LAUNCHER, "run", "--", "python3", "-c", &script]);
    await_output(&server, "up\n");
    let both = supervisors(world);
    for pid in &both {
        for signal in (1..=64).filter(|number| ![9, 19, 32, 33].contains(number)) {
            world.as_root().run(["kill", &format!("-{signal}"), &pid.to_string()]).succeeds();
        }
    }
    assert_eq!(supervisors(world), both);
    fs::write("/tmp/go", "").expect("written");
    server.wait(PATIENCE).succeeds().prints("up\nbound ('127.0.0.1', 80)\n");
    none_left(world);
}

fn the_supervisor_does_not_affect_signals_children_and_status(world: &World) {
    if is_the_parent() {
        return;
    }
    world.policy("permit alice 80\n");
    world.as_user("alice").run([LAUNCHER, "run", "--", "sh", "-c", "exit 42"]).exits(42);
    world.as_user("alice").run([LAUNCHER, "run", "--", "sh", "-c", "kill -TERM $$"]).dies_of(Signal::SIGTERM);
    // It has no child that it did not start, and SIGPIPE and the rest as its caller left them.
    let script = "import os, signal\ntry:\n os.wait()\nexcept ChildProcessError:\n print('no child')\n\
                  print(os.getppid() == int(os.environ['PARENT']))";
    let parent = std::process::id().to_string();
    let childless = world.as_user("alice").env("PARENT", &parent).run([LAUNCHER, "run", "--", "python3", "-c", script]);
    childless.succeeds().prints("no child\nTrue\n");
    let signals = ["sh", "-c", "grep -E 'Sig(Blk|Ign)' /proc/self/status"];
    let plain = world.as_user("alice").ignoring(Signal::SIGCHLD).run(signals).stdout;
    let run = world.as_user("alice").ignoring(Signal::SIGCHLD).run([&[LAUNCHER, "run", "--"], &signals[..]].concat());
    assert_eq!(run.stdout, plain);
    none_left(world);
}
