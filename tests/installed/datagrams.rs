//! What an address means for udp: where a socket is bound, and not what it sends from.

use portgrant_tests::{BINDER, LAUNCHER, World, both_installs};

both_installs![
    an_address_in_a_deny_refuses_every_udp_socket_that_could_send_from_it,
    a_callers_af_inet6_socket_with_an_ipv4_address_counts_for_both_families,
    a_holder_of_a_udp_socket_sends_from_every_local_address_of_its_family,
    check_warns_of_a_udp_rule_with_an_address,
];

const RULES: &str = "permit alice 53/udp 53 54/udp\ndeny alice 53 on 127.0.0.53\ndeny alice 54 on [fd00::1]\n";

/// PG-50
fn an_address_in_a_deny_refuses_every_udp_socket_that_could_send_from_it(world: &World) {
    world.policy(RULES);
    let exec = |endpoint: &str| world.as_user("alice").run([BINDER, "exec", "-l", endpoint, "--", "true"]);
    let said = "an address does not narrow udp: a udp socket can send from every local address of its family";
    for endpoint in
        ["127.0.0.1:53/udp", "0.0.0.0:53/udp", "53/udp", "each:53/udp", "[::1]:54/udp", "[::]:54/udp,v6only"]
    {
        let outcome = exec(endpoint);
        outcome.exits(77).complains("denied by the rule at /etc/portgrant.conf:");
        let explained = world.as_user("alice").run([LAUNCHER, "explain", endpoint]);
        explained.exits(77).prints("denied by the rule at /etc/portgrant.conf:");
        if endpoint.contains('1') {
            outcome.complains(said).complains("a port with /tcp denies tcp alone");
            explained.prints(said);
        }
    }
    // tcp is held to its address, and IPv4 and IPv6 are not each other's.
    for endpoint in
        ["127.0.0.1:53", "[::1]:53", "[::1]:53/udp", "[::]:53/udp,v6only", "127.0.0.1:54/udp", "0.0.0.0:54/udp"]
    {
        exec(endpoint).succeeds();
        world.as_user("alice").run([LAUNCHER, "explain", endpoint]).succeeds();
    }
    exec("127.0.0.53:53").exits(77);
}

/// PG-50
fn a_callers_af_inet6_socket_with_an_ipv4_address_counts_for_both_families(world: &World) {
    world.policy(RULES);
    let bind = |family: &str, endpoint: &str| {
        let script = format!(
            "import socket, subprocess, sys\ns = socket.socket(socket.{family}, socket.SOCK_DGRAM)\n\
            sys.exit(subprocess.run([sys.argv[1], 'bind', '-l', '{endpoint}', '--socket', str(s.fileno())], pass_fds=[s.fileno()]).returncode)\n"
        );
        world.as_user("alice").run(["python3", "-c", &script, BINDER])
    };
    bind("AF_INET", "127.0.0.1:54/udp").succeeds();
    bind("AF_INET6", "127.0.0.1:54/udp").exits(77).complains("an address does not narrow udp");
    bind("AF_INET6", "[::1]:54/udp").exits(77);
    bind("AF_INET6", "[::1]:53/udp").succeeds();
    bind("AF_INET", "127.0.0.1:53/udp").exits(77);
    // And in run, where the helper binds the program's socket.
    let run = |family: &str, address: &str| {
        let script =
            format!("import socket\nsocket.socket(socket.{family}, socket.SOCK_DGRAM).bind(('{address}', 54))\n");
        world.as_user("alice").run([LAUNCHER, "run", "--", "python3", "-c", &script])
    };
    run("AF_INET", "127.0.0.1").succeeds();
    run("AF_INET6", "::ffff:127.0.0.1").exits(1).complains("Permission denied");
}

