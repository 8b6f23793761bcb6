//! A program's life under the installed launcher: as whom it runs, from when on, in the background, and whether the real
//! servers accept on what they were given.

use std::fs;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::nginx;
use portgrant_tests::{Caller, LAUNCHER, LAUNCHER_ITSELF, Process, Running, Signal, World, both_installs, http_get};

both_installs![
    root_becomes_the_user_before_anything_is_asked,
    no_capability_of_root_survives_the_change_of_user,
    only_root_can_become_another_user,
    with_wait_a_program_starts_at_the_first_client_of_a_low_port,
    a_grant_that_is_bound_to_a_program_can_be_a_daemon_but_cannot_wait,
    nginx_as_a_daemon_is_ready_when_its_start_ends_and_handles_signals,
    nginx_that_is_configured_for_another_address_is_a_failed_start,
    gunicorn_behind_a_shell_is_found_where_it_listens_instead,
    verify_reports_that_php_fpm_ignores_its_socket,
    the_output_of_a_daemon_goes_to_syslog,
    a_log_that_nobody_reads_stops_neither_signals_nor_the_end,
];

const PID_FILE: &str = "/run/web/guard.pid";

#[track_caller]
fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "not soon: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn number_in(path: &str) -> u32 {
    fs::read_to_string(path).expect("a pid file").trim_end().parse().expect("a pid")
}

/// Whose parent is `pid`.
fn child_of(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("children");
    children.split_whitespace().next().expect("one").parse().expect("a pid")
}

/// PG-1, PG-2: the helper's caller is the user, not root.
fn root_becomes_the_user_before_anything_is_asked(world: &World) {
    world.policy("permit bob 80\n");
    let words = [LAUNCHER, "exec", "--user", "bob", "--chdir", "/home/bob", "-l", "80", "--", "sleep", "60"];
    let root = || world.as_root().env("KEPT", "as it was").env("SHELL", "/bin/root-shell");
    let sleep = root().spawn(words);
    let process = world.process_at_rest(sleep.pid());
    assert_eq!((process.uids, process.gids), ([1001; 4], [1001; 4]));
    assert_eq!(process.groups, [1001, 2000].into(), "the account's, none of root's");
    assert!(process.is_powerless(), "{process:?}");
    assert_eq!(process.folder.to_str(), Some("/home/bob"));
    assert_eq!(process.sockets(), [3]);
    let variable = |name| Process::variable(sleep.pid(), name);
    for (name, expected) in
        [("HOME", "/home/bob"), ("USER", "bob"), ("LOGNAME", "bob"), ("SHELL", "/bin/sh"), ("KEPT", "as it was")]
    {
        assert_eq!(variable(name).as_deref(), Some(expected), "{name}");
    }
    assert_eq!(world.listening().iter().map(|listening| listening.uid).collect::<Vec<_>>(), [1001], "its owner");
    drop(sleep);
    root()
        .run([LAUNCHER, "exec", "--user", "1000", "-l", "80", "--", "true"])
        .exits(77)
        .complains("for alice (uid 1000)");
    root().run([LAUNCHER, "exec", "-l", "80", "--", "true"]).exits(77).complains("for root (uid 0)");
    root()
        .run([LAUNCHER, "exec", "--user", "nobody-here", "-l", "80", "--", "true"])
        .exits(64)
        .complains("nobody-here");
}

/// PG-2
fn no_capability_of_root_survives_the_change_of_user(world: &World) {
    world.policy("permit alice 80\n");
    let words = [
        "--securebits=+no_setuid_fixup",
        "--inh-caps=+net_bind_service,+setuid",
        "--ambient-caps=+net_bind_service,+setuid",
        LAUNCHER,
        "exec",
    ];
    let program = ["--user", "alice", "-l", "80", "--", "sleep", "60"];
    let sleep = world.as_root().spawn([&["setpriv"], &words[..], &program].concat());
    soon("it sleeps", || fs::read_to_string(format!("/proc/{}/comm", sleep.pid())).is_ok_and(|comm| comm == "sleep\n"));
    let process = world.process(sleep.pid());
    assert_eq!(process.uids, [1000; 4]);
    assert!(process.is_powerless(), "{process:?}");
}

