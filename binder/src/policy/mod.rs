//! The policy: who may bind what. Rules as values here, their text in `parse.rs`, the verdict in [`decide()`].
//!
//! Read after the drop, as the caller. Every file is judged before it is believed ([`crate::trusted`]), and one
//! malformed line refuses everything: a rule that nobody can read might be the deny that matters.

mod address;
pub mod bind;
mod decide;
mod parse;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use portgrant_protocol::Protocol;
use rustix::process::{getgid, getuid};

pub use address::{AddressError, AddressSet, Span};
pub use decide::{Ask, Decision, Permit, Reason, Refusal, decide, suggestion};
pub use parse::{Problem, Wrong};

use crate::names::Names;
use crate::trusted::{self, Distrust, Folder};
use crate::{Error, socket};

/// The file in /etc that must be there.
const FILE: &str = "portgrant.conf";
/// The folder in /etc of further files, which may be missing.
const MORE: &str = "portgrant.d";

/// The caller, as the policy knows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Real uid
    pub uid: u32,
    /// Real gid
    pub gid: u32,
    /// Supplementary groups
    pub groups: Vec<u32>,
    /// The groups of the account in passwd and group: a deny cannot be escaped by giving up a group
    pub account_groups: Vec<u32>,
    /// A login name, for messages only
    pub name: Option<String>,
}

impl Caller {
    /// Whoever started this process: real uid, real gid, supplementary groups.
    pub fn current(policy: &Policy, names: &Names) -> Result<Caller, Error> {
        let groups = rustix::process::getgroups().map_err(|errno| Error::Call { call: "getgroups", errno })?;
        let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
        let account_groups = if policy.denies_a_group() { names.account_groups(uid)? } else { Vec::new() };
        let groups = groups.into_iter().map(rustix::process::Gid::as_raw).collect();
        Ok(Caller { uid, gid, groups, account_groups, name: None })
    }

    /// The account `name`, as a login would give it.
    pub fn account(name: &str, names: &Names) -> Result<Caller, Error> {
        let user = names.user(name)?.ok_or_else(|| Error::UnknownUser(name.to_owned()))?;
        let groups = names.account_groups(user.uid)?;
        let account_groups = groups.clone();
        Ok(Caller { uid: user.uid, gid: user.gid, groups, account_groups, name: Some(name.to_owned()) })
    }

    /// With the login name that /etc/passwd has for the uid, if any.
    pub fn named(mut self, names: &Names) -> Caller {
        if self.name.is_none() {
            self.name =
                names.users_of(self.uid).ok().and_then(|mut users| users.next()).map(|user| user.name.to_owned());
        }
        self
    }
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// `permit`
    Permit,
    /// `deny`
    Deny,
}

/// Whom a rule concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A user, or `uid:N`
    Uid(u32),
    /// `:group`, or `gid:N`
    Gid(u32),
    /// `any`
    Any,
    /// In a permit: a name that /etc/passwd or /etc/group does not hold
    Nobody,
}

/// A set of protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocols(u8);

impl Protocols {
    /// tcp (and mptcp), udp, sctp
    pub const ALL: Protocols = Protocols(7);

    /// The one.
    pub fn only(protocol: Protocol) -> Protocols {
        Protocols(match protocol.transport() {
            Protocol::Udp => 2,
            Protocol::Sctp => 4,
            Protocol::Tcp | Protocol::Mptcp => 1,
        })
    }

    /// Whether `protocol` is among them.
    pub fn contains(self, protocol: Protocol) -> bool {
        self.0 & Protocols::only(protocol).0 != 0
    }
}

/// `N`, `N-M`, a service or `any`, of some protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Of which protocols
    pub protocols: Protocols,
    /// The first port, at least 1
    pub first: u16,
    /// The last port
    pub last: u16,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// permit or deny
    pub effect: Effect,
    /// for whom
    pub subject: Subject,
    /// which ports; in a permit none may be left, where no service was known
    pub ports: Vec<Ports>,
    /// `on`; none stand for every address
    pub addresses: Vec<AddressSet>,
    /// `dev`
    pub dev: Option<String>,
    /// SO_REUSEPORT may be asked for
    pub reuseport: bool,
    /// IP_FREEBIND may be asked for
    pub freebind: bool,
    /// A broker may keep the socket bound between two servers
    pub hold: bool,
    /// Only for this program, byte for byte
    pub program: Option<PathBuf>,
    /// Which of the policy's files
    pub file: usize,
    /// Which line, from 1
    pub line: usize,
}

