//! who: every holder of a port, as far as the asker may see, and what it is in the way of.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use portgrant_tests::{LAUNCHER, Outcome, Running, World, both_installs};

both_installs![
    a_free_port_is_reported_with_status_1,
    who_shows_the_program_to_its_owner_and_root_and_the_user_to_everybody,
    who_reports_what_a_wildcard_blocks,
    who_lists_all_holders,
    who_counts_connections_and_shows_the_time_of_time_wait,
    an_address_in_use_shows_what_who_shows,
    who_escapes_program_names,
    who_can_print_json,
    who_reports_a_word_that_is_not_a_port,
];

fn who(world: &World, user: &str, words: &[&str]) -> Outcome {
    world.as_user(user).run([&[LAUNCHER, "who"], words].concat())
}

/// Python that says when it is ready, as this user, who was granted the ports.
fn holding(world: &World, user: &str, script: &str) -> Running {
    let script = format!("import os, socket, sys, time\n{script}\nprint('ready', flush=True); time.sleep(60)\n");
    let mut program = world.as_user(user).spawn(["python3", "-c", &script]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !program.output().0.contains("ready") {
        assert!(program.is_alive() && Instant::now() < deadline, "it has written {:?}", program.output());
        std::thread::sleep(Duration::from_millis(2));
    }
    program
}

/// A listener by Python: family, address, port, and what is done to the socket before bind(2).
fn listener(family: &str, address: &str, port: u16, before: &str) -> String {
    format!(
        "s = socket.socket(socket.{family}); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); {before}\n\
         s.bind(('{address}', {port})); s.listen()\n"
    )
}

fn a_free_port_is_reported_with_status_1(world: &World) {
    let outcome = who(world, "alice", &["8080"]);
    assert_eq!(outcome.exits(1).stdout, "8080/tcp is free\n8080/udp is free\n");
    assert_eq!(who(world, "alice", &["127.0.0.1:domain"]).exits(1).stdout.lines().count(), 2);
    assert_eq!(who(world, "alice", &["nntp"]).exits(1).stdout, "nntp/tcp is free\n", "a service has its protocols");
    assert_eq!(who(world, "alice", &["80/udp"]).exits(1).stdout, "80/udp is free\n");
    assert_eq!(who(world, "alice", &["[::1]:80/tcp", "81/udp"]).exits(1).stdout.lines().count(), 2);
}

fn who_shows_the_program_to_its_owner_and_root_and_the_user_to_everybody(world: &World) {
    world.policy("permit alice 80\n");
    let server = world.as_user("alice").spawn([LAUNCHER, "exec", "-l", "127.0.0.1:80", "--", "sleep", "60"]);
    let _ = world.process_at_rest(server.pid());
    let named = format!("      by   sleep (pid {}, user alice), /usr/bin/sleep", server.pid());
    for user in ["alice", "root"] {
        let outcome = who(world, user, &["80/tcp"]);
        outcome
            .succeeds()
            .prints("80/tcp is held\n  127.0.0.1:80 listens, the socket is alice's\n")
            .prints(&named)
            .prints("\n      bars 127.0.0.1, 0.0.0.0, and [::] without v6only, port 80/tcp\n");
        assert!(!outcome.stdout.contains("not shown to you"), "{outcome}");
    }
    let bobs = who(world, "bob", &["80/tcp"]);
    bobs.succeeds()
        .prints("127.0.0.1:80 listens, the socket is alice's")
        .prints("some programs are not shown to you: as root: portgrant who 80/tcp\n");
    assert!(!bobs.stdout.contains("sleep") && !bobs.stdout.contains(&server.pid().to_string()), "{bobs}");
    // Another address, another protocol: nobody is in the way.
    for free in ["127.0.0.2:80/tcp", "[::1]:80/tcp", "80/udp"] {
        who(world, "alice", &[free]).exits(1);
    }
    who(world, "alice", &["80/udp", "80/tcp"]).succeeds();
}

/// What is said to be barred is tried: the kernel gives exactly the other addresses.
fn who_reports_what_a_wildcard_blocks(world: &World) {
    let v6only = |on: u8| format!("s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, {on})");
    let bind = |endpoint: &str| {
        let (family, address) = endpoint.split_once(' ').expect("both");
        let only = if address == "::" { v6only(1) } else { "0".to_owned() };
        let script = format!("import socket\n{}", listener(family, address, 8080, &only));
        world.as_user("bob").run(["python3", "-c", &script]).status.success()
    };
    for (family, address, before, said, barred, free) in [
        (
            "AF_INET6",
            "::",
            v6only(0),
            "every address, of IPv6 and of IPv4",
            &["AF_INET 127.0.0.1", "AF_INET6 ::1"][..],
            &[][..],
        ),
        (
            "AF_INET6",
            "::",
            v6only(1),
            "every address of IPv6; IPv4 is free of it (v6only)",
            &["AF_INET6 ::1"],
            &["AF_INET 0.0.0.0"],
        ),
        (
            "AF_INET",
            "0.0.0.0",
            "0".to_owned(),
            "every address of IPv4, and [::] without v6only",
            &["AF_INET 127.0.0.1"],
            &["AF_INET6 ::"],
        ),
        (
            "AF_INET",
            "127.0.0.1",
            "0".to_owned(),
            "127.0.0.1, 0.0.0.0, and [::] without v6only",
            &["AF_INET 0.0.0.0"],
            &["AF_INET 127.0.0.2", "AF_INET6 ::"],
        ),
        ("AF_INET6", "::1", "0".to_owned(), "[::1] and [::]", &["AF_INET6 ::"], &["AF_INET 0.0.0.0"]),
    ] {
        let holder = holding(world, "alice", &listener(family, address, 8080, &before));
        who(world, "bob", &["8080/tcp"]).succeeds().prints(&format!("      bars {said}, port 8080/tcp\n"));
        barred.iter().for_each(|endpoint| assert!(!bind(endpoint), "{address} {before}: {endpoint}"));
        free.iter().for_each(|endpoint| assert!(bind(endpoint), "{address} {before}: {endpoint}"));
        drop(holder);
    }
}

fn who_lists_all_holders(world: &World) {
    let reuseport = "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)";
    let one = holding(world, "alice", &listener("AF_INET", "0.0.0.0", 8080, reuseport));
    let other = holding(world, "alice", &format!("{}os.fork()", listener("AF_INET", "0.0.0.0", 8080, reuseport)));
    let outcome = who(world, "root", &["8080/tcp"]);
    outcome.succeeds().prints("2 sockets share 0.0.0.0:8080 by SO_REUSEPORT\n");
    for pid in [one.pid(), other.pid()] {
        outcome.prints(&format!("python3 (pid {pid}, user alice)"));
    }
    assert_eq!(outcome.stdout.matches("      by   ").count(), 3, "the forked one too: {outcome}");
    let udp = "s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('127.0.0.1', 8080))\n";
    let _udp = holding(world, "bob", udp);
    who(world, "root", &["8080"])
        .succeeds()
        .prints("8080/udp is held\n  127.0.0.1:8080 is bound, the socket is bob's\n");
}

fn who_counts_connections_and_shows_the_time_of_time_wait(world: &World) {
    // The side that closes first has TIME_WAIT: three connections of the server's, and one that stays.
    let listener = TcpListener::bind("127.0.0.1:8080").expect("a listener");
    let mut kept = Vec::new();
    for at in 0..4 {
        let mut client = TcpStream::connect("127.0.0.1:8080").expect("a connection");
        let (server, _) = listener.accept().expect("accepted");
        if at == 3 {
            kept.push((client, server));
            continue;
        }
        server.shutdown(std::net::Shutdown::Both).expect("closed");
        drop(server);
        client.read_to_end(&mut Vec::new()).expect("the end");
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    let outcome = loop {
        let outcome = who(world, "root", &["8080/tcp"]);
        if outcome.stdout.contains("TIME_WAIT: 3, for ") || Instant::now() > deadline {
            break outcome;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    outcome.succeeds().prints("127.0.0.1:8080 listens").prints("connections: 1 ESTAB\n").prints("TIME_WAIT: 3, for ");
    let seconds =
        outcome.stdout.split("TIME_WAIT: 3, for ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    assert!(seconds.is_some_and(|seconds: u32| (30..=60).contains(&seconds)), "{outcome}");
    drop((kept, listener));
    let deadline = Instant::now() + Duration::from_secs(10);
    let outcome = loop {
        let outcome = who(world, "alice", &["8080/tcp"]);
        if outcome.status.code() == Some(1) || Instant::now() > deadline {
            break outcome;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    outcome.exits(1).prints("8080/tcp is free for programs that set SO_REUSEADDR\n").prints("TIME_WAIT: ");
}

fn an_address_in_use_shows_what_who_shows(world: &World) {
    world.policy("permit alice 80\npermit bob 80\npermit root 80\npermit root 81 exec /usr/bin/true\n");
    let server = world.as_user("alice").spawn([LAUNCHER, "exec", "-l", "80", "--", "sleep", "60"]);
    let _ = world.process_at_rest(server.pid());
    let exec = |user| world.as_user(user).run([LAUNCHER, "exec", "-l", "127.0.0.1:80", "--", "true"]);
    let seen = exec("root");
    seen.exits(69)
        .complains("portgrant: 127.0.0.1:80/tcp is in use\n  why: sleep (pid ")
        .complains("\n  [::]:80 listens, the socket is alice's\n      by   sleep (pid ")
        .complains("\n      bars every address, of IPv6 and of IPv4, port 80/tcp\n");
    exec("bob").exits(69).complains("\n  [::]:80 listens, the socket is alice's\n").complains("not shown to you");
    // Where only the helper may bind, it is the same.
    let _other = world.as_root().spawn([
        "python3",
        "-c",
        "import socket, time\ns = socket.socket(); s.bind(('', 81)); s.listen(); time.sleep(60)",
    ]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while who(world, "alice", &["81/tcp"]).status.code() != Some(0) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let words = [LAUNCHER, "exec", "-l", "81", "--", "/usr/bin/true"];
    world.as_root().run(words).exits(69).complains("is in use").complains("  why: python3 (pid ");
}

fn who_escapes_program_names(world: &World) {
    let named = format!(
        "{}open('/proc/self/comm', 'wb').write(b'a\\x1b[2J\\xff\\nfix: x')\n",
        listener("AF_INET", "127.0.0.1", 8080, "0")
    );
    let _evil = holding(world, "alice", &named);
    for words in [&["8080/tcp"][..], &["8080/tcp", "--format", "json"]] {
        let outcome = who(world, "root", words);
        outcome.succeeds().prints("a\\");
        assert!(outcome.stdout.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{outcome}");
        assert!(!outcome.stdout.contains("\nfix"), "{outcome}");
    }
    who(world, "root", &["8080/tcp"]).prints("      by   a\\x1b[2J\\xff\\x0afix: x (pid ");
}

fn who_can_print_json(world: &World) {
    let server = holding(world, "alice", &listener("AF_INET6", "::", 8080, "0"));
    let json = who(world, "alice", &["8080", "--format", "json"]);
    let script = format!(
        "import json, sys\n\
        tcp, udp = json.loads(sys.argv[1])\n\
        assert tcp['held'] and not tcp['hidden'] and not udp['held'], (tcp, udp)\n\
        one, = tcp['sockets']\n\
        assert (one['address'], one['port'], one['dual_stack'], one['state']) == ('::', 8080, True, 'listens'), one\n\
        assert (one['user'], one['uid']) == ('alice', 1000) and tcp['time_wait'] == {{'count': 0, 'seconds': 0}}, tcp\n\
        process, = one['processes']\n\
        assert process['pid'] == {} and process['path'].startswith('/usr/bin/python3'), process\n",
        server.pid()
    );
    world.as_user("alice").run(["python3", "-c", &script, &json.succeeds().stdout]).succeeds();
    let hidden = who(world, "bob", &["8080/tcp", "--json"]);
    hidden.succeeds().prints("\"hidden\": true").prints("\"processes\": []");
}

fn who_reports_a_word_that_is_not_a_port(world: &World) {
    for (word, expected) in
        [("8o", "'8o' is not a valid endpoint"), ("no-such-service", "no-such-service"), ("0", "'0' is not a valid")]
    {
        who(world, "alice", &[word]).exits(64).complains(expected).complains("why: ");
    }
    who(world, "alice", &[]).exits(64).complains("no port is given").complains("expected PORT");
}
