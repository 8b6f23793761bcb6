//! Errors of daemons, pid files and service managers.

use std::io;
use std::path::PathBuf;

use crate::failure::{Report, failure, shown};

/// Why the daemon could not be started, or the service manager cannot be notified
#[derive(Debug)]
#[non_exhaustive]
pub enum DaemonError {
    /// A process with other threads cannot fork
    Threads {
        /// The number of threads
        count: usize,
    },
    /// The number of threads is not known, so there is no fork
    ThreadsUnknown {
        /// Why it is not known
        source: io::Error,
    },
    /// The daemon exited before it was ready
    NotReady,
    /// The working folder of the daemon cannot be entered
    Folder {
        /// The folder
        path: PathBuf,
        /// Why it cannot be entered
        source: io::Error,
    },
    /// The pid file could not be created or written
    PidFile {
        /// Its path
        path: PathBuf,
        /// Why it failed
        source: io::Error,
    },
    /// The pid file is locked: the daemon is already running
    PidFileHeld {
        /// Its path
        path: PathBuf,
        /// The pid in it
        pid: Option<u32>,
    },
    /// The path of the pid file is in use by something that must not be written to
    PidFileOccupied {
        /// The path
        path: PathBuf,
        /// What is there
        by: &'static str,
    },
    /// `NOTIFY_SOCKET` is not a valid address
    NotifyAddress {
        /// Its value, made printable
        address: String,
    },
    /// The service manager cannot be notified
    Notify {
        /// Its socket, made printable
        address: String,
        /// Why it failed
        source: io::Error,
    },
    /// A variable of the service manager's watchdog is not a valid number
    Watchdog {
        /// The variable
        variable: &'static str,
        /// Its value, made printable
        value: String,
    },
}

impl DaemonError {
    pub(super) fn report(&self) -> Report<'_> {
        match self {
            DaemonError::Threads { count } => {
                Report::what(format!("this process has {count} threads and cannot become a daemon"))
                    .why("fork(2) copies one thread, and the locks of all threads")
                    .fix("start the daemon first in main, before any thread and before tokio's runtime")
            }
            DaemonError::ThreadsUnknown { source } => Report::what("cannot count the threads of this process")
                .because(source)
                .fix("mount /proc, or run the server in the foreground"),
            DaemonError::NotReady => Report::what("the daemon exited before it was ready")
                .fix("read what it wrote to standard error, or start it in the foreground"),
            DaemonError::Folder { path, source } => {
                Report::what(format!("cannot change the working folder to {}", shown(path)))
                    .because(source)
                    .fix("check that the folder exists and that this user may enter it")
            }
            DaemonError::PidFile { path, source } => Report::what(format!("cannot write the pid file {}", shown(path)))
                .because(source)
                .fix("create a folder in /run that only this user may write to (RuntimeDirectory= in a unit)"),
            DaemonError::PidFileHeld { path, pid } => {
                Report::what(format!("{} is locked: the daemon is already running", shown(path)))
                    .why_if_known(pid.map(|pid| format!("process {pid} holds it")))
                    .fix("stop that daemon first, or use another pid file")
            }
            DaemonError::PidFileOccupied { path, by } => {
                Report::what(format!("cannot create a pid file at {}", shown(path)))
                    .why(format!("the path is {by}"))
                    .fix("remove it, or choose a path that only this user may write to")
            }
            DaemonError::NotifyAddress { address } => Report::what(format!("NOTIFY_SOCKET is '{address}'"))
                .why("expected an absolute path, or @ and the name of an abstract socket")
                .fix("correct it in what starts this program, or unset it if that is not a service manager"),
            DaemonError::Notify { address, source } => {
                Report::what(format!("cannot notify the service manager at {address}"))
                    .because(source)
                    .fix("check that its socket exists (also in a chroot) and that this user may write to it")
            }
            DaemonError::Watchdog { variable, value } => Report::what(format!("{variable} is '{value}'"))
                .why("expected a number above 0")
                .fix("correct it in what starts this program, or unset WATCHDOG_USEC and WATCHDOG_PID"),
        }
    }
}

failure!(DaemonError);
