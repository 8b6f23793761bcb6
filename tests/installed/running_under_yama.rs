//! `portgrant run` under Yama, which lets only ancestors look into a process (ptrace_scope 1) or nobody (2 and 3).
//!
//! Where the kernel has Yama and it says so, this is the real thing (`tests/booted` sees to that). Elsewhere the launcher
//! reads a file in its place, and stands where it would stand.

use std::fs;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use portgrant_tests::{BINDER, LAUNCHER, Running, SUPERVISOR, World, both_installs, http_get, ptrace_scope};

use crate::nginx;
use crate::running::{PATIENCE, await_output, await_port, binding, none_left, supervisors};

both_installs![
    portgrant_run_ends_with_the_status_of_the_program,
    signals_reach_the_program,
    stop_and_continue_signals_reach_the_program,
    the_supervisor_does_not_spin_under_a_low_descriptor_limit,
    unmodified_servers_and_their_workers_answer,
    threads_children_and_grandchildren_are_decided_alike,
    a_daemon_that_left_its_parents_binds,
    processes_that_outlive_the_program_can_bind_and_are_reaped,
    killing_the_first_process_ends_the_program,
    a_detached_supervisor_cannot_inspect_the_program,
    a_forbidden_ptrace_scope_is_reported_before_the_program_starts,
];

/// Starts `words` as alice, under the ptrace_scope `scope`.
fn supervised(world: &World, scope: u8, words: &[&str]) -> Running {
    supervised_by(world, scope, "alice", &[], words)
}

/// The same by `user`, and in `by`, words that execute what follows them.
fn supervised_by(world: &World, scope: u8, user: &str, by: &[&str], words: &[&str]) -> Running {
    let run = [by, &[LAUNCHER, "run", "--"], words].concat();
    if ptrace_scope() == Some(scope) {
        return world.as_user(user).spawn(run);
    }
    world.file("/tmp/ptrace_scope", &format!("{scope}\n"));
    let script = "mount -t tmpfs none /proc/sys/kernel; mkdir -p /proc/sys/kernel/yama; \
        cp /tmp/ptrace_scope /proc/sys/kernel/yama/; user=$1; shift; exec setpriv --reuid=$user --regid=$user \
        --clear-groups --inh-caps=-all --bounding-set=-all,+net_bind_service,+setuid,+setgid \"$@\"";
    let apart = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "-", user];
    world.as_root().spawn([&apart[..], &run].concat())
}

/// Python that binds `port` of the loopback address and says what came of it.
fn binds(port: u16) -> String {
    binding("AF_INET", "SOCK_STREAM", &format!("('127.0.0.1', {port})"))
}

fn portgrant_run_ends_with_the_status_of_the_program(world: &World) {
    world.policy("permit alice 80\n");
    let run = |words: &[&str]| supervised(world, 1, words).wait(PATIENCE);
    run(&["sh", "-c", "exit 42"]).exits(42);
    run(&["sh", "-c", "kill -KILL $$"]).dies_of(Signal::SIGKILL);
    assert_eq!(run(&["sh", "-c", "kill -40 $$"]).status.signal(), Some(40), "a real-time one");
    run(&["/etc/passwd"]).exits(126);
    // Also where nobody could be waited for, if it were left so.
    let deaf =
        "import os, signal, sys\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nos.execv(sys.argv[1], sys.argv[1:])";
    let deaf = supervised_by(world, 1, "alice", &["python3", "-c", deaf], &["sh", "-c", "exit 42"]);
    deaf.wait(PATIENCE).exits(42);
    none_left(world);
}

/// poll(2) fails with EINVAL then. A signal ends the one that waits.
fn the_supervisor_does_not_spin_under_a_low_descriptor_limit(world: &World) {
    world.policy("permit alice 80\n");
    let told = "import signal\nsignal.signal(signal.SIGUSR1, lambda *_: print('told', flush=True))\n\
                print('ready', flush=True)\nwhile True: signal.pause()";
    let server = supervised(world, 1, &["python3", "-c", told]);
    await_output(&server, "ready\n");
    world.as_user("alice").run(["prlimit", "--pid", &server.pid().to_string(), "--nofile=1:"]).succeeds();
    server.signal(Signal::SIGUSR1);
    await_output(&server, "told\n");
    let before = world.process(server.pid()).processor_time;
    thread::sleep(Duration::from_secs(1));
    let spent = world.process(server.pid()).processor_time - before;
    assert!(spent < Duration::from_millis(200), "it spins: {spent:?} of a second");
    server.signal(Signal::SIGTERM);
    server.wait(PATIENCE).dies_of(Signal::SIGTERM);
    none_left(world);
}

