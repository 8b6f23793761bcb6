//! `portgrant pass` to the server crate's mailbox, and to other files.

#[path = "../../server/tests/stand_in/mod.rs"]
mod stand_in;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use portgrant_protocol::transfer;
use portgrant_server::error::Refused;
use portgrant_server::{Error, Mailbox, Sockets};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, accept, bind, listen, socket};
use stand_in::{Folder, free_port};

fn pass(helper: &Path, endpoints: &[&str], to: &Path) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portgrant"));
    command.env("PORTGRANT_BINDER", helper).stdin(Stdio::null()).arg("pass");
    command.args(endpoints.iter().flat_map(|endpoint| ["-l", endpoint])).arg("--to").arg(to);
    let Output { status, stdout, stderr } = command.output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code().expect("it ends by itself"), text(stdout), text(stderr))
}

fn endpoint() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// The result of `portgrant pass`, and what the mailbox received.
fn to_mailbox(helper: &Path, endpoints: &[&str], path: &Path) -> ((i32, String, String), Result<Sockets, Error>) {
    let mailbox = Mailbox::bind(path).expect("bound");
    thread::scope(|scope| {
        let received = scope.spawn(|| mailbox.receive());
        (pass(helper, endpoints, path), received.join().expect("no panic"))
    })
}

#[test]
fn a_running_server_gets_the_sockets_and_its_answer_decides_the_status() {
    let folder = Folder::new("pass");
    let (one, two) = (format!("web={}", endpoint()), format!("{}/udp", endpoint()));
    let path = folder.join("socket");
    let (message, received) = to_mailbox(&folder.granting_helper(), &[&one, &two], &path);
    assert_eq!(message, (0, String::new(), String::new()));
    let mut sockets = received.expect("received");
    assert_eq!(sockets.names().next(), Some("web"));
    sockets.tcp("web").expect("it listens");
}

#[test]
fn a_refusal_is_printed_and_reaches_the_servers_log() {
    let folder = Folder::new("pass-refused");
    let record =
        "PORTGRANT=1\nSTATUS=77\nKIND=refused\nWHAT=80/tcp is refused for alice\nWHY=no rule permits it\nFIX=ask\n";
    let (message, received) = to_mailbox(&folder.answering_helper(record, 0), &["80"], &folder.join("socket"));
    let expected = "portgrant: 80/tcp is refused for alice\n  why: no rule permits it\n  fix: ask\n";
    assert_eq!(message, (77, String::new(), expected.to_owned()));
    assert!(
        matches!(received.as_ref().map_err(Error::downcast_ref), Err(Some(Refused(refusal))) if refusal.status == 77)
    );
}

#[test]
fn a_path_without_a_server_is_reported_before_anything_is_bound() {
    let folder = Folder::new("pass-nowhere");
    let trace = folder.join("was-run");
    let helper = folder.script("tracing", &format!("touch '{}'; exit 71", trace.display()));
    let (plain, stream, dead) = (folder.join("plain"), folder.join("stream"), folder.join("dead"));
    std::fs::write(&plain, "").expect("written");
    let _stream = UnixListener::bind(&stream).expect("bound");
    let gone = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).expect("a socket");
    bind(&gone, &SocketAddrUnix::new(&dead).expect("short")).expect("bound");
    drop(gone);
    let long = folder.join(&"x".repeat(120));
    for (to, status, expected) in [
        (folder.join("nothing"), 69, "there is no such file"),
        (plain, 64, "it is not a socket"),
        (stream, 64, "another type than SOCK_SEQPACKET"),
        (dead, 69, "no process listens on it"),
        (long, 71, "name too long"),
    ] {
        let (found, output, complaint) = pass(&helper, &["80"], &to);
        assert_eq!((found, output.as_str()), (status, ""), "{complaint}");
        assert!(complaint.starts_with("portgrant: nothing was passed to /") && complaint.contains("  fix: "));
        assert!(complaint.to_lowercase().contains(&expected.to_lowercase()), "{complaint}");
    }
    assert!(!trace.exists(), "the helper was never asked");
}

/// A server that accepts one connection, and calls `serve` with it.
fn serving(path: &Path, serve: impl FnOnce(OwnedFd) + Send + 'static) -> thread::JoinHandle<()> {
    let listener = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).expect("a socket");
    bind(&listener, &SocketAddrUnix::new(path).expect("short")).expect("bound");
    listen(&listener, 1).expect("listening");
    thread::spawn(move || serve(accept(&listener).expect("accepted")))
}

#[test]
fn each_answer_of_the_server_is_reported() {
    let folder = Folder::new("pass-answers");
    let helper = folder.granting_helper();
    let answering = |record: &'static str| {
        move |peer: OwnedFd| {
            transfer::receive(peer.as_fd()).expect("received");
            transfer::send(peer.as_fd(), record.as_bytes(), &[]).expect("sent");
        }
    };
    type Serve = Box<dyn FnOnce(OwnedFd) + Send>;
    let cases: [(&str, Serve, i32, &str); 8] = [
        ("reads", Box::new(|peer| drop(transfer::receive(peer.as_fd()))), 0, ""),
        (
            "wants",
            Box::new(answering("PORTGRANT=1\nSTATUS=77\nWHY=it is full\nFIX=wait\n")),
            77,
            "the server says: it is full",
        ),
        ("part", Box::new(answering("PORTGRANT=1\nSTATUS=0\nNAMES=other\n")), 69, "the server took other"),
        ("old", Box::new(answering("PORTGRANT=2\nSTATUS=0\nNAMES=web\n")), 64, "version"),
        ("noise", Box::new(answering("hello")), 64, "'hello'"),
        (
            "hasty",
            Box::new(|peer| {
                let record = b"PORTGRANT=1\nSTATUS=77\nWHY=not from you\nFIX=ask\n";
                transfer::send(peer.as_fd(), record, &[]).expect("sent");
            }),
            77,
            "the server says: not from you",
        ),
        ("gone", Box::new(drop), 69, "without reading"),
        (
            "unread",
            Box::new(|peer| {
                // Wait until the record has arrived: otherwise it might be not sent instead of unread.
                let mut watched = [rustix::event::PollFd::new(&peer, rustix::event::PollFlags::IN)];
                rustix::event::poll(&mut watched, None).expect("polled");
            }),
            69,
            "without reading",
        ),
    ];
    for (name, serve, status, expected) in cases {
        let path = folder.join(name);
        let server = serving(&path, serve);
        let (found, output, complaint) = pass(&helper, &[&format!("web={}", endpoint())], &path);
        assert_eq!((found, output.as_str()), (status, ""), "{name}: {complaint}");
        assert!(complaint.contains(expected), "{name}: {complaint}");
        server.join().expect("no panic");
    }
}

#[test]
fn a_wrong_word_is_a_usage_error() {
    let nowhere = Path::new("/nonexistent");
    for (words, expected) in [
        (&["pass", "-l", "80"][..], "add --to PATH"),
        (&["pass", "--to", "/tmp/x"], "-l ENDPOINT"),
        (&["pass", "-l", "0", "--to", "/tmp/x"], "'0' is not a valid port"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portgrant"));
        let output = command.env("PORTGRANT_BINDER", nowhere).args(words).output().expect("it runs");
        assert_eq!(output.status.code(), Some(64));
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(complaint.contains(expected), "{complaint}");
    }
}
