//! `--daemon`: the guard, and what it leaves behind.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::stand_in::{Folder, free_port};
use crate::{
    Ending, PORTGRANT, SERVER, answer, children, listens, lives, number_in, outcome, portgrant, signal, soon, spawned,
};

#[test]
fn a_daemon_is_ready_when_its_start_ends_and_removes_its_pid_file() {
    let folder = Folder::new("daemon");
    let endpoint = format!("127.0.0.1:{}", free_port());
    let pid_file = folder.join("pid");
    let started = |extra: &[&str]| {
        let mut command = portgrant(&folder.granting_helper());
        command.args(["exec", "-l", &endpoint, "--daemon", "--log=none", "--pid-file"]).arg(&pid_file).args(extra);
        outcome(command.args(["--", "python3", "-c", SERVER]))
    };
    for extra in [&[][..], &["--notify"], &["--verify"], &["--notify=20", "--verify=20"]] {
        assert_eq!(started(extra), (0, String::new(), String::new()), "{extra:?}");
        let guard = number_in(&pid_file).expect("a pid");
        let _ending = Ending(guard);
        assert_eq!(answer(&endpoint), "served\n");
        let [program] = children(guard)[..] else { panic!("one child") };
        let (status, _, complaint) = started(extra);
        assert_eq!(status, 71, "{complaint}");
        assert!(complaint.contains(&format!("process {guard} holds it")), "{complaint}");
        signal(guard, Signal::SIGTERM);
        soon("it ends", || !lives(guard) && !lives(program) && !pid_file.exists() && !listens(&endpoint));
    }
}

#[test]
fn a_failed_start_reports_the_reason_and_leaves_nothing() {
    let folder = Folder::new("daemon-fails");
    let lost = folder.script("lost", "");
    let written = Command::new("/bin/sh").args(["-c", "printf '#!/no/such/shell\\n' >\"$0\""]).arg(&lost).status();
    assert!(written.expect("/bin/sh").success());
    let lost = lost.to_str().expect("text").to_owned();
    let silent = "import time; time.sleep(60)";
    let cases: [(&[&str], &[&str], i32, &str); 6] = [
        (&[], &[&lost], 127, "its interpreter /no/such/shell does not exist"),
        (&["--notify=2"], &["python3", "-c", silent], 69, "it did not send READY=1"),
        (&["--verify=2"], &["python3", "-c", silent], 69, " seconds a connection has waited in the queue"),
        (&["--notify"], &["sh", "-c", "echo broken >&2; exit 5"], 5, "its exit status is 5"),
        (&["--notify"], &["true"], 69, "keep it in the foreground"),
        (&["--verify"], &["sh", "-c", "kill -9 $$"], 137, "its exit status is 137"),
    ];
    for (extra, program, expected, words) in cases {
        let endpoint = format!("127.0.0.1:{}", free_port());
        let pid_file = folder.join("pid");
        let mut command = portgrant(&folder.granting_helper());
        command.args(["exec", "-l", &endpoint, "--daemon", "--pid-file"]).arg(&pid_file).args(extra);
        let (status, _, complaint) = outcome(command.arg("--").args(program));
        assert_eq!(status, expected, "{program:?}: {complaint}");
        assert!(complaint.contains(words), "{complaint}");
        if program.contains(&"echo broken >&2; exit 5") {
            assert!(complaint.starts_with("broken\n"), "what it wrote is seen where it was started: {complaint}");
        }
        soon("nothing is left", || !pid_file.exists() && !listens(&endpoint));
    }
}

