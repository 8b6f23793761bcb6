//! Where only ancestors may look into a process (Yama's ptrace_scope 1): this process stays, as the program's parent and
//! supervisor in one, and whoever waits for it learns of the program's end what they would have learnt.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::{SigSet, Signal, kill, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::Error;
use crate::arguments::Asked;
use crate::aside::{begin, channel, prepare};
use crate::raw::{self, Fork};
use crate::supervise::{Supervisor, Turn};

/// What is passed on to the program, unless it came from the terminal: then the program has had it as well.
const FORWARDED: [Signal; 9] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGALRM,
    Signal::SIGCONT,
];
/// `si_code` of what the kernel sends, such as for a key pressed
const SI_KERNEL: i32 = 0x80;

/// Supervises to the program's end, and ends as it did.
pub(crate) fn run(asked: &Asked) -> Result<u8, Error> {
    let (here, there) = channel()?;
    match raw::fork().map_err(Error::Supervisor)? {
        Fork::Child => {
            drop(here);
            // Without its supervisor it could bind nothing any more.
            let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
            begin(asked, &there)
        }
        Fork::Parent(program) => {
            drop(there);
            supervise(asked, here, program).map_err(Error::Supervisor)
        }
    }
}

fn supervise(asked: &Asked, there: OwnedFd, program: Pid) -> io::Result<u8> {
    let mut signals: SigSet = FORWARDED.into_iter().collect();
    signals.add(Signal::SIGCHLD);
    signals.thread_block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    // The end of the channel comes where the program could not even be started: it has said why.
    let Ok(supervisor) = prepare(asked, &there, &[signals.as_fd()]) else { return end_as(waitpid(program, None)?) };
    raw::ignore(Signal::SIGPIPE);
    let _ = rustix::io::write(&there, b"1");
    drop(there);
    let mut desk = Supervisor::desk();
    loop {
        if let Turn::Alone = supervisor.answer_until(&mut desk, signals.as_fd())? {
            // The program is gone, and what it started: of its end a signal tells.
            let _ = poll(&mut [PollFd::new(&signals, PollFlags::IN)], None);
        }
        forward(&signals, program);
        if let Some(ended) = news_of(program)? {
            outlive(&supervisor);
            return end_as(ended);
        }
    }
}

fn forward(signals: &SignalFd, program: Pid) {
    while let Ok(Some(received)) = signals.read_signal() {
        let signal = i32::try_from(received.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
        if let Some(signal) = signal.filter(|&signal| signal != Signal::SIGCHLD && received.ssi_code != SI_KERNEL) {
            let _ = kill(program, signal);
        }
    }
}

/// What became of the program; a stop is followed.
fn news_of(program: Pid) -> io::Result<Option<WaitStatus>> {
    loop {
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED;
        let news = waitpid(program, Some(flags))?;
        match news {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return Ok(Some(news)),
            WaitStatus::Stopped(..) => {
                raise(Signal::SIGSTOP)?;
                let _ = kill(program, Signal::SIGCONT);
            }
            WaitStatus::StillAlive
            | WaitStatus::Continued(_)
            | WaitStatus::PtraceEvent(..)
            | WaitStatus::PtraceSyscall(_) => return Ok(None),
        }
    }
}

/// What the program started may live on: somebody must answer it, if only by leaving each call to the kernel.
fn outlive(supervisor: &Supervisor) {
    let mut ends = [PollFd::new(&supervisor.listener, PollFlags::empty())];
    let alone = poll(&mut ends, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok()
        && ends[0].revents().contains(PollFlags::HUP);
    if !alone && let Ok(Fork::Child) = raw::fork() {
        let _ = rustix::process::setsid();
        raw::leave(u8::from(supervisor.serve(|| {}).is_err()));
    }
}

/// Ends this process as `ended` says: by a status or by a signal.
fn end_as(ended: WaitStatus) -> io::Result<u8> {
    if let WaitStatus::Signaled(_, signal, _) = ended {
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
        raw::default(signal);
        SigSet::empty().thread_set_mask()?;
        let _ = raise(signal);
    }
    let WaitStatus::Exited(_, status) = ended else { return Ok(u8::MAX) };
    Ok(u8::try_from(status & 0xff).unwrap_or(u8::MAX))
}
