//! A program that was started, and how it ended.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A program that was started by [`Caller::spawn`](crate::Caller::spawn). Dropped, it is killed; where the test
/// failed, what it wrote is shown.
#[derive(Debug)]
pub struct Running {
    child: Child,
    line: String,
    stdout: Stream,
    stderr: Stream,
}

impl Running {
    #[track_caller]
    pub(crate) fn start(mut command: Command, words: &[OsString], input: Option<Vec<u8>>) -> Self {
        let line = words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let mut child = started(&mut command).unwrap_or_else(|e| panic!("{line}: {e}"));
        if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
            // A program need not read what it was given.
            thread::spawn(move || drop(pipe.write_all(&input)));
        }
        let stdout = Stream::follow(child.stdout.take().expect("a pipe"));
        let stderr = Stream::follow(child.stderr.take().expect("a pipe"));
        Self { child, line, stdout, stderr }
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard output and standard error so far.
    #[must_use]
    pub fn output(&self) -> (String, String) {
        (self.stdout.text(), self.stderr.text())
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal)
            .unwrap_or_else(|e| panic!("kill {}: {e}", self.line));
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it has not ended within that time.
    #[track_caller]
    pub fn wait(mut self, patience: Duration) -> Outcome {
        let deadline = Instant::now() + patience;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                break status;
            }
            assert!(Instant::now() < deadline, "`{}` has not ended within {patience:?}", self.line);
            thread::sleep(Duration::from_millis(1));
        };
        Outcome { status, stdout: self.stdout.finish(), stderr: self.stderr.finish(), line: self.line.clone() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("`{}` had written\n{}{}", self.line, self.stdout.text(), self.stderr.text());
        }
    }
}

/// Starts a program, also one that the test itself has just written: a child of another test may have inherited the
/// open file, and until its execve closes it the kernel finds the program busy.
fn started(command: &mut Command) -> io::Result<Child> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match command.spawn() {
            Err(e) if e.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(2));
            }
            result => return result,
        }
    }
}

/// How a program ended. The methods that look at it fail the test with everything that is known.
#[derive(Debug)]
#[must_use = "look at how it ended"]
pub struct Outcome {
    /// Its exit status, or the signal that ended it.
    pub status: ExitStatus,
    /// What it wrote to standard output; bytes that are no UTF-8 replaced.
    pub stdout: String,
    /// What it wrote to standard error; bytes that are no UTF-8 replaced.
    pub stderr: String,
    line: String,
}

impl Outcome {
    /// It ended with this exit status.
    #[track_caller]
    pub fn exits(&self, status: i32) -> &Self {
        assert_eq!(self.status.code(), Some(status), "not exit status {status}: {self}");
        self
    }

    /// It was ended by this signal.
    #[track_caller]
    pub fn dies_of(&self, signal: Signal) -> &Self {
        assert_eq!(self.status.signal(), Some(signal as i32), "not {signal}: {self}");
        self
    }

    /// It exited with 0.
    #[track_caller]
    pub fn succeeds(&self) -> &Self {
        self.exits(0)
    }

    /// This stands in its standard output.
    #[track_caller]
    pub fn prints(&self, text: &str) -> &Self {
        assert!(self.stdout.contains(text), "not on stdout: {text:?}: {self}");
        self
    }

    /// This stands in its standard error.
    #[track_caller]
    pub fn complains(&self, text: &str) -> &Self {
        assert!(self.stderr.contains(text), "not on stderr: {text:?}: {self}");
        self
    }

    /// It wrote nothing at all.
    #[track_caller]
    pub fn is_silent(&self) -> &Self {
        assert!(self.stdout.is_empty() && self.stderr.is_empty(), "not silent: {self}");
        self
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}\n--- stdout\n{}\n--- stderr\n{}", self.line, self.status, self.stdout, self.stderr)
    }
}

/// A pipe that is read while the program runs.
#[derive(Debug)]
struct Stream {
    pipe: OwnedFd,
    bytes: Arc<Mutex<Vec<u8>>>,
    end: Receiver<()>,
}

impl Stream {
    fn follow(mut pipe: impl Read + AsFd + Send + 'static) -> Self {
        let copy = pipe.as_fd().try_clone_to_owned().expect("a copy");
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let (at_end, end) = channel();
        let filled = Arc::clone(&bytes);
        thread::spawn(move || {
            let mut piece = [0; 4096];
            loop {
                match pipe.read(&mut piece) {
                    Ok(0) => break,
                    Ok(length) => filled.lock().expect("the bytes").extend_from_slice(&piece[..length]),
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            let _ = at_end.send(());
        });
        Self { pipe: copy, bytes, end }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().expect("the bytes")).into_owned()
    }

    /// Everything. A child of the program's may hold the pipe open: then everything up to a moment in which nothing comes.
    fn finish(&self) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.end.recv_timeout(Duration::from_millis(500)) == Err(RecvTimeoutError::Timeout) {
            let mut ends = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
            let is_more = poll(&mut ends, PollTimeout::ZERO).is_ok_and(|count| count > 0);
            if !is_more || Instant::now() > deadline {
                break;
            }
        }
        self.text()
    }
}
