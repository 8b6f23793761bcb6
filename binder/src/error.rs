//! All errors, as one flat enum. Each has an exit status, and a message: what failed, why, and what to do.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};

use portgrant_protocol::errno::Described;
use portgrant_protocol::listen::{self, PlaceError};
use portgrant_protocol::message::message;
use portgrant_protocol::program::Unfit;
use portgrant_protocol::record::RecordError;
use portgrant_protocol::transfer::TransferError;
use portgrant_protocol::{Kind, Message, Protocol, Resolved};
use rustix::io::Errno;

use crate::audit::LOG_SOCKET;
use crate::missing_privilege::MissingPrivilege;
use crate::privilege::PrivilegeError;

/// Everything that ends the helper with a status other than 0 or the program's.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant's report is its description")]
pub enum Error {
    Usage { what: String, expected: &'static str },
    TooMany { sockets: usize },
    Policy(portgrant_policy::Error),
    Privilege(PrivilegeError),
    Refused(Box<Message>),
    Socket { endpoint: String, call: &'static str, errno: Errno },
    NoProtocol { endpoint: String, protocol: Protocol },
    NoIpv6 { endpoint: String, port: u16 },
    InUse(Box<Resolved>),
    NotThere { endpoint: String },
    MissingPrivilege { endpoint: String, why: MissingPrivilege },
    OwnSocket { endpoint: String, expected: &'static str },
    Place(PlaceError),
    Rewritten { endpoint: String, found: String },
    Call { call: &'static str, errno: Errno },
    TimeLimit,
    Timer { errno: Errno },
    Program(Unfit),
    Record(RecordError),
    Transfer(TransferError),
}

impl Error {
    /// The message for this error.
    pub fn message(self) -> Message {
        let limits = "raise the limit (ulimit -n) or free memory, and try again";
        match self {
            Error::Usage { what, expected } => message(Kind::Usage, what, expected, "see portgrant-binder --help"),
            Error::TooMany { sockets } => message(
                Kind::Usage,
                "too many sockets",
                format_args!("{sockets} were asked for, and at most {} are handed over at once", listen::MAX),
                "ask for fewer",
            ),
            // The overflow id (65534) can be read but not set: the caller has no id here (see user_namespaces(7)).
            Error::Privilege(error @ PrivilegeError::Call("setresgid" | "setresuid", Errno::INVAL)) => message(
                Kind::BrokenPolicy,
                "your uid or gid is not mapped in this user namespace",
                format_args!("{error}: the helper cannot change to your ids"),
                MissingPrivilege::UserNamespace.fix(),
            ),
            Error::Privilege(error) => message(
                Kind::System,
                "privilege could not be given up, so nothing is done",
                error,
                "look at what confines this process (seccomp, a security module)",
            ),
            Error::Policy(error) => error.message(),
            Error::Refused(message) => *message,
            Error::Socket { endpoint, call: "SO_BINDTODEVICE", errno: Errno::NODEV } => message(
                Kind::NotThere,
                format!("{endpoint} cannot be bound"),
                "the interface given with dev= does not exist",
                "see ip link for the interfaces of this host",
            ),
            Error::Socket { endpoint, call: "bind", errno: Errno::INVAL } => message(
                Kind::NotThere,
                format!("{endpoint} cannot be bound"),
                "bind: the address does not fit the socket: a link-local one needs its interface",
                "name the interface with dev=",
            ),
            Error::Socket { endpoint, call, errno: errno @ Errno::AFNOSUPPORT } => message(
                Kind::System,
                format!("{endpoint} cannot be bound"),
                format_args!(
                    "{call}: {}: RestrictAddressFamilies= of the unit, or another filter, forbids it",
                    Described(errno)
                ),
                "in the unit, add the line RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
            ),
            Error::Socket { endpoint, call, errno } => message(
                Kind::System,
                format!("{endpoint} cannot be bound"),
                format_args!("{call}: {}", Described(errno)),
                limits,
            ),
            Error::NoProtocol { endpoint, protocol } => message(
                Kind::NotThere,
                format!("{endpoint} cannot be bound"),
                format_args!("this kernel has no {}", protocol.word()),
                format!("as root: modprobe {}; or enable it (sysctl)", protocol.word()),
            ),
            Error::NoIpv6 { endpoint, port } => message(
                Kind::NotThere,
                format!("{endpoint} cannot be bound"),
                "this host has no IPv6, or RestrictAddressFamilies= of the unit forbids it; the endpoint asks for it (no address means [::])",
                format!("ask for 0.0.0.0:{port}"),
            ),
            Error::InUse(endpoint) => message(
                Kind::InUse,
                format!("{endpoint} is in use"),
                "another socket holds this address, or one that overlaps it",
                format!("see who: portgrant who {}/{}", endpoint.port, endpoint.endpoint.protocol.transport().word()),
            )
            .endpoint(endpoint.to_string()),
            Error::NotThere { endpoint } => message(
                Kind::NotThere,
                format!("{endpoint} cannot be bound"),
                "no interface of this network namespace has that address",
                "see ip addr for the addresses; freebind, if it is granted, binds before the address exists",
            ),
            Error::MissingPrivilege { endpoint, why } => {
                message(Kind::NoPrivilege, format!("{endpoint} is permitted but cannot be bound"), why, why.fix())
            }
            Error::OwnSocket { endpoint, expected } => message(
                Kind::Usage,
                format!("that socket cannot be bound to {endpoint}"),
                format_args!("expected {expected}"),
                "pass a fresh socket of the caller's own with --socket",
            ),
            Error::Place(PlaceError::Occupied(number)) => message(
                Kind::Usage,
                format!("descriptor {number} is open already"),
                "a socket must go there, and the caller's own descriptors stay",
                format!("close it: {number}>&-"),
            ),
            Error::Place(PlaceError::System(errno)) => {
                message(Kind::System, "the sockets could not be put in place", Described(errno), limits)
            }
            Error::Rewritten { endpoint, found } => message(
                Kind::System,
                format!("{endpoint} was bound to {found} instead"),
                "a program in the kernel rewrites what bind(2) asks for (cgroup BPF)",
                "as root, find that program: bpftool cgroup tree",
            ),
            Error::TimeLimit => message(
                Kind::TryAgain,
                "the helper gave up after 5 seconds",
                "it was stopped, or this machine is overloaded",
                "try again",
            ),
            Error::Timer { errno } => message(
                Kind::System,
                "the helper cannot limit its own time, so it does nothing",
                format_args!("timer_create: {}", Described(errno)),
                "raise the limit of pending signals: ulimit -i unlimited",
            ),
            Error::Call { call: call @ LOG_SOCKET, errno: errno @ Errno::AFNOSUPPORT } => message(
                Kind::System,
                format!("{call} failed"),
                format_args!(
                    "{}: RestrictAddressFamilies= of the unit, or another filter, forbids it",
                    Described(errno)
                ),
                "in the unit, add the line RestrictAddressFamilies=AF_UNIX",
            ),
            Error::Call { call, errno } => message(Kind::System, format!("{call} failed"), Described(errno), limits),
            Error::Program(unfit) => {
                message(Kind::Program, unfit.to_string(), &unfit.why, unfit.fix()).status(unfit.status())
            }
            Error::Record(error) => message(
                Kind::Usage,
                "the reply does not fit into a record",
                error,
                "ask for fewer sockets, or with shorter names",
            ),
            Error::Transfer(error) => message(
                Kind::System,
                "the reply could not be sent",
                error,
                "keep the other end of --to open until it is read",
            ),
        }
    }
}

impl From<PrivilegeError> for Error {
    fn from(error: PrivilegeError) -> Error {
        Error::Privilege(error)
    }
}

impl From<portgrant_policy::Error> for Error {
    fn from(error: portgrant_policy::Error) -> Error {
        Error::Policy(error)
    }
}

impl From<Unfit> for Error {
    fn from(unfit: Unfit) -> Error {
        Error::Program(unfit)
    }
}
