//! The helper's bind verb, run as this process's user.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use portgrant_protocol::record::Reply;
use portgrant_protocol::{Endpoint, Kind, Message, status, transfer, unanswered};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::getsockname;
use rustix::process::Signal;

/// How long both attempts together may take. The helper ends after 5 s, or its timer kills it after 10, so this limit
/// is for a helper that does neither. On an overloaded machine it is better to wait than to fail.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// The pause after poll(2) failed.
const PAUSE: Duration = Duration::from_millis(100);

const KILLED: &str = "the helper was killed after its time limit of 10 s, and so was another: they were stopped, or the machine is overloaded";
const LIMITS: &str = "see the limits of processes and descriptors (ulimit -a), and what confines this process";

/// Has the helper at `path` bind `socket` to `endpoint`, and waits for it.
pub fn bind(path: &Path, endpoint: &Endpoint, socket: BorrowedFd<'_>) -> Result<(), Box<Message>> {
    let mut asking = Asking::start(path, endpoint, socket)?;
    loop {
        match poll(&mut [PollFd::new(&asking, PollFlags::IN)], Some(&asking.left())) {
            Ok(_) | Err(Errno::INTR) => {}
            // poll(2) would fail again at once, for example with RLIMIT_NOFILE 0. So pause.
            Err(_) => std::thread::sleep(PAUSE),
        }
        if let Some(answered) = asking.answer(path, socket) {
            // The socket decides, not the status, which is unknown if SIGCHLD is ignored.
            return if is_bound(socket) { Ok(()) } else { answered };
        }
    }
}

/// A running helper. It becomes readable when the helper answers or ends.
#[derive(Debug)]
pub(crate) struct Asking {
    helper: Child,
    /// The socket for its answer: a record if it fails, none if it binds
    answers: OwnedFd,
    /// When the first helper was started
    since: Instant,
    /// The endpoint, printable
    endpoint: String,
    /// The first helper was killed, and this is the second
    repeated: bool,
}

impl Asking {
    /// Starts the helper at `path`, for it to bind `socket` to `endpoint`.
    pub(crate) fn start(path: &Path, endpoint: &Endpoint, socket: BorrowedFd<'_>) -> Result<Asking, Box<Message>> {
        let endpoint = endpoint.to_string();
        let (helper, answers) = spawn(path, &endpoint, socket).map_err(|error| {
            let why = format!("{}: {error}", path.display());
            let what = format!("the helper cannot be started for {endpoint}");
            Box::new(Message::of(Kind::BrokenPolicy, what).why(why).fix(LIMITS))
        })?;
        Ok(Asking { helper, answers, since: Instant::now(), endpoint, repeated: false })
    }

    /// How long the helper may still run.
    pub(crate) fn left(&self) -> Timespec {
        let left = TIME_LIMIT.saturating_sub(self.since.elapsed());
        Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(0), tv_nsec: left.subsec_nanos().into() }
    }

    /// Whether `child`, which has ended, is this helper. How it ended is kept for the answer.
    pub(crate) fn collect(&mut self, child: Pid) -> bool {
        let is_it = i32::try_from(self.helper.id()) == Ok(child.as_raw());
        is_it && self.helper.try_wait().is_ok()
    }

    /// The helper's answer, once it has answered, ended or run out of time. `None` before that.
    ///
    /// A helper that was killed is started again, once: its timer kills a helper that was stopped or got no processor
    /// time. `path` and `socket` must be those of the start.
    pub(crate) fn answer(&mut self, path: &Path, socket: BorrowedFd<'_>) -> Option<Result<(), Box<Message>>> {
        let readable = poll(&mut [PollFd::new(&self.answers, PollFlags::IN)], Some(&Timespec::default())) == Ok(1);
        let is_late = self.since.elapsed() >= TIME_LIMIT;
        if !readable && !is_late {
            return None;
        }
        let record = if readable { transfer::receive(self.answers.as_fd()).ok() } else { None };
        // A helper that has sent a record may be stopped now, so kill it before wait(2). If the socket was closed
        // without a record, it has ended.
        if is_late || record.is_some() {
            let _ = self.helper.kill();
        }
        let ended = self.helper.wait();
        if let Some(Ok(Reply::Failed(message))) = record.map(|(record, _)| Reply::parse(&record)) {
            return Some(Err(Box::new(message)));
        }
        let what = format!("the helper could not bind {}", self.endpoint);
        let message = match ended {
            Ok(status) if status.success() => return Some(Ok(())),
            Ok(status) if is_late => Message::new(what).why(format!("the helper took too long ({status})")).fix(LIMITS),
            Ok(status) if status.signal() == Some(Signal::KILL.as_raw()) => {
                if !self.repeated && !is_bound(socket) && self.repeat(path, socket).is_ok() {
                    return None;
                }
                Message::of(Kind::TryAgain, what).why(KILLED).fix("try again")
            }
            Ok(ended) => {
                // The record was lost; the status is not.
                let status = ended.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(status::SYSTEM);
                let message = Message::of(Kind::of_status(status), what).status(status);
                match unanswered::reason(ended) {
                    Some((why, fix)) => message.why(format!("the helper: {why}")).fix(fix),
                    None => message.why(format!("the helper ended without an answer ({ended})")).fix(LIMITS),
                }
            }
            Err(error) => Message::new(what).why(format!("the helper cannot be waited for: {error}")).fix(LIMITS),
        };
        Some(Err(Box::new(message)))
    }

    fn repeat(&mut self, path: &Path, socket: BorrowedFd<'_>) -> io::Result<()> {
        (self.helper, self.answers) = spawn(path, &self.endpoint, socket)?;
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
        self.answers.as_fd()
    }
}

fn spawn(path: &Path, endpoint: &str, socket: BorrowedFd<'_>) -> io::Result<(Child, OwnedFd)> {
    // A copy that the child inherits. This process has one thread, so no other program can inherit it.
    let socket = rustix::io::dup(socket)?;
    fcntl_setfd(&socket, FdFlags::empty())?;
    let (ours, theirs) = transfer::pair()?;
    let mut command = Command::new(path);
    command.args(["bind", "-l", endpoint, "--socket", &socket.as_raw_fd().to_string(), "--answer", "1"]);
    command.env_clear().stdin(Stdio::null()).stdout(theirs);
    Ok((command.spawn()?, ours))
}
