//! The verdict for a cgroup-BPF program, which only sees bind(2): a projection of [`decide()`].
//!
//! It knows the real ids, the protocol, the address and the port. It does not know supplementary groups, the program,
//! sctp and options, and does not trust the socket's interface (as in the bind verb). [`Projection::of`] leaves out a
//! permit that depends on one of these, and reports it; for a deny that is an error. [`decide()`] itself decides the
//! rest, so `decide` permits whatever [`decide_bind`] permits.

mod subordinates;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portgrant_protocol::{Address, AskedPort, Endpoint, Options, Port, Protocol, Resolved};

use portgrant_policy::{
    AddressSet, Ask, Caller, Decision, Domain, Effect, Error, Names, Policy, Rule, Subject, decide,
};

use self::subordinates::{Range, Subordinates};

/// A request, as seen at bind(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind {
    /// The caller's real uid
    pub uid: u32,
    /// The caller's real gid
    pub gid: u32,
    /// tcp (and mptcp), or udp
    pub transport: Transport,
    /// The address; `::` is the wildcard of both families, whatever the socket's IPV6_V6ONLY. `::ffff:a.b.c.d` is an IPv4
    /// address of an AF_INET6 socket
    pub address: IpAddr,
    /// The port
    pub port: Port,
}

/// The protocols that are decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// tcp, and mptcp, which looks the same
    Tcp,
    /// udp
    Udp,
}

impl Transport {
    /// The protocol that rules name for it.
    #[must_use]
    pub fn protocol(self) -> Protocol {
        match self {
            Transport::Tcp => Protocol::Tcp,
            Transport::Udp => Protocol::Udp,
        }
    }
}

/// How a rule for a group is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Groups {
    /// Only for processes with that real gid. A deny for a group cannot be projected this way.
    RealGid,
    /// For these processes, and by a rule for each user whose account has the group in passwd and group.
    Members,
}

/// A policy that only depends on what bind(2) shows.
#[derive(Debug, Clone)]
pub struct Projection {
    policy: Policy,
    left_out: Vec<LeftOut>,
}

/// A rule, or a part of one, that is not in the projection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Which of the policy's files
    pub file: usize,
    /// Which line, from 1
    pub line: usize,
    /// Which part of it, and why
    pub why: Unseen,
}

/// A property that bind(2) does not show. A permit that needs it is left out, or that part of it. For a deny it is an
/// error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unseen {
    /// A permit for one program
    Program,
    /// A permit for one interface
    Interface,
    /// A permit's sctp ports
    Sctp,
    /// A group that a process has beside its real gid
    Group,
    /// A member in /etc/group that is not in /etc/passwd
    Member(String),
    /// A permit that permits nothing, as `check` warns
    Nobody,
}

/// Decides `bind` by `projection`.
pub fn decide_bind<'p>(projection: &'p Projection, bind: &Bind) -> Decision<'p> {
    let caller = Caller { uid: bind.uid, gid: bind.gid, ..Caller::default() };
    decide(&projection.policy, &caller, Ask { endpoint: bind.endpoint(), domain: bind.domain(), program: None })
}

impl Bind {
    /// The family of its socket.
    #[must_use]
    pub fn domain(&self) -> Domain {
        if self.address.is_ipv6() { Domain::Inet6 } else { Domain::OfAddress }
    }

    /// The endpoint that it asks for.
    #[must_use]
    pub fn endpoint(&self) -> Resolved {
        let protocol = self.transport.protocol();
        let address = match self.address.to_canonical() {
            IpAddr::V4(address) => Address::V4(address),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Address::Any,
            IpAddr::V6(address) => Address::V6(address),
        };
        let port = AskedPort::Number(self.port);
        let endpoint = Endpoint { name: None, address, port, protocol, options: Options::default() };
        Resolved { endpoint, port: self.port }
    }
}

