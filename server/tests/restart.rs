//! Generations seen from outside: the example `generations`, its program file replaced, its processes ended, stopped and
//! lied to.
#![cfg(feature = "restart")]

mod stand_in;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use portgrant_protocol::transfer;
use portgrant_server::restart::{Upgraded, ask};
use portgrant_server::{Error, status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as connect_to, socket_with};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open};
use stand_in::{Folder, free_port};

const PATIENCE: Duration = Duration::from_secs(20);

/// A server with a program file, a pid file and a control socket of its own. Whatever it became ends with it.
struct Server {
    folder: Folder,
    port: u16,
    child: Child,
}

impl Server {
    fn start(name: &str, options: &[&str]) -> Server {
        let port = free_port();
        Server::start_on(name, port, options, &[&format!("web=127.0.0.1:{port}")])
    }

    fn start_on(name: &str, port: u16, options: &[&str], endpoints: &[&str]) -> Server {
        let folder = Folder::new(name);
        copy(&example(), &folder.join("program"));
        let child = command(&folder, options, endpoints).spawn().expect("started");
        let server = Server { folder, port, child };
        // Its socket listens before that.
        eventually("it serves", || fs::read_to_string(server.folder.join("pid")).is_ok_and(|pid| !pid.is_empty()));
        server
    }

    fn control(&self) -> PathBuf {
        self.folder.join("control")
    }

    fn ask(&self) -> Result<Upgraded, Error> {
        ask(self.control(), PATIENCE)
    }

    /// Upgrades, and waits until the predecessor has ended.
    fn upgrade(&self) -> Upgraded {
        let old = self.pid();
        let upgraded = self.ask().expect("upgraded");
        eventually("the old one has ended", || !is_alive(old));
        upgraded
    }

    /// The process that serves, by the pid file.
    fn pid(&self) -> u32 {
        let text = fs::read_to_string(self.folder.join("pid")).expect("a pid file");
        text.trim_end().parse().expect("a pid")
    }

    fn signal(&self, signal: Signal) {
        kill_process(pid(self.pid()), signal).expect("sent");
    }

    /// Puts a script in the program's place.
    fn replace(&self, script: &str) {
        let script = self.folder.script("replacement", script);
        fs::rename(script, self.folder.join("program")).expect("renamed");
    }

    /// Puts the program back.
    fn restore(&self) {
        copy(&example(), &self.folder.join("original"));
        fs::rename(self.folder.join("original"), self.folder.join("program")).expect("renamed");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).expect("a log")
    }

    /// Which generation answers, of which process.
    fn answer(&self) -> (u64, u32) {
        told(&get(self.port, "/"))
    }

    /// The pids of all its processes, by whatever program: its folder stands in their arguments.
    fn processes(&self) -> Vec<u32> {
        let folder = self.folder.join("");
        let named = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline"));
            line.is_ok_and(|line| contains(&line, folder.as_os_str().as_encoded_bytes()))
        };
        let all = fs::read_dir("/proc").expect("/proc").flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(named).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let processes = self.processes();
            for &process in &processes {
                let _ = kill_process(pid(process), Signal::KILL);
            }
            let _ = self.child.wait();
            if processes.is_empty() || Instant::now() > deadline {
                break;
            }
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

fn example() -> PathBuf {
    let test = std::env::current_exe().expect("this program");
    test.parent().and_then(|deps| deps.parent()).expect("a folder").join("examples/generations")
}

fn command(folder: &Folder, options: &[&str], endpoints: &[&str]) -> Command {
    let mut command = Command::new(folder.join("program"));
    command.arg("--control").arg(folder.join("control")).arg("--pid-file").arg(folder.join("pid"));
    command.args(options).args(endpoints);
    let log = File::options().append(true).create(true).open(folder.join("log")).expect("a log");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.env_remove("LISTEN_FDS").env_remove("NOTIFY_SOCKET").env("PORTGRANT_BINDER", folder.granting_helper());
    command
}

/// By a program of its own: a file that this process had open for writing might be found busy.
fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().expect("cp").success());
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|window| window == part)
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(number.cast_signed()).expect("a pid")
}

/// Whether any of its threads runs: the first may have ended before the others.
fn is_alive(process: u32) -> bool {
    let Ok(exit) = pidfd_open(pid(process), PidfdFlags::empty()) else { return false };
    poll(&mut [PollFd::new(&exit, PollFlags::IN)], Some(&Timespec::default())) == Ok(0)
}

fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not so: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream
}

