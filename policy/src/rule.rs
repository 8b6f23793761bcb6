//! Rules as values, and all of them as the policy.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use portgrant_protocol::text::{printable, written};
use portgrant_protocol::{Port, Protocol};

use crate::address::AddressSet;
use crate::problem::Problem;

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// `permit`
    Permit,
    /// `deny`
    Deny,
}

/// The users or groups that a rule applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A user, or `uid:N`
    Uid(u32),
    /// `:group`, or `gid:N`
    Gid(u32),
    /// A range of uids that /etc/subuid gives to a denied user; only in the kernel mode's projection
    Uids(u32, u32),
    /// A range of gids that /etc/subgid gives to a member of a denied group; only in the kernel mode's projection
    Gids(u32, u32),
    /// `any`
    Any,
    /// In a permit: a name that is not in /etc/passwd or /etc/group
    Nobody,
}

/// A set of protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocols(u8);

impl Protocols {
    /// tcp (and mptcp), udp, sctp
    pub const ALL: Protocols = Protocols(7);

    /// Only `protocol`.
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

    /// All except `protocol`.
    #[must_use]
    pub fn without(self, protocol: Protocol) -> Protocols {
        Protocols(self.0 & !Protocols::only(protocol).0)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// `N`, `N-M`, a service or `any`, of some protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Of which protocols
    pub protocols: Protocols,
    /// The first port
    pub first: Port,
    /// The last port
    pub last: Port,
}

impl Ports {
    /// Whether `port` is one of them, of whatever protocol.
    pub fn holds(&self, port: Port) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

/// An unknown service among a permit's ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownService {
    /// The word, printable
    pub word: String,
    /// The rule's other ports, which it does not permit either
    pub beside: Vec<Ports>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Whether it permits or denies
    pub effect: Effect,
    /// The users that it is for
    pub subject: Subject,
    /// The ports; empty in a permit with an unknown service
    pub ports: Vec<Ports>,
    /// In a permit: a port that is not a service of /etc/services, so the rule permits nothing
    pub unknown_service: Option<Box<UnknownService>>,
    /// `on`; empty means every address
    pub addresses: Vec<AddressSet>,
    /// `dev`
    pub dev: Option<String>,
    /// SO_REUSEPORT may be asked for
    pub reuseport: bool,
    /// IP_FREEBIND may be asked for
    pub freebind: bool,
    /// Only for this program, byte for byte
    pub program: Option<Vec<u8>>,
    /// Index of its file in [`Policy::sources`]
    pub file: usize,
    /// Its line, from 1
    pub line: usize,
}

impl Rule {
    /// The rule that an empty line would be.
    pub(crate) fn blank() -> Rule {
        Rule {
            effect: Effect::Permit,
            subject: Subject::Nobody,
            ports: Vec::new(),
            unknown_service: None,
            addresses: Vec::new(),
            dev: None,
            reuseport: false,
            freebind: false,
            program: None,
            file: 0,
            line: 0,
        }
    }

    /// Makes the rule blank again, and keeps the memory of its lists.
    pub(crate) fn clear(&mut self) {
        let (mut ports, mut addresses) = (core::mem::take(&mut self.ports), core::mem::take(&mut self.addresses));
        ports.clear();
        addresses.clear();
        *self = Rule { ports, addresses, ..Rule::blank() };
    }

    /// Whether the rule has any port of udp.
    pub fn has_udp(&self) -> bool {
        self.ports.iter().any(|ports| ports.protocols.contains(Protocol::Udp))
    }
}

/// A file of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its path
    pub path: Vec<u8>,
    /// Its bytes
    pub text: Vec<u8>,
}

/// All rules, and the files that they stand in.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// The rules, in the order of the files and lines; the order does not affect the verdict
    pub rules: Vec<Rule>,
    /// The files, for messages
    pub sources: Vec<Source>,
    /// How many rules were read, the unwanted ones included
    pub count: usize,
    /// Lines that are accepted but probably not intended
    pub warnings: Vec<Problem>,
}

impl Policy {
    /// Whether any rule is only for the program at `path`, compared byte for byte.
    pub fn names_program(&self, path: &[u8]) -> bool {
        self.rules.iter().any(|rule| rule.program.as_deref() == Some(path))
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
        let path = self.sources.get(file).map_or(&b""[..], |source| &source.path);
        printable(path)
    }

    /// A line, printable. Tabs become blanks, so that columns stay the same.
    pub fn line(&self, file: usize, line: usize) -> String {
        let text = self.sources.get(file).map_or(&[][..], |source| &source.text);
        let line = text.split(|&byte| byte == b'\n').nth(line.saturating_sub(1)).unwrap_or_default();
        let line: Vec<u8> = line.iter().map(|&byte| if byte == b'\t' { b' ' } else { byte }).collect();
        written(line.trim_ascii_end())
    }

    /// The first rule that denies a group.
    pub fn group_deny(&self) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.effect == Effect::Deny && matches!(rule.subject, Subject::Gid(_)))
    }

    /// Whether any rule denies one user or one group. If so, subordinate ids must be checked.
    pub fn denies_somebody(&self) -> bool {
        let somebody = |subject| matches!(subject, Subject::Uid(_) | Subject::Gid(_));
        self.rules.iter().any(|rule| rule.effect == Effect::Deny && somebody(rule.subject))
    }
}