impl Projection {
    /// Projects `policy`. The inner error has the policy, and every deny that cannot be projected; the outer one is
    /// about the tables of names.
    #[allow(clippy::type_complexity, reason = "two kinds of failure, each with what its message needs")]
    pub fn of(
        mut policy: Policy,
        groups: Groups,
        names: &Names,
    ) -> Result<Result<Projection, (Policy, Vec<LeftOut>)>, Error> {
        let (mut left_out, mut undecidable) = (Vec::new(), Vec::new());
        let subordinates = if policy.rules.iter().any(|rule| rule.effect == Effect::Permit) && policy.denies_somebody()
        {
            Subordinates::read(names)?
        } else {
            Subordinates::default()
        };
        let mut rules = Vec::with_capacity(policy.rules.len());
        for rule in std::mem::take(&mut policy.rules) {
            let note = |why| LeftOut { file: rule.file, line: rule.line, why };
            let deny = rule.effect == Effect::Deny;
            let unseen = if deny { &mut undecidable } else { &mut left_out };
            let mut subjects = vec![rule.subject];
            let Some(seen) = seen(rule.clone(), |why| unseen.push(note(why))) else { continue };
            match (rule.subject, groups) {
                (Subject::Gid(gid), Groups::Members) => {
                    if deny {
                        names.require_accounts(|| policy.place(&rule))?;
                    }
                    let members = names.members(gid)?;
                    unseen.extend(members.unknown.into_iter().map(|name| note(Unseen::Member(name))));
                    subjects.extend(members.uids.iter().copied().map(Subject::Uid));
                    if deny {
                        let (uids, gids) = subordinates.of_members(&members.uids);
                        subjects.extend(uids.into_iter().map(uids_subject).chain(gids.into_iter().map(gids_subject)));
                    }
                }
                (Subject::Gid(_), Groups::RealGid) => unseen.push(note(Unseen::Group)),
                (Subject::Uid(uid), _) if deny => {
                    subjects.extend(subordinates.of_user(uid).into_iter().map(uids_subject));
                }
                (Subject::Uid(_) | Subject::Uids(..) | Subject::Gids(..) | Subject::Any | Subject::Nobody, _) => {}
            }
            for part in by_transport(seen) {
                rules.extend(subjects.iter().map(|&subject| Rule { subject, ..part.clone() }));
            }
        }
        if undecidable.is_empty() {
            policy.rules = rules;
            Ok(Ok(Projection { policy, left_out }))
        } else {
            Ok(Err((policy, undecidable)))
        }
    }

    /// The projected rules, for users, real gids or anybody, with tcp and udp ports only. A rule for a group occurs
    /// once for the gid, and once for each member that it was expanded to. A deny also occurs once for each range of
    /// subordinate ids. A deny with addresses has separate rules for its udp ports, which are denied for whole
    /// families.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The left-out rules, in the order of the files and lines.
    #[must_use]
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }
}

/// The part of a rule that bind(2) shows, if any. The rest is reported to `unseen`.
fn seen(mut rule: Rule, mut unseen: impl FnMut(Unseen)) -> Option<Rule> {
    let ports = rule.ports.len();
    rule.ports.retain_mut(|ports| {
        ports.protocols = ports.protocols.without(Protocol::Sctp);
        !ports.protocols.is_empty()
    });
    let lost = ports - rule.ports.len();
    if rule.effect == Effect::Deny {
        // A deny for sctp only has no part here. A deny for an interface applies to every socket, since each may be on
        // it.
        rule.dev = None;
        return (!rule.ports.is_empty()).then_some(rule);
    }
    if rule.program.is_some() {
        unseen(Unseen::Program);
    } else if rule.dev.is_some() {
        unseen(Unseen::Interface);
    } else if rule.subject == Subject::Nobody || rule.unknown_service.is_some() {
        unseen(Unseen::Nobody);
    } else {
        if lost > 0 {
            unseen(Unseen::Sctp);
        }
        return (!rule.ports.is_empty()).then_some(rule);
    }
    None
}

/// `rule`. If it denies addresses, its tcp ports and its udp ports separately: for udp, an address means its whole
/// family.
fn by_transport(rule: Rule) -> impl Iterator<Item = Rule> {
    let is_divided = rule.effect == Effect::Deny && rule.has_udp() && !rule.addresses.is_empty();
    let part = |without| {
        let mut part = rule.clone();
        part.ports.iter_mut().for_each(|ports| ports.protocols = ports.protocols.without(without));
        part.ports.retain(|ports| !ports.protocols.is_empty());
        part
    };
    let parts = if is_divided {
        let mut udp = part(Protocol::Tcp);
        udp.addresses.iter_mut().for_each(|set| *set = family(*set));
        let mut seen = HashSet::new();
        udp.addresses.retain(|set| seen.insert(*set));
        vec![part(Protocol::Udp), udp]
    } else {
        vec![rule]
    };
    parts.into_iter().filter(|part| !part.ports.is_empty())
}

/// All addresses of the family of `set`: in a deny for udp, an address stands for its whole family.
fn family(set: AddressSet) -> AddressSet {
    match set {
        AddressSet::V4(..) => AddressSet::V4(Ipv4Addr::UNSPECIFIED, 0),
        AddressSet::V6(..) => AddressSet::V6(Ipv6Addr::UNSPECIFIED, 0),
        AddressSet::V4Wildcard | AddressSet::DualWildcard => set,
    }
}

fn uids_subject((first, last): Range) -> Subject {
    Subject::Uids(first, last)
}

fn gids_subject((first, last): Range) -> Subject {
    Subject::Gids(first, last)
}

impl fmt::Display for Unseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unseen::Program => f.write_str("which program binds is not seen here"),
            Unseen::Interface => f.write_str("the interface of a caller's own socket is not trusted"),
            Unseen::Sctp => f.write_str("sctp is not seen here; its other ports hold"),
            Unseen::Group => f.write_str("of a process's groups only the real gid is seen here"),
            Unseen::Member(name) => write!(f, "{name} is a member in /etc/group, and not in /etc/passwd"),
            Unseen::Nobody => f.write_str("it permits nothing, see portgrant check"),
        }
    }
}
