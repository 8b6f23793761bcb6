//! Every grant and every refusal leaves one line in authpriv, and the caller's bytes cannot forge another.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use portgrant_tests::{BINDER, LAUNCHER, Resource, World, both_installs};

both_installs![
    every_verdict_is_one_audit_line,
    every_grant_has_its_audit_line,
    every_refusal_has_its_audit_line,
    a_restarted_log_daemon_gets_the_audit_line,
    a_log_daemon_with_a_stream_socket_gets_the_audit_lines,
    bytes_from_the_caller_are_escaped,
    explaining_and_checking_log_nothing,
];

fn tail(line: &str) -> &str {
    line.split_once("]: ").map_or("", |line| line.1)
}

/// PG-6
fn every_verdict_is_one_audit_line(world: &World) {
    world.policy("permit alice 80 81\ndeny bob any\n");
    let log = world.syslog();
    world.as_user("alice").run([BINDER, "exec", "-l", "80", "-l", "127.0.0.1:81", "--", "true"]).succeeds();
    world.as_user("alice").run([BINDER, "exec", "-l", "80", "-l", "82", "--", "true"]).exits(77);
    world.as_user("bob").run([BINDER, "exec", "-l", "80", "--", "true"]).exits(77);
    world.as_user("alice").run([BINDER, "exec", "-l", "10.9.9.9:80", "--", "true"]).exits(69);
    let lines = log.lines();
    let [first, second, refused, denied, granted, failed] = lines.as_slice() else { panic!("{lines:#?}") };
    assert!(first.starts_with("<86>portgrant-binder[") && refused.starts_with("<85>portgrant-binder["), "{lines:#?}");
    let grant = "grant uid=1000 gid=1000 verb=exec endpoint";
    let program = r#"program="/usr/bin/true""#;
    assert_eq!(tail(first), format!("{grant}=80/tcp rule=/etc/portgrant.conf:1 {program}"));
    assert_eq!(tail(second), format!("{grant}=127.0.0.1:81/tcp rule=/etc/portgrant.conf:1 {program}"));
    assert!(tail(granted).starts_with("grant ") && granted.contains("endpoint=10.9.9.9:80/tcp"), "{lines:#?}");
    assert_eq!(tail(refused), format!("refuse uid=1000 gid=1000 verb=exec endpoint=82/tcp rule=none {program}"));
    assert_eq!(
        tail(denied),
        format!("refuse uid=1001 gid=1001 verb=exec endpoint=80/tcp rule=/etc/portgrant.conf:2 {program}")
    );
    assert_eq!(
        tail(failed),
        format!("fail uid=1000 gid=1000 verb=exec endpoint=10.9.9.9:80/tcp rule=/etc/portgrant.conf:1 {program}")
    );
}

/// PG-6
fn every_grant_has_its_audit_line(world: &World) {
    world.policy("permit root 80/udp\npermit alice 80\n");
    let log = world.syslog();
    // The helper runs under the caller's uid, so the caller may end it as soon as the port is bound. Here it is held up
    // right after bind(2), before it can do anything else.
    let slow = ["strace", "-o", "/dev/null", "-e", "trace=bind", "-e", "inject=bind:delay_exit=20000000"];
    let held = world.as_root().spawn([&slow[..], &[BINDER, "exec", "-l", "80/udp", "--", "true"]].concat());
    let deadline = Instant::now() + Duration::from_secs(15);
    while world.listening().is_empty() {
        assert!(Instant::now() < deadline, "nothing is bound: {:?}", held.output());
    }
    assert_eq!(log.lines().len(), 1, "a port is bound and no line written");
    drop(held);
    // Without a descriptor for the log there is no grant: one for the socket would be left.
    let limited = world.as_user("alice").limit(Resource::RLIMIT_NOFILE, 3);
    limited.run([BINDER, "exec", "-l", "80", "--", "true"]).exits(71);
}

