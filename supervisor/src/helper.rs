//! The helper's bind verb, run as this process's user.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use portgrant_protocol::text::printable;
use portgrant_protocol::{Endpoint, status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::getsockname;
use rustix::process::Signal;

/// How long both attempts together may take. The helper ends by itself after 5 s and is killed after 10, so this is for one
/// that does neither; on an overloaded machine it is better to wait than to refuse what is permitted.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most that it may say, in bytes.
const LONGEST: usize = 4096;
/// How long poll(2) is left alone after it failed.
const PAUSE: Duration = Duration::from_millis(100);

const KILLED: &str = "the helper was killed after its time limit of 10 s, and so was another: they were stopped, or the machine is overloaded";
const LIMITS: &str = "see the limits of processes and descriptors (ulimit -a), and what confines this process";

/// Why a socket is not bound: the helper's exit status, and its words. `Display` writes them, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// As everywhere here
    pub status: u8,
    /// What happened
    pub what: String,
    /// Why
    pub why: String,
    /// What to do
    pub fix: String,
}

impl Refusal {
    fn new(status: u8, what: String, why: String, fix: &str) -> Refusal {
        Refusal { status, what, why, fix: fix.to_owned() }
    }

    /// What the helper wrote to standard error.
    fn read(status: u8, said: &str) -> Refusal {
        let part =
            |label: &str| said.lines().find_map(|line| line.trim_start().strip_prefix(label)).unwrap_or_default();
        let [what, why, fix] = ["portgrant-binder: ", "why: ", "fix: "].map(|label| printable(part(label).as_bytes()));
        Refusal { status, what, why, fix }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "portgrant: {}", self.what)?;
        for (label, part) in [("why", &self.why), ("fix", &self.fix)] {
            if !part.is_empty() {
                writeln!(f, "  {label}: {part}")?;
            }
        }
        Ok(())
    }
}

/// Has the helper at `path` bind `socket` to `endpoint`, and waits for it.
pub fn bind(path: &Path, endpoint: &Endpoint, socket: BorrowedFd<'_>) -> Result<(), Refusal> {
    let mut asking = Asking::start(path, endpoint, socket)?;
    loop {
        match poll(&mut [PollFd::new(&asking, PollFlags::IN)], Some(&asking.left())) {
            Ok(_) | Err(Errno::INTR) => {}
            // No descriptor may be polled, say (RLIMIT_NOFILE of 0): it would fail again at once.
            Err(_) => std::thread::sleep(PAUSE),
        }
        if let Some(answered) = asking.answer(path, socket) {
            // The socket tells, not the status: that is not known where SIGCHLD is ignored.
            return if is_bound(socket) { Ok(()) } else { answered };
        }
    }
}

/// A helper that runs. Readable when there is news of it.
#[derive(Debug)]
pub(crate) struct Asking {
    helper: Child,
    words: File,
    said: Vec<u8>,
    /// When the first one was started
    since: Instant,
    /// For what, printable
    endpoint: String,
    /// The first one was killed, and this is another
    repeated: bool,
}

impl Asking {
    /// Starts the helper at `path`, for it to bind `socket` to `endpoint`.
    pub(crate) fn start(path: &Path, endpoint: &Endpoint, socket: BorrowedFd<'_>) -> Result<Asking, Refusal> {
        let endpoint = endpoint.to_string();
        let failed = |error: io::Error| {
            let why = format!("{}: {error}", path.display());
            Refusal::new(status::BROKEN, format!("{endpoint} cannot be asked for"), why, LIMITS)
        };
        let (helper, words) = spawn(path, &endpoint, socket).map_err(failed)?;
        Ok(Asking { helper, words, said: Vec::new(), since: Instant::now(), endpoint, repeated: false })
    }

    /// For how long it may still run.
    pub(crate) fn left(&self) -> Timespec {
        let left = PATIENCE.saturating_sub(self.since.elapsed());
        Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(0), tv_nsec: left.subsec_nanos().into() }
    }

    /// Whether `child`, which has ended, is this helper. How it ended is kept for the answer.
    pub(crate) fn collect(&mut self, child: Pid) -> bool {
        let is_it = i32::try_from(self.helper.id()) == Ok(child.as_raw());
        is_it && self.helper.try_wait().is_ok()
    }

    /// Its answer, once it has ended or must. Never waits.
    ///
    /// A helper that was killed is started again, once: its own timer does that where it was stopped or got no processor
    /// time. `path` and `socket` are those that it was started with.
    pub(crate) fn answer(&mut self, path: &Path, socket: BorrowedFd<'_>) -> Option<Result<(), Refusal>> {
        let ended = self.listen();
        let must = self.since.elapsed() >= PATIENCE || self.said.len() > LONGEST;
        if !ended && !must {
            return None;
        }
        if !ended {
            let _ = self.helper.kill();
        }
        let said = || String::from_utf8_lossy(&self.said);
        let (why, fix) = match self.helper.wait() {
            Ok(status) if !ended => (format!("the helper took too long, or said too much ({status})"), LIMITS),
            Ok(status) if status.signal() == Some(Signal::KILL.as_raw()) => {
                if !self.repeated && !must && !is_bound(socket) && self.repeat(path, socket).is_ok() {
                    return None;
                }
                (KILLED.to_owned(), "try again")
            }
            Ok(status) => match status.code().and_then(|code| u8::try_from(code).ok()) {
                Some(status::OK) => return Some(Ok(())),
                Some(code) => return Some(Err(Refusal::read(code, &said()))),
                None => (format!("the helper ended: {status}"), LIMITS),
            },
            Err(_) if !self.said.is_empty() => return Some(Err(Refusal::read(status::SYSTEM, &said()))),
            Err(error) => (format!("the helper cannot be waited for: {error}"), LIMITS),
        };
        Some(Err(Refusal::new(status::SYSTEM, format!("{} was asked for in vain", self.endpoint), why, fix)))
    }

    /// Reads what it says. Whether that was all of it.
    fn listen(&mut self) -> bool {
        let mut bytes = [0; 1024];
        while self.said.len() <= LONGEST {
            match self.words.read(&mut bytes) {
                Ok(0) => return true,
                Ok(length) => self.said.extend_from_slice(&bytes[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // It would be ready, and fail, for ever.
                Err(_) => return true,
            }
        }
        false
    }

    fn repeat(&mut self, path: &Path, socket: BorrowedFd<'_>) -> io::Result<()> {
        (self.helper, self.words) = spawn(path, &self.endpoint, socket)?;
        self.said.clear();
        self.repeated = true;
        Ok(())
    }
}

fn is_bound(socket: BorrowedFd<'_>) -> bool {
    let local = getsockname(socket).ok().and_then(|local| SocketAddr::try_from(local).ok());
    local.is_some_and(|local| local.port() != 0)
}

impl AsFd for Asking {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.words.as_fd()
    }
}

fn spawn(path: &Path, endpoint: &str, socket: BorrowedFd<'_>) -> io::Result<(Child, File)> {
    // A copy for the child: there is one thread, so nothing else is executed meanwhile.
    let socket = rustix::io::dup(socket)?;
    fcntl_setfd(&socket, FdFlags::empty())?;
    let mut command = Command::new(path);
    command.args(["bind", "-l", endpoint, "--socket", &socket.as_raw_fd().to_string()]);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut helper = command.spawn()?;
    let words = helper.stderr.take().map(OwnedFd::from).ok_or(io::ErrorKind::BrokenPipe)?;
    rustix::io::ioctl_fionbio(&words, true)?;
    Ok((helper, words.into()))
}
