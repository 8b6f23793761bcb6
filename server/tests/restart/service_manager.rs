//! What a service manager learns of an upgrade, and from which process.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixDatagram;

use rustix::process::Signal;

use crate::server::{Server, TIME_LIMIT, command, connect, contains, copy, eventually, example, is_alive};
use crate::stand_in::{Folder, free_port};

#[test]
fn the_service_manager_is_notified_by_its_main_process() {
    let folder = Folder::new("manager-socket");
    let manager = UnixDatagram::bind(folder.join("notify")).expect("bound");
    manager.set_read_timeout(Some(TIME_LIMIT)).expect("a time-out");
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
    assert!(heard().starts_with("STATUS=the upgrade failed: the next generation (process "));
    server.signal(Signal::TERM);
    assert_eq!(heard(), "STOPPING=1\n");
}

/// systemd stops a main process gracefully only if that is its child, as which an orphan counts.
#[test]
fn the_successor_is_an_orphan_when_the_service_manager_learns_its_pid() {
    let manager_folder = Folder::new("orphan-socket");
    let manager = UnixDatagram::bind(manager_folder.join("notify")).expect("bound");
    manager.set_read_timeout(Some(TIME_LIMIT)).expect("a time-out");
    let folder = Folder::new("orphan");
    copy(&example(), &folder.join("program"));
    let port = free_port();
    let mut command = command(&folder, &[], &[&format!("127.0.0.1:{port}")]);
    command.env("NOTIFY_SOCKET", manager_folder.join("notify"));
    let server = Server { child: command.spawn().expect("started"), folder, port };
    eventually("it serves", || fs::read_to_string(server.folder.join("pid")).is_ok_and(|pid| !pid.is_empty()));
    // So each predecessor is still there when the test checks its successor.
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
