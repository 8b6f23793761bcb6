//! Closes a connection so that the peer receives everything, and reports whether it did.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::tcp_info::{TcpInfo, TcpState};
use crate::error_queue;
use crate::failure::Error;

/// How long the peer may continue after this side has closed, and how much it may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseLimits {
    /// The whole time, not the time between two reads: a peer that sends a byte a second does not extend it
    pub time: Duration,
    /// The number of bytes that are read and discarded
    pub bytes: u64,
}

impl Default for CloseLimits {
    /// Five seconds and one mebibyte.
    fn default() -> CloseLimits {
        CloseLimits { time: Duration::from_secs(5), bytes: 1 << 20 }
    }
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseOutcome {
    /// What the peer did
    pub peer: PeerClose,
    /// How many bytes arrived after our end, and were discarded
    pub drained: u64,
    /// The state of the connection at its end. If it [is acknowledged](TcpState::is_acknowledged), the peer's kernel
    /// has received everything
    pub state: TcpState,
}

/// What the peer did after our end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerClose {
    /// It closed as well: nothing is lost
    Closed,
    /// It reset the connection, or the network lost it: the peer may not have read everything
    Reset,
    /// It did nothing until the time was over, and still holds the connection
    Silent,
    /// It continued to send until a limit was reached
    Sending,
}

impl CloseOutcome {
    /// Whether both sides closed and the peer received everything.
    pub fn is_complete(&self) -> bool {
        self.peer == PeerClose::Closed && self.state.is_acknowledged()
    }
}

/// Ends a connection: it announces the end (`shutdown(SHUT_WR)`), reads until the peer closes as well, waits until
/// everything sent is acknowledged, and closes. All of this happens within `limits`.
///
/// If data is unread (such as the rest of a request that is answered with an error), a plain close(2) resets the
/// connection. The reset can overtake the answer, and then the peer never receives it. A plain close(2) also does not
/// report whether the peer was still there.
///
/// When a limit is reached the connection is closed as well. If the peer was [`Silent`](PeerClose::Silent), the kernel
/// sends the rest for some minutes (net.ipv4.tcp_orphan_retries), without a descriptor. If it was
/// [`Sending`](PeerClose::Sending), data is unread, so the connection is reset. To reset it at once, use
/// [`Linger::Reset`](crate::Linger::Reset).
///
/// It blocks, even if the stream is non-blocking. Copies of the descriptor, in this process or in children, keep the
/// memory of the connection, but do not keep the peer waiting: shutdown(2) applies to all copies.
///
/// ```
/// use std::io::{Read, Write};
/// use portgrant_server::{CloseLimits, PeerClose, close_gracefully};
///
/// # let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// # let mut client = std::net::TcpStream::connect(listener.local_addr()?)?;
/// # client.write_all(b"a request that is much too long")?;
/// # let peer = std::thread::spawn(move || { let mut all = String::new(); client.read_to_string(&mut all).map(|_| all) });
/// let (mut stream, _) = listener.accept()?;
/// stream.write_all(b"413 too long\r\n")?;
/// let outcome = close_gracefully(stream, CloseLimits::default())?;
/// assert!(outcome.is_complete(), "{outcome:?}");
/// assert_eq!((outcome.peer, outcome.drained), (PeerClose::Closed, 31));
/// # assert_eq!(peer.join().expect("no panic")?, "413 too long\r\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`SystemError`](crate::error::SystemError) if the descriptor is no longer a connection, or if the kernel is out of
/// memory. The connection is closed then as well.
pub fn close_gracefully(stream: TcpStream, limits: CloseLimits) -> Result<CloseOutcome, Error> {
    let failed = |source| Error::system("cannot close the connection gracefully", source);
    let deadline = Instant::now().checked_add(limits.time);
    match stream.shutdown(Shutdown::Write) {
        Ok(()) => {}
        // Reset before. Which error it is depends on whether the reset was already reported.
        Err(error) if is_reset(&error) || error.kind() == io::ErrorKind::NotConnected => {
            return Ok(CloseOutcome { peer: PeerClose::Reset, drained: 0, state: TcpState::Close });
        }
        Err(error) => return Err(failed(error)),
    }
    let (peer, drained) = drain(&stream, limits.bytes, deadline).map_err(failed)?;
    let mut state = TcpInfo::read(&stream).map_err(failed)?.state;
    // The peer may have closed before our last data reached it.
    let mut pause = Duration::from_millis(1);
    while peer == PeerClose::Closed && !state.is_acknowledged() && left(deadline) > Duration::ZERO {
        thread::sleep(pause.min(left(deadline)));
        pause = (pause * 2).min(Duration::from_millis(50));
        state = TcpInfo::read(&stream).map_err(failed)?.state;
    }
    // A reset in the meantime also ends in CLOSE, but acknowledges nothing.
    let reset = peer == PeerClose::Closed && stream.take_error().map_err(failed)?.is_some();
    Ok(CloseOutcome { peer: if reset { PeerClose::Reset } else { peer }, drained, state })
}

