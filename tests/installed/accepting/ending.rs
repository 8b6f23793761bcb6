//! Signals, storms and the end: no program, zombie or descriptor is left.

use std::fs::{self};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use portgrant_tests::{Install, Signal, World, both_installs};

use super::*;

both_installs![
    a_storm_of_connections_leaves_no_zombie_and_no_descriptor,
    an_end_in_a_storm_leaves_no_program,
    no_child_is_left_if_the_caller_ignores_sigchld,
    an_ending_launcher_ends_its_programs_and_leaves_nothing,
    programs_that_do_not_end_are_killed,
    signals_that_the_caller_ignores_or_blocks_do_not_end_it,
    programs_outlive_a_launcher_that_is_killed,
];

/// Threads have the namespaces of the one that starts them.
fn storm(clients: usize, each: usize) {
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            thread::spawn(move || {
                for _ in 0..each {
                    let mut client = Client::of("127.0.0.1:80");
                    client.say("hello");
                    client.end();
                    assert_eq!(client.rest(), "hello\n");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("every connection was answered");
    }
}

fn a_storm_of_connections_leaves_no_zombie_and_no_descriptor(world: &World) {
    world.policy("permit alice 80\n");
    let options = ["-l", "80", "--max-conns", "8", "--max-per-source", "8", "--idle-timeout", "30"];
    let launcher = world.as_user("alice").spawn(accepting(&options, &["cat"]));
    Client::of("127.0.0.1:80").end();
    // A program is waited for before its connection is closed, so neither tells of the other.
    let has_ended = || children(world, launcher.pid()).is_empty() && world.process(launcher.pid()).sockets().len() == 1;
    within(PATIENCE, "the first has ended", has_ended);
    let before = world.process(launcher.pid()).fds;
    storm(20, 25);
    within(PATIENCE, "all have ended", || children(world, launcher.pid()).is_empty());
    within(PATIENCE, "no descriptor stays", || world.process(launcher.pid()).fds == before);
    let threads = fs::read_dir(format!("/proc/{}/task", launcher.pid())).expect("proc").count();
    // One starts programs, and one writes to standard error.
    assert_eq!(threads, 2);
}

/// Whatever the launcher does when the signal comes: no program is started afterwards, and none is forgotten.
fn an_end_in_a_storm_leaves_no_program(world: &World) {
    world.policy("permit alice 80\n");
    // The same test runs beside this one, for another install.
    let seconds = if world.install() == Install::Setuid { "61.25" } else { "61.5" };
    for _ in 0..5 {
        let options = ["-l", "80", "--max-conns", "1000"];
        let launcher = world.as_user("alice").spawn(accepting(&options, &["sleep", seconds]));
        drop(Client::of("127.0.0.1:80"));
        let storm = thread::spawn(|| {
            // Until nobody listens any more.
            (0..500).map_while(|_| TcpStream::connect("127.0.0.1:80").ok()).collect::<Vec<_>>()
        });
        within(PATIENCE, "some run", || children(world, launcher.pid()).len() > 10);
        launcher.signal(Signal::SIGTERM);
        launcher.wait(PATIENCE).dies_of(Signal::SIGTERM).is_silent();
        storm.join().expect("the storm");
        assert_eq!(asleep(seconds), 0);
        assert_eq!(world.listening(), []);
    }
}

/// How many of these programs there are.
fn asleep(seconds: &str) -> usize {
    let expected = format!("sleep\0{seconds}\0");
    let processes = fs::read_dir("/proc").expect("proc").flatten();
    let command = |process: fs::DirEntry| fs::read(process.path().join("cmdline")).unwrap_or_default();
    processes.map(command).filter(|command| command == expected.as_bytes()).count()
}

fn no_child_is_left_if_the_caller_ignores_sigchld(world: &World) {
    world.policy("permit alice 80\n");
    let caller = world.as_user("alice").ignoring(Signal::SIGCHLD);
    let launcher = caller.spawn(accepting(&["-l", "80", "--max-conns", "1"], &["cat", "/proc/self/status", "-"]));
    for _ in 0..5 {
        let mut client = Client::of("127.0.0.1:80");
        client.say("hello");
        client.end();
        let answer = client.rest();
        assert!(answer.ends_with("\nhello\n"), "the table has room again: {answer}");
        assert_eq!(signals(&answer, "SigIgn"), 0, "the program can wait for its children");
    }
    within(PATIENCE, "all have ended", || children(world, launcher.pid()).is_empty());
}

fn an_ending_launcher_ends_its_programs_and_leaves_nothing(world: &World) {
    world.policy("permit alice 80\n");
    let script =
        "trap 'echo told; exit 3' TERM INT HUP QUIT; trap 'echo usr1' USR1; echo ready; while :; do sleep 0.02; done";
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let launcher = world.as_user("alice").spawn(accepting(&["-l", "80"], &["sh", "-c", script]));
        let (mut first, mut second) = (Client::of("127.0.0.1:80"), Client::of("127.0.0.1:80"));
        assert_eq!((first.line(), second.line()), ("ready".to_owned(), "ready".to_owned()));
        launcher.signal(Signal::SIGUSR1);
        assert_eq!((first.line(), second.line()), ("usr1".to_owned(), "usr1".to_owned()));
        launcher.signal(signal);
        assert_eq!((first.rest(), second.rest()), ("told\n".to_owned(), "told\n".to_owned()));
        launcher.wait(PATIENCE).dies_of(signal).is_silent();
        assert_eq!(world.listening(), []);
    }
    // With nothing running it ends at once.
    let launcher = world.as_user("alice").spawn(accepting(&["-l", "80"], &["true"]));
    Client::of("127.0.0.1:80").rest();
    launcher.signal(Signal::SIGTERM);
    launcher.wait(PATIENCE).dies_of(Signal::SIGTERM);
}

fn programs_that_do_not_end_are_killed(world: &World) {
    world.policy("permit alice 80\n");
    let script = "trap '' TERM INT; echo $$; while :; do sleep 0.02; done";
    for again in [true, false] {
        let launcher = world.as_user("alice").spawn(accepting(&["-l", "80"], &["sh", "-c", script]));
        let mut client = Client::of("127.0.0.1:80");
        let pid = client.line();
        let begin = Instant::now();
        launcher.signal(Signal::SIGTERM);
        within(PATIENCE, "nothing listens", || world.listening().is_empty());
        let is_there = || fs::exists(format!("/proc/{pid}")).expect("proc");
        assert!(is_there() || begin.elapsed() > Duration::from_secs(4), "it has time to end");
        if again {
            launcher.signal(Signal::SIGTERM);
        }
        launcher.wait(PATIENCE).dies_of(Signal::SIGTERM);
        within(PATIENCE, "it was killed", || !is_there());
        assert!(again || begin.elapsed() >= Duration::from_secs(5), "{:?}", begin.elapsed());
    }
}

fn signals_that_the_caller_ignores_or_blocks_do_not_end_it(world: &World) {
    world.policy("permit alice 80\n");
    let mut launcher = world.as_user("alice").ignoring(Signal::SIGHUP).spawn(accepting(&["-l", "80"], &["cat"]));
    Client::of("127.0.0.1:80").end();
    launcher.signal(Signal::SIGHUP);
    let mut client = Client::of("127.0.0.1:80");
    client.say("hello");
    assert_eq!(client.line(), "hello");
    assert!(launcher.is_alive(), "as under nohup");
}

fn programs_outlive_a_launcher_that_is_killed(world: &World) {
    world.policy("permit alice 80\n");
    let launcher = world.as_user("alice").spawn(accepting(&["-l", "80"], &["cat"]));
    let mut client = Client::of("127.0.0.1:80");
    client.say("hello");
    assert_eq!(client.line(), "hello");
    launcher.signal(Signal::SIGKILL);
    launcher.wait(PATIENCE).dies_of(Signal::SIGKILL);
    assert_eq!(world.listening(), []);
    client.say("still");
    assert_eq!(client.line(), "still");
}
