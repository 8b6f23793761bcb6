//! Why the program could not be started under supervision.

use std::fmt;
use std::io;

use nix::libc::{EBUSY, EINVAL, ENOSYS, EPERM};
use portgrant_protocol::program::Unfit;
use portgrant_protocol::status;

/// What a unit with SystemCallFilter=@system-service, or with ~@privileged as well, must add.
const UNIT_LINE: &str = "in a unit of systemd, add the line SystemCallFilter=pidfd_getfd seccomp capset @setuid; elsewhere, use \
                         portgrant exec, which gives the program its sockets";
/// What a unit with RestrictAddressFamilies=AF_INET AF_INET6 must add.
const UNIX_LINE: &str = "in a unit of systemd, add the line RestrictAddressFamilies=AF_UNIX";

/// Every error before the program is executed.
#[derive(Debug)]
pub enum Error {
    /// The command line is not the one that `portgrant run` writes
    Usage(&'static str),
    /// The system calls of this architecture are not known
    Machine,
    /// A system call that the supervisor needs fails, even for this process
    Forbidden {
        /// The call
        call: &'static str,
        /// Its error; `None` if a filter kills the process that makes it
        source: Option<io::Error>,
    },
    /// The filter could not be installed
    Filter(io::Error),
    /// The supervisor could not be started, or ended
    Supervisor(io::Error),
    /// The program could not be executed
    Program(Unfit),
}

impl Error {
    /// The exit status for it.
    pub fn status(&self) -> u8 {
        match self {
            Error::Usage(_) => status::USAGE,
            Error::Machine | Error::Forbidden { .. } | Error::Filter(_) => status::BROKEN,
            Error::Supervisor(_) => status::SYSTEM,
            Error::Program(unfit) => unfit.status(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, why, fix) = match self {
            Error::Usage(expected) => (
                "portgrant-supervisor is started by portgrant run".to_owned(),
                (*expected).to_owned(),
                "portgrant run -- PROGRAM [ARG...]".to_owned(),
            ),
            Error::Machine => (
                "portgrant run does not know this machine's system calls".to_owned(),
                "portgrant run works on x86_64 and aarch64".to_owned(),
                "use portgrant exec, which gives the program its sockets".to_owned(),
            ),
            Error::Forbidden { call, source } => (
                "portgrant run may not inspect the program".to_owned(),
                match source {
                    Some(error) => format!("a system call filter or a container forbids {call} ({error})"),
                    None => format!("a system call filter kills every process that calls {call} (SIGSYS)"),
                },
                if call.ends_with("AF_UNIX") { UNIX_LINE } else { UNIT_LINE }.to_owned(),
            ),
            Error::Filter(error) => {
                let (why, fix) = match error.raw_os_error() {
                    Some(EBUSY) => (
                        "another portgrant run or a container already intercepts system calls of this process",
                        "start the program outside of it, or use portgrant exec",
                    ),
                    Some(EPERM) => ("a system call filter or a container forbids seccomp(2)", UNIT_LINE),
                    Some(ENOSYS | EINVAL) => (
                        "this kernel has no seccomp user notification or no SO_NETNS_COOKIE, or this container forbids it",
                        "Linux 5.14 or later is needed; use portgrant exec, which gives the program its sockets",
                    ),
                    _ => ("the kernel does not accept the filter", "see seccomp(2)"),
                };
                ("bind(2) cannot be intercepted".to_owned(), format!("{why} ({error})"), fix.to_owned())
            }
            Error::Supervisor(error) => (
                "the supervisor could not be started".to_owned(),
                error.to_string(),
                "see the limits of processes and memory (ulimit -a)".to_owned(),
            ),
            Error::Program(unfit) => (unfit.to_string(), unfit.why.to_string(), unfit.fix().to_owned()),
        };
        writeln!(f, "portgrant: {what}\n  why: {why}\n  fix: {fix}")
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Filter(error) | Error::Supervisor(error) => Some(error),
            Error::Forbidden { source, .. } => source.as_ref().map(|error| error as _),
            Error::Program(unfit) => Some(unfit),
            Error::Usage(_) | Error::Machine => None,
        }
    }
}
