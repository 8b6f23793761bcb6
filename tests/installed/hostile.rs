//! Callers who mean harm: each ends in the right result or a clear error, never with something bound and lost, a
//! capability kept or a descriptor leaked.

use std::fs::{self, File};

use portgrant_tests::{BINDER, LAUNCHER, Resource, Signal, World, both_installs};

both_installs![
    without_any_argument_there_is_a_usage_error,
    no_socket_takes_the_number_of_a_closed_standard_descriptor,
    low_resource_limits_cause_an_error_or_the_right_result,
    signals_ignored_or_blocked_change_nothing,
    a_deleted_folder_changes_nothing,
    a_hostile_environment_changes_nothing,
    a_stopped_log_daemon_blocks_nothing,
    the_callers_real_ids_decide,
    the_helper_cannot_be_traced_nor_its_descriptors_taken,
    an_error_that_nobody_reads_does_not_block_the_helper,
    the_helper_has_no_privilege_while_it_prints_an_error,
    a_reply_that_nobody_receives_is_an_error,
    a_socket_bound_to_another_address_by_cgroup_bpf_is_not_handed_over,
];

const EXEC: [&str; 5] = [BINDER, "exec", "-l", "80", "--"];

fn exec<'a>(program: &[&'a str]) -> Vec<&'a str> {
    [&EXEC[..], program].concat()
}

/// PG-7
fn without_any_argument_there_is_a_usage_error(world: &World) {
    world.policy("permit alice 80\n");
    world.as_user("alice").without_argv().run([BINDER]).exits(64).complains("no verb was given");
    world.as_user("alice").arg0("").run(exec(&["true"])).succeeds();
}

/// PG-3, PG-7
fn no_socket_takes_the_number_of_a_closed_standard_descriptor(world: &World) {
    world.policy("permit alice 80\n");
    for closed in [&[0][..], &[1], &[2], &[0, 1, 2]] {
        let caller = closed.iter().fold(world.as_user("alice"), |caller, &number| caller.closing(number));
        let sleep = caller.spawn(exec(&["sleep", "60"]));
        let process = world.process_at_rest(sleep.pid());
        assert_eq!(process.sockets(), [3], "{closed:?}: {:?}", process.fds);
        for number in closed {
            assert_eq!(process.fds.get(number), None, "{closed:?}: {number} is open in the program");
        }
    }
    // The C library of a setuid program opens this where it can, and crashes where it cannot.
    world.as_root().run(["umount", "/dev/full"]).succeeds();
    fs::remove_file("/dev/full").expect("removed");
    for closed in [0, 1, 2] {
        world.as_user("alice").closing(closed).run([BINDER, "--version"]).succeeds();
        world.as_user("alice").closing(closed).run(exec(&["/bin/true"])).succeeds();
    }
    world.as_user("alice").closing(0).limit(Resource::RLIMIT_NOFILE, 0).run([BINDER, "--version"]).exits(71);
    // Where there is nothing to say it on, an error still is one.
    let silent = world.as_user("alice").closing(0).closing(1).closing(2);
    silent.run([BINDER, "exec", "-l", "81", "--", "true"]).exits(77).is_silent();
}

/// PG-4, PG-7
fn low_resource_limits_cause_an_error_or_the_right_result(world: &World) {
    world.policy("permit alice 80\n");
    let alice = || world.as_user("alice");
    alice().limit(Resource::RLIMIT_NOFILE, 3).run(exec(&["true"])).exits(71).complains("os error 24");
    alice().limit(Resource::RLIMIT_NOFILE, 0).run(exec(&["true"])).exits(71);
    let printf = exec(&["printf", "served"]);
    alice().limit(Resource::RLIMIT_NOFILE, 8).run(&printf).succeeds().prints("served");
    alice().limit(Resource::RLIMIT_FSIZE, 0).run(&printf).succeeds().prints("served");
    alice().limit(Resource::RLIMIT_FSIZE, 0).run([BINDER, "exec", "-l", "81", "--", "true"]).exits(77);
    alice().limit(Resource::RLIMIT_NPROC, 1).run(&printf).succeeds().prints("served");
    alice().limit(Resource::RLIMIT_STACK, 128 << 10).run([LAUNCHER, "explain", "80"]).succeeds();
    alice().limit(Resource::RLIMIT_CORE, u64::MAX >> 1).run(&printf).succeeds();
    assert_eq!(world.listening(), []);
}

