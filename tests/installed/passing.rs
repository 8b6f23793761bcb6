//! The pass verb: sockets over a Unix socket, and a record that says what they are, or why there are none.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{getsockopt, sockopt};
use portgrant_protocol::record::Reply;
use portgrant_protocol::{Kind, Message};
use portgrant_protocol::{Protocol, transfer};
use portgrant_server::SocketInfo;
use portgrant_tests::{BINDER, Outcome, World, both_installs};

both_installs![
    the_sockets_arrive_named_listening_and_owned_by_the_caller,
    a_refusal_arrives_as_a_record_and_nothing_else,
    a_grant_bound_to_a_program_passes_no_socket,
    sockets_are_sent_only_over_a_connected_seqpacket_socket,
    a_peer_that_is_gone_gets_nothing_and_nothing_stays_bound,
    every_option_is_set_on_the_socket,
    every_protocol_is_bound_as_it_was_asked,
    each_binds_every_address_and_shares_none,
    a_socket_is_v6only_only_when_asked,
];

/// What the helper sent, and how it ended.
fn pass(world: &World, endpoints: &[&str]) -> (Reply, Vec<OwnedFd>, Outcome) {
    let (ours, theirs) = transfer::pair().expect("socketpair");
    let listen = endpoints.iter().flat_map(|endpoint| ["-l", endpoint]);
    let words: Vec<&str> = [BINDER, "pass"].into_iter().chain(listen).chain(["--to", "5"]).collect();
    let outcome = world.as_user("alice").fd(5, theirs).run(words);
    let (record, sockets) = transfer::receive(ours.as_fd()).expect("a record");
    (Reply::parse(&record).expect("a reply"), sockets, outcome)
}

fn granted(world: &World, endpoints: &[&str]) -> (Vec<String>, Vec<OwnedFd>) {
    let (reply, sockets, outcome) = pass(world, endpoints);
    outcome.succeeds().is_silent();
    let Reply::Granted { names } = reply else { panic!("{reply:?}") };
    assert_eq!(names.len(), sockets.len());
    (names, sockets)
}

fn refused(world: &World, endpoints: &[&str]) -> (Message, Outcome) {
    let (reply, sockets, outcome) = pass(world, endpoints);
    assert!(sockets.is_empty(), "a refusal came with a descriptor");
    let Reply::Failed(refusal) = reply else { panic!("{reply:?}") };
    (refusal, outcome)
}

fn info(socket: &OwnedFd) -> SocketInfo {
    SocketInfo::of(socket.as_fd()).expect("an internet socket")
}

fn the_sockets_arrive_named_listening_and_owned_by_the_caller(world: &World) {
    world.policy("permit alice 80 53/udp\n");
    let (names, sockets) = granted(world, &["web=127.0.0.1:80", "53/udp"]);
    assert_eq!(names, ["web", "53/udp"]);
    let web = info(&sockets[0]);
    assert_eq!((web.protocol, web.local, web.listening), (Protocol::Tcp, ([127, 0, 0, 1], 80).into(), true));
    assert_eq!((info(&sockets[1]).protocol, info(&sockets[1]).local.port()), (Protocol::Udp, 53));
    assert!(world.listening().iter().all(|socket| socket.uid == 1000), "{:?}", world.listening());
    TcpStream::connect("127.0.0.1:80").expect("it is listening");
}

fn a_refusal_arrives_as_a_record_and_nothing_else(world: &World) {
    world.policy("permit bob 80\ndeny alice 81\n");
    let (refusal, outcome) = refused(world, &["80"]);
    outcome.exits(77).is_silent();
    assert_eq!((refusal.status, &refusal.rule, &refusal.program), (77, &None, &None));
    assert_eq!((refusal.kind, refusal.endpoint.as_deref()), (Kind::Refused, Some("80/tcp")));
    let why = "80/tcp is refused for alice (uid 1000): none of the 2 rules";
    assert!(refusal.to_string().starts_with(why), "{refusal}");
    assert!(refusal.fix.is_some_and(|fix| fix.contains("permit alice 80")));
    let (refusal, _) = refused(world, &["81"]);
    assert_eq!(refusal.rule.as_deref(), Some("/etc/portgrant.conf:2"));
    world.policy("permit alice 80x\n");
    let (refusal, outcome) = refused(world, &["80"]);
    outcome.exits(78).is_silent();
    assert!(refusal.to_string().contains("/etc/portgrant.conf:1:14"), "{refusal}");
}

