//! The three processes while a successor starts: predecessor, starter, successor.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Signal, kill_process};

use crate::server::{Server, eventually, pid, server_child, server_children};
use crate::stand_in::{Folder, free_port};

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
    assert!(error.contains("it was ended after 1.0 seconds"), "{error}");
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
