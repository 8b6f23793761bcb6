//! What keeps a program from being started under supervision.

use std::fmt;
use std::io;

use nix::libc::{EBUSY, EINVAL, ENOSYS, EPERM};
use portgrant_protocol::program::Unfit;
use portgrant_protocol::status;

/// What a unit lacks with SystemCallFilter=@system-service, and also with ~@privileged.
const UNIT_LINE: &str = "in a unit of systemd, add the line SystemCallFilter=pidfd_getfd seccomp capset @setuid; elsewhere, use \
                         portgrant exec, which gives the program its sockets";
/// What a unit lacks with RestrictAddressFamilies=AF_INET AF_INET6.
const UNIX_LINE: &str = "in a unit of systemd, add the line RestrictAddressFamilies=AF_UNIX";

/// Everything that ends this program before it executes the other one.
#[derive(Debug)]
pub enum Error {
    /// It was not called as `portgrant run` calls it
    Usage(&'static str),
    /// This machine's system calls are not known here
    Machine,
    /// A system call that inspects the program fails, also with this very process
    Forbidden {
        /// Which
        call: &'static str,
        /// How; `None` where a filter kills whoever calls it
        source: Option<io::Error>,
    },
    /// The filter could not be put in place
    Filter(io::Error),
    /// The supervisor ended, or something failed in starting it
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
