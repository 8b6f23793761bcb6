//! The last step: the program is executed with the sockets, or they are sent. Both need [`Renounced`], the proof that
//! no capability is left.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use portgrant_protocol::program::Unfit;
use portgrant_protocol::record::Reply;
use portgrant_protocol::{listen, transfer};
use rustix::io::Errno;

use crate::Error;
use crate::privilege::Renounced;
use crate::socket::Ready;

/// What is executed.
#[derive(Debug, Default)]
pub struct Program {
    /// The file
    pub path: PathBuf,
    /// argv, the program's name first
    pub arguments: Vec<OsString>,
    /// Whether the one socket becomes 0 and 1 (inetd's wait) instead of 3
    pub inetd: bool,
    /// Whether no_new_privs is set first
    pub no_new_privs: bool,
}

/// Executes `program` with `sockets`; returns only if that failed, and then they are closed.
pub fn execute(_: &Renounced, program: &Program, sockets: Vec<Ready>, environment: Vec<CString>) -> Error {
    let (names, sockets): (Vec<String>, Vec<OwnedFd>) =
        sockets.into_iter().map(|socket| (socket.name, socket.fd)).unzip();
    let pid = std::process::id();
    let (_placed, environment) = match (program.inetd, sockets.first()) {
        (true, Some(socket)) => match listen::place_inetd(socket) {
            // The copy that is left here is close-on-exec.
            Ok(()) => (sockets, listen::environment(environment, pid, None)),
            Err(error) => return Error::Place(error),
        },
        _ => match listen::place(listen::FIRST, sockets) {
            Ok(placed) => (placed, listen::environment(environment, pid, Some(&names))),
            Err(error) => return Error::Place(error),
        },
    };
    if program.no_new_privs
        && let Err(errno) = rustix::thread::set_no_new_privs(true)
    {
        return Error::Call { call: "prctl(PR_SET_NO_NEW_PRIVS)", errno };
    }
    // What execve(2) gave, execve(2) gets: no word of a command line holds a NUL.
    let c_string = |word: &OsStr| CString::new(word.as_bytes()).unwrap_or_default();
    let arguments: Vec<CString> = program.arguments.iter().map(|word| c_string(word)).collect();
    // Not execvp(3), not Command: the first falls back to /bin/sh, the second resets SIGPIPE and the signal mask.
    match nix::unistd::execve(&c_string(program.path.as_os_str()), &arguments, &environment) {
        Err(errno) => Unfit::by_execve(&program.path, Errno::from_raw_os_error(errno as i32)).into(),
        Ok(never) => match never {},
    }
}

/// Executes `program` with the record of a failure: `PROGRAM answer RECORD`. Returns only if that failed.
pub fn execute_on_failure(_: &Renounced, program: &OsStr, record: &[u8], environment: &[CString]) {
    let words = [program.as_bytes(), b"answer", record].map(|word| CString::new(word).unwrap_or_default());
    let _ = nix::unistd::execve(&words[0], &words, environment);
}

/// Sends `sockets` over `to`.
pub fn pass(renounced: &Renounced, to: &OwnedFd, sockets: Vec<Ready>) -> Result<(), Error> {
    let (names, sockets): (Vec<String>, Vec<OwnedFd>) =
        sockets.into_iter().map(|socket| (socket.name, socket.fd)).unzip();
    reply(renounced, to, &Reply::Granted { names }, &sockets)
}

/// Sends a reply, whatever it says; waits for as long as the other side does not read.
pub fn reply(_: &Renounced, to: &OwnedFd, reply: &Reply, sockets: &[OwnedFd]) -> Result<(), Error> {
    let record = reply.encode().map_err(Error::Record)?;
    transfer::send(to.as_fd(), &record, sockets).map_err(Error::Transfer)
}
