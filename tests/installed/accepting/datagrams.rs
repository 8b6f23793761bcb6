//! `portgrant exec --accept` with udp: inetd's wait. One program at a time has the socket, and reads what it likes.

use std::fs;
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use portgrant_tests::{Running, Signal, World, both_installs};

use super::{Client, accepting};

both_installs![
    a_program_has_the_datagrams_until_it_ends,
    datagrams_and_connections_go_together,
    a_program_that_does_not_read_is_slowed_down_and_reported,
    a_program_that_reads_one_datagram_each_is_not_slowed_down,
    errors_left_in_a_socket_do_not_make_the_launcher_spin,
];

/// Answers what comes with its pid and the text, until nothing has come for that many seconds.
const ECHO: &str = "
import os, socket, sys
with socket.socket(fileno=0) as s:
    s.settimeout(float(sys.argv[1]))
    while True:
        try:
            text, sender = s.recvfrom(512)
        except TimeoutError:
            break
        s.sendto(b'%d %s' % (os.getpid(), text), sender)
        if sys.argv[1] == '0.0':
            break
";

fn client() -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.connect("127.0.0.1:53").expect("connected");
    client.set_read_timeout(Some(Duration::from_secs(1))).expect("a time-out");
    client
}

/// Sends until it is answered: the pid, and the text. Nothing tells when the socket is bound. What is answered late, to a
/// question that was asked again, is not the answer to this one.
fn ask(client: &UdpSocket, text: &str) -> (u32, String) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let _ = client.send(text.as_bytes());
        let mut answer = [0; 512];
        if let Ok(length) = client.recv(&mut answer) {
            let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
            let (pid, said) = answer.split_once(' ').expect("two words");
            if said == text {
                return (pid.parse().expect("a pid"), said.to_owned());
            }
        }
        assert!(Instant::now() < deadline, "no answer");
    }
}

fn server(world: &World, options: &[&str], program: &[&str]) -> Running {
    world.policy("permit alice 53/udp 53\n");
    world.file("/tmp/echo.py", ECHO);
    world.as_user("alice").spawn(accepting(options, program))
}

fn a_program_has_the_datagrams_until_it_ends(world: &World) {
    let launcher = server(world, &["-v", "-l", "53/udp"], &["python3", "/tmp/echo.py", "5.0"]);
    let client = client();
    let (pid, _) = ask(&client, "one");
    let process = world.process(pid);
    assert_eq!((process.sockets(), process.fds.keys().copied().collect::<Vec<_>>()), (vec![0, 1], vec![0, 1, 2]));
    let idle = launcher.output().1;
    for number in 0..50 {
        assert_eq!(ask(&client, &format!("more {number}")).0, pid, "the same program");
    }
    assert_eq!(launcher.output().1, idle, "the launcher does not look at the socket meanwhile");

    let deadline = Instant::now() + Duration::from_secs(20);
    while !launcher.output().1.contains(&format!("end {pid} status 0")) {
        assert!(Instant::now() < deadline, "{:?}", launcher.output());
        thread::sleep(Duration::from_millis(10));
    }
    let (next, text) = ask(&client, "two");
    assert!(next != pid && text == "two", "{next} {text}");
    launcher.signal(Signal::SIGTERM);
    launcher.wait(Duration::from_secs(20)).dies_of(Signal::SIGTERM);
    assert_eq!(world.listening(), []);
}

fn datagrams_and_connections_go_together(world: &World) {
    let script = "if [ \"$PROTO\" = TCP ]; then echo by tcp; else exec python3 /tmp/echo.py 0.5; fi";
    let options = ["-l", "53", "-l", "127.0.0.1:53/udp", "--max-conns", "1"];
    let _launcher = server(world, &options, &["sh", "-c", script]);
    assert_eq!(Client::of("127.0.0.1:53").rest(), "by tcp\n");
    let (_, text) = ask(&client(), "by udp");
    assert_eq!(text, "by udp");
    for _ in 0..3 {
        assert_eq!(Client::of("127.0.0.1:53").rest(), "by tcp\n", "while a program has the datagrams");
    }
}

fn a_program_that_does_not_read_is_slowed_down_and_reported(world: &World) {
    let launcher = server(world, &["-l", "53/udp"], &["sh", "-c", "echo started >>/tmp/starts"]);
    let starts = || fs::read_to_string("/tmp/starts").unwrap_or_default().lines().count();
    let client = client();
    let begin = Instant::now();
    while starts() < 5 {
        if starts() == 0 {
            let _ = client.send(b"anybody?");
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{} starts", starts());
        thread::sleep(Duration::from_millis(10));
    }
    // After 100, 200, 400 and 800 ms.
    assert!(begin.elapsed() >= Duration::from_millis(1500), "{:?}", begin.elapsed());
    // The message stands there since the first rest began, more than a second ago.
    let said = launcher.output().1;
    assert_eq!(said.matches("portgrant: 53/udp is served more slowly\n").count(), 1, "{said}");
    assert!(said.contains("  why: the program ended without having read the datagram"), "{said}");
}

fn a_program_that_reads_one_datagram_each_is_not_slowed_down(world: &World) {
    let launcher = server(world, &["-l", "53/udp"], &["python3", "/tmp/echo.py", "0.0"]);
    let client = client();
    let mut pids: Vec<u32> = (0..20).map(|number| ask(&client, &format!("again {number}")).0).collect();
    pids.sort_unstable();
    pids.dedup();
    assert!(pids.len() >= 19, "a program each: {pids:?}");
    assert_eq!(launcher.output().1, "");
}

/// PG-40
fn errors_left_in_a_socket_do_not_make_the_launcher_spin(world: &World) {
    // IP_RECVERR, and a datagram to a port where nobody is. What comes of it is in the error queue when it ends.
    let leaving = "
import os, socket
s = socket.socket(fileno=0)
text, sender = s.recvfrom(512)
s.sendto(b'%d %s' % (os.getpid(), text), sender)
s.setsockopt(socket.IPPROTO_IP, 11, 1)
s.sendto(b'hello?', ('127.0.0.1', 1))
s.detach()
";
    world.policy("permit alice 53/udp\n");
    world.file("/tmp/leaving.py", leaving);
    let launcher =
        world.as_user("alice").spawn(accepting(&["-v", "-l", "127.0.0.1:53/udp"], &["python3", "/tmp/leaving.py"]));
    let client = client();
    let (pid, _) = ask(&client, "one");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !launcher.output().1.contains(&format!("end {pid} status 0")) {
        assert!(Instant::now() < deadline, "{:?}", launcher.output());
        thread::sleep(Duration::from_millis(10));
    }
    let before = world.process(launcher.pid()).processor_time;
    thread::sleep(Duration::from_secs(2));
    let spent = world.process(launcher.pid()).processor_time - before;
    assert!(spent < Duration::from_millis(200), "it is busy: {spent:?} of 2 s");
    assert_eq!(ask(&client, "two").1, "two");
}
