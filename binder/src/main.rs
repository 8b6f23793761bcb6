//! The helper `portgrant-binder`, installed setuid root or with `cap_net_bind_service=p`.
//!
//! [`run`] shows the whole order: give up all but one capability, read the request, decide, bind, give up the rest, hand
//! over. The unsafe code is in [`entry`].
#![no_main]
#![cfg_attr(bare, no_std)]

extern crate alloc;

mod arguments;
mod command;
mod entry;
mod message;

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use portgrant_binder::audit::Log;
use portgrant_binder::grant::{Basis, How, Request, Verb};
use portgrant_binder::privilege::{Dropped, PrivilegeError, Privileged, Renounced};
use portgrant_binder::socket::{self, Bound, Ready};
use portgrant_binder::time_limit::TimeLimit;
use portgrant_binder::{Error, handover};
use portgrant_policy::Domain;
use portgrant_protocol::record::Reply;
use portgrant_protocol::{Endpoint, listen, program, status, transfer};
use portgrant_sys::Word;
use portgrant_trusted::System;
use rustix::fd::{AsFd, OwnedFd, RawFd};

use crate::command::{Command, Exec};
use crate::entry::Start;
use crate::message::Failures;

/// Runs the helper, and returns the exit status. `uid` and `gid` are the caller's real ids, from the kernel.
fn run(uid: u32, gid: u32, start: impl FnOnce() -> Start) -> u8 {
    // Nothing from the caller is read before this is done.
    let dropped = match Privileged::at_start(uid, gid).drop_to_caller() {
        Ok(dropped) => dropped,
        Err(error) => return privilege_kept(error),
    };
    let occupied = portgrant_sys::occupy_standard_descriptors();
    let occupied = occupied.map_err(|errno| Error::Call { call: "open, for a standard descriptor,", errno });
    let limit = occupied.and_then(|()| TimeLimit::begin());
    let Start { arguments, environment } = start();
    let (command, reporting) = Command::parse(&arguments);
    let (failures, command) = match Failures::new(reporting, own_descriptor) {
        Ok(failures) => (failures, command),
        Err(error) => (Failures::default(), Err(error)),
    };
    let (answer, limit) = match limit {
        Ok(limit) => (command.and_then(|command| answer(&dropped, &limit, command, environment)), Some(limit)),
        Err(error) => (Err(error), None),
    };
    // Nothing is executed, sent or printed before the last capability is gone, because the caller can delay each of
    // these.
    let renounced = match dropped.renounce() {
        Ok(renounced) => renounced,
        Err(error) => return privilege_kept(error),
    };
    drop(limit);
    let done = answer.and_then(|answer| answer.hand_over(&renounced, environment));
    let status = done.unwrap_or_else(|error| failures.report(error, environment, Some(&renounced)));
    // The end of this process closes the answer's socket, which tells the reader that it has ended. So it must not be
    // closed before.
    core::mem::forget(failures);
    status
}

/// Handles a failure to give up privilege, or to prove it. It prints a message only if all privilege is gone in the
/// end.
fn privilege_kept(error: PrivilegeError) -> u8 {
    if portgrant_sys::abandon() { Failures::default().report(error.into(), &[], None) } else { status::SYSTEM }
}

