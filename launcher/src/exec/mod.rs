//! `portgrant exec`: gets sockets, puts them where the program expects them, and executes the program.

mod daemon;
mod descriptors;
mod keyring;
mod notified;
mod output;
mod terminal;
mod user;
mod verify;
mod wait;

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use log::debug;
use portgrant_protocol::program::Unfit;
use portgrant_protocol::text::printable;
use portgrant_server::error::Refused;
use portgrant_server::{Message, Sockets};

use crate::adoption::{self, Image, Places, Wanted};
use crate::sources::Sources;
use crate::{Error, Exec, accept, helper, program};
use daemon::Guard;
use verify::Verification;

/// Becomes the program. All checks that are possible before the bind come before it.
pub(crate) fn exec(asked: &Exec, environment: Vec<CString>) -> Result<Infallible, Error> {
    let wanted = Wanted::of(asked)?;
    let environment = user::switch(&asked.life, environment)?;
    let wanted = wanted.keeping(asked, &environment)?;
    let path = wanted.find(&environment)?;
    debug!("the program is {}", path.display());
    if asked.accept.accept {
        accept::check(&asked.accept, &path)?;
    }
    wanted.room(asked.listen.len(), &environment)?;
    let sources = Sources::of(&asked.listen)?;
    let descriptors = wanted.descriptors(&asked.listen)?;
    let image = descriptors.map(|descriptors| wanted.image(&path, &environment, &descriptors)).transpose()?;
    let launch = Launch { asked, wanted, path, sources };
    if !asked.life.daemon {
        return launch.provide(image, &environment, None);
    }
    let guard = daemon::start(&asked.life, &asked.listen, &launch.path)?;
    let starter = guard.starter();
    let image = image.map(|image| image.with_environment(|environment| guard.environment(environment)));
    let environment = guard.environment(environment);
    starter.report_status(launch.provide(image, &environment, Some(guard)))
}

/// The program, and the sources of its sockets.
struct Launch<'a> {
    asked: &'a Exec,
    wanted: Wanted<'a>,
    /// The program's file
    path: PathBuf,
    /// The processes that bind the sockets
    sources: Sources<'a>,
}