fn get(port: u16, path: &str) -> String {
    let mut stream = connect(port);
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// `generation N of version V, process P, …`
fn told(answer: &str) -> (u64, u32) {
    let after = |word: &str| answer.split(word).nth(1).and_then(|rest| rest.split([' ', ',']).next());
    let number = |word: &str| after(word).and_then(|number| number.parse::<u64>().ok()).expect(answer);
    (number("generation "), u32::try_from(number("process ")).expect(answer))
}

#[test]
fn a_new_generation_takes_over_and_the_old_one_ends() {
    let mut server = Server::start("takes-over", &[]);
    let first = server.pid();
    assert_eq!((server.answer(), server.child.id()), ((1, first), first));

    let upgraded = server.ask().expect("upgraded");

    assert_eq!((upgraded.generation, upgraded.closed.len()), (2, 0));
    assert_eq!(server.pid(), upgraded.pid, "the pid file says so when the answer is there");
    assert!(server.child.wait().expect("waited").success());
    assert_eq!(server.answer(), (2, upgraded.pid));
    let input = fs::read_link(format!("/proc/{}/fd/0", upgraded.pid)).expect("open");
    assert_eq!(input, Path::new("/dev/null"), "where the conversation was");
    assert!(get(server.port, "/").contains(&format!("begun by process {first}")), "its memfd came along");

    server.signal(Signal::USR2);
    eventually("a third one serves", || server.answer().0 == 3);
    eventually("and it alone", || server.processes() == [server.pid()]);
    eventually("it is in the log", || server.log().contains("generation 3, process"));
    server.signal(Signal::QUIT);
    eventually("gone", || server.processes().is_empty());
    assert!(!server.control().exists() && !server.folder.join("pid").exists(), "its files went with it");
}

#[test]
fn a_program_behind_a_link_is_found_anew_with_its_own_folder_and_arguments() {
    let server = Server::start("link", &[]);
    let other = server.folder.join("other");
    copy(&example(), &other);
    fs::remove_file(server.folder.join("program")).expect("removed");
    std::os::unix::fs::symlink(&other, server.folder.join("program")).expect("a link");
    let upgraded = server.ask().expect("upgraded");
    let proc = |name: &str| format!("/proc/{}/{name}", upgraded.pid);
    assert_eq!(fs::read_link(proc("exe")).expect("a link"), other);
    let line = fs::read(proc("cmdline")).expect("a line");
    assert!(line.starts_with(server.folder.join("program").as_os_str().as_encoded_bytes()), "argv[0] is as it was");
    let environment = fs::read(proc("environ")).expect("an environment");
    assert!(contains(&environment, b"PORTGRANT_BINDER=") && !contains(&environment, b"LISTEN_"));
}

/// What a program does instead of serving, and what is told of it.
const FAILURES: &[(&str, &str)] = &[
    ("exit 7", "it ended with exit status: 7"),
    ("kill -SEGV $$", "it ended with signal: 11"),
    ("exec 0<&-; sleep 0.2; exit 3", "it ended with exit status: 3"),
    ("exec 0<&-; exec sleep 1000", "ended before it served"),
    ("exec sleep 1000", "it had 1.0 seconds, and was ended"),
];

#[test]
fn a_generation_that_fails_changes_nothing_and_whoever_asked_learns_why() {
    let server = Server::start("fails", &["--start", "1"]);
    let before = (server.answer(), server.pid());
    for (script, expected) in FAILURES {
        server.replace(script);
        let error = server.ask().expect_err(script).to_string();
        assert!(error.contains(expected), "{script}: {error}");
        assert_eq!((server.answer(), server.pid()), before, "{script}");
        eventually("it is in the log as well", || server.log().contains(expected));
    }
    fs::remove_file(server.folder.join("program")).expect("removed");
    let error = server.ask().expect_err("no program").to_string();
    assert!(error.contains("cannot run the next generation") && error.contains("No such file"), "{error}");
    assert_eq!((server.answer(), server.pid()), before);
    server.restore();
    assert_eq!(server.ask().expect("upgraded").generation, 2, "and none of them is in the way");
    eventually("one process is left", || server.processes() == [server.pid()]);
}

/// Not a test: a successor that says what it is told to, and ends.
#[test]
#[ignore = "runs as the helper of the other tests"]
fn successor() {
    let input = std::io::stdin();
    let (record, descriptors) = transfer::receive(input.as_fd()).expect("everything in one record");
    let record = String::from_utf8(record).expect("text");
    let names = record.lines().skip(3).take(descriptors.len());
    for (name, descriptor) in names.zip(&descriptors) {
        // What a successor may have done by then.
        if name == "PIDFILE=1" {
            rustix::io::pwrite(descriptor, b"999999\n", 0).expect("written");
        }
        if name.starts_with("SOCKET=") {
            rustix::io::ioctl_fionbio(descriptor, false).expect("set");
        }
    }
    let this = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).expect("a pidfd");
    let started = format!("PORTGRANT=1\nPHASE=started\nPID={}\n", std::process::id());
    transfer::send(input.as_fd(), started.as_bytes(), &[this]).expect("sent");
    for word in std::env::var("WORDS").expect("words").split(';') {
        let record = word.replace(',', "\n");
        transfer::send(input.as_fd(), format!("PORTGRANT=1\n{record}\n").as_bytes(), &[]).expect("sent");
        if word.starts_with("PHASE=ready") {
            let (take, _) = transfer::receive(input.as_fd()).expect("it is let");
            assert!(take.starts_with(b"PORTGRANT=1\nPHASE=take\nDRAIN=30000\n"), "{take:?}");
        }
    }
    std::process::exit(4);
}

