//! The server crate's daemon on a low port, started by an ordinary user through portgrant, and by itself.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use portgrant_tests::{LAUNCHER, World, both_installs};

both_installs![
    a_daemon_started_by_the_launcher_is_ready_when_the_start_ends,
    a_daemon_reports_the_refusal_of_its_port_where_it_was_started,
];

const PID_FILE: &str = "/home/alice/daemon.pid";

fn answer(address: &str) -> String {
    let mut client = TcpStream::connect(address).expect("it listens");
    client.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    answer
}

fn a_daemon_started_by_the_launcher_is_ready_when_the_start_ends(world: &World) {
    world.policy("permit alice 79\n");
    let starts: [&[&str]; 2] =
        [&[LAUNCHER, "exec", "-l", "79", "--", "daemon", PID_FILE, "79"], &["daemon", PID_FILE, "79"]];
    for words in starts {
        world.as_user("alice").run(words).succeeds().is_silent();
        let pid: u32 = fs::read_to_string(PID_FILE).expect("a pid file").trim_end().parse().expect("a pid");
        assert_eq!(answer("127.0.0.1:79"), format!("pid {pid} generation 1\n"));
        let process = world.process(pid);
        assert_eq!((process.uids, process.folder.to_str()), ([1000; 4], Some("/")));
        assert!(process.is_powerless());
        world.as_user("alice").run(words).exits(if words[0] == LAUNCHER { 69 } else { 71 });
        world.as_user("alice").run(["kill", "-TERM", &pid.to_string()]).succeeds();
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::exists(PID_FILE).expect("stat") || !world.listening().is_empty() {
            assert!(Instant::now() < deadline, "it does not end");
        }
    }
}

fn a_daemon_reports_the_refusal_of_its_port_where_it_was_started(world: &World) {
    world.policy("permit bob 79\n");
    let refused = world.as_user("alice").run(["daemon", PID_FILE, "79"]);
    refused.exits(77).complains("79/tcp is refused for alice");
    assert!(!fs::exists(PID_FILE).expect("stat"));
}
