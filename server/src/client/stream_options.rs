//! Keep-alive, user time-out and linger: for one connection, or for a listener, whose connections inherit them.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use portgrant_protocol::endpoint::KeepAliveTimes;
use rustix::io::Errno;
use rustix::net::sockopt;

use crate::failure::{Error, Report, failure};

/// When the kernel probes a silent connection (SO_KEEPALIVE, tcp(7)).
///
/// By default it takes two hours and eleven minutes to notice a peer that vanished. Times are rounded up to seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    /// TCP_KEEPIDLE: silence before the first probe, 1 to 32767 seconds
    pub idle: Duration,
    /// TCP_KEEPINTVL: time between probes, 1 to 32767 seconds
    pub interval: Duration,
    /// TCP_KEEPCNT: probes without an answer before the connection ends, 1 to 127
    pub count: u32,
}

impl KeepAlive {
    /// How long it takes to notice a peer that vanished, unless a user time-out is shorter.
    pub fn notices_within(&self) -> Duration {
        self.idle.saturating_add(self.interval.saturating_mul(self.count))
    }
}

impl From<KeepAliveTimes> for KeepAlive {
    fn from(times: KeepAliveTimes) -> KeepAlive {
        let seconds = |seconds: u16| Duration::from_secs(seconds.into());
        KeepAlive { idle: seconds(times.idle), interval: seconds(times.interval), count: times.count.into() }
    }
}

/// What close(2) does with data that is not acknowledged yet (SO_LINGER, socket(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linger {
    /// Return at once; the kernel sends the rest. This is the default, and nearly always the best. To wait for the peer
    /// use [`close_gracefully`](crate::close_gracefully), not SO_LINGER
    Background,
    /// Block until everything is acknowledged, at most for this time (rounded up to seconds), even in a non-blocking
    /// program. Zero is [`Linger::Reset`]
    Wait(Duration),
    /// Discard the data and reset the connection. There is no TIME_WAIT afterwards, and the peer may lose data that it
    /// had not read
    Reset,
}

/// Options of a tcp (or mptcp) socket. Options that are not set here are unchanged.
///
/// On a listener they apply to every connection that it accepts afterwards (Linux copies them). On a connection they
/// apply to that connection alone.
///
/// ```
/// use std::net::{TcpListener, TcpStream};
/// use std::time::Duration;
/// use portgrant_server::{KeepAlive, Linger, StreamOptions};
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let keep_alive = KeepAlive { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 6 };
/// StreamOptions::new().keep_alive(keep_alive).user_timeout(Duration::from_secs(90)).apply(&listener)?;
///
/// let client = TcpStream::connect(listener.local_addr()?)?;
/// let (stream, _) = listener.accept()?; // it has them
/// StreamOptions::new().linger(Linger::Reset).apply(&stream)?; // and this one ends at once
/// drop(stream);
/// # drop(client);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "nothing is set until it is applied"]
pub struct StreamOptions {
    keep_alive: Option<Option<KeepAlive>>,
    user_timeout: Option<Duration>,
    linger: Option<Linger>,
}

impl StreamOptions {
    /// Sets no option yet.
    pub fn new() -> StreamOptions {
        StreamOptions::default()
    }

    /// Probes silent connections.
    pub fn keep_alive(self, times: KeepAlive) -> StreamOptions {
        StreamOptions { keep_alive: Some(Some(times)), ..self }
    }

    /// Does not probe.
    pub fn no_keep_alive(self) -> StreamOptions {
        StreamOptions { keep_alive: Some(None), ..self }
    }

    /// TCP_USER_TIMEOUT: how long sent data may stay unacknowledged before the connection ends, in milliseconds. (The
    /// default is about 15 minutes.) With keep-alive it replaces `count`: a connection ends if the peer was silent for
    /// this time. Zero is the default of the system.
    pub fn user_timeout(self, timeout: Duration) -> StreamOptions {
        StreamOptions { user_timeout: Some(timeout), ..self }
    }

    /// What close(2) does with data that is not acknowledged yet.
    pub fn linger(self, linger: Linger) -> StreamOptions {
        StreamOptions { linger: Some(linger), ..self }
    }

