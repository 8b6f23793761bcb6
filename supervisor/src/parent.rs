//! Where only ancestors may look into a process (Yama's ptrace_scope 1): the supervisor is the program's parent, and the
//! process that was started waits in front of both, so a process that waits for it gets the program's status.
//!
//! ```text
//! the process that was started ─── supervisor ─── PROGRAM ─── …
//! ```
//!
//! The first ends as the program does, at once. The supervisor stays for what the program leaves behind: orphans become
//! its children (PR_SET_CHILD_SUBREAPER), not init's, and so can be looked into as long as they live.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::libc::{SIGCHLD, SIGHUP, SIGSTOP, SIGTERM};
use nix::sys::prctl;
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use portgrant_sys::OnlyThread;
use portgrant_sys::process::{self, Disposition, Fork};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::{
    Resource, Rlimit, Signal, WaitOptions, WaitStatus, getpid, getsid, set_parent_process_death_signal, setrlimit,
    waitpid,
};
use rustix::thread::CapabilitySet;

use crate::Error;
use crate::arguments::Asked;
use crate::detached::{begin, channel, keep_only, prepare, renounce};
use crate::supervise::{Desk, Supervisor, Turn};

/// How long poll(2) is left alone after it failed.
const PAUSE: Duration = Duration::from_millis(100);
/// `si_code` of what the kernel sends, such as for a key pressed
const SI_KERNEL: i32 = 0x80;

/// Has the program supervised to its end, and ends as it did.
pub(crate) fn run(asked: &Asked) -> Result<u8, Error> {
    let (news, sender) = channel()?;
    // If the caller ignores it, no end could be waited for. The program must find it as it was.
    let before = process::dispose(SIGCHLD, Disposition::Default);
    match process::fork(asked.only_thread).map_err(Error::Supervisor)? {
        Fork::Child => {
            drop(news);
            stand_between(asked, sender, before)
        }
        Fork::Parent(supervisor) => {
            drop(sender);
            stand_before(&news, Pid::from_raw(supervisor), asked.only_thread).map_err(Error::Supervisor)
        }
    }
}

