//! For Yama's ptrace_scope 1, where only ancestors may inspect a process: the supervisor is the program's parent. The
//! process that was started (the front process) is the supervisor's parent, and ends with the program's status.
//!
//! ```text
//! the process that was started ─── supervisor ─── PROGRAM ─── …
//! ```
//!
//! The front process ends as soon as the program ends, in the same way. The supervisor stays for processes that the
//! program leaves behind: they become its children (PR_SET_CHILD_SUBREAPER), not init's, so it can still inspect them.

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
use crate::supervise::{Slots, Supervisor, Turn};

/// The pause after poll(2) failed.
const PAUSE: Duration = Duration::from_millis(100);
/// `si_code` of a signal from the kernel, such as for a key
const SI_KERNEL: i32 = 0x80;

/// Runs the program under supervision, and ends as the program does.
pub(crate) fn run(asked: &Asked) -> Result<u8, Error> {
    let (reports, sender) = channel()?;
    // If SIGCHLD is ignored, no child can be waited for. The program must get the caller's disposition back.
    let before = process::dispose(SIGCHLD, Disposition::Default);
    match process::fork(asked.only_thread).map_err(Error::Supervisor)? {
        Fork::Child => {
            drop(reports);
            supervise_child(asked, sender, before)
        }
        Fork::Parent(supervisor) => {
            drop(sender);
            run_front(&reports, Pid::from_raw(supervisor), asked.only_thread).map_err(Error::Supervisor)
        }
    }
}

/// The front process: forwards its signals to the supervisor until the supervisor reports the program's end.
fn run_front(reports: &OwnedFd, supervisor: Pid, only_thread: OnlyThread) -> io::Result<u8> {
    let signals = signals()?;
    renounce(CapabilitySet::KILL)?;
    keep_only(&[reports.as_raw_fd(), signals.as_raw_fd()], only_thread)?;
    loop {
        let mut ends = [PollFd::new(reports, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        match poll(&mut ends, None) {
            Ok(_) | Err(Errno::INTR) => {}
            // poll(2) would fail again at once, for example if RLIMIT_NOFILE is too low. So pause.
            Err(_) => std::thread::sleep(PAUSE),
        }
        let mut end = [0; 2];
        match rustix::net::recv(reports, &mut end, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => forward(&signals, supervisor),
            Ok((2, _)) => return Ok(End::from_bytes(end).apply()),
            // The channel was closed: the supervisor was killed, or it failed and has printed the reason.
            _ => return Ok(End::of(wait(supervisor, WaitOptions::empty())?).apply()),
        }
    }
}

/// Becomes the supervisor, whose child becomes the program.
fn supervise_child(asked: &Asked, sender: OwnedFd, before: Disposition) -> Result<u8, Error> {
    let front = Front { process: nix::unistd::getppid(), sender };
    // Must be set before the program starts: it may leave orphans at once.
    prctl::set_child_subreaper(true).map_err(|errno| Error::Supervisor(errno.into()))?;
    let (here, there) = channel()?;
    match process::fork(asked.only_thread).map_err(Error::Supervisor)? {
        Fork::Child => {
            drop((here, front));
            process::dispose(SIGCHLD, before);
            // Without the supervisor every bind(2) of the program would fail.
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
        // The supervisor could not be prepared, so the program's process has ended and has printed the reason.
        front.report_end(wait(program, WaitOptions::empty())?);
        return Ok(0);
    };
    // If the front process is killed, the program must end.
    let _ = set_parent_process_death_signal(Some(Signal::TERM));
    if nix::unistd::getppid() != front.process {
        process::send(program.as_raw(), SIGTERM);
    }
    let _ = rustix::io::write(&there, b"1");
    drop(there);
    let mut slots = Supervisor::no_slots();
    let mut program = Some(program);
    loop {
        let turn = supervisor.answer_until(&mut slots, signals.as_fd())?;
        if let Some(pid) = program {
            if let Turn::Ended = turn {
                // The program and its children have ended. Wait for the SIGCHLD that reports it.
                let _ = poll(&mut [PollFd::new(&signals, PollFlags::IN)], None);
            }
            forward(&signals, pid);
            if let ended @ Some(_) = program_end(pid, front)? {
                program = None;
                front.report_end(ended);
                // Leave the terminal's session, so that the next user can have the terminal.
                let _ = rustix::process::setsid();
            }
        } else {
            if let Turn::Ended = turn {
                return Ok(0);
            }
            while let Ok(Some(_)) = signals.read_signal() {}
        }
        reap(&mut slots, program)?;
    }
}

/// The process that was started.
struct Front {
    process: Pid,
    /// The channel that reports the program's end to it
    sender: OwnedFd,
}

impl Front {
    fn report_end(&self, ended: Option<WaitStatus>) {
        // The front process ends now, which must not end the supervisor.
        let _ = set_parent_process_death_signal(None);
        let _ = rustix::io::write(&self.sender, &End::of(ended).to_bytes());
    }

    /// Stops the front process like the program, so that a shell takes its terminal back. SIGCONT to the front process
    /// is forwarded to the program.
    fn stop(&self) {
        // A parent in another pid namespace has the id 0 here, and kill(2) with 0 signals the process group.
        if self.process.as_raw() > 0 {
            process::send(self.process.as_raw(), SIGSTOP);
        }
    }
}

/// Reaps ended children, except the program: orphans, and helpers, whose exit status is kept for their answer.
fn reap(slots: &mut Slots, program: Option<Pid>) -> io::Result<()> {
    while let Some(child) = process::ended_child().map(Pid::from_raw).filter(|&child| Some(child) != program) {
        if !Supervisor::collect(slots, child) {
            wait(child, WaitOptions::NOHANG)?;
        }
    }
    Ok(())
}

/// Blocks all signals, and returns a descriptor to read them from.
fn signals() -> io::Result<SignalFd> {
    process::block_signals();
    Ok(SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

fn forward(signals: &SignalFd, to: Pid) {
    let own = u32::try_from(getpid().as_raw_pid()).unwrap_or(0);
    // If a terminal hangs up, the kernel signals only the session's leader.
    let leads = getsid(None) == Ok(getpid());
    while let Ok(Some(received)) = signals.read_signal() {
        let number = i32::try_from(received.ssi_signo).unwrap_or(0);
        // The program gets a signal of its terminal from the kernel as well. Other kernel signals, like SIGPIPE, are
        // about this process.
        let had = received.ssi_code == SI_KERNEL && !(leads && number == SIGHUP);
        if number != SIGCHLD && !had && received.ssi_pid != own {
            process::send(to.as_raw(), number);
        }
    }
}

/// How the program ended, if it did. If the program was stopped, the front process is stopped too.
fn program_end(program: Pid, front: &Front) -> io::Result<Option<WaitStatus>> {
    loop {
        match wait(program, WaitOptions::NOHANG | WaitOptions::UNTRACED)? {
            Some(status) if status.stopped() => front.stop(),
            status => return Ok(status),
        }
    }
}

fn wait(process: Pid, options: WaitOptions) -> io::Result<Option<WaitStatus>> {
    let status = waitpid(rustix::process::Pid::from_raw(process.as_raw()), options)?;
    Ok(status.map(|(_, status)| status))
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

    /// Ends this process by the same signal, or returns the status to exit with.
    fn apply(self) -> u8 {
        match self {
            End::Status(status) => status,
            End::Signal(number) => {
                let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
                process::dispose(number.into(), Disposition::Default);
                process::end_by(number.into());
                // Only reached as the first process of a pid namespace, which such a signal does not end.
                u8::MAX
            }
        }
    }
}