fn only_root_can_become_another_user(world: &World) {
    world.policy("permit alice 80\npermit bob 80\n");
    for user in ["alice", "1000"] {
        let own = world.as_user("alice").run([LAUNCHER, "exec", "--user", user, "-l", "80", "--", "id", "-un"]);
        own.succeeds().prints("alice\n");
    }
    for user in ["bob", "root", "0"] {
        let other =
            world.as_user("alice").run([LAUNCHER, "exec", "--user", user, "-l", "80", "--", "touch", "/tmp/ran"]);
        other
            .exits(77)
            .complains("only root can use --user ")
            .complains("this is uid 1000")
            .complains("fix: run this as root");
    }
    assert!(!fs::exists("/tmp/ran").expect("stat"));
    assert_eq!(world.listening(), []);
}

fn with_wait_a_program_starts_at_the_first_client_of_a_low_port(world: &World) {
    world.policy("permit alice 79\n");
    let words = [LAUNCHER, "exec", "--wait", "-l", "79", "--", "hello", "--inetd"];
    let words = [&words[..2], &["--inetd"], &words[2..]].concat();
    let hello = world.as_user("alice").spawn(words);
    soon("it listens", || !world.listening().is_empty());
    let program = |pid| world.process(pid).program;
    thread::sleep(Duration::from_millis(100));
    assert_eq!(program(hello.pid()).to_str(), Some(LAUNCHER_ITSELF), "nobody came yet");
    assert!(http_get("127.0.0.1:79", "/").contains("hello from uid 1000"));
    assert_eq!(program(hello.pid()).file_name().and_then(|name| name.to_str()), Some("hello"), "the same process");
}

fn a_grant_that_is_bound_to_a_program_can_be_a_daemon_but_cannot_wait(world: &World) {
    world.policy("permit alice 79 exec /usr/bin/sleep\n");
    let exec = |option: &'static str| {
        world.as_user("alice").run([LAUNCHER, "exec", option, "-l", "79", "--", "/usr/bin/sleep", "60"])
    };
    for option in ["--wait", "--verify"] {
        exec(option).exits(64).complains(option).complains("the rule is for /usr/bin/sleep");
        assert_eq!(world.listening(), []);
    }
    exec("--daemon").succeeds().is_silent();
    soon("it listens", || !world.listening().is_empty());
    assert_eq!(world.listening()[0].holders.len(), 1, "sleep, and not its guard");
    assert!(world.process(world.listening()[0].holders[0]).is_powerless());
}

/// Root starts nginx for www-data, who may have 80, with `listen` as given.
fn web(world: &World, address: &str) -> Caller {
    world.policy("permit www-data 80 8080 9000\n");
    let server = format!("server {{ listen {address}; location / {{ return 200 'plain\\n'; }} }}");
    world.file("/etc/nginx/plain.conf", &nginx::configuration(&server));
    world.folder("/run/web", "www-data", 0o755);
    world.as_root().env("NGINX", "3;")
}

const START: [&str; 8] = [LAUNCHER, "exec", "--user", "www-data", "--daemon", "--verify", "--pid-file", PID_FILE];
const SERVER: [&str; 6] = ["-l", "0.0.0.0:80", "--", "nginx", "-c", "/etc/nginx/plain.conf"];

fn nginx_as_a_daemon_is_ready_when_its_start_ends_and_handles_signals(world: &World) {
    let words = [&START[..], &SERVER].concat();
    // What it writes before it is up is seen where it is started.
    web(world, "0.0.0.0:80").run(words).succeeds().complains("using inherited sockets");
    assert!(TcpStream::connect("127.0.0.1:80").is_ok(), "it is up");
    assert!(http_get("127.0.0.1:80", "/").ends_with("plain\n"));
    let guard = number_in(PID_FILE);
    let nginx = child_of(guard);
    assert_eq!(number_in("/run/web/nginx.pid"), nginx, "it runs in the foreground, under the guard");
    let www_data = world.uid("www-data");
    for pid in [guard, nginx] {
        let process = world.process(pid);
        assert_eq!((process.uids, process.gids), ([www_data; 4], [www_data; 4]));
        assert!(process.is_powerless(), "{process:?}");
    }
    let worker = child_of(nginx);
    world.as_root().run(["kill", "-HUP", &guard.to_string()]).succeeds();
    soon("another worker", || child_of(nginx) != worker);
    assert!(http_get("127.0.0.1:80", "/").ends_with("plain\n"));
    world.as_root().run(["kill", "-TERM", &guard.to_string()]).succeeds();
    soon("it ends", || !fs::exists(PID_FILE).expect("stat") && world.listening().is_empty());
    assert!(!fs::exists(format!("/proc/{nginx}")).expect("stat"), "no orphan and no zombie");
}

