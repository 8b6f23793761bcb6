//! A server under test: the example `generations` with a separate program file, and the requests to it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portgrant_server::Error;
use portgrant_server::restart::{Upgraded, ask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::stand_in::{Folder, free_port};

pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(20);

/// A server with a separate program file, pid file and control socket. All of its generations end with it.
pub(crate) struct Server {
    pub(crate) folder: Folder,
    pub(crate) port: u16,
    pub(crate) child: Child,
}

impl Server {
    pub(crate) fn start(name: &str, options: &[&str]) -> Server {
        let port = free_port();
        Server::start_on(name, port, options, &[&format!("web=127.0.0.1:{port}")])
    }

    pub(crate) fn start_on(name: &str, port: u16, options: &[&str], endpoints: &[&str]) -> Server {
        let folder = Folder::new(name);
        copy(&example(), &folder.join("program"));
        let child = command(&folder, options, endpoints).spawn().expect("started");
        let server = Server { folder, port, child };
        // Its socket listens before that.
        eventually("it serves", || fs::read_to_string(server.folder.join("pid")).is_ok_and(|pid| !pid.is_empty()));
        server
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.folder.join("control")
    }

    pub(crate) fn ask(&self) -> Result<Upgraded, Error> {
        ask(self.control(), TIME_LIMIT)
    }

    /// Upgrades, and waits until the predecessor has ended.
    pub(crate) fn upgrade(&self) -> Upgraded {
        let old = self.pid();
        let upgraded = self.ask().expect("upgraded");
        eventually("the old one has ended", || !is_alive(old));
        upgraded
    }

    /// The process that serves, by the pid file.
    pub(crate) fn pid(&self) -> u32 {
        let text = fs::read_to_string(self.folder.join("pid")).expect("a pid file");
        text.trim_end().parse().expect("a pid")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(pid(self.pid()), signal).expect("sent");
    }

    /// Puts a script in the program's place.
    pub(crate) fn replace(&self, script: &str) {
        let script = self.folder.script("replacement", script);
        fs::rename(script, self.folder.join("program")).expect("renamed");
    }

    /// Puts the program back.
    pub(crate) fn restore(&self) {
        copy(&example(), &self.folder.join("original"));
        fs::rename(self.folder.join("original"), self.folder.join("program")).expect("renamed");
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).expect("a log")
    }

    /// Which generation answers, of which process.
    pub(crate) fn answer(&self) -> (u64, u32) {
        parsed(&get(self.port, "/"))
    }

    /// The pids of all its processes, by whatever program: its folder stands in their arguments.
    pub(crate) fn processes(&self) -> Vec<u32> {
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
        let deadline = Instant::now() + TIME_LIMIT;
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

pub(crate) fn test_program() -> String {
    std::env::current_exe().expect("this program").display().to_string()
}

pub(crate) fn example() -> PathBuf {
    let test = std::env::current_exe().expect("this program");
    test.parent().and_then(|deps| deps.parent()).expect("a folder").join("examples/generations")
}

pub(crate) fn command(folder: &Folder, options: &[&str], endpoints: &[&str]) -> Command {
    let mut command = Command::new(folder.join("program"));
    command.arg("--control").arg(folder.join("control")).arg("--pid-file").arg(folder.join("pid"));
    command.args(options).args(endpoints);
    let log = File::options().append(true).create(true).open(folder.join("log")).expect("a log");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.env_remove("LISTEN_FDS").env_remove("NOTIFY_SOCKET").env("PORTGRANT_BINDER", folder.granting_helper());
    command
}

/// By another program: a file that this process had open for writing might be found busy.
pub(crate) fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().expect("cp").success());
}

pub(crate) fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|window| window == part)
}

pub(crate) fn pid(number: u32) -> Pid {
    Pid::from_raw(number.cast_signed()).expect("a pid")
}

/// Whether any of its threads runs: the first may have ended before the others.
pub(crate) fn is_alive(process: u32) -> bool {
    let Ok(exit) = pidfd_open(pid(process), PidfdFlags::empty()) else { return false };
    poll(&mut [PollFd::new(&exit, PollFlags::IN)], Some(&Timespec::default())) == Ok(0)
}

pub(crate) fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + TIME_LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "not so: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).expect("it listens");
    stream.set_read_timeout(Some(TIME_LIMIT)).expect("a time-out");
    stream
}

pub(crate) fn get(port: u16, path: &str) -> String {
    let mut stream = connect(port);
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// `generation N of version V, process P, …`
pub(crate) fn parsed(answer: &str) -> (u64, u32) {
    let after = |word: &str| answer.split(word).nth(1).and_then(|rest| rest.split([' ', ',']).next());
    let number = |word: &str| after(word).and_then(|number| number.parse::<u64>().ok()).expect(answer);
    (number("generation "), u32::try_from(number("process ")).expect(answer))
}

pub(crate) fn children(process: u32) -> String {
    fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default()
}

pub(crate) fn server_children(process: u32) -> usize {
    children(process).split_whitespace().count()
}

pub(crate) fn server_child(process: u32) -> u32 {
    children(process).trim().parse().expect("one child")
}
