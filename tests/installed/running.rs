//! `portgrant run`: programs that bind for themselves, on ports that are granted to their user. Wherever the supervisor
//! stands: what follows from that is in `running_aside` and `running_under_yama`.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use portgrant_tests::{BINDER, LAUNCHER, Running, World, both_installs, skip};

both_installs![
    a_refused_bind_is_eacces_and_a_message_on_standard_error,
    a_refused_port_can_be_bound_after_the_policy_changes,
    a_program_in_its_own_network_namespace_binds_with_its_own_rights,
    eaddrinuse_and_eaddrnotavail_reach_the_program,
    other_bind_errors_are_those_of_a_permitted_bind,
    a_program_with_fewer_rights_than_its_caller_gains_none,
    a_program_that_will_be_refused_is_not_started,
    without_need_for_a_supervisor_the_program_is_executed_directly,
    binds_are_answered_if_the_caller_ignores_sigchld,
    many_binds_at_once_from_threads_and_children_all_succeed,
    the_programs_own_socket_is_bound,
    binds_of_every_kind_of_program_are_answered,
    portgrant_run_works_without_proc,
    a_killed_helper_is_started_once_more,
    portgrant_run_warns_of_podman_without_a_user_namespace,
];

/// How long something may take that happens by itself, on an emulated machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Python that binds `address` and says what came of it.
pub(crate) fn binding(family: &str, kind: &str, address: &str) -> String {
    format!(
        "import socket, errno\ns = socket.socket(socket.{family}, socket.{kind})\ntry:\n s.bind({address})\n \
         print('bound', s.getsockname()[:2])\nexcept OSError as e:\n print(errno.errorcode[e.errno])"
    )
}

/// Waits until `port` answers a connection.
#[track_caller]
pub(crate) fn await_port(running: &mut Running, port: u16) {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(running.is_alive() && Instant::now() < deadline, "nobody listens on {port}: {:?}", running.output());
        thread::sleep(Duration::from_millis(10));
    }
}

/// Pids of the supervisors that run in this world.
pub(crate) fn supervisors(world: &World) -> Vec<u32> {
    let found = world.as_root().run(["pgrep", "-x", "portgrant-super"]);
    let own =
        |pid: &u32| fs::read_link(format!("/proc/{pid}/ns/net")).ok() == fs::read_link("/proc/thread-self/ns/net").ok();
    found.stdout.lines().filter_map(|line| line.parse().ok()).filter(own).collect()
}

#[track_caller]
pub(crate) fn none_left(world: &World) {
    let deadline = Instant::now() + PATIENCE;
    while !supervisors(world).is_empty() {
        assert!(Instant::now() < deadline, "a supervisor stays");
        thread::sleep(Duration::from_millis(5));
    }
}

fn a_refused_bind_is_eacces_and_a_message_on_standard_error(world: &World) {
    world.policy("permit alice 80 on 127.0.0.1\npermit alice 53/udp\npermit bob 81\n");
    let refused = [
        ("AF_INET", "SOCK_STREAM", "('127.0.0.1', 81)"),
        ("AF_INET", "SOCK_DGRAM", "('127.0.0.1', 80)"),
        ("AF_INET", "SOCK_STREAM", "('127.0.0.2', 80)"),
        ("AF_INET", "SOCK_STREAM", "('0.0.0.0', 80)"),
        ("AF_INET6", "SOCK_STREAM", "('::', 80)"),
        ("AF_INET6", "SOCK_STREAM", "('::1', 80)"),
        ("AF_INET6", "SOCK_STREAM", "('::ffff:127.0.0.2', 80)"),
        ("AF_INET", "SOCK_STREAM", "('127.0.0.1', 53)"),
    ];
    for (family, kind, address) in refused {
        let outcome =
            world.as_user("alice").run([LAUNCHER, "run", "--", "python3", "-c", &binding(family, kind, address)]);
        let outcome = outcome.succeeds().prints("EACCES\n");
        outcome.complains("is refused for alice (uid 1000)\n  why: ").complains("as root, add  permit alice ");
    }
    let granted = [
        ("AF_INET", "SOCK_STREAM", "('127.0.0.1', 80)", "bound ('127.0.0.1', 80)\n"),
        ("AF_INET6", "SOCK_STREAM", "('::ffff:127.0.0.1', 80)", "bound ('::ffff:127.0.0.1', 80)\n"),
        ("AF_INET6", "SOCK_DGRAM", "('::', 53)", "bound ('::', 53)\n"),
        ("AF_INET", "SOCK_STREAM", "('127.0.0.2', 8080)", "bound ('127.0.0.2', 8080)\n"),
        ("AF_UNIX", "SOCK_STREAM", "'/tmp/socket'", "bound /t\n"),
    ];
    for (family, kind, address, said) in granted {
        let outcome =
            world.as_user("alice").run([LAUNCHER, "run", "--", "python3", "-c", &binding(family, kind, address)]);
        assert!(outcome.succeeds().prints(said).stderr.is_empty(), "{outcome}");
    }
    world
        .as_user("bob")
        .run([LAUNCHER, "run", "--", "python3", "-c", &binding("AF_INET", "SOCK_STREAM", "('127.0.0.1', 80)")])
        .succeeds()
        .prints("EACCES\n");
    none_left(world);
}