impl Launch<'_> {
    /// Asks for the sockets and executes the program. `image` is given if it does not depend on the sockets.
    fn provide(
        &self,
        image: Option<Image>,
        environment: &[CString],
        guard: Option<Guard>,
    ) -> Result<Infallible, Error> {
        let (wanted, path) = (&self.wanted, &self.path);
        match self.sources.obtain() {
            Ok(sockets) => {
                let image = match image {
                    Some(image) => image,
                    None => wanted.image(path, environment, &adoption::received(&sockets, wanted.places())?)?,
                };
                if self.asked.accept.accept {
                    self.accept(&image, sockets, guard)
                } else {
                    self.start_program(&image, sockets, guard)
                }
            }
            Err(error) => match error.downcast_ref() {
                Some(Refused(refusal)) if refusal.program.is_some() && self.asked.accept.accept => {
                    Err(Error::OnlyByHelper(Box::new(refusal.clone())))
                }
                Some(Refused(refusal)) if refusal.program.is_some() && self.sources.free().next().is_some() => {
                    let free = self.sources.free().map(ToString::to_string).collect();
                    Err(Error::NotBeside { refusal: Box::new(refusal.clone()), free })
                }
                // The refusal names only one of the rules for programs. The helper decides whether any rule is for this
                // one.
                Some(Refused(refusal)) if refusal.program.is_some() => {
                    let image = match image {
                        Some(image) => image,
                        None if !wanted.depends_on_numbers() => wanted.image(path, environment, &[])?,
                        None if is_bound_to(refusal, path) => return Err(unknown_numbers(path)),
                        None => {
                            let refusal = Box::new(refusal.clone());
                            return Err(Error::ForAnother { refusal, program: path.clone() });
                        }
                    };
                    self.executed_by_helper(&image, guard)
                }
                _ => Err(error.into()),
            },
        }
    }

    /// This process, or a child of the guard, stays and starts the program for each connection.
    fn accept(&self, image: &Image, sockets: Sockets, guard: Option<Guard>) -> Result<Infallible, Error> {
        match guard {
            Some(guard) => {
                guard.run(Vec::new(), None, |_, begun| accept::serve(self.asked, image, sockets, || begun.report()))
            }
            None => accept::serve(self.asked, image, sockets, || {}),
        }
    }

    /// Executes the program: as a daemon, at the first connection, watched by another process, or at once in this process.
    fn start_program(&self, image: &Image, sockets: Sockets, guard: Option<Guard>) -> Result<Infallible, Error> {
        let (names, sockets) = sockets.into_fds();
        let verification =
            self.asked.life.verify.map(|time_limit| Verification::of(&self.asked.listen, &names, &sockets, time_limit));
        let become_program = |sockets| self.hand_over(image, &names, sockets);
        if let Some(guard) = guard {
            return guard.run(sockets, verification, |sockets, _| become_program(sockets));
        }
        if self.asked.life.wait {
            wait::first_arrival(&sockets)?;
        }
        if let Some(verification) = verification {
            verify::start_watcher(verification)?;
        }
        become_program(sockets)
    }

    /// The last step. Returns only if it failed. The end of this process then closes the sockets.
    fn hand_over(&self, image: &Image, names: &[String], sockets: Vec<OwnedFd>) -> Result<Infallible, Error> {
        for (number, name) in image.places.numbers().zip(names) {
            debug!("descriptor {number} is {name}");
        }
        let _open_until_then = image.places.place(sockets).map_err(Error::Place)?;
        if self.asked.no_new_privs {
            debug!("setting no_new_privs");
            rustix::thread::set_no_new_privs(true).map_err(|errno| Error::NoNewPrivileges(errno.into()))?;
        }
        debug!("executing {}", image.path.display());
        let environment = image.environment(std::process::id());
        program::execute(&image.path, &image.arguments, &environment)
            .map_err(|errno| Unfit::by_execve(&image.path, errno).into())
    }

    /// For a rule with `exec`, only the helper may execute the program. The helper decides again, and passes on
    /// arguments and environment unchanged, except LISTEN_*.
    fn executed_by_helper(&self, image: &Image, guard: Option<Guard>) -> Result<Infallible, Error> {
        let (asked, helper) = (self.asked, self.sources.helper()?);
        let program = || self.path.clone();
        asked.require_helper_options().map_err(|option| Error::NotWithTheHelper { option, program: program() })?;
        debug!("the grant is bound to this program: {} executes it itself", helper.display());
        let inetd = image.places != Places::USUAL;
        let mut words = helper::words("exec", &asked.listen);
        // If the helper fails, it executes this program again.
        if let Ok(own) = std::env::current_exe() {
            words.extend(["--on-failure".into(), own.into()]);
        }
        for (flag, given) in [("--inetd", inetd), ("--no-new-privs", asked.no_new_privs), ("--", true)] {
            words.extend(given.then(|| flag.into()));
        }
        words.extend(image.arguments.iter().cloned());
        let execute = || {
            image.places.park().map_err(Error::Place)?;
            helper::execute(helper, &words, &image.environment(std::process::id()))
        };
        match guard {
            Some(guard) => guard.run(Vec::new(), None, |_, _| execute()),
            None => execute(),
        }
    }
}

/// Whether the rule is for the program at `path`.
fn is_bound_to(refusal: &Message, path: &Path) -> bool {
    refusal.program.as_ref().is_some_and(|bound| *bound == printable(path.as_os_str().as_bytes()))
}

fn unknown_numbers(path: &Path) -> Error {
    let program = printable(path.as_os_str().as_bytes());
    let message = Message::new("the numbers of 'each' are not known before the program is executed")
        .why(format!("the grant is bound to {program}, so the helper binds and executes in one step"))
        .fix("leave out {fd}, {fd:NAME} and --as; LISTEN_FDNAMES names every socket");
    Error::Usage(Box::new(message))
}