/// A file of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its path
    pub path: PathBuf,
    /// Its bytes
    pub text: Vec<u8>,
}

/// All rules, and the files that they stand in.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// The rules, in the order of the files and lines; order never decides
    pub rules: Vec<Rule>,
    /// The files, for messages
    pub sources: Vec<Source>,
    /// What is accepted but probably not meant
    pub warnings: Vec<Problem>,
}

impl Policy {
    /// The installed policy; an error where any of it cannot be believed or read.
    pub fn installed(names: &Names) -> Result<Policy, Error> {
        match Policy::parse(installed_sources(names)?, names)? {
            Ok(mut policy) => {
                for dev in policy.rules.iter_mut().filter_map(|rule| rule.dev.as_mut()) {
                    *dev = socket::interface(dev);
                }
                Ok(policy)
            }
            Err((policy, problems)) => Err(Error::Malformed { policy, problems }),
        }
    }

    /// Parses `sources`. The outer error is of the tables of names, the inner one lists every malformed line.
    #[allow(clippy::type_complexity, reason = "two kinds of failure, each with what its message needs")]
    pub fn parse(sources: Vec<Source>, names: &Names) -> Result<Result<Policy, (Policy, Vec<Problem>)>, Error> {
        let mut policy = Policy::default();
        let mut problems = Vec::new();
        for (file, source) in sources.iter().enumerate() {
            parse::parse(file, &source.text, names, &mut policy, &mut problems)?;
        }
        policy.sources = sources;
        Ok(if problems.is_empty() { Ok(policy) } else { Err((policy, problems)) })
    }

    /// Whether the program of `rule`, if it is bound to one, is root's all the way.
    pub fn judge_program(&self, rule: &Rule) -> Result<(), Error> {
        let Some(path) = &rule.program else { return Ok(()) };
        let untrusted = |(path, why)| Error::UntrustedProgram { path, why, rule: self.place(rule) };
        trusted::judge_program(path).map_err(untrusted)
    }

    /// `file:line` of a rule.
    pub fn place(&self, rule: &Rule) -> String {
        format!("{}:{}", self.path(rule.file), rule.line)
    }

    /// The text of a rule.
    pub fn text(&self, rule: &Rule) -> String {
        self.line(rule.file, rule.line)
    }

    /// The path of file number `file`, printable.
    pub fn path(&self, file: usize) -> String {
        let path = self.sources.get(file).map_or(OsStr::new(""), |source| source.path.as_os_str());
        portgrant_protocol::text::printable(path.as_bytes())
    }

    /// A line, printable; tabs as blanks, so that columns stay.
    pub fn line(&self, file: usize, line: usize) -> String {
        let text = self.sources.get(file).map_or(&[][..], |source| &source.text);
        let line = text.split(|&byte| byte == b'\n').nth(line.saturating_sub(1)).unwrap_or_default();
        let line: Vec<u8> = line.iter().map(|&byte| if byte == b'\t' { b' ' } else { byte }).collect();
        portgrant_protocol::text::printable(line.trim_ascii_end())
    }

    /// Whether any rule denies a group, so that the caller's account groups are needed.
    pub fn denies_a_group(&self) -> bool {
        self.rules.iter().any(|rule| rule.effect == Effect::Deny && matches!(rule.subject, Subject::Gid(_)))
    }
}

/// `/etc/portgrant.conf`, then `/etc/portgrant.d/*.conf` in byte order.
pub fn installed_sources(names: &Names) -> Result<Vec<Source>, Error> {
    let untrusted = |(path, why)| Error::Untrusted { path, why };
    let source = |folder: &Folder, name: &OsStr| {
        let text = folder.read(name).map_err(untrusted)?;
        Ok::<_, Error>(Source { path: folder.path().join(name), text })
    };
    let etc = names.etc()?;
    let mut sources = vec![source(etc, OsStr::new(FILE))?];
    let more = match etc.enter(OsStr::new(MORE)) {
        Err((_, Distrust::Missing)) => return Ok(sources),
        other => other.map_err(untrusted)?,
    };
    let mut files = more.names().map_err(untrusted)?;
    files.retain(|name| name.as_bytes().ends_with(b".conf") && !name.as_bytes().starts_with(b"."));
    files.sort();
    for name in files {
        sources.push(source(&more, &name)?);
    }
    Ok(sources)
}
