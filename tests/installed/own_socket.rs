//! The bind verb: the caller's own socket is bound, and nothing else about it changes.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, setsockopt, socket, sockopt};
use portgrant_tests::{BINDER, Outcome, Stopped, World, both_installs};

both_installs![
    the_callers_own_socket_is_bound_and_nothing_else_is_done_to_it,
    an_ipv4_address_is_bound_on_an_ipv6_socket_as_a_mapped_one,
    the_ipv6_wildcard_of_a_callers_socket_counts_for_both_families,
    a_rule_with_dev_does_not_permit_a_callers_own_socket,
    only_a_fresh_socket_of_the_callers_is_bound,
    a_socket_of_another_network_namespace_is_refused,
    a_socket_whose_family_changes_after_the_verdict_is_not_bound,
];

/// An AF_INET socket, unbound and unconnected, of the AF_INET6 one that it has (ipv6(7)).
const BECOME_INET: &str = r#"
import ctypes, socket
own = socket.socket(fileno=7)
own.connect(("::ffff:127.0.0.1", 9))
own.setsockopt(socket.IPPROTO_IPV6, 1, 2) # IPV6_ADDRFORM, AF_INET
assert ctypes.CDLL(None).connect(7, bytes(16), 16) == 0 # AF_UNSPEC
assert socket.socket(fileno=7).getsockname() == ("0.0.0.0", 0)
"#;

fn fresh(world: &World, family: AddressFamily, kind: SockType) -> OwnedFd {
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    // Made by the test as root; alice's own would be hers.
    nix::unistd::fchown(&socket, Some(world.uid("alice").into()), None).expect("chown");
    socket
}

fn bind(world: &World, socket: &OwnedFd, endpoint: &str) -> Outcome {
    let socket = socket.try_clone().expect("dup");
    world.as_user("alice").fd(7, socket).run([BINDER, "bind", "-l", endpoint, "--socket", "7"])
}

fn local(socket: &OwnedFd) -> SocketAddr {
    TcpListener::from(socket.try_clone().expect("dup")).local_addr().expect("an address")
}

fn the_callers_own_socket_is_bound_and_nothing_else_is_done_to_it(world: &World) {
    world.policy("permit alice 80 53/udp\n");
    let tcp = fresh(world, AddressFamily::Inet, SockType::Stream);
    setsockopt(&tcp, sockopt::KeepAlive, &true).expect("set");
    bind(world, &tcp, "127.0.0.1:80").succeeds().is_silent();
    assert_eq!(local(&tcp), "127.0.0.1:80".parse().expect("an address"));
    assert!(!getsockopt(&tcp, sockopt::AcceptConn).expect("get"), "it was listened on");
    assert!(!getsockopt(&tcp, sockopt::ReuseAddr).expect("get") && getsockopt(&tcp, sockopt::KeepAlive).expect("get"));
    let udp = fresh(world, AddressFamily::Inet6, SockType::Datagram);
    bind(world, &udp, "53/udp").succeeds();
    assert_eq!(local(&udp), "[::]:53".parse().expect("an address"));
    bind(world, &fresh(world, AddressFamily::Inet, SockType::Stream), "127.0.0.1:81").exits(77);
}

fn an_ipv4_address_is_bound_on_an_ipv6_socket_as_a_mapped_one(world: &World) {
    world.policy("permit alice 80 on 127.0.0.1\n");
    let socket = fresh(world, AddressFamily::Inet6, SockType::Stream);
    bind(world, &socket, "[::ffff:127.0.0.1]:80").succeeds();
    assert_eq!(local(&socket), "[::ffff:127.0.0.1]:80".parse().expect("an address"));
}

/// PG-1
fn the_ipv6_wildcard_of_a_callers_socket_counts_for_both_families(world: &World) {
    world.policy("permit alice 80 on [::]/0\n");
    let socket = fresh(world, AddressFamily::Inet6, SockType::Stream);
    setsockopt(&socket, sockopt::Ipv6V6Only, &true).expect("set");
    // The caller could clear it between the decision and the bind.
    bind(world, &socket, "[::]:80").exits(77).complains("not all of that address");
}

