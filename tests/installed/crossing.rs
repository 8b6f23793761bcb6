//! What crosses from root to the user of `--user` besides the ids, where no terminal is: keys, descriptors, bits that
//! keep capabilities; and where root's pid file may lie.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use portgrant_tests::{Caller, LAUNCHER, World, both_installs, skip};
use pty_process::Size;
use pty_process::blocking::Command;

use crate::telnet::Client;

both_installs![
    alice_does_not_get_roots_keys,
    a_kernel_without_keyrings_is_accepted_unless_keys_would_leak,
    roots_io_uring_instance_is_not_passed_on,
    securebits_that_keep_capabilities_are_cleared,
    a_daemon_that_root_starts_at_a_terminal_has_no_terminal,
    roots_pid_file_must_not_be_in_a_folder_that_users_can_write,
];

/// System calls by number, and whatever else python3 has no name for.
const CALLS: &str = r#"
import ctypes, errno, os, platform, sys
libc = ctypes.CDLL(None, use_errno=True)
ADD_KEY, KEYCTL = (248, 250) if platform.machine() == "x86_64" else (217, 219)
SETUP = 425
def call(*arguments):
    result = libc.syscall(*arguments)
    return result if result != -1 else errno.errorcode[ctypes.get_errno()]
def add_key(name):
    return call(ADD_KEY, b"user", name, b"secret", 6, -3)
def filter(number, error):
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x50000 | error), (6, 0, 0, 0x7fff0000)]
    class Instruction(ctypes.Structure):
        _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.POINTER(Instruction))]
    program = Program(len(code), (Instruction * len(code))(*[Instruction(*each) for each in code]))
    assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0
"#;

#[track_caller]
fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "not soon: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Root's python3 with these lines, which end in `run`: the words that run `program` for alice.
fn python(world: &World, lines: &str, program: &str) -> (Caller, [String; 3]) {
    world.policy("permit alice 80\n");
    let words = format!("'exec', '--user', 'alice', '-l', '80', '--', 'python3', '-c', {program:?}");
    let run = format!("def run(): os.execv('{LAUNCHER}', ['{LAUNCHER}', {words}])");
    (world.as_root(), ["python3".into(), "-c".into(), format!("{CALLS}\n{run}\n{lines}")])
}

/// PG-31: neither what hangs on root's session keyring, which goes on, nor the keyring itself.
fn alice_does_not_get_roots_keys(world: &World) {
    let root = "call(KEYCTL, 1, None)\nkey = add_key(b'roots')\nassert key > 0\nos.environ['KEY'] = str(key)\n\
        if os.fork():\n sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))\nrun()";
    let alice = "import os, re\nkey = int(os.environ['KEY'])\nprint('reads', call(KEYCTL, 11, key, None, 0))\n\
        print('finds', call(KEYCTL, 10, -3, b'user', b'roots', 0))\n\
        print('describes', call(KEYCTL, 6, call(KEYCTL, 0, -3, 0), None, 0) > 0)\n\
        print('own', add_key(b'own') > 0, os.getuid(), {line.split()[5] for line in open('/proc/keys')})";
    let (caller, words) = python(world, root, &format!("{CALLS}\n{alice}"));
    let outcome = caller.run(words);
    outcome.succeeds().prints("reads EACCES\n").prints("finds ENOKEY\n").prints("describes True\n");
    outcome.prints("own True 1000 {'1000'}\n");
}

/// PG-31: where keyctl(2) cannot be called, what /proc/keys shows decides.
fn a_kernel_without_keyrings_is_accepted_unless_keys_would_leak(world: &World) {
    for error in ["ENOSYS", "EPERM"] {
        let filter = format!("filter(KEYCTL, errno.{error})\nrun()");
        let (caller, words) = python(world, &format!("call(KEYCTL, 1, None)\n{filter}"), "print('runs')");
        caller.run(words).succeeds().prints("runs\n");
        let keys = format!("call(KEYCTL, 1, None)\nadd_key(b'roots')\n{filter}");
        let (caller, words) = python(world, &keys, "print('runs')");
        let outcome = caller.run(words);
        outcome.exits(71).complains("alice cannot be given a session keyring").complains("alice could use your keys");
        assert_eq!(outcome.stdout, "");
    }
}

