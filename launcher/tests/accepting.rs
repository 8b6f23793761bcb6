//! `exec --accept` without privilege: conditions that could make it spin, and a standard error that nobody reads.

#[path = "../../server/tests/stand_in/mod.rs"]
mod stand_in;

use std::fs;
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::io::ioctl_fionbio;
use stand_in::Folder;

const PORTGRANT: &str = env!("CARGO_BIN_EXE_portgrant");
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// How long processor time is measured, and how much of it an idle launcher may use.
const WATCHED: Duration = Duration::from_secs(2);
const IDLE: Duration = Duration::from_millis(200);

/// A launcher that accepts on a port of 127.0.0.1, and its standard error. It is killed when dropped.
struct Launcher {
    child: Child,
    port: u16,
    /// Its standard error: the end that the test reads, and the end that the launcher writes
    reports: (PipeReader, PipeWriter),
    _folder: Folder,
}

impl Launcher {
    /// On a free port; `suffix` is what follows it in the endpoint.
    fn start(name: &str, options: &[&str], suffix: &str, program: &[&str]) -> Launcher {
        let folder = Folder::new(name);
        let port = free_port(suffix);
        let endpoint = format!("127.0.0.1:{port}{suffix}");
        let words = [&["exec", "-l", &endpoint, "--accept"], options, &["--"], program].concat();
        let reports = std::io::pipe().expect("a pipe");
        Launcher::run(Command::new(PORTGRANT), &words, port, reports, folder)
    }

    fn run(
        mut command: Command,
        words: &[&str],
        port: u16,
        reports: (PipeReader, PipeWriter),
        folder: Folder,
    ) -> Launcher {
        command
            .args(words)
            .env("PORTGRANT_BINDER", folder.granting_helper())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(reports.1.try_clone().expect("a copy"));
        let child = command.spawn().expect("it runs");
        Launcher { child, port, reports, _folder: folder }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn client(&self) -> UdpSocket {
        let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        client.connect(("127.0.0.1", self.port)).expect("connected");
        client.set_read_timeout(Some(Duration::from_millis(500))).expect("a time-out");
        client
    }

    fn connect(&self) -> TcpStream {
        let deadline = Instant::now() + TIME_LIMIT;
        loop {
            match TcpStream::connect(("127.0.0.1", self.port)) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(TIME_LIMIT)).expect("a time-out");
                    return stream;
                }
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The processor time of the launcher, without its programs (proc_pid_stat(5)).
    fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("it runs");
        let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
        let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
        Duration::from_millis((ticks(11) + ticks(12)) * 1000 / 100)
    }

    #[track_caller]
    fn rests(&self) {
        let before = self.processor_time();
        std::thread::sleep(WATCHED);
        let used = self.processor_time() - before;
        assert!(used < IDLE, "it used {used:?} of processor time within {WATCHED:?}");
    }

    /// Fills its standard error.
    fn fill_reports(&mut self) {
        ioctl_fionbio(&self.reports.1, true).expect("not blocking");
        while self.reports.1.write_all(&[b'x'; 1]).is_ok() {}
        // The launcher has the same pipe, and must find it blocking.
        ioctl_fionbio(&self.reports.1, false).expect("blocking");
    }

    /// Everything that it has reported. It has ended.
    fn reported(mut self) -> String {
        let ended = self.child.try_wait().expect("waited");
        assert!(ended.is_some(), "it still runs");
        let (mut reader, writer) = std::mem::replace(&mut self.reports, std::io::pipe().expect("a pipe"));
        drop(writer);
        ioctl_fionbio(&reader, false).expect("blocking");
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("text");
        text
    }

    fn has_children(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it runs").flatten();
        tasks.flat_map(|task| fs::read_to_string(task.path().join("children"))).any(|pids| !pids.is_empty())
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("sent");
    }

