//! A udp server on a host with several addresses: low ports as an ordinary user, answers from the address that was
//! asked, addresses that come and go while it runs.

use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use portgrant_tests::{LAUNCHER, Running, World, both_installs};

both_installs![
    the_answer_leaves_from_the_address_that_was_asked,
    a_broadcast_is_answered_once,
    a_new_address_is_served_and_a_removed_one_is_released,
    a_new_interface_is_served_and_a_removed_one_is_released,
    an_address_that_the_policy_denies_is_served_by_the_wildcard,
    no_other_user_can_bind_beside_each_while_an_address_is_added,
    the_launchers_sockets_of_each_are_served_and_follow_the_addresses,
];

/// The example of the server crate.
const DNS: &str = "/usr/local/bin/dns";
const PERMIT: &str = "permit alice 53/udp\n";

/// A query for the address of `who.example`, the id 0x1234, recursion desired, as dig sends it; what comes back within
/// half a second is printed, an answer a line.
const CLIENT: &str = "import socket, sys\n\
    asked, source, kind = sys.argv[1:4]\n\
    v6 = ':' in asked\n\
    s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)\n\
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)\n\
    if source: s.bind((source, 0))\n\
    question = b'\\x03who\\x07example\\0' + (b'\\0\\x1c' if kind == 'AAAA' else b'\\0\\1') + b'\\0\\1'\n\
    s.sendto(b'\\x12\\x34\\1\\0\\0\\1' + bytes(6) + question, socket.getaddrinfo(asked, 53, type=s.type)[0][4])\n\
    s.settimeout(0.5)\n\
    try:\n\
    \x20while True:\n\
    \x20 answer, peer = s.recvfrom(512)\n\
    \x20 assert answer[:12] == b'\\x12\\x34\\x85\\0\\0\\1\\0\\1' + bytes(4) and answer[12:].startswith(question), answer\n\
    \x20 record = answer[12 + len(question):]\n\
    \x20 assert record[:2] == b'\\xc0\\x0c' and record[2:6] == question[-4:] and record[6:10] == b'\\0\\0\\0\\x0a', record\n\
    \x20 told = socket.inet_ntop(s.family, record[12:])\n\
    \x20 print(told, 'by', peer[0].split('%')[0])\n\
    except TimeoutError: pass\n";

/// The other end of the cable: a network namespace that a thread of the test enters.
struct Network {
    client: std::fs::File,
}

fn ip(world: &World, words: &str) {
    world.as_root().run(["ip"].into_iter().chain(words.split(' '))).succeeds();
}