fn nginx_that_is_configured_for_another_address_is_a_failed_start(world: &World) {
    for (address, advice) in [
        ("0.0.0.0:8080", "configure the server for the address that was asked for"),
        ("127.0.0.2:9000", "configure the server for the address that was asked for"),
    ] {
        let outcome = web(world, address).run([&START[..], &SERVER].concat());
        outcome.exits(69).complains("the program does not accept on 80/tcp").complains("it closed the socket");
        outcome.complains("nginx (pid ").complains(&format!("listens at {address} instead")).complains(advice);
        soon("nothing is left", || !fs::exists(PID_FILE).expect("stat") && world.listening().is_empty());
    }
    // The same port at another address: asked for as it is configured, it would serve.
    let specific = ["-l", "127.0.0.1:8080", "--", "nginx", "-c", "/etc/nginx/plain.conf"];
    let outcome = web(world, "127.0.0.2:8080").run([&START[..], &specific].concat());
    outcome.exits(69).complains("configured for: -l 127.0.0.2:8080");
}

/// What a program writes to standard error, until it has said how to mend it.
fn told(running: &Running) -> String {
    soon("it is reported", || running.output().1.contains("  fix: "));
    running.output().1
}

fn gunicorn_behind_a_shell_is_found_where_it_listens_instead(world: &World) {
    world.policy("permit www-data 80\n");
    world.folder("/run/web", "www-data", 0o755);
    let app = "def app(environ, start):\n    start('200 OK', [])\n    return [b'plain\\n']\n";
    world.file("/run/web/app.py", app);
    let exec = |program: &'static str| {
        let words = [LAUNCHER, "-v", "exec", "--verify=15", "-l", "80", "--", "sh", "-c", program];
        world.as_user("www-data").folder("/run/web").spawn(words)
    };
    let wrapped = exec("gunicorn app:app; true");
    let complaint = told(&wrapped);
    assert!(complaint.contains("the program does not accept on 80/tcp"), "{complaint}");
    assert!(
        complaint.contains("gunicorn (pid ") && complaint.contains("listens at 127.0.0.1:8000 instead"),
        "{complaint}"
    );
    let alone = format!("announced to process {} alone (LISTEN_PID)", wrapped.pid());
    assert!(complaint.contains(&alone), "{complaint}");
    drop(wrapped);
    soon("it is gone", || {
        for holder in world.listening().iter().flat_map(|listening| &listening.holders) {
            let _ = world.as_root().run(["kill", "-KILL", &holder.to_string()]);
        }
        world.listening().is_empty()
    });
    let direct = exec("exec gunicorn app:app");
    soon("it is verified", || direct.output().1.contains("accepts on what it was given"));
    assert!(http_get("127.0.0.1:80", "/").ends_with("plain\n"));
}

