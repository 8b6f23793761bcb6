//! What is asked for, and what needs no asking: ports that the kernel gives to every user, networks that belong to a user
//! namespace. And what outside of portgrant forbids.

use std::fs;
use std::time::{Duration, Instant};

use portgrant_tests::{BINDER, Caller, LAUNCHER, Running, Signal, World, both_installs, skip};

both_installs![
    a_port_that_every_user_may_bind_needs_neither_rule_nor_helper_nor_log,
    root_needs_a_rule_for_every_port_that_not_every_user_may_bind,
    each_has_the_same_sockets_with_and_without_the_helper,
    sockets_of_both_kinds_come_in_the_order_that_was_asked_for,
    a_running_server_gets_sockets_of_both_kinds,
    a_port_that_needs_no_rule_is_served_in_every_way,
    no_rule_is_needed_in_the_callers_own_network_namespace,
    a_user_namespace_with_an_identity_map_is_reported,
    a_seccomp_filter_and_a_unit_that_forbid_bind_are_reported,
    a_server_that_accepts_no_descriptors_is_reported,
    every_output_ends_silently_if_nobody_reads_it,
];

const START: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

fn every_user_may_bind_from(port: u16) {
    fs::write(START, port.to_string()).expect("the world's own sysctl");
}

/// A program that prints the names of its sockets, and where each is bound.
const TELL: &str = "import os, socket\n\
    names = os.environ['LISTEN_FDNAMES'].split(':')\n\
    for number, name in enumerate(names, 3):\n\
    \x20s = socket.socket(fileno=number)\n\
    \x20option = lambda name: s.getsockopt(socket.SOL_SOCKET, name)\n\
    \x20print(name, s.getsockname()[:2], option(socket.SO_ACCEPTCONN), option(socket.SO_REUSEADDR), option(15))\n";

fn exec(caller: Caller, endpoints: &[&str]) -> portgrant_tests::Outcome {
    let listen = endpoints.iter().flat_map(|endpoint| ["-l", endpoint]);
    let words = [LAUNCHER, "exec"].into_iter().chain(listen).chain(["python3", "-c", TELL]);
    caller.run(words)
}

fn a_port_that_every_user_may_bind_needs_neither_rule_nor_helper_nor_log(world: &World) {
    let log = world.syslog();
    world.policy("deny any any\n");
    exec(world.as_user("alice"), &["8080", "127.0.0.1:5353/udp"])
        .succeeds()
        .prints("8080/tcp ('::', 8080) 1 1 0\n5353/udp ('127.0.0.1', 5353) 0 0 0\n");
    for user in ["alice", "root"] {
        exec(world.as_user(user), &["8080"]).succeeds();
    }
    fs::rename(BINDER, "/usr/libexec/away").expect("mv");
    fs::remove_file("/etc/portgrant.conf").expect("rm");
    exec(world.as_user("alice").no_new_privs(), &["8080"]).succeeds();
    let both = || exec(world.as_user("alice"), &["8080", "80"]);
    both().exits(78).complains("the helper portgrant-binder is not installed");
    every_user_may_bind_from(80);
    both().succeeds().prints("8080/tcp").prints("80/tcp");
    assert_eq!(log.lines(), Vec::<String>::new());
}

fn root_needs_a_rule_for_every_port_that_not_every_user_may_bind(world: &World) {
    world.policy("permit alice 80\n");
    exec(world.as_root(), &["80"]).exits(77).complains("80/tcp is refused for root");
    exec(world.as_root(), &["8080", "80"]).exits(77).complains("80/tcp is refused for root");
    // Up to the very boundary, and not beyond it.
    every_user_may_bind_from(81);
    exec(world.as_root(), &["80"]).exits(77);
    exec(world.as_root(), &["81"]).succeeds();
    every_user_may_bind_from(2000);
    exec(world.as_root(), &["1999"]).exits(77).complains("1999/tcp is refused for root");
    assert_eq!(world.listening(), []);
}