/// The life of the process that was started: it forwards its signals to the supervisor, until that reports the end.
fn stand_before(news: &OwnedFd, supervisor: Pid, only_thread: OnlyThread) -> io::Result<u8> {
    let signals = signals()?;
    renounce(CapabilitySet::KILL)?;
    keep_only(&[news.as_raw_fd(), signals.as_raw_fd()], only_thread)?;
    loop {
        let mut ends = [PollFd::new(news, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        match poll(&mut ends, None) {
            Ok(_) | Err(Errno::INTR) => {}
            // It would fail again at once: fewer descriptors may be polled than there are (RLIMIT_NOFILE), say.
            Err(_) => std::thread::sleep(PAUSE),
        }
        let mut end = [0; 2];
        match rustix::net::recv(news, &mut end, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => forward(&signals, supervisor),
            Ok((2, _)) => return Ok(End::from_bytes(end).take()),
            // The channel ends if the supervisor was killed, or if it failed and has printed the reason.
            _ => return Ok(End::of(wait(supervisor, WaitOptions::empty())?).take()),
        }
    }
}

/// Becomes the supervisor, whose child becomes the program.
fn stand_between(asked: &Asked, sender: OwnedFd, before: Disposition) -> Result<u8, Error> {
    let front = Front { process: nix::unistd::getppid(), sender };
    // Before there is a program, which might leave orphans from its first moment on.
    prctl::set_child_subreaper(true).map_err(|errno| Error::Supervisor(errno.into()))?;
    let (here, there) = channel()?;
    match process::fork(asked.only_thread).map_err(Error::Supervisor)? {
        Fork::Child => {
            drop((here, front));
            process::dispose(SIGCHLD, before);
            // Without its supervisor it could bind nothing any more.
            let _ = set_parent_process_death_signal(Some(Signal::TERM));
            begin(asked, &there)
        }
        Fork::Parent(program) => {
            drop(there);
            supervise(asked, here, &front, Pid::from_raw(program)).map_err(Error::Supervisor)
        }
    }
}

fn supervise(asked: &Asked, there: OwnedFd, front: &Front, program: Pid) -> io::Result<u8> {
    let signals = signals()?;
    let Ok(supervisor) = prepare(asked, &there, &[signals.as_fd(), front.sender.as_fd()], CapabilitySet::KILL) else {
        // It could not be started, and has printed the reason.
        front.tell(wait(program, WaitOptions::empty())?);
        return Ok(0);
    };
    // Who kills what was started ends the program.
    let _ = set_parent_process_death_signal(Some(Signal::TERM));
    if nix::unistd::getppid() != front.process {
        process::send(program.as_raw(), SIGTERM);
    }
    let _ = rustix::io::write(&there, b"1");
    drop(there);
    let mut desk = Supervisor::desk();
    let mut program = Some(program);
    loop {
        let turn = supervisor.answer_until(&mut desk, signals.as_fd())?;
        if let Some(pid) = program {
            if let Turn::Alone = turn {
                // It is gone, and so is what it started: a signal reports its end.
                let _ = poll(&mut [PollFd::new(&signals, PollFlags::IN)], None);
            }
            forward(&signals, pid);
            if let ended @ Some(_) = news_of(pid, front)? {
                program = None;
                front.tell(ended);
                // The next user of that terminal must not find it in use.
                let _ = rustix::process::setsid();
            }
        } else {
            if let Turn::Alone = turn {
                return Ok(0);
            }
            while let Ok(Some(_)) = signals.read_signal() {}
        }
        bury(&mut desk, program)?;
    }
}

/// The process that was started.
struct Front {
    process: Pid,
    /// Where it hears of the program's end
    sender: OwnedFd,
}

impl Front {
    fn tell(&self, ended: Option<WaitStatus>) {
        // It ends for that: no reason to end anything else.
        let _ = set_parent_process_death_signal(None);
        let _ = rustix::io::write(&self.sender, &End::of(ended).to_bytes());
    }

    /// As the program is: a shell takes its terminal back. Who continues it continues the program.
    fn stop(&self) {
        // Of another pid namespace it would have no number here, and 0 is many.
        if self.process.as_raw() > 0 {
            process::send(self.process.as_raw(), SIGSTOP);
        }
    }
}

/// What has ended, but the program: orphans. Helpers are waited for where they are asked.
fn bury(desk: &mut Desk, program: Option<Pid>) -> io::Result<()> {
    while let Some(child) = process::ended_child().map(Pid::from_raw).filter(|&child| Some(child) != program) {
        if !Supervisor::collect(desk, child) {
            wait(child, WaitOptions::NOHANG)?;
        }
    }
    Ok(())
}

/// Every signal, blocked, as something to read.
fn signals() -> io::Result<SignalFd> {
    process::block_signals();
    Ok(SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

fn forward(signals: &SignalFd, to: Pid) {
    let own = u32::try_from(getpid().as_raw_pid()).unwrap_or(0);
    // If a terminal is gone, the kernel signals only the session's leader.
    let leads = getsid(None) == Ok(getpid());
    while let Ok(Some(received)) = signals.read_signal() {
        let number = i32::try_from(received.ssi_signo).unwrap_or(0);
        // From the terminal the program has had it as well; SIGPIPE and its like are this process's own.
        let had = received.ssi_code == SI_KERNEL && !(leads && number == SIGHUP);
        if number != SIGCHLD && !had && received.ssi_pid != own {
            process::send(to.as_raw(), number);
        }
    }
}

/// How the program ended, if it did; a stop is followed.
fn news_of(program: Pid, front: &Front) -> io::Result<Option<WaitStatus>> {
    loop {
        match wait(program, WaitOptions::NOHANG | WaitOptions::UNTRACED)? {
            Some(news) if news.stopped() => front.stop(),
            news => return Ok(news),
        }
    }
}

fn wait(process: Pid, options: WaitOptions) -> io::Result<Option<WaitStatus>> {
    let news = waitpid(rustix::process::Pid::from_raw(process.as_raw()), options)?;
    Ok(news.map(|(_, status)| status))
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Status(u8),
    Signal(u8),
}

impl End {
    fn of(ended: Option<WaitStatus>) -> End {
        let low = |number: i32| u8::try_from(number & 0xff).unwrap_or(u8::MAX);
        match ended.and_then(WaitStatus::terminating_signal) {
            Some(signal) => End::Signal(low(signal)),
            None => End::Status(ended.and_then(WaitStatus::exit_status).map_or(u8::MAX, low)),
        }
    }

    fn to_bytes(self) -> [u8; 2] {
        match self {
            End::Status(number) => [0, number],
            End::Signal(number) => [1, number],
        }
    }

    fn from_bytes([kind, number]: [u8; 2]) -> End {
        if kind == 0 { End::Status(number) } else { End::Signal(number) }
    }

    /// Ends this process by that signal, or returns the status to exit with.
    fn take(self) -> u8 {
        match self {
            End::Status(status) => status,
            End::Signal(number) => {
                let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
                process::dispose(number.into(), Disposition::Default);
                process::end_by(number.into());
                // Not reached but by the first process of a pid namespace, which such a signal does not end.
                u8::MAX
            }
        }
    }
}
