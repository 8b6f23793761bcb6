//! The server crate against the installed helper: asking for more while it runs, and its own Unix socket.

use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use portgrant_server::error::{MailboxError, Refused, SocketError};
use portgrant_server::{Error, Mailbox, Message, Request, Sockets};
use portgrant_tests::{BINDER, Running, World, both_installs};

both_installs![
    a_running_program_asks_for_sockets_and_gets_typed_ones,
    a_refusal_has_its_reason_in_the_error,
    a_mailbox_receives_one_port_more,
    a_mailbox_rejects_other_users_and_continues,
];

const MAILBOX: &str = "/tmp/server.sock";

fn helper() -> Request {
    Request::new().helper(BINDER)
}

/// Somebody with a connection to the mailbox has the helper pass a port over it.
fn pass(world: &World, user: &str, endpoint: &str) -> Running {
    let to: OwnedFd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    connect(std::os::fd::AsRawFd::as_raw_fd(&to), &UnixAddr::new(MAILBOX).expect("short")).expect("connect");
    world.as_user(user).fd(5, to).spawn([BINDER, "pass", "-l", endpoint, "--to", "5"])
}

fn a_running_program_asks_for_sockets_and_gets_typed_ones(world: &World) {
    world.policy("permit root 80 53/udp nntp\n");
    let request = helper().listen("web=127.0.0.1:80").and_then(|request| request.listen("53/udp"));
    let mut sockets = request.and_then(|request| request.listen("nntp")).and_then(Request::send).expect("granted");
    assert_eq!(sockets.names().collect::<Vec<_>>(), ["web", "53/udp", "119/tcp"]);
    let error = sockets.udp("web").expect_err("it is tcp");
    assert!(matches!(error.downcast_ref(), Some(SocketError::WrongKind { .. })), "{error}");
    let error = sockets.tcp_at("web", "127.0.0.2:80").expect_err("it is elsewhere");
    assert!(matches!(error.downcast_ref(), Some(SocketError::WrongAddress { .. })), "{error}");
    let web = sockets.tcp_at("web", "127.0.0.1:80").expect("still there");
    assert_eq!(sockets.udp("53/udp").expect("there").local_addr().expect("bound").port(), 53);
    let _client = TcpStream::connect("127.0.0.1:80").expect("connect");
    web.accept().expect("accept");
}

fn refused<T: std::fmt::Debug>(asked: Result<T, Error>) -> Message {
    let error = asked.expect_err("refused");
    let Some(Refused(refusal)) = error.downcast_ref() else { panic!("another error: {error}") };
    refusal.clone()
}

fn a_refusal_has_its_reason_in_the_error(world: &World) {
    world.policy("permit alice 80\npermit root 25 exec /usr/bin/true\n");
    let ask = |endpoint| helper().listen(endpoint).and_then(Request::send).map(|_: Sockets| ());
    let refusal = refused(ask("80"));
    assert_eq!((refusal.status, refusal.program), (77, None));
    let refusal = refused(ask("25"));
    assert_eq!(refusal.program.as_deref(), Some("/usr/bin/true"));
    let refusal = refused(ask("10.9.9.9:80"));
    assert_eq!(refusal.status, 77);
    world.policy("permit root 80\n");
    let refusal = refused(ask("10.9.9.9:80"));
    assert!((refusal.status, refusal.to_string().contains("no interface")) == (69, true), "{refusal:?}");
}

fn a_mailbox_receives_one_port_more(world: &World) {
    world.policy("permit root 80 443\n");
    let mailbox = Mailbox::bind(MAILBOX).expect("bound");
    assert_eq!(std::fs::metadata(MAILBOX).expect("there").permissions().mode() & 0o777, 0o600);
    for (endpoint, port) in [("80", 80), ("https=0.0.0.0:443", 443)] {
        let helper = pass(world, "root", endpoint);
        let received = mailbox.receive().expect("received");
        helper.wait(Duration::from_secs(10)).succeeds();
        let socket = received.into_iter().next().expect("one");
        assert_eq!(socket.local().expect("bound").port(), port);
        let listener = socket.into_tcp().expect("a listener");
        TcpStream::connect(("127.0.0.1", port)).expect("connect");
        listener.accept().expect("accept");
    }
    let helper = pass(world, "root", "81");
    refused(mailbox.receive());
    helper.wait(Duration::from_secs(10)).exits(77);
    drop(mailbox);
    assert!(!std::fs::exists(MAILBOX).expect("stat"));
}

fn a_mailbox_rejects_other_users_and_continues(world: &World) {
    world.policy("permit alice 81\npermit root 80\n");
    let mailbox = Mailbox::bind(MAILBOX).expect("bound").time_limit(Duration::from_secs(3));
    std::fs::set_permissions(MAILBOX, std::fs::Permissions::from_mode(0o666)).expect("chmod");
    // The user who connects counts, so alice connects herself.
    let script = "import socket, time\ns = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
        s.connect('/tmp/server.sock')\ntime.sleep(60)\n";
    let foreign = world.as_user("alice").spawn(["python3", "-c", script]);
    let error = mailbox.receive().expect_err("nothing came");
    assert!(matches!(error.downcast_ref(), Some(MailboxError::ForeignPeer { uid: 1000, .. })), "{error}");
    drop(foreign);
    let silent = world.as_root().spawn(["python3", "-c", script]);
    let error = mailbox.receive().expect_err("nothing came");
    assert!(matches!(error.downcast_ref(), Some(MailboxError::SilentPeer { .. })), "{error}");
    drop(silent);
    let helper = pass(world, "root", "80");
    let received = thread::scope(|scope| scope.spawn(|| mailbox.receive()).join()).expect("no panic");
    assert_eq!(received.expect("received").names().collect::<Vec<_>>(), ["80/tcp"]);
    helper.wait(Duration::from_secs(10)).succeeds();
}
