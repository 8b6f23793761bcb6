//! Sockets of the server crate among several users: where they come from, who else gets the port (nobody), and who is
//! named where it is taken.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt};
use portgrant_server::SocketInfo;
use portgrant_tests::{LAUNCHER, Outcome, Running, World, both_installs};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

both_installs![
    one_call_gets_a_socket_in_four_ways_with_the_same_options,
    a_refusal_is_reported_in_each_way_to_get_a_socket,
    a_group_of_workers_gets_its_sockets_in_one_request,
    no_other_user_binds_beside_a_server,
    no_other_user_can_keep_the_port_by_binding_first,
    the_hijack_is_real_where_a_server_sets_reuseaddr_on_udp,
    the_holder_of_a_port_is_reported_as_far_as_the_caller_may_see,
    a_port_in_time_wait_is_reported_with_the_remaining_time,
];

/// Starts a program that says when it is ready, and waits for that.
fn ready(mut program: Running, word: &str) -> Running {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !program.output().0.contains(word) {
        assert!(program.is_alive() && Instant::now() < deadline, "it has written {:?}", program.output());
        std::thread::sleep(Duration::from_millis(2));
    }
    program
}

fn serving(world: &World, user: &str, words: &[&str]) -> Running {
    ready(world.as_user(user).spawn(words), " at ")
}

/// The one socket of another's process, as root may take it: the very one, whose options are asked for.
fn socket_of(world: &World, server: &Running) -> OwnedFd {
    let sockets = world.process(server.pid()).sockets();
    let [number] = sockets.as_slice() else { panic!("{sockets:?}") };
    let pid = Pid::from_raw(server.pid().cast_signed()).expect("a process");
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("pidfd_open");
    pidfd_getfd(process, *number, PidfdGetfdFlags::empty()).expect("pidfd_getfd")
}

const ENDPOINT: &str = "https=[::]:443,reuseport,v6only,backlog=7,keepalive=61:10:6,linger=3,defer_accept=5,\
                        fastopen=16,rcvbuf=65536,sndbuf=32768,tos=16,dev=lo";

fn one_call_gets_a_socket_in_four_ways_with_the_same_options(world: &World) {
    world.policy("permit alice 443 reuseport\n");
    let ways: [(&[&str], &str); 5] = [
        (&[LAUNCHER, "exec", "-l", ENDPOINT, "--", "echod", ENDPOINT], "adopted"),
        // Who starts it sets only what cannot be set later.
        (&[LAUNCHER, "exec", "-l", "https=[::]:443,v6only,reuseport", "--", "echod", ENDPOINT], "adopted"),
        (&["echod", ENDPOINT], "from the helper"),
        (&["echod", ENDPOINT], "bound"),
        // From here on every user may bind the port: the launcher does it, with the same options.
        (&[LAUNCHER, "exec", "-l", ENDPOINT, "--", "sleep", "60"], ""),
    ];
    for (words, origin) in ways {
        if origin == "bound" {
            // The kernel's own permission: neither helper nor policy is asked any more.
            std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "443").expect("the world's own sysctl");
            world.policy("deny alice any\n");
        }
        let server = if origin.is_empty() {
            world.serving("alice", words, 1)
        } else {
            let server = serving(world, "alice", words);
            assert_eq!(server.output().0, format!("https at [::]:443, {origin}\n"), "{words:?}");
            server
        };
        assert!(world.process(server.pid()).is_powerless());
        let socket = socket_of(world, &server);
        let facts = SocketInfo::of(std::os::fd::AsFd::as_fd(&socket)).expect("a socket");
        assert!(facts.listening && !facts.dual_stack && facts.local.to_string() == "[::]:443", "{facts:?}");
        assert!(getsockopt(&socket, sockopt::ReusePort).expect("get"), "{origin}");
        assert!(getsockopt(&socket, sockopt::ReuseAddr).expect("get"), "{origin}");
        assert_eq!(getsockopt(&socket, sockopt::Linger).expect("get").l_linger, 3, "{origin}");
        assert_eq!(getsockopt(&socket, sockopt::RcvBuf).expect("get"), 2 * 65536, "{origin}");
        assert_eq!(getsockopt(&socket, sockopt::SndBuf).expect("get"), 2 * 32768, "{origin}");
        assert_eq!(getsockopt(&socket, sockopt::Ipv6TClass).expect("get"), 16, "{origin}");
        assert_eq!(getsockopt(&socket, sockopt::BindToDevice).expect("get"), "lo", "{origin}");
        let backlog = world.as_root().run(["ss", "-Hltn"]);
        assert_eq!(backlog.stdout.split_whitespace().nth(2), Some("7"), "{origin}: {backlog}");
    }
}

