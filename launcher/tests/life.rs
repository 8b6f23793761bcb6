//! A program's life under the launcher, without privilege: --wait, --daemon and --verify.

#[path = "life/daemon.rs"]
mod daemon;
#[path = "../../server/tests/stand_in/mod.rs"]
mod stand_in;

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portgrant_server::HolderState;
use stand_in::{Folder, free_port};

const PORTGRANT: &str = env!("CARGO_BIN_EXE_portgrant");
const TIME_LIMIT: Duration = Duration::from_secs(20);

fn portgrant(helper: &Path) -> Command {
    // The process that started the tests may ignore signals (nohup, a job in the background).
    let mut command = Command::new("env");
    command.args(["--default-signal", PORTGRANT]).env("PORTGRANT_BINDER", helper).stdin(Stdio::null());
    command
}

fn outcome(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code().expect("it ends by itself"), text(stdout), text(stderr))
}

#[track_caller]
fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIME_LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {TIME_LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn listens(endpoint: &str) -> bool {
    let holders = portgrant_server::holders(endpoint).expect("asked");
    holders.iter().any(|holder| matches!(holder.state, HolderState::Listening | HolderState::Bound))
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).expect("sent");
}

fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn number_in(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim_end().parse().ok()
}

/// The processes whose parent is `pid`.
fn children(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect()
}