    #[track_caller]
    fn ends(&mut self) -> ExitStatus {
        let mut status = None;
        soon("it ends", || {
            status = self.child.try_wait().expect("waited");
            status.is_some()
        });
        status.expect("it has ended")
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port(suffix: &str) -> u16 {
    if suffix == "/udp" {
        return UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("bound").port();
    }
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("bound").port()
}

#[track_caller]
fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIME_LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {TIME_LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends until an answer comes. If the port is not bound yet, it sends again at once; otherwise rarely, since each
/// datagram starts a program, and on a slow machine the programs would delay each other. Answers to earlier questions
/// are ignored.
#[track_caller]
fn ask(client: &UdpSocket, text: &str) {
    let mut answer = [0; 512];
    let mut sent: Option<Instant> = None;
    soon("an answer", || {
        if sent.is_none_or(|sent| sent.elapsed() > Duration::from_secs(8)) {
            sent = client.send(text.as_bytes()).is_ok().then(Instant::now);
        }
        match client.recv(&mut answer) {
            Ok(length) => &answer[..length] == text.as_bytes(),
            Err(error) => {
                sent = sent.filter(|_| error.kind() != ErrorKind::ConnectionRefused);
                false
            }
        }
    });
}

/// Answers one datagram, does `more` with the socket `s`, and ends.
fn answering(more: &str) -> String {
    format!(
        "
import socket
s = socket.socket(fileno=0)
text, sender = s.recvfrom(512)
s.sendto(text, sender)
{more}
s.detach()
"
    )
}

#[test]
fn an_error_that_a_program_leaves_in_the_error_queue_does_not_keep_the_launcher_busy() {
    // IP_RECVERR, and a datagram to a port that nobody has bound.
    let more = "s.setsockopt(socket.IPPROTO_IP, 11, 1)\ns.sendto(b'x', ('127.0.0.1', 1))";
    let launcher = Launcher::start("queue", &[], "/udp", &["python3", "-c", &answering(more)]);
    let client = launcher.client();
    ask(&client, "one");
    soon("the program has ended", || !launcher.has_children());
    launcher.rests();
    ask(&client, "two");
}

#[test]
fn a_udp_socket_that_a_program_shuts_down_does_not_keep_the_launcher_busy() {
    // It returns ENOTCONN, but the socket is shut down (Linux 6.18).
    let more = "try: s.shutdown(socket.SHUT_RD)\nexcept OSError: pass";
    let launcher = Launcher::start("shut-down", &[], "/udp", &["python3", "-c", &answering(more)]);
    let client = launcher.client();
    ask(&client, "one");
    soon("the program has ended", || !launcher.has_children());
    launcher.rests();
    ask(&client, "two");
}

#[test]
fn a_program_that_asks_for_more_with_a_datagram_is_started_for_the_next_one() {
    // IP_PKTINFO and IP_RECVTTL stay set on the socket after the program has ended.
    let more = "s.setsockopt(socket.IPPROTO_IP, 8, 1)\ns.setsockopt(socket.IPPROTO_IP, 12, 1)";
    let launcher = Launcher::start("told", &[], "/udp", &["python3", "-c", &answering(more)]);
    let client = launcher.client();
    for text in ["one", "two"] {
        ask(&client, text);
        soon("the program has ended", || !launcher.has_children());
    }
    launcher.rests();
}

/// Has seccomp(2) answer accept4(2) and accept(2) with EPERM, and becomes the program that its arguments name.
const FORBIDDING: &str = "
import ctypes, os, platform, struct, sys
numbers = {'x86_64': (288, 43), 'aarch64': (242, 202)}[platform.machine()]
def step(code, true, false, value): return struct.pack('HBBI', code, true, false, value)
steps = [step(0x20, 0, 0, 0), step(0x15, 2, 0, numbers[0]), step(0x15, 1, 0, numbers[1]), step(0x06, 0, 0, 0x7fff0000)]
steps = b''.join(steps + [step(0x06, 0, 0, 0x00050001)])
buffer = ctypes.create_string_buffer(steps)
program = ctypes.create_string_buffer(struct.pack('HxxxxxxQ', len(steps) // 8, ctypes.addressof(buffer)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0, ctypes.get_errno()
os.execv(sys.argv[1], sys.argv[1:])
";

#[test]
fn connections_that_may_not_be_accepted_do_not_keep_the_launcher_busy() {
    let folder = Folder::new("forbidden");
    let port = free_port("");
    let endpoint = format!("127.0.0.1:{port}");
    let words = ["-c", FORBIDDING, PORTGRANT, "exec", "-l", &endpoint, "--accept", "--", "true"];
    let reports = std::io::pipe().expect("a pipe");
    let mut launcher = Launcher::run(Command::new("python3"), &words, port, reports, folder);
    let _client = launcher.connect();
    launcher.rests();
    launcher.signal(Signal::SIGTERM);
    assert_eq!(launcher.ends().signal(), Some(Signal::SIGTERM as i32));
    let said = launcher.reported();
    let expected = "connections have to wait\n  why: Operation not permitted\n  fix: permit accept(2)";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn a_full_standard_error_stops_neither_connections_nor_signals_nor_the_end_of_programs() {
    let script = "trap 'echo told; exit' USR1; echo here; read line || exit; echo $line; while :; do sleep 0.1; done";
    let mut launcher = Launcher::start("full", &["-v"], "", &["sh", "-c", script]);
    drop(launcher.connect());
    launcher.fill_reports();

    for _ in 0..100 {
        let mut client = launcher.connect();
        client.shutdown(Shutdown::Write).expect("shut down");
        let mut text = String::new();
        client.read_to_string(&mut text).expect("served");
        assert_eq!(text, "here\n");
    }
    soon("all programs are waited for", || !launcher.has_children());
    let mut client = launcher.connect();
    client.write_all(b"stay\n").expect("sent");
    let mut said = [0; 10];
    client.read_exact(&mut said).expect("served");
    assert_eq!(&said, b"here\nstay\n");
    launcher.signal(Signal::SIGUSR1);
    let mut text = String::new();
    client.read_to_string(&mut text).expect("served");
    assert_eq!(text, "told\n", "the signal is passed on");

    launcher.signal(Signal::SIGTERM);
    assert_eq!(launcher.ends().signal(), Some(Signal::SIGTERM as i32));
}

#[test]
fn messages_for_which_standard_error_has_no_room_are_counted() {
    let mut launcher = Launcher::start("counted", &["-v"], "", &["true"]);
    drop(launcher.connect());
    launcher.fill_reports();
    for _ in 0..400 {
        assert_eq!(launcher.connect().read(&mut [0]).expect("served"), 0);
    }
    soon("all programs are waited for", || !launcher.has_children());
    // Make room for the waiting messages.
    let mut space = vec![0; 65536];
    launcher.reports.0.read_exact(&mut space).expect("it was full");
    let mut said = String::from_utf8_lossy(&space).into_owned();
    ioctl_fionbio(&launcher.reports.0, true).expect("not blocking");
    soon("the number", || {
        assert_eq!(launcher.connect().read(&mut [0]).expect("served"), 0);
        let length = launcher.reports.0.read(&mut space).unwrap_or(0);
        said.push_str(&String::from_utf8_lossy(&space[..length]));
        said.contains(" messages are missing here: standard error was full\n")
    });
    launcher.signal(Signal::SIGTERM);
    launcher.ends();
    let said = launcher.reported();
    assert!(said.contains("ending by SIGTERM"), "the last message is written: {said}");
}