/// The last step, which does not need privilege.
enum Answer {
    Execute(handover::Program, Vec<Ready>),
    Send(OwnedFd, Result<Vec<Ready>, Error>),
    Bound,
    Print(&'static str),
}

fn answer(dropped: &Dropped, limit: &TimeLimit, command: Command, environment: &[Word<'_>]) -> Result<Answer, Error> {
    match command {
        Command::Exec(asked) => exec(dropped, limit, asked, environment),
        Command::Pass { listen, to } => pass(dropped, limit, &listen, to),
        Command::Bind { listen, socket } => bind(dropped, limit, &listen, socket),
        Command::Help => Ok(Answer::Print(command::HELP)),
        Command::Version => Ok(Answer::Print(concat!("portgrant-binder ", env!("CARGO_PKG_VERSION"), "\n"))),
    }
}

fn exec(dropped: &Dropped, limit: &TimeLimit, asked: Exec, environment: &[Word<'_>]) -> Result<Answer, Error> {
    let search = environment.iter().find_map(|entry| entry.strip_prefix(b"PATH=")).map(Word::to_c_str);
    let path = program::look_up(asked.program.first().copied().unwrap_or_default(), search)?;
    if !asked.inetd {
        listen::free(listen::FIRST, asked.listen.len()).map_err(Error::Place)?;
    }
    let sockets = sockets(dropped, limit, How { verb: Verb::Exec, program: Some(&path) }, &asked.listen)?;
    let program =
        handover::Program { path, arguments: asked.program, inetd: asked.inetd, no_new_privs: asked.no_new_privs };
    Ok(Answer::Execute(program, sockets))
}

fn pass(dropped: &Dropped, limit: &TimeLimit, listen: &[Endpoint], to: RawFd) -> Result<Answer, Error> {
    let to = own_descriptor(to)?;
    transfer::check(to.as_fd()).map_err(|error| Error::Usage {
        what: format!("the descriptor given with --to cannot be used: {error}"),
        expected: "expected a connected Unix socket of type SOCK_SEQPACKET",
    })?;
    Ok(Answer::Send(to, sockets(dropped, limit, How { verb: Verb::Pass, program: None }, listen)))
}

fn bind(dropped: &Dropped, limit: &TimeLimit, listen: &Endpoint, socket: RawFd) -> Result<Answer, Error> {
    let socket = own_descriptor(socket)?;
    let mut request = Request { how: How { verb: Verb::Bind, program: None }, limit, log: Log::open()? };
    let read = |system: &System| {
        let endpoint = system.resolve(listen.clone())?;
        let domain = socket::check_own(socket.as_fd(), &endpoint, dropped.uid())?;
        Basis::read(system, Ok(vec![endpoint]), domain)
    };
    request.grant(read, |permits, unchanged| {
        // This bind cannot be undone, so there must be no time between the comparison and the bind.
        limit.last_step(|| {
            let unchanged = unchanged()?;
            let bind = |permit| socket::bind_own(permit, socket.as_fd(), dropped, &unchanged);
            permits.into_iter().try_for_each(bind)
        })
    })?;
    Ok(Answer::Bound)
}

/// Decides all of `listen`, then binds all of it, or nothing.
fn sockets(dropped: &Dropped, limit: &TimeLimit, how: How<'_>, listen: &[Endpoint]) -> Result<Vec<Ready>, Error> {
    let mut request = Request { how, limit, log: Log::open()? };
    let read = |system: &System| {
        let endpoints = listen.iter().map(|endpoint| system.resolve(endpoint.clone())).collect();
        Basis::read(system, endpoints, Domain::OfAddress)
    };
    request.grant(read, |permits, unchanged| {
        let bound: Vec<Bound> =
            permits.into_iter().map(|permit| socket::bind(permit, dropped)).collect::<Result<_, _>>()?;
        // Checked only now: a socket that is bound but does not listen has served nobody, and can be closed.
        let unchanged = unchanged()?;
        let mut sockets = Vec::with_capacity(bound.len());
        for endpoint in bound {
            sockets.extend(endpoint.listen(&unchanged)?);
        }
        if sockets.len() > listen::MAX { Err(Error::TooMany { sockets: sockets.len() }) } else { Ok(sockets) }
    })
}

impl Answer {
    fn hand_over(self, renounced: &Renounced, environment: &[Word<'_>]) -> Result<u8, Error> {
        match self {
            Answer::Execute(program, sockets) => Err(handover::execute(renounced, &program, sockets, environment)),
            Answer::Send(to, Ok(sockets)) => handover::pass(renounced, &to, sockets).map(|()| status::OK),
            Answer::Send(to, Err(error)) => {
                let message = error.message();
                let status = message.status;
                handover::reply(renounced, &to, &Reply::Failed(message), &[]).map(|()| status)
            }
            Answer::Bound => Ok(status::OK),
            Answer::Print(text) => message::print(text),
        }
    }
}

fn own_descriptor(number: RawFd) -> Result<OwnedFd, Error> {
    entry::inherited(number).ok_or_else(|| Error::Usage {
        what: format!("descriptor {number} is not open"),
        expected: "expected one that the helper inherited",
    })
}