fn a_refused_port_can_be_bound_after_the_policy_changes(world: &World) {
    world.policy("permit bob 80\n");
    let alice = || world.as_user("alice").env("HOME", "/home/alice");
    let ask = [LAUNCHER, "explain", "--why-denied"];
    alice().run(ask).succeeds().prints("nothing was refused lately");
    let script = binding("AF_INET", "SOCK_STREAM", "('127.0.0.1', 80)");
    alice().run([LAUNCHER, "run", "--", "python3", "-c", &script]).prints("EACCES");
    let told = alice().run(ask);
    told.succeeds().prints(", python3 (process ").prints("80/tcp is refused for alice (uid 1000)\n  why: ");
    alice().run([&ask[..], &["--format", "json"]].concat()).succeeds().prints("\"program\":\"python3\"");
    alice().run([&ask[..], &["80"]].concat()).exits(64).complains("cannot be used with");
    // Somebody else's are nobody's business.
    let mode = fs::metadata("/home/alice/.local/state/portgrant/refusals").expect("kept").permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
    world.as_user("bob").env("HOME", "/home/bob").run(ask).succeeds().prints("nothing was refused lately");
}

fn a_program_in_its_own_network_namespace_binds_with_its_own_rights(world: &World) {
    world.policy("permit alice 81\n");
    let run = |apart: &[&str], port: u16| {
        let script = binding("AF_INET", "SOCK_STREAM", &format!("('0.0.0.0', {port})"));
        let words = [&[LAUNCHER, "run", "--"], apart, &["python3", "-c", &script]].concat();
        world.as_user("alice").run(words)
    };
    // Root of a user namespace that owns its network binds what it likes there, also without us, and nothing here.
    run(&["unshare", "--user", "--map-root-user", "--net"], 80).succeeds().prints("bound");
    // One that kept this network has no right to it, and what the policy permits alice it gets as alice.
    run(&["unshare", "--user", "--map-root-user"], 80).succeeds().prints("EACCES");
    run(&["unshare", "--user", "--map-root-user"], 81).succeeds().prints("bound");
    assert_eq!(world.listening(), []);
}

fn eaddrinuse_and_eaddrnotavail_reach_the_program(world: &World) {
    world.policy("permit alice 80 on 127.0.0.0/8 198.51.100.1\n");
    let _holder = TcpListener::bind("127.0.0.1:80").expect("root's");
    for (address, said) in [("('127.0.0.1', 80)", "EADDRINUSE\n"), ("('198.51.100.1', 80)", "EADDRNOTAVAIL\n")] {
        let script = binding("AF_INET", "SOCK_STREAM", address);
        world.as_user("alice").run([LAUNCHER, "run", "--", "python3", "-c", &script]).succeeds().prints(said);
    }
}

