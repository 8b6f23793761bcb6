//! Who starts a program, and under what conditions: from a plain login to as hostile a caller as can be made.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::Resource;
use nix::sys::signal::Signal;

use crate::account::Account;
use crate::birth::{self, Birth};
use crate::cgroup::Cgroup;
use crate::running::{Outcome, Running};

const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// Somebody about to start a program. Made by [`World::as_user`](crate::World::as_user).
#[derive(Debug)]
#[must_use = "a caller does nothing before `run` or `spawn`"]
pub struct Caller {
    birth: Birth,
    environment: BTreeMap<OsString, OsString>,
    folder: String,
    name: Option<OsString>,
    input: Option<Vec<u8>>,
    patience: Duration,
}

impl Caller {
    pub(crate) fn of(account: &Account) -> Self {
        let environment = [
            ("PATH", PATH),
            ("HOME", account.home.as_str()),
            ("USER", account.name.as_str()),
            ("LOGNAME", account.name.as_str()),
        ];
        Self {
            birth: Birth::of(account),
            environment: environment.map(|(name, value)| (name.into(), value.into())).into(),
            folder: "/".to_owned(),
            name: None,
            input: None,
            patience: Duration::from_secs(60),
        }
    }

    /// Sets one variable of the environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.insert(name.as_ref().into(), value.as_ref().into());
        self
    }

    /// Removes every variable set so far, PATH too.
    pub fn no_env(mut self) -> Self {
        self.environment.clear();
        self
    }

    /// The working folder (else `/`).
    pub fn folder(mut self, path: &str) -> Self {
        path.clone_into(&mut self.folder);
        self
    }

    /// Starts in a folder that has been deleted.
    pub fn in_a_deleted_folder(mut self) -> Self {
        self.birth.deletes_folder = true;
        self
    }

    /// What stands on standard input (else it is `/dev/null`).
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// In this cgroup from its first instruction.
    pub fn in_cgroup(mut self, cgroup: &Cgroup) -> Self {
        self.birth.cgroup = Some(cgroup.processes());
        self
    }

    /// The program's name for itself, `argv[0]`.
    pub fn arg0(mut self, name: impl AsRef<OsStr>) -> Self {
        self.name = Some(name.as_ref().into());
        self
    }

    /// Executes the program, which must be a full path, with `argc == 0` and an empty environment. (Since Linux 5.18
    /// the kernel puts an empty `argv[0]` there.)
    pub fn without_argv(mut self) -> Self {
        self.birth.without_argv = true;
        self
    }

    /// Gives the program `descriptor` as its `number` (below 64).
    pub fn fd(mut self, number: RawFd, descriptor: impl Into<OwnedFd>) -> Self {
        assert!((0..birth::FIRST_FREE).contains(&number), "descriptor {number} is not below {}", birth::FIRST_FREE);
        self.birth.descriptors.push((descriptor.into(), number));
        self
    }

    /// Closes `number`: 0, 1 or 2.
    pub fn closing(mut self, number: RawFd) -> Self {
        self.birth.closed.push(number);
        self
    }

    /// Lowers a resource limit, soft and hard.
    pub fn limit(mut self, resource: Resource, value: u64) -> Self {
        self.birth.limits.push((resource, value));
        self
    }

    /// The file mode mask (else 022).
    pub fn umask(mut self, mask: u32) -> Self {
        self.birth.umask = mask;
        self
    }

    /// Ignores a signal.
    pub fn ignoring(mut self, signal: Signal) -> Self {
        self.birth.ignored.push(signal);
        self
    }

    /// Blocks every signal that can be.
    pub fn blocking_all_signals(mut self) -> Self {
        self.birth.blocks_signals = true;
        self
    }

    /// Sets no_new_privs: setuid and file capabilities do nothing from there on.
    pub fn no_new_privs(mut self) -> Self {
        self.birth.no_new_privs = true;
        self
    }

    /// Empties the capability bounding set.
    pub fn no_bounding_set(mut self) -> Self {
        self.birth.no_bounding_set = true;
        self
    }

    /// Real, effective and saved user id, where they are not all the user's.
    pub fn uids(mut self, real: u32, effective: u32, saved: u32) -> Self {
        self.birth.uids = [real, effective, saved].map(Into::into);
        self
    }

    /// Real, effective and saved group id, where they are not all the user's.
    pub fn gids(mut self, real: u32, effective: u32, saved: u32) -> Self {
        self.birth.gids = [real, effective, saved].map(Into::into);
        self
    }

    /// The supplementary groups, where they are not the account's.
    pub fn groups(mut self, groups: &[u32]) -> Self {
        self.birth.groups = groups.iter().map(|&gid| gid.into()).collect();
        self
    }

    /// How long [`run`](Self::run) waits (else a minute) before it kills the program and fails the test.
    pub fn within(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Runs a program to its end.
    #[track_caller]
    pub fn run<A: AsRef<OsStr>>(self, words: impl IntoIterator<Item = A>) -> Outcome {
        let patience = self.patience;
        self.spawn(words).wait(patience)
    }

    /// Starts a program; it is killed when the value goes.
    #[track_caller]
    pub fn spawn<A: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = A>) -> Running {
        let words: Vec<OsString> = words.into_iter().map(|word| word.as_ref().into()).collect();
        let (program, args) = words.split_first().expect("a program");

        for (descriptor, _) in &mut self.birth.descriptors {
            *descriptor = beyond_reserved(descriptor);
        }
        if self.birth.deletes_folder {
            self.folder = format!("/tmp/deleted-{:?}", std::thread::current().id());
            fs::create_dir(&self.folder).expect("a folder to delete");
        }
        let mut command = Command::new(program);
        command.args(args).current_dir(&self.folder).env_clear().envs(&self.environment);
        command.stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(name) = &self.name {
            command.arg0(name);
        }
        birth::give(&mut command, self.birth);
        Running::start(command, &words, self.input)
    }
}

/// The same open file, at a number that no [`Caller::fd`] aims at.
fn beyond_reserved(descriptor: &OwnedFd) -> OwnedFd {
    let number = fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(birth::FIRST_FREE)).expect("dup");
    birth::adopt(number)
}
