//! Starts the program for each connection. Everything that is the same each time is made once.
//!
//! posix_spawn(3) does not copy the launcher: the child shares its memory until execve(2), and the launcher waits. So
//! the time does not depend on the launcher's size. More threads gain nothing (`tests/measure/accepting`). std's
//! `Command` would reset SIGPIPE and the signal mask. (In programs that glibc's posix_spawn(3) starts, signals 32 and
//! 33 are ignored: glibc uses them itself.)

use std::ffi::{CString, OsString};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::unistd::Pid;

use super::signals::Callers;

pub(super) struct Program {
    path: PathBuf,
    file: CString,
    arguments: Vec<CString>,
    /// The program's environment. During a start, a connection's variables are at its end
    environment: Vec<CString>,
    /// How many variables are the same for all connections
    same: usize,
    attributes: PosixSpawnAttr,
    /// The file actions for a socket with this number, which the next socket usually has as well
    placed: Option<(RawFd, PosixSpawnFileActions)>,
}

impl Program {
    /// `callers` is the signal state of the launcher's caller, which the program gets.
    pub(super) fn new(
        path: &Path,
        words: &[OsString],
        environment: Vec<CString>,
        callers: &Callers,
    ) -> Result<Program, Errno> {
        // An argument of argv ends at a NUL, so it contains none.
        let c_string = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF)?;
        attributes.set_sigmask(&callers.mask)?;
        // These have their default effect already. Naming them is faster: glibc makes two system calls for every other
        // signal.
        attributes.set_sigdefault(&callers.not_ignored)?;
        Ok(Program {
            path: path.to_owned(),
            file: c_string(path.as_os_str().as_bytes()),
            arguments: words.iter().map(|word| c_string(word.as_bytes())).collect(),
            same: environment.len(),
            environment,
            attributes,
            placed: None,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts the program with `socket` as descriptors 0 and 1. `settings` replace variables of the same names. If
    /// execve(2) fails in the child, its error is returned.
    pub(super) fn start(
        &mut self,
        socket: BorrowedFd<'_>,
        variables: Vec<CString>,
        settings: &[CString],
    ) -> Result<Pid, Errno> {
        let number = socket.as_raw_fd();
        let (_, actions) = match self.placed.take().filter(|(placed, _)| *placed == number) {
            Some(placed) => self.placed.insert(placed),
            None => self.placed.insert((number, place(number)?)),
        };
        self.environment.truncate(self.same);
        self.environment.extend(variables);
        if !settings.is_empty() {
            let mut environment = self.environment.clone();
            environment.retain(|entry| !settings.iter().any(|setting| name(setting) == name(entry)));
            environment.extend_from_slice(settings);
            return posix_spawn(self.file.as_c_str(), actions, &self.attributes, &self.arguments, &environment);
        }
        posix_spawn(self.file.as_c_str(), actions, &self.attributes, &self.arguments, &self.environment)
    }
}

/// The part before the `=`.
fn name(entry: &CString) -> &[u8] {
    entry.to_bytes().split(|&byte| byte == b'=').next().unwrap_or_default()
}

fn place(number: RawFd) -> Result<PosixSpawnFileActions, Errno> {
    let mut actions = PosixSpawnFileActions::init()?;
    for standard in [0, 1] {
        actions.add_dup2(number, standard)?;
    }
    Ok(actions)
}
