//! A server on port 80 that replaces itself: the server crate's example `generations`, by an ordinary user, through
//! portgrant and by itself.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use portgrant_protocol::transfer;
use portgrant_tests::{LAUNCHER, Listening, Running, Signal, World, both_installs, http_get};

both_installs![
    a_new_version_on_port_80_takes_over_by_a_signal,
    a_new_version_with_an_ungranted_port_does_not_take_over,
    nobody_else_can_ask_for_an_upgrade,
    another_process_cannot_pose_as_the_predecessor,
    a_daemon_is_upgraded_without_privilege_and_its_pid_file_follows,
    restarts_under_load_are_not_noticed,
    process_1_of_a_pid_namespace_is_not_replaced,
];

const PROGRAM: &str = "/home/alice/generations";
const CONTROL: &str = "/home/alice/control";
const PID_FILE: &str = "/home/alice/pid";
const PATIENCE: Duration = Duration::from_secs(20);

/// alice's own copy of the program, which she can replace.
fn prepare(world: &World, policy: &str) {
    world.policy(policy);
    world.as_user("alice").run(["cp", "/usr/local/bin/generations", PROGRAM]).succeeds();
}

/// Puts another version in its place, as an installation does: beside it, and renamed.
fn install(world: &World, version: &str) {
    let script = format!(
        "sed 's/version 1/{version}/' /usr/local/bin/generations >{PROGRAM}.new && chmod 755 {PROGRAM}.new && mv {PROGRAM}.new {PROGRAM}"
    );
    world.as_user("alice").run(["sh", "-c", &script]).succeeds();
}

fn start(world: &World, words: &[&str]) -> Running {
    let options = [PROGRAM, "--control", CONTROL, "--pid-file", PID_FILE];
    let (before, after) = words.split_at(words.iter().position(|word| *word == "--").map_or(0, |at| at + 1));
    let server = world.as_user("alice").folder("/home/alice").spawn([before, &options, after].concat());
    eventually("it serves", || fs::read_to_string(PID_FILE).is_ok_and(|pid| !pid.is_empty()));
    server
}

fn pid() -> u32 {
    fs::read_to_string(PID_FILE).expect("a pid file").trim_end().parse().expect("a pid")
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not so: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn serves(expected: &str) {
    eventually(expected, || http_get("127.0.0.1:80", "/").contains(expected));
}

/// Whether every socket is alice's, and nobody but `process` holds it, however many copies.
fn holds_all(world: &World, process: u32) -> bool {
    let held = |socket: &Listening| socket.uid == 1000 && socket.holders.iter().all(|&holder| holder == process);
    let sockets = world.listening();
    !sockets.is_empty() && sockets.iter().all(held)
}

/// Upgrades by the control socket; again, as long as the last one is not over.
fn upgrade(world: &World) -> u32 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let outcome = world.as_user("alice").run([PROGRAM, "--upgrade", CONTROL]);
        if outcome.stderr.contains("the last upgrade is not finished") {
            assert!(Instant::now() < deadline, "{outcome}");
            continue;
        }
        outcome.succeeds().prints("took over");
        return pid();
    }
}

fn a_new_version_on_port_80_takes_over_by_a_signal(world: &World) {
    prepare(world, "permit alice 80\n");
    let starts: [&[&str]; 2] = [&[LAUNCHER, "exec", "-l", "80", "--", "80"], &["80"]];
    for words in starts {
        let mut server = start(world, words);
        let first = pid();
        serves("generation 1 of version 1");
        let mut download = TcpStream::connect("127.0.0.1:80").expect("it listens");
        download.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        download.write_all(b"GET /drip/100 HTTP/1.1\r\n\r\n").expect("sent");
        install(world, "version 2");

        server.signal(Signal::SIGUSR2);

        serves("generation 2 of version 2");
        let process = world.process(pid());
        assert_eq!((process.uids, process.is_powerless()), ([1000; 4], true));
        assert!(pid() != first && server.is_alive(), "the old one finishes what it has");
        let mut all = Vec::new();
        download.read_to_end(&mut all).expect("to its end");
        assert!(all.len() > 100 * 1024 && all.ends_with(b"...."), "{} bytes", all.len());
        server.wait(PATIENCE).succeeds();
        assert!(holds_all(world, pid()), "{:?}", world.listening());
        world.as_user("alice").run(["kill", "-QUIT", &pid().to_string()]).succeeds();
        eventually("gone", || world.listening().is_empty() && !fs::exists(PID_FILE).expect("stat"));
        install(world, "version 1");
    }
}

fn a_new_version_with_an_ungranted_port_does_not_take_over(world: &World) {
    prepare(world, "permit alice 80 81\n");
    world.as_user("alice").run(["sh", "-c", "printf '80\\n' >/home/alice/list"]).succeeds();
    let _server = start(world, &["@/home/alice/list"]);
    world.as_user("alice").run(["sh", "-c", "printf '80\\n443\\n' >/home/alice/list"]).succeeds();
    let outcome = world.as_user("alice").run([PROGRAM, "--upgrade", CONTROL]);
    outcome.exits(71).complains("cannot serve: 443/tcp is refused for alice (uid 1000)");
    serves("generation 1");
    world.as_user("alice").run(["sh", "-c", "printf '80\\n81\\n' >/home/alice/list"]).succeeds();
    let second = upgrade(world);
    assert!(http_get("127.0.0.1:81", "/").contains(&format!("process {second},")), "what is granted comes along");
}