fn verify_reports_that_php_fpm_ignores_its_socket(world: &World) {
    world.policy("permit www-data 900 reserved\n");
    world.folder("/run/web", "www-data", 0o755);
    let configuration = "[global]\nerror_log = /run/web/log\npid = /run/web/fpm.pid\n[www]\nlisten = 127.0.0.1:9001\n\
        pm = static\npm.max_children = 1\n";
    world.file("/run/web/fpm.conf", configuration);
    let fpm = fs::read_dir("/usr/sbin").expect("readable").flatten().map(|entry| entry.path());
    let fpm = fpm.filter_map(|path| path.to_str().map(str::to_owned)).find(|path| path.contains("/php-fpm"));
    let fpm = fpm.expect("php-fpm is installed");
    let exec = |sockets: &str| {
        let words =
            [LAUNCHER, "-v", "exec", "--verify=4", "-l", "127.0.0.1:900", "--", &fpm, "-F", "-y", "/run/web/fpm.conf"];
        world.as_user("www-data").env("FPM_SOCKETS", sockets).spawn(words)
    };
    let mistaken = exec("127.0.0.1:900=3");
    let complaint = told(&mistaken);
    assert!(complaint.contains("the program does not accept on 900/tcp"), "{complaint}");
    assert!(complaint.contains("php-fpm") && complaint.contains("listens at 127.0.0.1:9001 instead"), "{complaint}");
    mistaken.signal(Signal::SIGTERM);
    mistaken.wait(Duration::from_secs(10)).succeeds();
    world.file("/run/web/fpm.conf", &configuration.replace("9001", "900"));
    let right = exec("127.0.0.1:900=3");
    soon("it is verified", || right.output().1.contains("accepts on what it was given"));
}

fn the_output_of_a_daemon_goes_to_syslog(world: &World) {
    let syslog = world.syslog();
    world.policy("permit alice 79\n");
    let script = "echo out; echo err >&2; echo '<3>grave' >&2; printf 'odd\\033[2J\\r'; exec 1>&- 2>&-; \
        while [ ! -e /tmp/up ]; do sleep 0.02; done; exit 4";
    let words = [LAUNCHER, "exec", "--daemon", "--log", "syslog:news", "-l", "79", "--", "sh", "-c", script];
    world.as_user("alice").run(words).succeeds().is_silent();
    fs::write("/tmp/up", "").expect("written");
    let mut lines = Vec::new();
    soon("it ends", || {
        lines = syslog.lines();
        lines.iter().any(|line| line.contains("it ended with status 4"))
    });
    let lines: Vec<&String> = lines.iter().filter(|line| line.contains(">sh[")).collect();
    // news is 7: (7 << 3) with info (6), notice (5) and what the line itself says.
    for (priority, text) in [(62, "out"), (61, "err"), (59, "grave"), (62, "odd\\x1b[2J\\x0d")] {
        let is_it =
            |line: &&&String| line.starts_with(&format!("<{priority}>sh[")) && line.ends_with(&format!("]: {text}"));
        assert_eq!(lines.iter().filter(is_it).count(), 1, "{text}: {lines:?}");
    }
    let no_log = [LAUNCHER, "exec", "--daemon", "-l", "79", "--", "sh", "-c", "echo lost"];
    drop(syslog);
    fs::remove_file("/dev/log").expect("removed");
    world.as_user("alice").run(no_log).succeeds().is_silent();
}

fn a_log_that_nobody_reads_stops_neither_signals_nor_the_end(world: &World) {
    let syslog = world.syslog();
    world.policy("permit alice 79\n");
    // Far more than the log daemon's queue and the pipe hold, so that the program itself waits.
    let script =
        "i=0; while [ $i -lt 4000 ]; do echo line $i of a log that nobody reads; i=$((i + 1)); done; exec sleep 60";
    let words = [LAUNCHER, "exec", "--daemon", "--pid-file", "/home/alice/pid", "-l", "79", "--", "sh", "-c", script];
    world.as_user("alice").run(words).succeeds();
    let guard = number_in("/home/alice/pid");
    thread::sleep(Duration::from_millis(500));
    assert!(!world.listening().is_empty(), "it waits at its pipe");
    soon("nothing is lost, it goes on where the log is read", || {
        syslog.lines().iter().any(|line| line.contains("]: line 300 of"))
    });
    let own = |line: &String| line.contains(">sh[");
    let lines: Vec<String> = syslog.lines().into_iter().filter(own).collect();
    for (number, line) in lines.iter().enumerate() {
        assert!(line.contains(&format!("]: line {number} of")), "in order: {line}");
    }
    world.as_root().run(["kill", "-TERM", &guard.to_string()]).succeeds();
    soon("it ends", || !fs::exists("/home/alice/pid").expect("stat") && world.listening().is_empty());
}
