//! `portgrant exec`: sockets are asked for, put where the program looks for them, and the program is executed.

mod adoption;

use std::convert::Infallible;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use log::debug;
use portgrant_protocol::program::Unfit;
use portgrant_protocol::text::printable;
use portgrant_server::{Error as SocketError, Message, Refusal, Request, Sockets};

use crate::{Error, Exec, helper, program};

pub(crate) use adoption::{Image, Places, Wanted};

/// Becomes the program. What can be known to fail is found before anything is bound.
pub(crate) fn exec(asked: &Exec, environment: Vec<CString>) -> Result<Infallible, Error> {
    let wanted = Wanted::of(asked)?;
    let path = wanted.find(&environment)?;
    debug!("the program is {}", path.display());
    wanted.places().free(asked.listen.len()).map_err(Error::Place)?;
    let foreseen = match adoption::foreseen(&asked.listen, wanted.places())? {
        Some(descriptors) => Some(wanted.image(&path, &environment, &descriptors)?),
        None => None,
    };
    let helper = portgrant_server::helper::locate()?;
    match request(asked, &helper).send() {
        Ok(sockets) => {
            let image = match foreseen {
                Some(image) => image,
                None => wanted.image(&path, &environment, &adoption::received(&sockets, wanted.places())?)?,
            };
            hand_over(asked, &image, sockets)
        }
        Err(SocketError::Refused(refusal)) if is_bound_to(&refusal, &path) => {
            let image = match foreseen {
                Some(image) => image,
                None if wanted.depends_on_numbers() => return Err(unforeseeable(&path)),
                None => wanted.image(&path, &environment, &[])?,
            };
            executed_by_helper(asked, &image, &helper)
        }
        Err(SocketError::Refused(refusal)) if refusal.program.is_some() => {
            Err(Error::ForAnother { refusal: Box::new(refusal), program: path })
        }
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
fn hand_over(asked: &Exec, image: &Image, sockets: Sockets) -> Result<Infallible, Error> {
    let (names, sockets) = sockets.into_fds();
    for (number, name) in image.places.numbers().zip(&names) {
        debug!("descriptor {number} is {name}");
    }
    let _open_until_then = image.places.place(sockets).map_err(Error::Place)?;
    if asked.no_new_privs {
        debug!("setting no_new_privs");
        rustix::thread::set_no_new_privs(true).map_err(|errno| Error::NoNewPrivileges(errno.into()))?;
    }
    debug!("executing {}", image.path.display());
    let environment = image.environment(std::process::id());
    program::execute(&image.path, &image.arguments, &environment)
        .map_err(|errno| Unfit::by_execve(&image.path, errno).into())
}

/// Whether the grant is bound to this very program: then only the helper may start it.
fn is_bound_to(refusal: &Refusal, path: &Path) -> bool {
    refusal.program.as_ref().is_some_and(|bound| *bound == printable(path.as_os_str().as_bytes()))
}

/// The helper is asked to execute the program, and decides for itself. It passes arguments and environment on as it gets
/// them, but for LISTEN_*.
fn executed_by_helper(asked: &Exec, image: &Image, path_of_helper: &Path) -> Result<Infallible, Error> {
    debug!("the grant is bound to this program: {} executes it itself", path_of_helper.display());
    image.places.park().map_err(Error::Place)?;
    let inetd = image.places != Places::FromThree;
    let mut words = helper::words("exec", &asked.listen);
    for (flag, given) in [("--inetd", inetd), ("--no-new-privs", asked.no_new_privs), ("--", true)] {
        words.extend(given.then(|| flag.into()));
    }
    words.extend(image.arguments.iter().cloned());
    helper::execute(path_of_helper, &words, &image.environment(std::process::id()))
}

fn unforeseeable(path: &Path) -> Error {
    let program = printable(path.as_os_str().as_bytes());
    let message = Message::new("the numbers of 'each' are not known before the program is executed")
        .why(format!("the grant is bound to {program}, so the helper binds and executes in one step"))
        .fix("leave out {fd}, {fd:NAME} and --as; LISTEN_FDNAMES names every socket");
    Error::Usage(Box::new(message))
}