fn other_bind_errors_are_those_of_a_permitted_bind(world: &World) {
    world.policy("permit alice 80-89\n");
    let script = "import socket, errno\ndef bind(s, *address):\n try:\n  s.bind(address); print('bound')\n \
                  except OSError as e: print(errno.errorcode[e.errno])\n\
                  s = socket.socket(); bind(s, '127.0.0.1', 80); bind(s, '127.0.0.1', 80); bind(s, '127.0.0.1', 81)\n\
                  s = socket.socket(); s.listen(); bind(s, '127.0.0.1', 82)\n\
                  v6 = lambda: socket.socket(socket.AF_INET6)\n\
                  bind(v6(), '2001:db8::1', 83); bind(v6(), '::ffff:198.51.100.1', 83); bind(v6(), 'fe80::1', 83)\n\
                  s = v6(); s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1); bind(s, '::ffff:127.0.0.1', 84)\n\
                  s = v6(); s.setsockopt(socket.IPPROTO_IPV6, 78, 1); bind(s, '2001:db8::1', 85)\n\
                  s = v6(); bind(s, '::1', 86, 0, 1); bind(v6(), '::1', 86)";
    let expected =
        "bound\nEINVAL\nEINVAL\nEINVAL\nEADDRNOTAVAIL\nEADDRNOTAVAIL\nEINVAL\nEINVAL\nbound\nbound\nEADDRINUSE\n";
    world.as_user("alice").run([LAUNCHER, "run", "--", "python3", "-c", script]).succeeds().prints(expected);
}

fn a_program_with_fewer_rights_than_its_caller_gains_none(world: &World) {
    world.policy("permit alice 80\n");
    let script = binding("AF_INET", "SOCK_STREAM", "('127.0.0.1', 90)");
    let bob = ["setpriv", "--reuid=1001", "--regid=1001", "--clear-groups", "--inh-caps=-all"];
    let less = ["setpriv", "--inh-caps=-all", "--bounding-set=-net_bind_service"];
    let run =
        |words: &[&str]| world.as_root().run([&[LAUNCHER, "run", "--"], words, &["python3", "-c", &script]].concat());
    run(&bob).succeeds().prints("EACCES\n");
    run(&less).succeeds().prints("EACCES\n");
    run(&[]).succeeds().prints("bound ('127.0.0.1', 90)\n");
    // Nor does it lose any: with another capability it is helped as well.
    let alice = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--inh-caps=-all,+net_raw"];
    let script = binding("AF_INET", "SOCK_STREAM", "('127.0.0.1', 80)");
    let more = ["--ambient-caps=+net_raw", LAUNCHER, "run", "--", "python3", "-c", &script];
    world.as_root().run([&alice[..], &more].concat()).succeeds().prints("bound ('127.0.0.1', 80)\n");
}

fn a_program_that_will_be_refused_is_not_started(world: &World) {
    world.policy("permit alice 80\n");
    let refused = world.as_user("alice").run([LAUNCHER, "run", "-l", "81", "--", "touch", "/tmp/started"]);
    refused.exits(77).complains("portgrant: 81/tcp is refused for alice");
    let several = world.as_user("alice").run([LAUNCHER, "run", "-l", "80", "-l", "81", "--", "touch", "/tmp/started"]);
    several.exits(77);
    let _holder = TcpListener::bind("[::]:80").expect("root's");
    let used = world.as_user("alice").run([LAUNCHER, "run", "-l", "80", "--", "touch", "/tmp/started"]);
    used.exits(69).complains("80/tcp is in use");
    let missing = world.as_user("alice").run([LAUNCHER, "run", "--", "no-such-program"]);
    missing.exits(127);
    let more = world.as_user("alice").run([LAUNCHER, "run", "-l", "80,backlog=5", "--", "true"]);
    more.exits(64).complains("which portgrant run does not take");
    assert!(!fs::exists("/tmp/started").expect("stat"));
}

fn without_need_for_a_supervisor_the_program_is_executed_directly(world: &World) {
    world.policy("permit bob 1\n");
    let script = "grep -E 'NoNewPrivs|^Seccomp:' /proc/self/status";
    let plain = world.as_user("alice").run([LAUNCHER, "-v", "run", "-l", "8080", "--", "sh", "-c", script]);
    plain.succeeds().prints("NoNewPrivs:\t0\nSeccomp:\t0\n").complains("the kernel lets this process bind all of it");
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "80").expect("this world's own");
    let plain = world.as_user("alice").run([LAUNCHER, "run", "-l", "80", "--", "sh", "-c", script]);
    plain.succeeds().prints("NoNewPrivs:\t0\nSeccomp:\t0\n");
}