fn a_grant_bound_to_a_program_passes_no_socket(world: &World) {
    world.policy("permit alice 80 exec /usr/bin/true\n");
    let (refusal, outcome) = refused(world, &["80"]);
    outcome.exits(77);
    assert_eq!(refusal.program.as_deref(), Some("/usr/bin/true"));
}

fn sockets_are_sent_only_over_a_connected_seqpacket_socket(world: &World) {
    world.policy("permit alice 80\n");
    let (stream, _other) = UnixStream::pair().expect("pair");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("bind");
    for wrong in [OwnedFd::from(stream), udp.into(), std::fs::File::open("/dev/null").expect("open").into()] {
        let outcome = world.as_user("alice").fd(5, wrong).run([BINDER, "pass", "-l", "80", "--to", "5"]);
        outcome.exits(64).complains("connected Unix socket of type SOCK_SEQPACKET");
    }
}

/// PG-4
fn a_peer_that_is_gone_gets_nothing_and_nothing_stays_bound(world: &World) {
    world.policy("permit alice 80\n");
    let (ours, theirs) = transfer::pair().expect("socketpair");
    drop(ours);
    let outcome = world.as_user("alice").fd(5, theirs).run([BINDER, "pass", "-l", "80", "--to", "5"]);
    outcome.exits(71).complains("the reply could not be sent");
    assert_eq!(world.listening(), []);
}

fn every_option_is_set_on_the_socket(world: &World) {
    world.policy("permit alice 80 81 53/udp reuseport freebind\n");
    let all = "80,reuseport,freebind,dev=lo,keepalive=61:7:3,linger=9,defer_accept=5,fastopen=6,rcvbuf=65536,sndbuf=65536,tos=16,backlog=7";
    let (_, sockets) = granted(world, &[all, "53/udp,reuseport,rcvbuf=32768,tos=8"]);
    let (tcp, udp) = (&sockets[0], &sockets[1]);
    assert!(getsockopt(tcp, sockopt::ReuseAddr).expect("get") && !getsockopt(udp, sockopt::ReuseAddr).expect("get"));
    assert!(getsockopt(tcp, sockopt::ReusePort).expect("get") && getsockopt(udp, sockopt::ReusePort).expect("get"));
    assert_eq!(getsockopt(tcp, sockopt::BindToDevice).expect("get"), "lo");
    assert!(getsockopt(tcp, sockopt::KeepAlive).expect("get"));
    assert_eq!(getsockopt(tcp, sockopt::TcpKeepIdle).expect("get"), 61);
    assert_eq!(getsockopt(tcp, sockopt::TcpKeepInterval).expect("get"), 7);
    assert_eq!(getsockopt(tcp, sockopt::TcpKeepCount).expect("get"), 3);
    let linger = getsockopt(tcp, sockopt::Linger).expect("get");
    assert_eq!((linger.l_onoff, linger.l_linger), (1, 9));
    assert_eq!(getsockopt(tcp, sockopt::RcvBuf).expect("get"), 131_072); // the kernel doubles it (socket(7))
    assert_eq!(getsockopt(tcp, sockopt::SndBuf).expect("get"), 131_072);
    assert_eq!(getsockopt(udp, sockopt::RcvBuf).expect("get"), 65536);
    assert_eq!(getsockopt(tcp, sockopt::Ipv6TClass).expect("get"), 16);
    assert_eq!(getsockopt(udp, sockopt::Ipv4Tos).expect("get"), 8);
    let ss = world.as_root().run(["ss", "-Hltn"]).stdout;
    assert_eq!(ss.split_whitespace().nth(2), Some("7"), "the backlog: {ss}");
    let plain = &granted(world, &["127.0.0.1:81,freebind"]).1[0];
    assert!(
        !getsockopt(plain, sockopt::ReusePort).expect("get") && !getsockopt(plain, sockopt::KeepAlive).expect("get")
    );
    assert!(getsockopt(plain, sockopt::IpFreebind).expect("get"));
}

fn every_protocol_is_bound_as_it_was_asked(world: &World) {
    world.policy("permit alice 80 81 82/udp 83/sctp\n");
    let protocols = [(80, Protocol::Tcp), (81, Protocol::Mptcp), (82, Protocol::Udp), (83, Protocol::Sctp)];
    for (port, protocol) in protocols {
        let (reply, sockets, outcome) = pass(world, &[&format!("{port}/{}", protocol.word())]);
        match reply {
            Reply::Granted { .. } => {
                let info = info(&sockets[0]);
                assert_eq!((info.protocol, info.local.port()), (protocol, port));
            }
            // A kernel may be built without it; then that is what is said.
            Reply::Failed(message) => {
                outcome.exits(69);
                assert!(message.to_string().contains(&format!("this kernel has no {}", protocol.word())), "{message}");
                assert!(matches!(protocol, Protocol::Sctp | Protocol::Mptcp), "{message}");
            }
        }
    }
}