#[test]
fn up_to_its_last_word_a_successor_that_ends_changes_nothing() {
    let server = Server::start("last-word", &[]);
    let before = (server.answer(), server.pid());
    let modes = modes(server.pid());
    assert!(modes.iter().any(|(link, _)| link.starts_with("socket:")), "{modes:?}");
    let cases = [
        ("PHASE=ready,LEFT=0", "it ended with exit status: 4"),
        ("PHASE=serving", "is no answer"),
        ("PHASE=sleeping", "'sleeping' does not fit PHASE"),
        ("PHASE=failed,WHY=no more room", "cannot serve: no more room"),
    ];
    for (words, expected) in cases {
        server.replace(&format!(
            "export WORDS='{words}'\nexec '{}' --ignored --exact successor --nocapture",
            test_program()
        ));
        let error = server.ask().expect_err(words).to_string();
        assert!(error.contains(expected), "{words}: {error}");
        assert_eq!((server.answer(), server.pid()), before, "{words}");
    }
    assert_eq!(self::modes(server.pid()), modes, "what is shared is as it was");
    server.restore();
    assert_eq!(server.upgrade().generation, 2);
}

/// What its descriptors that do not block lead to, and their flags. (Connections block.)
fn modes(process: u32) -> BTreeSet<(String, u32)> {
    const NONBLOCK: u32 = 0o4000;
    let entries = fs::read_dir(format!("/proc/{process}/fd")).expect("fds").flatten();
    let mode = |entry: fs::DirEntry| {
        let link = fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned();
        let number = entry.file_name().into_string().ok()?;
        let info = fs::read_to_string(format!("/proc/{process}/fdinfo/{number}")).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?.trim();
        Some((link, u32::from_str_radix(flags, 8).ok()?))
    };
    entries.filter_map(mode).filter(|(_, flags)| flags & NONBLOCK != 0).collect()
}

fn test_program() -> String {
    std::env::current_exe().expect("this program").display().to_string()
}

#[test]
fn sighup_is_the_servers_own_business_unless_it_says_otherwise_and_sigwinch_is_nobodys() {
    let server = Server::start("hangup", &[]);
    for signal in [Signal::HUP, Signal::WINCH] {
        server.signal(signal);
    }
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(server.answer(), (1, server.pid()));
    let server = Server::start("hangup-upgrades", &["--upgrade-on-hangup"]);
    server.signal(Signal::HUP);
    eventually("the second one serves", || server.answer() == (2, server.pid()));
}

#[test]
fn a_configuration_that_cannot_be_served_is_told_in_its_own_words() {
    let port = free_port();
    let folder = Folder::new("configuration-file");
    let list = folder.join("list");
    let write = |lines: &str| fs::write(&list, lines).expect("written");
    write(&format!("web=127.0.0.1:{port}\nold=127.0.0.1:{}\n", free_port()));
    let argument = format!("@{}", list.display());
    let server = Server::start_on("configuration", port, &[], &[&argument]);

    write("this is no endpoint\n");
    let error = server.ask().expect_err("no endpoint").to_string();
    assert!(error.contains("cannot serve: 'this is no endpoint' is no endpoint"), "{error}");
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    write(&format!("web=127.0.0.1:{port}\n{}\n", held.local_addr().expect("bound")));
    let error = server.ask().expect_err("held").to_string();
    assert!(error.contains("is in use"), "{error}");
    assert_eq!(server.answer().0, 1);

    // Another name for the one, another port under the name of the other, and one more.
    let new = free_port();
    write(&format!("http=127.0.0.1:{port}\nold=127.0.0.1:{new}\nmore=127.0.0.1:{}\n", free_port()));
    let upgraded = server.upgrade();
    assert_eq!(upgraded.closed, ["old"], "the name is the predecessor's");
    assert_eq!(told(&get(new, "/")).0, 2);
    write(&format!("http=127.0.0.1:{port}\n"));
    assert_eq!(server.ask().expect("upgraded").closed, ["old", "more"]);
    eventually("what is closed refuses", || TcpStream::connect(("127.0.0.1", new)).is_err());
}