fn a_refusal_is_reported_in_each_way_to_get_a_socket(world: &World) {
    world.policy("permit alice 443\n");
    world.as_user("bob").run(["echod", "443"]).exits(77).complains("443/tcp is refused for bob");
    world.as_user("alice").run(["echod", "443,reuseport"]).exits(77).complains("443/tcp is refused for alice");
    // What was inherited is not what is asked for: said, and not worked around.
    let inherited = |endpoint| world.as_user("alice").run([LAUNCHER, "exec", "-l", "443", "--", "echod", endpoint]);
    inherited("443,reuseport").exits(71).complains("'443/tcp' lacks reuseport: it must be set before bind(2)");
    inherited("127.0.0.1:443").exits(71).complains("it is bound to [::]:443 (IPv4 as well)");
    inherited("443/udp").exits(77).complains("443/udp is refused for alice");
    // No portgrant at all: what that port needs is said.
    std::fs::rename(portgrant_tests::BINDER, "/usr/libexec/away").expect("mv");
    let outcome = world.as_user("alice").run(["echod", "443"]);
    outcome.exits(77).complains("443/tcp cannot be bound").complains("ip_unprivileged_port_start");
    let server = serving(world, "alice", &["echod", "127.0.0.1:7007/udp"]);
    assert_eq!(server.output().0, "7007/udp at 127.0.0.1:7007, bound\n");
}

fn a_group_of_workers_gets_its_sockets_in_one_request(world: &World) {
    world.policy("permit alice 80 reuseport\npermit bob 80 reuseport\npermit root 81\n");
    let _group = serving(world, "alice", &["echod", "--workers", "4", "80"]);
    let all = world.listening();
    assert_eq!(all.iter().map(|one| one.endpoint()).collect::<Vec<_>>(), ["tcp *:80"; 4]);
    assert!(all.iter().all(|one| one.uid == world.uid("alice")));
    // Bob has the same grant, and still no share in what is alice's.
    let outcome = world.as_user("bob").run(["echod", "80,reuseport"]);
    outcome
        .exits(69)
        .complains("80/tcp is in use: a socket of user alice listens at [::]:80 (IPv4 as well), and 3 more");
    assert_eq!(world.listening().len(), 4);
}

/// Tries to get between a server and its clients in every way that socket(7) has: the exit status says how many were
/// possible, the last line names one.
const HIJACK: &str = "\
import socket, sys
kind, port = (socket.SOCK_DGRAM if sys.argv[1] == 'udp' else socket.SOCK_STREAM), int(sys.argv[2])
got = 0
v4, v6 = ('127.0.0.1', '0.0.0.0'), ('::1', '::', '::ffff:127.0.0.1')
for family, addresses in ((socket.AF_INET, v4), (socket.AF_INET6, v6)):
    for address in addresses:
        for options in ((), (socket.SO_REUSEADDR,), (socket.SO_REUSEPORT,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT)):
            for only in ((0, 1) if family == socket.AF_INET6 and ':ffff' not in address else (0,)):
                s = socket.socket(family, kind)
                if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
                for option in options: s.setsockopt(socket.SOL_SOCKET, option, 1)
                try:
                    s.bind((address, port))
                    if kind == socket.SOCK_STREAM: s.listen()
                    got += 1
                    print('hijacked', address, options, only)
                except OSError as e:
                    if e.errno != 98: raise
                s.close()
sys.exit(got)
";

fn hijack(world: &World, protocol: &str, port: &str) -> Outcome {
    world.as_user("bob").run(["python3", "-c", HIJACK, protocol, port])
}

/// PG-8
fn no_other_user_binds_beside_a_server(world: &World) {
    for endpoint in ["7007", "7007,reuseport", "7007/udp", "7007/udp,reuseport"] {
        let server = serving(world, "alice", &["echod", endpoint]);
        hijack(world, if endpoint.contains("udp") { "udp" } else { "tcp" }, "7007").exits(0).is_silent();
        drop(server);
    }
    // The control: with nobody there every one of them succeeds.
    let outcome = hijack(world, "tcp", "7007");
    assert!(outcome.status.code() > Some(20), "{outcome}");
}

/// Binds first, and says so: bob with what he can set, before alice comes.
const SQUAT: &str = "\
import socket, sys, time
kind = socket.SOCK_DGRAM if sys.argv[1] == 'udp' else socket.SOCK_STREAM
s = socket.socket(socket.AF_INET, kind)
for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT): s.setsockopt(socket.SOL_SOCKET, option, 1)
s.bind(('127.0.0.1', 7007))
if kind == socket.SOCK_STREAM: s.listen()
print('bound', flush=True)
time.sleep(60)
";

