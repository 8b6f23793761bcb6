//! A real inetd starts a server of the crate for each connection: descriptor 0 is the client.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use portgrant_tests::{Running, World, both_installs};

both_installs![
    a_nowait_service_answers_each_client_as_its_own_user,
    a_wait_service_learns_that_descriptor_0_is_not_a_connection,
];

const CONFIGURATION: &str = "/etc/inetd.test.conf";

/// `finger`, which is port 79, by the line that ends so. inetd's own standard error is what its services get.
fn inetd(world: &World, line: &str) -> Running {
    world.file(CONFIGURATION, &format!("finger stream tcp {line}\n"));
    world.as_root().spawn(["/usr/sbin/inetd", "-i", CONFIGURATION])
}

fn ask(question: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut client = loop {
        match TcpStream::connect("127.0.0.1:79") {
            Ok(client) => break client,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        thread::sleep(Duration::from_millis(10));
    };
    client.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
    client.write_all(question.as_bytes()).expect("sent");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("answered");
    answer
}

fn a_nowait_service_answers_each_client_as_its_own_user(world: &World) {
    let _inetd = inetd(world, "nowait alice /usr/local/bin/caller caller");
    for question in ["alice", "bob\t"] {
        let answer = ask(&format!("{question}\r\n"));
        let expected = format!("you are 127.0.0.1 and asked uid 1000 at 127.0.0.1:79 about '{}'", question.trim());
        assert_eq!(answer, format!("{expected}\r\n"), "and nothing that was printed");
    }
}

fn a_wait_service_learns_that_descriptor_0_is_not_a_connection(world: &World) {
    let script = "/usr/local/bin/caller 2>/tmp/said; sleep 60";
    world.file("/tmp/wait", &format!("#!/bin/sh\n{script}\n"));
    std::fs::set_permissions("/tmp/wait", std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let _inetd = inetd(world, "wait alice /tmp/wait wait");
    let deadline = Instant::now() + Duration::from_secs(10);
    let said = loop {
        let _client = TcpStream::connect("127.0.0.1:79");
        let said = std::fs::read_to_string("/tmp/said").unwrap_or_default();
        if said.ends_with('\n') {
            break said;
        }
        assert!(Instant::now() < deadline, "nothing was said");
        thread::sleep(Duration::from_millis(10));
    };
    assert!(said.contains("'descriptor 0' is a listener, not a connection") && said.contains("nowait"), "{said}");
}