#[test]
fn a_second_upgrade_is_refused_while_one_is_under_way_and_while_the_last_is_not_over() {
    let server = Server::start("busy", &["--start", "1.5", "--drain", "3"]);
    let serving = server.pid();
    server.replace("exec sleep 1000");
    let first = std::thread::scope(|scope| {
        let first = scope.spawn(|| server.ask());
        eventually("one is starting", || server.processes().len() == 1 && server_children(serving) == 1);
        let error = server.ask().expect_err("busy").to_string();
        assert!(error.contains("an upgrade is under way") && error.contains("is starting, and has"), "{error}");
        server.signal(Signal::USR2);
        first.join().expect("joined").expect_err("it hangs").to_string()
    });
    assert!(first.contains("was not ready in time"), "{first}");
    eventually("the signal's refusal is in the log", || server.log().contains("an upgrade is under way"));

    server.restore();
    let _hanging = {
        let mut stream = connect(server.port);
        stream.write_all(b"GET /hang HTTP/1.1\r\n\r\n").expect("sent");
        stream
    };
    eventually("it is accepted", || server.answer().0 == 1);
    server.ask().expect("upgraded");
    let error = server.ask().expect_err("busy").to_string();
    let expected = format!("process {serving} finishes its connections, and has ");
    assert!(error.contains("the last upgrade is not over") && error.contains(&expected), "{error}");
    eventually("it is over", || !is_alive(serving));
    assert_eq!(server.ask().expect("upgraded").generation, 3);
}

fn children(process: u32) -> String {
    fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default()
}

fn server_children(process: u32) -> usize {
    children(process).split_whitespace().count()
}

fn server_child(process: u32) -> u32 {
    children(process).trim().parse().expect("one child")
}

#[test]
fn what_is_in_flight_is_finished_by_the_old_generation() {
    let server = Server::start("flight", &["--drain", "20"]);
    let mut download = connect(server.port);
    download.write_all(b"GET /drip/150 HTTP/1.1\r\n\r\n").expect("sent");
    let mut kept = connect(server.port);
    kept.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    let mut answers = BufReader::new(kept.try_clone().expect("a copy"));
    assert_eq!(one_answer(&mut answers), (1, "keep-alive".to_owned()));

    server.ask().expect("upgraded");

    eventually("the new one answers", || server.answer().0 == 2);
    kept.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    assert_eq!(one_answer(&mut answers), (1, "close".to_owned()), "one more, and that it is the last is said");
    let mut all = Vec::new();
    download.read_to_end(&mut all).expect("to its end");
    assert!(all.len() > 150 * 1024 && all.ends_with(b"...."), "{} bytes", all.len());
    eventually("then it ends", || server.processes().len() == 1);
}

