//! Daemons: the steps of daemon(7), for a program that is started by hand or by an init script.
//!
//! Under a service manager such as systemd do not use it: the program stays in the foreground, and [`Notify`] reports
//! that it is ready.
//!
//! ```no_run
//! use std::sync::atomic::Ordering;
//!
//! use portgrant_server::daemon::Daemon;
//! use portgrant_server::{Signals, Sockets};
//!
//! # fn main() -> Result<(), portgrant_server::Error> {
//! // Before the fork, which changes the pid that LISTEN_PID names; and before any thread.
//! let mut sockets = match Sockets::inherited()? {
//!     Some(sockets) => sockets,
//!     None => Sockets::request(["443"])?,
//! };
//! let starting = Daemon::new().pid_file("/run/my-server/pid").start()?;
//! // From here on this is the daemon; the shell waits, and still sees standard error.
//! let listener = sockets.tcp("443/tcp")?;
//! let mut signals = Signals::install()?;
//! let running = starting.ready()?; // the shell gets exit status 0
//! # let _ = listener;
//! while !signals.stopping().load(Ordering::SeqCst) {
//!     signals.wait()?;
//! }
//! drop(running); // the pid file goes
//! # Ok(())
//! # }
//! ```

mod error;
mod fork;
mod notify;
mod pid_file;
mod signals;

use std::fs::File;
use std::io::{self, Read, Write};
#[cfg(feature = "restart")]
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sys::signal::SigSet;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{setsid, umask};
use rustix::stdio;

pub use notify::Notify;
pub use pid_file::PidFile;
#[cfg(feature = "restart")]
pub(crate) use signals::Caught;
pub use signals::{Signal, Signals};

pub use error::DaemonError;
pub use fork::{Fork, fork, leave};

use crate::failure::Error;

/// What the daemon writes to the pipe when it is ready. Any other byte is the exit status of its failure.
const UP: u8 = 0;

/// How to become a daemon. Nothing happens before [`Daemon::start`].
#[derive(Debug, Clone)]
#[must_use = "nothing happens before it is started"]
pub struct Daemon {
    pid_file: Option<PathBuf>,
    folder: PathBuf,
    umask: u32,
    leads: bool,
    keeps_output: bool,
}

impl Default for Daemon {
    fn default() -> Daemon {
        Daemon { pid_file: None, folder: "/".into(), umask: 0o022, leads: false, keeps_output: false }
    }
}

impl Daemon {
    /// A daemon with the working folder `/`, the umask 022, and no pid file.
    pub fn new() -> Daemon {
        Daemon::default()
    }

    /// Writes the pid to `path` and locks that file (flock(2)). While it is locked, no other daemon starts with it. The
    /// file of a dead daemon is replaced.
    pub fn pid_file(self, path: impl Into<PathBuf>) -> Daemon {
        Daemon { pid_file: Some(path.into()), ..self }
    }

    /// The working folder. The default, `/`, does not keep any file system from being unmounted.
    pub fn folder(self, path: impl Into<PathBuf>) -> Daemon {
        Daemon { folder: path.into(), ..self }
    }

    /// The file mode mask. The default is 022.
    pub fn umask(self, umask: u32) -> Daemon {
        Daemon { umask, ..self }
    }

    /// Forks once instead of twice, for a starter that needs the pid that its fork(2) returned. The daemon then leads
    /// its session, and gets a controlling terminal if it opens one without O_NOCTTY (Rust's std never sets that).
    pub fn session_leader(self) -> Daemon {
        Daemon { leads: true, ..self }
    }

    /// Leaves standard output and standard error unchanged, for instance if they are a log. The default is /dev/null
    /// once the daemon is ready.
    pub fn keep_output(self) -> Daemon {
        Daemon { keeps_output: true, ..self }
    }

