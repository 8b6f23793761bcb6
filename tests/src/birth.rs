//! Between fork(2) and execve(2): the child becomes the caller that a test described.
//!
//! All unsafe code of this crate is here: std runs a closure in the child only on the promise that it does nothing
//! which a fork of a process with threads forbids, and raw descriptors are made and replaced.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Once, PoisonError, RwLock};

use caps::CapSet;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{self, Gid, Uid, setgroups, setresgid, setresuid};

use crate::account::Account;

/// Descriptors below are for the tests to place in children; nothing of this process's own is there.
pub(crate) const FIRST_FREE: RawFd = 64;

/// Held alone while something is open that is not close-on-exec yet, and shared while a process is forked.
static FORKS: RwLock<()> = RwLock::new(());

/// Opens what is close-on-exec only a moment later, as a library's pseudo-terminal may be: meanwhile no other test starts
/// a program, which would have it as well.
pub fn opening<T>(open: impl FnOnce() -> T) -> T {
    let _alone = FORKS.write().unwrap_or_else(PoisonError::into_inner);
    open()
}

/// Starts a program, while nobody is [`opening`] something.
pub(crate) fn forking<T>(fork: impl FnOnce() -> T) -> T {
    let _shared = FORKS.read().unwrap_or_else(PoisonError::into_inner);
    fork()
}

#[derive(Debug)]
pub(crate) struct Birth {
    pub(crate) uids: [Uid; 3],
    pub(crate) gids: [Gid; 3],
    pub(crate) groups: Vec<Gid>,
    pub(crate) cgroup: Option<File>,
    pub(crate) descriptors: Vec<(OwnedFd, RawFd)>,
    pub(crate) closed: Vec<RawFd>,
    pub(crate) limits: Vec<(Resource, u64)>,
    pub(crate) umask: u32,
    pub(crate) ignored: Vec<Signal>,
    pub(crate) blocks_signals: bool,
    pub(crate) no_new_privs: bool,
    pub(crate) no_bounding_set: bool,
    pub(crate) deletes_folder: bool,
    pub(crate) without_argv: bool,
}

impl Birth {
    pub(crate) fn of(account: &Account) -> Self {
        Self {
            uids: [Uid::from_raw(account.uid); 3],
            gids: [Gid::from_raw(account.gid); 3],
            groups: account.groups.iter().map(|&gid| Gid::from_raw(gid)).collect(),
            cgroup: None,
            descriptors: Vec::new(),
            closed: Vec::new(),
            limits: Vec::new(),
            umask: 0o022,
            ignored: Vec::new(),
            blocks_signals: false,
            no_new_privs: false,
            no_bounding_set: false,
            deletes_folder: false,
            without_argv: false,
        }
    }

    /// Runs in the child. Changes of identity stand after what needs privilege, limits after all else.
    fn become_caller(&self, folder: &CStr, program: &CStr) -> io::Result<()> {
        // No terminal, wherever the tests are started: /dev/tty is then none either.
        unistd::setsid()?;
        if let Some(processes) = &self.cgroup {
            unistd::write(processes, b"0")?;
        }
        for (descriptor, number) in &self.descriptors {
            // SAFETY: `number` is below FIRST_FREE, where this process keeps nothing that Rust owns.
            let _ = unsafe { unistd::dup2_raw(descriptor, *number) }?.into_raw_fd();
        }
        for &number in &self.closed {
            unistd::close(number)?;
        }
        if self.deletes_folder {
            unistd::unlinkat(nix::fcntl::AT_FDCWD, folder, unistd::UnlinkatFlags::RemoveDir)?;
        }
        umask(Mode::from_bits_truncate(self.umask));
        default_signals()?;
        self.become_user()?;
        if self.no_new_privs {
            prctl::set_no_new_privs()?;
        }
        for &ignored in &self.ignored {
            // SAFETY: ignoring installs no handler.
            unsafe { signal(ignored, SigHandler::SigIgn) }?;
        }
        if self.blocks_signals {
            SigSet::all().thread_block()?;
        }
        for &(resource, value) in &self.limits {
            setrlimit(resource, value, value)?;
        }
        if self.without_argv {
            unistd::execve::<&CStr, &CStr>(program, &[], &[])?;
        }
        Ok(())
    }

    /// Leaving uid 0 in all three places clears the permitted, effective and ambient set (see capabilities(7)).
    fn become_user(&self) -> io::Result<()> {
        if self.no_bounding_set {
            caps::clear(None, CapSet::Bounding).map_err(io::Error::other)?;
        }
        caps::clear(None, CapSet::Inheritable).map_err(io::Error::other)?;
        setgroups(&self.groups)?;
        setresgid(self.gids[0], self.gids[1], self.gids[2])?;
        setresuid(self.uids[0], self.uids[1], self.uids[2])?;
        Ok(())
    }
}

/// As after a login, whatever started the tests ignored or blocked (nohup, a job in the background).
fn default_signals() -> io::Result<()> {
    for number in Signal::iterator().filter(|number| !matches!(number, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default action installs no handler.
        unsafe { signal(number, SigHandler::SigDfl) }?;
    }
    Ok(SigSet::all().thread_unblock()?)
}

/// Has the child of `command` become that caller.
pub(crate) fn give(command: &mut Command, birth: Birth) {
    let words = [command.get_current_dir().map_or("/".as_ref(), |path| path.as_os_str()), command.get_program()];
    // Without a NUL: the command would fail for that by itself.
    let [folder, program] = words.map(|word| CString::new(word.as_bytes()).unwrap_or_default());
    // SAFETY: system calls only, on memory prepared before the fork; an error allocates at most, which glibc allows
    // in the child of a process with threads.
    unsafe { command.pre_exec(move || birth.become_caller(&folder, &program)) };
}

/// Takes up what fcntl(2) returned.
pub(crate) fn adopt(number: RawFd) -> OwnedFd {
    // SAFETY: the callers just got it from F_DUPFD_CLOEXEC; nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Puts this process's descriptors where no child of a test sees them: those that it inherited end at an execve, and
/// the places below FIRST_FREE are taken, so that later ones stand beyond. (Among them the pipe by which std learns
/// that an execve failed: a descriptor placed in the child would replace it.)
pub(crate) fn clear_the_way() {
    static CLEARED: Once = Once::new();
    CLEARED.call_once(|| {
        for inherited in fs::read_dir("/proc/self/fd").expect("/proc").flatten() {
            let number: RawFd = inherited.file_name().to_string_lossy().parse().expect("a descriptor");
            if number > 2 {
                // SAFETY: it is open, or just was (then fcntl fails); nothing is closed here.
                let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
                let _ = fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
            }
        }
        loop {
            let place = File::open("/dev/null").expect("/dev/null");
            if place.as_raw_fd() >= FIRST_FREE {
                return;
            }
            let _ = place.into_raw_fd();
        }
    });
}
