//! The guard: starts the program as its child, and stays until the program ends.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use log::debug;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use portgrant_protocol::record::Reply;
use portgrant_protocol::{status, text};
use portgrant_server::Message;
use portgrant_server::daemon::{Fork, PidFile, fork};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open, setsid};

use super::child::{self, Begun, Handshake};
use super::starter::{Starter, status_of};
use super::system;
use super::watch::{Watch, ends};
use crate::arguments::Log;
use crate::exec::descriptors;
use crate::exec::notified::Notified;
use crate::exec::output::{Echo, Flow, Output};
use crate::exec::verify::{self, Verdict, Verification};
use crate::{Error, Life};

/// How long a program may take to end after its start failed, before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// The guard before its program runs.
pub(crate) struct Guard {
    watch: Watch,
    handshake: Handshake,
    /// The mask that the program gets
    callers: SigSet,
    waits: bool,
}

impl Guard {
    pub(super) fn new(
        life: &Life,
        program: &Path,
        signals: &SigSet,
        callers: SigSet,
        starter: Starter,
    ) -> Result<Guard, Error> {
        setsid().map_err(|errno| system("make a session", errno))?;
        let pid_file = life.pid_file.as_deref().map(PidFile::lock).transpose()?;
        let pid_file = pid_file.map(PidFile::write).transpose()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(signals, flags).map_err(|errno| system("read signals", errno))?;
        let name = program.file_name().map_or_else(String::new, |name| text::printable(name.as_encoded_bytes()));
        let output = Output::new(life.log, name.clone()).map_err(|source| Error::Guard { doing: "log", source })?;
        let notified = life.notify.map(Notified::new).transpose();
        let notified = notified.map_err(|source| Error::Guard { doing: "be notified", source })?;
        let handshake = Handshake::new().map_err(|errno| system("make a pipe", errno))?;
        let keeps_output = life.log == Log::Inherit;
        let watch = Watch { starter, signals, _pid_file: pid_file, output, notified, name, keeps_output };
        Ok(Guard { watch, handshake, callers, waits: life.wait })
    }

    /// The process that waits for the start.
    pub(crate) fn starter(&self) -> Starter {
        self.watch.starter.clone()
    }

    /// The environment with the guard's socket for sd_notify(3), where the program reports that it is ready.
    pub(crate) fn environment(&self, environment: Vec<CString>) -> Vec<CString> {
        match &self.watch.notified {
            Some(notified) => notified.environment(environment),
            None => environment,
        }
    }

    /// Starts a new process, which becomes the program by `become`, and stays until the program ends.
    pub(crate) fn run(
        mut self,
        sockets: Vec<OwnedFd>,
        verification: Option<Verification>,
        become_program: impl FnOnce(Vec<OwnedFd>, &Begun) -> Result<Infallible, Error>,
    ) -> Result<Infallible, Error> {
        if self.waits {
            self.watch.up()?;
            self.watch.first_arrival(&sockets)?;
        }
        if let Some(signal) = self.watch.pending().find(|&signal| ends(signal)) {
            return Err(Error::Ended { status: 128 + signal as u8 });
        }
        match fork()? {
            Fork::Child => {
                let Guard { watch, handshake, callers, .. } = self;
                child::run(watch, handshake, callers, |begun| become_program(sockets, begun))
            }
            Fork::Parent(pid) => {
                drop((sockets, become_program));
                self.guarded(pid, verification)?.event_loop()
            }
        }
    }

