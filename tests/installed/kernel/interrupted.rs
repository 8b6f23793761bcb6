//! The kernel mode's loader is killed at each of its system calls, or the call fails. Whatever happens: a policy is active as
//! a whole or not at all, the next `load` or `reload` works, and `unload` leaves nothing.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use portgrant_tests::{Cgroup, KERNEL, Outcome, World, injected};

use super::{binds, kernel, load, with_kernel_mode};

const FOLDER: &str = "/sys/fs/bpf/portgrant";
const TRACE: &str = "/tmp/kernel_faults.trace";
/// What an error is injected into, beside the kills: the calls that change anything.
const CHANGING: [&str; 5] = ["bpf", "mkdir", "flock", "unlink", "rmdir"];

/// A system call by its name, and its number among those of that name.
type Place = (String, usize);

/// Runs the loader under strace with `options`.
fn traced(world: &World, options: &[&str], words: &[&str]) -> Outcome {
    let strace = ["strace", "-o", TRACE, "-s", "0"];
    world.as_root().within(Duration::from_secs(60)).run([&strace[..], options, &[KERNEL], words].concat())
}

/// Where the loader can be interrupted. Of calls that repeat each other (it looks at hundreds of pages) the first two and
/// the last.
fn places(world: &World, words: &[&str]) -> Vec<Place> {
    traced(world, &[], words).succeeds();
    let trace = fs::read_to_string(TRACE).expect("a trace");
    let mut all: Vec<(String, Place)> = Vec::new();
    for line in trace.lines() {
        let (Some((name, _)), Some(begin)) = (line.split_once('('), line.split([',', ')']).next()) else { continue };
        let nth = 1 + all.iter().filter(|(_, place)| place.0 == name).count();
        all.push((begin.to_owned(), (name.to_owned(), nth)));
    }
    let runs = all.chunk_by(|one, other| one.0 == other.0);
    let some = runs.flat_map(|run| run.iter().take(2).chain(run.iter().skip(2).last()));
    // strace does not count the execve(2) of the loader itself, and exit_group(2) is the end.
    let some = some.map(|(_, place)| place.clone()).filter(|place| !["execve", "exit_group"].contains(&&*place.0));
    let some: Vec<Place> = some.collect();
    assert!(some.len() > 60, "{} places only", some.len());
    some
}

/// Every fault at every place.
fn faults(places: &[Place]) -> impl Iterator<Item = String> {
    places.iter().flat_map(|(name, nth)| {
        let error = CHANGING.contains(&name.as_str()).then(|| format!("inject={name}:error=ENOMEM:when={nth}"));
        [format!("inject={name}:signal=SIGKILL:when={nth}")].into_iter().chain(error)
    })
}

/// Writes the policy, and waits until its age proves something: before that it is read twice, and the calls have other
/// numbers.
fn settled_policy(world: &World, rules: &str) {
    world.policy(rules);
    sleep(Duration::from_millis(30));
}

/// Whether alice binds port 80, and whether she binds port 81.
fn bound(world: &World, cgroup: &Cgroup) -> (bool, bool) {
    let said = binds(world, cgroup, &["1000 1000 tcp 4 127.0.0.1 80", "1000 1000 tcp 4 127.0.0.1 81"]);
    (said[0] == "bound", said[1] == "bound")
}

/// PG-23
#[test]
fn a_load_that_is_interrupted_anywhere_can_be_repeated_and_unloaded() {
    with_kernel_mode(|world, cgroup| {
        settled_policy(world, "permit alice 80\n");
        let words = ["load", "--cgroup", cgroup.path().to_str().expect("a plain path")];
        let places = places(world, &words);
        kernel(world, &["unload"]).succeeds();
        injected(faults(&places).count());
        for fault in faults(&places) {
            let interrupted = traced(world, &["-e", &fault], &words);
            if !fs::exists(FOLDER).expect("stat") {
                continue;
            }
            assert!(fault.contains("SIGKILL") || interrupted.status.success(), "{fault}: {interrupted}");
            let again = load(world, cgroup, &[]);
            // It was killed after its last step.
            let is_complete = again.stderr.contains("already");
            assert!(again.status.success() || is_complete, "{fault}: {again}");
            assert!(!is_complete || bound(world, cgroup) == (true, false), "{fault}");
            kernel(world, &["unload"]).succeeds();
            assert!(!fs::exists(FOLDER).expect("stat"), "{fault}");
        }
        assert_eq!(bound(world, cgroup), (false, false), "nothing stays attached");
    });
}

/// PG-23
#[test]
fn a_reload_that_is_interrupted_anywhere_leaves_one_whole_policy_and_can_be_repeated() {
    with_kernel_mode(|world, cgroup| {
        let policies = ["permit alice 80\n", "permit alice 81\n"];
        settled_policy(world, policies[0]);
        load(world, cgroup, &[]).succeeds();
        let places = places(world, &["reload"]);
        injected(faults(&places).count());
        for (turn, fault) in faults(&places).enumerate() {
            settled_policy(world, policies[(turn + 1) % 2]);
            let interrupted = traced(world, &["-e", &fault], &["reload"]);
            let (first, second) = bound(world, cgroup);
            assert!(first != second, "{fault}: neither policy, or both: {interrupted}");
            kernel(world, &["reload"]).succeeds();
            assert_eq!(bound(world, cgroup), (turn % 2 == 1, turn % 2 == 0), "{fault}");
        }
        kernel(world, &["unload"]).succeeds();
        assert!(!fs::exists(FOLDER).expect("stat"));
        assert_eq!(bound(world, cgroup), (false, false), "nothing stays attached");
    });
}
