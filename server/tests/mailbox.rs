//! A server's own socket file: who may make it where, what it takes, and what it leaves behind.

mod stand_in;

use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use portgrant_protocol::transfer;
use portgrant_server::error::{HandoverError, MailboxError, Refused};
use portgrant_server::{Error, Mailbox};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use stand_in::Folder;

fn peer(path: &Path) -> OwnedFd {
    let peer = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket");
    connect(&peer, &SocketAddrUnix::new(path).expect("short")).expect("somebody listens");
    peer
}

fn send(path: &Path, record: &str, descriptors: &[OwnedFd]) {
    transfer::send(peer(path).as_fd(), record.as_bytes(), descriptors).expect("sent");
}

#[test]
fn sockets_sent_to_a_mailbox_arrive_with_their_names() {
    let folder = Folder::new("arrives");
    let mailbox = Mailbox::bind(folder.join("mailbox")).expect("bound");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = tcp.local_addr().expect("bound");
    send(mailbox.path(), "PORTGRANT=1\nSTATUS=0\nNAMES=web:dns\n", &[tcp.into(), udp.into()]);
    let mut sockets = mailbox.receive().expect("received");
    assert_eq!(sockets.tcp("web").expect("there").local_addr().expect("bound"), address);
    assert!(sockets.udp("dns").is_ok());
}

#[test]
fn only_its_own_user_can_reach_a_mailbox_and_its_file_is_removed() {
    let folder = Folder::new("mode");
    let mailbox = Mailbox::bind(folder.join("mailbox")).expect("bound");
    let path = mailbox.path().to_owned();
    let metadata = std::fs::symlink_metadata(&path).expect("there");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    drop(mailbox);
    assert!(std::fs::symlink_metadata(&path).is_err(), "the file is gone");
}

#[test]
fn a_file_that_a_dead_server_left_is_replaced() {
    let folder = Folder::new("dead");
    let path = folder.join("held");
    let held = std::os::unix::net::UnixListener::bind(&path).expect("bound");
    let error = Mailbox::bind(&path).expect_err("held, though by a socket of another kind").to_string();
    assert!(error.contains("another process uses"), "{error}");
    drop(held);

    let path = folder.join("left");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
    let mailbox = Mailbox::bind(&path).expect("replaced");
    send(mailbox.path(), "PORTGRANT=1\nSTATUS=77\nWHY=no\n", &[]);
    assert!(mailbox.receive().is_err_and(|error| error.downcast_ref::<Refused>().is_some()));
    let left: Vec<_> = std::fs::read_dir(path.parent().expect("a folder")).expect("read").flatten().collect();
    assert_eq!(left.len(), 2, "nothing was left beside the two: {left:?}");
}

#[test]
fn a_mailbox_never_replaces_another_file() {
    let folder = Folder::new("occupied");
    let path = folder.join("file");
    std::fs::write(&path, "precious").expect("written");
    assert!(matches!(
        Mailbox::bind(&path).as_ref().map_err(Error::downcast_ref),
        Err(Some(MailboxError::Occupied { .. }))
    ));
    assert_eq!(std::fs::read_to_string(&path).expect("still there"), "precious");

    let (link, target) = (folder.join("link"), folder.join("target"));
    drop(std::os::unix::net::UnixListener::bind(&target).expect("bound"));
    std::os::unix::fs::symlink(&target, &link).expect("a link");
    assert!(
        matches!(Mailbox::bind(&link).as_ref().map_err(Error::downcast_ref), Err(Some(MailboxError::Occupied { .. }))),
        "not even a link to a dead one"
    );
    assert!(std::fs::symlink_metadata(&target).is_ok());

    let live = Mailbox::bind(folder.join("live")).expect("bound");
    assert!(matches!(
        Mailbox::bind(live.path()).as_ref().map_err(Error::downcast_ref),
        Err(Some(MailboxError::Occupied { .. }))
    ));
    assert!(matches!(
        Mailbox::bind(folder.join("no/such/folder")).as_ref().map_err(Error::downcast_ref),
        Err(Some(MailboxError::Unusable { .. }))
    ));
    assert!(
        matches!(
            Mailbox::bind("x".repeat(200)).as_ref().map_err(Error::downcast_ref),
            Err(Some(MailboxError::Unusable { .. }))
        ),
        "longer than sun_path"
    );
}

#[test]
fn a_successors_file_is_not_removed() {
    let folder = Folder::new("successor");
    let old = Mailbox::bind(folder.join("mailbox")).expect("bound");
    std::fs::remove_file(old.path()).expect("removed");
    let new = Mailbox::bind(folder.join("mailbox")).expect("bound");
    drop(old);
    drop(peer(new.path()));
}

#[test]
fn a_silent_peer_does_not_block_a_mailbox() {
    let folder = Folder::new("silent");
    let mailbox = Mailbox::bind(folder.join("mailbox")).expect("bound").time_limit(Duration::from_millis(100));
    let silent = peer(mailbox.path());
    let began = Instant::now();
    assert!(matches!(
        mailbox.receive().as_ref().map_err(Error::downcast_ref),
        Err(Some(MailboxError::SilentPeer { .. }))
    ));
    assert!(began.elapsed() < Duration::from_secs(3));
    drop(silent);

    drop(peer(mailbox.path()));
    let error = mailbox.receive().expect_err("nor one that hangs up");
    assert!(matches!(error.downcast_ref(), Some(HandoverError::Transfer(transfer::TransferError::Ended))), "{error}");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    send(mailbox.path(), "PORTGRANT=1\nSTATUS=0\nNAMES=web\n", &[listener.into()]);
    assert!(mailbox.receive().is_ok_and(|sockets| sockets.len() == 1), "and it goes on");
}

#[test]
fn an_invalid_or_miscounted_answer_is_an_error() {
    let folder = Folder::new("wrong");
    let mailbox = Mailbox::bind(folder.join("mailbox")).expect("bound");
    for (record, expected) in [
        ("rubbish", "the answer is not valid"),
        ("PORTGRANT=1\nSTATUS=0\nNAMES=a:b\n", "received 2 names and 0 descriptors"),
        ("PORTGRANT=1\nSTATUS=0\nNAMES=a\nUID=0\n", "received 1 names and 0 descriptors"),
    ] {
        send(mailbox.path(), record, &[]);
        let error = mailbox.receive().expect_err(record).to_string();
        assert!(error.contains(expected), "{record:?}: {error}");
    }
}
