//! `--daemon`: the program in the background, and a process of ours that guards it.
//!
//! The one who called waits (the starter) and ends with status 0 when the program is up. The guard leads a session of its
//! own: it has the pid file, asks for the sockets, starts the program as its child, forwards signals to it, carries what
//! it writes to the log, and ends with its status. It keeps no socket. Signals are blocked in it and read (signalfd(2)):
//! no disposition changes, and the program gets the mask that the caller had. Dies the guard by SIGKILL, the program gets
//! SIGTERM (PR_SET_PDEATHSIG).

use std::cell::RefCell;
use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use log::debug;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use portgrant_protocol::record::Reply;
use portgrant_protocol::{Address, Endpoint, listen, status, text};
use portgrant_server::Message;
use portgrant_server::daemon::{Fork, PidFile, fork, leave};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{PidfdFlags, pidfd_open, set_parent_process_death_signal, setsid};
use rustix::stdio;

use super::descriptors;
use super::notified::Notified;
use super::output::{Echo, Flow, Output};
use super::verify::{self, Verdict, Verification};
use crate::arguments::Log;
use crate::{Error, Life};

/// What the program is told as well. Those that stop a process (SIGTSTP) stop the guard alone.
const FORWARDED: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTERM,
    Signal::SIGWINCH,
];
/// How long a program whose start failed may take to end by itself.
const GRACE: Duration = Duration::from_secs(5);

/// Goes into the background. **This returns in the guard**; in the process that called it, it returns as an error, too,
/// when the program is up: with status 0 and nothing to tell.
pub(crate) fn start(life: &Life, listen: &[Endpoint], program: &Path) -> Result<Guard, Error> {
    let _room = room(listen);
    let signals = SigSet::from_iter(FORWARDED);
    // Before the fork, so that there is no moment at which one ends the guard without its pid file.
    let mut blocked = signals;
    // A starter that is gone, or a standard error that nobody reads, must not end the guard.
    blocked.add(Signal::SIGPIPE);
    let callers = blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK).map_err(|errno| system("block signals", errno))?;
    let (news, teller) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| system("make a pipe", nix_errno(errno)))?;
    match fork()? {
        Fork::Parent(guard) => {
            drop(teller);
            callers.thread_set_mask().map_err(|errno| system("unblock signals", errno))?;
            Err(Error::Ended { status: word(news, guard) })
        }
        Fork::Child => {
            drop(news);
            let starter = Starter(Rc::new(RefCell::new(Some(teller.into()))));
            starter.clone().settle(Guard::new(life, program, &signals, callers, starter))
        }
    }
}

/// The numbers where the sockets must go, taken for as long as the guard opens its own things.
fn room(listen: &[Endpoint]) -> Vec<OwnedFd> {
    let each = listen.iter().any(|endpoint| endpoint.address == Address::Each);
    let most = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    let most = most.ok().and_then(|(soft, _)| usize::try_from(soft / 2).ok()).unwrap_or(listen::MAX);
    let count = if each { listen::MAX.min(most) } else { listen.len() };
    let beyond = (listen::FIRST..).nth(count).unwrap_or(listen::FIRST);
    let place = || fcntl_dupfd_cloexec(io::stdin(), listen::FIRST).ok();
    std::iter::from_fn(place).take_while(|place| place.as_raw_fd() < beyond).collect()
}

/// In the process that called: 0 at once; another status when the guard has told why and ended.
fn word(news: OwnedFd, guard: u32) -> u8 {
    let (mut last, mut byte, mut news) = (None, [0], File::from(news));
    while news.read_exact(&mut byte).is_ok() {
        let [word] = byte;
        if word == status::OK {
            return word;
        }
        last = Some(word);
    }
    let ended = waitpid(Pid::from_raw(guard.cast_signed()), None);
    last.unwrap_or_else(|| ended.map_or(status::SYSTEM, |ended| status_of(ended).unwrap_or(status::SYSTEM)))
}

/// As shells have it.
fn status_of(ended: WaitStatus) -> Option<u8> {
    match ended {
        WaitStatus::Exited(_, code) => u8::try_from(code).ok(),
        WaitStatus::Signaled(_, signal, _) => u8::try_from(128 + signal as i32).ok(),
        WaitStatus::Stopped(..)
        | WaitStatus::PtraceEvent(..)
        | WaitStatus::PtraceSyscall(_)
        | WaitStatus::Continued(_)
        | WaitStatus::StillAlive => None,
    }
}