/// Which source addresses the kernel lets a holder without privilege name: family, bound to, then for each source of a
/// datagram whether it left. What the rules say of udp follows from this; ARCHITECTURE.md has all that was tried.
const SENDS: &str = r#"
import ctypes, os, socket, struct, sys
def send(s, source):
    v6 = s.family == socket.AF_INET6
    mapped = v6 and source.startswith("::ffff:")
    if v6:
        control = (socket.IPPROTO_IPV6, 50, socket.inet_pton(socket.AF_INET6, source) + bytes(4))
        to = ("::ffff:127.0.0.1", 7001) if mapped else ("::1", 7001)
    else:
        control = (socket.IPPROTO_IP, 8, struct.pack("=I4s4s", 0, socket.inet_aton(source), bytes(4)))
        to = ("127.0.0.1", 7001)
    receiver = socket.socket(socket.AF_INET6 if v6 and not mapped else socket.AF_INET, socket.SOCK_DGRAM)
    receiver.settimeout(10)
    if v6 and not mapped: receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    receiver.bind(("::1" if v6 and not mapped else "127.0.0.1", 7001))
    try:
        s.sendmsg([b"x"], [control], 0, to)
    except OSError:
        return False
    sender = receiver.recvfrom(9)[1]
    return sender[:2] == (source.removeprefix("::ffff:"), 53)
s = socket.socket(fileno=3)
print(" ".join("yes" if send(s, source) else "no" for source in sys.argv[1:]))
"#;

fn a_holder_of_a_udp_socket_sends_from_every_local_address_of_its_family(world: &World) {
    world.policy("permit alice 53/udp\n");
    world.as_root().run(["ip", "addr", "add", "fd00::2/128", "dev", "lo", "nodad"]).succeeds();
    let exec = |endpoint: &'static str, sources: &[&'static str]| {
        let words = [&[BINDER, "exec", "-l", endpoint, "--", "python3", "-c", SENDS], sources].concat();
        world.as_user("alice").run(words).succeeds().stdout.trim_end().to_owned()
    };
    assert_eq!(exec("127.0.0.1:53/udp", &["127.0.0.1", "127.0.0.53"]), "yes yes", "IPv4");
    assert_eq!(exec("[::1]:53/udp", &["::1", "fd00::2", "::ffff:127.0.0.53"]), "yes yes no", "IPv6");
    assert_eq!(exec("[::]:53/udp,v6only", &["fd00::2", "::ffff:127.0.0.53"]), "yes no", "IPv6's wildcard");
    assert_eq!(exec("53/udp", &["fd00::2", "::ffff:127.0.0.53"]), "yes yes", "the wildcard of both");
    // A socket of her own, which is bound for her: after it is, it cannot be made dual any more.
    let own = "import os, socket, subprocess, sys\ns = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n\
        subprocess.run([sys.argv[1], 'bind', '-l', sys.argv[2], '--socket', str(s.fileno())], pass_fds=[s.fileno()], check=True)\n\
        os.dup2(s.fileno(), 3); os.set_inheritable(3, True)\nos.execvp('python3', ['python3', '-c', *sys.argv[3:]])\n";
    let own = |endpoint: &'static str, sources: &[&'static str]| {
        let words = [&["python3", "-c", own, BINDER, endpoint, SENDS], sources].concat();
        world.as_user("alice").run(words).succeeds().stdout.trim_end().to_owned()
    };
    assert_eq!(own("[::1]:53/udp", &["fd00::2", "::ffff:127.0.0.53"]), "yes no", "bound to IPv6, it is IPv6's alone");
    assert_eq!(own("127.0.0.1:53/udp", &["fd00::2", "::ffff:127.0.0.53"]), "yes yes", "bound to ::ffff:127.0.0.1");
}

fn check_warns_of_a_udp_rule_with_an_address(world: &World) {
    world.policy("permit alice 53/udp on 127.0.0.1\n");
    world.policy_file("deny.conf", "deny any 53 on 127.0.0.53\n");
    let check = world.as_user("alice").run([LAUNCHER, "check"]);
    check
        .succeeds()
        .prints("/etc/portgrant.conf:1:24: warning: 'on' does not narrow udp: the holder of the socket can send from every local")
        .prints(
            "/etc/portgrant.conf:1:1: warning: an address does not narrow udp: /etc/portgrant.d/deny.conf:1  deny any 53 on \
             127.0.0.53  refuses these udp ports on every IPv4 address",
        );
    let json = world.as_user("alice").run([LAUNCHER, "check", "--json"]);
    json.succeeds().prints("\"code\": \"on-for-udp\"").prints("\"code\": \"address-for-udp\"");
}