fn drain(stream: &TcpStream, bytes: u64, deadline: Option<Instant>) -> io::Result<(PeerClose, u64)> {
    let mut buffer = [0; 16 << 10];
    let mut drained = 0;
    loop {
        match recv(stream, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Ok((PeerClose::Closed, drained)),
            Ok((length, _)) => drained += u64::try_from(length).unwrap_or(u64::MAX),
            Err(Errno::CONNRESET) => return Ok((PeerClose::Reset, drained)),
            Err(Errno::AGAIN) if left(deadline) == Duration::ZERO => {
                return Ok((if drained == 0 { PeerClose::Silent } else { PeerClose::Sending }, drained));
            }
            Err(Errno::AGAIN) => wait(stream, deadline)?,
            Err(Errno::INTR) => {}
            // Reported by a router or by the user time-out: the peer is unreachable.
            Err(Errno::TIMEDOUT | Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::PIPE) => {
                return Ok((PeerClose::Reset, drained));
            }
            Err(errno) => return Err(errno.into()),
        }
        if drained > bytes || (drained > 0 && left(deadline) == Duration::ZERO) {
            return Ok((PeerClose::Sending, drained));
        }
    }
}

/// Waits until there is something to read, or the time is over.
fn wait(stream: &TcpStream, deadline: Option<Instant>) -> io::Result<()> {
    let left = deadline.map(|_| Timespec::try_from(left(deadline))).transpose().unwrap_or_default();
    let mut ends = [PollFd::new(stream, PollFlags::IN)];
    match poll(&mut ends, left.as_ref()) {
        Ok(_) => {
            // The error queue may have entries, such as timestamps of sent data (socket(7)). The socket would stay
            // ready.
            if ends[0].revents().contains(PollFlags::ERR) {
                error_queue::drain(stream);
            }
            Ok(())
        }
        Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The remaining time. Without a deadline (beyond the end of the clock) there is always some.
fn left(deadline: Option<Instant>) -> Duration {
    deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()))
}

fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::super::stream_options::{Linger, StreamOptions};
    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        (client, listener.accept().expect("accepted").0)
    }

    fn within(milliseconds: u64, bytes: u64) -> CloseLimits {
        CloseLimits { time: Duration::from_millis(milliseconds), bytes }
    }

    #[test]
    fn the_peer_gets_the_answer_although_its_request_was_not_read() {
        let (mut client, mut stream) = pair();
        client.write_all(&[b'x'; 100_000]).expect("sent");
        stream.write_all(b"no").expect("sent");
        let peer = thread::spawn(move || {
            let mut answer = String::new();
            client.read_to_string(&mut answer).map(|_| answer)
        });
        let outcome = close_gracefully(stream, CloseLimits::default()).expect("closed");
        assert_eq!((outcome.peer, outcome.drained), (PeerClose::Closed, 100_000));
        assert!(outcome.is_complete(), "{outcome:?}");
        assert_eq!(peer.join().expect("no panic").expect("no reset"), "no");

        // The same with a plain close(2) shows the difference.
        let (mut client, mut stream) = pair();
        client.write_all(&[b'x'; 100_000]).expect("sent");
        stream.write_all(b"no").expect("sent");
        drop(stream);
        assert!(client.read_to_string(&mut String::new()).is_err(), "a reset");
    }

    #[test]
    fn a_silent_peer_is_closed_after_the_time_limit() {
        let (client, stream) = pair();
        let begin = Instant::now();
        let outcome = close_gracefully(stream, within(150, 1000)).expect("closed");
        let took = begin.elapsed();
        assert!((Duration::from_millis(150)..Duration::from_secs(10)).contains(&took), "{took:?}");
        assert_eq!((outcome.peer, outcome.drained, outcome.state), (PeerClose::Silent, 0, TcpState::FinWait2));
        assert!(!outcome.is_complete() && outcome.state.is_acknowledged(), "it has all, and did not close");
        drop(client);
    }

    #[test]
    fn a_peer_that_keeps_sending_is_closed_at_the_time_or_byte_limit() {
        let (mut client, stream) = pair();
        client.write_all(&[b'x'; 50_000]).expect("sent");
        let outcome = close_gracefully(stream, within(5_000, 20_000)).expect("closed");
        assert_eq!(outcome.peer, PeerClose::Sending);
        assert!((20_001..50_000).contains(&outcome.drained), "{outcome:?}");

        // A byte now and then does not extend the time.
        let (mut client, stream) = pair();
        let dribble = thread::spawn(move || {
            while client.write_all(b"x").is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        });
        let begin = Instant::now();
        let outcome = close_gracefully(stream, within(200, 1000)).expect("closed");
        assert!(begin.elapsed() < Duration::from_secs(10), "a thousand bytes take it twenty seconds");
        assert!(outcome.peer == PeerClose::Sending && outcome.drained > 1, "{outcome:?}");
        dribble.join().expect("it was reset, and ended");
    }

    #[test]
    fn a_reset_is_reported_at_any_moment() {
        let (client, mut stream) = pair();
        StreamOptions::new().linger(Linger::Reset).apply(&client).expect("set");
        drop(client);
        assert_eq!(close_gracefully(stream, CloseLimits::default()).expect("closed").peer, PeerClose::Reset);

        let (client, again) = pair();
        stream = again;
        StreamOptions::new().linger(Linger::Reset).apply(&client).expect("set");
        let later = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            drop(client);
        });
        assert_eq!(close_gracefully(stream, CloseLimits::default()).expect("closed").peer, PeerClose::Reset);
        later.join().expect("no panic");
    }

    #[test]
    fn a_peer_that_closed_first_is_waited_for_until_it_acknowledges() {
        let (client, mut stream) = pair();
        client.shutdown(Shutdown::Write).expect("its end");
        // Much more than the peer's window accepts while it does not read.
        stream.set_nonblocking(true).expect("set");
        while stream.write(&[b'x'; 65536]).is_ok() {}
        let copy = stream.try_clone().expect("a copy");
        let outcome = close_gracefully(stream, within(150, 0)).expect("closed");
        assert_eq!((outcome.peer, outcome.state), (PeerClose::Closed, TcpState::LastAck));
        assert!(!outcome.is_complete());
        // The copy shows what the kernel still does.
        assert_eq!(TcpInfo::of(&copy).expect("asked").state, TcpState::LastAck);
        let read = thread::spawn(move || (&client).read_to_end(&mut Vec::new()));
        assert!(read.join().expect("no panic").is_ok());
        let deadline = Instant::now() + Duration::from_secs(5);
        while TcpInfo::of(&copy).expect("asked").state != TcpState::Close {
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn data_in_flight_is_waited_for() {
        let (client, mut stream) = pair();
        client.shutdown(Shutdown::Write).expect("its end");
        stream.set_nonblocking(true).expect("set");
        while stream.write(&[b'x'; 65536]).is_ok() {}
        let later = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            (&client).read_to_end(&mut Vec::new())
        });
        let outcome = close_gracefully(stream, CloseLimits::default()).expect("closed");
        assert!(outcome.is_complete() && outcome.state == TcpState::Close, "{outcome:?}");
        assert!(later.join().expect("no panic").is_ok());
    }

    #[test]
    fn a_non_blocking_stream_is_waited_for_as_well() {
        let (client, stream) = pair();
        stream.set_nonblocking(true).expect("set");
        let later = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            drop(client);
        });
        assert!(close_gracefully(stream, CloseLimits::default()).expect("closed").is_complete());
        later.join().expect("no panic");
    }

    #[test]
    fn transmit_timestamps_do_not_make_the_wait_spin() {
        use nix::sys::socket::{TimestampingFlag, setsockopt, sockopt::Timestamping};
        use rustix::time::{ClockId, clock_gettime};

        let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("not negative");
        let (_client, mut stream) = pair();
        let sent = TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE | TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE;
        setsockopt(&stream, Timestamping, &sent).expect("SO_TIMESTAMPING");
        stream.write_all(b"an answer").expect("sent");
        let before = now();
        let end = close_gracefully(stream, within(1000, 1 << 20)).expect("closed");
        let spent = now() - before;
        assert_eq!(end.peer, PeerClose::Silent);
        assert!(spent < Duration::from_millis(100), "it spins: {spent:?} of a second");
    }
}
