//! Why there is no socket: this process cannot bind it, or the helper returned none.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use portgrant_protocol::{Kind, Protocol, listen, status, unanswered};
use rustix::io::Errno;

use super::holder::{Holder, HolderState};
use crate::adopting::ONE_VERSION;
use crate::failure::{Report, failure, quoted, shown};

/// Why an endpoint cannot be bound
#[derive(Debug)]
#[non_exhaustive]
pub enum BindError {
    /// Another socket holds the address, or an overlapping one
    InUse {
        /// The endpoint, `127.0.0.1:80/tcp`
        endpoint: String,
        /// The sockets in the way, the most likely one first. Empty if the kernel does not report them
        holders: Vec<Holder>,
    },
    /// No interface has the address
    NotThere {
        /// The endpoint
        endpoint: String,
    },
    /// This host has no IPv6
    NoIpv6 {
        /// The endpoint
        endpoint: String,
        /// Its port
        port: u16,
    },
    /// The kernel does not support the protocol
    NoProtocol {
        /// The endpoint
        endpoint: String,
        /// The protocol
        protocol: Protocol,
    },
    /// Not every user may bind the port, and no helper was asked or is installed
    Privileged {
        /// The endpoint
        endpoint: String,
    },
    /// A service manager or a sandbox forbids this bind(2), whoever makes it (EPERM)
    Forbidden {
        /// The endpoint
        endpoint: String,
    },
    /// `each` stands for several sockets, and one was requested
    EachIsSeveral {
        /// The endpoint
        endpoint: String,
    },
    /// The socket could not be created or bound, or could not listen, for another reason
    Other {
        /// The endpoint
        endpoint: String,
        /// Why it failed
        source: io::Error,
    },
}

impl BindError {
    pub(super) fn report(&self) -> Report<'_> {
        match self {
            BindError::InUse { endpoint, holders } => Report::what(format!("{endpoint} is in use"))
                .why(in_use(holders))
                .fix(make_room(endpoint, holders))
                .kind(Kind::InUse),
            BindError::NotThere { endpoint } => cannot_be_bound(endpoint)
                .why("no interface of this network namespace has that address")
                .fix("see ip addr for those there are; freebind, where it is granted, binds before it comes")
                .status(status::UNAVAILABLE),
            BindError::NoIpv6 { endpoint, port } => cannot_be_bound(endpoint)
                .why("this host has no IPv6, or RestrictAddressFamilies= of the unit forbids it; the endpoint asks for it (no address means [::])")
                .fix(format!("ask for 0.0.0.0:{port}"))
                .status(status::UNAVAILABLE),
            BindError::NoProtocol { endpoint, protocol } => cannot_be_bound(endpoint)
                .why(format!("this kernel has no {}", protocol.word()))
                .fix(format!("as root: modprobe {0}; or enable it (sysctl)", protocol.word()))
                .status(status::UNAVAILABLE),
            BindError::Privileged { endpoint } if is_usually_open(endpoint) => cannot_be_bound(endpoint)
                .why("a security module such as Landlock forbids it, or net.ipv4.ip_unprivileged_port_start was raised")
                .fix("look at what confines this process, and at sysctl net.ipv4.ip_unprivileged_port_start")
                .status(status::REFUSED),
            BindError::Privileged { endpoint } => cannot_be_bound(endpoint)
                .why("only privileged processes may bind ports below net.ipv4.ip_unprivileged_port_start")
                .fix(
                    "install portgrant and permit the port (see portgrant explain), or have the socket \
                     passed to this program by portgrant exec or a systemd socket unit",
                )
                .status(status::REFUSED),
            BindError::Forbidden { endpoint } => cannot_be_bound(endpoint)
                .why("bind(2) answered EPERM: SocketBindDeny= of the service, or a seccomp filter, forbids it")
                .fix(format!("in the unit, write SocketBindAllow={}", unit_word(endpoint)))
                .kind(Kind::NoPrivilege),
            BindError::EachIsSeveral { endpoint } => Report::what(format!("{endpoint} stands for several sockets"))
                .why("each means a socket for every address, and one socket was expected")
                .fix("take all of them, with Sockets::request")
                .status(status::USAGE),
            BindError::Other { endpoint, source } => cannot_be_bound(endpoint).because(source),
        }
    }
}

failure!(BindError);

fn cannot_be_bound(endpoint: &str) -> Report<'static> {
    Report::what(format!("{endpoint} cannot be bound"))
}

/// `127.0.0.1:80/tcp` in the form of SocketBindAllow=: `tcp:80`.
fn unit_word(endpoint: &str) -> String {
    let (port, protocol) = port_and_protocol(endpoint);
    format!("{protocol}:{port}")
}

/// Whether every user may bind the port by the default of the sysctl (PROT_SOCK).
fn is_usually_open(endpoint: &str) -> bool {
    port_and_protocol(endpoint).0.parse::<u16>().is_ok_and(|port| port >= 1024)
}

fn port_and_protocol(endpoint: &str) -> (&str, &str) {
    let (place, protocol) = endpoint.rsplit_once('/').unwrap_or((endpoint, "tcp"));
    (place.rsplit(':').next().unwrap_or_default(), protocol)
}

fn in_use(holders: &[Holder]) -> String {
    match holders {
        [] => "another socket holds this address, or one that overlaps it".to_owned(),
        [only] => only.to_string(),
        [first, others @ ..] => format!("{first}, and {} more", others.len()),
    }
}

