//! A udp socket for one program at a time, like a `wait` service of inetd: the program starts when a datagram waits,
//! and reads it and any others. Nobody else uses the socket until the program has ended.
//!
//! A program that ends without reading would be started again at once, for ever. So there is a delay, which doubles
//! each time. A program that reads is never delayed.
//!
//! A program may leave the socket in a state that poll(2) calls ready although nothing can be read: with errors in its
//! error queue (IP_RECVERR, see ip(7)), or shut down for reading, after which datagrams still arrive (Linux 6.18). So
//! the loop waits for new events (EPOLLET), not for the state.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use nix::sys::time::TimeSpec;

const FIRST_REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(10);
/// How often reading is tried while it returns errors.
const ATTEMPTS: usize = 64;
/// How many errors are removed from the error queue at a time. SO_RCVBUF limits its size.
const ERRORS: usize = 1024;
/// Room for the ancillary data of a datagram, in bytes. The program's socket options decide what it contains.
const CONTROL: usize = 4096;

#[derive(Debug)]
pub(super) struct Datagrams {
    socket: OwnedFd,
    name: String,
    /// Whether the loop waits for a datagram: no program has the socket, and there is no delay
    awaited: bool,
    /// The datagram that waited when the program was started
    waited: Option<Datagram>,
    /// How often in a row there was no datagram, or the program did not read it
    fruitless: u32,
    /// When to look at the socket again
    rest: Option<Instant>,
}

/// A datagram, identified by the time of its arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Datagram {
    length: usize,
    arrived: Option<TimeSpec>,
}

/// What an event at the socket means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// A datagram waits
    Datagram,
    /// No datagram waits. Wait for the next event
    Nothing,
    /// The socket keeps returning errors: look again only after this time
    Rest(Duration),
}

/// What the end of a program means for its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Afterwards {
    /// Wait for the next datagram
    Wait,
    /// The program has not read: look again only after this time
    Rest(Duration),
}

impl Datagrams {
    pub(super) fn new(socket: OwnedFd, name: String) -> Datagrams {
        Datagrams { socket, name, awaited: true, waited: None, fruitless: 0, rest: None }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the loop waits for a datagram. If not, the event is an old one.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited
    }

    /// The loop waits for a datagram again.
    pub(super) fn begin_wait(&mut self) {
        self.awaited = true;
    }

    /// Whether a datagram really waits. The event may also come from a datagram with a wrong checksum or from errors.
    /// Errors are removed here: the program that they were for has ended.
    pub(super) fn look(&mut self, now: Instant) -> Look {
        for _ in 0..ATTEMPTS {
            match self.first() {
                Ok(datagram) => {
                    (self.waited, self.awaited) = (Some(datagram), false);
                    return Look::Datagram;
                }
                // A datagram may have come after the error that was removed.
                Err(Errno::EAGAIN) if self.drain_errors() => {}
                Err(Errno::EAGAIN) => {
                    self.fruitless = 0;
                    return Look::Nothing;
                }
                // A pending error of the socket (SO_ERROR), which is returned only once.
                Err(_) => {}
            }
        }
        self.awaited = false;
        Look::Rest(self.rest(now))
    }

    /// The program has ended, or could not be started.
    pub(super) fn ended(&mut self, now: Instant) -> Afterwards {
        if self.waited.is_none() || self.first().ok() != self.waited {
            self.fruitless = 0;
            return Afterwards::Wait;
        }
        Afterwards::Rest(self.rest(now))
    }

    /// When the delay ends, if there is one.
    pub(super) fn paused_until(&self) -> Option<Instant> {
        self.rest
    }

    /// Ends the delay if its time is over. Returns whether it did.
    pub(super) fn wakes(&mut self, now: Instant) -> bool {
        self.rest.take_if(|until| *until <= now).is_some()
    }

    /// Begins a delay, twice as long as the one before.
    pub(super) fn rest(&mut self, now: Instant) -> Duration {
        let rest = FIRST_REST.saturating_mul(1 << self.fruitless.min(16)).min(LONGEST_REST);
        self.fruitless += 1;
        self.rest = Some(now + rest);
        rest
    }

    /// The datagram that the next read will return. It stays in the queue.
    fn first(&self) -> Result<Datagram, Errno> {
        // The option is set only for this call: the program may not expect it. A datagram keeps its first time stamp.
        let _ = setsockopt(&self.socket, ReceiveTimestampns, &true);
        let datagram = self.peek();
        let _ = setsockopt(&self.socket, ReceiveTimestampns, &false);
        datagram
    }

