//! fork(2), for a program that becomes a daemon.

use portgrant_sys::OnlyThread;
use portgrant_sys::process::{self, OtherThreads};

use super::error::DaemonError;
use crate::failure::Error;

/// Which process this is after fork(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The parent, with the pid of the child
    Parent(u32),
    /// The child
    Child,
}

/// fork(2), in a process with one thread. With more threads it returns [`DaemonError::Threads`], since the child could
/// do almost nothing (signal-safety(7)).
///
/// Everything exists twice afterwards, descriptors too: drop in one process what only the other should have. A
/// [`PidFile`](crate::daemon::PidFile) stays with the process that wrote it.
///
/// ```
/// # if std::fs::read_dir("/proc/self/task")?.count() > 1 { return Ok(()) } // a test runs in a thread
/// use portgrant_server::daemon::{Fork, fork, leave};
///
/// match fork()? {
///     Fork::Child => leave(0),
///     Fork::Parent(child) => println!("{child} was started"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn fork() -> Result<Fork, Error> {
    let only_thread = OnlyThread::checked().map_err(|error| match error {
        OtherThreads::Count(count) => DaemonError::Threads { count },
        OtherThreads::Unknown(source) => DaemonError::ThreadsUnknown { source },
    })?;
    match process::fork(only_thread).map_err(|source| Error::system("cannot fork", source))? {
        process::Fork::Parent(child) => Ok(Fork::Parent(child.cast_unsigned())),
        process::Fork::Child => Ok(Fork::Child),
    }
}

/// _exit(2): ends this process without the exit handlers, which belong to the parent, and without dropping anything.
pub fn leave(status: u8) -> ! {
    process::leave(status)
}