    /// Sets the options on a listener or a connection.
    ///
    /// # Errors
    /// [`SocketOptionError`] names the first option whose value the kernel rejects. The options before it are set.
    pub fn apply(&self, socket: impl AsFd) -> Result<(), Error> {
        let set = |option, result: Result<(), Errno>| {
            result.map_err(|errno| SocketOptionError { option, source: io::Error::from(errno) })
        };
        if let Some(keep_alive) = &self.keep_alive {
            if let Some(times) = keep_alive {
                set("TCP_KEEPIDLE", sockopt::set_tcp_keepidle(&socket, times.idle))?;
                set("TCP_KEEPINTVL", sockopt::set_tcp_keepintvl(&socket, times.interval))?;
                set("TCP_KEEPCNT", sockopt::set_tcp_keepcnt(&socket, times.count))?;
            }
            // Last, so that no probe starts with the default times.
            set("SO_KEEPALIVE", sockopt::set_socket_keepalive(&socket, keep_alive.is_some()))?;
        }
        if let Some(timeout) = self.user_timeout {
            let timeout = u32::try_from(timeout.as_millis()).map_err(|_| Errno::INVAL);
            let result = timeout.and_then(|timeout| sockopt::set_tcp_user_timeout(&socket, timeout));
            set("TCP_USER_TIMEOUT", result)?;
        }
        if let Some(linger) = self.linger {
            let seconds = match linger {
                Linger::Background => None,
                Linger::Wait(time) => Some(time),
                Linger::Reset => Some(Duration::ZERO),
            };
            set("SO_LINGER", sockopt::set_socket_linger(&socket, seconds))?;
        }
        Ok(())
    }
}

/// The kernel rejected the value of a socket option
#[derive(Debug)]
#[non_exhaustive]
pub struct SocketOptionError {
    /// The option: `TCP_KEEPIDLE`
    pub option: &'static str,
    /// Why it failed
    pub source: io::Error,
}

impl SocketOptionError {
    fn report(&self) -> Report<'_> {
        Report::what(format!("{} cannot be set", self.option)).because(&self.source)
    }
}

failure!(SocketOptionError);

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    const TIMES: KeepAlive = KeepAlive { idle: Duration::from_secs(61), interval: Duration::from_secs(7), count: 5 };

    fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        (client, listener.accept().expect("accepted").0)
    }

    fn of(socket: impl AsFd) -> (Option<KeepAlive>, u32, Option<Duration>) {
        let on = sockopt::socket_keepalive(&socket).expect("get");
        let times = KeepAlive {
            idle: sockopt::tcp_keepidle(&socket).expect("get"),
            interval: sockopt::tcp_keepintvl(&socket).expect("get"),
            count: sockopt::tcp_keepcnt(&socket).expect("get"),
        };
        let timeout = sockopt::tcp_user_timeout(&socket).expect("get");
        (on.then_some(times), timeout, sockopt::socket_linger(&socket).expect("get"))
    }

    #[test]
    fn connections_inherit_the_listeners_options_and_can_change_them() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let (_client, before) = pair(&listener);
        let linger = Linger::Wait(Duration::from_millis(1500));
        let all = StreamOptions::new().keep_alive(TIMES).user_timeout(Duration::from_millis(4321)).linger(linger);
        all.apply(&listener).expect("set");
        let (_client, stream) = pair(&listener);
        assert_eq!(of(&stream), (Some(TIMES), 4321, Some(Duration::from_secs(2))), "seconds are rounded up");
        assert_eq!(of(&before), (None, 0, None), "what was accepted before is as it was");

        StreamOptions::new().no_keep_alive().linger(Linger::Background).apply(&stream).expect("set");
        assert_eq!(of(&stream), (None, 4321, None), "what is not mentioned stays");
        assert_eq!(of(&pair(&listener).1).0, Some(TIMES), "and the listener keeps its own");
        assert_eq!(TIMES.notices_within(), Duration::from_secs(96));
    }

    #[test]
    fn a_close_with_reset_is_seen_by_the_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let (mut client, stream) = pair(&listener);
        StreamOptions::new().linger(Linger::Reset).apply(&stream).expect("set");
        drop(stream);
        assert_eq!(client.read(&mut [0]).expect_err("reset").kind(), ErrorKind::ConnectionReset);
        let (mut client, stream) = pair(&listener);
        StreamOptions::new().linger(Linger::Background).apply(&stream).expect("set");
        drop(stream);
        assert_eq!(client.read(&mut [0]).expect("an end"), 0);
    }

    #[test]
    fn a_rejected_value_is_an_error_that_names_the_option() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let long = Duration::from_secs(40_000);
        for (options, expected) in [
            (StreamOptions::new().keep_alive(KeepAlive { idle: long, ..TIMES }), "TCP_KEEPIDLE"),
            (StreamOptions::new().keep_alive(KeepAlive { interval: long, ..TIMES }), "TCP_KEEPINTVL"),
            (StreamOptions::new().keep_alive(KeepAlive { count: 0, ..TIMES }), "TCP_KEEPCNT"),
            (StreamOptions::new().user_timeout(Duration::MAX), "TCP_USER_TIMEOUT"),
        ] {
            let error = options.apply(&listener).expect_err(expected);
            assert!(
                matches!(error.downcast_ref(), Some(SocketOptionError { option, .. }) if *option == expected),
                "{error}"
            );
            assert_eq!(of(&listener).0, None, "nothing begins with half of the values");
        }
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        assert!(StreamOptions::new().keep_alive(TIMES).apply(&udp).is_err());
    }
}
