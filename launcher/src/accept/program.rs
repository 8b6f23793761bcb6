//! The program, ready to be started once more: everything that is the same each time is made once.
//!
//! posix_spawn(3) does not copy the launcher (the child shares its memory until execve(2)), so a start costs the same
//! however large the launcher is. The launcher waits until then; `tests/measure/accepting` shows that further threads,
//! which could start programs meanwhile, gain nothing.
//! std's `Command` would reset SIGPIPE and the signal mask. (glibc's own two signals, 32 and 33, are ignored in what
//! its posix_spawn(3) starts; no program can use them.)

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
    /// The program's; a connection's variables stand behind it for the length of a start
    environment: Vec<CString>,
    /// How many variables are the same for all connections
    same: usize,
    attributes: PosixSpawnAttr,
    /// What is done for a socket of this number: the next one has the same, most of the time
    placed: Option<(RawFd, PosixSpawnFileActions)>,
}

impl Program {
    /// `callers` is the signal state that the program gets: that of the caller.
    pub(super) fn new(
        path: &Path,
        words: &[OsString],
        environment: Vec<CString>,
        callers: &Callers,
    ) -> Result<Program, Errno> {
        // Words of a command line end at a NUL, so none holds one.
        let c_string = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF)?;
        attributes.set_sigmask(&callers.mask)?;
        // As they are. glibc asks for every signal that is not named here what it is, and then sets it as well.
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

    /// Starts it with `socket` as descriptors 0 and 1. `settings` take the place of variables of the same names. What
    /// execve(2) says in the child is the error here.
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

/// What stands before the `=`.
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
