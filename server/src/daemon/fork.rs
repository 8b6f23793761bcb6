//! fork(2), for a program that becomes a daemon.

use super::error::DaemonError;
use crate::descriptor::{self, Fork, NotForked};
use crate::failure::Error;

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
    descriptor::fork().map_err(|error| match error {
        NotForked::Threads(count) => DaemonError::Threads { count }.into(),
        NotForked::ThreadsUnknown(source) => DaemonError::ThreadsUnknown { source }.into(),
        NotForked::System(source) => Error::system("cannot fork", source),
    })
}
