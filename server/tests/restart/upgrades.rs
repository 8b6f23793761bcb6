//! Upgrades that succeed, and what they keep.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use crate::server::{
    Server, connect, contains, copy, eventually, example, get, is_alive, parsed, pid, server_children,
};
use crate::stand_in::{Folder, free_port};

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
fn an_upgrade_follows_a_symbolic_link_and_keeps_folder_and_arguments() {
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

#[test]
fn sighup_upgrades_only_if_the_server_chose_so_and_sigwinch_does_nothing() {
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
fn a_new_configuration_that_fails_is_reported_with_the_successors_message() {
    let port = free_port();
    let folder = Folder::new("configuration-file");
    let list = folder.join("list");
    let write = |lines: &str| fs::write(&list, lines).expect("written");
    write(&format!("web=127.0.0.1:{port}\nold=127.0.0.1:{}\n", free_port()));
    let argument = format!("@{}", list.display());
    let server = Server::start_on("configuration", port, &[], &[&argument]);

    write("not an endpoint\n");
    let error = server.ask().expect_err("no endpoint").to_string();
    assert!(error.contains("cannot serve: 'not an endpoint' is not a valid endpoint"), "{error}");
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
    assert_eq!(parsed(&get(new, "/")).0, 2);
    write(&format!("http=127.0.0.1:{port}\n"));
    assert_eq!(server.ask().expect("upgraded").closed, ["old", "more"]);
    eventually("what is closed refuses", || TcpStream::connect(("127.0.0.1", new)).is_err());
}

#[test]
fn a_second_upgrade_is_refused_until_the_last_one_is_over() {
    let server = Server::start("busy", &["--start", "1.5", "--drain", "3"]);
    let serving = server.pid();
    server.replace("exec sleep 1000");
    let first = std::thread::scope(|scope| {
        let first = scope.spawn(|| server.ask());
        eventually("one is starting", || server.processes().len() == 1 && server_children(serving) == 1);
        let error = server.ask().expect_err("busy").to_string();
        assert!(error.contains("another upgrade is in progress") && error.contains("is starting and has"), "{error}");
        server.signal(Signal::USR2);
        first.join().expect("joined").expect_err("it hangs").to_string()
    });
    assert!(first.contains("was not ready in time"), "{first}");
    eventually("the signal's refusal is in the log", || server.log().contains("another upgrade is in progress"));

    server.restore();
    let _hanging = {
        let mut stream = connect(server.port);
        stream.write_all(b"GET /hang HTTP/1.1\r\n\r\n").expect("sent");
        stream
    };
    eventually("it is accepted", || server.answer().0 == 1);
    server.ask().expect("upgraded");
    let error = server.ask().expect_err("busy").to_string();
    let expected = format!("process {serving} still has connections to finish, and ");
    assert!(error.contains("the last upgrade is not finished") && error.contains(&expected), "{error}");
    eventually("it is over", || !is_alive(serving));
    assert_eq!(server.ask().expect("upgraded").generation, 3);
}

#[test]
fn the_old_generation_finishes_its_connections() {
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
    (parsed(&String::from_utf8_lossy(&body)).0, connection)
}

#[test]
fn the_drain_limit_ends_a_hanging_connection_and_a_hanging_process() {
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
fn every_socket_of_a_group_keeps_the_connections_in_its_queue() {
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
fn upgrades_leak_no_descriptor() {
    let server = Server::start("descriptors", &["--workers", "2"]);
    let count = || {
        // The records about the other's end, and ours, are still to be read.
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
fn a_daemon_stays_a_daemon_in_every_generation() {
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
    assert!(server.control().exists(), "in the folder in which it was started");
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
    assert!(
        said.contains("the daemon is already running") && said.contains(&format!("process {}", server.pid())),
        "{said}"
    );
    server.signal(Signal::TERM);
    eventually("gone", || !server.folder.join("pid").exists() && !server.control().exists());
}