/// Two machines with a cable: the world has 10.7.0.1, 10.7.0.2 and 10.8.0.1 of two networks, the client 10.7.0.9 and
/// 10.8.0.9.
fn network(world: &World) -> Network {
    // A namespace of the client's own, held by this descriptor; the thread returns to the world's.
    let own = std::fs::File::open("/proc/thread-self/ns/net").expect("a namespace");
    unshare(CloneFlags::CLONE_NEWNET).expect("another");
    let client = std::fs::File::open("/proc/thread-self/ns/net").expect("a namespace");
    ip(world, "link set lo up");
    ip(world, "link add far type veth peer name near");
    let pid = std::process::id();
    let tid = nix::unistd::gettid();
    // The near end goes to the world: named by a descriptor of this thread's that is open there.
    let link = format!("/proc/{pid}/task/{tid}/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&own));
    ip(world, &format!("link set near netns {link}"));
    for words in [
        "address add 10.7.0.9/24 brd + dev far",
        "address add 10.8.0.9/24 brd + dev far",
        "address add fd07::9/64 dev far nodad",
        "link set far up",
    ] {
        ip(world, words);
    }
    setns(&own, CloneFlags::CLONE_NEWNET).expect("back");
    for words in [
        "address add 10.7.0.1/24 brd + dev near",
        "address add 10.7.0.2/24 brd + dev near",
        "address add 10.8.0.1/24 brd + dev near",
        "address add fd07::1/64 dev near nodad",
        "address add fd07::2/64 dev near nodad",
        "link set near up",
    ] {
        ip(world, words);
    }
    Network { client }
}

/// Waits until no IPv6 address is on trial any more (RFC 4862): the launcher's helper binds all of a set or none.
fn settle(world: &World) {
    while !world.as_root().run(["ip", "-6", "address", "show", "tentative"]).stdout.is_empty() {
        thread::sleep(Duration::from_millis(20));
    }
}

impl Network {
    /// What `work` does in the client's namespace.
    fn there<T>(&self, work: impl FnOnce() -> T) -> T {
        let own = std::fs::File::open("/proc/thread-self/ns/net").expect("a namespace");
        setns(&self.client, CloneFlags::CLONE_NEWNET).expect("there");
        let done = work();
        setns(own, CloneFlags::CLONE_NEWNET).expect("back");
        done
    }

    /// The answers to one query: the address told, and who answered.
    fn ask(&self, world: &World, asked: &str, source: &str) -> String {
        let kind = if asked.contains(':') { "AAAA" } else { "A" };
        let outcome = self.there(|| world.as_user("bob").run(["python3", "-c", CLIENT, asked, source, kind]));
        outcome.succeeds();
        outcome.stdout
    }
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

fn serving(world: &World, endpoint: &str) -> Running {
    let server = world.as_user("alice").spawn([DNS, endpoint]);
    says(&server, "serving");
    server
}

fn bound(world: &World, port: u16) -> Vec<String> {
    let all = world.listening().into_iter();
    all.filter(|socket| (&*socket.protocol, socket.port) == ("udp", port)).map(|socket| socket.address).collect()
}

fn the_answer_leaves_from_the_address_that_was_asked(world: &World) {
    let network = network(world);
    world.policy(PERMIT);
    for endpoint in ["dns=each:53/udp", "dns=53/udp"] {
        let server = serving(world, endpoint);
        for asked in ["10.7.0.1", "10.7.0.2", "10.8.0.1", "fd07::1", "fd07::2"] {
            assert_eq!(network.ask(world, asked, ""), format!("{asked} by {asked}\n"), "{endpoint}");
        }
        // By a source that is not on the way back: still from the address that was asked.
        assert_eq!(network.ask(world, "10.8.0.1", "10.7.0.9"), "10.8.0.1 by 10.8.0.1\n", "{endpoint}");
        says(&server, "10.7.0.9:");
        assert!(!server.output().0.contains("::ffff:"), "IPv4 is shown as IPv4: {:?}", server.output());
        assert!(world.listening().iter().all(|socket| socket.uid == 1000));
        drop(server);
    }
}

fn a_broadcast_is_answered_once(world: &World) {
    let network = network(world);
    world.policy(PERMIT);
    for endpoint in ["dns=each:53/udp", "dns=53/udp"] {
        let server = serving(world, endpoint);
        // By an address of the network that was asked, and by one only.
        assert_eq!(network.ask(world, "10.7.0.255", "10.7.0.9"), "10.7.0.1 by 10.7.0.1\n", "{endpoint}");
        assert_eq!(network.ask(world, "10.8.0.255", "10.8.0.9"), "10.8.0.1 by 10.8.0.1\n", "{endpoint}");
        let (said, _) = server.output();
        assert!(said.contains("asked 10.7.0.255") && said.contains("asked 10.8.0.255"), "{said}");
    }
}

fn a_new_address_is_served_and_a_removed_one_is_released(world: &World) {
    let network = network(world);
    world.policy(PERMIT);
    let server = serving(world, "dns=each:53/udp");
    ip(world, "address add 10.7.0.3/24 dev near");
    says(&server, "10.7.0.3:53/udp came");
    assert_eq!(network.ask(world, "10.7.0.3", ""), "10.7.0.3 by 10.7.0.3\n");
    assert!(bound(world, 53).contains(&"10.7.0.3".to_owned()), "{:?}", bound(world, 53));
    assert_eq!(bound(world, 53).iter().filter(|address| *address == "*").count(), 1);

    ip(world, "address add fd07::3/64 dev near");
    says(&server, "[fd07::3]:53/udp came");
    assert_eq!(network.ask(world, "fd07::3", ""), "fd07::3 by fd07::3\n");

    ip(world, "address del 10.7.0.3/24 dev near");
    says(&server, "10.7.0.3:53/udp went");
    assert!(!bound(world, 53).contains(&"10.7.0.3".to_owned()));
    assert_eq!(network.ask(world, "10.7.0.1", ""), "10.7.0.1 by 10.7.0.1\n", "the others go on");
}

fn a_new_interface_is_served_and_a_removed_one_is_released(world: &World) {
    world.policy(PERMIT);
    let server = serving(world, "dns=each:53/udp");
    ip(world, "link add late type veth peer name later");
    ip(world, "address add 10.9.0.1/24 brd + dev late");
    assert!(!bound(world, 53).contains(&"10.9.0.1".to_owned()), "it is down");
    ip(world, "link set later up");
    ip(world, "link set late up");
    for address in ["10.9.0.1", "10.9.0.255", "[fe80::"] {
        says(&server, &format!("{address}{}", if address.starts_with('[') { "" } else { ":53/udp came" }));
    }
    assert!(!server.output().0.contains("no socket of its own"), "{:?}", server.output());
    ip(world, "link del late");
    says(&server, "10.9.0.1:53/udp went");
    says(&server, "10.9.0.255:53/udp went");
    assert!(!bound(world, 53).iter().any(|address| address.starts_with("10.9.")));
}

fn an_address_that_the_policy_denies_is_served_by_the_wildcard(world: &World) {
    let network = network(world);
    world.policy(PERMIT);
    let server = serving(world, "dns=each:53/udp");
    world.policy("permit alice 53/udp on 10.7.0.0/24\n");
    ip(world, "address add 10.8.0.3/24 dev near");
    says(&server, "10.8.0.3:53/udp has no socket of its own: 10.8.0.3:53/udp is refused for alice (uid 1000): ");
    assert_eq!(network.ask(world, "10.8.0.3", ""), "10.8.0.3 by 10.8.0.3\n");
    ip(world, "address add 10.7.0.3/24 dev near");
    says(&server, "10.7.0.3:53/udp came");
}

/// PG-8
fn no_other_user_can_bind_beside_each_while_an_address_is_added(world: &World) {
    let _network = network(world);
    world.policy("permit alice 53/udp\npermit bob 53/udp reuseport\n");
    let server = serving(world, "dns=each:53/udp");
    // Bob tries all the while, with a socket of his own that would share with anybody, at an address that has none.
    let script = "import socket, subprocess, sys\n\
        tries = 0\n\
        while True:\n\
        \x20s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
        \x20for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT): s.setsockopt(socket.SOL_SOCKET, option, 1)\n\
        \x20words = [sys.argv[1], 'bind', '-l', '127.0.0.2:53/udp', '--socket', '0']\n\
        \x20code = subprocess.run(words, stdin=s, stderr=subprocess.DEVNULL).returncode\n\
        \x20if code != 69: sys.exit(f'exit status {code}')\n\
        \x20tries += 1\n\
        \x20print(tries, flush=True)\n";
    let mut bob = world.as_user("bob").spawn(["python3", "-c", script, portgrant_tests::BINDER]);
    says(&bob, "3\n");
    for round in 0..60 {
        // Both are waited for: what goes and comes before the server looks has not changed for it.
        for (words, told) in [("add", "10.7.0.3:53/udp came"), ("del", "10.7.0.3:53/udp went")] {
            ip(world, &format!("address {words} 10.7.0.3/24 dev near"));
            let deadline = Instant::now() + Duration::from_secs(10);
            while server.output().0.matches(told).count() <= round {
                assert!(Instant::now() < deadline, "not {told}: {:?}", server.output());
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
    assert!(bob.is_alive(), "bob got in: {:?}", bob.output());
}

fn the_launchers_sockets_of_each_are_served_and_follow_the_addresses(world: &World) {
    let network = network(world);
    world.policy(PERMIT);
    settle(world);
    let server = world.as_user("alice").spawn([LAUNCHER, "exec", "-l", "dns=each:53/udp,dev=near", "--", DNS]);
    says(&server, "serving dns\n");
    assert_eq!(network.ask(world, "10.7.0.2", ""), "10.7.0.2 by 10.7.0.2\n");
    ip(world, "address add 10.7.0.3/24 dev near");
    says(&server, "10.7.0.3:53/udp came");
    assert_eq!(network.ask(world, "10.7.0.3", ""), "10.7.0.3 by 10.7.0.3\n");
    assert!(!server.output().0.contains("127.0.0.1"), "one interface was asked for: {:?}", server.output());
}
