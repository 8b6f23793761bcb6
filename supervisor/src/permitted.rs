//! Checks, before the program starts, that no system call filter of a service manager or a container forbids a call
//! that the supervisor needs. Otherwise each bind(2) of the program would fail without a reason.
//!
//! This process and the supervisor have the same filter. Some filters kill the process, so if there is a filter, a
//! child makes the calls first.

use std::io::{self, IoSliceMut, Read, Write};
use std::os::fd::AsRawFd;

use nix::libc::{SIGCHLD, SIGSYS};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use portgrant_sys::process::{self, Disposition, Fork};
use portgrant_sys::{OnlyThread, seccomp};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, WaitOptions, getpid, pidfd_getfd, pidfd_open, waitpid};
use rustix::thread::{CapabilitySet, SecureComputingMode, secure_computing_mode};

use crate::detached::renounce;
use crate::{Error, filter};

type Try = fn() -> io::Result<()>;

/// Calls that this process tries.
const HERE: [(&str, Try); 4] = [
    ("socket(2) for AF_UNIX", unix_socket),
    ("pidfd_open(2)", pidfd),
    ("pidfd_getfd(2)", copy_of_descriptor),
    ("process_vm_readv(2)", read_memory),
];
/// Calls that cannot be undone, so only the child tries them.
const IN_CHILD: [(&str, Try); 2] = [("capset(2)", give_up), ("seccomp(2)", put_filter)];

/// Checks that this process may make the calls of a supervisor.
pub(crate) fn check(only_thread: OnlyThread) -> Result<(), Error> {
    if secure_computing_mode().is_ok_and(|mode| mode == SecureComputingMode::Filter) {
        in_child(only_thread)?;
    }
    HERE.iter()
        .try_for_each(|&(call, attempt)| attempt().map_err(|source| Error::Forbidden { call, source: Some(source) }))
}

/// Lets a child make all calls. The child writes the number of each call before it makes it.
fn in_child(only_thread: OnlyThread) -> Result<(), Error> {
    let (mut numbers, progress) = io::pipe().map_err(Error::Supervisor)?;
    // If SIGCHLD is ignored, no child can be waited for. The program must get the caller's disposition back.
    let before = process::dispose(SIGCHLD, Disposition::Default);
    let child = match process::fork(only_thread).map_err(Error::Supervisor)? {
        Fork::Child => process::leave(try_all(progress)),
        Fork::Parent(child) => rustix::process::Pid::from_raw(child),
    };
    drop(progress);
    let mut tried = Vec::new();
    let read = numbers.read_to_end(&mut tried);
    let ended = waitpid(child, WaitOptions::empty());
    process::dispose(SIGCHLD, before);
    read.map_err(Error::Supervisor)?;
    let Some((call, _)) = tried.last().and_then(|&last| HERE.iter().chain(&IN_CHILD).nth(last.into())) else {
        return Ok(());
    };
    match ended.ok().flatten().map(|(_, status)| (status.terminating_signal(), status.exit_status())) {
        Some((Some(SIGSYS), _)) => Err(Error::Forbidden { call, source: None }),
        Some((_, Some(errno))) if errno != 0 => {
            Err(Error::Forbidden { call, source: Some(io::Error::from_raw_os_error(errno)) })
        }
        _ => Ok(()),
    }
}

/// The errno of the last call that failed, 0 if all succeeded.
fn try_all(mut progress: impl Write) -> u8 {
    for (number, (_, attempt)) in (0..).zip(HERE.iter().chain(&IN_CHILD)) {
        let _ = progress.write_all(&[number]);
        if let Err(error) = attempt() {
            return error.raw_os_error().and_then(|errno| errno.try_into().ok()).unwrap_or(u8::MAX);
        }
    }
    0
}

fn unix_socket() -> io::Result<()> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).map(drop)?)
}

fn pidfd() -> io::Result<()> {
    Ok(pidfd_open(getpid(), PidfdFlags::empty()).map(drop)?)
}

fn copy_of_descriptor() -> io::Result<()> {
    let process = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(&process, process.as_raw_fd(), PidfdGetfdFlags::empty()).map(drop)?)
}

fn read_memory() -> io::Result<()> {
    let (from, mut to) = ([1], [0]);
    let there = [RemoteIoVec { base: from.as_ptr() as usize, len: 1 }];
    Ok(process_vm_readv(Pid::this(), &mut [IoSliceMut::new(&mut to)], &there).map(drop)?)
}

fn give_up() -> io::Result<()> {
    renounce(CapabilitySet::empty())
}

/// Only a filter that kills matters here. Errors are reported when the program's own filter is installed.
fn put_filter() -> io::Result<()> {
    let _ = rustix::thread::set_no_new_privs(true);
    let _ = seccomp::install(&filter::program());
    Ok(())
}
