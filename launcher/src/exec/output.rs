//! `--log`: where a daemon's standard output and standard error go. The guard sends it to syslog line by line.
//!
//! The C library's syslog(3) waits for a log daemon that does not read. The guard must not wait, since it forwards
//! signals. So it tries such a line again later, and meanwhile the program's pipe fills up.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::stdio;

use crate::arguments::Log;

/// The log daemon's socket (syslog(3)).
const SOCKET: &str = "/dev/log";
/// A longer line becomes several messages.
const LONGEST: usize = 2048;
/// syslog's severities.
const NOTICE: u8 = 5;
const INFO: u8 = 6;
/// The pause before another try, if nothing listens at the socket.
const RECOVERY: Duration = Duration::from_secs(1);

/// Whether all output was passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// All of it
    Open,
    /// The log accepts no more for the moment
    Stuck,
}

/// Whether the program's standard error is also copied to the launcher's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Echo {
    /// Yes: a user waits for the start
    Stderr,
    /// No
    None,
}

/// The program's output, both ends of it.
pub(crate) enum Output {
    /// The caller's descriptors
    Inherit,
    /// Discarded
    None,
    /// To syslog
    Syslog { stdout: Lines, stderr: Lines, log: Syslog },
}

impl Output {
    /// Makes the pipes.
    pub(crate) fn new(log: Log, tag: String) -> io::Result<Output> {
        Ok(match log {
            Log::Inherit => Output::Inherit,
            Log::None => Output::None,
            Log::Syslog { facility } => Output::Syslog {
                stdout: Lines::new(INFO)?,
                stderr: Lines::new(NOTICE)?,
                log: Syslog { socket: None, tried: None, facility, tag, pid: std::process::id(), lost: 0 },
            },
        })
    }

    /// Sets descriptors 0, 1 and 2, in the process that becomes the program.
    pub(crate) fn place(&self) -> io::Result<()> {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        stdio::dup2_stdin(&null)?;
        let (stdout, stderr) = match self {
            Output::Inherit => return Ok(()),
            Output::None => (null.as_fd(), null.as_fd()),
            Output::Syslog { stdout, stderr, .. } => (stdout.write_end()?, stderr.write_end()?),
        };
        stdio::dup2_stdout(stdout)?;
        stdio::dup2_stderr(stderr)?;
        Ok(())
    }

    /// Closes the program's ends, in the guard. `pid` is the program's.
    pub(crate) fn begin(&mut self, pid: u32) {
        if let Output::Syslog { stdout, stderr, log } = self {
            log.pid = pid;
            (stdout.write, stderr.write) = (None, None);
        }
    }

    /// The pipes to wait for.
    pub(crate) fn pipes(&self) -> impl Iterator<Item = &File> {
        let pipes = match self {
            Output::Inherit | Output::None => [None, None],
            Output::Syslog { stdout, stderr, .. } => [stdout.read.as_ref(), stderr.read.as_ref()],
        };
        pipes.into_iter().flatten()
    }

    /// The socket to wait for if the log is stuck.
    pub(crate) fn log(&self) -> Option<&UnixDatagram> {
        match self {
            Output::Inherit | Output::None => None,
            Output::Syslog { log, .. } => log.socket.as_ref(),
        }
    }

    /// Passes on the output that is available.
    pub(crate) fn pump(&mut self, echo: Echo) -> Flow {
        let Output::Syslog { stdout, stderr, log } = self else { return Flow::Open };
        let flows = [stdout.pump(log, Echo::None), stderr.pump(log, echo)];
        if flows.contains(&Flow::Stuck) { Flow::Stuck } else { Flow::Open }
    }

    /// Passes on the rest after the program's end, also a last line without a line feed.
    pub(crate) fn finish(&mut self, echo: Echo) {
        let deadline = Instant::now() + RECOVERY;
        while self.pump(echo) == Flow::Stuck && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Output::Syslog { stdout, stderr, log } = self {
            stdout.rest(log, Echo::None);
            stderr.rest(log, echo);
        }
    }

    /// Logs a line of portgrant.
    pub(crate) fn note(&mut self, text: &str) {
        if let Output::Syslog { log, .. } = self {
            let _ = log.send(NOTICE, text.as_bytes());
        }
    }
}

/// One of the program's streams.
pub(crate) struct Lines {
    read: Option<File>,
    write: Option<OwnedFd>,
    severity: u8,
    buffer: Vec<u8>,
}

