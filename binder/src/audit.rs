//! The audit line: one for every grant and every refusal, to syslog's authpriv.
//!
//! Best effort: a dead or full log never blocks a grant. The text proves nothing (anybody may write such lines); the
//! credentials that the log daemon reads from the kernel do. Bytes from the caller are escaped.

use portgrant_policy::audit::Line;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with};

use crate::Error;

/// The call that fails if no socket for the log can be made.
pub(crate) const LOG_SOCKET: &str = "socket, for the audit line,";

/// The connection to the log daemon: a socket that is opened before the decision, and kept. Later the caller could prevent
/// that a socket is opened (prlimit(2) with RLIMIT_NOFILE), and the line would be lost.
#[derive(Debug)]
pub struct Log {
    socket: OwnedFd,
    kind: SocketType,
}

impl Log {
    /// Opens the socket.
    ///
    /// # Errors
    /// If the socket cannot be created. A missing log daemon is not an error.
    pub fn open() -> Result<Log, Error> {
        Log::connected().map_err(|errno| Error::Call { call: LOG_SOCKET, errno })
    }

    /// Sends `lines`, without waiting.
    pub fn write(&mut self, lines: &[Line<'_>]) {
        let pid = rustix::process::getpid().as_raw_nonzero().get().cast_unsigned();
        for line in lines {
            let text = line.as_of("portgrant-binder", pid);
            // A dead or full log blocks no grant. If the log daemon was restarted, connect again.
            if self.send(&text).is_err_and(|errno| errno != Errno::AGAIN)
                && let Ok(log) = Log::connected()
            {
                *self = log;
                let _ = self.send(&text);
            }
        }
    }

    /// A daemon listens for datagrams, or for a stream (syslog-ng, and some of busybox's kind).
    fn connected() -> Result<Log, Errno> {
        let log = Log::of(SocketType::DGRAM)?;
        if log.connect() != Err(Errno::PROTOTYPE) {
            return Ok(log);
        }
        let log = Log::of(SocketType::STREAM)?;
        let _ = log.connect();
        Ok(log)
    }

    fn of(kind: SocketType) -> Result<Log, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(Log { socket: socket_with(AddressFamily::UNIX, kind, flags, None)?, kind })
    }

    fn connect(&self) -> Result<(), Errno> {
        connect(&self.socket, &SocketAddrUnix::new("/dev/log")?)
    }

    fn send(&self, text: &str) -> Result<(), Errno> {
        // In a stream a NUL ends a message, as in syslog(3).
        let mut message = text.as_bytes().to_vec();
        message.extend((self.kind == SocketType::STREAM).then_some(0));
        send(&self.socket, &message, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).map(drop)
    }
}