fn one_answer(answers: &mut impl BufRead) -> (u64, String) {
    let (mut length, mut connection) = (0, String::new());
    loop {
        let mut line = String::new();
        assert!(answers.read_line(&mut line).expect("a line") > 0, "an answer");
        match line.trim_end().split_once(": ") {
            Some(("Content-Length", value)) => length = value.parse().expect("a number"),
            Some(("Connection", value)) => connection = value.to_owned(),
            _ if line == "\r\n" => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    answers.read_exact(&mut body).expect("the body");
    (told(&String::from_utf8_lossy(&body)).0, connection)
}

#[test]
fn the_drains_limit_ends_a_connection_that_hangs_and_a_process_that_hangs() {
    for stopped in ["running", "stopped"] {
        let server = Server::start(&format!("limit-{stopped}"), &["--drain", "1"]);
        let first = server.pid();
        let mut hanging = connect(server.port);
        hanging.write_all(b"GET /hang HTTP/1.1\r\n\r\n").expect("sent");
        eventually("it is accepted", || server.answer().0 == 1);
        server.ask().expect("upgraded");
        if stopped == "stopped" {
            // It can do nothing about itself any more: its successor does.
            kill_process(pid(first), Signal::STOP).expect("sent");
        }
        assert!(is_alive(first), "it still drains");
        let begun = Instant::now();
        eventually("gone", || !is_alive(first));
        assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
        let mut rest = Vec::new();
        let _ = hanging.read_to_end(&mut rest);
        assert!(rest.is_empty());
        assert_eq!(server.answer().0, 2);
        if stopped == "running" {
            assert!(server.log().contains("1 connections were not finished"), "{}", server.log());
        }
    }
}

#[test]
fn a_predecessor_that_dies_leaves_the_service_to_the_successor() {
    // While it starts, and when it is ready and waits: the predecessor is stopped meanwhile, so that it decides nothing.
    for phase in ["starting", "ready"] {
        let server = Server::start(&format!("dies-{phase}"), &[]);
        let first = server.pid();
        let program = server.folder.join("real");
        copy(&example(), &program);
        server.replace(&format!("sleep 0.5; exec {} \"$@\"", program.display()));
        server.signal(Signal::USR2);
        eventually("one is starting", || server_children(first) == 1);
        if phase == "ready" {
            kill_process(pid(first), Signal::STOP).expect("sent");
            let second = server_child(first);
            let runs = || fs::read_link(format!("/proc/{second}/exe")).is_ok_and(|exe| exe == program);
            eventually("it is the program", runs);
            std::thread::sleep(Duration::from_millis(500));
            assert_eq!(server.pid(), first, "it takes nothing that it was not given");
        }
        kill_process(pid(first), Signal::KILL).expect("sent");
        eventually("the second one has the pid file", || server.pid() != first);
        assert_eq!(server.answer(), (2, server.pid()));
        let second = server.pid();
        assert_eq!(fs::read_link(format!("/proc/{second}/exe")).expect("a link"), program);
        kill_process(pid(second), Signal::KILL).expect("sent");
    }
}

#[test]
fn whoever_is_told_to_end_takes_a_starting_successor_along() {
    for signal in [Signal::TERM, Signal::QUIT] {
        let mut server = Server::start(&format!("ends-{}", signal.as_raw()), &[]);
        let first = server.pid();
        server.replace("exec sleep 1000");
        server.signal(Signal::USR2);
        eventually("one is starting", || server_children(first) == 1);
        let second = server_child(first);
        server.signal(signal);
        assert!(server.child.wait().expect("waited").success());
        assert!(!is_alive(second), "the service was to end");
        assert!(!server.folder.join("pid").exists());
    }
}

#[test]
fn a_forged_predecessor_is_not_believed() {
    let folder = Folder::new("forged");
    let run = |value: &str, input: Stdio| -> (ExitStatus, String) {
        let mut command = Command::new(example());
        command.arg("127.0.0.1:0").env("PORTGRANT_PREDECESSOR", value).stdin(input).stderr(Stdio::piped());
        let output = command.env_remove("LISTEN_FDS").output().expect("run");
        (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let own = std::process::id().to_string();
    let (ours, theirs) = transfer::pair().expect("a pair");
    let copy = || Stdio::from(theirs.try_clone().expect("a copy"));
    let (datagram, _other) = UnixDatagram::pair().expect("a pair");
    let file = File::open("/dev/null").expect("/dev/null");
    let cases: [(&str, Stdio, &str); 6] = [
        (&own, Stdio::null(), "descriptor 0 is no conversation with it"),
        (&own, Stdio::from(OwnedFd::from(datagram)), "descriptor 0 is no conversation with it"),
        (&own, Stdio::from(file), "descriptor 0 is no conversation with it"),
        ("1", copy(), "descriptor 0 leads to another process"),
        ("", copy(), "expected a process id"),
        ("12x", copy(), "expected a process id"),
    ];
    for (value, input, expected) in cases {
        let (status, said) = run(value, input);
        assert_eq!(status.code(), Some(i32::from(status::SYSTEM)), "{said}");
        assert!(said.contains(&format!("PORTGRANT_PREDECESSOR is '{value}'")) && said.contains(expected), "{said}");
    }

    // The right process, and a grandchild: it is not the one that was started.
    let script = folder.script("between", &format!("{} 127.0.0.1:0; exit $?", example().display()));
    let mut between = Command::new(script);
    between.env("PORTGRANT_PREDECESSOR", &own).stdin(copy()).stderr(Stdio::piped());
    let output = between.output().expect("run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("it did not start this process"), "{said}");

    // The right process and the right child, who is handed something else.
    transfer::send(ours.as_fd(), b"PORTGRANT=1\nPHASE=handover\nGENERATION=2\nSOCKET=web\nLEFT=0\n", &[])
        .expect("sent");
    let (_, said) = run(&own, copy());
    assert!(said.contains("1 names and 0 descriptors came"), "{said}");
}

#[test]
fn every_member_of_a_group_goes_over_with_what_waits_in_its_queue() {
    let server = Server::start("group", &["--workers", "4"]);
    let sockets = |process: u32| {
        let links = fs::read_dir(format!("/proc/{process}/fd")).expect("fds").flatten();
        links.filter_map(|entry| fs::read_link(entry.path()).ok()).collect::<BTreeSet<_>>()
    };
    let before = sockets(server.pid());
    // One with fewer workers: a member that closed would reset what waits in its queue.
    let fewer = "$(echo \"$@\" | sed 's/--workers 4/--workers 1/')";
    server.replace(&format!("sleep 0.5; exec {} {fewer}", example().display()));
    let clients = std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| server.ask());
        // Stopped, the old generation accepts nothing: the queues fill, of all members.
        let first = server.pid();
        eventually("one is starting", || server_children(first) == 1);
        kill_process(pid(first), Signal::STOP).expect("sent");
        let clients: Vec<TcpStream> = (0..64).map(|_| connect(server.port)).collect();
        std::thread::sleep(Duration::from_millis(800));
        kill_process(pid(first), Signal::CONT).expect("sent");
        upgrade.join().expect("joined").expect("upgraded");
        clients
    });
    for mut client in clients {
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("sent");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }
    let after = sockets(server.pid());
    let is_socket = |link: &&PathBuf| link.to_string_lossy().starts_with("socket:");
    let common = before.intersection(&after).filter(is_socket).count();
    assert!(common >= 5, "four listeners and the control socket: {before:?} {after:?}");
}

#[test]
fn descriptors_do_not_add_up() {
    let server = Server::start("descriptors", &["--workers", "2"]);
    let count = || {
        // What it is told of the other's end, and of ours, is still to be read.
        std::thread::sleep(Duration::from_millis(500));
        fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("fds").count()
    };
    server.upgrade();
    let before = count();
    for _ in 0..10 {
        server.upgrade();
    }
    server.replace("exit 1");
    for _ in 0..10 {
        server.ask().expect_err("it fails");
    }
    assert_eq!(count(), before);
}

#[test]
fn a_service_manager_is_told_by_whom_it_believes() {
    let folder = Folder::new("manager-socket");
    let manager = UnixDatagram::bind(folder.join("notify")).expect("bound");
    manager.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let heard = || {
        let messages = std::iter::repeat_with(|| message(&manager));
        messages.into_iter().find(|message| message != "WATCHDOG=1\n").expect("endless")
    };
    let server_folder = Folder::new("manager");
    copy(&example(), &server_folder.join("program"));
    let port = free_port();
    let endpoint = format!("127.0.0.1:{port}");
    let mut command = command(&server_folder, &[], &[&endpoint]);
    command.env("NOTIFY_SOCKET", folder.join("notify")).env("WATCHDOG_USEC", "1000000").env("WATCHDOG_PID", "1");
    let server = Server { child: command.spawn().expect("started"), folder: server_folder, port };
    assert_eq!(heard(), "READY=1\n");

    let upgraded = server.ask().expect("upgraded");

    assert!(heard().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    let second = upgraded.pid;
    let expected = format!("MAINPID={second}\nREADY=1\nSTATUS=generation 2, process {second}, took over\n");
    assert_eq!(heard(), expected, "in one message, as its sender is not believed afterwards");
    let environment = fs::read(format!("/proc/{}/environ", upgraded.pid)).expect("an environment");
    assert!(contains(&environment, b"WATCHDOG_USEC=") && !contains(&environment, b"WATCHDOG_PID="));

    eventually("the old one has ended", || !is_alive(server.child.id()));
    server.replace("exit 9");
    server.ask().expect_err("it fails");
    let reloading = heard();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(heard(), "READY=1\n");
    assert!(heard().starts_with("STATUS=the upgrade failed: the next generation, process "));
    server.signal(Signal::TERM);
    assert_eq!(heard(), "STOPPING=1\n");
}

/// systemd stops a main process gracefully only if that is its child, as which an orphan counts.
#[test]
fn when_the_service_manager_is_told_the_successors_pid_the_successor_is_an_orphan() {
    let manager_folder = Folder::new("orphan-socket");
    let manager = UnixDatagram::bind(manager_folder.join("notify")).expect("bound");
    manager.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let folder = Folder::new("orphan");
    copy(&example(), &folder.join("program"));
    let port = free_port();
    let mut command = command(&folder, &[], &[&format!("127.0.0.1:{port}")]);
    command.env("NOTIFY_SOCKET", manager_folder.join("notify"));
    let server = Server { child: command.spawn().expect("started"), folder, port };
    eventually("it serves", || fs::read_to_string(server.folder.join("pid")).is_ok_and(|pid| !pid.is_empty()));
    // So each predecessor is still there when its successor is looked at.
    let downloads = [(); 2].map(|()| {
        let mut download = connect(server.port);
        download.write_all(b"GET /drip/100 HTTP/1.0\r\n\r\n").expect("sent");
        eventually("it is accepted", || server.answer().0 > 0);
        let predecessor = server.pid();

        let asking = std::thread::scope(|scope| {
            let asking = scope.spawn(|| server.ask());
            let successor = main_pid(&manager);
            let parent = parent(successor);
            assert!(is_alive(predecessor) && !server.processes().contains(&parent), "the parent is process {parent}");
            asking.join().expect("joined")
        });

        assert_eq!(server.processes().len(), 2, "the starter is gone: {:?}", server.processes());
        asking.expect("upgraded");
        eventually("the download is over, and so is its server", || !is_alive(predecessor));
        download
    });
    for mut download in downloads {
        let mut all = Vec::new();
        download.read_to_end(&mut all).expect("to its end");
        assert!(all.len() > 100 * 1024, "{} bytes", all.len());
    }
}

/// The next message to the service manager.
fn message(manager: &UnixDatagram) -> String {
    let mut bytes = [0; 1024];
    let length = manager.recv(&mut bytes).expect("a message");
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

/// The process that the next MAINPID= names.
fn main_pid(manager: &UnixDatagram) -> u32 {
    loop {
        if let Some(pid) = message(manager).lines().find_map(|line| line.strip_prefix("MAINPID=")) {
            return pid.parse().expect("a pid");
        }
    }
}

fn parent(process: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it is there");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
    parent.trim().parse().expect("a pid")
}

/// A server whose successors wait for a line of a FIFO before they are ready.
fn with_hesitant_successors(name: &str, options: &[&str]) -> (Server, Folder) {
    let port = free_port();
    let lists = Folder::new(&format!("{name}-list"));
    let list = lists.join("list");
    fs::write(&list, format!("127.0.0.1:{port}\n")).expect("written");
    let server = Server::start_on(name, port, options, &[&format!("@{}", list.display())]);
    fs::remove_file(&list).expect("removed");
    let made = Command::new("mkfifo").arg(&list).status().expect("mkfifo");
    assert!(made.success());
    (server, lists)
}

/// The starter and the successor, once both run.
fn starting(server: &Server, predecessor: u32) -> (u32, u32) {
    eventually("there is a starter", || server_children(predecessor) == 1);
    let starter = server_child(predecessor);
    eventually("there is a successor", || server_children(starter) == 1);
    let successor = server_child(starter);
    let input = PathBuf::from(format!("/proc/{successor}/fd/0"));
    let is_taken = || fs::read_link(&input).is_ok_and(|file| file == Path::new("/dev/null"));
    eventually("it has taken the conversation", is_taken);
    assert_eq!(server.processes().len(), 3);
    (starter, successor)
}

#[test]
fn a_successor_that_starts_ends_with_its_starter_and_the_upgrade_fails_with_its_status() {
    let (server, _lists) = with_hesitant_successors("together", &["--start", "10"]);
    let first = server.pid();
    let upgrade = |signal: Signal, choose: fn((u32, u32)) -> u32| {
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| server.ask());
            let both = starting(&server, first);
            kill_process(pid(choose(both)), signal).expect("sent");
            let error = asking.join().expect("joined").expect_err("it ended").to_string();
            assert_eq!((server.processes(), server.pid()), (vec![first], first), "{error}");
            error
        })
    };
    let error = upgrade(Signal::ABORT, |(_, successor)| successor);
    assert!(error.contains("ended before it served: it ended with signal: 6"), "{error}");
    let error = upgrade(Signal::KILL, |(_, successor)| successor);
    assert!(error.contains("ended before it served: it ended with signal: 9"), "{error}");
    let error = upgrade(Signal::KILL, |(starter, _)| starter);
    assert!(error.contains("ended before it served"), "{error}");
}

#[test]
fn a_successor_that_hangs_while_it_starts_is_ended_with_its_starter() {
    let (server, _lists) = with_hesitant_successors("hangs", &["--start", "1"]);
    let first = server.pid();
    let error = server.ask().expect_err("it hangs").to_string();
    assert!(error.contains("it had 1.0 seconds, and was ended"), "{error}");
    assert_eq!((server.processes(), server.answer()), (vec![first], (1, first)));
    server.signal(Signal::USR2);
    starting(&server, first);
    server.signal(Signal::TERM);
    eventually("gone, all of them", || server.processes().is_empty());
}

#[test]
fn a_server_that_is_stopped_at_any_moment_of_an_upgrade_leaves_no_process() {
    for milliseconds in 0..30 {
        let (server, _lists) = with_hesitant_successors("any-moment", &[]);
        server.signal(Signal::USR2);
        std::thread::sleep(Duration::from_millis(milliseconds));
        server.signal(Signal::TERM);
        let left = || server.processes();
        eventually(&format!("nothing is left, after {milliseconds} ms"), || left().is_empty());
    }
}

#[test]
fn a_successor_whose_predecessor_died_while_it_starts_serves_and_leaves_no_starter() {
    let (server, lists) = with_hesitant_successors("alone", &[]);
    let first = server.pid();
    server.signal(Signal::USR2);
    let (starter, successor) = starting(&server, first);
    kill_process(pid(first), Signal::KILL).expect("sent");
    // pkill(1) by the program's name means the starter as well.
    kill_process(pid(starter), Signal::USR2).expect("sent");
    fs::write(lists.join("list"), format!("127.0.0.1:{}\n", server.port)).expect("written");
    eventually("it serves", || server.pid() == successor);
    assert_eq!((server.answer(), server.processes()), ((2, successor), vec![successor]));
}

#[test]
fn a_daemon_is_one_in_every_generation() {
    let folder = Folder::new("daemon");
    copy(&example(), &folder.join("program"));
    let port = free_port();
    // Relative paths: they are the same files for a successor, though the daemon left the folder.
    let mut command = Command::new("./program");
    let endpoint = format!("127.0.0.1:{port}");
    command.args(["--daemon", "--pid-file", "pid", "--control", "control", &endpoint]).current_dir(folder.join("."));
    let log = File::create(folder.join("log")).expect("a log");
    command.stdin(Stdio::null()).stderr(log).env_remove("LISTEN_FDS").env_remove("NOTIFY_SOCKET");
    let mut child = command.spawn().expect("started");
    assert!(child.wait().expect("waited").success());
    let server = Server { folder, port, child };
    let first = server.pid();
    assert_eq!(server.answer(), (1, first));
    for generation in 2..5 {
        let old = server.pid();
        server.signal(Signal::USR2);
        eventually("the next one serves", || server.answer() == (generation, server.pid()));
        let folder = fs::read_link(format!("/proc/{}/cwd", server.pid())).expect("a link");
        assert_eq!(folder, Path::new("/"));
        eventually("the old one has ended", || !is_alive(old));
    }
    let mut again = Command::new(server.folder.join("program"));
    again.arg("--daemon").arg("--pid-file").arg(server.folder.join("pid")).arg(format!("127.0.0.1:{}", free_port()));
    let output = again.output().expect("run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the daemon is up already") && said.contains(&format!("process {}", server.pid())), "{said}");
    server.signal(Signal::TERM);
    eventually("gone", || !server.folder.join("pid").exists() && !server.control().exists());
}