/// A specific address takes precedence over a wildcard: who has it before the server starts would get its clients.
fn no_other_user_can_keep_the_port_by_binding_first(world: &World) {
    for (protocol, endpoint) in [("tcp", "7007"), ("tcp", "7007,reuseport"), ("udp", "7007/udp")] {
        let squat = ready(world.as_user("bob").spawn(["python3", "-c", SQUAT, protocol]), "bound");
        let outcome = world.as_user("alice").run(["echod", endpoint]);
        let does = if protocol == "udp" { "is bound to" } else { "listens at" };
        outcome.exits(69).complains(&format!("a socket of user bob {does} 127.0.0.1:7007"));
        drop(squat);
        settle(world);
    }
    // Bound and not listening, with SO_REUSEADDR: alice's listener may come, and from then on bob cannot listen.
    let late = "import socket, sys\n\
        s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
        s.bind(('127.0.0.1', 7007)); print('bound', flush=True)\n\
        import time, os\n\
        while not os.path.exists('/tmp/alice'): time.sleep(0.01)\n\
        try: s.listen(); print('hijacked')\n\
        except OSError as e: print('refused', e.errno)\n";
    let bob = ready(world.as_user("bob").spawn(["python3", "-c", late]), "bound");
    let _alice = serving(world, "alice", &["echod", "7007"]);
    world.file("/tmp/alice", "");
    bob.wait(Duration::from_secs(10)).succeeds().prints("refused 98");
}

/// Until the sockets of whatever was just killed are gone.
fn settle(world: &World) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !world.listening().is_empty() {
        assert!(Instant::now() < deadline, "{:?}", world.listening());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Why this crate never sets it there. (If this fails, the kernel has become better than the FAQ's answer 4.12.)
fn the_hijack_is_real_where_a_server_sets_reuseaddr_on_udp(world: &World) {
    let careless = "import socket, time\n\
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
        s.bind(('0.0.0.0', 7007)); print('bound', flush=True); time.sleep(60)\n";
    let _alice = ready(world.as_user("alice").spawn(["python3", "-c", careless]), "bound");
    let outcome = hijack(world, "udp", "7007");
    outcome.prints("hijacked 127.0.0.1");
}

fn the_holder_of_a_port_is_reported_as_far_as_the_caller_may_see(world: &World) {
    world.policy("permit alice 80\npermit bob 80\n");
    let server = serving(world, "alice", &["echod", "80"]);
    let hidden = "a socket of user alice listens at [::]:80 (IPv4 as well)";
    let by_bob = [&["echod", "0.0.0.0:80"][..], &["echod", "[::1]:80"], &[LAUNCHER, "exec", "-l", "80", "--", "true"]];
    for words in by_bob {
        let outcome = world.as_user("bob").run(words);
        outcome.exits(69).complains("80/tcp is in use").complains(hidden).complains("ss -Hanpt 'sport = :80'");
    }
    let shown = format!("echod (pid {}, user alice) listens at [::]:80 (IPv4 as well)", server.pid());
    for user in ["alice", "root"] {
        world.as_user(user).run(["echod", "127.0.0.1:80"]).exits(69).complains(&shown);
    }
    // A program's name is its own choice: it says nothing that a terminal obeys, and cannot add a line.
    drop(server);
    let evil = "import socket, time\n\
        open('/proc/self/comm', 'w').write('a\\x1b[2J\\nfix: x')\n\
        s = socket.socket(); s.bind(('127.0.0.1', 7007)); s.listen(); print('bound', flush=True); time.sleep(60)\n";
    let _evil = ready(world.as_user("alice").spawn(["python3", "-c", evil]), "bound");
    let outcome = world.as_root().run(["echod", "7007"]);
    outcome.exits(69).complains("user alice) listens at 127.0.0.1:7007");
    assert!(!outcome.stderr.contains('\x1b') && outcome.stderr.lines().count() == 1, "{outcome}");
}

fn a_port_in_time_wait_is_reported_with_the_remaining_time(world: &World) {
    // A server without SO_REUSEADDR that closes first: bind(2) refuses its port for a minute.
    let careless = "import socket\n\
        s = socket.socket(); s.bind(('127.0.0.1', 7007)); s.listen()\n\
        c = socket.create_connection(('127.0.0.1', 7007)); a, _ = s.accept(); a.close(); c.close(); s.close()\n";
    world.as_user("alice").run(["python3", "-c", careless]).succeeds();
    let outcome = world.as_user("bob").run(["echod", "7007"]);
    outcome.exits(69).complains("at 127.0.0.1:7007 is in TIME_WAIT for ").complains("SO_REUSEADDR");
    let left = outcome.stderr.split("TIME_WAIT for ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    assert!(left.is_some_and(|left: u32| (50..=60).contains(&left)), "{outcome}");
    // This crate's own server can start again at once.
    let server = serving(world, "alice", &["echod", "127.0.0.1:7008"]);
    let script = "import socket, time\n\
        c = socket.create_connection(('127.0.0.1', 7008)); c.sendall(b'x' * (128 << 10))\n\
        n = 0\n\
        while True:\n\
        \x20 b = c.recv(65536)\n\
        \x20 if not b: break\n\
        \x20 n += len(b)\n\
        print(n)\n";
    world.as_root().run(["python3", "-c", script]).succeeds().prints(&format!("{}\n", (64 << 10) + 16));
    drop(server);
    let held = world.as_root().run(["ss", "-Htan", "state", "time-wait", "sport", "= :7008"]);
    assert!(held.stdout.contains("127.0.0.1:7008"), "the server closed first: {held}");
    drop(serving(world, "alice", &["echod", "127.0.0.1:7008"]));
}
