//! The helper `portgrant-binder`, installed setuid root or with `cap_net_bind_service=p`.
//!
//! [`run`] is the whole story: give up all but one capability, then see what is asked, decide, bind, give up the rest,
//! hand over. What needs unsafe code is in [`entry`].
#![no_main]

mod command;
mod entry;
mod message;

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::Path;

use portgrant_binder::grant::{self, Request};
use portgrant_binder::names::Names;
use portgrant_binder::policy::{Caller, Domain, Policy};
use portgrant_binder::privilege::{Dropped, Privileged};
use portgrant_binder::socket::{self, Bound};
use portgrant_binder::{Error, handover};
use portgrant_protocol::{Endpoint, listen, program, status, transfer};

use crate::command::{Command, Exec};
use crate::entry::Start;

/// From the entry point to the exit status.
fn run(start: impl FnOnce() -> Start) -> u8 {
    // Nothing of the caller's is looked at before this is done.
    let dropped = match Privileged::at_start().drop_to_caller() {
        Ok(dropped) => dropped,
        Err(error) => return message::complain(Error::from(error).report()),
    };
    let start = start();
    listen::occupy_standard_descriptors();
    let done = match Command::parse(start.arguments) {
        Ok(Command::Exec(asked)) => exec(dropped, asked, start.environment),
        Ok(Command::Pass { listen, to }) => pass(dropped, listen, to),
        Ok(Command::Bind { listen, socket }) => bind(dropped, listen, socket),
        Ok(Command::Help) => message::print(command::HELP),
        Ok(Command::Version) => message::print(concat!("portgrant-binder ", env!("CARGO_PKG_VERSION"), "\n")),
        Err(error) => Err(error),
    };
    done.unwrap_or_else(|error| message::complain(error.report()))
}

fn exec(dropped: Dropped, asked: Exec, environment: Vec<CString>) -> Result<u8, Error> {
    let path = program::find(asked.program.first().map_or("".as_ref(), |name| name), &environment)?;
    if !asked.inetd {
        listen::free(asked.listen.len()).map_err(Error::Place)?;
    }
    let sockets = sockets(&dropped, "exec", asked.listen, Some(&path))?;
    let renounced = dropped.renounce()?;
    let program =
        handover::Program { path, arguments: asked.program, inetd: asked.inetd, no_new_privs: asked.no_new_privs };
    Err(handover::execute(renounced, &program, sockets, environment))
}

fn pass(dropped: Dropped, listen: Vec<Endpoint>, to: RawFd) -> Result<u8, Error> {
    let to = own_descriptor(to)?;
    transfer::check(to.as_fd()).map_err(|error| Error::Usage {
        what: format!("the descriptor given with --to cannot be used: {error}"),
        expected: "expected a connected Unix socket of type SOCK_SEQPACKET",
    })?;
    entry::ignore_sigpipe();
    let granted = sockets(&dropped, "pass", listen, None);
    let renounced = dropped.renounce()?;
    match granted {
        Ok(sockets) => handover::pass(&renounced, &to, sockets).map(|()| status::OK),
        Err(error) => {
            let report = error.report();
            let status = report.status;
            handover::reply(&renounced, &to, &report.reply(), &[]).map(|()| status)
        }
    }
}

fn bind(dropped: Dropped, listen: Endpoint, socket: RawFd) -> Result<u8, Error> {
    let socket = own_descriptor(socket)?;
    let names = Names::system();
    let endpoint = grant::resolve(listen, &names)?;
    let domain = socket::check_own(socket.as_fd(), &endpoint, dropped.uid())?;
    let policy = Policy::installed(&names)?;
    let caller = Caller::current(&policy, &names)?;
    let request = Request { policy: &policy, caller: &caller, names: &names, verb: "bind", domain, program: None };
    let permits = request.permits(vec![endpoint])?;
    request.spend(permits, |permit| socket::bind_own(permit, socket.as_fd(), &dropped))?;
    let _renounced = dropped.renounce()?;
    Ok(status::OK)
}

/// All of `listen` is decided, then all of it is bound; or nothing is.
fn sockets(
    dropped: &Dropped,
    verb: &'static str,
    listen: Vec<Endpoint>,
    program: Option<&Path>,
) -> Result<Vec<Bound>, Error> {
    let names = Names::system();
    let endpoints: Result<Vec<_>, _> = listen.into_iter().map(|endpoint| grant::resolve(endpoint, &names)).collect();
    let policy = Policy::installed(&names)?;
    let caller = Caller::current(&policy, &names)?;
    let domain = Domain::OfAddress;
    let request = Request { policy: &policy, caller: &caller, names: &names, verb, domain, program };
    let permits = request.permits(endpoints?)?;
    let sockets: Vec<Bound> =
        request.spend(permits, |permit| socket::bind(permit, dropped))?.into_iter().flatten().collect();
    if sockets.len() > listen::MAX { Err(Error::TooMany { sockets: sockets.len() }) } else { Ok(sockets) }
}

fn own_descriptor(number: RawFd) -> Result<OwnedFd, Error> {
    entry::inherited(number).ok_or_else(|| Error::Usage {
        what: format!("descriptor {number} is not open"),
        expected: "expected one that the helper inherited",
    })
}