/// Who waits for the daemon to come up.
#[derive(Clone)]
pub(crate) struct Starter(Rc<RefCell<Option<File>>>);

impl Starter {
    /// An error's status is told before its message is written; the starter waits for the end of both.
    pub(crate) fn settle<T>(self, outcome: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &outcome
            && let Some(teller) = self.0.borrow().as_ref()
        {
            let _ = rustix::io::write(teller, &[error.status().max(1)]);
        }
        outcome
    }

    fn is_waiting(&self) -> bool {
        self.0.borrow().is_some()
    }

    fn is_gone(&self) -> bool {
        self.0.borrow().as_ref().is_some_and(|teller| {
            let mut watched = [PollFd::new(teller, PollFlags::empty())];
            poll(&mut watched, Some(&Timespec::default())).is_ok_and(|count| count > 0)
        })
    }

    fn tell_up(&self) {
        if let Some(teller) = self.0.borrow_mut().take() {
            let _ = rustix::io::write(teller, &[status::OK]);
        }
    }
}

/// The guard before its program runs.
pub(crate) struct Guard {
    watch: Watch,
    handshake: Handshake,
    /// The mask that the program gets
    callers: SigSet,
    waits: bool,
}

/// What the guard has from its beginning to its end.
struct Watch {
    starter: Starter,
    signals: SignalFd,
    _pid_file: Option<PidFile>,
    output: Output,
    notified: Option<Notified>,
    /// The program's
    name: String,
    keeps_output: bool,
}

/// Between the guard and the process that becomes the program; each a pipe, its reader first. Opened early, where no
/// socket must go.
struct Handshake {
    /// Its end says that the program was executed
    executing: (OwnedFd, OwnedFd),
    /// A byte says that it may be
    go: (OwnedFd, OwnedFd),
}

impl Handshake {
    fn new() -> rustix::io::Result<Handshake> {
        let [executing, go] = [pipe_with(PipeFlags::CLOEXEC)?, pipe_with(PipeFlags::CLOEXEC)?];
        rustix::io::ioctl_fionbio(&executing.0, true)?;
        Ok(Handshake { executing, go })
    }
}

impl Guard {
    fn new(life: &Life, program: &Path, signals: &SigSet, callers: SigSet, starter: Starter) -> Result<Guard, Error> {
        setsid().map_err(|errno| system("make a session", nix_errno(errno)))?;
        let pid_file = life.pid_file.as_deref().map(PidFile::lock).transpose()?;
        let pid_file = pid_file.map(PidFile::write).transpose()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(signals, flags).map_err(|errno| system("read signals", errno))?;
        let name = program.file_name().map_or_else(String::new, |name| text::printable(name.as_encoded_bytes()));
        let output = Output::new(life.log, name.clone()).map_err(|source| Error::Guard { doing: "log", source })?;
        let notified = life.notify.map(Notified::new).transpose();
        let notified = notified.map_err(|source| Error::Guard { doing: "be notified", source })?;
        let handshake = Handshake::new().map_err(|errno| system("make a pipe", nix_errno(errno)))?;
        let keeps_output = life.log == Log::Inherit;
        let watch = Watch { starter, signals, _pid_file: pid_file, output, notified, name, keeps_output };
        Ok(Guard { watch, handshake, callers, waits: life.wait })
    }

    /// Who waits for it.
    pub(crate) fn starter(&self) -> Starter {
        self.watch.starter.clone()
    }

    /// The environment with the guard's own socket for sd_notify(3), where the program shall say that it is ready.
    pub(crate) fn environment(&self, environment: Vec<CString>) -> Vec<CString> {
        match &self.watch.notified {
            Some(notified) => notified.environment(environment),
            None => environment,
        }
    }

