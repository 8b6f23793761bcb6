//! The daemon seen from outside: the example `daemon` is started, and the tests check what it leaves behind.
#![cfg(feature = "daemon")]

mod stand_in;

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use portgrant_server::daemon::Daemon;
use portgrant_server::error::DaemonError;
use rustix::process::{Pid, Signal, kill_process};
use stand_in::{Folder, free_port};

fn daemon(folder: &Folder) -> Command {
    let test = std::env::current_exe().expect("this program");
    let program = test.parent().and_then(|deps| deps.parent()).expect("a folder").join("examples/daemon");
    let mut command = Command::new(program);
    command.env_remove("LISTEN_FDS").env_remove("NOTIFY_SOCKET").env("PORTGRANT_BINDER", folder.granting_helper());
    command
}

fn start(folder: &Folder, pid_file: &Path, port: u16) -> Output {
    let mut command = daemon(folder);
    command.arg(pid_file).arg(format!("127.0.0.1:{port}")).current_dir(folder.join("."));
    command.stdin(Stdio::null()).output().expect("started")
}

fn answer(port: u16) -> String {
    let mut client = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).expect("it listens");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    answer
}

fn pid(file: &Path) -> Pid {
    let pid = std::fs::read_to_string(file).expect("a pid file").trim_end().parse().expect("a pid");
    Pid::from_raw(pid).expect("a pid")
}

/// Ends the daemon that a pid file names, also where a test fails.
struct End(PathBuf);

impl Drop for End {
    fn drop(&mut self) {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        if let Some(pid) = text.trim_end().parse().ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "not {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Fields of /proc/PID/stat after the name: state, ppid, pgrp, session, tty.
fn stat(process: &str) -> Vec<String> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    stat.rsplit(')').next().expect("fields").split_whitespace().map(str::to_owned).collect()
}

#[test]
fn exit_status_0_means_that_the_daemon_serves() {
    let (folder, port) = (Folder::new("serves"), free_port());
    let pid_file = folder.join("pid");
    let _end = End(pid_file.clone());

    let output = start(&folder, Path::new("pid"), port);

    assert!(output.status.success(), "{output:?}");
    let pid = pid(&pid_file);
    assert_eq!(answer(port), format!("pid {} generation 1\n", pid.as_raw_pid()), "at once, and by the file's pid");
    let own = stat("self");
    let stat = stat(&pid.as_raw_pid().to_string());
    assert_ne!(stat[1], std::process::id().to_string(), "it is not a child of the process that started it");
    assert_ne!(stat[3], pid.as_raw_pid().to_string(), "it does not lead its session");
    // Read, not asked of getsid(2): where the leader of this session is outside the pid namespace, it is 0.
    assert_ne!(stat[3], own[3], "it is in a new session");
    assert_eq!(stat[4], "0", "it has no terminal");
    let proc = |name: &str| PathBuf::from(format!("/proc/{}/{name}", pid.as_raw_pid()));
    assert_eq!(std::fs::read_link(proc("cwd")).expect("cwd"), Path::new("/"));
    for number in 0..3 {
        let target = std::fs::read_link(proc(&format!("fd/{number}"))).expect("open");
        assert_eq!(target, Path::new("/dev/null"), "descriptor {number}");
    }
    let status = std::fs::read_to_string(proc("status")).expect("status");
    assert!(status.contains("Umask:\t0022") && status.contains("SigBlk:\t0000000000000000"), "{status}");

    let second = start(&folder, &pid_file, free_port());
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(71));
    assert!(said.contains("the daemon is already running") && said.contains(&format!("process {}", pid.as_raw_pid())));

    kill_process(pid, Signal::HUP).expect("sent");
    eventually("reloaded", || answer(port).ends_with("generation 2\n"));
    kill_process(pid, Signal::TERM).expect("sent");
    eventually("gone, and its pid file with it", || !pid_file.exists());
}

#[test]
fn a_daemon_that_fails_to_start_passes_on_status_and_message() {
    let folder = Folder::new("fails");
    let pid_file = folder.join("pid");
    let mut command = daemon(&folder);
    let helper = folder.script("refuses", "exit 77");
    command.env("PORTGRANT_BINDER", &helper).arg(&pid_file).arg("127.0.0.1:8");
    let output = command.output().expect("started");
    assert_eq!(output.status.code(), Some(77), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("ended without an answer") && said.lines().count() == 1, "{said}");
    assert!(!pid_file.exists());

    // Ended by a signal, it says nothing.
    let helper = folder.script("kills", "kill -9 $PPID");
    let output = command.env("PORTGRANT_BINDER", &helper).output().expect("started");
    assert_eq!(output.status.code(), Some(71), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the daemon exited before it was ready"), "{said}");
    let _end = End(pid_file.clone());
    assert!(start(&folder, &pid_file, free_port()).status.success(), "and what it left is taken over");
}

#[test]
fn the_daemons_files_never_take_the_place_of_closed_standard_descriptors() {
    let (folder, port) = (Folder::new("closed"), free_port());
    let pid_file = folder.join("pid");
    let program = daemon(&folder);
    let script = format!("exec \"$0\" {} 127.0.0.1:{port} <&- >&- 2>&-", pid_file.display());
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &script]).arg(program.get_program()).env("PORTGRANT_BINDER", folder.granting_helper());
    let _end = End(pid_file.clone());
    assert!(shell.status().expect("started").success());
    let pid = pid(&pid_file);
    assert_eq!(answer(port), format!("pid {} generation 1\n", pid.as_raw_pid()));
    for number in 0..3 {
        let target = std::fs::read_link(format!("/proc/{}/fd/{number}", pid.as_raw_pid())).expect("open");
        assert_eq!(target, Path::new("/dev/null"), "descriptor {number}");
    }
}

#[test]
fn a_service_manager_is_notified_of_each_step() {
    let (folder, port) = (Folder::new("manager"), free_port());
    let manager = UnixDatagram::bind(folder.join("notify")).expect("bound");
    manager.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
    let heard = || {
        let mut bytes = [0; 512];
        let length = manager.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let mut command = daemon(&folder);
    command.arg("--foreground").arg(format!("127.0.0.1:{port}")).env("NOTIFY_SOCKET", folder.join("notify"));
    let mut child = command.spawn().expect("started");
    let pid = Pid::from_child(&child);
    assert_eq!(heard(), format!("STATUS=serving 127.0.0.1:{port}\n"));
    assert_eq!(heard(), "READY=1\n");
    kill_process(pid, Signal::HUP).expect("sent");
    assert!(heard().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(heard(), "READY=1\n");
    assert!(answer(port).ends_with("generation 2\n"));
    kill_process(pid, Signal::TERM).expect("sent");
    assert_eq!(heard(), "STOPPING=1\n");
    assert!(child.wait().expect("waited").success());
}

#[test]
fn a_process_with_threads_does_not_fork() {
    // This process itself: the test harness runs each test on a separate thread.
    let error = Daemon::new().start().expect_err("threads");
    assert!(matches!(error.downcast_ref(), Some(DaemonError::Threads { count: 2.. })), "{error}");
}
