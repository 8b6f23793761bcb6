//! The launcher and the guard of `portgrant exec --daemon` are killed at each of their system calls, or the call fails.
//! Whatever happens: no process and no socket stays behind, the starter reports no success that was none, and the next
//! start with the same pid file works.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portgrant_tests::{Install, LAUNCHER, Outcome, World, injected};

const TRACE: &str = "/tmp/daemon_faults.trace";
/// How the trace says that the program is executed.
const EXECUTED: &str = "execve(\"/bin/sh\"";
const PID_FILE: &str = "/home/alice/guard.pid";

/// Errors of the calls that only the launcher and the guard make, and not the programs' loader.
const ERRORS: [(&str, &[&str]); 12] = [
    ("clone", &["EAGAIN"]),
    ("clone3", &["EAGAIN"]),
    ("pipe2", &["EMFILE"]),
    ("setsid", &["EPERM"]),
    ("signalfd4", &["EMFILE"]),
    ("pidfd_open", &["EMFILE"]),
    ("setpgid", &["EACCES"]),
    ("socketpair", &["EMFILE"]),
    ("flock", &["EWOULDBLOCK"]),
    ("dup2", &["EBADF"]),
    ("dup3", &["EBADF"]),
    ("chdir", &["EACCES"]),
];

/// A start under strace, which waits for all processes that come of it.
fn start(world: &World, options: &[&str]) -> Outcome {
    let strace = ["strace", "-f", "-u", "alice", "-o", TRACE, "-s", "64"];
    let daemon =
        ["exec", "--daemon", "--pid-file", PID_FILE, "-l", "127.0.0.1:80", "--", "/bin/sh", "-c", "exec sleep 0.2"];
    let words = [&strace[..], options, &[LAUNCHER], &daemon].concat();
    world.as_root().within(Duration::from_secs(40)).run(words)
}

/// How often one process makes each call at most, programs other than portgrant's aside.
fn calls(world: &World) -> BTreeMap<String, usize> {
    start(world, &[]).succeeds();
    let trace = fs::read_to_string(TRACE).expect("a trace");
    let (mut counts, mut most, mut others) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for line in trace.lines() {
        let Some((pid, call)) = line.split_once(' ') else { continue };
        let Some((name, _)) = call.trim_start().split_once('(') else { continue };
        if call.contains(EXECUTED) {
            others.push(pid.to_owned());
        }
        if others.iter().any(|other| other == pid) || name.contains(['<', '+', '-']) {
            continue;
        }
        let count = counts.entry((pid.to_owned(), name.to_owned())).or_insert(0);
        *count += 1;
        let most = most.entry(name.to_owned()).or_insert(0);
        *most = (*most).max(*count);
    }
    most
}

/// PG-3, PG-4. How the helper is installed makes no difference to the guard.
#[test]
fn a_daemon_that_is_interrupted_anywhere_leaves_nothing() {
    World::with(Install::FileCapability, interrupted_everywhere);
}

fn interrupted_everywhere(world: &World) {
    world.policy("permit alice 80\n");
    std::thread::sleep(Duration::from_millis(50)); // or it is too young to be believed, and read twice
    let mut faults = Vec::new();
    for (name, most) in calls(world) {
        // What the loader of dynamic programs does for each program alike.
        let is_loaders = ["mmap", "mprotect", "munmap", "brk", "pread64", "exit_group", "execve", "arch_prctl"];
        for nth in (1..=most).filter(|_| !is_loaders.contains(&name.as_str())) {
            faults.push(format!("inject={name}:signal=SIGKILL:when={nth}"));
            let errors = ERRORS.iter().find(|entry| entry.0 == name).map_or(&[][..], |entry| entry.1);
            faults.extend(errors.iter().map(|error| format!("inject={name}:error={error}:when={nth}")));
        }
    }
    assert!(faults.len() > 60, "{} places only", faults.len());
    injected(faults.len());
    // A kill at execve(2) itself, the last moment: strace delays the status, so the guard sees the pipe close first.
    let outcome = start(world, &["-P", "/bin/sh", "-e", "inject=execve:signal=SIGKILL:when=1"]);
    assert_eq!(outcome.status.code(), Some(137), "{outcome}");
    assert!(outcome.stderr.contains("sh ended before it was ready"), "{outcome}");
    for fault in faults {
        // That it ends says that no process is left.
        let outcome = start(world, &["-e", &fault]);
        let ran = fs::read_to_string(TRACE).expect("a trace").contains(EXECUTED);
        assert!(!outcome.status.success() || ran, "{fault}: success, and no program: {outcome}");
        assert_eq!(world.listening(), [], "{fault}");
        let daemon = ["exec", "--daemon", "--pid-file", PID_FILE, "-l", "127.0.0.1:80", "--", "sleep", "60"];
        let again = world.as_user("alice").run([&[LAUNCHER], &daemon[..]].concat());
        assert!(again.status.success(), "{fault}: the next start: {again}");
        let guard: i32 = fs::read_to_string(PID_FILE).expect("a pid file").trim().parse().expect("a pid");
        kill(Pid::from_raw(guard), Signal::SIGTERM).expect("the guard");
        let deadline = Instant::now() + Duration::from_secs(20);
        while fs::exists(PID_FILE).expect("stat") || !world.listening().is_empty() {
            assert!(Instant::now() < deadline, "{fault}: the next daemon does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