    /// Starts the program, which `become` makes of a new process, and stays until its end.
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
            Fork::Child => self.child(sockets, become_program),
            Fork::Parent(pid) => {
                drop((sockets, become_program));
                self.guarded(pid, verification)?.attend()
            }
        }
    }

    /// In the process that becomes the program. Nothing is opened here: it could stand where a socket must go.
    fn child(
        self,
        sockets: Vec<OwnedFd>,
        become_program: impl FnOnce(Vec<OwnedFd>, &Begun) -> Result<Infallible, Error>,
    ) -> ! {
        let Guard { watch, handshake, callers, .. } = self;
        let Handshake { executing: (_, teller), go } = handshake;
        let begun = Begun(RefCell::new(Some(teller.into())));
        let Err(error) = in_place(watch, go, callers).and_then(|()| become_program(sockets, &begun));
        match begun.0.take() {
            Some(mut teller) => {
                // A record is written and read in one piece (PIPE_BUF).
                let record = Reply::Failed(error.message()).encode().unwrap_or_default();
                let _ = teller.write_all(&record);
            }
            None => crate::say(&error.message()),
        }
        leave(error.status())
    }

    fn guarded(mut self, pid: u32, verification: Option<Verification>) -> Result<Guarded, Error> {
        // Where SIGCHLD is ignored no status is kept.
        let kept = signal_hook::flag::register(signal_hook::consts::SIGCHLD, Arc::new(AtomicBool::new(false)));
        kept.map_err(|source| Error::Guard { doing: "keep the program's status", source })?;
        let ended = rustix::process::Pid::from_raw(pid.cast_signed())
            .ok_or(Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .map_err(|errno| system("watch the program", nix_errno(errno)))?;
        let Handshake { executing: (executing, teller), go: (_, go) } = self.handshake;
        drop(teller);
        self.watch.output.begin(pid);
        let _ = rustix::io::write(go, &[0]);
        descriptors::close_inherited();
        let _ = rustix::process::chdir("/");
        debug!("{} is process {pid}", self.watch.name);
        let executing = Some(File::from(executing));
        Ok(Guarded { watch: self.watch, pid, ended, executing, verification, began: Instant::now(), stopping: None })
    }
}

/// What tells the guard that the program has begun: execve(2) does, by closing it, or whoever stays in the new process.
pub(crate) struct Begun(RefCell<Option<File>>);

impl Begun {
    /// It has begun, and nothing executes another program in this process any more.
    pub(crate) fn tell(&self) {
        drop(self.0.take());
    }
}

/// A process group of its own: who signals the guard's group has the guard forward it, once. Nothing begins before the
/// guard is ready, or where it is gone already.
fn in_place(watch: Watch, (go, guards): (OwnedFd, OwnedFd), callers: SigSet) -> Result<(), Error> {
    let _ = rustix::process::setpgid(None, None);
    set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
        .map_err(|errno| system("be told of the guard's end", nix_errno(errno)))?;
    drop(guards);
    if File::from(go).read_exact(&mut [0]).is_err() {
        leave(status::SYSTEM);
    }
    watch.output.place().map_err(|source| Error::Guard { doing: "log", source })?;
    // What came while it was blocked was the guard's: it is pending there, not here (fork(2)).
    callers.thread_set_mask().map_err(|errno| system("unblock signals", errno))
}

impl Watch {
    fn first_arrival(&self, sockets: &[OwnedFd]) -> Result<(), Error> {
        loop {
            let mut watched: Vec<PollFd<'_>> = vec![PollFd::new(&self.signals, PollFlags::IN)];
            watched.extend(sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)));
            match poll(&mut watched, None) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::Wait(errno.into())),
                Ok(_) if watched.iter().skip(1).any(|socket| !socket.revents().is_empty()) => return Ok(()),
                Ok(_) => {
                    if let Some(signal) = self.pending().find(|&signal| ends(signal)) {
                        return Err(Error::Ended { status: 128 + signal as u8 });
                    }
                }
            }
        }
    }

    fn pending(&self) -> impl Iterator<Item = Signal> {
        std::iter::from_fn(|| self.signals.read_signal().ok().flatten())
            .filter_map(|told| Signal::try_from(told.ssi_signo.cast_signed()).ok())
    }

    /// The starter is told, and what it lent is let go of.
    fn up(&mut self) -> Result<(), Error> {
        if self.starter.is_waiting() {
            let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty());
            let null = null.map_err(|errno| system("open /dev/null", nix_errno(errno)))?;
            let let_go = stdio::dup2_stdin(&null).and_then(|()| match self.keeps_output {
                true => Ok(()),
                false => stdio::dup2_stdout(&null).and_then(|()| stdio::dup2_stderr(&null)),
            });
            let_go.map_err(|errno| system("let go of the terminal", nix_errno(errno)))?;
            self.starter.tell_up();
        }
        Ok(())
    }
}

fn ends(signal: Signal) -> bool {
    matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT)
}