/// The caller may take away the right to open descriptors at any moment. PG-6
fn every_refusal_has_its_audit_line(world: &World) {
    let log = world.syslog();
    world.policy("permit alice 80\n");
    let refused = [BINDER, "exec", "-l", "81", "--", "/bin/true"];
    let (mut places, mut refused_at) = (0, 0);
    let lines = || log.lines().into_iter().filter(|line| line.contains("]: refuse uid=1000 ")).count();
    for call in ["socket", "connect", "openat", "newfstatat", "read", "close", "getgroups"] {
        for nth in 1.. {
            let before = lines();
            let Some(stopped) = world.stopped_after("alice", call, nth, &refused) else { break };
            let pid = stopped.program().to_string();
            world.as_user("alice").run(["prlimit", "--nofile=0:0", "--pid", &pid]).succeeds();
            let status = stopped.goes_on().status.code();
            // No verdict, no line; a refusal has one.
            assert_eq!(status == Some(77), lines() == before + 1, "{call} {nth}: {status:?}");
            assert!([Some(71), Some(77)].contains(&status), "{call} {nth}: {status:?}");
            places += 1;
            refused_at += usize::from(status == Some(77));
        }
    }
    assert!(places > 10 && refused_at > 0, "stopped at {places} places, refused at {refused_at}");
}

/// PG-6
fn a_restarted_log_daemon_gets_the_audit_line(world: &World) {
    world.policy("permit alice 80\n");
    // Separate programs: children of other tests may hold for a moment longer what the test itself holds.
    let script = "import os, socket\ns = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
        s.bind('/dev/log.new'); os.chmod('/dev/log.new', 0o666); os.rename('/dev/log.new', '/dev/log')\n\
        print('ready', flush=True)\nwhile True: print(s.recv(9999), flush=True)\n";
    let daemon = || {
        let daemon = world.as_root().spawn(["python3", "-c", script]);
        let deadline = Instant::now() + Duration::from_secs(10);
        while !daemon.output().0.contains("ready") {
            assert!(Instant::now() < deadline, "no log daemon: {:?}", daemon.output());
        }
        daemon
    };
    for nth in 1..4 {
        let first = daemon();
        let exec = [BINDER, "exec", "-l", "80", "--", "/bin/true"];
        let stopped = world.stopped_after("alice", "openat", nth, &exec).expect("stopped");
        drop(first);
        let second = daemon();
        stopped.goes_on().succeeds();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !second.output().0.contains("]: grant uid=1000 ") {
            assert!(Instant::now() < deadline, "no line at openat {nth}: {:?}", second.output());
        }
    }
}

/// PG-6
fn a_log_daemon_with_a_stream_socket_gets_the_audit_lines(world: &World) {
    world.policy("permit alice 80\n");
    let log = std::os::unix::net::UnixListener::bind("/dev/log").expect("/dev/log");
    std::fs::set_permissions("/dev/log", std::fs::Permissions::from_mode(0o666)).expect("chmod");
    world.as_user("alice").run([BINDER, "exec", "-l", "80", "--", "true"]).succeeds();
    world.as_user("alice").run([BINDER, "exec", "-l", "80", "-l", "81", "--", "true"]).exits(77);
    for word in ["grant", "refuse"] {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut log.accept().expect("a helper").0, &mut text).expect("read");
        assert!(tail(&text).starts_with(&format!("{word} uid=1000 ")) && text.ends_with('\0'), "{text:?}");
    }
}

/// PG-6
fn bytes_from_the_caller_are_escaped(world: &World) {
    world.policy("permit alice 80\n");
    let log = world.syslog();
    let odd = OsStr::from_bytes(b"/home/alice/a\n<86>portgrant-binder[1]: grant uid=0\" x\xff\x1b[2J");
    world.as_root().run([OsStr::new("cp"), OsStr::new("/bin/true"), odd]).succeeds();
    std::fs::set_permissions(odd, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let words = [BINDER, "exec", "-l", "name=80", "--"].map(OsStr::new);
    world.as_user("alice").env("USER", "root").run([&words[..], &[odd]].concat()).succeeds();
    let lines = log.lines();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    let escaped = r#"program="/home/alice/a\x0a<86>portgrant-binder[1]: grant uid=0\x22 x\xff\x1b[2J""#;
    assert!(lines[0].ends_with(escaped) && lines[0].contains(" uid=1000 "), "{lines:#?}");
}

fn explaining_and_checking_log_nothing(world: &World) {
    world.policy("permit alice 80\n");
    let log = world.syslog();
    world.as_user("alice").run([LAUNCHER, "explain", "-l", "80"]).succeeds();
    world.as_user("alice").run([LAUNCHER, "explain", "-l", "81"]).exits(77);
    world.as_user("alice").run([LAUNCHER, "check"]).succeeds();
    assert_eq!(log.lines(), Vec::<String>::new());
}
