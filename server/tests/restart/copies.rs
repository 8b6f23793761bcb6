//! What is closed here but open elsewhere: closing is not enough to be rid of it in epoll(7).

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::server::{Server, eventually, pid};

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
fn a_rejected_peer_does_not_cause_spinning_even_if_its_socket_was_copied() {
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
    connect(&socket, &SocketAddrUnix::new(control).expect("a path")).expect("connected");
    socket
}