/// What to do about the first of `holders`.
fn make_room(endpoint: &str, holders: &[Holder]) -> String {
    let flag = if endpoint.ends_with("/udp") { "u" } else { "t" };
    match holders.first() {
        None => format!("to see its program, run as root: ss -Hanp{flag}"),
        Some(holder) if holder.is_own() => "use the socket that exists, or close it first".to_owned(),
        Some(Holder { state: HolderState::TimeWait { .. } | HolderState::Connection(_), .. }) => {
            "wait until the connection is over, or set SO_REUSEADDR in the server that accepted it".to_owned()
        }
        Some(Holder { process: Some(_), .. }) => "stop it, or serve at another address or port".to_owned(),
        Some(Holder { local, .. }) => format!(
            "stop it, or serve at another address or port; to see its program, run as that user or root: ss -Hanp{flag} \
             'sport = :{}'",
            local.port()
        ),
    }
}

/// Why the helper returned no socket, apart from a refusal
#[derive(Debug)]
#[non_exhaustive]
pub enum RequestError {
    /// No endpoint, or more than one message can carry
    Endpoints {
        /// The number of endpoints
        count: usize,
    },
    /// `PORTGRANT_BINDER` is not an absolute path
    HelperNotAbsolute {
        /// Its value
        path: PathBuf,
    },
    /// The helper does not exist at any of the usual paths
    HelperMissing {
        /// The paths
        places: Vec<PathBuf>,
    },
    /// The helper could not be started
    Helper {
        /// Its path
        helper: PathBuf,
        /// Why it failed
        source: io::Error,
    },
    /// The helper ended without an answer, and was not killed
    NoAnswer {
        /// Its path
        helper: PathBuf,
        /// How it ended; unknown if SIGCHLD is ignored
        status: Option<ExitStatus>,
    },
    /// The helper was killed (SIGKILL), as a stopped helper is when its time limit is over
    HelperKilled {
        /// Its path
        helper: PathBuf,
    },
    /// A requested socket was not received
    NotReceived {
        /// Its name
        name: String,
    },
    /// A socket was received that was not requested, or not at this place
    NotAskedFor {
        /// Its name
        name: String,
    },
}

impl RequestError {
    /// The error for a helper that ended without an answer.
    pub(crate) fn unanswered(helper: &Path, status: Option<ExitStatus>) -> RequestError {
        let helper = helper.to_owned();
        match status.and_then(|status| status.signal()) {
            Some(SIGKILL) => RequestError::HelperKilled { helper },
            Some(_) | None => RequestError::NoAnswer { helper, status },
        }
    }

    pub(super) fn report(&self) -> Report<'_> {
        match self {
            RequestError::Endpoints { count: 0 } => Report::what("the request names no endpoint")
                .fix("name one, such as 80, 443/udp or https=[::]:443")
                .status(status::USAGE),
            RequestError::Endpoints { count } => Report::what(format!("the request names {count} endpoints"))
                .why(format!("one message carries at most {} descriptors", listen::MAX))
                .fix("divide them among several requests")
                .status(status::USAGE),
            RequestError::HelperNotAbsolute { path } => Report::what(format!("PORTGRANT_BINDER is '{}'", shown(path)))
                .why("expected an absolute path")
                .fix("set it to the absolute path of portgrant-binder, or unset it")
                .status(status::BROKEN),
            RequestError::HelperMissing { places } => {
                let places: Vec<String> = places.iter().map(|place| shown(place)).collect();
                Report::what("the helper portgrant-binder is not installed")
                    .why(format!("none of these files exists: {}", places.join(", ")))
                    .fix("install portgrant, or set the environment variable PORTGRANT_BINDER to the helper's path")
                    .status(status::BROKEN)
            }
            RequestError::Helper { helper, source } => {
                let report = Report::what(format!("cannot run the helper {}", shown(helper))).because(source);
                if is_out_of_something(source) {
                    report.fix("raise the limit (ulimit -u, ulimit -n), or stop other processes")
                } else {
                    report
                        .fix("as root, check its mode: every user who may ask for ports must be able to execute it")
                        .status(status::BROKEN)
                }
            }
            RequestError::NoAnswer { helper, status } => {
                let report = Report::what(format!("the helper {} ended without an answer", shown(helper)));
                let report = match status.and_then(unanswered::reason) {
                    Some((why, fix)) => report.why(why).fix(fix),
                    None => report.why_if_known(status.map(|status| format!("it ended with {status}"))).fix(match status {
                        Some(_) => "run portgrant explain with the same endpoints",
                        None => {
                            "run portgrant explain with the same endpoints (SIGCHLD is ignored, so how the helper ended is not known)"
                        }
                    }),
                };
                report.status(status.and_then(said_by).unwrap_or(status::SYSTEM))
            }
            RequestError::HelperKilled { helper } => Report::what(format!("the helper {} was killed", shown(helper)))
                .why(KILLED)
                .fix("try again")
                .kind(Kind::TryAgain),
            RequestError::NotReceived { name } => {
                Report::what(format!("{} was not received", quoted(name))).why(DOES_NOT_FIT).fix(ONE_VERSION)
            }
            RequestError::NotAskedFor { name } => {
                Report::what(format!("{} was received, but was not requested at that place", quoted(name)))
                    .why(DOES_NOT_FIT)
                    .fix(ONE_VERSION)
            }
        }
    }
}

failure!(RequestError);

const SIGKILL: i32 = 9;
const KILLED: &str = "its time limit of 10 s was over: it was stopped, or the machine is overloaded";
const DOES_NOT_FIT: &str = "the answer does not match the request";

/// The helper's exit status, if it is one that the helper uses.
fn said_by(ended: ExitStatus) -> Option<u8> {
    let known = [status::USAGE, status::UNAVAILABLE, status::SYSTEM, status::REFUSED, status::BROKEN];
    known.into_iter().find(|known| ended.code() == Some(i32::from(*known)))
}

/// Too many processes or descriptors, or too little memory: EAGAIN, EMFILE, ENFILE, ENOMEM.
fn is_out_of_something(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::AGAIN | Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}
