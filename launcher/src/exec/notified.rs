//! `--notify`: the guard's socket for sd_notify(3), where the program reports that it is ready.

use std::ffi::CString;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, UnixCredentials, bind, recvmsg, setsockopt, sockopt};

/// Variables of the caller's service manager. The program must notify the guard instead.
const OUTER: [&[u8]; 3] = [b"NOTIFY_SOCKET=", b"WATCHDOG_USEC=", b"WATCHDOG_PID="];

/// An abstract socket whose name the kernel chose. Anybody can send to it, so the sender is checked.
pub(crate) struct Notified {
    socket: UnixDatagram,
    name: Vec<u8>,
    time_limit: Duration,
    ready: bool,
}

impl Notified {
    pub(crate) fn new(time_limit: Duration) -> io::Result<Notified> {
        let socket = UnixDatagram::unbound()?;
        bind(socket.as_raw_fd(), &UnixAddr::new_unnamed())?;
        setsockopt(&socket, sockopt::PassCred, &true)?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let name = address.as_abstract_name().ok_or(io::ErrorKind::AddrNotAvailable)?.to_owned();
        Ok(Notified { socket, name, time_limit, ready: false })
    }

    /// How long the program may take.
    pub(crate) fn time_limit(&self) -> Duration {
        self.time_limit
    }

    pub(crate) fn environment(&self, environment: Vec<CString>) -> Vec<CString> {
        let is_kept = |entry: &CString| !OUTER.iter().any(|variable| entry.as_bytes().starts_with(variable));
        let ours = CString::new([b"NOTIFY_SOCKET=@", self.name.as_slice()].concat());
        environment.into_iter().filter(is_kept).chain(ours).collect()
    }

    /// Whether READY=1 has arrived by now. Other messages are read and dropped.
    pub(crate) fn is_ready(&mut self) -> bool {
        let own = nix::unistd::geteuid().as_raw();
        while let Some((message, sender)) = self.receive() {
            let from_within = sender.is_some_and(|sender| sender.uid() == own || sender.uid() == 0);
            let says_so = message.split(|&byte| byte == b'\n').any(|line| line == b"READY=1");
            self.ready |= from_within && says_so;
        }
        self.ready
    }

    /// The buffer only has room for the sender's ids, so the kernel closes descriptors that are sent along.
    fn receive(&self) -> Option<(Vec<u8>, Option<UnixCredentials>)> {
        let mut bytes = vec![0; 4096];
        let mut space = nix::cmsg_space!(UnixCredentials);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let received = recvmsg::<()>(self.socket.as_raw_fd(), &mut slices, Some(&mut space), flags).ok()?;
        let sender = received.cmsgs().ok()?.find_map(|message| {
            if let ControlMessageOwned::ScmCredentials(sender) = message { Some(sender) } else { None }
        });
        let length = received.bytes;
        bytes.truncate(length);
        Some((bytes, sender))
    }
}

impl AsFd for Notified {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_line_ready_1_counts_as_ready() {
        let mut notified = Notified::new(Duration::from_secs(1)).expect("a socket");
        let environment = notified.environment(vec![c"NOTIFY_SOCKET=/run/outer".into(), c"A=NOTIFY_SOCKET=".into()]);
        let [kept, ours] = environment.as_slice() else { panic!("{environment:?}") };
        assert_eq!(kept.as_c_str(), c"A=NOTIFY_SOCKET=");
        let address = ours.to_str().expect("text").strip_prefix("NOTIFY_SOCKET=").expect("ours").to_owned();
        let program = UnixDatagram::unbound().expect("a socket");
        let name = std::os::unix::net::SocketAddr::from_abstract_name(&address[1..]).expect("a name");
        for (message, expected) in
            [("STATUS=READY=1", false), ("READY=10", false), ("", false), ("A=1\nREADY=1\n", true), ("READY=0", true)]
        {
            program.send_to_addr(message.as_bytes(), &name).expect("sent");
            assert_eq!(notified.is_ready(), expected, "{message}");
        }
    }
}
