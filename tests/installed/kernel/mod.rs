//! The kernel mode: which binds the loaded policy permits, and what stays as it was. Each test has a separate cgroup, and the
//! policy is active in its world's network alone.

mod exact;
mod grants;
mod loading;
mod log;
mod reloading;

use std::time::Duration;

use portgrant_tests::{Cgroup, Install, KERNEL, Outcome, World, skip};

/// Makes the bind of each line of its input, as the user in it: `UID GID PROTOCOL FAMILY ADDRESS PORT`, in a child each.
const PROBE: &str = r#"
import errno, os, socket, sys
for line in sys.stdin:
    uid, gid, protocol, family, address, port = line.split()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(*[int(gid)] * 3)
        os.setresuid(*[int(uid)] * 3)
        kind = socket.SOCK_DGRAM if protocol in ("udp", "udplite") else socket.SOCK_STREAM
        number = {"tcp": 6, "udp": 17, "mptcp": 262, "udplite": 136}[protocol]
        try:
            s = socket.socket(socket.AF_INET6 if family == "6" else socket.AF_INET, kind, number)
            s.bind((address, int(port)))
            said = "bound"
        except OSError as e:
            said = errno.errorcode[e.errno]
        print(said, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"#;

/// Runs `test` where BPF programs can be loaded.
fn with_kernel_mode(test: impl FnOnce(&World, &Cgroup) + Send + 'static) {
    World::with(Install::FileCapability, |world| match world.cgroup() {
        Some(cgroup) => test(world, &cgroup),
        None => skip("BPF programs are loaded by root of the first user namespace alone"),
    });
}

fn kernel(world: &World, words: &[&str]) -> Outcome {
    world.as_root().run([&[KERNEL], words].concat())
}

fn load(world: &World, cgroup: &Cgroup, words: &[&str]) -> Outcome {
    let path = cgroup.path().to_str().expect("a plain path");
    kernel(world, &[&["load", "--cgroup", path], words].concat())
}

/// What became of each bind, made in `cgroup`.
fn binds(world: &World, cgroup: &Cgroup, asked: &[impl AsRef<str>]) -> Vec<String> {
    let input = asked.iter().map(|line| line.as_ref().to_owned() + "\n").collect::<String>();
    let outcome = world.as_root().in_cgroup(cgroup).stdin(input).run(["python3", "-c", PROBE]);
    let said: Vec<String> = outcome.succeeds().stdout.lines().map(str::to_owned).collect();
    assert_eq!(said.len(), asked.len(), "{outcome}");
    said
}

#[track_caller]
fn expect(world: &World, cgroup: &Cgroup, expected: &[(&str, &str)]) {
    let asked: Vec<&str> = expected.iter().map(|(asked, _)| *asked).collect();
    let said = binds(world, cgroup, &asked);
    let found: Vec<(&str, &str)> = asked.into_iter().zip(said.iter().map(String::as_str)).collect();
    assert_eq!(found, expected);
}

/// Waits until `done`.
fn until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..3000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("not within 30 s: {what}");
}