    /// Goes into the background. **This returns in the daemon.** The process that called it waits. It exits with status
    /// 0 after [`Starting::ready`], or with the status of [`Starting::fail`].
    ///
    /// The steps: lock the pid file; fork; create a session; fork again; clear the signal mask; set the working folder
    /// and the umask; write the pid; open /dev/null as standard input. Other descriptors are unchanged: adopt sockets
    /// before.
    ///
    /// # Errors
    /// They are returned in the process that called it: if nothing was started ([`DaemonError::Threads`],
    /// [`DaemonError::PidFileHeld`]), or if the daemon exited before it was ready ([`DaemonError::NotReady`]).
    pub fn start(self) -> Result<Starting, Error> {
        let pid_file = self.pid_file.as_deref().map(PidFile::lock).transpose()?;
        let (news, teller) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| system("cannot create a pipe", errno))?;
        // Otherwise buffered output would be written twice.
        let _ = io::stdout().flush();
        match fork()? {
            Fork::Parent(child) => {
                drop((teller, pid_file));
                // The daemon itself, if it leads the session; otherwise the process between, which exits at once.
                if !self.leads {
                    let _ = waitpid(Pid::from_raw(child.cast_signed()), None);
                }
                wait_for(news)
            }
            Fork::Child => {
                drop(news);
                self.become_daemon(pid_file, teller)
            }
        }
    }

    /// For the successor of a daemon, which has received its pid file: sets up again what execve(2) does not keep, or
    /// what has changed.
    #[cfg(feature = "restart")]
    pub(crate) fn go_on(self, handed: Option<BorrowedFd<'_>>) -> Result<Option<PidFile>, Error> {
        let pid_file = self.pid_file.as_deref().map(|path| PidFile::adopt_or_lock(path, handed)).transpose()?;
        self.set_folder_and_umask()?;
        Ok(pid_file)
    }

    /// Sets the working folder and the umask.
    fn set_folder_and_umask(&self) -> Result<(), Error> {
        rustix::process::chdir(&self.folder)
            .map_err(|errno| DaemonError::Folder { path: self.folder.clone(), source: errno.into() })?;
        umask(Mode::from_bits_truncate(self.umask));
        Ok(())
    }

    fn become_daemon(self, pid_file: Option<PidFile>, teller: OwnedFd) -> Result<Starting, Error> {
        setsid().map_err(|errno| system("cannot create a session", errno))?;
        if !self.leads
            && let Fork::Parent(_) = fork()?
        {
            leave(0);
        }
        SigSet::empty().thread_set_mask().map_err(|errno| system("cannot unblock signals", io_errno(errno)))?;
        self.set_folder_and_umask()?;
        let pid_file = pid_file.map(PidFile::write).transpose()?;
        stdio::dup2_stdin(null()?).map_err(|errno| system("cannot redirect standard input", errno))?;
        Ok(Starting { teller: teller.into(), pid_file, keeps_output: self.keeps_output })
    }
}

/// In the starter: waits for the daemon's byte.
fn wait_for(news: OwnedFd) -> Result<Starting, Error> {
    let mut word = [0];
    match File::from(news).read_exact(&mut word) {
        // Not exit(3): the exit handlers belong to the daemon.
        Ok(()) => leave(word.first().copied().unwrap_or(UP)),
        Err(_) => Err(DaemonError::NotReady.into()),
    }
}

fn null() -> Result<OwnedFd, Error> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| system("cannot open /dev/null", errno))
}

fn system(what: &'static str, errno: rustix::io::Errno) -> Error {
    Error::system(what, errno)
}

fn io_errno(errno: nix::errno::Errno) -> rustix::io::Errno {
    rustix::io::Errno::from_raw_os_error(errno as i32)
}

/// A daemon that is not ready yet. Its starter waits, and still sees standard error.
///
/// If it is dropped (as by an early return from `main`), the starter learns that the daemon failed.
#[derive(Debug)]
#[must_use = "the process that started the daemon waits until this is called"]
pub struct Starting {
    teller: File,
    pid_file: Option<PidFile>,
    keeps_output: bool,
}

impl Starting {
    /// Reports that the daemon is ready. Standard output and standard error become /dev/null, and the starter exits
    /// with status 0.
    pub fn ready(mut self) -> Result<Running, Error> {
        if !self.keeps_output {
            let null = null()?;
            stdio::dup2_stdout(&null).map_err(|errno| system("cannot redirect standard output", errno))?;
            stdio::dup2_stderr(&null).map_err(|errno| system("cannot redirect standard error", errno))?;
        }
        // The starter may have ended (^C). The daemon continues.
        let _ = self.teller.write_all(&[UP]);
        Ok(Running { pid_file: self.pid_file })
    }

    /// Reports that the daemon failed. The starter exits with `status` (1 instead of 0) and prints nothing. Print the
    /// reason to standard error before, and exit afterwards.
    pub fn fail(mut self, status: u8) -> ExitCode {
        let status = status.max(1);
        // Remove the file first: the starter may try again at once.
        drop(self.pid_file.take());
        let _ = self.teller.write_all(&[status]);
        ExitCode::from(status)
    }
}

/// A daemon that is ready. Its pid file is removed with this value.
#[derive(Debug)]
#[must_use = "the pid file goes with it"]
pub struct Running {
    pid_file: Option<PidFile>,
}

impl Running {
    /// The path of its pid file.
    pub fn pid_file(&self) -> Option<&Path> {
        self.pid_file.as_ref().map(PidFile::path)
    }

    #[cfg(feature = "restart")]
    pub(crate) fn into_pid_file(self) -> Option<PidFile> {
        self.pid_file
    }
}