fn binds_are_answered_if_the_caller_ignores_sigchld(world: &World) {
    world.policy("permit alice 80\n");
    let run = |words: &[&str], port| {
        let script = binding("AF_INET", "SOCK_STREAM", &format!("('127.0.0.1', {port})"));
        world
            .as_user("alice")
            .ignoring(Signal::SIGCHLD)
            .run([&[LAUNCHER, "run"], words, &["--", "python3", "-c", &script]].concat())
    };
    run(&[], 80).succeeds().prints("bound ('127.0.0.1', 80)\n");
    run(&["-l", "127.0.0.1:80"], 80).succeeds().prints("bound ('127.0.0.1', 80)\n");
    run(&[], 81).succeeds().prints("EACCES\n").complains("81/tcp is refused for alice (uid 1000)\n  why: ");
    none_left(world);
}

#[track_caller]
pub(crate) fn await_output(running: &Running, text: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !running.output().0.contains(text) {
        assert!(Instant::now() < deadline, "no {text:?}: {:?}", running.output());
        thread::sleep(Duration::from_millis(2));
    }
}

fn many_binds_at_once_from_threads_and_children_all_succeed(world: &World) {
    world.policy("permit alice 100-227\n");
    // 32 threads and 32 children, each binds two, while a timer's signals storm the process. With SA_RESTART, as Go's do:
    // without it a signal that comes before the supervisor has heard of a call interrupts it (signal(7)).
    let script = "import socket, os, signal, threading\n\
        signal.signal(signal.SIGALRM, lambda *a: None); signal.siginterrupt(signal.SIGALRM, False)\n\
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)\n\
        kept, failed = [], []\n\
        def bind(port):\n \
         for p in (port, port + 64):\n  \
          s = socket.socket()\n  \
          try: s.bind(('127.0.0.1', p)); s.listen(); kept.append(s)\n  \
          except OSError as e: failed.append((p, e))\n\
        pids = []\n\
        for port in range(132, 164):\n \
         pid = os.fork()\n \
         if pid == 0:\n  bind(port); os._exit(len(failed))\n \
         pids.append(pid)\n\
        threads = [threading.Thread(target=bind, args=(port,)) for port in range(100, 132)]\n\
        [t.start() for t in threads]; [t.join() for t in threads]\n\
        bad = sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)\n\
        signal.setitimer(signal.ITIMER_REAL, 0)\n\
        print(len(kept), len(failed), bad, failed)";
    let outcome = world.as_user("alice").within(PATIENCE * 3).run([LAUNCHER, "run", "--", "python3", "-c", script]);
    outcome.succeeds().prints("64 0 0 []\n");
    none_left(world);
}

fn the_programs_own_socket_is_bound(world: &World) {
    world.policy("permit alice 80\n");
    let script = "import socket, select, os\n\
        s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)\n\
        e = select.epoll(); e.register(s); inode = os.fstat(s.fileno()).st_ino\n\
        s.bind(('127.0.0.1', 80)); s.listen()\n\
        c = socket.create_connection(('127.0.0.1', 80))\n\
        print(os.fstat(s.fileno()).st_ino == inode, s.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),\n \
         [fd for fd, _ in e.poll(5)] == [s.fileno()], os.fstat(s.fileno()).st_uid)";
    let outcome = world.as_user("alice").run([LAUNCHER, "run", "--", "python3", "-c", script]);
    outcome.succeeds().prints("True 1 True 1000\n");
}