fn each_has_the_same_sockets_with_and_without_the_helper(world: &World) {
    world.as_root().run(["ip", "address", "add", "10.7.0.1/24", "dev", "lo"]).succeeds();
    world.policy("permit alice 53/udp\n");
    let by_helper = exec(world.as_user("alice"), &["dns=each:53/udp"]);
    by_helper.succeeds().prints("dns ('::', 53) 0 0 0\n").prints("('10.7.0.1', 53)");
    every_user_may_bind_from(53);
    world.policy("deny any any\n");
    let by_launcher = exec(world.as_user("alice"), &["dns=each:53/udp"]);
    by_launcher.succeeds();
    assert_eq!(by_launcher.stdout, by_helper.stdout);
    // Nothing is left of what made room for them.
    assert!(!by_launcher.stdout.lines().any(|line| line.ends_with('1')), "{by_launcher}");
}

fn sockets_of_both_kinds_come_in_the_order_that_was_asked_for(world: &World) {
    world.policy("permit alice 80 53/udp\n");
    let outcome = exec(world.as_user("alice"), &["a=8080", "dns=each:53/udp", "b=8081", "80", "c=8082/udp"]);
    outcome.succeeds();
    let names: Vec<&str> = outcome.stdout.lines().filter_map(|line| line.split(' ').next()).collect();
    let others: Vec<&str> = names.iter().copied().filter(|name| !name.starts_with("dns")).collect();
    assert_eq!(others, ["a", "b", "80/tcp", "c"], "{outcome}");
    assert_eq!((names[1], names[2]), ("dns", "dns-1"), "{outcome}");
    // Either all or none: the port that needs no rule is free again.
    exec(world.as_user("alice"), &["8080", "81"]).exits(77).complains("81/tcp is refused for alice");
    assert_eq!(world.listening(), []);
}

/// Takes sockets over a Unix socket, as `portgrant pass` sends them.
const MAILBOX: &str = "import array, os, socket, sys\n\
    path = sys.argv[1]\n\
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
    s.bind(path); s.listen()\n\
    for option in sys.argv[2:]: s.setsockopt(socket.SOL_SOCKET, int(option), 0)\n\
    print('ready', flush=True)\n\
    c, _ = s.accept()\n\
    try: record, fds, flags, _ = socket.recv_fds(c, 4096, 253)\n\
    except OSError as e: sys.exit(str(e))\n\
    print(len(fds), record.decode(), flush=True)\n";

fn mailbox(world: &World, path: &str, options: &[&str]) -> Running {
    let words = [&["python3", "-c", MAILBOX, path], options].concat();
    let server = world.as_user("alice").spawn(words);
    until(&server, "ready");
    server
}