#[test]
fn an_interrupted_start_leaves_nothing_behind() {
    let folder = Folder::new("daemon-interrupted");
    let endpoint = format!("127.0.0.1:{}", free_port());
    let pid_file = folder.join("pid");
    let mut command = portgrant(&folder.granting_helper());
    command.args(["exec", "-l", &endpoint, "--daemon", "--notify", "--pid-file"]).arg(&pid_file);
    let starter = spawned(command.args(["--", "python3", "-c", "import time; time.sleep(60)"]));
    soon("the program runs", || number_in(&pid_file).is_some_and(|guard| !children(guard).is_empty()));
    let guard = number_in(&pid_file).expect("a pid");
    let program = children(guard)[0];
    signal(starter.0.id(), Signal::SIGINT);
    soon("all of it ends", || !lives(guard) && !lives(program) && !pid_file.exists() && !listens(&endpoint));
}

#[test]
fn the_guard_forwards_signals_and_ends_with_the_programs_status() {
    let folder = Folder::new("daemon-signals");
    let endpoint = format!("127.0.0.1:{}", free_port());
    let (pid_file, heard) = (folder.join("pid"), folder.join("heard"));
    let script = format!(
        "trap 'echo HUP >>{0}' HUP; trap 'echo USR1 >>{0}' USR1; trap 'echo TERM >>{0}; exit 3' TERM\n\
         echo ready >{0}; while :; do sleep 0.05; done",
        heard.display()
    );
    // This test is a subreaper in place of init, so it gets the guard's status.
    let reaper = "import ctypes, os, subprocess, sys\nctypes.CDLL(None).prctl(36, 1)\n\
        assert subprocess.call(sys.argv[1:]) == 0\nprint(os.waitstatus_to_exitcode(os.wait()[1]))";
    let mut command = Command::new("env");
    command.args(["--default-signal", "python3", "-c", reaper, PORTGRANT]);
    command.args(["exec", "-l", &endpoint, "--daemon", "--log=none", "--pid-file"]);
    command.arg(&pid_file).args(["--", "sh", "-c", &script]).env("PORTGRANT_BINDER", folder.granting_helper());
    let mut program = spawned(&mut command);
    soon("it is ready", || heard.exists() && pid_file.exists());
    let guard = number_in(&pid_file).expect("a pid");
    for (number, name) in [(Signal::SIGHUP, "HUP"), (Signal::SIGUSR1, "USR1"), (Signal::SIGTERM, "TERM")] {
        signal(guard, number);
        soon(name, || fs::read_to_string(&heard).expect("there").lines().any(|line| line == name));
    }
    let mut status = String::new();
    program.0.stdout.take().expect("a pipe").read_to_string(&mut status).expect("read");
    assert_eq!(status, "3\n");
    assert!(!pid_file.exists());
}

#[test]
fn the_program_does_not_outlive_its_guard() {
    let folder = Folder::new("daemon-killed");
    let endpoint = format!("127.0.0.1:{}", free_port());
    let pid_file = folder.join("pid");
    let start = || {
        let mut command = portgrant(&folder.granting_helper());
        command.args(["exec", "-l", &endpoint, "--daemon", "--verify", "--pid-file"]).arg(&pid_file);
        outcome(command.args(["--", "python3", "-c", SERVER]))
    };
    assert_eq!(start(), (0, String::new(), String::new()));
    let guard = number_in(&pid_file).expect("a pid");
    signal(guard, Signal::SIGKILL);
    soon("the program ends", || !listens(&endpoint));
    // The guard could not remove its pid file, but the lock is free.
    assert!(pid_file.exists());
    assert_eq!(start(), (0, String::new(), String::new()), "it is taken over");
    let guard = number_in(&pid_file).expect("a pid");
    signal(guard, Signal::SIGTERM);
    soon("it ends", || !pid_file.exists());
}

