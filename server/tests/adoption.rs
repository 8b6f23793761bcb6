//! Adoption of what a process is started with, seen from outside: the example `hello` is started with descriptors, and
//! a client asks it.

mod stand_in;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use stand_in::{Folder, free_port};

/// The example, which cargo builds beside the tests.
fn hello() -> PathBuf {
    let test = std::env::current_exe().expect("this program");
    let hello = test.parent().and_then(|deps| deps.parent()).expect("a folder").join("examples/hello");
    assert!(hello.is_file(), "{} is missing: cargo build -p portgrant-server --examples", hello.display());
    hello
}

/// A shell that ends as `hello`, by `script`, in which "$0" is hello; standard input and output are as given.
fn start(script: &str, input: OwnedFd, output: Stdio) -> Child {
    Command::new("/bin/sh")
        .args(["-c", script])
        .arg(hello())
        .env_remove("LISTEN_FDS")
        .stdin(input)
        .stdout(output)
        .stderr(Stdio::piped())
        .spawn()
        .expect("/bin/sh")
}

/// What a server says that ends by itself.
fn complaint(child: Child) -> String {
    let Output { status, stderr, .. } = child.wait_with_output().expect("waited");
    assert!(status.signal().is_none() && !status.success(), "{status}");
    String::from_utf8(stderr).expect("text")
}

fn answer(address: SocketAddr) -> String {
    let mut client = TcpStream::connect(address).expect("connected");
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("sent");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("answered");
    answer
}

/// Asks the server for its answer, and ends it.
fn answer_of(mut child: Child, address: SocketAddr) -> String {
    let answer = answer(address);
    child.kill().expect("it still runs");
    child.wait().expect("waited");
    answer
}

fn listener() -> (OwnedFd, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("bound");
    (listener.into(), address)
}

fn null() -> OwnedFd {
    std::fs::File::open("/dev/null").expect("/dev/null").into()
}

#[test]
fn every_announced_socket_is_served() {
    let ((first, first_at), (second, second_at)) = (listener(), listener());
    let script = "export LISTEN_FDS=2 LISTEN_PID=$$ LISTEN_FDNAMES=a:b; exec \"$0\" 3<&0 4<&1 </dev/null >/dev/null";
    let mut child = start(script, first, Stdio::from(second));
    let uid = rustix::process::getuid().as_raw();
    for address in [first_at, second_at] {
        let answer = answer(address);
        assert!(answer.ends_with(&format!("hello from uid {uid} at {address}\n")), "{answer}");
    }
    child.kill().expect("it still runs");
    child.wait().expect("waited");
}

#[test]
fn the_socket_on_descriptor_0_is_served_as_inetd_gives_it() {
    let (socket, address) = listener();
    let child = start("exec \"$0\" --inetd >&0", socket, Stdio::null());
    assert!(answer_of(child, address).contains(&format!("at {address}")));
}

#[test]
fn each_kind_of_wrong_inherited_descriptor_has_its_message() {
    /// What the shell does before it becomes the server, and what that complains of.
    const WRONG: &[(&str, &str)] = &[
        ("export LISTEN_FDS=1 LISTEN_PID=1; exec \"$0\" 3<&0", "LISTEN_PID is 1, but this process is"),
        ("export LISTEN_FDS=1; unset LISTEN_PID; exec \"$0\" 3<&0", "LISTEN_PID is ''"),
        ("export LISTEN_FDS=many LISTEN_PID=$$; exec \"$0\" 3<&0", "LISTEN_FDS is 'many'; expected 1 to 253"),
        ("export LISTEN_FDS=4096 LISTEN_PID=$$; exec \"$0\" 3<&0", "LISTEN_FDS is 4096; at most 253 are taken"),
        (
            "export LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES='[::1]:80'; exec \"$0\" 3<&0",
            "LISTEN_FDNAMES has 4 names, but LISTEN_FDS is 1 (a name cannot contain a colon)",
        ),
        (
            "export LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_PIDFDID=1; exec \"$0\" 3<&0",
            "LISTEN_PIDFDID is 1, but this process is",
        ),
        (
            "export LISTEN_FDS=2 LISTEN_PID=$$ LISTEN_FDNAMES=a:b; exec \"$0\" 3<&0",
            "descriptor 4 ('b') was not inherited",
        ),
        (
            "export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" 3</dev/null",
            "'unknown' is of the wrong kind: it is not a socket",
        ),
        ("exec \"$0\" --inetd </dev/null", "'descriptor 0' is of the wrong kind: it is not a socket"),
        ("exec \"$0\" --inetd <&-", "'descriptor 0' is of the wrong kind: it is not a socket"),
    ];
    for (script, expected) in WRONG {
        let complaint = complaint(start(script, listener().0, Stdio::null()));
        assert!(complaint.contains(expected), "{script}: {complaint}");
    }
}

#[test]
fn a_connection_or_an_unlistening_socket_on_descriptor_0_is_not_listening() {
    let (_listener, address) = listener();
    let connection = TcpStream::connect(address).expect("connected");
    let complaint = complaint(start("exec \"$0\" --inetd", connection.into(), Stdio::null()));
    assert!(complaint.contains("'descriptor 0' is not listening"), "{complaint}");
}

#[test]
fn a_server_without_inherited_sockets_asks_the_helper() {
    let folder = Folder::new("asks");
    let helper = folder.granting_helper();
    for with in ["", "env --ignore-signal=CHLD"] {
        let port = free_port();
        let script = format!("PORTGRANT_BINDER='{}' exec {with} \"$0\" 127.0.0.1:{port}", helper.display());
        let child = start(&script, null(), Stdio::null());
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        while TcpStream::connect(address).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(answer_of(child, address).contains(&format!("at {address}")));
    }
}

#[test]
fn a_helper_that_fails_is_reported_also_with_sigchld_ignored() {
    let folder = Folder::new("fails");
    let complaint_with = |helper: PathBuf| {
        let exec = "exec env --ignore-signal=CHLD \"${0%hello}dns\" 127.0.0.1:8/udp";
        complaint(start(&format!("PORTGRANT_BINDER='{}' {exec}", helper.display()), null(), Stdio::null()))
    };
    let message = complaint_with(folder.script("dies", "exit 3"));
    assert!(message.contains("ended without an answer") && message.contains("SIGCHLD is ignored"), "{message}");
    let message = complaint_with(folder.join("not-there"));
    assert!(message.contains("portgrant-binder is not installed") && message.contains("not-there"), "{message}");
    let unusable = folder.script("unusable", "");
    let message = complaint_with({
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(&unusable, mode).expect("chmod");
        unusable
    });
    assert!(message.contains("cannot run the helper") && message.contains("Permission denied"), "{message}");
}