impl Lines {
    fn new(severity: u8) -> io::Result<Lines> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&read, true)?;
        Ok(Lines { read: Some(read.into()), write: Some(write), severity, buffer: Vec::new() })
    }

    fn write_end(&self) -> io::Result<std::os::fd::BorrowedFd<'_>> {
        self.write.as_ref().map(AsFd::as_fd).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    fn pump(&mut self, log: &mut Syslog, echo: Echo) -> Flow {
        loop {
            if self.lines(log, echo) == Flow::Stuck {
                return Flow::Stuck;
            }
            let mut piece = [0; 4096];
            let Some(pipe) = self.read.as_mut() else { return Flow::Open };
            match pipe.read(&mut piece) {
                Ok(0) => self.read = None,
                Ok(length) => self.buffer.extend_from_slice(piece.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Flow::Open,
                Err(_) => self.read = None,
            }
        }
    }

    fn lines(&mut self, log: &mut Syslog, echo: Echo) -> Flow {
        loop {
            let end = self.buffer.iter().position(|&byte| byte == b'\n');
            let (length, next) = match end {
                Some(end) if end <= LONGEST => (end, end + 1),
                _ if self.buffer.len() > LONGEST => (LONGEST, LONGEST),
                _ => return Flow::Open,
            };
            if !self.log_line(length, log, echo) {
                return Flow::Stuck;
            }
            self.buffer.drain(..next);
        }
    }

    fn rest(&mut self, log: &mut Syslog, echo: Echo) {
        self.log_line(self.buffer.len(), log, echo);
    }

    /// An empty line is not logged.
    fn log_line(&self, length: usize, log: &mut Syslog, echo: Echo) -> bool {
        let line = self.buffer.get(..length).unwrap_or_default();
        if line.is_empty() {
            return true;
        }
        let (severity, text) = severity(line).unwrap_or((self.severity, line));
        if !log.send(severity, text) {
            return false;
        }
        if echo == Echo::Stderr && takes_more() {
            let _ = rustix::io::write(io::stderr(), &[line, b"\n"].concat());
        }
        true
    }
}

/// Whether standard error accepts a line at once: the guard must not wait for a slow reader.
fn takes_more() -> bool {
    let stderr = io::stderr();
    let mut watched = [PollFd::new(&stderr, PollFlags::OUT)];
    poll(&mut watched, Some(&Timespec::default())).is_ok_and(|count| count > 0)
}

/// The severity of a line like `<3>text` (sd-daemon(3)).
fn severity(line: &[u8]) -> Option<(u8, &[u8])> {
    match line {
        [b'<', digit @ b'0'..=b'7', b'>', text @ ..] => Some((digit - b'0', text)),
        _ => None,
    }
}

/// The log daemon's socket, if there is one.
pub(crate) struct Syslog {
    socket: Option<UnixDatagram>,
    tried: Option<Instant>,
    facility: u8,
    tag: String,
    pid: u32,
    lost: u64,
}

impl Syslog {
    /// Returns false if the daemon does not keep up. Without a daemon the line is lost and counted: a dead log must not
    /// end a server.
    fn send(&mut self, severity: u8, text: &[u8]) -> bool {
        self.reach();
        if self.lost > 0 && self.socket.is_some() {
            let notice = format!("{} lines before this one were lost: nothing listened at {SOCKET}", self.lost);
            if self.put(NOTICE, notice.as_bytes()).is_ok() {
                self.lost = 0;
            }
        }
        match self.put(severity, text) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(_) => {
                self.socket = None;
                self.reach();
                // After a restart of the daemon, its socket has the same name.
                self.lost += u64::from(self.put(severity, text).is_err());
                true
            }
        }
    }

    fn put(&self, severity: u8, text: &[u8]) -> io::Result<()> {
        let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let Syslog { facility, tag, pid, .. } = self;
        // The daemon adds the time.
        let head = format!("<{}>{tag}[{pid}]: ", facility << 3 | severity);
        rustix::net::send(socket, &[head.as_bytes(), &plain(text)].concat(), rustix::net::SendFlags::NOSIGNAL)?;
        Ok(())
    }

    fn reach(&mut self) {
        if self.socket.is_some() || self.tried.is_some_and(|tried| tried.elapsed() < RECOVERY) {
            return;
        }
        let reached = UnixDatagram::unbound().and_then(|socket| {
            socket.connect(SOCKET)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        self.socket = reached.ok();
        self.tried = self.socket.is_none().then(Instant::now);
    }
}

/// The program's bytes, with control characters escaped.
fn plain(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        for letter in chunk.valid().chars() {
            let mut bytes = [0; 4];
            let bytes = letter.encode_utf8(&mut bytes).as_bytes();
            if letter.is_control() && letter != '\t' { escape(&mut plain, bytes) } else { plain.extend(bytes) }
        }
        for byte in chunk.invalid() {
            // U+0080 to U+009F in one byte.
            if (0x80..0xa0).contains(byte) { escape(&mut plain, &[*byte]) } else { plain.push(*byte) }
        }
    }
    plain
}

fn escape(plain: &mut Vec<u8>, bytes: &[u8]) {
    plain.extend(bytes.iter().flat_map(|byte| format!("\\x{byte:02x}").into_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_may_set_its_priority_but_cannot_forge_a_record() {
        assert_eq!(severity(b"<3>broken"), Some((3, b"broken".as_slice())));
        for plain in [b"<8>no".as_slice(), b"<>", b"3>", b"<33>no", b""] {
            assert_eq!(severity(plain), None);
        }
        assert_eq!(plain(b"a\tb\x1b[2J\r\xc3\xa9\x7f"), b"a\tb\\x1b[2J\\x0d\xc3\xa9\\x7f");
        assert_eq!(plain(b"\xc2\x9b2J \x9b \xe9"), b"\\xc2\\x9b2J \\x9b \xe9", "C1, in UTF-8 and in one byte");
    }
}