/// A program that runs, and what is still to be learnt of it.
struct Guarded {
    watch: Watch,
    pid: u32,
    ended: OwnedFd,
    /// Readable when it was executed (the end) or could not be (why)
    executing: Option<File>,
    verification: Option<Verification>,
    began: Instant,
    /// Why it must end, and when it is made to
    stopping: Option<(Error, Instant)>,
}

impl Guarded {
    fn attend(mut self) -> Result<Infallible, Error> {
        let mut flow = Flow::Open;
        loop {
            self.sleep(flow);
            let status = self.end();
            for signal in self.watch.pending().collect::<Vec<_>>() {
                self.send(signal);
            }
            self.progress()?;
            flow = self.watch.output.pump(self.echo());
            if let Some(status) = status {
                let echo = self.echo();
                self.watch.output.finish(echo);
                return Err(self.farewell(status));
            }
        }
    }

    fn echo(&self) -> Echo {
        if self.watch.starter.is_waiting() { Echo::Stderr } else { Echo::None }
    }

    fn sleep(&self, flow: Flow) {
        let mut watched =
            vec![PollFd::new(&self.watch.signals, PollFlags::IN), PollFd::new(&self.ended, PollFlags::IN)];
        let starter = self.watch.starter.0.borrow();
        // Whether it is gone makes no difference any more where the program is being stopped.
        let starter = starter.as_ref().filter(|_| self.stopping.is_none());
        watched.extend(starter.map(|teller| PollFd::new(teller, PollFlags::empty())));
        watched.extend(self.executing.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        watched.extend(self.watch.notified.as_ref().map(|notified| PollFd::new(notified, PollFlags::IN)));
        match flow {
            Flow::Open => watched.extend(self.watch.output.pipes().map(|pipe| PollFd::new(pipe, PollFlags::IN))),
            Flow::Stuck => watched.extend(self.watch.output.log().map(|log| PollFd::new(log, PollFlags::OUT))),
        }
        let busy = flow == Flow::Stuck || self.watch.starter.is_waiting() || self.stopping.is_some();
        let pace = busy.then(|| Timespec::try_from(verify::PACE).ok()).flatten();
        // Where it is interrupted or fails, everything is looked at, and nothing blocks. A failure would come again at once
        // (RLIMIT_NOFILE of 0, say).
        if poll(&mut watched, pace.as_ref()).is_err_and(|errno| errno != Errno::INTR) {
            std::thread::sleep(verify::PACE);
        }
    }

    fn send(&self, signal: Signal) {
        debug!("{signal} goes to process {}", self.pid);
        let _ = kill(Pid::from_raw(self.pid.cast_signed()), signal);
    }

    /// Its children would keep the sockets of a start that failed.
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

    /// What has changed since the last look.
    fn progress(&mut self) -> Result<(), Error> {
        self.hear_of_execution()?;
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
        if self.executing.is_some() || !self.is_verified() {
            return Ok(());
        }
        match self.watch.notified.as_ref().map(Notified::patience) {
            _ if ready => self.watch.up(),
            Some(patience) if self.began.elapsed() >= patience => {
                self.stop(Error::NotNotified { program: self.watch.name.clone(), patience });
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The pipe closes when execve(2) succeeds.
    fn hear_of_execution(&mut self) -> Result<(), Error> {
        let Some(pipe) = &mut self.executing else { return Ok(()) };
        let mut told = vec![0; 4096];
        match pipe.read(&mut told) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Ok(0) | Err(_) => {
                self.executing = None;
                Ok(())
            }
            Ok(length) => {
                let message = match Reply::parse(told.get(..length).unwrap_or_default()) {
                    Ok(Reply::Failed(message)) => message,
                    Ok(Reply::Granted { .. }) | Err(_) => Message::new("the program could not be started"),
                };
                let _ = waitpid(Pid::from_raw(self.pid.cast_signed()), None);
                if !self.watch.starter.is_waiting() {
                    // With --wait nobody is there any more to read it.
                    self.watch.output.note(&message.to_string());
                }
                Err(Error::Failed(Box::new(message)))
            }
        }
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

    /// What the end of the program means.
    fn farewell(mut self, status: u8) -> Error {
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

fn system(doing: &'static str, errno: nix::errno::Errno) -> Error {
    Error::Guard { doing, source: errno.into() }
}

fn nix_errno(errno: Errno) -> nix::errno::Errno {
    nix::errno::Errno::from_raw(errno.raw_os_error())
}