#[test]
fn many_sockets_get_their_numbers_although_the_guard_has_files_open() {
    let folder = Folder::new("daemon-many");
    let seen = folder.join("seen");
    let endpoints: Vec<String> = (0..20).map(|_| format!("127.0.0.1:{}/udp", free_port())).collect();
    let look = "import os, socket, sys; \
        print([socket.socket(fileno=n).getsockname()[1] for n in range(3, 23)], file=open(sys.argv[1], 'w'))";
    // Descriptors that this test inherited must not be in the way.
    let tidy = "import os, sys; os.closerange(3, 256); os.execv(sys.argv[1], sys.argv[1:])";
    let mut command = Command::new("python3");
    command.env("PORTGRANT_BINDER", folder.granting_helper()).args(["-c", tidy, PORTGRANT]);
    command.args(["exec", "--daemon", "--pid-file"]).arg(folder.join("pid"));
    command.args(endpoints.iter().flat_map(|endpoint| ["-l", endpoint])).args(["--", "python3", "-c", look]).arg(&seen);
    assert_eq!(outcome(&mut command), (0, String::new(), String::new()));
    soon("it has looked", || fs::read_to_string(&seen).is_ok_and(|text| text.ends_with('\n')));
    let ports: Vec<&str> =
        endpoints.iter().map(|endpoint| endpoint.trim_start_matches("127.0.0.1:").trim_end_matches("/udp")).collect();
    assert_eq!(fs::read_to_string(&seen).expect("there"), format!("[{}]\n", ports.join(", ")));
}

#[test]
fn the_guard_closes_the_sockets_and_the_callers_descriptors() {
    let folder = Folder::new("guard-holds");
    let endpoint = format!("127.0.0.1:{}", free_port());
    let pid_file = folder.join("pid");
    let script = format!(
        "exec 8</etc; exec '{PORTGRANT}' exec -l {endpoint} --daemon --verify --pid-file '{}' -- python3 -c \"$0\"",
        pid_file.display()
    );
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &script, SERVER]).env("PORTGRANT_BINDER", folder.granting_helper());
    assert_eq!(outcome(&mut command), (0, String::new(), String::new()));
    let guard = number_in(&pid_file).expect("a pid");
    let _ending = Ending(guard);
    let links = |pid: u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("readable").flatten();
        open.filter_map(|entry| fs::read_link(entry.path()).ok())
            .map(|link| link.display().to_string())
            .collect::<Vec<_>>()
    };
    let program = children(guard)[0];
    let given: Vec<String> = links(program).into_iter().filter(|link| link.starts_with("socket:")).collect();
    assert_eq!(given.len(), 1);
    let held = links(guard);
    assert!(!held.contains(&given[0]) && !held.iter().any(|link| link == "/etc"), "{held:?}");
    assert_eq!(fs::read_link(format!("/proc/{guard}/cwd")).expect("readable"), Path::new("/"));
    let mut client = TcpStream::connect(&endpoint).expect("it listens");
    let _ = client.write_all(b"\n");
}

#[test]
fn the_guard_does_not_spin_if_poll_fails_and_still_forwards_signals() {
    let folder = Folder::new("guard-rests");
    let endpoint = format!("127.0.0.1:{}", free_port());
    let pid_file = folder.join("pid");
    let mut command = portgrant(&folder.granting_helper());
    command.args(["exec", "-l", &endpoint, "--daemon", "--pid-file"]).arg(&pid_file);
    assert_eq!(outcome(command.args(["--", "python3", "-c", SERVER])), (0, String::new(), String::new()));
    let guard = number_in(&pid_file).expect("a pid");
    let _ending = Ending(guard);
    // poll(2) fails with EINVAL for more descriptors than may be open.
    let limited = Command::new("prlimit").args(["--nofile=0", "--pid", &guard.to_string()]).status();
    assert!(limited.expect("prlimit(1)").success());
    // The signal interrupts the poll(2) that was in progress.
    signal(guard, Signal::SIGWINCH);
    // A process that waits makes voluntary context switches; one that spins makes involuntary ones
    // (proc_pid_status(5)).
    let rests = || {
        let status = fs::read_to_string(format!("/proc/{guard}/status")).expect("it runs");
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).expect("there");
        count.trim().parse::<u64>().expect("a number")
    };
    let before = rests();
    soon("it rests between its looks", || rests() >= before + 10);
    signal(guard, Signal::SIGTERM);
    soon("it ends", || !lives(guard) && !pid_file.exists() && !listens(&endpoint));
}
