//! The state of a connection: TCP_INFO (tcp(7)).

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::failure::Error;

/// The states of a connection (RFC 9293, 3.3.2), as Linux names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TcpState {
    /// Both sides may send
    Established,
    /// connect(2) is in progress
    SynSent,
    /// The first segment of a client was answered
    SynReceived,
    /// Our end is not acknowledged yet: the peer lacks data, or does not answer
    FinWait1,
    /// Our end is acknowledged; the peer may still send
    FinWait2,
    /// Both ends are acknowledged; the kernel waits for late segments
    TimeWait,
    /// No connection: before it or after it
    Close,
    /// The peer ended first, and waits for our close(2)
    CloseWait,
    /// The peer ended first, and has not acknowledged our end
    LastAck,
    /// It listens
    Listen,
    /// Both ended at the same time, and our end is not acknowledged
    Closing,
    /// Unknown to this crate
    Other(u8),
}

impl TcpState {
    /// Numbered as in `tcp_states.h`.
    pub(crate) fn from_number(number: u8) -> TcpState {
        match number {
            1 => TcpState::Established,
            2 => TcpState::SynSent,
            3 | 12 => TcpState::SynReceived,
            4 => TcpState::FinWait1,
            5 => TcpState::FinWait2,
            6 => TcpState::TimeWait,
            7 | 13 => TcpState::Close,
            8 => TcpState::CloseWait,
            9 => TcpState::LastAck,
            10 => TcpState::Listen,
            11 => TcpState::Closing,
            other => TcpState::Other(other),
        }
    }

    /// Whether the peer has received everything, and our end.
    pub fn is_acknowledged(self) -> bool {
        matches!(self, TcpState::FinWait2 | TcpState::TimeWait | TcpState::Close)
    }
}

impl fmt::Display for TcpState {
    /// As ss(8) writes it: `FIN-WAIT-1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TcpState::Established => "ESTAB",
            TcpState::SynSent => "SYN-SENT",
            TcpState::SynReceived => "SYN-RECV",
            TcpState::FinWait1 => "FIN-WAIT-1",
            TcpState::FinWait2 => "FIN-WAIT-2",
            TcpState::TimeWait => "TIME-WAIT",
            TcpState::Close => "UNCONN",
            TcpState::CloseWait => "CLOSE-WAIT",
            TcpState::LastAck => "LAST-ACK",
            TcpState::Listen => "LISTEN",
            TcpState::Closing => "CLOSING",
            TcpState::Other(number) => return write!(f, "state {number}"),
        })
    }
}

/// What the kernel knows about a connection at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpInfo {
    /// Its state
    pub state: TcpState,
    /// Segments that were sent and are not acknowledged
    pub unacknowledged: u32,
    /// How often the oldest of them was sent again
    pub retransmits: u8,
    /// How long nothing was sent
    pub unsent: Duration,
    /// How long nothing was received
    pub silence: Duration,
    /// The round trip time, smoothed
    pub round_trip: Duration,
}

impl TcpInfo {
    /// Asks the kernel about a tcp socket. For other kinds of sockets this is an error.
    ///
    /// ```
    /// use portgrant_server::{TcpInfo, TcpState};
    ///
    /// # let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// # let stream = std::net::TcpStream::connect(listener.local_addr()?)?;
    /// assert_eq!(TcpInfo::of(&stream)?.state, TcpState::Established);
    /// stream.shutdown(std::net::Shutdown::Write)?;
    /// # std::thread::sleep(std::time::Duration::from_millis(50));
    /// let info = TcpInfo::of(&stream)?;
    /// assert_eq!(info.state, TcpState::FinWait2); // the peer has our end, and has not closed
    /// assert_eq!(info.unacknowledged, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn of(stream: impl AsFd) -> Result<TcpInfo, Error> {
        Self::read(stream).map_err(|source| Error::system("cannot ask for TCP_INFO", source))
    }

    /// How long nothing was sent or received, at most since the beginning of the connection. Data that is sent again
    /// counts as sent. Acknowledgements, keep-alive probes and window probes do not count.
    pub fn idle(&self) -> Duration {
        self.unsent.min(self.silence)
    }

    pub(crate) fn read(stream: impl AsFd) -> io::Result<TcpInfo> {
        let bytes = portgrant_sys::tcp_info(stream.as_fd())?;
        // struct tcp_info: eight bytes of flags, then words of 32 bits. These fields have had these places since the
        // first version.
        let word = |index: usize| {
            let word = bytes.get(8 + 4 * index..).and_then(|bytes| bytes.first_chunk().copied());
            u32::from_ne_bytes(word.unwrap_or_default())
        };
        Ok(TcpInfo {
            state: TcpState::from_number(bytes.first().copied().unwrap_or_default()),
            retransmits: bytes.get(2).copied().unwrap_or_default(),
            unacknowledged: word(4),
            unsent: Duration::from_millis(word(9).into()),
            silence: Duration::from_millis(word(11).into()),
            round_trip: Duration::from_micros(word(15).into()),
        })
    }
}
