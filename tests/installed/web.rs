//! The server crate's web servers on low ports as an ordinary user, with curl: axum's, and the one with threads.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use portgrant_tests::{LAUNCHER, Outcome, Signal, World, both_installs};

both_installs![
    an_axum_server_serves_two_ports_by_their_names,
    an_axum_server_answers_open_requests_before_it_ends,
    a_server_with_threads_keeps_connections_alive,
    a_server_with_threads_answers_after_silent_clients_time_out,
    several_listeners_share_a_port_if_a_rule_grants_reuseport,
];

const PATIENCE: Duration = Duration::from_secs(10);

fn curl(world: &World, words: &[&str]) -> Outcome {
    world.as_user("bob").run([&["curl", "--silent", "--show-error", "--max-time", "20"], words].concat())
}

fn connect() -> TcpStream {
    let client = TcpStream::connect("127.0.0.1:80").expect("it listens");
    client.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    client
}

/// Waits until the server has read everything that `client` has sent.
fn await_reading(client: &TcpStream) {
    let port = format!(":{:04X}", client.local_addr().expect("bound").port());
    // Local and remote address, state, the queues (tx:rx): see proc_net_tcp in proc(5).
    let is_read = |table: &str| {
        let table = std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).expect("/proc");
        let mut fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        fields.any(|fields| {
            fields.get(2).is_some_and(|remote| remote.ends_with(&port)) && fields[4].ends_with(":00000000")
        })
    };
    let deadline = Instant::now() + PATIENCE;
    while !is_read("tcp") && !is_read("tcp6") {
        assert!(Instant::now() < deadline, "it does not read");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn rest(mut client: TcpStream) -> String {
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap_or_else(|error| panic!("{error}, after {rest}"));
    rest
}

fn an_axum_server_serves_two_ports_by_their_names(world: &World) {
    world.policy("permit alice 80 81\n");
    let web = ["web", "http=80", "status=127.0.0.1:81"];
    let exec = [LAUNCHER, "exec", "-l", "status=127.0.0.1:81", "-l", "http=80", "--"];
    for (words, origin) in [([&exec[..], &web].concat(), "Adopted"), (web.to_vec(), "Helper")] {
        let server = world.serving("alice", &words, 2);
        // The one socket is for both families; who asks by IPv4 is shown so.
        curl(world, &["http://127.0.0.1/"]).succeeds().prints("hello, 127.0.0.1\n");
        curl(world, &["http://[::1]/"]).succeeds().prints("hello, ::1\n");
        curl(world, &["--write-out", "%{http_code}", "http://127.0.0.1/status"]).succeeds().prints("404");
        let twice = curl(world, &["--write-out", "%{num_connects} ", "http://127.0.0.1/", "http://127.0.0.1/"]);
        twice.succeeds().prints("hello, 127.0.0.1\n1 hello, 127.0.0.1\n0 ");
        curl(world, &["http://127.0.0.1:81/"]).succeeds().prints("uid 1000, 5 connections so far\n");
        let (said, _) = server.output();
        assert!(said.contains(&format!("http at [::]:80, {origin}\nstatus at 127.0.0.1:81, {origin}\n")), "{said}");
        server.signal(Signal::SIGTERM);
        server.wait(PATIENCE).succeeds();
    }
    world.policy("permit alice 80\n");
    world.as_user("alice").run(web).exits(77).complains("81/tcp is refused for alice");
}

fn an_axum_server_answers_open_requests_before_it_ends(world: &World) {
    world.policy("permit alice 80\n");
    let server = world.serving("alice", &["web"], 1);
    let (mut idle, mut asking) = (connect(), connect());
    idle.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    let mut first = [0; 15];
    idle.read_exact(&mut first).expect("an answer");
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    asking.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n").expect("sent");
    await_reading(&asking);
    server.signal(Signal::SIGTERM);
    let deadline = Instant::now() + PATIENCE;
    while !world.listening().is_empty() {
        assert!(Instant::now() < deadline, "it still listens");
    }
    rest(idle); // it is closed
    asking.write_all(b"\r\n").expect("sent");
    let answer = rest(asking);
    assert!(answer.ends_with("hello, 127.0.0.1\n"), "{answer}");
    server.wait(PATIENCE).succeeds();
}

fn a_server_with_threads_keeps_connections_alive(world: &World) {
    world.policy("permit alice 80\n");
    let _server = world.serving("alice", &[LAUNCHER, "exec", "-l", "80", "--", "hello"], 1);
    let url = "http://127.0.0.1/";
    let thrice = curl(world, &["--write-out", "%{num_connects} ", url, url, url]);
    assert_eq!(thrice.succeeds().stdout.matches("at 127.0.0.1:80\n1 ").count(), 1);
    assert_eq!(thrice.stdout.matches("at 127.0.0.1:80\n0 ").count(), 2);
    curl(world, &["--http1.0", "--include", url]).succeeds().prints("Connection: close").prints("hello from uid 1000");
    curl(world, &["--head", url]).succeeds().prints("Content-Length: 36");
    // A body is not read, and not taken for a request either: the answer still arrives.
    world.file("/tmp/body", &"GET / HTTP/1.1\r\n\r\n".repeat(50_000));
    let posted = curl(world, &["--include", "--header", "Expect:", "--data-binary", "@/tmp/body", url]);
    assert_eq!(posted.succeeds().prints("Connection: close").stdout.matches("hello from").count(), 1);
    for (request, status) in [
        ("GET / HTTP/1.1\r\nContent-Length : 5\r\n\r\n", "400 Bad Request"),
        ("GET /\r\n\r\n", "400 Bad Request"),
        (&format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(9000)), "431 "),
    ] {
        let mut client = connect();
        client.write_all(request.as_bytes()).expect("sent");
        let answer = rest(client);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
    }
    let mut client = connect();
    client.write_all(b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nConnection: close\r\n\r\n").expect("sent");
    assert_eq!(rest(client).matches("HTTP/1.1 200 OK").count(), 2, "both of one segment are answered");
}

fn a_server_with_threads_answers_after_silent_clients_time_out(world: &World) {
    world.policy("permit alice 80\n");
    let server = world.serving("alice", &["hello"], 1);
    let silent: Vec<TcpStream> = (0..100).map(|_| connect()).collect();
    let threads = format!("/proc/{}/task", server.pid());
    assert_eq!(std::fs::read_dir(threads).expect("threads").count(), 65);
    curl(world, &["http://127.0.0.1/"]).succeeds().prints("hello from uid 1000");
    drop(silent);
}

fn several_listeners_share_a_port_if_a_rule_grants_reuseport(world: &World) {
    world.policy("permit alice 80\n");
    let words = ["hello", "--workers", "3", "80"];
    world.as_user("alice").run(words).exits(77).complains("reuseport");
    world.policy("permit alice 80 reuseport\n");
    let _server = world.serving("alice", &words, 3);
    for _ in 0..20 {
        curl(world, &["http://127.0.0.1/"]).succeeds().prints("hello from uid 1000 at 127.0.0.1:80\n");
    }
}