    fn peek(&self) -> Result<Datagram, Errno> {
        let mut control = vec![0; CONTROL];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        let mut start = [0];
        let mut start = [IoSliceMut::new(&mut start)];
        let message = recvmsg::<()>(self.socket.as_raw_fd(), &mut start, Some(&mut control), flags)?;
        // This fails if the ancillary data did not fit. It counts as a datagram all the same.
        let arrived = message.cmsgs().ok().and_then(|mut messages| {
            messages.find_map(|one| if let ControlMessageOwned::ScmTimestampns(at) = one { Some(at) } else { None })
        });
        Ok(Datagram { length: message.bytes, arrived })
    }

    /// Empties the error queue. Returns whether there was an error.
    fn drain_errors(&self) -> bool {
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let next = || recvmsg::<()>(self.socket.as_raw_fd(), &mut [], None, flags).ok();
        std::iter::from_fn(next).take(ERRORS).count() > 0
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

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    #[test]
    fn only_a_program_that_does_not_read_is_delayed_longer_each_time() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        client.connect(server.local_addr().expect("bound")).expect("connected");
        let mut datagrams = Datagrams::new(server.try_clone().expect("a copy").into(), "udp".to_owned());
        let now = Instant::now();
        assert_eq!(datagrams.look(now), Look::Nothing);
        assert_eq!(datagrams.ended(now), Afterwards::Wait, "nothing waited");

        for _ in 0..2 {
            client.send(b"the same").expect("sent");
        }
        for rest in [100, 200, 400] {
            assert_eq!(datagrams.look(now), Look::Datagram);
            assert_eq!(datagrams.ended(now), Afterwards::Rest(Duration::from_millis(rest)));
        }
        let (soon, later) = (now + Duration::from_millis(399), now + Duration::from_millis(400));
        assert!(!datagrams.wakes(soon) && datagrams.wakes(later) && !datagrams.wakes(later));

        assert_eq!(datagrams.look(now), Look::Datagram);
        server.recv(&mut [0; 8]).expect("one is read");
        assert_eq!(datagrams.ended(now), Afterwards::Wait, "the other waits");
        assert_eq!(datagrams.look(now), Look::Datagram);
        assert_eq!(datagrams.ended(now), Afterwards::Rest(FIRST_REST), "it begins anew");
    }

    #[test]
    fn a_datagram_behind_errors_in_the_queue_is_found() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let mut datagrams = Datagrams::new(server.try_clone().expect("a copy").into(), "udp".to_owned());
        let is_ready = || {
            let mut ends = [PollFd::new(&server, PollFlags::IN)];
            poll(&mut ends, Some(&Timespec::default())) == Ok(1)
        };
        setsockopt(&server, nix::sys::socket::sockopt::Ipv4RecvErr, &true).expect("IP_RECVERR");
        let nobody = UdpSocket::bind("127.0.0.1:0").and_then(|closed| closed.local_addr()).expect("an address");
        let now = Instant::now();
        for _ in 0..3 {
            // The second and third of these report the error of the one before.
            while server.send_to(b"x", nobody).is_err() {}
        }
        assert!(is_ready(), "there are errors");
        assert_eq!((datagrams.look(now), is_ready()), (Look::Nothing, false));

        let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        server.send_to(b"x", nobody).expect("sent");
        client.send_to(b"y", server.local_addr().expect("bound")).expect("sent");
        assert_eq!(datagrams.look(now), Look::Datagram);
    }

    #[test]
    fn a_datagram_is_found_with_any_socket_option_for_ancillary_data() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let mut datagrams = Datagrams::new(server.try_clone().expect("a copy").into(), "udp".to_owned());
        setsockopt(&server, nix::sys::socket::sockopt::Ipv4PacketInfo, &true).expect("IP_PKTINFO");
        setsockopt(&server, nix::sys::socket::sockopt::Ipv4RecvTtl, &true).expect("IP_RECVTTL");
        server.connect(server.local_addr().expect("bound")).expect("connected");
        server.send(b"x").expect("sent");
        let now = Instant::now();
        assert_eq!(datagrams.look(now), Look::Datagram);
        assert_eq!(datagrams.ended(now), Afterwards::Rest(FIRST_REST));
        assert_eq!(datagrams.look(now), Look::Datagram);
        server.recv(&mut [0]).expect("read");
        server.send(b"x").expect("the same again");
        assert_eq!(datagrams.ended(now), Afterwards::Wait, "it is another one");
    }
}
