//! The audit line: one for every grant and every refusal, to syslog's authpriv.
//!
//! Best effort: a dead or full log never blocks a grant. The text is no proof (anybody may write such lines); the
//! credentials that the log daemon reads from the kernel are. What the caller chose is escaped.

use std::os::fd::OwnedFd;
use std::path::Path;

use portgrant_protocol::text::printable;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with};

use crate::Error;

/// LOG_AUTHPRIV with LOG_INFO and LOG_NOTICE (syslog(3)).
const GRANT: u32 = (10 << 3) | 6;
const REFUSAL: u32 = (10 << 3) | 5;

/// What became of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is about to be bound for the caller
    Grant,
    /// The policy refused it
    Refuse,
    /// It was granted, but not all of the request could be bound
    Fail,
}

/// A line before it is written.
#[derive(Debug)]
pub struct Line<'a> {
    /// What became of it
    pub outcome: Outcome,
    /// The caller's real uid
    pub uid: u32,
    /// The caller's real gid
    pub gid: u32,
    /// The way in
    pub verb: &'static str,
    /// The endpoint
    pub endpoint: String,
    /// The rule that decided, `file:line`
    pub rule: Option<String>,
    /// The program that is executed
    pub program: Option<&'a Path>,
}

/// The way to the log daemon: a socket that is opened before anything is decided, and kept. The caller may take away
/// the right to open another one at any moment (prlimit(2) with RLIMIT_NOFILE), and shall not lose a line by it.
#[derive(Debug)]
pub struct Log {
    socket: OwnedFd,
    kind: SocketType,
}

impl Log {
    /// Opens the socket.
    ///
    /// # Errors
    /// If there can be no socket. A log daemon that is dead or absent is not an error.
    pub fn open() -> Result<Log, Error> {
        Log::connected().map_err(|errno| Error::Call { call: "socket, for the audit line,", errno })
    }

    /// Sends `lines`, and never waits for it.
    pub fn write(&mut self, lines: &[Line<'_>]) {
        for line in lines {
            let text = line.text();
            // A log that is dead or full blocks no grant. One that was started anew is connected to again.
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

impl Line<'_> {
    fn text(&self) -> String {
        self.as_of("portgrant-binder", std::process::id())
    }

    /// The line, as of process `pid` of the program `tag`.
    #[must_use]
    pub fn as_of(&self, tag: &str, pid: u32) -> String {
        let (priority, word) = match self.outcome {
            Outcome::Grant => (GRANT, "grant"),
            Outcome::Refuse => (REFUSAL, "refuse"),
            Outcome::Fail => (REFUSAL, "fail"),
        };
        let Line { uid, gid, verb, endpoint, .. } = self;
        let rule = self.rule.as_deref().unwrap_or("none");
        let mut text =
            format!("<{priority}>{tag}[{pid}]: {word} uid={uid} gid={gid} verb={verb} endpoint={endpoint} rule={rule}");
        if let Some(program) = self.program {
            text.extend([
                " program=\"",
                &printable(program.as_os_str().as_encoded_bytes()).replace('"', "\\x22"),
                "\"",
            ]);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_caller_chose_cannot_end_the_line_or_a_field() {
        let line = Line {
            outcome: Outcome::Grant,
            uid: 1000,
            gid: 100,
            verb: "exec",
            endpoint: "80/tcp".into(),
            rule: Some("/etc/portgrant.conf:1".into()),
            program: Some(Path::new("/tmp/a\n<0>b\" uid=0")),
        };
        let text = line.text();
        assert!(text.starts_with("<86>portgrant-binder["), "{text}");
        let grant = "]: grant uid=1000 gid=100 verb=exec endpoint=80/tcp rule=/etc/portgrant.conf:1";
        assert!(text.ends_with(&format!(r#"{grant} program="/tmp/a\x0a<0>b\x22 uid=0""#)), "{text}");
    }
}
