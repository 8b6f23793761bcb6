//! What can go wrong, as one flat enum; each has an exit status, and a message that says what, why and what to do.

use std::fmt;
use std::path::{Path, PathBuf};

use portgrant_protocol::endpoint::EndpointError;
use portgrant_protocol::listen::{self, PlaceError};
use portgrant_protocol::program::Unfit;
use portgrant_protocol::record::{self, RecordError};
use portgrant_protocol::text::printable;
use portgrant_protocol::transfer::TransferError;
use portgrant_protocol::{Protocol, Resolved, status};
use rustix::io::Errno;

use crate::inert::Inert;
use crate::policy::{Caller, Policy, Problem, Reason, Refusal, Rule, Subject, Wrong, suggestion};
use crate::privilege::PrivilegeError;
use crate::trusted::Distrust;

/// Everything that ends the helper with a status other than 0 or the program's.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant's report is its description")]
pub enum Error {
    Usage { what: String, expected: &'static str },
    Endpoint(EndpointError),
    TooMany { sockets: usize },
    UnknownUser(String),
    Privilege(PrivilegeError),
    Untrusted { path: PathBuf, why: Distrust },
    NeededByDeny { file: &'static str, rule: String },
    Malformed { policy: Policy, problems: Vec<Problem> },
    Refused(Box<Report>),
    Socket { endpoint: String, call: &'static str, errno: Errno },
    NoProtocol { endpoint: String, protocol: Protocol },
    NoIpv6 { endpoint: String, port: u16 },
    InUse(Box<Resolved>),
    NotThere { endpoint: String },
    Inert { endpoint: String, why: Inert },
    OwnSocket { endpoint: String, expected: &'static str },
    Place(PlaceError),
    Call { call: &'static str, errno: Errno },
    Program(Unfit),
    Record(RecordError),
    Transfer(TransferError),
}

/// A message, in its parts. Printable ASCII throughout.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// The exit status
    pub status: u8,
    /// What happened
    pub what: String,
    /// Why
    pub why: String,
    /// What to do about it
    pub fix: String,
    /// The rule that it speaks of, `file:line`
    pub rule: Option<String>,
    /// The program that the grant is bound to
    pub program: Option<String>,
}

impl Report {
    fn new(status: u8, what: impl Into<String>, why: impl fmt::Display, fix: impl Into<String>) -> Report {
        Report { status, what: what.into(), why: why.to_string(), fix: fix.into(), ..Report::default() }
    }

    /// The refusal of `refusal.endpoint`, with the rule that would permit it.
    pub fn of_refusal(refusal: &Refusal<'_>, caller: &Caller, policy: &Policy) -> Report {
        let who = who(caller);
        let what = format!("{} is refused for {who}", refusal.endpoint);
        let place = |rule| format!("{}  {}", policy.place(rule), policy.text(rule));
        let (add, file) = suggestion(caller, &refusal.endpoint);
        let add = format!("as root, add  {add}  to {file}");
        let (why, fix) = match &refusal.reason {
            Reason::NoRule => (no_rule(policy), add),
            Reason::UnknownService(rule) | Reason::UnknownServiceBeside(rule) => (
                format!(
                    "'{}' is not a service in /etc/services, so nothing is permitted by the rule at {}",
                    unknown_service(rule),
                    place(rule)
                ),
                format!("as root, write a number for '{}' in that rule, or take the word out", unknown_service(rule)),
            ),
            Reason::Address(rule) => (format!("not all of that address is in the rule at {}", place(rule)), add),
            Reason::Device(rule) => (
                format!("the interface is not that of the rule at {}", place(rule)),
                format!(
                    "ask for dev={}, in exec or pass (one's own socket can leave it)",
                    rule.dev.as_deref().unwrap_or("")
                ),
            ),
            Reason::Option(rule, option) => (
                format!("{option} is not granted by the rule at {}", place(rule)),
                format!("as root, add the word {option} to that rule, or ask without it"),
            ),
            Reason::Program(rule) => (
                format!("it is only for one program, by the rule at {}{}", place(rule), instead(refusal)),
                format!("start that program with portgrant exec: -- {}", program(rule.program.as_deref())),
            ),
            Reason::UnfitProgram(rule, unfit) => (
                format!(
                    "{}: {}, so nothing is permitted to that program by the rule at {}",
                    program(Some(&unfit.0)),
                    unfit.1,
                    place(rule)
                ),
                if matches!(unfit.1, Distrust::System(_)) {
                    unfit.1.fix(&unfit.0)
                } else {
                    "as root, put it where only root may write, all folders above included, and name it there"
                        .to_owned()
                },
            ),
            Reason::DeniedDatagram(rule, "dev") => (
                format!(
                    "it is denied by the rule at {}{}; 'dev' does not narrow udp: a udp socket can leave its interface",
                    place(rule),
                    by_account(caller, rule)
                ),
                "as root, change that rule (a port with /tcp denies tcp alone); a deny beats every permit".to_owned(),
            ),
            Reason::DeniedDatagram(rule, _) => (
                format!(
                    "it is denied by the rule at {}{}; an address does not narrow udp: a udp socket can send from every \
                     local address of its family",
                    place(rule),
                    by_account(caller, rule)
                ),
                "as root, change that rule (a port with /tcp denies tcp alone); a deny beats every permit".to_owned(),
            ),
            Reason::Denied(rule) => (
                format!("it is denied by the rule at {}{}", place(rule), by_account(caller, rule)),
                "as root, change that rule; a deny beats every permit".to_owned(),
            ),
        };
        let rule = refusal.reason.rule();
        let program = match &refusal.reason {
            Reason::Program(rule) => rule.program.as_deref().map(|path| program(Some(path))),
            Reason::NoRule
            | Reason::UnknownService(_)
            | Reason::UnknownServiceBeside(_)
            | Reason::Address(_)
            | Reason::Device(_)
            | Reason::Option(..)
            | Reason::UnfitProgram(..)
            | Reason::DeniedDatagram(..)
            | Reason::Denied(_) => None,
        };
        Report { rule: rule.map(|rule| policy.place(rule)), program, ..Report::new(status::REFUSED, what, why, fix) }
    }

    /// The reply that carries this over a socket.
    pub fn reply(self) -> record::Reply {
        // Together below the record's bound, whatever paths and rules the policy holds.
        let cut = |mut text: String, most| {
            text.truncate(most);
            text
        };
        record::Reply::Refused(record::Refusal {
            status: self.status,
            why: cut(format!("{}: {}", self.what, self.why), 1800),
            fix: Some(cut(self.fix, 800)).filter(|fix| !fix.is_empty()),
            rule: self.rule.map(|rule| cut(rule, 300)),
            program: self.program.filter(|program| program.len() < 1000),
        })
    }
}

/// `alice (uid 1000)`, or `uid 1000` where no name is known.
pub fn who(caller: &Caller) -> String {
    match &caller.name {
        Some(name) => format!("{} (uid {})", printable(name.as_bytes()), caller.uid),
        None => format!("uid {}", caller.uid),
    }
}

/// The word of a rule's ports that is no service.
fn unknown_service(rule: &Rule) -> &str {
    rule.unknown_service.as_deref().map_or("", |unknown| &unknown.word)
}

/// For which program it was asked instead.
fn instead(refusal: &Refusal<'_>) -> String {
    refusal.program.as_deref().map_or_else(String::new, |path| format!("; PROGRAM is {}", program(Some(path))))
}

/// Why a rule denies `caller`, where the caller's own ids do not tell.
fn by_account(caller: &Caller, rule: &Rule) -> String {
    match rule.subject {
        Subject::Uid(uid) if caller.uid != uid => {
            format!(" (uid {} is one of uid {uid}'s in /etc/subuid)", caller.uid)
        }
        Subject::Gid(gid) if caller.gid != gid && !caller.groups.contains(&gid) => {
            format!(
                " (gid {gid} is a group of the caller's account, or of the account that owns these ids in /etc/subuid or \
                 /etc/subgid)"
            )
        }
        Subject::Uid(_) | Subject::Gid(_) | Subject::Uids(..) | Subject::Gids(..) | Subject::Any | Subject::Nobody => {
            String::new()
        }
    }
}

fn no_rule(policy: &Policy) -> String {
    match policy.rules.len() {
        0 => "there is no rule in /etc/portgrant.conf and /etc/portgrant.d".to_owned(),
        1 => "the one rule in /etc/portgrant.conf and /etc/portgrant.d does not permit it".to_owned(),
        many => format!("none of the {many} rules in /etc/portgrant.conf and /etc/portgrant.d permits it"),
    }
}

fn program(path: Option<&Path>) -> String {
    printable(path.unwrap_or(Path::new("")).as_os_str().as_encoded_bytes())
}

impl Error {
    /// The message for this error.
    pub fn report(self) -> Report {
        let limits = "is a limit too low (ulimit -n), or memory short?";
        match self {
            Error::Usage { what, expected } => {
                Report::new(status::USAGE, what, expected, "see portgrant-binder --help")
            }
            Error::Endpoint(error) => Report::new(
                status::USAGE,
                "that is no endpoint",
                error,
                "write [NAME=][ADDRESS:]PORT[/PROTOCOL][,OPTION...], as in 80, https=[::]:443 or 127.0.0.1:53/udp",
            ),
            Error::TooMany { sockets } => Report::new(
                status::USAGE,
                "too many sockets",
                format_args!("{sockets} were asked for, and at most {} are handed over at once", listen::MAX),
                "ask for fewer",
            ),
            Error::UnknownUser(name) => Report::new(
                status::USAGE,
                format!("there is no user '{}'", printable(name.as_bytes())),
                "it is not in /etc/passwd",
                "name a user of /etc/passwd",
            ),
            // The overflow id (65534) can be read but not set: the caller has no id here (see user_namespaces(7)).
            Error::Privilege(error @ PrivilegeError::Call("setresgid" | "setresuid", nix::errno::Errno::EINVAL)) => {
                Report::new(
                    status::BROKEN,
                    "the caller is nobody here, so nothing is done",
                    format_args!("{error}: their uid or gid is not mapped into this user namespace"),
                    Inert::UserNamespace.fix(),
                )
            }
            Error::Privilege(error) => Report::new(
                status::SYSTEM,
                "privilege could not be given up, so nothing is done",
                error,
                "look at what confines this process (seccomp, a security module)",
            ),
            Error::Untrusted { path, why } => broken(&path, why, "the policy is refused"),
            Error::NeededByDeny { file, rule } => Report {
                rule: Some(rule.clone()),
                ..Report::new(
                    status::BROKEN,
                    "the policy is refused",
                    format_args!(
                        "{file} is missing or names nobody, and {rule} denies a group: its members are not known"
                    ),
                    format!("as root, restore the file: cp -p {file}- {file}"),
                )
            },
            Error::Malformed { policy, problems } => malformed(&policy, &problems),
            Error::Refused(report) => *report,
            Error::Socket { endpoint, call: "SO_BINDTODEVICE", errno: Errno::NODEV } => Report::new(
                status::UNAVAILABLE,
                format!("{endpoint} cannot be bound"),
                "there is no interface of the name given with dev=",
                "see ip link for those there are",
            ),
            Error::Socket { endpoint, call: "bind", errno: Errno::INVAL } => Report::new(
                status::UNAVAILABLE,
                format!("{endpoint} cannot be bound"),
                "bind: the address does not fit the socket: a link-local one needs its interface",
                "name the interface with dev=",
            ),
            Error::Socket { endpoint, call, errno } => Report::new(
                status::SYSTEM,
                format!("{endpoint} cannot be bound"),
                format_args!("{call}: {errno}"),
                limits,
            ),
            Error::NoProtocol { endpoint, protocol } => Report::new(
                status::UNAVAILABLE,
                format!("{endpoint} cannot be bound"),
                format_args!("this kernel has no {}", protocol.word()),
                format!("as root, modprobe {}, or enable it (sysctl)", protocol.word()),
            ),
            Error::NoIpv6 { endpoint, port } => Report::new(
                status::UNAVAILABLE,
                format!("{endpoint} cannot be bound"),
                "this host has no IPv6, and the endpoint asks for it (no address means [::])",
                format!("ask for 0.0.0.0:{port}"),
            ),
            Error::InUse(endpoint) => Report::new(
                status::UNAVAILABLE,
                format!("{endpoint} is in use"),
                "another socket holds this address, or one that overlaps it",
                format!("see who: portgrant who {}/{}", endpoint.port, endpoint.endpoint.protocol.transport().word()),
            ),
            Error::NotThere { endpoint } => Report::new(
                status::UNAVAILABLE,
                format!("{endpoint} cannot be bound"),
                "no interface of this network namespace has that address",
                "see ip addr for those there are; freebind, where it is granted, binds before it comes",
            ),
            Error::Inert { endpoint, why } => {
                Report::new(status::BROKEN, format!("{endpoint} is permitted but cannot be bound"), why, why.fix())
            }
            Error::OwnSocket { endpoint, expected } => Report::new(
                status::USAGE,
                format!("that socket cannot be bound to {endpoint}"),
                format_args!("expected {expected}"),
                "pass a fresh socket of the caller's own with --socket",
            ),
            Error::Place(PlaceError::Occupied(number)) => Report::new(
                status::USAGE,
                format!("descriptor {number} is open already"),
                "a socket must go there, and the caller's own descriptors stay",
                format!("close it: {number}>&-"),
            ),
            Error::Place(PlaceError::System(errno)) => {
                Report::new(status::SYSTEM, "the sockets could not be put in place", errno, limits)
            }
            Error::Call { call, errno } => Report::new(status::SYSTEM, format!("{call} failed"), errno, limits),
            Error::Program(unfit) => Report::new(unfit.status(), unfit.to_string(), &unfit.why, unfit.fix()),
            Error::Record(error) => Report::new(
                status::USAGE,
                "the reply does not fit into a record",
                error,
                "ask for fewer sockets, or with shorter names",
            ),
            Error::Transfer(error) => Report::new(
                status::SYSTEM,
                "the reply could not be sent",
                error,
                "keep the other end of --to open until it is read",
            ),
        }
    }
}

fn broken(path: &Path, why: Distrust, what: &str) -> Report {
    let status = if matches!(why, Distrust::System(_)) { status::SYSTEM } else { status::BROKEN };
    Report::new(status, what, format_args!("{}: {why}", program(Some(path))), why.fix(path))
}

fn malformed(policy: &Policy, problems: &[Problem]) -> Report {
    let first = problems
        .first()
        .map(|first| format!("{}:{}:{}: {}", policy.path(first.file), first.line, first.column, first.wrong));
    let more = match problems.len() {
        0 | 1 => String::new(),
        many => format!(" (and {} more)", many - 1),
    };
    let fix = match problems.first() {
        Some(Problem { wrong: Wrong::CutOff { path, .. }, .. }) => {
            format!("as root, read that line, and if it is complete: echo >> {path}")
        }
        _ => "as root, mend it; portgrant check shows every such line".to_owned(),
    };
    Report::new(
        status::BROKEN,
        "the policy is refused, all of it",
        format_args!("{}{more}", first.unwrap_or_default()),
        fix,
    )
}

impl From<PrivilegeError> for Error {
    fn from(error: PrivilegeError) -> Error {
        Error::Privilege(error)
    }
}

impl From<EndpointError> for Error {
    fn from(error: EndpointError) -> Error {
        Error::Endpoint(error)
    }
}

impl From<Unfit> for Error {
    fn from(unfit: Unfit) -> Error {
        Error::Program(unfit)
    }
}
