//! What the program gets: the sockets, and what its caller had; nothing else.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::path::Path;

use portgrant_tests::{BINDER, Process, Resource, Signal, World, both_installs, http_get};

both_installs![
    the_program_gets_the_sockets_in_order_with_their_names,
    the_program_inherits_everything_else_from_its_caller,
    variables_that_glibc_hides_from_setuid_programs_reach_the_program,
    stale_variables_of_the_convention_are_replaced,
    inetd_gets_one_socket_on_standard_input_and_output,
    no_new_privs_is_set_only_when_asked_for,
    the_callers_descriptors_keep_their_numbers,
    a_descriptor_in_the_place_of_a_socket_is_an_error,
    the_socket_belongs_to_the_caller,
    a_port_is_shared_only_with_the_callers_other_sockets,
    root_needs_a_rule_too,
    a_server_answers_on_port_80,
];

fn the_program_gets_the_sockets_in_order_with_their_names(world: &World) {
    world.policy("permit alice 80 443 443/udp\n");

    let sleep = world.as_user("alice").spawn([
        BINDER,
        "exec",
        "-l",
        "80",
        "-l",
        "https=127.0.0.1:443",
        "-l",
        "quic=443/udp",
        "--",
        "sleep",
        "60",
    ]);

    let process = world.process_at_rest(sleep.pid());
    assert_eq!(process.sockets(), [3, 4, 5]);
    assert_eq!(Process::variable(sleep.pid(), "LISTEN_FDS").as_deref(), Some("3"));
    assert_eq!(Process::variable(sleep.pid(), "LISTEN_PID"), Some(sleep.pid().to_string()));
    assert_eq!(Process::variable(sleep.pid(), "LISTEN_FDNAMES").as_deref(), Some("80/tcp:https:quic"));
    let endpoints: Vec<_> = world.listening().iter().map(|socket| socket.endpoint()).collect();
    assert_eq!(endpoints, ["tcp *:80", "tcp 127.0.0.1:443", "udp *:443"]);
}

/// PG-2, PG-3
fn the_program_inherits_everything_else_from_its_caller(world: &World) {
    world.policy("permit bob 80\n");
    let caller = world.as_user("bob").groups(&[7, 2000]).umask(0o027).folder("/home/bob");
    let caller = caller.ignoring(Signal::SIGPIPE).ignoring(Signal::SIGHUP).limit(Resource::RLIMIT_NOFILE, 77);
    let caller = caller.blocking_all_signals().env("RUST_BACKTRACE", "full").env("ODD", "a=b\u{fc}\n");

    let sleep = caller.spawn([BINDER, "exec", "-l", "80", "--", "sleep", "60"]);

    let process = world.process_at_rest(sleep.pid());
    assert_eq!((process.uids, process.gids), ([1001; 4], [1001; 4]));
    assert_eq!(process.groups, [7, 2000].into());
    assert!(process.is_powerless(), "{process:?}");
    assert_eq!(process.ignored, [Signal::SIGHUP, Signal::SIGPIPE].into());
    assert!(process.blocked.contains(&Signal::SIGTERM));
    assert!(!process.no_new_privs);
    assert_eq!((process.umask, process.folder.as_path()), (0o027, Path::new("/home/bob")));
    assert_eq!(process.fds.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3]);
    let limits = fs::read_to_string(format!("/proc/{}/limits", sleep.pid())).expect("limits");
    assert!(limits.lines().any(|line| line.starts_with("Max open files") && line.contains(" 77 ")), "{limits}");
    assert_eq!(Process::variable(sleep.pid(), "RUST_BACKTRACE").as_deref(), Some("full"));
    assert_eq!(Process::variable(sleep.pid(), "ODD").as_deref(), Some("a=b\u{fc}\n"));
}

fn variables_that_glibc_hides_from_setuid_programs_reach_the_program(world: &World) {
    world.policy("permit alice 80\n");
    let hidden = ["TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD", "GLIBC_TUNABLES", "LOCPATH", "TZDIR", "MALLOC_TRACE"];
    let mut caller = world.as_user("alice");
    for name in hidden {
        caller = caller.env(name, format!("/nonexistent/{name}"));
    }

    let sleep = caller.env("EMPTY", "").spawn([BINDER, "exec", "-l", "80", "--", "sleep", "60"]);

    let _ = world.process_at_rest(sleep.pid());
    for name in hidden {
        assert_eq!(Process::variable(sleep.pid(), name), Some(format!("/nonexistent/{name}")));
    }
    assert_eq!(Process::variable(sleep.pid(), "EMPTY").as_deref(), Some(""));
}

fn stale_variables_of_the_convention_are_replaced(world: &World) {
    world.policy("permit alice 80\n");
    let stale = world.as_user("alice").env("LISTEN_FDS", "9").env("LISTEN_PID", "1").env("LISTEN_FDNAMES", "a:b");

    let outcome =
        stale.env("LISTEN_PIDFDID", "4").run([BINDER, "exec", "-l", "w=80", "--", "sh", "-c", "env; echo $$"]);

    let pid = outcome.succeeds().stdout.lines().last().unwrap_or_default().to_owned();
    let mut listen: Vec<&str> = outcome.stdout.lines().filter(|line| line.starts_with("LISTEN_")).collect();
    listen.sort_unstable();
    assert_eq!(listen, ["LISTEN_FDNAMES=w", "LISTEN_FDS=1", &format!("LISTEN_PID={pid}")]);
}

