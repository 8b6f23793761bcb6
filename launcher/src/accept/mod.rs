//! `portgrant exec --accept`: a program for each connection, like tcpserver, inetd's `nowait` and systemd's
//! `Accept=yes`; for a udp socket one program at a time, like inetd's `wait`.
//!
//! The launcher stays, without privilege, and owns the sockets. It never reads or writes on a connection.

mod access;
mod connection;
mod datagrams;
mod idle;
mod listener;
mod lookups;
mod notices;
#[cfg(test)]
mod places;
mod program;
mod rate;
mod signals;
mod supervisor;
mod table;
mod wait;
mod wake;

use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::time::Duration;

use log::debug;
use portgrant_protocol::program::{Unfit, Why};
use portgrant_server::Sockets;
use rustix::io::Errno;

use self::access::Access;
use self::datagrams::Datagrams;
use self::idle::Idle;
use self::listener::Listener;
use self::lookups::Lookups;
use self::program::Program;
use self::rate::Rate;
use self::signals::Signals;
use self::supervisor::Supervisor;
use self::table::Table;
use crate::adoption::Image;
use crate::{Accept, Error, Exec, stderr};

/// Checks, before anything is bound, for errors that the first connection would meet: a script whose interpreter is
/// missing, or access rules that cannot be read.
pub(crate) fn check(asked: &Accept, path: &Path) -> Result<(), Error> {
    Access::new(asked)?;
    let unfit = Unfit::by_execve(path, Errno::NOENT);
    if let Why::NoInterpreter(interpreter) = &unfit.why
        && fs::exists(interpreter).is_ok_and(|there| !there)
    {
        return Err(unfit.into());
    }
    Ok(())
}

/// Serves until a signal ends it. `begun` is called when everything is ready.
pub(crate) fn serve(asked: &Exec, image: &Image, sockets: Sockets, begun: impl FnOnce()) -> Result<Infallible, Error> {
    if asked.no_new_privs {
        debug!("setting no_new_privs");
        rustix::thread::set_no_new_privs(true).map_err(|errno| Error::NoNewPrivileges(errno.into()))?;
    }
    let supervisor = prepare(asked, image, sockets)?;
    stderr::detach().map_err(Error::Accepting)?;
    begun();
    let ended = supervisor.serve();
    stderr::attach();
    ended.map_err(|errno| Error::Accepting(errno.into()))
}

/// Who may connect, and how often.
struct Admission {
    access: Access,
    rate: Option<Rate>,
}

fn prepare(asked: &Exec, image: &Image, sockets: Sockets) -> Result<Supervisor, Error> {
    let signals = Signals::take().map_err(|errno| Error::Accepting(errno.into()))?;
    let mut environment = image.environment(std::process::id());
    environment.retain(|entry| !connection::is_connections(entry.to_bytes()));
    let program = Program::new(&image.path, &image.arguments, environment, signals.callers());
    let program = program.map_err(|errno| Error::Accepting(errno.into()))?;

    let (mut listeners, mut datagrams) = (Vec::new(), Vec::new());
    for socket in sockets {
        let info = *socket.info()?;
        let name = socket.name().to_owned();
        if info.protocol.is_stream() {
            let listener = Listener::new(socket.into_fd(), info.protocol, info.local);
            listeners.push(listener.map_err(|errno| Error::Accepting(errno.into()))?);
        } else {
            datagrams.push(Datagrams::new(socket.into_fd(), name));
        }
    }
    let accept = &asked.accept;
    let of_source = accept.max_per_source.and_then(|limit| usize::try_from(limit).ok());
    let table = Table::new(accept.limit(), of_source);
    let idle = accept.idle_timeout.map(|seconds| Idle::new(Duration::from_secs(seconds.into())));
    // Created after the signals were blocked, so that its thread blocks them too.
    let lookups = if accept.lookup { Some(Lookups::new()?) } else { None };
    let admission = Admission { access: Access::new(accept)?, rate: accept.max_rate.map(Rate::new) };
    let supervisor = Supervisor::new((listeners, datagrams), program, signals, table, idle, lookups, admission);
    supervisor.map_err(|errno| Error::Accepting(errno.into()))
}
