//! The example `axum`: it serves, and prints an error as a person reads it.
#![cfg(feature = "tokio")]

mod stand_in;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use stand_in::free_port;

/// How long it may take until it listens.
const TIME_LIMIT: Duration = Duration::from_secs(20);

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn axum(endpoint: &str) -> Command {
    let test = std::env::current_exe().expect("this program");
    let folder = test.parent().and_then(|deps| deps.parent()).expect("a folder");
    let mut command = Command::new(folder.join("examples/axum"));
    command.arg(endpoint).env_remove("LISTEN_FDS").stderr(Stdio::piped());
    command
}

#[test]
fn an_axum_router_is_served() {
    let port = free_port();
    let _server = Running(axum(&format!("127.0.0.1:{port}")).spawn().expect("started"));
    let deadline = Instant::now() + TIME_LIMIT;
    let mut stream = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    stream.set_read_timeout(Some(TIME_LIMIT)).expect("set");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhello\n"), "{answer}");
}

#[test]
fn an_error_returned_from_main_prints_what_why_and_fix() {
    let held = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = held.local_addr().expect("bound");
    let output = axum(&address.to_string()).output().expect("run");
    let printed = String::from_utf8(output.stderr).expect("text");
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.first(), Some(&&*format!("Error: {address}/tcp is in use")), "{printed}");
    assert!(lines.len() == 3 && lines[1].starts_with("  why: axum-") && lines[2].starts_with("  fix: "), "{printed}");
    assert_eq!(output.status.code(), Some(1));
}