fn signals_reach_the_program(world: &World) {
    world.policy("permit alice 80\n");
    let told = "import signal\nfor n in (20, 22, 40): signal.signal(n, lambda number, _: print(number, flush=True))\n\
                print('ready', flush=True)\nwhile True: signal.pause()";
    let server = supervised(world, 1, &["python3", "-c", told]);
    await_output(&server, "ready\n");
    for signal in [20, 22, 40] {
        world.as_root().run(["kill", &format!("-{signal}"), &server.pid().to_string()]).succeeds();
        await_output(&server, &format!("{signal}\n"));
    }
    server.signal(Signal::SIGTERM);
    server.wait(PATIENCE).dies_of(Signal::SIGTERM);
    none_left(world);
}

fn stop_and_continue_signals_reach_the_program(world: &World) {
    world.policy("permit alice 80\n");
    let script = "import os, signal\nprint(os.getpid(), flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)\nprint('on')";
    let program = supervised(world, 1, &["python3", "-c", script]);
    let deadline = Instant::now() + PATIENCE;
    let state = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", program.pid())).expect("it is there");
        stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).expect("a state")
    };
    while state() != 'T' {
        assert!(Instant::now() < deadline, "it does not stop: {}", state());
        thread::sleep(Duration::from_millis(5));
    }
    program.signal(Signal::SIGCONT);
    program.wait(PATIENCE).succeeds().prints("\non\n");
}

fn unmodified_servers_and_their_workers_answer(world: &World) {
    world.policy("permit www-data 80\npermit alice 81\n");
    let mut server = supervised(world, 1, &["python3", "-m", "http.server", "81"]);
    await_port(&mut server, 81);
    assert!(http_get("127.0.0.1:81", "/").contains("Directory listing"));
    let mut both = supervisors(world);
    both.sort_unstable();
    assert_eq!((both.len(), both[0]), (2, server.pid()), "what was started, and the supervisor");
    server.signal(Signal::SIGINT);
    server.wait(PATIENCE).exits(0);

    world.folder("/run/web", "www-data", 0o755);
    let more = "server { listen 127.0.0.1:80; location / { return 200 'hello'; } }";
    world.file("/run/web/nginx.conf", &nginx::configuration(more));
    let words = ["nginx", "-c", "/run/web/nginx.conf", "-g", "worker_processes 3;"];
    let mut server = supervised_by(world, 1, "www-data", &[], &words);
    await_port(&mut server, 80);
    assert!(http_get("127.0.0.1:80", "/").ends_with("hello"));
    let uid = world.uid("www-data");
    assert!(world.listening().iter().all(|socket| socket.uid == uid && socket.holders.len() == 4));
    server.signal(Signal::SIGQUIT);
    server.wait(PATIENCE).exits(0);
    none_left(world);
}

fn threads_children_and_grandchildren_are_decided_alike(world: &World) {
    world.policy("permit alice 80-89\n");
    let script = format!(
        "import os, subprocess, sys, threading\n\
         def bind(port):\n import socket, errno\n s = socket.socket()\n try: s.bind(('127.0.0.1', port)); said = 'bound'\n \
         except OSError as e: said = errno.errorcode[e.errno]\n os.write(1, f'{{port}} {{said}}\\n'.encode())\n\
         def child(port):\n pid = os.fork()\n if pid == 0:\n  bind(port); os._exit(0)\n os.waitpid(pid, 0)\n\
         def grandchild(port):\n pid = os.fork()\n if pid == 0:\n  os.setsid(); child(port); os._exit(0)\n os.waitpid(pid, 0)\n\
         def execute(port): subprocess.run([sys.executable, '-c', '''{}'''.replace('80', str(port))])\n\
         def thread(port):\n t = threading.Thread(target=bind, args=(port,)); t.start(); t.join()\n\
         for way, port in (bind, 80), (thread, 81), (child, 82), (grandchild, 83), (execute, 84): way(port); way(port + 10)",
        binds(80)
    );
    let outcome = supervised(world, 1, &["python3", "-c", &script]).wait(PATIENCE);
    outcome.succeeds().prints("80 bound\n90 EACCES\n81 bound\n91 EACCES\n82 bound\n92 EACCES\n83 bound\n93 EACCES\n");
    outcome.prints("bound ('127.0.0.1', 84)\nEACCES\n");
    for port in 90..95 {
        outcome.complains(&format!("127.0.0.1:{port}/tcp is refused for alice (uid 1000)\n  why: "));
    }
    none_left(world);
}