fn until(server: &Running, word: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !server.output().0.contains(word) {
        assert!(Instant::now() < deadline, "{:?}", server.output());
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn a_running_server_gets_sockets_of_both_kinds(world: &World) {
    world.policy("permit alice 80\n");
    let server = mailbox(world, "/home/alice/mailbox", &[]);
    let words = [LAUNCHER, "pass", "-l", "8080", "-l", "80", "--to", "/home/alice/mailbox"];
    world.as_user("alice").run(words).succeeds().is_silent();
    until(&server, "NAMES=8080/tcp:80/tcp\n");
    assert!(server.output().0.contains("2 PORTGRANT=1"), "{:?}", server.output());
}

fn a_port_that_needs_no_rule_is_served_in_every_way(world: &World) {
    let get = |port: &str| {
        let client =
            format!("import socket\ns = socket.create_connection(('127.0.0.1', {port}))\nprint(s.recv(9).decode())");
        world.as_root().run(["python3", "-c", &client])
    };
    let accept = [LAUNCHER, "exec", "--accept", "-l", "8080", "echo", "hello"];
    let _server = world.as_user("alice").spawn(accept);
    let deadline = Instant::now() + Duration::from_secs(20);
    while get("8080").status.code() != Some(0) {
        assert!(Instant::now() < deadline, "nobody answers");
    }
    let serve = "import socket; s = socket.socket(fileno=3)\nwhile True: s.accept()[0].sendall(b'hello')";
    let daemon = [LAUNCHER, "exec", "--daemon", "--verify", "-l", "127.0.0.1:8081", "python3", "-c", serve];
    world.as_user("alice").run(daemon).succeeds();
    get("8081").succeeds().prints("hello");
}

fn no_rule_is_needed_in_the_callers_own_network_namespace(world: &World) {
    world.policy("deny any any\n");
    let own = ["unshare", "--user", "--map-root-user", "--net"];
    let words = [&own[..], &[LAUNCHER, "-v", "exec", "-l", "80", "-l", "443/udp", "python3", "-c", TELL]].concat();
    world
        .as_user("alice")
        .run(words)
        .succeeds()
        .prints("80/tcp ('::', 80) 1 1 0\n443/udp ('::', 443) 0 0 0\n")
        .complains("this network belongs to this user namespace, so no rule is needed");
    // The network is somebody else's, or there is no capability in it: nothing is tried.
    for apart in [&["unshare", "--user", "--map-root-user"][..], &["unshare", "--user", "--map-current-user", "--net"]]
    {
        let words = [apart, &[LAUNCHER, "exec", "-l", "80", "true"]].concat();
        let outcome = world.as_user("alice").run(words);
        assert!(matches!(outcome.status.code(), Some(77 | 78)), "{apart:?}: {outcome}");
    }
    // A namespace within that one does not own its network.
    let within = [&own[..], &["unshare", "--user", "--map-root-user", LAUNCHER, "exec", "-l", "80", "true"]].concat();
    let outcome = world.as_user("alice").run(within);
    assert_eq!(outcome.status.code(), Some(78), "{outcome}");
    assert_eq!(world.listening(), []);
}

/// A user namespace with the whole map of the first one, as PrivateUsers=full of systemd makes it, and alice in it.
const LIKE_THE_FIRST: &str = "import ctypes, os, sys\n\
    libc = ctypes.CDLL(None, use_errno=True)\n\
    outside, inside = os.pipe(), os.pipe()\n\
    pid = os.fork()\n\
    if pid == 0:\n\
    \x20if libc.unshare(0x10000000): os._exit(99)\n\
    \x20os.write(outside[1], b'x'); os.read(inside[0], 1)\n\
    \x20os.setgroups([]); os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)\n\
    \x20os.execv(sys.argv[1], sys.argv[1:])\n\
    os.read(outside[0], 1)\n\
    for name in ('uid_map', 'gid_map'):\n\
    \x20try:\n\
    \x20 with open(f'/proc/{pid}/{name}', 'w') as file: file.write('0 0 4294967295')\n\
    \x20except OSError: os.kill(pid, 9); sys.exit(98)\n\
    os.write(inside[1], b'x')\n\
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n";

fn a_user_namespace_with_an_identity_map_is_reported(world: &World) {
    world.policy("permit alice 80\n");
    let outcome = world.as_root().run(["python3", "-c", LIKE_THE_FIRST, LAUNCHER, "exec", "-l", "80", "true"]);
    if outcome.status.code() == Some(98) {
        return skip("only the first user namespace's root can map all ids");
    }
    let told = "portgrant: 80/tcp is permitted but cannot be bound\n  \
                why: the helper has no privilege in this user namespace: the helper or the network belongs to another one\n  \
                fix: run it outside of the user namespace (systemd: without PrivateUsers=), or install it inside as that namespace's root\n";
    assert_eq!((outcome.status.code(), outcome.stderr.as_str()), (Some(78), told), "{outcome}");
}

/// Has bind(2) answer EPERM from here on, by a seccomp filter, and executes the rest. Root's: no_new_privs is not set.
const FORBID: &str = "import ctypes, os, platform, struct, sys\n\
    bind = 49 if platform.machine() == 'x86_64' else 200\n\
    program = b''.join(struct.pack('HBBI', *one) for one in [\n\
    \x20(0x20, 0, 0, 0), (0x15, 0, 1, bind), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7fff0000)])\n\
    keep = ctypes.create_string_buffer(program)\n\
    class Program(ctypes.Structure): _fields_ = [('length', ctypes.c_ushort), ('filter', ctypes.c_void_p)]\n\
    filter = Program(4, ctypes.addressof(keep))\n\
    libc = ctypes.CDLL(None, use_errno=True)\n\
    if libc.prctl(22, 2, ctypes.byref(filter), 0, 0): sys.exit(os.strerror(ctypes.get_errno()))\n\
    os.execv(sys.argv[1], sys.argv[1:])\n";

fn a_seccomp_filter_and_a_unit_that_forbid_bind_are_reported(world: &World) {
    world.policy("permit alice 80\n");
    let forbidden = |endpoint| {
        let launcher = [LAUNCHER, "exec", "--user", "alice", "-l", endpoint, "true"];
        world.as_root().run([&["python3", "-c", FORBID][..], &launcher].concat())
    };
    let why = "why: bind(2) answered EPERM: SocketBindDeny= of the service, or a seccomp filter, forbids it\n";
    let by_helper = "  fix: in the unit, write SocketBindAllow= with this port, or remove SocketBindDeny= \
                     (systemd.resource-control(5))\n";
    let told = [
        ("80", format!("portgrant: 80/tcp is permitted but cannot be bound\n  {why}{by_helper}")),
        (
            "8080",
            format!("portgrant: 8080/tcp cannot be bound\n  {why}  fix: in the unit, write SocketBindAllow=tcp:8080\n"),
        ),
    ];
    for (endpoint, told) in told {
        let outcome = forbidden(endpoint);
        assert_eq!(
            (outcome.status.code(), outcome.stderr.as_str()),
            (Some(78), told.as_str()),
            "{endpoint}: {outcome}"
        );
    }
}

fn a_server_that_accepts_no_descriptors_is_reported(world: &World) {
    let can = "import socket; socket.socketpair(socket.AF_UNIX)[0].setsockopt(socket.SOL_SOCKET, 83, 0)";
    if world.as_root().run(["python3", "-c", can]).status.code() != Some(0) {
        return skip("this kernel has no SO_PASSRIGHTS (Linux 6.16)");
    }
    let _server = mailbox(world, "/home/alice/mailbox", &["83"]);
    let words = [LAUNCHER, "pass", "-l", "8080", "--to", "/home/alice/mailbox"];
    let outcome = world.as_user("alice").run(words);
    let told = "portgrant: nothing was passed to /home/alice/mailbox\n  \
                why: the server's socket accepts no descriptors (SO_PASSRIGHTS is off)\n  \
                fix: write AcceptFileDescriptors=yes into the server's socket unit, or have the server set SO_PASSRIGHTS\n";
    assert_eq!((outcome.status.code(), outcome.stderr.as_str()), (Some(64), told));
}

fn every_output_ends_silently_if_nobody_reads_it(world: &World) {
    world.policy("permit alice 80\n");
    let outputs = [
        "portgrant --help",
        "portgrant --version",
        "portgrant exec --help",
        "portgrant list",
        "portgrant list --format json",
        "portgrant check",
        "portgrant explain 80",
        "portgrant explain --why-denied",
        "portgrant who 80",
        "portgrant who 80 --format json",
        "portgrant doctor",
        "portgrant doctor --format json",
        "portgrant recipe",
        "portgrant recipe nginx",
        "portgrant completions bash",
        "portgrant-kernel --help",
        "portgrant-kernel --version",
        "/usr/libexec/portgrant/portgrant-explain --help",
        "/usr/libexec/portgrant/portgrant-binder --help",
    ];
    for line in outputs {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let outcome = world.as_user("alice").fd(1, writer).run(line.split(' '));
        assert_eq!(outcome.stderr, "", "{line}: {outcome}");
        // A signal, or what a shell shows for it where Rust's runtime ignores that signal.
        if outcome.status.code() != Some(141) {
            outcome.dies_of(Signal::SIGPIPE);
        }
    }
    // To a full disk the answer is lost, and that is said.
    for line in ["portgrant recipe", "portgrant --help", "portgrant who 80"] {
        let full = fs::File::options().write(true).open("/dev/full").expect("/dev/full");
        let outcome = world.as_user("alice").fd(1, full).run(line.split(' '));
        outcome.exits(71).complains("portgrant: the answer could not be written\n  why: No space left on device");
    }
}