/// PG-8
fn each_binds_every_address_and_shares_none(world: &World) {
    for words in [
        &["link", "add", "pg0", "type", "veth"][..],
        &["addr", "add", "10.7.0.1/24", "brd", "+", "dev", "pg0"],
        &["addr", "add", "fd07::1/64", "dev", "pg0", "nodad"],
        &["addr", "add", "fd07::2/64", "dev", "pg0"], // tentative for a second, and longer without a carrier
        &["link", "set", "pg0", "up"],
    ] {
        world.as_root().run([&["ip"], words].concat()).succeeds();
    }
    world.policy("permit alice 520/udp reserved\npermit bob 521/udp on 10.7.0.1 reserved\n");
    let (names, sockets) = granted(world, &["rip=each:520/udp"]);
    assert_eq!((names[0].as_str(), names[1].as_str()), ("rip", "rip-1"));
    let bound: Vec<IpAddr> = sockets.iter().map(|socket| info(socket).local.ip()).collect();
    assert!(bound[0].is_unspecified() && info(&sockets[0]).dual_stack, "{bound:?}");
    for address in ["127.0.0.1", "::1", "10.7.0.1", "10.7.0.255", "fd07::1"] {
        assert!(bound.contains(&address.parse().expect("an address")), "{address} is not in {bound:?}");
    }
    for socket in &sockets {
        let shares = [getsockopt(socket, sockopt::ReuseAddr), getsockopt(socket, sockopt::ReusePort)];
        assert_eq!(shares, [Ok(false), Ok(false)], "another could bind beside it");
    }
    // The address that was asked is the one that receives.
    let asked = bound.iter().position(|ip| *ip == IpAddr::V4(Ipv4Addr::new(10, 7, 0, 1))).expect("there");
    let client = UdpSocket::bind("10.7.0.1:0").expect("bind");
    client.send_to(b"hello", SocketAddr::from(([10, 7, 0, 1], 520))).expect("send");
    let server = UdpSocket::from(sockets[asked].try_clone().expect("dup"));
    assert_eq!(server.recv(&mut [0; 9]).expect("receive"), 5);
    // Nor while it is bound: the helper is stopped by a tracer after each bind(2) of another port, and bob tries.
    world.policy("permit root 522/udp reserved\npermit bob 522/udp reserved\n");
    let tries = "import socket, sys\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT): s.setsockopt(socket.SOL_SOCKET, option, 1)\n\
        import subprocess; sys.exit(subprocess.run([sys.argv[1], 'bind', '-l', '10.7.0.1:522/udp', '--socket', str(s.fileno())], \
        pass_fds=[s.fileno()], stderr=-3).returncode)\n";
    world.file("/tmp/tries.py", tries);
    let slow =
        "strace -o /dev/null -e trace=bind -e inject=bind:delay_exit=300000 -- \"$0\" pass -l each:522/udp --to 5";
    let (ours, theirs) = transfer::pair().expect("socketpair");
    let helper = world.as_root().fd(5, theirs).spawn(["sh", "-c", slow, BINDER]);
    let (mut tried, mut record) = (0, None);
    std::thread::scope(|scope| {
        let received = scope.spawn(|| transfer::receive(ours.as_fd()));
        while !received.is_finished() {
            if world.listening().iter().any(|socket| socket.address == "10.7.0.1" && socket.port == 522) {
                world.as_user("bob").run(["python3", "/tmp/tries.py", BINDER]).exits(69);
                tried += 1;
            }
        }
        record = Some(received.join().expect("no panic").expect("a record"));
    });
    assert!(tried > 0, "bob came too late");
    helper.wait(std::time::Duration::from_secs(10)).succeeds();
    assert!(matches!(Reply::parse(&record.expect("received").0), Ok(Reply::Granted { .. })));
    // A rule for one address is not one for all.
    world.policy("permit alice 520/udp on 10.7.0.1 reserved\n");
    refused(world, &["each:520/udp"]).1.exits(77);
}

fn a_socket_is_v6only_only_when_asked(world: &World) {
    world.policy("permit alice 80 81\n");
    let dual = granted(world, &["81"]).1;
    assert!(info(&dual[0]).dual_stack);
    let both = granted(world, &["[::]:80,v6only", "0.0.0.0:80"]).1;
    assert!(!info(&both[0]).dual_stack && info(&both[1]).local.is_ipv4());
}