fn inetd_gets_one_socket_on_standard_input_and_output(world: &World) {
    world.policy("permit alice 69/udp 80\n");
    let stale = world.as_user("alice").env("LISTEN_FDS", "1").env("LISTEN_PID", "1");

    let sleep = stale.spawn([BINDER, "exec", "--inetd", "-l", "80", "--", "sleep", "60"]);

    let process = world.process_at_rest(sleep.pid());
    assert_eq!(process.sockets(), [0, 1]);
    assert_eq!(process.fds.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(Process::variable(sleep.pid(), "LISTEN_FDS"), None);
    for wrong in [&["-l", "80", "-l", "69/udp"][..], &["-l", "each:69/udp"]] {
        let words = [&[BINDER, "exec", "--inetd"], wrong, &["--", "true"]].concat();
        world.as_user("alice").run(words).exits(64).complains("'--inetd' needs exactly one socket");
    }
}

fn no_new_privs_is_set_only_when_asked_for(world: &World) {
    world.policy("permit alice 80\n");
    let grep = ["--", "grep", "NoNewPrivs", "/proc/self/status"];
    world.as_user("alice").run([&[BINDER, "exec", "-l", "80"], &grep[..]].concat()).succeeds().prints("NoNewPrivs:\t0");
    let asked = [&[BINDER, "exec", "--no-new-privs", "-l", "80"], &grep[..]].concat();
    world.as_user("alice").run(asked).succeeds().prints("NoNewPrivs:\t1");
}

/// PG-3
fn the_callers_descriptors_keep_their_numbers(world: &World) {
    world.policy("permit alice 80 443\n");
    let file = || File::open("/etc/passwd").expect("open");

    let sleep = world
        .as_user("alice")
        .fd(5, file())
        .fd(9, file())
        .spawn([BINDER, "exec", "-l", "80", "-l", "443", "--", "sleep", "60"]);

    let process = world.process_at_rest(sleep.pid());
    assert_eq!(process.fds.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 9]);
    assert_eq!(process.fds[&5], Path::new("/etc/passwd"));
    assert_eq!(process.sockets(), [3, 4]);
}

fn a_descriptor_in_the_place_of_a_socket_is_an_error(world: &World) {
    world.policy("permit alice 80 443\n");
    for (occupied, endpoints) in [(3, &["-l", "80"][..]), (4, &["-l", "80", "-l", "443"])] {
        let caller = world.as_user("alice").fd(occupied, File::open("/etc/passwd").expect("open"));
        let outcome = caller.run([&[BINDER, "exec"], endpoints, &["--", "touch", "/tmp/ran"]].concat());
        outcome
            .exits(64)
            .complains(&format!("descriptor {occupied} is open already"))
            .complains(&format!("{occupied}>&-"));
    }
    assert!(!fs::exists("/tmp/ran").expect("stat"));
    let beside = world.as_user("alice").fd(4, File::open("/etc/passwd").expect("open"));
    beside.run([BINDER, "exec", "-l", "80", "--", "true"]).succeeds();
}

fn the_socket_belongs_to_the_caller(world: &World) {
    world.policy("permit bob 80 53/udp\n");
    let sleep = world.as_user("bob").spawn([BINDER, "exec", "-l", "80", "-l", "53/udp", "--", "sleep", "60"]);
    let _ = world.process_at_rest(sleep.pid());
    let sockets = world.listening();
    assert_eq!(sockets.len(), 2);
    assert!(sockets.iter().all(|socket| socket.uid == 1001 && socket.holders == [sleep.pid()]), "{sockets:?}");
}

/// PG-8
fn a_port_is_shared_only_with_the_callers_other_sockets(world: &World) {
    world.policy("permit alice 80 53/udp reuseport\npermit bob 80 53/udp reuseport\n");
    let exec = |endpoint: &'static str| [BINDER, "exec", "-l", endpoint, "--", "sleep", "60"];
    for (endpoint, protocol) in [("80,reuseport", "tcp"), ("53/udp,reuseport", "udp")] {
        let first = world.as_user("alice").spawn(exec(endpoint));
        let _ = world.process_at_rest(first.pid());
        world.as_user("bob").run(exec(endpoint)).exits(69).complains("is in use");
        // Nor does the same user without the word.
        let plain = endpoint.trim_end_matches(",reuseport");
        world.as_user("alice").run([BINDER, "exec", "-l", plain, "--", "true"]).exits(69).complains("is in use");
        let second = world.as_user("alice").spawn(exec(endpoint));
        let _ = world.process_at_rest(second.pid());
        assert_eq!(world.listening().iter().filter(|socket| socket.protocol == protocol).count(), 2);
    }
}

/// PG-1
fn root_needs_a_rule_too(world: &World) {
    world.policy("permit alice 80\n");
    world.as_root().run([BINDER, "exec", "-l", "80", "--", "true"]).exits(77).complains("refused for root (uid 0)");
    world.policy("permit root 80\n");
    world.as_root().run([BINDER, "exec", "-l", "80", "--", "true"]).succeeds();
}

fn a_server_answers_on_port_80(world: &World) {
    world.policy("permit alice 80\n");
    let script = "import socket, http.server as h\n\
        s = h.HTTPServer(('', 0), h.SimpleHTTPRequestHandler, False)\n\
        s.socket = socket.socket(fileno=3)\ns.serve_forever()\n";
    let _server =
        world.as_user("alice").folder("/home/alice").spawn([BINDER, "exec", "-l", "80", "--", "python3", "-c", script]);
    let answer = http_get("127.0.0.1:80", "/");
    assert!(answer.contains("200 OK"), "{answer}");
    let answer = http_get("[::1]:80", "/");
    assert!(answer.contains("200 OK"), "{answer}");
    UdpSocket::bind("127.0.0.1:80").expect("only tcp is taken");
}
