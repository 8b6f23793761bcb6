//! A udp socket that goes to one program at a time, as inetd's `wait` has it: the program starts when a datagram waits,
//! and reads this one and as many more as it likes; nobody else looks at the socket until it has ended.
//!
//! A program that ends without having read what waits would be started again at once, for ever. It rests between, each
//! time twice as long. One that reads is never slowed down: it is as fast as its callers.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use nix::sys::time::TimeSpec;

const FIRST_REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Datagrams {
    socket: OwnedFd,
    name: String,
    /// What waited when the program was started
    waited: Option<Datagram>,
    /// How often, one after the other, it was still there afterwards
    unread: u32,
    /// When to look at the socket again
    rest: Option<Instant>,
}

/// A datagram by when it came, which tells it from the same one sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Datagram {
    length: usize,
    arrived: Option<TimeSpec>,
}

/// What the end of a program means for its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Afterwards {
    /// Wait for the next datagram
    Wait,
    /// The program has not read: look again only after this
    Rest(Duration),
}

impl Datagrams {
    pub(super) fn new(socket: OwnedFd, name: String) -> Datagrams {
        Datagrams { socket, name, waited: None, unread: 0, rest: None }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether a datagram really waits. The kernel says so also of one that turns out broken when it is read.
    pub(super) fn look(&mut self) -> bool {
        self.waited = self.first();
        self.waited.is_some()
    }

    /// The program has ended, or could not be started.
    pub(super) fn ended(&mut self, now: Instant) -> Afterwards {
        if self.waited.is_none() || self.first() != self.waited {
            self.unread = 0;
            return Afterwards::Wait;
        }
        let rest = FIRST_REST.saturating_mul(1 << self.unread.min(16)).min(LONGEST_REST);
        self.unread += 1;
        self.rest = Some(now + rest);
        Afterwards::Rest(rest)
    }

    /// When the rest is over, while there is one.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.rest
    }

    /// Whether a rest was to end by now; then it has.
    pub(super) fn wakes(&mut self, now: Instant) -> bool {
        self.rest.take_if(|until| *until <= now).is_some()
    }

    /// The datagram that the next read will get, left where it is.
    fn first(&self) -> Option<Datagram> {
        // Asked for now only: a program need not be prepared for it. A datagram keeps the time that it is first given.
        let _ = setsockopt(&self.socket, ReceiveTimestampns, &true);
        let datagram = self.peek();
        let _ = setsockopt(&self.socket, ReceiveTimestampns, &false);
        datagram
    }

    fn peek(&self) -> Option<Datagram> {
        let mut control = nix::cmsg_space!(TimeSpec);
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        let mut start = [0];
        let mut start = [IoSliceMut::new(&mut start)];
        let message = recvmsg::<()>(self.socket.as_raw_fd(), &mut start, Some(&mut control), flags).ok()?;
        let mut told = message.cmsgs().ok()?;
        let arrived =
            told.find_map(|told| if let ControlMessageOwned::ScmTimestampns(at) = told { Some(at) } else { None });
        Some(Datagram { length: message.bytes, arrived })
    }
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn only_a_program_that_does_not_read_rests_and_longer_each_time() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        client.connect(server.local_addr().expect("bound")).expect("connected");
        let mut datagrams = Datagrams::new(server.try_clone().expect("a copy").into(), "udp".to_owned());
        let now = Instant::now();
        assert!(!datagrams.look());
        assert_eq!(datagrams.ended(now), Afterwards::Wait, "nothing waited");

        for _ in 0..2 {
            client.send(b"the same").expect("sent");
        }
        for rest in [100, 200, 400] {
            assert!(datagrams.look());
            assert_eq!(datagrams.ended(now), Afterwards::Rest(Duration::from_millis(rest)));
        }
        let (soon, later) = (now + Duration::from_millis(399), now + Duration::from_millis(400));
        assert!(!datagrams.wakes(soon) && datagrams.wakes(later) && !datagrams.wakes(later));

        assert!(datagrams.look());
        server.recv(&mut [0; 8]).expect("one is read");
        assert_eq!(datagrams.ended(now), Afterwards::Wait, "the other waits");
        assert!(datagrams.look());
        assert_eq!(datagrams.ended(now), Afterwards::Rest(FIRST_REST), "it begins anew");
    }
}
