//! Closing a connection so that the peer gets everything, and knowing whether it did.

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

/// How long, and how much, a peer may go on after our end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseLimits {
    /// In all, not from one read to the next: a peer that sends a byte a second does not prolong it
    pub time: Duration,
    /// Bytes that are read and thrown away
    pub bytes: u64,
}

impl Default for CloseLimits {
    /// Five seconds and a mebibyte.
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
    /// How many bytes came after our end, and were thrown away
    pub drained: u64,
    /// The connection's state at the end. Where it [is acknowledged](TcpState::is_acknowledged) the peer's kernel has
    /// everything that was sent.
    pub state: TcpState,
}

/// What a peer did once it was told that nothing more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerClose {
    /// It closed as well: all is well
    Closed,
    /// It reset the connection, or the network lost it: it may not have read what was sent
    Reset,
    /// It did nothing until the time was over, and still holds the connection
    Silent,
    /// It went on sending until the time or the bytes were over
    Sending,
}

impl CloseOutcome {
    /// Whether both sides closed, and the peer has everything that was sent.
    pub fn is_complete(&self) -> bool {
        self.peer == PeerClose::Closed && self.state.is_acknowledged()
    }
}

/// Ends a connection: says that nothing more comes (`shutdown(SHUT_WR)`), reads on until the peer closes as well, waits
/// until what was sent is acknowledged, and closes; all of it within `limits`.
///
/// A plain close(2) with something unread, say the rest of a request that is answered with an error, is a reset: it can
/// overtake the answer, and the peer then never sees that. And close(2) does not tell whether the peer was there at
/// all.
///
/// When the limits are reached the connection is closed all the same. If the peer was [`Silent`](PeerClose::Silent), the kernel goes on
/// sending what is left, for some minutes (net.ipv4.tcp_orphan_retries), and needs no descriptor for it; if it was
/// [`Sending`](PeerClose::Sending), what it sent is unread and so it is reset. Where that is to be so at once:
/// [`Linger::Reset`](crate::Linger::Reset).
///
/// It blocks, also where the stream is non-blocking. Copies of the descriptor, here or in children, keep the
/// connection's memory but not the peer waiting: shutdown(2) is for all of them.
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
/// Errors: [`SystemError`](crate::error::SystemError) where the descriptor is not a connection any more, or the kernel is out of memory; it is
/// closed then as well.
pub fn close_gracefully(stream: TcpStream, limits: CloseLimits) -> Result<CloseOutcome, Error> {
    let failed = |source| Error::system("cannot close the connection gracefully", source);
    let deadline = Instant::now().checked_add(limits.time);
    match stream.shutdown(Shutdown::Write) {
        Ok(()) => {}
        // Reset before we came to it. Which one it is depends on whether anybody has read the error already.
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
    // A reset in the meantime ends in CLOSE too, and is no acknowledgement.
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
            // What a router or the user time-out said: nobody is there any more.
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

/// Until there is something to read, or the time is over.
fn wait(stream: &TcpStream, deadline: Option<Instant>) -> io::Result<()> {
    let left = deadline.map(|_| Timespec::try_from(left(deadline))).transpose().unwrap_or_default();
    let mut ends = [PollFd::new(stream, PollFlags::IN)];
    match poll(&mut ends, left.as_ref()) {
        Ok(_) => {
            // Timestamps, say, of what was sent (socket(7)): it would be ready for ever.
            if ends[0].revents().contains(PollFlags::ERR) {
                error_queue::drain(stream);
            }
            Ok(())
        }
        Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The time that is left; without a deadline (one beyond the clock's end) there is always some.
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

        // The same with a plain close: this is what it is good for.
        let (mut client, mut stream) = pair();
        client.write_all(&[b'x'; 100_000]).expect("sent");
        stream.write_all(b"no").expect("sent");
        drop(stream);
        assert!(client.read_to_string(&mut String::new()).is_err(), "a reset");
    }

    #[test]
    fn a_silent_peer_is_left_when_the_time_is_over() {
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
    fn a_peer_that_goes_on_sending_is_left_at_either_bound() {
        let (mut client, stream) = pair();
        client.write_all(&[b'x'; 50_000]).expect("sent");
        let outcome = close_gracefully(stream, within(5_000, 20_000)).expect("closed");
        assert_eq!(outcome.peer, PeerClose::Sending);
        assert!((20_001..50_000).contains(&outcome.drained), "{outcome:?}");

        // A byte now and then does not prolong it.
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
    fn a_reset_is_told_whenever_it_comes() {
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
    fn a_peer_that_closed_first_has_not_everything_before_it_acknowledges() {
        let (client, mut stream) = pair();
        client.shutdown(Shutdown::Write).expect("its end");
        // Much more than the peer's window takes while it does not read.
        stream.set_nonblocking(true).expect("set");
        while stream.write(&[b'x'; 65536]).is_ok() {}
        let copy = stream.try_clone().expect("a copy");
        let outcome = close_gracefully(stream, within(150, 0)).expect("closed");
        assert_eq!((outcome.peer, outcome.state), (PeerClose::Closed, TcpState::LastAck));
        assert!(!outcome.is_complete());
        // The copy observes what the kernel goes on doing.
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
    fn what_is_still_on_its_way_is_waited_for() {
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
    fn timestamps_of_what_was_sent_do_not_keep_it_busy_while_it_waits() {
        use nix::sys::socket::{TimestampingFlag, setsockopt, sockopt::Timestamping};
        use rustix::time::{ClockId, clock_gettime};

        let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("not negative");
        let (_client, mut stream) = pair();
        let sent = TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE | TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE;
        setsockopt(&stream, Timestamping, &sent).expect("SO_TIMESTAMPING");
        stream.write_all(b"an answer").expect("sent");
        let before = now();
        let farewell = close_gracefully(stream, within(1000, 1 << 20)).expect("closed");
        let spent = now() - before;
        assert_eq!(farewell.peer, PeerClose::Silent);
        assert!(spent < Duration::from_millis(100), "it spins: {spent:?} of a second");
    }
}
