//! Generations that fail, die or are forged.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use portgrant_protocol::transfer;
use portgrant_server::status;
use rustix::process::{PidfdFlags, Signal, kill_process, pidfd_open};

use crate::server::{Server, copy, eventually, example, is_alive, pid, server_child, server_children};
use crate::stand_in::Folder;

/// What a program does instead of serving, and what is reported.
const FAILURES: &[(&str, &str)] = &[
    ("exit 7", "it ended with exit status: 7"),
    ("kill -SEGV $$", "it ended with signal: 11"),
    ("exec 0<&-; sleep 0.2; exit 3", "it ended with exit status: 3"),
    ("exec 0<&-; exec sleep 1000", "ended before it served"),
    ("exec sleep 1000", "it was ended after 1.0 seconds"),
];

#[test]
fn a_failed_upgrade_changes_nothing_and_its_cause_is_reported() {
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

/// Not a test: a successor that sends the given records, and ends.
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
fn a_successor_that_ends_before_it_serves_changes_nothing() {
    let server = Server::start("last-word", &[]);
    let before = (server.answer(), server.pid());
    let modes = modes(server.pid());
    assert!(modes.iter().any(|(link, _)| link.starts_with("socket:")), "{modes:?}");
    let cases = [
        ("PHASE=ready,LEFT=0", "it ended with exit status: 4"),
        ("PHASE=serving", "the answer is not valid"),
        ("PHASE=sleeping", "'sleeping' does not fit PHASE"),
        ("PHASE=failed,WHY=no more room", "cannot serve: no more room"),
    ];
    for (words, expected) in cases {
        server.replace(&format!(
            "export WORDS='{words}'\nexec '{}' --ignored --exact failures::successor --nocapture",
            test_program()
        ));
        let error = server.ask().expect_err(words).to_string();
        assert!(error.contains(expected), "{words}: {error}");
        assert_eq!((server.answer(), server.pid()), before, "{words}");
    }
    // The last one that asked is answered before its connection is closed.
    eventually("what is shared is as it was", || self::modes(server.pid()) == modes);
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
fn a_server_that_is_stopped_ends_its_starting_successor() {
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
fn a_forged_predecessor_is_refused() {
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
        (&own, Stdio::null(), "descriptor 0 is not connected to it"),
        (&own, Stdio::from(OwnedFd::from(datagram)), "descriptor 0 is not connected to it"),
        (&own, Stdio::from(file), "descriptor 0 is not connected to it"),
        ("1", copy(), "descriptor 0 is connected to another process"),
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
    assert!(said.contains("received 1 names and 0 descriptors"), "{said}");
}
