//! The names of clients (`--lookup`).

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use portgrant_tests::{Running, Signal, World, both_installs};

use super::*;

both_installs![
    a_client_name_is_passed_on_if_it_has_the_clients_address,
    a_name_server_that_does_not_answer_delays_its_clients_only,
];

/// A name server for clients at 192.0.2.7 and .8, which are addresses of this host.
fn name_server(world: &World) -> Running {
    for address in ["192.0.2.7/32", "192.0.2.8/32", "192.0.2.9/32"] {
        world.as_root().run(["ip", "address", "add", address, "dev", "lo"]).succeeds();
    }
    world.file("/etc/resolv.conf", "nameserver 127.0.0.1\n");
    world.file("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n192.0.2.9 box.example.test\n");
    let words = "dnsmasq --keep-in-foreground --user=root --listen-address=127.0.0.1 --bind-interfaces --no-resolv \
        --no-hosts --host-record=client.example.test,192.0.2.7 --ptr-record=8.2.0.192.in-addr.arpa,bank.example.test \
        --host-record=bank.example.test,192.0.2.99";
    let server = world.as_root().spawn(words.split(' '));
    within(PATIENCE, "the name server answers", || TcpStream::connect("127.0.0.1:53").is_ok());
    server
}

fn a_client_name_is_passed_on_if_it_has_the_clients_address(world: &World) {
    world.policy("permit alice 80 81\n");
    let _server = name_server(world);
    let caller = || world.as_user("alice").env("TCPREMOTEHOST", "trusted.example.test");
    let looking = caller().spawn(accepting(&["-v", "-l", "80", "--no-lookup", "--lookup"], &["env"]));
    let _not = caller().spawn(accepting(&["-l", "81", "--lookup", "--no-lookup"], &["env"]));
    for port in [80, 81] {
        drop(Client::of(&format!("127.0.0.1:{port}")));
    }
    for (address, name) in [
        ("192.0.2.7", Some("client.example.test")),
        ("192.0.2.8", None),
        ("192.0.2.9", Some("box.example.test")),
        ("127.0.0.1", Some("localhost")),
    ] {
        let environment = Client::from(address, "127.0.0.1:80").rest();
        let told = environment.lines().find_map(|line| line.strip_prefix("TCPREMOTEHOST="));
        assert_eq!(told, name, "{environment}");
        assert!(environment.contains("\nTCPLOCALHOST=localhost\n"), "{environment}");
        let without = Client::from(address, "127.0.0.1:81").rest();
        assert!(without.contains("\nTCPREMOTEIP=") && !without.contains("HOST="), "{without}");
    }
    let said = looking.output().1;
    assert!(said.contains("lookup: unconfirmed name 'bank.example.test'"), "{said}");
    assert!(said.contains("127.0.0.1:80 client.example.test 192.0.2.7:"), "{said}");
}

fn a_name_server_that_does_not_answer_delays_its_clients_only(world: &World) {
    world.policy("permit alice 80\n");
    world.as_root().run(["ip", "address", "add", "192.0.2.7/32", "dev", "lo"]).succeeds();
    world.file("/etc/resolv.conf", "nameserver 127.0.0.1\n");
    let _silent = std::net::UdpSocket::bind("127.0.0.1:53").expect("a socket");
    let launcher = world.as_user("alice").spawn(accepting(&["-l", "80", "--lookup", "--max-conns", "2"], &["env"]));
    assert!(Client::of("127.0.0.1:80").rest().contains("TCPREMOTEHOST=localhost"));
    let begin = Instant::now();
    let mut slow = Client::from("192.0.2.7", "127.0.0.1:80");
    for _ in 0..10 {
        assert!(Client::of("127.0.0.1:80").rest().contains("TCPREMOTEHOST=localhost"));
    }
    let is_over = begin.elapsed() > Duration::from_secs(4);
    assert!(is_over || slow.is_silent_for(Duration::from_millis(200)), "it is waited for");
    let environment = slow.rest();
    assert!(environment.contains("TCPREMOTEIP=192.0.2.7\n") && !environment.contains("REMOTEHOST"), "{environment}");
    assert!(begin.elapsed() >= Duration::from_secs(4), "{:?}", begin.elapsed());

    let mut given_up = Client::from("192.0.2.7", "127.0.0.1:80");
    launcher.signal(Signal::SIGTERM);
    launcher.wait(PATIENCE).dies_of(Signal::SIGTERM);
    let _ = given_up.0.read_to_string(&mut String::new());
}
