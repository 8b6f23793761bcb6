//! The usual case: this process becomes the program, and the supervisor is not related to it.

use std::cell::Cell;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use nix::libc::SIGCHLD;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use portgrant_protocol::program::Unfit;
use portgrant_protocol::unprivileged_ports;
use portgrant_sys::process::{self, Disposition, Fork};
use portgrant_sys::seccomp::{self, Wait};
use portgrant_sys::{OnlyThread, netns_cookie};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::stdio;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::Error;
use crate::arguments::Asked;
use crate::filter;
use crate::supervise::{Supervisor, kept};

/// Becomes the program.
pub(crate) fn run(asked: &Asked) -> Result<u8, Error> {
    let (here, there) = channel()?;
    match process::fork(asked.only_thread).map_err(Error::Supervisor)? {
        Fork::Child => {
            drop(here);
            // The supervisor must not be a child of the program: the program's wait(2) would see it.
            if let Ok(Fork::Child) = process::fork(asked.only_thread) {
                process::leave(supervise_detached(asked, there));
            }
            process::leave(0)
        }
        Fork::Parent(between) => {
            drop(there);
            // If the caller ignores SIGCHLD, this fails with ECHILD after the child has ended.
            let _ = waitpid(Pid::from_raw(between), None);
            begin(asked, &here)
        }
    }
}

/// A channel between the process that becomes the program and the supervisor.
pub(crate) fn channel() -> Result<(OwnedFd, OwnedFd), Error> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|errno| Error::Supervisor(errno.into()))
}

/// Installs the filter, waits for the supervisor, and executes the program.
pub(crate) fn begin(asked: &Asked, supervisor: &OwnedFd) -> Result<u8, Error> {
    if !filter::is_known_machine() {
        return Err(Error::Machine);
    }
    let failed = |errno: Errno| Error::Supervisor(errno.into());
    netns_cookie(supervisor.as_fd()).map_err(|_| Error::Filter(Errno::NOSYS.into()))?;
    rustix::thread::set_no_new_privs(true).map_err(failed)?;
    let (listener, wait) = seccomp::install(&filter::program()).map_err(Error::Filter)?;
    send(supervisor.as_fd(), listener, wait).map_err(failed)?;
    let mut word = [0];
    match rustix::io::read(supervisor, &mut word) {
        Ok(1) => {}
        Ok(_) => return Err(Error::Supervisor(io::ErrorKind::UnexpectedEof.into())),
        Err(errno) => return Err(failed(errno)),
    }
    // An argument of argv ends at a NUL, so it contains none.
    let c_string = |word: &std::ffi::OsStr| CString::new(word.as_bytes()).unwrap_or_default();
    let arguments: Vec<CString> = asked.arguments.iter().map(|word| c_string(word)).collect();
    let Err(errno) = nix::unistd::execve(&c_string(asked.program.as_os_str()), &arguments, &asked.environment);
    Err(Error::Program(Unfit::by_execve(&asked.program, Errno::from_raw_os_error(errno as i32))))
}

/// Runs as the supervisor.
fn supervise_detached(asked: &Asked, program: OwnedFd) -> u8 {
    // A key pressed at the program's terminal must not signal the supervisor. setsid(2) cannot fail in a new process.
    let _ = rustix::process::setsid();
    // The supervisor ends after the last supervised process. No signal but SIGKILL ends it before.
    process::block_signals();
    // If the caller ignores SIGCHLD, no child could be waited for.
    process::dispose(SIGCHLD, Disposition::Default);
    let Ok(supervisor) = prepare(asked, &program, &[], CapabilitySet::empty()) else { return 1 };
    let mut program = Some(program);
    let served = supervisor.serve(|| {
        if let Some(program) = program.take() {
            let _ = rustix::io::write(program, b"1");
        }
    });
    u8::from(served.is_err())
}

/// Makes the supervisor, and closes and gives up everything else. Only the capabilities in `effective` stay effective.
pub(crate) fn prepare(
    asked: &Asked,
    program: &OwnedFd,
    more: &[BorrowedFd<'_>],
    effective: CapabilitySet,
) -> io::Result<Supervisor> {
    renounce(effective)?;
    let (listener, wait) = receive(program.as_fd())?;
    let memory = File::from(rustix::fs::memfd_create("portgrant", MemfdFlags::CLOEXEC)?);
    let supervisor = Supervisor {
        listener,
        wait,
        helper: asked.helper.clone(),
        refusals: asked.refusals.clone(),
        unprivileged: unprivileged_ports::start().max(1024),
        verbose: asked.verbose,
        only_thread: asked.only_thread,
        memory,
        reported: Cell::new(false),
        repeats: Default::default(),
    };
    let [listener, memory] = kept(&supervisor);
    let more = more.iter().map(|fd| fd.as_raw_fd());
    // Many calls at once need more descriptors than the program's limit may allow.
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    keep_only(&[listener, memory, program.as_raw_fd()].into_iter().chain(more).collect::<Vec<_>>(), asked.only_thread)?;
    Ok(supervisor)
}

/// Keeps only the descriptors `kept` and standard error, and leaves the working folder.
pub(crate) fn keep_only(kept: &[RawFd], only_thread: OnlyThread) -> io::Result<()> {
    process::close_all_but(kept, only_thread);
    // The program's standard output must be closed here: its reader waits until no process has it.
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    stdio::dup2_stdin(&null)?;
    stdio::dup2_stdout(&null)?;
    Ok(rustix::process::chdir("/")?)
}

/// Keeps at most the capabilities in `effective`. The program may have given up rights that its caller had, and a bind
/// that is tried for it must not have more rights.
///
/// CAP_NET_BIND_SERVICE and CAP_SYS_PTRACE are given up for good. So a process that has one of them cannot be inspected
/// (ptrace(2)), and its calls continue in the kernel. The other capabilities stay permitted: they are needed to inspect
/// processes that have them.
pub(crate) fn renounce(effective: CapabilitySet) -> io::Result<()> {
    let permitted = capabilities(None)?.permitted - (CapabilitySet::NET_BIND_SERVICE | CapabilitySet::SYS_PTRACE);
    let sets = CapabilitySets { effective: permitted & effective, permitted, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}

fn send(to: BorrowedFd<'_>, listener: OwnedFd, wait: Wait) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    let descriptors = [listener.as_fd()];
    rights.push(SendAncillaryMessage::ScmRights(&descriptors));
    let word = [u8::from(wait == Wait::Killable)];
    sendmsg(to, &[io::IoSlice::new(&word)], &mut rights, SendFlags::NOSIGNAL).map(drop)
}

fn receive(from: BorrowedFd<'_>) -> io::Result<(OwnedFd, Wait)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let mut word = [0];
    recvmsg(from, &mut [io::IoSliceMut::new(&mut word)], &mut rights, RecvFlags::CMSG_CLOEXEC)?;
    let Some(RecvAncillaryMessage::ScmRights(mut descriptors)) = rights.drain().next() else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let listener = descriptors.next().ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok((listener, if word == [1] { Wait::Killable } else { Wait::Interruptible }))
}
