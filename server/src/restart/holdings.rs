//! The descriptors that a generation holds for its successor: its sockets, and what else it keeps.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use portgrant_protocol::{Protocol, Resolved};

use super::conversation::{Item, NAME};
use super::error::RestartError;
use crate::adopting::{Socket, Sockets};
use crate::binding::{Server, adjust};
use crate::failure::Error;
use crate::resolved;

#[derive(Debug)]
pub(super) struct Holdings {
    /// The sockets that this process was started with and has not taken yet
    pub(super) handed: Sockets,
    /// Whether a socket with the name of an endpoint but at another address is an error
    names: Names,
    server: Server,
    kept: Vec<(Item, OwnedFd)>,
    states: Vec<(String, OwnedFd)>,
}

/// What the name of a socket that was handed over means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// The starter gave it this name for this endpoint
    Bind,
    /// It had this name in an earlier configuration
    Describe,
}

impl Holdings {
    pub(super) fn new(handed: Sockets, names: Names, states: Vec<(String, OwnedFd)>) -> Holdings {
        Holdings { handed, names, server: Server::default(), kept: Vec::new(), states }
    }

    pub(super) fn ask_helper(&mut self, path: PathBuf) {
        self.server = std::mem::take(&mut self.server).helper(path);
    }

    pub(super) fn listen(&mut self, endpoint: &str, transport: Protocol) -> Result<Socket, Error> {
        let asked = resolved::of_text(endpoint, transport)?;
        let socket = match self.take(&asked)? {
            Some(socket) => socket,
            None => self.server.one(asked)?,
        };
        self.remember(&socket)?;
        Ok(socket)
    }

    pub(super) fn group(&mut self, endpoint: &str, workers: usize) -> Result<Vec<Socket>, Error> {
        let mut asked = resolved::of_text(endpoint, Protocol::default())?;
        asked.endpoint.options.reuseport = true;
        let mut group = Vec::new();
        while let Some(socket) = self.take(&asked)? {
            group.push(socket);
        }
        let missing = workers.saturating_sub(group.len());
        group.extend(self.server.several(&asked, missing)?);
        group.iter().try_for_each(|socket| self.remember(socket))?;
        Ok(group)
    }

    /// Takes a socket that was handed over, under its new name.
    fn take(&mut self, asked: &Resolved) -> Result<Option<Socket>, Error> {
        let prepare = |socket: &Socket| adjust(socket, &asked.endpoint.options);
        let taken = match self.names {
            Names::Bind => self.handed.take_asked(asked, prepare),
            Names::Describe => self.handed.take_fitting(asked, prepare),
        };
        Ok(taken?.map(|socket| socket.named(asked.name())))
    }

    fn remember(&mut self, socket: &Socket) -> Result<(), Error> {
        self.kept.push((Item::Socket(socket.name().to_owned()), copy(socket)?));
        Ok(())
    }

    /// Keeps a copy of `socket` as `name`, beside others with that name.
    pub(super) fn keep_socket(&mut self, name: &str, socket: impl AsFd) -> Result<(), Error> {
        check(name)?;
        self.kept.push((Item::Socket(name.to_owned()), copy(socket)?));
        Ok(())
    }

    /// Keeps a copy of `descriptor` as `name`, and replaces the one that was kept as `name`.
    pub(super) fn keep(&mut self, name: &str, descriptor: impl AsFd) -> Result<(), Error> {
        check(name)?;
        let (item, copy) = (Item::State(name.to_owned()), copy(descriptor)?);
        self.kept.retain(|kept| kept.0 != item);
        self.kept.push((item, copy));
        Ok(())
    }

    /// Closes the copies of the sockets with that name.
    pub(super) fn forget(&mut self, name: &str) {
        self.kept.retain(|(item, _)| !matches!(item, Item::Socket(socket) if socket == name));
    }

    pub(super) fn state(&mut self, name: &str) -> Option<OwnedFd> {
        let index = self.states.iter().position(|state| state.0 == name)?;
        Some(self.states.remove(index).1)
    }

    /// Closes what was handed over and not taken. Returns the names of the closed sockets.
    pub(super) fn close_unused(&mut self) -> Vec<String> {
        self.states.clear();
        std::mem::take(&mut self.handed).into_iter().map(|socket| socket.name().to_owned()).collect()
    }

    pub(super) fn items(&self) -> impl Iterator<Item = (Item, BorrowedFd<'_>)> {
        self.kept.iter().map(|(item, descriptor)| (item.clone(), descriptor.as_fd()))
    }
}

fn copy(descriptor: impl AsFd) -> Result<OwnedFd, Error> {
    let failed = |source| Error::system("cannot copy a descriptor", source);
    descriptor.as_fd().try_clone_to_owned().map_err(failed)
}

fn check(name: &str) -> Result<(), RestartError> {
    let fits = (1..=NAME).contains(&name.len()) && name.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if fits { Ok(()) } else { Err(RestartError::KeptName { name: name.to_owned() }) }
}