fn nobody_else_can_ask_for_an_upgrade(world: &World) {
    prepare(world, "permit alice 80\n");
    world.as_root().run(["chmod", "755", "/home/alice"]).succeeds();
    let _server = start(world, &["80"]);
    let asking = ["/usr/local/bin/generations", "--upgrade", CONTROL];
    world.as_user("bob").run(asking).exits(69).complains("Permission denied");
    // Nor with the file open to everybody: who asks is what counts.
    world.as_root().run(["chmod", "777", CONTROL]).succeeds();
    world.as_user("bob").run(asking).exits(71);
    serves("generation 1");
    world.as_root().run(asking).succeeds().prints("generation 2, process");
}

fn another_process_cannot_pose_as_the_predecessor(world: &World) {
    prepare(world, "permit alice 80\n");
    // root's, which is this test's process and the parent as well.
    let (_ours, theirs) = transfer::pair().expect("a pair");
    let caller = world.as_user("alice").env("PORTGRANT_PREDECESSOR", std::process::id().to_string()).fd(0, theirs);
    caller.run([PROGRAM, "80"]).exits(71).complains("descriptor 0 is connected to another user's process");
}

fn a_daemon_is_upgraded_without_privilege_and_its_pid_file_follows(world: &World) {
    prepare(world, "permit alice 80 reuseport\n");
    let alice = || world.as_user("alice").folder("/home/alice");
    // Under no_new_privs from the helper on: it could not be asked again.
    let options = ["--daemon", "--control", CONTROL, "--pid-file", PID_FILE, "--workers", "2", "80"];
    let two = [LAUNCHER, "exec", "--no-new-privs", "-l", "80,reuseport", "-l", "two=80,reuseport", "--", PROGRAM];
    alice().run([&two[..], &options].concat()).succeeds();
    let first = pid();
    assert!(world.process(first).no_new_privs);
    let count = || world.process(pid()).fds.len();
    // What is to be closed after an upgrade may be there a little longer.
    let settled = || {
        let mut last = 0;
        eventually("it settles", || {
            thread::sleep(Duration::from_millis(300));
            std::mem::replace(&mut last, count()) == last
        });
        last
    };
    upgrade(world);
    let before = settled();
    for _ in 0..50 {
        upgrade(world);
    }
    eventually("descriptors do not add up", || count() <= before);
    serves("generation 52");
    serves(&format!("begun by process {first}"));
    assert!(holds_all(world, pid()) && world.listening().len() == 2, "{:?}", world.listening());
}

/// Its end would end every process of the namespace, its successor among them.
fn process_1_of_a_pid_namespace_is_not_replaced(world: &World) {
    world.policy("permit root 80\n");
    let first = [
        "unshare",
        "--pid",
        "--fork",
        "--kill-child",
        "/usr/local/bin/generations",
        "--control",
        "/root/control",
        "80",
    ];
    let _server = world.as_root().spawn(first);
    serves("generation 1 of version 1, process 1,");
    let outcome = world.as_root().run(["/usr/local/bin/generations", "--upgrade", "/root/control"]);
    outcome.exits(71).complains("process 1 cannot be replaced");
    serves("generation 1 of version 1, process 1,");
}

/// What clients saw.
#[derive(Default)]
struct Seen {
    answers: AtomicUsize,
    failures: AtomicUsize,
    over: AtomicBool,
}

fn restarts_under_load_are_not_noticed(world: &World) {
    prepare(world, "permit alice 80 reuseport\n");
    let mut server = start(world, &["--workers", "2", "80"]);
    let seen = Seen::default();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| client(&seen, ask_once));
        }
        for _ in 0..2 {
            scope.spawn(|| client(&seen, ask_on));
        }
        let beginning = Instant::now();
        for _ in 0..5 {
            upgrade(world);
        }
        // The clients end with it, whatever they saw.
        let is_enough = || seen.answers.load(Ordering::SeqCst) > 100;
        while beginning.elapsed() < Duration::from_secs(1) || !is_enough() && beginning.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(10));
        }
        seen.over.store(true, Ordering::SeqCst);
    });
    let (answers, failures) = (seen.answers.load(Ordering::SeqCst), seen.failures.load(Ordering::SeqCst));
    assert!(answers > 100 && failures == 0, "{answers} answers, {failures} failures");
    serves("generation 6");
    eventually("it serves alone", || holds_all(world, pid()));
    assert!(!server.is_alive());
}

fn client(seen: &Seen, ask: fn(&Seen) -> std::io::Result<()>) {
    while !seen.over.load(Ordering::SeqCst) {
        if let Err(error) = ask(seen) {
            eprintln!("a client: {error}");
            seen.failures.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// A connection, a request, an answer.
fn ask_once(seen: &Seen) -> std::io::Result<()> {
    let mut stream = connect()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    count(seen, &answer)
}

/// Requests on one connection, until an answer says that it is the last.
fn ask_on(seen: &Seen) -> std::io::Result<()> {
    let mut stream = connect()?;
    loop {
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
        let mut answer = String::new();
        while !(answer.contains("begun by process ") && answer.ends_with('\n')) {
            let mut piece = [0; 1024];
            match stream.read(&mut piece)? {
                0 => break,
                length => answer += &String::from_utf8_lossy(&piece[..length]),
            }
        }
        count(seen, &answer)?;
        if answer.contains("Connection: close") || seen.over.load(Ordering::SeqCst) {
            return Ok(());
        }
    }
}

fn connect() -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect("127.0.0.1:80")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn count(seen: &Seen, answer: &str) -> std::io::Result<()> {
    if !answer.contains("begun by process ") {
        return Err(std::io::Error::other(format!("a short answer: {answer:?}")));
    }
    seen.answers.fetch_add(1, Ordering::SeqCst);
    Ok(())
}
