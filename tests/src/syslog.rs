//! The world's log daemon: a datagram socket at /dev/log that keeps what programs send.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;

/// An open `/dev/log`. The kernel holds ten messages (`net.unix.max_dgram_qlen`): read them before there are more.
#[derive(Debug)]
pub struct Syslog {
    socket: UnixDatagram,
    lines: RefCell<Vec<String>>,
}

impl Syslog {
    pub(crate) fn open() -> Self {
        let socket = UnixDatagram::bind("/dev/log").expect("/dev/log");
        fs::set_permissions("/dev/log", fs::Permissions::from_mode(0o666)).expect("/dev/log");
        socket.set_nonblocking(true).expect("/dev/log");
        Self { socket, lines: RefCell::default() }
    }

    /// Every message so far, as it was sent (`<86>…`). A message is here as soon as its sender's send(2) returned.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut message = [0; 65536];
        while let Ok(length) = self.socket.recv(&mut message) {
            self.lines.borrow_mut().push(String::from_utf8_lossy(&message[..length]).into_owned());
        }
        self.lines.borrow().clone()
    }
}