fn signals_ignored_or_blocked_change_nothing(world: &World) {
    world.policy("permit alice 80\n");
    let caller = world.as_user("alice").ignoring(Signal::SIGPIPE).ignoring(Signal::SIGCHLD).blocking_all_signals();
    let sleep = caller.spawn(exec(&["sleep", "60"]));
    let process = world.process_at_rest(sleep.pid());
    assert_eq!(process.ignored, [Signal::SIGPIPE, Signal::SIGCHLD].into());
    assert!(process.blocked.contains(&Signal::SIGINT));
    drop(sleep);
    let sleep = world.as_user("alice").spawn(exec(&["sleep", "60"]));
    let process = world.process_at_rest(sleep.pid());
    assert!(process.ignored.is_empty() && process.blocked.is_empty(), "{process:?}");
}

fn a_deleted_folder_changes_nothing(world: &World) {
    world.policy("permit alice 80\n");
    world.as_user("alice").in_a_deleted_folder().run(exec(&["printf", "served"])).succeeds().prints("served");
    world.as_user("alice").in_a_deleted_folder().run(exec(&["./true"])).exits(127).complains("'./true' was not found");
}

/// PG-5
fn a_hostile_environment_changes_nothing(world: &World) {
    world.policy("permit alice 80\n");
    world.folder("/home/alice/bin", "alice", 0o755);
    world.file("/home/alice/bin/id", "#!/bin/sh\necho own id\n");
    fs::set_permissions("/home/alice/bin/id", std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let hostile = [
        ("LD_PRELOAD", "/home/alice/evil.so"),
        ("LD_LIBRARY_PATH", "/home/alice"),
        ("LD_AUDIT", "/home/alice/evil.so"),
        ("LD_DEBUG", "all"),
        ("LD_DEBUG_OUTPUT", "/home/alice/out"),
        ("GLIBC_TUNABLES", "glibc.malloc.check=3:glibc.malloc.mxfast=glibc.malloc.mxfast=A"),
        ("RUST_LOG", "trace"),
        ("RUST_BACKTRACE", "full"),
        ("RUST_MIN_STACK", "1"),
        ("LISTEN_FDS", "99999999999"),
        ("LISTEN_PID", "x"),
        ("TZ", "/home/alice/tz"),
        ("LC_ALL", "../../home/alice"),
        ("HOSTALIASES", "/home/alice/x"),
        ("PATH", "."),
    ];
    let caller = || hostile.iter().fold(world.as_user("alice"), |caller, (name, value)| caller.env(name, value));
    // The refusal is the same to the byte as with a plain environment.
    let refused = [BINDER, "exec", "-l", "81", "--", "/bin/true"];
    let plain = world.as_user("alice").run(refused);
    assert_eq!(caller().run(refused).exits(77).stderr, plain.exits(77).stderr);
    assert!(!fs::exists("/home/alice/out").expect("stat"), "LD_DEBUG_OUTPUT was obeyed");
    // PATH is the caller's, looked up as the caller: their own program runs, as them.
    let own = caller().env("LD_DEBUG", "").env("LD_PRELOAD", "").env("LD_AUDIT", "").folder("/home/alice/bin");
    own.run([BINDER, "exec", "-l", "80", "--", "id"]).succeeds().prints("own id");
}

/// PG-6
fn a_stopped_log_daemon_blocks_nothing(world: &World) {
    world.policy("permit alice 80\n");
    let log = world.syslog();
    for _ in 0..40 {
        world.as_user("alice").run(exec(&["true"])).succeeds();
    }
    assert!(log.lines().len() < 40, "the log was never full");
    drop(log);
    world.as_user("alice").run(exec(&["true"])).succeeds();
    fs::remove_file("/dev/log").expect("rm");
    world.as_user("alice").run(exec(&["true"])).succeeds();
}

/// PG-2
fn the_callers_real_ids_decide(world: &World) {
    world.policy("permit alice 80\npermit bob 81\n");
    let mixed = || world.as_user("alice").uids(1000, 1001, 1001);
    let sleep = mixed().spawn(exec(&["sleep", "60"]));
    let process = world.process_at_rest(sleep.pid());
    assert_eq!(process.uids, [1000; 4]);
    assert!(process.is_powerless());
    mixed().run([BINDER, "exec", "-l", "81", "--", "true"]).exits(77).complains("refused for alice (uid 1000)");
}

/// PG-2
fn the_helper_cannot_be_traced_nor_its_descriptors_taken(world: &World) {
    world.policy("permit alice 80\n");
    // Many endpoints keep it busy for a while; it is tried from the moment on that its links are hidden.
    let script = "import os, signal, ctypes, sys, time\n\
        pid = os.fork()\n\
        if pid == 0: os.execv(sys.argv[1], [sys.argv[1], 'explain'] + ['-l', '80'] * 200)\n\
        libc = ctypes.CDLL(None, use_errno=True)\n\
        seen = set()\n\
        while os.waitpid(pid, os.WNOHANG)[0] == 0:\n\
        \x20   try: exe = os.readlink('/proc/%d/exe' % pid)\n\
        \x20   except PermissionError: exe = 'hidden'\n\
        \x20   except FileNotFoundError: continue\n\
        \x20   if exe != 'hidden': continue\n\
        \x20   pidfd = libc.syscall(434, pid, 0)\n\
        \x20   if libc.syscall(438, pidfd, 0, 0) >= 0: seen.add('took a descriptor')\n\
        \x20   if libc.ptrace(16, pid, 0, 0) == 0: seen.add('traced')\n\
        \x20   try: open('/proc/%d/mem' % pid, 'rb'); seen.add('opened memory')\n\
        \x20   except OSError: pass\n\
        \x20   os.close(pidfd); seen.add('tried')\n\
        print(sorted(seen))\n";
    for _ in 0..20 {
        let outcome = world.as_user("alice").run(["python3", "-c", script, BINDER]);
        outcome.succeeds();
        let last = outcome.stdout.lines().last().unwrap_or_default();
        assert!(["['tried']", "[]"].contains(&last), "{last}");
        if last == "['tried']" {
            return;
        }
    }
    panic!("twenty times the helper was over before it could be tried");
}

/// PG-7
fn an_error_that_nobody_reads_does_not_block_the_helper(world: &World) {
    world.policy("permit alice 80\n");
    let script = "import os, subprocess, sys\nr, w = os.pipe(); os.close(r)\n\
        p = subprocess.run([sys.argv[1], 'exec', '-l', '81', '--', 'true'], stderr=w, timeout=20)\nprint(p.returncode)\n";
    let outcome = world.as_user("alice").run(["python3", "-c", script, BINDER]);
    assert!(["77\n", "-13\n"].contains(&outcome.succeeds().stdout.as_str()), "{outcome}");
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    world.as_user("alice").fd(2, full).run([BINDER, "exec", "-l", "81", "--", "true"]).exits(77);
    assert_eq!(world.listening(), []);
}

/// PG-2
fn the_helper_has_no_privilege_while_it_prints_an_error(world: &World) {
    world.policy("permit alice 80\n");
    let (_reader, writer) = std::io::pipe().expect("pipe");
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).expect("a small pipe");
    std::io::Write::write_all(&mut &writer, &[b'x'; 4096]).expect("filled");
    for words in [&[BINDER, "exec", "-l", "81", "--", "true"][..], &[BINDER, "exec"]] {
        let blocked = world.as_user("alice").fd(2, writer.try_clone().expect("dup")).spawn(words);
        assert!(world.process_that_writes(blocked.pid()).is_powerless(), "{words:?}");
    }
}

