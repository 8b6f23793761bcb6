//! What a system call filter of a service manager or a container keeps from a supervisor, found out before the program
//! begins: each bind of it would fail otherwise, and nobody would know why.
//!
//! A filter is the same for this process and for the supervisor. One that kills is survived: where there is a filter at
//! all, a child makes the calls first.

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

/// What is tried in this process.
const HERE: [(&str, Try); 4] = [
    ("socket(2) for AF_UNIX", unix_socket),
    ("pidfd_open(2)", pidfd),
    ("pidfd_getfd(2)", copy_of_descriptor),
    ("process_vm_readv(2)", read_memory),
];
/// What cannot be taken back, and is tried in a child alone.
const IN_CHILD: [(&str, Try); 2] = [("capset(2)", give_up), ("seccomp(2)", put_filter)];

/// Whether this process may do what a supervisor does.
pub(crate) fn check(only_thread: OnlyThread) -> Result<(), Error> {
    if secure_computing_mode().is_ok_and(|mode| mode == SecureComputingMode::Filter) {
        in_child(only_thread)?;
    }
    HERE.iter()
        .try_for_each(|&(call, attempt)| attempt().map_err(|source| Error::Forbidden { call, source: Some(source) }))
}

/// Has a child make all the calls, which first says the number of each.
fn in_child(only_thread: OnlyThread) -> Result<(), Error> {
    let (mut numbers, says) = io::pipe().map_err(Error::Supervisor)?;
    // If the caller ignores it, no end could be waited for. The program must find it as it was.
    let before = process::dispose(SIGCHLD, Disposition::Default);
    let child = match process::fork(only_thread).map_err(Error::Supervisor)? {
        Fork::Child => process::leave(try_all(says)),
        Fork::Parent(child) => rustix::process::Pid::from_raw(child),
    };
    drop(says);
    let mut said = Vec::new();
    let read = numbers.read_to_end(&mut said);
    let ended = waitpid(child, WaitOptions::empty());
    process::dispose(SIGCHLD, before);
    read.map_err(Error::Supervisor)?;
    let Some((call, _)) = said.last().and_then(|&last| HERE.iter().chain(&IN_CHILD).nth(last.into())) else {
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
fn try_all(mut says: impl Write) -> u8 {
    for (number, (_, attempt)) in (0..).zip(HERE.iter().chain(&IN_CHILD)) {
        let _ = says.write_all(&[number]);
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

/// Other reasons than a filter that kills are reported where the program's own filter is put in place.
fn put_filter() -> io::Result<()> {
    let _ = rustix::thread::set_no_new_privs(true);
    let _ = seccomp::install(&filter::program());
    Ok(())
}