/// The processor time of `process` so far (proc_pid_stat(5)).
fn processor_time(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
    Duration::from_millis((ticks(11) + ticks(12)) * 1000 / 100)
}

/// A child that a server forks has copies of everything, so that closing is not enough to be rid of it in epoll(7).
/// Here the test has the copies.
#[test]
fn a_peer_that_is_sent_away_keeps_nobody_busy_although_somebody_has_a_copy_of_it() {
    let server = Server::start("copies", &[]);
    let process = server.pid();
    // By number, and which socket it is.
    let sockets = || -> BTreeSet<(i32, PathBuf)> {
        let all = fs::read_dir(format!("/proc/{process}/fd")).expect("it runs").flatten();
        let all = all.filter_map(|fd| Some((fd.file_name().to_str()?.parse().ok()?, fs::read_link(fd.path()).ok()?)));
        all.filter(|(_, socket)| socket.to_string_lossy().starts_with("socket:")).collect()
    };
    let before = sockets();
    let peers: Vec<OwnedFd> = (0..8).map(|_| silent_peer(&server.control())).collect();
    eventually("eight are kept", || sockets().len() == before.len() + 8);
    let kept: BTreeSet<_> = sockets().difference(&before).cloned().collect();
    let watched = pidfd_open(pid(process), PidfdFlags::empty()).expect("it runs");
    let copy = |number| pidfd_getfd(&watched, number, PidfdGetfdFlags::empty()).expect("copied");
    let copies: Vec<OwnedFd> = kept.iter().map(|(number, _)| copy(*number)).collect();
    let is_kept = |socket: &PathBuf| sockets().iter().any(|(_, there)| there == socket);
    let more: Vec<OwnedFd> = (0..8).map(|_| silent_peer(&server.control())).collect();
    eventually("they are sent away", || !kept.iter().any(|(_, socket)| is_kept(socket)));
    // Of the copies this is the hang-up.
    drop(peers);
    let before = processor_time(process);
    std::thread::sleep(Duration::from_secs(1));
    let spent = processor_time(process) - before;
    assert!(spent < Duration::from_millis(200), "it spins: {spent:?} of a second");
    drop((copies, more));
}

/// A peer of the control socket that says nothing.
fn silent_peer(control: &Path) -> OwnedFd {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket");
    connect_to(&socket, &SocketAddrUnix::new(control).expect("a path")).expect("connected");
    socket
}