fn binds_of_every_kind_of_program_are_answered(world: &World) {
    world.policy("permit alice 80\n");
    // Without a C library; x32's number reaches the supervisor even if this kernel has no x32.
    let ways: &[_] = if cfg!(target_arch = "x86_64") {
        &[
            ["binds", "direct"],
            ["binds", "vfork"],
            ["binds", "x32"],
            ["binds32", "direct"],
            ["binds32", "socketcall"],
            ["binds32", "vfork"],
        ]
    } else {
        &[["binds", "direct"], ["binds", "vfork"], ["binds", "tagged"], ["binds32", "direct"], ["binds32", "vfork"]]
    };
    for &[program, way] in ways {
        if let Err(error) = Command::new(format!("/usr/local/bin/{program}")).arg(way).output() {
            return skip(&format!("{program}: {error}: no compiler for it, or no processor"));
        }
        let run = |port| world.as_user("alice").run([LAUNCHER, "run", "--", program, way, port]);
        run("80").exits(0);
        run("81").exits(nix::libc::EACCES).complains("81/tcp is refused for alice");
        if way != "x32" {
            world.as_user("alice").run([program, way, "80"]).exits(nix::libc::EACCES);
        }
    }
}

/// There may be none in a chroot, and another pid namespace's after unshare(1).
fn portgrant_run_works_without_proc(world: &World) {
    world.policy("permit alice 80\n");
    let script = "mount -t tmpfs none /proc; exec setpriv --reuid=1000 --regid=1000 --clear-groups \
        --inh-caps=-all --bounding-set=-all,+net_bind_service,+setuid,+setgid \"$@\"";
    let bare = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "-"];
    let bind = binding("AF_INET", "SOCK_STREAM", "('127.0.0.1', 80)");
    let run = [&bare[..], &[LAUNCHER, "run", "--", "python3", "-c", &bind]].concat();
    world.as_root().run(run).succeeds().prints("bound ('127.0.0.1', 80)\n");
}

/// Its own timer kills it where it is stopped for too long; here it does so itself.
fn a_killed_helper_is_started_once_more(world: &World) {
    world.policy("permit alice 80\n");
    world.folder("/opt/killed", "root", 0o755);
    fs::copy("/usr/libexec/portgrant/portgrant-supervisor", "/opt/killed/portgrant-supervisor").expect("copied");
    let script = binding("AF_INET", "SOCK_STREAM", "('127.0.0.1', 80)");
    for (lives, said, status) in [(1, "bound ('127.0.0.1', 80)\n", ""), (2, "EACCES\n", "fix: try again\n")] {
        let helper = format!(
            "#!/bin/sh\necho start >>/tmp/starts-{lives}\n\
             [ $(grep -c . /tmp/starts-{lives}) -gt {lives} ] || kill -KILL $$\nexec {BINDER} \"$@\"\n"
        );
        world.file("/opt/killed/binder", &helper);
        world.as_root().run(["chmod", "755", "/opt/killed/binder"]).succeeds();
        let alice = world.as_user("alice").env("PORTGRANT_BINDER", "/opt/killed/binder");
        let outcome = alice.run([LAUNCHER, "run", "--", "python3", "-c", &script]);
        outcome.succeeds().prints(said).complains(status);
        assert_eq!(outcome.stderr.is_empty(), status.is_empty(), "{outcome}");
        let starts = fs::read_to_string(format!("/tmp/starts-{lives}")).expect("it was started");
        assert_eq!(starts.lines().count(), 2, "{outcome}");
        none_left(world);
    }
}

/// podman itself is in the tests of packages. Here true(1) has its name.
fn portgrant_run_warns_of_podman_without_a_user_namespace(world: &World) {
    world.policy("permit alice 80\n");
    world.folder("/tmp/runtime", "alice", 0o700);
    std::os::unix::fs::symlink("/bin/true", "/tmp/podman").expect("symlink");
    let run = |user, program| {
        let caller = world.as_user(user).env("XDG_RUNTIME_DIR", "/tmp/runtime");
        caller.run([LAUNCHER, "run", "--", program])
    };
    run("alice", "/tmp/podman")
        .succeeds()
        .complains("podman has no user namespace yet")
        .complains("podman unshare true");
    run("alice", "/bin/true").succeeds().is_silent();
    fs::create_dir_all("/tmp/runtime/libpod/tmp").expect("create");
    let kept_by = |pid: &str| fs::write("/tmp/runtime/libpod/tmp/pause.pid", pid).expect("write");
    // A process that has ended, and one that runs.
    kept_by("4194305");
    run("alice", "/tmp/podman").complains("no user namespace");
    kept_by(&std::process::id().to_string());
    run("alice", "/tmp/podman").succeeds().is_silent();
}
