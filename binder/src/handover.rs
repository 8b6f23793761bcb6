//! The last step: the program is executed with the sockets, or they are sent. Both need [`Renounced`], the proof that
//! no capability is left.

use alloc::ffi::CString;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::CStr;

use portgrant_protocol::program::Unfit;
use portgrant_protocol::record::Reply;
use portgrant_protocol::{listen, transfer};
use portgrant_sys::{Word, execve, without};
use rustix::fd::{AsFd, OwnedFd};

use crate::Error;
use crate::privilege::Renounced;
use crate::socket::Ready;

/// The program to execute.
#[derive(Debug, Default)]
pub struct Program {
    /// The file
    pub path: CString,
    /// argv, the program's name first
    pub arguments: Vec<&'static CStr>,
    /// Whether the one socket becomes 0 and 1 (inetd's wait) instead of 3
    pub inetd: bool,
    /// Whether no_new_privs is set first
    pub no_new_privs: bool,
}

/// Executes `program` with `sockets`; returns only if that failed, and then they are closed.
pub fn execute(_: &Renounced, program: &Program, sockets: Vec<Ready>, environment: &[Word<'_>]) -> Error {
    let (names, sockets): (Vec<String>, Vec<OwnedFd>) =
        sockets.into_iter().map(|socket| (socket.name, socket.fd)).unzip();
    let pid = rustix::process::getpid().as_raw_nonzero().get().cast_unsigned();
    let (_placed, announcement) = match listen::hand_over(sockets, &names, program.inetd, pid) {
        Ok(handed_over) => handed_over,
        Err(error) => return Error::Place(error),
    };
    if program.no_new_privs
        && let Err(errno) = rustix::thread::set_no_new_privs(true)
    {
        return Error::Call { call: "prctl(PR_SET_NO_NEW_PRIVS)", errno };
    }
    let arguments: Vec<Word<'_>> = program.arguments.iter().map(|word| Word::from(*word)).collect();
    // Byte for byte as execve(2) gave it, except LISTEN_*.
    let kept = without(environment, &listen::VARIABLES);
    let environment: Vec<Word<'_>> =
        kept.chain(announcement.iter().map(|entry| Word::from(entry.as_c_str()))).collect();
    Unfit::of_execve(&program.path, execve(&program.path, &arguments, &environment)).into()
}

/// Executes `program` with the record of a failure: `PROGRAM answer RECORD`. Returns only if that failed.
pub fn execute_on_failure(_: &Renounced, program: &CStr, record: &[u8], environment: &[Word<'_>]) {
    let record = CString::new(record).unwrap_or_default();
    let _ = execve(program, &[program.into(), c"answer".into(), record.as_c_str().into()], environment);
}

/// Sends `sockets` over `to`.
pub fn pass(renounced: &Renounced, to: &OwnedFd, sockets: Vec<Ready>) -> Result<(), Error> {
    let (names, sockets): (Vec<String>, Vec<OwnedFd>) =
        sockets.into_iter().map(|socket| (socket.name, socket.fd)).unzip();
    reply(renounced, to, &Reply::Granted { names }, &sockets)
}

/// Sends a reply. It waits until the other side reads.
pub fn reply(_: &Renounced, to: &OwnedFd, reply: &Reply, sockets: &[OwnedFd]) -> Result<(), Error> {
    let record = reply.encode().map_err(Error::Record)?;
    transfer::send(to.as_fd(), &record, sockets).map_err(Error::Transfer)
}
