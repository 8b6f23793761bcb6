//! `portgrant pass`: one port more for a server that runs, bound for who asks and taken by whom the server lets.

use std::thread;

use portgrant_server::error::MailboxError;
use portgrant_server::{Error, Mailbox};
use portgrant_tests::{LAUNCHER, World, both_installs};

both_installs![
    a_running_server_gets_one_port_more_from_its_own_user,
    the_rejection_by_another_users_server_is_reported,
];

const SOCKET: &str = "/home/alice/server.sock";

fn a_running_server_gets_one_port_more_from_its_own_user(world: &World) {
    world.policy("permit alice 79\npermit alice 113 exec /usr/bin/true\n");
    let server = world.as_user("alice").spawn(["mailbox", SOCKET]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    // Bound, and listening (__SO_ACCEPTCON): between the two nobody is there to be asked.
    let listens = |line: &str| line.ends_with(SOCKET) && line.split(' ').nth(3) == Some("00010000");
    while !std::fs::read_to_string("/proc/thread-self/net/unix").expect("/proc").lines().any(listens) {
        assert!(std::time::Instant::now() < deadline, "no mailbox");
    }
    let pass = |endpoint| world.as_user("alice").run([LAUNCHER, "pass", "-l", endpoint, "--to", SOCKET]);
    pass("finger=79").succeeds().is_silent();
    let listening = world.listening();
    assert_eq!(listening.len(), 1);
    assert_eq!((listening[0].uid, listening[0].holders.as_slice()), (1000, [server.pid()].as_slice()));
    pass("finger=79").exits(69).complains("mailbox").complains("in use");
    pass("80").exits(77).complains("80/tcp is refused for alice (uid 1000)");
    pass("113").exits(77).complains("/usr/bin/true");
    // PG-1: who may reach the server is one thing, who may have the port another.
    let bob = world.as_user("bob").run([LAUNCHER, "pass", "-l", "79", "--to", SOCKET]);
    bob.exits(77).complains("nothing was passed to /home/alice/server.sock").complains("may not connect");
    assert_eq!(world.listening().len(), 1);
}

fn the_rejection_by_another_users_server_is_reported(world: &World) {
    world.policy("permit alice 79\n");
    let mailbox = Mailbox::bind("/tmp/root.sock").expect("bound");
    std::fs::set_permissions("/tmp/root.sock", std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("chmod");
    let pass = world.as_user("alice").spawn([LAUNCHER, "pass", "-l", "79", "--to", "/tmp/root.sock"]);
    let received = thread::scope(|scope| scope.spawn(|| mailbox.receive()).join()).expect("no panic");
    assert!(
        matches!(
            received.as_ref().map_err(Error::downcast_ref),
            Err(Some(MailboxError::ForeignPeer { uid: 1000, .. }))
        ),
        "{received:?}"
    );
    let outcome = pass.wait(std::time::Duration::from_secs(10));
    outcome.exits(77).complains("the server says: a message from uid 1000 to the mailbox was rejected");
    outcome.complains("only uid 0 and root");
    assert_eq!(world.listening(), []);
}
