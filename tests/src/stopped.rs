//! A program that was stopped in the middle of what it does, as its caller may stop it.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::caller::Caller;
use crate::running::{Outcome, Running};
use crate::world::World;

const TRACE: &str = "/tmp/stopped.trace";
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that is stopped right after one of its system calls. Traced by root, so the kernel gives it its privilege
/// all the same.
#[derive(Debug)]
pub struct Stopped {
    strace: Running,
    program: Pid,
}

impl World {
    /// Starts `words` as `user` and stops the program after its `nth` call of `call`, counted from 1. `None` if the
    /// program ended before that.
    ///
    /// # Panics
    /// If neither happens within a minute.
    #[must_use]
    #[track_caller]
    pub fn stopped_after(&self, user: &str, call: &str, nth: usize, words: &[&str]) -> Option<Stopped> {
        Stopped::after(self.as_root(), user, call, nth, words)
    }
}

impl Stopped {
    /// The same, with what `root` is given, descriptors for example.
    #[must_use]
    #[track_caller]
    pub fn after(root: Caller, user: &str, call: &str, nth: usize, words: &[&str]) -> Option<Stopped> {
        let _ = fs::remove_file(TRACE);
        let inject = format!("inject={call}:signal=SIGSTOP:when={nth}");
        let strace = ["strace", "-u", user, "-o", TRACE, "-e", &inject];
        let mut strace = root.spawn([&strace[..], words].concat());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let trace = fs::read_to_string(TRACE).unwrap_or_default();
            if trace.contains("--- stopped by SIGSTOP ---") {
                break;
            }
            if !strace.is_alive() {
                return None;
            }
            assert!(Instant::now() < deadline, "neither stopped nor ended: {trace}");
            thread::sleep(Duration::from_millis(1));
        }
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", strace.pid())).expect("children");
        let program = children.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("the program");
        Some(Stopped { strace, program: Pid::from_raw(program) })
    }

    /// Whether it had made the system call `name` when it was stopped.
    #[must_use]
    #[track_caller]
    pub fn has_called(&self, name: &str) -> bool {
        let trace = fs::read_to_string(TRACE).expect("a trace");
        trace.lines().any(|line| line.starts_with(&format!("{name}(")))
    }

    /// The process.
    #[must_use]
    pub fn program(&self) -> u32 {
        self.program.as_raw().cast_unsigned()
    }

    /// Lets it go on, and waits for its end.
    #[track_caller]
    pub fn goes_on(self) -> Outcome {
        kill(self.program, Signal::SIGCONT).expect("SIGCONT");
        self.strace.wait(PATIENCE)
    }

    /// Waits for its end while it is stopped.
    #[track_caller]
    pub fn stays_stopped(self) -> Outcome {
        self.strace.wait(PATIENCE)
    }
}
