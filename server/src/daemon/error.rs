//! Becoming a daemon, its pid file, and the service manager.

use std::io;
use std::path::PathBuf;

use crate::failure::{Report, failure, shown};

/// Why there is no daemon, or nobody who knows of it
#[derive(Debug)]
#[non_exhaustive]
pub enum DaemonError {
    /// A process with other threads cannot fork
    Threads {
        /// How many it has
        count: usize,
    },
    /// How many threads there are cannot be told, so there is no fork
    ThreadsUnknown {
        /// Why not
        source: io::Error,
    },
    /// The daemon ended before it was up
    NotReady,
    /// The daemon's working folder cannot be entered
    Folder {
        /// Which
        path: PathBuf,
        /// Why not
        source: io::Error,
    },
    /// The pid file could not be made or written
    PidFile {
        /// Where
        path: PathBuf,
        /// Why not
        source: io::Error,
    },
    /// The pid file is locked: the daemon is there already
    PidFileHeld {
        /// Where
        path: PathBuf,
        /// The pid that stands in it
        pid: Option<u32>,
    },
    /// There is something at the pid file's path that is not to be written to
    PidFileOccupied {
        /// Where
        path: PathBuf,
        /// What it is
        by: &'static str,
    },
    /// `NOTIFY_SOCKET` is no address
    NotifyAddress {
        /// What it is, made printable
        address: String,
    },
    /// The service manager cannot be told
    Notify {
        /// Its socket, made printable
        address: String,
        /// Why not
        source: io::Error,
    },
    /// A variable of the service manager's watchdog is no number
    Watchdog {
        /// The variable
        variable: &'static str,
        /// What it holds, made printable
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
                .fix("create a folder in /run that this user may write to (RuntimeDirectory= in a unit)"),
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
