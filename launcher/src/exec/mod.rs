//! `portgrant exec`: sockets are asked for, put where the program looks for them, and the program is executed.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use log::debug;
use portgrant_protocol::listen;
use portgrant_protocol::program::Unfit;
use portgrant_protocol::text::printable;
use portgrant_server::{Error as SocketError, Refusal, Request, Sockets};

use crate::{Error, Exec, accept, helper, program};

/// Becomes the program. What can be known to fail is found before anything is bound.
pub(crate) fn exec(asked: &Exec, environment: Vec<CString>) -> Result<Infallible, Error> {
    let name = asked.program.first().map_or(OsStr::new(""), OsString::as_os_str);
    let path = portgrant_protocol::program::find(name, &environment)?;
    debug!("the program is {}", path.display());
    if asked.accept.accept {
        accept::check(&path)?;
    } else if !asked.inetd {
        listen::free(asked.listen.len()).map_err(Error::Place)?;
    }
    let helper = portgrant_server::helper::locate()?;
    match request(asked, &helper).send() {
        Ok(sockets) if asked.accept.accept => accept::serve(asked, &path, sockets, environment),
        Ok(sockets) => hand_over(asked, &path, sockets, environment),
        Err(SocketError::Refused(refusal)) => refused(asked, &path, refusal, &helper, &environment),
        Err(error) => Err(error.into()),
    }
}

fn request(asked: &Exec, helper: &Path) -> Request {
    for endpoint in &asked.listen {
        debug!("asking {} for {endpoint}", helper.display());
    }
    asked.listen.iter().cloned().fold(Request::new().helper(helper), Request::endpoint)
}

/// The last step: there is no return from it but a failure, and after that nothing stays bound, because the sockets close
/// with this process.
fn hand_over(asked: &Exec, path: &Path, sockets: Sockets, environment: Vec<CString>) -> Result<Infallible, Error> {
    let (names, sockets) = sockets.into_fds();
    let announced = if asked.inetd { None } else { Some(names.as_slice()) };
    let environment = listen::environment(environment, std::process::id(), announced);
    for (number, name) in (if asked.inetd { 0 } else { listen::FIRST }..).zip(&names) {
        debug!("descriptor {number} is {name}");
    }
    let _open_until_then = place(asked, sockets)?;
    if asked.no_new_privs {
        debug!("setting no_new_privs");
        rustix::thread::set_no_new_privs(true).map_err(|errno| Error::NoNewPrivileges(errno.into()))?;
    }
    debug!("executing {}", path.display());
    program::execute(path, &asked.program, &environment).map_err(|errno| Unfit::by_execve(path, errno).into())
}

fn place(asked: &Exec, sockets: Vec<OwnedFd>) -> Result<Vec<OwnedFd>, Error> {
    match sockets.first() {
        // The copy besides 0 and 1 is close-on-exec.
        Some(socket) if asked.inetd => listen::place_inetd(socket).map(|()| sockets).map_err(Error::Place),
        _ => listen::place(sockets).map_err(Error::Place),
    }
}

/// Where the grant is bound to this very program, only the helper may start it: it is asked to, and decides for itself.
fn refused(
    asked: &Exec,
    path: &Path,
    refusal: Refusal,
    path_of_helper: &Path,
    environment: &[CString],
) -> Result<Infallible, Error> {
    match &refusal.program {
        Some(_) if asked.accept.accept => Err(Error::OnlyByHelper(Box::new(refusal))),
        Some(bound) if *bound == printable(path.as_os_str().as_bytes()) => {
            debug!("the grant is bound to this program: {} executes it itself", path_of_helper.display());
            let mut words = helper::words("exec", &asked.listen);
            for (flag, given) in [("--inetd", asked.inetd), ("--no-new-privs", asked.no_new_privs), ("--", true)] {
                words.extend(given.then(|| flag.into()));
            }
            words.extend(asked.program.iter().cloned());
            helper::execute(path_of_helper, &words, environment)
        }
        Some(_) => Err(Error::ForAnother { refusal: Box::new(refusal), program: path.to_owned() }),
        None => Err(SocketError::Refused(refusal).into()),
    }
}