/// Ends the process when the test ends, even if it fails.
struct Ending(u32);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.cast_signed()), Signal::SIGTERM);
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawned(command: &mut Command) -> Killed {
    Killed(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs"))
}

/// Answers each client with `served`, and sends READY=1 if NOTIFY_SOCKET is set.
const SERVER: &str = "
import os, socket
listener = socket.socket(fileno=3)
address = os.environ.get('NOTIFY_SOCKET')
if address:
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', address.replace('@', chr(0)))
while True:
    client, _ = listener.accept()
    client.sendall(b'served\\n')
    client.close()
";

fn answer(endpoint: &str) -> String {
    let mut text = String::new();
    let mut client = TcpStream::connect(endpoint).expect("it listens");
    client.set_read_timeout(Some(TIME_LIMIT)).expect("a time-out");
    client.read_to_string(&mut text).expect("an answer");
    text
}

#[test]
fn conflicting_or_senseless_options_are_usage_errors() {
    let nowhere = Path::new("/nonexistent");
    for (words, expected) in [
        (&["--verify=0"][..], "'0' is not a valid value for --verify"),
        (&["--verify=1h"], "2 to 3600 seconds"),
        (&["--verify=3601"], "2 to 3600 seconds"),
        (&["--daemon", "--notify=x"], "'x' is not a valid value for --notify"),
        (&["--daemon", "--log", "local0"], "syslog:FACILITY"),
        (&["--daemon", "--log", "syslog:local8"], "'syslog:local8' is not a valid value for --log"),
        (&["--pid-file", "/tmp/x"], "--daemon"),
        (&["--notify"], "--daemon"),
        (&["--log", "none"], "--daemon"),
        (&["--wait", "--daemon", "--verify"], "--verify cannot be used with --wait and --daemon"),
        (&["--wait", "--daemon", "--notify"], "--notify cannot be used with --wait and --daemon"),
        (&["--user"], "--user"),
        (&["--user", ""], "there is no user ''"),
        (&["--user", "no-such-user"], "there is no user 'no-such-user'"),
        (&["--user", "4294967295"], "there is no user '4294967295'"),
        (&["--user", "+0"], "there is no user '+0'"),
        (&["--chdir", "/nonexistent/folder"], "--chdir /nonexistent/folder could not be entered"),
    ] {
        let (status, output, complaint) =
            outcome(portgrant(nowhere).args(["exec", "-l", "80"]).args(words).args(["--", "true"]));
        assert_eq!((status, output.as_str()), (64, ""), "{words:?}: {complaint}");
        assert!(complaint.contains(expected), "{words:?}: {complaint}");
    }
}

#[test]
fn the_folder_is_entered_before_the_program_is_looked_for() {
    let folder = Folder::new("folder");
    folder.script("program", "pwd");
    let endpoint = format!("127.0.0.1:{}", free_port());
    let place = folder.join("");
    let (status, output, complaint) = outcome(
        portgrant(&folder.granting_helper())
            .args(["exec", "-l", &endpoint, "--chdir"])
            .arg(&place)
            .args(["--", "./program"]),
    );
    assert_eq!((status, output.trim_end()), (0, place.to_str().expect("text").trim_end_matches('/')), "{complaint}");
}

#[test]
fn with_wait_the_program_starts_at_the_first_connection_with_the_same_pid() {
    let folder = Folder::new("wait");
    let endpoint = format!("127.0.0.1:{}", free_port());
    let words = ["exec", "-l", &endpoint, "--wait", "--", "python3", "-c", SERVER];
    let program = spawned(portgrant(&folder.granting_helper()).args(words));
    soon("it listens", || listens(&endpoint));
    let executes = || fs::read_link(format!("/proc/{}/exe", program.0.id())).expect("it lives");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(executes(), Path::new(PORTGRANT).canonicalize().expect("there"), "nobody has come yet");
    assert_eq!(answer(&endpoint), "served\n", "the connection that it was started for is the first that it accepts");
    assert!(executes().to_string_lossy().contains("python"));
}

#[test]
fn with_wait_a_datagram_starts_the_program_and_is_left_for_it() {
    let folder = Folder::new("wait-udp");
    let port = free_port();
    let read = "import socket; s = socket.socket(fileno=3); print(s.getblocking(), s.recv(9))";
    let endpoint = format!("127.0.0.1:{port}/udp");
    let words = ["exec", "-l", &endpoint, "--wait", "--", "python3", "-c", read];
    let mut program = spawned(portgrant(&folder.granting_helper()).args(words));
    soon("it is bound", || listens(&endpoint));
    let client = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
    client.send_to(b"first", ("127.0.0.1", port)).expect("sent");
    let mut output = String::new();
    program.0.stdout.take().expect("a pipe").read_to_string(&mut output).expect("read");
    assert_eq!(output, "True b'first'\n");
}

#[test]
fn a_signal_while_it_waits_ends_it_and_nothing_stays_bound() {
    let folder = Folder::new("wait-signal");
    for number in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let endpoint = format!("127.0.0.1:{}", free_port());
        let words = ["exec", "-l", &endpoint, "--wait", "--", "touch"];
        let program = portgrant(&folder.granting_helper())
            .args(words)
            .arg(folder.join("ran"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        soon("it listens", || listens(&endpoint));
        signal(program.id(), number);
        let output = program.wait_with_output().expect("it ends");
        assert_eq!(output.status.signal(), Some(number as i32));
        assert_eq!((output.stdout, output.stderr), (vec![], vec![]));
        assert!(!listens(&endpoint) && !folder.join("ran").exists());
    }
}

#[test]
fn verify_reports_the_other_address_that_the_program_listens_on() {
    let folder = Folder::new("verify-wrapper");
    let (endpoint, other) = (format!("127.0.0.1:{}", free_port()), free_port());
    let server = format!("import socket, time; s = socket.create_server(('127.0.0.1', {other})); time.sleep(60)");
    let script = format!("python3 -c \"{server}\"; true");
    let words = ["exec", "-l", &endpoint, "--verify=10", "--", "sh", "-c", &script];
    let mut program = spawned(portgrant(&folder.granting_helper()).args(words));
    let mut text = String::new();
    let mut stderr = program.0.stderr.take().expect("a pipe");
    soon("it is reported", || {
        let mut piece = [0; 4096];
        let length = stderr.read(&mut piece).expect("read");
        text.push_str(&String::from_utf8_lossy(&piece[..length]));
        text.contains("fix: ")
    });
    let pid = program.0.id();
    assert!(text.starts_with("portgrant: the program does not accept on "), "{text}");
    assert!(text.contains("a connection has waited in the queue of the socket, which sh (pid "), "{text}");
    assert!(text.contains(&format!("listens at 127.0.0.1:{other} instead")) && text.contains("python3"), "{text}");
    assert!(text.contains(&format!("announced to process {pid} alone (LISTEN_PID)")), "{text}");
    for child in children(pid) {
        signal(child, Signal::SIGTERM);
    }
    assert!(program.0.wait().expect("it ends").success(), "the program's own status");
}

#[test]
fn verify_prints_nothing_if_the_server_accepts_and_leaves_no_child() {
    let folder = Folder::new("verify-good");
    let endpoint = format!("127.0.0.1:{}", free_port());
    let words = ["-v", "exec", "-l", &endpoint, "--verify=20", "--", "python3", "-c", SERVER];
    let mut program = spawned(portgrant(&folder.granting_helper()).args(words));
    let mut text = String::new();
    let mut stderr = program.0.stderr.take().expect("a pipe");
    soon("it is reported", || {
        let mut piece = [0; 4096];
        let length = stderr.read(&mut piece).expect("read");
        text.push_str(&String::from_utf8_lossy(&piece[..length]));
        text.contains("accepts on what it was given")
    });
    assert!(!text.contains("does not accept"), "{text}");
    assert_eq!(children(program.0.id()), [] as [u32; 0]);
    assert_eq!(answer(&endpoint), "served\n");
}

#[test]
fn verify_reports_a_closed_socket_and_the_address_bound_instead() {
    let folder = Folder::new("verify-closed");
    let port = free_port();
    let server = format!(
        "import os, socket, time\nos.close(3)\ns = socket.create_server(('127.0.0.2', {port}))\ntime.sleep(60)"
    );
    let endpoint = format!("127.0.0.1:{port}");
    let words = ["exec", "-l", &endpoint, "--verify=20", "--", "python3", "-c", &server];
    let mut program = spawned(portgrant(&folder.granting_helper()).args(words));
    let begun = Instant::now();
    let mut text = String::new();
    let mut stderr = program.0.stderr.take().expect("a pipe");
    soon("it is reported", || {
        let mut piece = [0; 4096];
        let length = stderr.read(&mut piece).expect("read");
        text.push_str(&String::from_utf8_lossy(&piece[..length]));
        text.contains("fix: ")
    });
    assert!(begun.elapsed() < Duration::from_secs(15), "that is known before the time is up");
    assert!(text.contains("it closed the socket"), "{text}");
    assert!(text.contains(&format!("listens at 127.0.0.2:{port} instead")), "{text}");
    assert!(text.contains(&format!("configured for: -l 127.0.0.2:{port}")), "{text}");
}

/// Prints what a program inherits from its caller.
const LOOK: &str = "import os, sys\nstatus = open('/proc/self/status').read()\n\
    print([line for line in status.splitlines() if line[:6] in ('SigBlk', 'SigIgn')], oct(os.umask(0)), os.getcwd(),\n\
      sorted(int(n) for n in os.listdir('/proc/self/fd') if int(n) > 2 and os.path.exists('/proc/self/fd/' + n)),\n\
      int(os.environ['LISTEN_PID']) - os.getpid(), os.environ['ODD'], file=open(sys.argv[1], 'w'))";

#[test]
fn a_daemon_and_a_waiting_program_inherit_everything_from_the_caller() {
    let folder = Folder::new("as-it-was");
    let (seen, place) = (folder.join("seen"), folder.join(""));
    let run = |option: &str, verify: &str| {
        let endpoint = format!("127.0.0.1:{}", free_port());
        let _ = fs::remove_file(&seen);
        let script = format!(
            "umask 027; cd '{}'; exec 7</etc; exec env --ignore-signal=HUP,CHLD,PIPE --block-signal=USR1,TERM '{PORTGRANT}' \
             exec -l {endpoint} {option} {verify} -- python3 -c \"$0\" '{}'",
            place.display(),
            seen.display()
        );
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script, LOOK]).env("PORTGRANT_BINDER", folder.granting_helper()).env("ODD", "a=b\n");
        let mut child = spawned(command.stdin(Stdio::null()));
        if option == "--wait" {
            soon("it listens", || listens(&endpoint));
            let _ = TcpStream::connect(&endpoint).expect("it listens");
        }
        assert!(child.0.wait().expect("it ends").success());
        soon("it has looked", || fs::read_to_string(&seen).is_ok_and(|text| text.ends_with('\n')));
        fs::read_to_string(&seen).expect("there")
    };
    let plain = run("", "");
    assert!(plain.contains("0o27") && plain.contains("[3, 7") && plain.contains(" 0 a=b"), "{plain}");
    for (option, verify) in [("", "--verify=2"), ("--wait", ""), ("--daemon --log=none", ""), ("--daemon", "")] {
        assert_eq!(run(option, verify), plain, "{option} {verify}");
    }
}
