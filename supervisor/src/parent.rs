//! Where only ancestors may look into a process (Yama's ptrace_scope 1): this process stays, as the program's parent and
//! supervisor in one, and whoever waits for it learns of the program's end what they would have learnt.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::libc::{SIGCHLD, SIGCONT, SIGHUP, SIGSTOP};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, WaitOptions, WaitStatus, getpid, getsid, setrlimit, waitpid};
use rustix::thread::CapabilitySet;

use crate::Error;
use crate::arguments::Asked;
use crate::aside::{begin, channel, prepare};
use crate::raw::{self, Disposition, Fork};
use crate::supervise::{Supervisor, Turn};

/// `si_code` of what the kernel sends, such as for a key pressed
const SI_KERNEL: i32 = 0x80;

/// Supervises to the program's end, and ends as it did.
pub(crate) fn run(asked: &Asked) -> Result<u8, Error> {
    let (here, there) = channel()?;
    // Where the caller ignores it, the program's end could not be waited for. The program shall find it as it was.
    let before = raw::dispose(SIGCHLD, Disposition::Default);
    match raw::fork().map_err(Error::Supervisor)? {
        Fork::Child => {
            drop(here);
            raw::dispose(SIGCHLD, before);
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
    raw::block_signals();
    let signals = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    // The end of the channel comes where the program could not even be started: it has said why.
    let Ok(supervisor) = prepare(asked, &there, &[signals.as_fd()], CapabilitySet::KILL) else {
        return Ok(end_as(wait(program, WaitOptions::empty())?));
    };
    let _ = rustix::io::write(&there, b"1");
    drop(there);
    let mut desk = Supervisor::desk();
    loop {
        if let Turn::Alone = supervisor.answer_until(&mut desk, signals.as_fd())? {
            // The program is gone, and what it started: of its end a signal tells.
            let _ = poll(&mut [PollFd::new(&signals, PollFlags::IN)], None);
        }
        forward(&signals, program);
        if let ended @ Some(_) = news_of(program)? {
            outlive(&supervisor);
            return Ok(end_as(ended));
        }
    }
}

fn forward(signals: &SignalFd, program: Pid) {
    let own = u32::try_from(getpid().as_raw_pid()).unwrap_or(0);
    // Whose terminal is gone, only the session's leader is told.
    let leads = getsid(None) == Ok(getpid());
    while let Ok(Some(received)) = signals.read_signal() {
        let number = i32::try_from(received.ssi_signo).unwrap_or(0);
        // From the terminal the program has had it as well; SIGPIPE and its like are this process's own.
        let had = received.ssi_code == SI_KERNEL && !(leads && number == SIGHUP);
        if number != SIGCHLD && !had && received.ssi_pid != own {
            raw::send(program, number);
        }
    }
}

/// What became of the program; a stop is followed.
fn news_of(program: Pid) -> io::Result<Option<WaitStatus>> {
    loop {
        match wait(program, WaitOptions::NOHANG | WaitOptions::UNTRACED)? {
            Some(news) if news.stopped() => {
                raw::send(nix::unistd::getpid(), SIGSTOP);
                raw::send(program, SIGCONT);
            }
            news => return Ok(news),
        }
    }
}

fn wait(program: Pid, options: WaitOptions) -> io::Result<Option<WaitStatus>> {
    let news = waitpid(rustix::process::Pid::from_raw(program.as_raw()), options)?;
    Ok(news.map(|(_, status)| status))
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
fn end_as(ended: Option<WaitStatus>) -> u8 {
    if let Some(number) = ended.and_then(WaitStatus::terminating_signal) {
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
        raw::dispose(number, Disposition::Default);
        raw::end_by(number);
    }
    let status = ended.and_then(WaitStatus::exit_status);
    status.and_then(|status| u8::try_from(status & 0xff).ok()).unwrap_or(u8::MAX)
}