/// PG-7
fn a_reply_that_nobody_receives_is_an_error(world: &World) {
    world.policy("permit alice 80\n");
    // The other end goes while the helper is stopped before its last step.
    let script = "import os, signal, socket, subprocess, sys, time\n\
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
        p = subprocess.Popen(['strace', '-qq', '-o', '/dev/null', '-e', 'inject=listen:delay_exit=1000000', '-u', 'alice',\
        sys.argv[1], 'pass', '-l', '80', '--to', str(theirs.fileno())], pass_fds=[theirs.fileno()],\
        stderr=subprocess.PIPE, restore_signals=True)\n\
        theirs.close(); time.sleep(0.3); ours.close()\n\
        error = p.communicate(timeout=20)[1].decode(); print(p.returncode, error)\n";
    let outcome = world.as_root().run(["python3", "-c", script, BINDER]);
    outcome.succeeds().prints("71 portgrant-binder: the reply could not be sent");
    assert_eq!(world.listening(), []);
}

/// PG-1
fn a_socket_bound_to_another_address_by_cgroup_bpf_is_not_handed_over(world: &World) {
    world.policy("permit alice 80\n");
    let unreadable = ["strace", "-u", "alice", "-qq", "-o", "/dev/null", "-e", "inject=getsockname:error=EIO"];
    let outcome = world.as_root().run([&unreadable[..], &exec(&["true"])].concat());
    outcome.exits(71).complains("80/tcp was bound to something instead");
    assert_eq!(world.listening(), []);
}