    fn guarded(mut self, pid: u32, verification: Option<Verification>) -> Result<Guarded, Error> {
        // If SIGCHLD is ignored, the kernel keeps no exit status.
        let kept = signal_hook::flag::register(signal_hook::consts::SIGCHLD, Arc::new(AtomicBool::new(false)));
        kept.map_err(|source| Error::Guard { doing: "keep the program's status", source })?;
        let ended = rustix::process::Pid::from_raw(pid.cast_signed())
            .ok_or(Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .map_err(|errno| system("watch the program", errno))?;
        let Handshake { executing: (executing, reports), go: (_, go) } = self.handshake;
        drop(reports);
        self.watch.output.begin(pid);
        let _ = rustix::io::write(go, &[0]);
        descriptors::close_inherited();
        let _ = rustix::process::chdir("/");
        debug!("{} is process {pid}", self.watch.name);
        let execution = Execution::Awaited(File::from(executing));
        Ok(Guarded { watch: self.watch, pid, ended, execution, verification, began: Instant::now(), stopping: None })
    }
}

/// A running program, and what is not known about its start yet.
struct Guarded {
    watch: Watch,
    pid: u32,
    ended: OwnedFd,
    execution: Execution,
    verification: Option<Verification>,
    began: Instant,
    /// Why the program must end, and when it is killed
    stopping: Option<(Error, Instant)>,
}

/// Whether the child has become the program.
enum Execution {
    /// Not yet known. The pipe closes when the program is executed. If execve(2) fails, the pipe has the reason
    Awaited(File),
    Done,
    /// The child was killed before execve(2)
    Killed,
}

impl Guarded {
    fn event_loop(mut self) -> Result<Infallible, Error> {
        let mut flow = Flow::Open;
        loop {
            self.sleep(flow);
            self.read_execution()?;
            // After this call the process is gone, and nobody can say whether the program was executed.
            let status = if matches!(self.execution, Execution::Awaited(_)) { None } else { self.end() };
            for signal in self.watch.pending().collect::<Vec<_>>() {
                self.send(signal);
            }
            self.progress()?;
            flow = self.watch.output.pump(self.echo());
            if let Some(status) = status {
                let echo = self.echo();
                self.watch.output.finish(echo);
                return Err(self.outcome(status));
            }
        }
    }

    fn echo(&self) -> Echo {
        if self.watch.starter.is_waiting() { Echo::Stderr } else { Echo::None }
    }

    fn sleep(&self, flow: Flow) {
        let mut watched =
            vec![PollFd::new(&self.watch.signals, PollFlags::IN), PollFd::new(&self.ended, PollFlags::IN)];
        // While the program is being stopped, the starter's end does not matter.
        let pipe = self.watch.starter.pipe();
        let pipe = pipe.as_ref().filter(|_| self.stopping.is_none());
        watched.extend(pipe.map(|pipe| PollFd::new(pipe, PollFlags::empty())));
        if let Execution::Awaited(pipe) = &self.execution {
            watched.push(PollFd::new(pipe, PollFlags::IN));
        }
        watched.extend(self.watch.notified.as_ref().map(|notified| PollFd::new(notified, PollFlags::IN)));
        match flow {
            Flow::Open => watched.extend(self.watch.output.pipes().map(|pipe| PollFd::new(pipe, PollFlags::IN))),
            Flow::Stuck => watched.extend(self.watch.output.log().map(|log| PollFd::new(log, PollFlags::OUT))),
        }
        let busy = flow == Flow::Stuck || self.watch.starter.is_waiting() || self.stopping.is_some();
        let pace = busy.then(|| Timespec::try_from(verify::PACE).ok()).flatten();
        // If poll(2) fails, everything is checked at the same pace, without blocking. For example, it fails with EINVAL
        // if RLIMIT_NOFILE is below the number of these descriptors.
        if poll(&mut watched, pace.as_ref()).is_err_and(|errno| errno != Errno::INTR) {
            thread::sleep(verify::PACE);
        }
    }

    fn send(&self, signal: Signal) {
        debug!("{signal} goes to process {}", self.pid);
        let _ = kill(Pid::from_raw(self.pid.cast_signed()), signal);
    }

    /// Kills the program and its children, which would keep the sockets of a start that failed.
    fn kill_group(&self) {
        let _ = killpg(Pid::from_raw(self.pid.cast_signed()), Signal::SIGKILL);
    }

