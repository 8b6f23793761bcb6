//! A server that tells its clients who they are, asking Debian's dnsmasq.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
use portgrant_tests::{LAUNCHER, Running, Signal, World, both_installs};

both_installs![
    a_client_gets_the_name_that_resolves_to_its_address,
    a_client_without_a_confirmed_name_is_shown_by_address,
    the_hosts_file_comes_before_dns,
    without_a_working_name_server_lookups_end_within_the_limit,
    a_name_server_that_comes_back_is_asked_again,
];

const DNSMASQ: &str = "/usr/sbin/dnsmasq";
/// The example of the server crate.
const WHOAMI: &str = "whoami";

/// The world has these addresses on `lo`, so that a client can come from each.
const CLIENTS: [&str; 5] = ["192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32", "192.0.2.4/32", "2001:db8::1/128"];

/// dnsmasq on 127.0.0.1:53, and a world that asks it.
fn dnsmasq(world: &World) -> Running {
    world.file("/etc/resolv.conf", "nameserver 127.0.0.1\n");
    let words = "--keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --port=53 --listen-address=127.0.0.1 \
        --bind-interfaces --user=root --pid-file= --local-ttl=0 --log-facility=- \
        --host-record=mail.example.org,192.0.2.1 \
        --host-record=six.example.org,2001:db8::1 \
        --ptr-record=2.2.0.192.in-addr.arpa,mail.example.org \
        --ptr-record=3.2.0.192.in-addr.arpa,192.0.2.1 \
        --local=/example.org/ --local=/in-addr.arpa/ --local=/ip6.arpa/";
    let server = world.as_root().spawn([DNSMASQ].into_iter().chain(words.split_whitespace()));
    let deadline = Instant::now() + Duration::from_secs(10);
    while !world.listening().iter().any(|socket| (&*socket.protocol, socket.port) == ("udp", 53)) {
        assert!(Instant::now() < deadline, "dnsmasq does not serve: {:?}", server.output());
        thread::sleep(Duration::from_millis(5));
    }
    server
}

fn addresses(world: &World) {
    for address in CLIENTS {
        world.as_root().run(["ip", "address", "add", address, "dev", "lo"]).succeeds();
    }
    // IPv6 addresses are on trial first (RFC 4862), though not on lo everywhere.
    while !world.as_root().run(["ip", "-6", "address", "show", "tentative"]).stdout.is_empty() {
        thread::sleep(Duration::from_millis(20));
    }
}

/// The server, on a dual-stack port 79, with this time limit in seconds.
fn whoami(world: &World, limit: &str) -> Running {
    world.policy("permit alice 79\n");
    let server = world.as_user("alice").spawn([LAUNCHER, "exec", "-l", "79", "--", WHOAMI, "79", limit]);
    says(&server, "serving\n");
    server
}

/// Waits for the server to have said it.
#[track_caller]
fn says(server: &Running, text: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !server.output().0.contains(text) {
        assert!(Instant::now() < deadline, "not said: {text}: {:?}", server.output());
        thread::sleep(Duration::from_millis(5));
    }
}

/// What a client with this address gets.
fn told(from: &str) -> String {
    let from: IpAddr = from.parse().expect(from);
    let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let client = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    let storage = |port| SockaddrStorage::from(SocketAddr::new(from, port));
    bind(client.as_raw_fd(), &storage(0)).expect("bound");
    connect(client.as_raw_fd(), &storage(79)).expect("connected");
    let mut client = TcpStream::from(client);
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    answer
}

fn a_client_gets_the_name_that_resolves_to_its_address(world: &World) {
    addresses(world);
    let _dns = dnsmasq(world);
    let server = whoami(world, "10");
    assert_eq!(told("192.0.2.1"), "you are mail.example.org (192.0.2.1)\n", "IPv4 to a dual-stack listener");
    assert_eq!(told("2001:db8::1"), "you are six.example.org (2001:db8::1)\n");
    says(&server, "\n192.0.2.1: mail.example.org\n2001:db8::1: six.example.org\n");
}

fn a_client_without_a_confirmed_name_is_shown_by_address(world: &World) {
    addresses(world);
    let _dns = dnsmasq(world);
    let server = whoami(world, "10");
    for (client, log) in [
        ("192.0.2.2", "192.0.2.2: unconfirmed name 'mail.example.org'\n"),
        ("192.0.2.3", "192.0.2.3: unconfirmed name '192.0.2.1'\n"),
        ("192.0.2.4", "192.0.2.4: no name\n"),
    ] {
        assert_eq!(told(client), format!("you are {client}\n"));
        says(&server, log);
    }
}

fn the_hosts_file_comes_before_dns(world: &World) {
    addresses(world);
    let _dns = dnsmasq(world);
    let _server = whoami(world, "10");
    assert_eq!(told("127.0.0.1"), "you are localhost (127.0.0.1)\n");
    assert_eq!(told("::1"), "you are localhost (::1)\n");
    assert_eq!(told("127.0.1.1"), "you are news.example.test (127.0.1.1)\n", "the first name on the line");
    assert_eq!(told("127.0.0.9"), "you are 127.0.0.9\n");
    world.file("/etc/hosts", "127.0.0.1 localhost\n192.0.2.1 renamed.example.org\n");
    assert_eq!(told("192.0.2.1"), "you are renamed.example.org (192.0.2.1)\n");
}

fn without_a_working_name_server_lookups_end_within_the_limit(world: &World) {
    addresses(world);
    let dns = dnsmasq(world);
    let server = whoami(world, "2");
    // Alive, and silent.
    dns.signal(Signal::SIGSTOP);
    let start = Instant::now();
    assert_eq!(told("192.0.2.1"), "you are 192.0.2.1\n");
    let took = start.elapsed();
    assert!((2..30).contains(&took.as_secs()), "{took:?}");
    says(&server, "192.0.2.1: name unknown: no answer in time\n");
    assert_eq!(told("::1"), "you are localhost (::1)\n", "others are not held up");
    drop(dns);
    let start = Instant::now();
    assert_eq!(told("2001:db8::1"), "you are 2001:db8::1\n");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    says(&server, "2001:db8::1: name unknown: ");
}

fn a_name_server_that_comes_back_is_asked_again(world: &World) {
    addresses(world);
    world.file("/etc/resolv.conf", "nameserver 127.0.0.1\n");
    let _server = whoami(world, "1");
    assert_eq!(told("192.0.2.1"), "you are 192.0.2.1\n");
    let _dns = dnsmasq(world);
    let deadline = Instant::now() + Duration::from_secs(30);
    while told("192.0.2.1") != "you are mail.example.org (192.0.2.1)\n" {
        assert!(Instant::now() < deadline, "it does not ask again");
        thread::sleep(Duration::from_millis(200));
    }
}
