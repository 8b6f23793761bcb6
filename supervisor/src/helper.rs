//! The helper's bind verb, run as this process's user.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use portgrant_protocol::record::Reply;
use portgrant_protocol::{Endpoint, Kind, Message, transfer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::getsockname;

/// How long it may take: the rules of a very large policy take some tens of milliseconds, but a machine may be out of
/// breath, and to wait is better then than to refuse what is permitted.
const PATIENCE: Duration = Duration::from_secs(30);

/// Has the helper at `path` bind `socket` to `endpoint`, and waits for it.
pub fn bind(path: &Path, endpoint: &Endpoint, socket: BorrowedFd<'_>) -> Result<(), Box<Message>> {
    let mut asking = Asking::start(path, endpoint, socket)?;
    loop {
        let _ = poll(&mut [PollFd::new(&asking, PollFlags::IN)], Some(&asking.left()));
        if let Some(answered) = asking.answer() {
            // The socket tells, not the status: that is not known where SIGCHLD is ignored.
            let local = getsockname(socket).ok().and_then(|local| SocketAddr::try_from(local).ok());
            return if local.is_some_and(|local| local.port() != 0) { Ok(()) } else { answered };
        }
    }
}

/// A helper that runs. Readable when there is news of it.
#[derive(Debug)]
pub(crate) struct Asking {
    helper: Child,
    /// Where its answer comes: a record if it fails, nothing if it binds
    answers: OwnedFd,
    since: Instant,
    /// For what, printable
    endpoint: String,
}

impl Asking {
    /// Starts the helper at `path`, for it to bind `socket` to `endpoint`.
    pub(crate) fn start(path: &Path, endpoint: &Endpoint, socket: BorrowedFd<'_>) -> Result<Asking, Box<Message>> {
        let endpoint = endpoint.to_string();
        let (helper, answers) = spawn(path, &endpoint, socket).map_err(|error| {
            let why = format!("{}: {error}", path.display());
            let what = format!("the helper cannot be started for {endpoint}");
            Box::new(Message::of(Kind::BrokenPolicy, what).why(why).fix(FIX))
        })?;
        Ok(Asking { helper, answers, since: Instant::now(), endpoint })
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
    pub(crate) fn answer(&mut self) -> Option<Result<(), Box<Message>>> {
        let readable = poll(&mut [PollFd::new(&self.answers, PollFlags::IN)], Some(&Timespec::default())) == Ok(1);
        let is_late = self.since.elapsed() >= PATIENCE;
        if !readable && !is_late {
            return None;
        }
        let record = if readable { transfer::receive(self.answers.as_fd()).ok() } else { None };
        // Whoever sent a record may be stopped since. Its end of the socket closes when it has ended, so without a record
        // there is nothing to wait for.
        if is_late || record.is_some() {
            let _ = self.helper.kill();
        }
        let ended = self.helper.wait();
        if let Some(Ok(Reply::Failed(message))) = record.map(|(record, _)| Reply::parse(&record)) {
            return Some(Err(Box::new(message)));
        }
        let why = match ended {
            Ok(status) if status.success() => return Some(Ok(())),
            Ok(status) if is_late => format!("the helper took too long ({status})"),
            Ok(status) => format!("the helper ended without an answer ({status})"),
            Err(error) => format!("the helper cannot be waited for: {error}"),
        };
        let message = Message::new(format!("the helper could not bind {}", self.endpoint)).why(why).fix(FIX);
        Some(Err(Box::new(message)))
    }
}

impl AsFd for Asking {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.answers.as_fd()
    }
}

const FIX: &str = "see the limits of processes and descriptors (ulimit -a), and what confines this process";

fn spawn(path: &Path, endpoint: &str, socket: BorrowedFd<'_>) -> io::Result<(Child, OwnedFd)> {
    // A copy for the child: there is one thread, so nothing else is executed meanwhile.
    let socket = rustix::io::dup(socket)?;
    fcntl_setfd(&socket, FdFlags::empty())?;
    let (ours, theirs) = transfer::pair()?;
    let mut command = Command::new(path);
    command.args(["bind", "-l", endpoint, "--socket", &socket.as_raw_fd().to_string(), "--answer", "1"]);
    command.env_clear().stdin(Stdio::null()).stdout(theirs);
    Ok((command.spawn()?, ours))
}