    fn end(&self) -> Option<u8> {
        let ended = waitpid(Pid::from_raw(self.pid.cast_signed()), Some(WaitPidFlag::WNOHANG));
        match ended {
            Err(nix::errno::Errno::EINTR) => None,
            Ok(ended) => status_of(ended),
            Err(_) => Some(status::SYSTEM),
        }
    }

    /// Handles what has changed since the last call.
    fn progress(&mut self) -> Result<(), Error> {
        let ready = self.watch.notified.as_mut().is_none_or(Notified::is_ready);
        if let Some((_, at)) = &self.stopping {
            if Instant::now() >= *at {
                self.send(Signal::SIGKILL);
                self.kill_group();
            }
            return Ok(());
        }
        if !self.watch.starter.is_waiting() {
            return Ok(());
        }
        if self.watch.starter.is_gone() {
            self.stop(Error::Ended { status: 128 + Signal::SIGINT as u8 });
            return Ok(());
        }
        if !matches!(self.execution, Execution::Done) || !self.is_verified() {
            return Ok(());
        }
        match self.watch.notified.as_ref().map(Notified::time_limit) {
            _ if ready => self.watch.up(),
            Some(time_limit) if self.began.elapsed() >= time_limit => {
                self.stop(Error::NotNotified { program: self.watch.name.clone(), time_limit });
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The pipe closes when execve(2) succeeds, and when the process is killed before that.
    fn read_execution(&mut self) -> Result<(), Error> {
        let Execution::Awaited(pipe) = &mut self.execution else { return Ok(()) };
        let mut record = vec![0; 4096];
        match pipe.read(&mut record) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Ok(0) | Err(_) => {
                self.execution = match self.is_before_its_program() {
                    false => Execution::Done,
                    true if is_readable(&self.ended) => Execution::Killed,
                    // execve(2) or its end is under way.
                    true => return Ok(()),
                };
                Ok(())
            }
            Ok(length) => {
                let message = match Reply::parse(record.get(..length).unwrap_or_default()) {
                    Ok(Reply::Failed(message)) => message,
                    Ok(Reply::Granted { .. }) | Err(_) => Message::new("the program could not be started"),
                };
                let _ = waitpid(Pid::from_raw(self.pid.cast_signed()), None);
                if !self.watch.starter.is_waiting() {
                    // With --wait the starter has already ended, so the log gets the message.
                    self.watch.output.note(&message.to_string());
                }
                Err(Error::Failed(Box::new(message)))
            }
        }
    }

    /// Whether the child still has the name [`child::NAME`], which execve(2) replaces. Without /proc the program counts
    /// as executed.
    fn is_before_its_program(&self) -> bool {
        let name = fs::read(format!("/proc/{}/comm", self.pid));
        name.is_ok_and(|name| name.trim_ascii_end() == child::NAME.to_bytes())
    }

    fn is_verified(&mut self) -> bool {
        let Some(verification) = &mut self.verification else { return true };
        match verification.look(self.pid) {
            Verdict::Serving => {
                self.verification = None;
                true
            }
            Verdict::Pending => false,
            Verdict::Ignored(message) => {
                self.stop(Error::Ignored(Box::new(message)));
                false
            }
        }
    }

    fn stop(&mut self, why: Error) {
        self.send(Signal::SIGTERM);
        self.stopping = Some((why, Instant::now() + GRACE));
    }

    /// The error for the end of the program.
    fn outcome(mut self, status: u8) -> Error {
        if let Some((why, _)) = self.stopping.take() {
            return why;
        }
        if self.watch.starter.is_waiting() {
            return Error::EndedEarly { program: self.watch.name.clone(), status };
        }
        self.watch.output.note(&format!("portgrant: it ended with status {status}"));
        Error::Ended { status }
    }
}

/// If poll(2) fails (RLIMIT_NOFILE is 0), the descriptor counts as readable.
fn is_readable(fd: &OwnedFd) -> bool {
    match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&Timespec::default())) {
        Ok(count) => count > 0,
        Err(errno) => errno != Errno::INTR,
    }
}