/// As daemon(3) does, and once more: it binds when its parents are gone, and who started it has been told of its start.
fn a_daemon_that_left_its_parents_binds(world: &World) {
    world.policy("permit alice 80 82\n");
    let script = "import errno, os, socket, sys, time\n\
        if os.fork(): sys.exit(3)\n\
        os.setsid()\nif os.fork(): os._exit(0)\n\
        for n in range(3): os.dup2(os.open('/dev/null', os.O_RDWR), n)\n\
        while not os.path.exists('/tmp/go'): time.sleep(0.01)\n\
        s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('127.0.0.1', 80)); s.listen()\n\
        def worker():\n t = socket.socket()\n try: t.bind(('127.0.0.1', 81)); said = 'bound'\n \
        except OSError as e: said = errno.errorcode[e.errno]\n \
        t.bind(('127.0.0.1', 82))\n c = s.accept()[0]; c.sendall(said.encode()); c.close(); os._exit(0)\n\
        if os.fork() == 0: worker()\nos.wait()";
    let started = supervised(world, 1, &["python3", "-c", script]);
    started.wait(PATIENCE).exits(3);
    assert_eq!(supervisors(world).len(), 1, "it stays for what is left");
    fs::write("/tmp/go", "").expect("written");
    let deadline = Instant::now() + PATIENCE;
    let answer = loop {
        match TcpStream::connect("127.0.0.1:80").map(std::io::read_to_string) {
            Ok(answer) => break answer.expect("an answer"),
            Err(_) => assert!(Instant::now() < deadline, "the daemon does not answer"),
        }
        thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(answer, "EACCES");
    none_left(world);
}

fn processes_that_outlive_the_program_can_bind_and_are_reaped(world: &World) {
    world.policy("permit alice 80\n");
    let script = format!(
        "for n in $(seq 20); do (sleep 0.01 &); done; (while [ ! -e /tmp/go ]; do sleep 0.01; done; \
         exec python3 -c \"{}\" >/tmp/late) >/dev/null 2>&1 & exit 3",
        binds(80)
    );
    supervised(world, 1, &["sh", "-c", &script]).wait(PATIENCE).exits(3);
    let left = supervisors(world);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let children = world.as_root().run(["ps", "-o", "stat=", "--ppid", &left[0].to_string()]).stdout;
        if children.lines().count() == 1 && !children.contains('Z') {
            break;
        }
        assert!(Instant::now() < deadline, "children of the supervisor: {children}");
        thread::sleep(Duration::from_millis(10));
    }
    fs::write("/tmp/go", "").expect("written");
    none_left(world);
    assert_eq!(fs::read_to_string("/tmp/late").expect("it ran"), "bound ('127.0.0.1', 80)\n");
}

fn killing_the_first_process_ends_the_program(world: &World) {
    world.policy("permit alice 80\n");
    let script = "import os, signal, time\ndef end(*_):\n open('/tmp/told', 'w'); os._exit(0)\n\
                  signal.signal(signal.SIGTERM, end)\nprint('up', flush=True)\nwhile True: time.sleep(1)";
    for which in [0, 1] {
        let program = supervised(world, 1, &["python3", "-c", script]);
        await_output(&program, "up\n");
        let mut both = supervisors(world);
        both.sort_unstable();
        world.as_root().run(["kill", "-9", &both[which].to_string()]).succeeds();
        program.wait(PATIENCE).dies_of(Signal::SIGKILL);
        none_left(world);
        let deadline = Instant::now() + PATIENCE;
        while fs::remove_file("/tmp/told").is_err() {
            assert!(Instant::now() < deadline, "the program is not told to end");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Whether Yama is really active where the tests above rely on it, and emulated where it is not.
fn a_detached_supervisor_cannot_inspect_the_program(world: &World) {
    world.policy("permit alice 80\n");
    let script = binds(80);
    let detached = world.as_user("alice").run([SUPERVISOR, BINDER, "/usr/bin/python3", "python3", "-c", &script]);
    if ptrace_scope().unwrap_or(0) == 0 {
        detached.succeeds().prints("bound");
    } else {
        detached.succeeds().prints("EACCES").complains("cannot inspect ").complains("which binds with its own rights");
    }
}

fn a_forbidden_ptrace_scope_is_reported_before_the_program_starts(world: &World) {
    world.policy("permit alice 80\n");
    for (scope, why) in
        [(2, "only a process with CAP_SYS_PTRACE may inspect another"), (3, "until this machine is started again")]
    {
        for user in ["alice", "root"] {
            let refused = supervised_by(world, scope, user, &[], &["touch", "/tmp/started"]).wait(PATIENCE);
            refused.exits(78).complains(&format!("kernel.yama.ptrace_scope is {scope}: ")).complains(why);
        }
    }
    assert!(!fs::exists("/tmp/started").expect("stat"));
}