/// PG-30: with its credentials alice could open root's files.
fn roots_io_uring_instance_is_not_passed_on(world: &World) {
    let made = "ring = call(SETUP, 2, ctypes.create_string_buffer(120))\nprint('made', ring, flush=True)\n";
    let kept = "if isinstance(ring, int):\n os.dup2(ring, 9)\n run()";
    let (caller, words) = python(world, &format!("{made}{kept}"), "print('runs')");
    let outcome = caller.run(words);
    if outcome.stdout.contains("made E") {
        return skip("io_uring is not to be had here");
    }
    outcome.exits(64).complains("descriptor 9 is an io_uring instance").complains("9>&-");
    let (caller, words) = python(world, &format!("{made}run()"), "print('runs')");
    caller.run(words).succeeds().prints("runs");
}

/// PG-2
fn securebits_that_keep_capabilities_are_cleared(world: &World) {
    world.policy("permit alice 80\n");
    let words = ["setpriv", "--securebits=+no_setuid_fixup,+noroot_locked", LAUNCHER, "exec"];
    let program = ["--user", "alice", "-l", "80", "--", "setpriv", "--dump"];
    let outcome = world.as_root().run([&words[..], &program].concat());
    outcome.succeeds().prints("Securebits: noroot_locked\n");
}

/// PG-30: nor could it read what is typed there by what it inherits.
fn a_daemon_that_root_starts_at_a_terminal_has_no_terminal(world: &World) {
    world.policy("permit alice 80\n");
    world.folder("/run/alice", "alice", 0o755);
    let daemon = |extra: &str| {
        let words = format!("{LAUNCHER} exec --user alice --daemon --pid-file /run/alice/pid {extra} -l 80");
        let script = format!("{words} -- sleep 60 5<>/dev/tty 6</etc/hosts; echo =$?; read -r wait");
        Client::start(Command::new("sh").args(["-c", &script]).env("NO_COLOR", "1"), Size::new(20, 200))
    };
    let mut client = daemon("");
    client.see("=0\r\n");
    let guard: u32 = fs::read_to_string("/run/alice/pid").expect("there").trim().parse().expect("a pid");
    let children = fs::read_to_string(format!("/proc/{guard}/task/{guard}/children")).expect("children");
    let sleep: u32 = children.trim().parse().expect("one");
    for pid in [guard, sleep] {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("there");
        let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
        assert_eq!((fields[3], fields[4]), (guard.to_string().as_str(), "0"), "session, terminal: {stat}");
        let process = world.process(pid);
        assert!(
            process.fds.values().all(|to| !to.starts_with("/dev/pts") && to != Path::new("/dev/tty")),
            "{process:?}"
        );
        assert_eq!(process.uids, [1000; 4]);
    }
    let kept = &world.process(sleep).fds;
    assert_eq!((kept[&5].to_str(), kept[&6].to_str()), (Some("/dev/null"), Some("/etc/hosts")));
    world.as_root().run(["kill", &guard.to_string()]).succeeds();
    soon("it ends", || world.listening().is_empty());
    let mut refused = daemon("--log inherit");
    refused.see("--log inherit cannot be used with --user at a terminal");
    refused.see("=64\r\n");
    let mut redirected = daemon("--log inherit >/tmp/out 2>&1");
    redirected.see("=0\r\n");
}

/// PG-32: what a user puts in the way is neither followed nor written to.
fn roots_pid_file_must_not_be_in_a_folder_that_users_can_write(world: &World) {
    world.policy("permit root 80\n");
    world.folder("/home/alice/run", "alice", 0o755);
    world.folder("/run/good", "root", 0o755);
    world.folder("/run/shared", "root", 0o777);
    let start = |file: &str| {
        world.as_root().run([LAUNCHER, "exec", "--daemon", "--pid-file", file, "-l", "80", "--", "sleep", "60"])
    };
    symlink("/etc", "/home/alice/etc").expect("a link");
    symlink("/home/alice/run", "/run/link").expect("a link");
    for (file, why) in [
        ("/home/alice/run/pid", "/home/alice belongs to another user"),
        ("/home/alice/etc/pid", "/home/alice belongs to another user"),
        ("/run/link/pid", "/home/alice belongs to another user"),
        ("/run/shared/pid", "/run/shared can be written to by other users"),
        ("/tmp/pid", "/tmp can be written to by other users"),
    ] {
        start(file).exits(71).complains(why).complains("fix: create a folder in /run");
        assert!(!fs::exists(file).expect("stat"), "{file}");
    }
    assert_eq!(world.listening(), []);
    start("/run/good/pid").succeeds();
    let guard = fs::read_to_string("/run/good/pid").expect("there");
    world.as_root().run(["kill", guard.trim()]).succeeds();
    soon("it ends", || !fs::exists("/run/good/pid").expect("stat"));
}
