//! Runs scripts in place of the helper: it is killed, it sends no answer, poll(2) fails.

#![allow(clippy::disallowed_methods, reason = "the test has threads; the program must not")]

#[path = "../../server/tests/stand_in/mod.rs"]
mod stand_in;

use std::fs;
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use portgrant_protocol::{Endpoint, Message, status};
use portgrant_supervisor::helper::bind;
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use stand_in::Folder;

const TIME_LIMIT: Duration = Duration::from_secs(30);

/// One test at a time: one of them changes a limit of the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ask(helper: &Path, socket: &OwnedFd) -> Result<(), Box<Message>> {
    let endpoint: Endpoint = "127.0.0.1:80/udp".parse().expect("an endpoint");
    bind(helper, &endpoint, socket.as_fd())
}

fn udp() -> OwnedFd {
    socket(AddressFamily::INET, SocketType::DGRAM, None).expect("a socket")
}

/// A helper that notes each start, and a function that counts the starts.
fn noting(folder: &Folder, body: &str) -> (std::path::PathBuf, impl Fn() -> usize) {
    let trace = folder.join("starts");
    let script = folder
        .script("noting", &format!("echo start >>'{}'\nstarts() {{ grep -c start '{0}'; }}\n{body}", trace.display()));
    (script, move || fs::read_to_string(&trace).unwrap_or_default().lines().count())
}

#[test]
fn a_helper_that_is_killed_is_started_once_more() {
    let _alone = alone();
    let folder = Folder::new("killed-once");
    let (helper, starts) = noting(&folder, "[ $(starts) = 2 ] || kill -KILL $$");
    assert_eq!(ask(&helper, &udp()), Ok(()));
    assert_eq!(starts(), 2);
}

#[test]
fn a_helper_that_is_killed_twice_is_reported_and_not_started_again() {
    let _alone = alone();
    let folder = Folder::new("killed-again");
    let (helper, starts) = noting(&folder, "echo half a word >&2; kill -KILL $$");
    let refusal = ask(&helper, &udp()).expect_err("killed");
    assert_eq!((starts(), refusal.status), (2, status::SYSTEM));
    let message = refusal.text("portgrant");
    assert!(
        message.contains("why: the helper was killed after its time limit of 10 s, and so was another"),
        "{message}"
    );
    assert!(message.contains("overloaded\n  fix: try again\n"), "{message}");
}

#[test]
fn a_helper_that_ends_without_sigkill_is_not_started_again() {
    let _alone = alone();
    let folder = Folder::new("ended");
    for (body, status) in [("exit 77", status::REFUSED), ("exit 71", status::SYSTEM), ("kill -TERM $$", status::SYSTEM)]
    {
        let _ = fs::remove_file(folder.join("starts"));
        let (helper, starts) = noting(&folder, body);
        assert_eq!((ask(&helper, &udp()).expect_err(body).status, starts()), (status, 1), "{body}");
    }
}

#[test]
fn a_helper_that_is_killed_after_it_has_bound_the_socket_has_done_its_work() {
    let _alone = alone();
    let folder = Folder::new("killed-late");
    let (helper, starts) = noting(&folder, "kill -KILL $$");
    let bound: OwnedFd = UdpSocket::bind("127.0.0.1:0").expect("bound").into();
    assert_eq!((ask(&helper, &bound), starts()), (Ok(()), 1));
}

#[test]
fn the_helper_is_waited_for_without_spinning_if_poll_fails() {
    let _alone = alone();
    let folder = Folder::new("poll");
    let go = folder.join("go");
    // A process that goes on after SIGSTOP calls poll(2) again, without returning from it.
    let body =
        format!("while [ ! -e '{}' ]; do sleep 0.01; done; kill -STOP $PPID; kill -CONT $PPID; sleep 2", go.display());
    let (helper, starts) = noting(&folder, &body);
    let limit = getrlimit(Resource::Nofile);
    let (before, socket) = (processor_time(), udp());
    let asked = thread::scope(|scope| {
        let asked = scope.spawn(|| ask(&helper, &socket));
        let deadline = Instant::now() + TIME_LIMIT;
        while starts() == 0 {
            assert!(Instant::now() < deadline, "the helper is not started");
            thread::sleep(Duration::from_millis(5));
        }
        // poll(2) fails with EINVAL if there are more descriptors than the limit allows.
        setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit }).expect("lowered");
        // mkdir(2) needs no descriptor.
        fs::create_dir(&go).expect("made");
        thread::sleep(Duration::from_secs(1));
        setrlimit(Resource::Nofile, limit).expect("as before");
        asked.join().expect("no panic")
    });
    let spent = processor_time() - before;
    assert_eq!(asked, Ok(()));
    assert!(spent < Duration::from_millis(500), "it spins: {spent:?} of 2 s");
}

fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).expect("not negative")
}