/// PG-1
fn a_rule_with_dev_does_not_permit_a_callers_own_socket(world: &World) {
    world.policy("permit alice 53/udp dev lo\n");
    let socket = fresh(world, AddressFamily::Inet, SockType::Datagram);
    setsockopt(&socket, sockopt::BindToDevice, &"lo".into()).expect("set");
    bind(world, &socket, "127.0.0.1:53/udp").exits(77);
}

/// PG-1
fn only_a_fresh_socket_of_the_callers_is_bound(world: &World) {
    world.policy("permit alice 80 80/udp\n");
    let tcp = || fresh(world, AddressFamily::Inet, SockType::Stream);
    let bound: OwnedFd = TcpListener::bind("127.0.0.1:0").expect("bind").into();
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let connected: OwnedFd = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect").into();
    let unix: OwnedFd = UnixStream::pair().expect("pair").0.into();
    let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), nix::sys::socket::SockProtocol::Icmp);
    let roots = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).expect("socket");
    let file: OwnedFd = std::fs::File::open("/etc/passwd").expect("open").into();
    let udp: OwnedFd = UdpSocket::bind("127.0.0.1:0").expect("bind").into();
    let refused = [
        (bound, "127.0.0.1:80", "an unbound, unconnected socket"),
        (connected, "127.0.0.1:80", "an unbound, unconnected socket"),
        (udp, "127.0.0.1:80/udp", "an unbound, unconnected socket"),
        (unix, "80", "an AF_INET or AF_INET6 socket"),
        (raw.expect("socket"), "127.0.0.1:80", "a socket of the protocol that is asked for"),
        (tcp(), "127.0.0.1:80/udp", "a socket of the protocol that is asked for"),
        (tcp(), "80", "an AF_INET6 socket"),
        (roots, "127.0.0.1:80", "a socket that the caller made"),
        (file, "80", "a socket"),
    ];
    for (socket, endpoint, expected) in refused {
        bind(world, &socket, endpoint).exits(64).complains(&format!("expected {expected}"));
    }
    let mut held = world.listening();
    held.retain(|socket| socket.port == 80);
    assert_eq!(held, []);
}

/// PG-1
fn a_socket_of_another_network_namespace_is_refused(world: &World) {
    world.policy("permit root 80\n");
    // Made in a new network; the helper runs in the world's.
    let script = "import socket, subprocess, sys\n\
        fd = socket.socket().detach()\n\
        helper = ['nsenter', sys.argv[2], sys.argv[1], 'bind', '-l', '0.0.0.0:80', '--socket', str(fd)]\n\
        sys.exit(subprocess.run(helper, pass_fds=[fd]).returncode)\n";
    let home = format!("--net=/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid());
    let bind = |apart: &[&str]| world.as_root().run([apart, &["python3", "-c", script, BINDER, &home]].concat());
    bind(&[]).succeeds();
    bind(&["unshare", "--net"]).exits(64).complains("a socket of this network namespace");
}

/// PG-1
fn a_socket_whose_family_changes_after_the_verdict_is_not_bound(world: &World) {
    world.policy("permit alice 53/udp\n");
    let udp = fresh(world, AddressFamily::Inet6, SockType::Datagram);
    let root = |world: &World| world.as_root().fd(7, udp.try_clone().expect("dup"));
    let words = [BINDER, "bind", "-l", "127.0.0.1:53/udp", "--socket", "7"];
    // The timer of the last step, right after the verdict.
    let stopped = Stopped::after(root(world), "alice", "timer_create", 2, &words).expect("it was stopped");
    root(world).run(["python3", "-c", BECOME_INET]).succeeds();
    stopped.goes_on().exits(71);
    assert_eq!(local(&udp), "0.0.0.0:0".parse().expect("an address"));
}
