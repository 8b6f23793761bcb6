//! The verdict: a pure function of the policy, the caller and the request. Each verdict has a reason.
//!
//! A permit must contain the whole request, by one rule; a deny applies where it overlaps any part of it; deny beats
//! permit; a request that no rule permits is refused. The order of the rules only decides which of them is named.

use alloc::vec::Vec;

use portgrant_protocol::{Protocol, Resolved};

use crate::address::{Domain, Span};
use crate::caller::Caller;
use crate::distrust::Finding;
use crate::rule::{Effect, Policy, Ports, Rule, Subject};

/// One endpoint of a request, and what else the verdict depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask<'a> {
    /// What is asked for
    pub endpoint: Resolved,
    /// The family of the socket that will be bound
    pub domain: Domain,
    /// The program, if the helper will execute it
    pub program: Option<AskedProgram<'a>>,
}

/// The program that will be executed. The crate `trusted` judges its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedProgram<'a> {
    /// Its path, absolute
    pub path: &'a [u8],
    /// Why its file is not trusted. If it is not, an exec rule for it permits nothing
    pub unfit: Option<Finding>,
}

/// The verdict.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Decision<'p> {
    /// It may be bound.
    Permit(Permitted<'p>),
    /// It may not.
    Refuse(Refusal<'p>),
}

/// What a rule permits. This is only a verdict: to bind, the helper needs a `Permit`, which is made from a policy of
/// judged files and a caller that was read from the kernel.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Permitted<'p> {
    endpoint: Resolved,
    domain: Domain,
    rule: &'p Rule,
}

impl<'p> Permitted<'p> {
    /// What may be bound.
    pub fn endpoint(&self) -> &Resolved {
        &self.endpoint
    }

    /// The family of the socket that it may be bound on.
    pub fn domain(&self) -> Domain {
        self.domain
    }

    /// The rule that permits it.
    pub fn rule(&self) -> &'p Rule {
        self.rule
    }
}

/// Why it may not be bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal<'p> {
    /// What was asked for
    pub endpoint: Resolved,
    /// The program that it was asked for
    pub program: Option<Vec<u8>>,
    /// Why not
    pub reason: Reason<'p>,
}

/// The reason of a refusal: the deny, or else the permit that came nearest. Ordered by nearness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason<'p> {
    /// No rule permits this port to this caller
    NoRule,
    /// A rule for this caller has an unknown service, so it permits nothing; the port is not one of its other ports
    UnknownService(&'p Rule),
    /// A rule permits the port, but of other protocols
    Protocol(&'p Rule),
    /// A rule permits the port, but not on all of these addresses
    Address(&'p Rule),
    /// A rule permits the port, but only on its interface
    Device(&'p Rule),
    /// A rule permits the endpoint, but not this option
    Option(&'p Rule, &'static str),
    /// The same as [`Reason::UnknownService`], but the port is one of its other ports
    UnknownServiceBeside(&'p Rule),
    /// A rule permits the endpoint, but only to its program
    Program(&'p Rule),
    /// A rule permits the endpoint to this program, but the program's file is not trusted
    UnfitProgram(&'p Rule, Finding),
    /// A rule denies another address (`on`) or interface (`dev`), and a datagram socket can use that as well
    DeniedDatagram(&'p Rule, &'static str),
    /// A rule denies it
    Denied(&'p Rule),
}

impl<'p> Reason<'p> {
    fn nearness(&self) -> u8 {
        match self {
            Reason::NoRule => 0,
            Reason::UnknownService(_) => 1,
            Reason::Protocol(_) => 2,
            Reason::Address(_) => 3,
            Reason::Device(_) => 4,
            Reason::Option(..) => 5,
            Reason::UnknownServiceBeside(_) => 6,
            Reason::Program(_) => 7,
            Reason::UnfitProgram(..) | Reason::DeniedDatagram(..) | Reason::Denied(_) => u8::MAX,
        }
    }

    /// The rule that the reason names.
    pub fn rule(&self) -> Option<&'p Rule> {
        match self {
            Reason::NoRule => None,
            Reason::UnknownService(rule)
            | Reason::UnknownServiceBeside(rule)
            | Reason::Protocol(rule)
            | Reason::Address(rule)
            | Reason::Device(rule)
            | Reason::Option(rule, _)
            | Reason::Program(rule)
            | Reason::UnfitProgram(rule, _)
            | Reason::DeniedDatagram(rule, _)
            | Reason::Denied(rule) => Some(rule),
        }
    }
}

/// Decides whether `caller` may have `ask`.
pub fn decide<'p>(policy: &'p Policy, caller: &Caller, ask: Ask<'_>) -> Decision<'p> {
    let mut permitting = None;
    let mut nearest = Reason::NoRule;
    let refuse = |ask: Ask<'_>, reason| {
        let program = ask.program.map(|program| program.path.to_vec());
        Decision::Refuse(Refusal { endpoint: ask.endpoint, program, reason })
    };
    for rule in &policy.rules {
        match rule.effect {
            Effect::Deny => {
                if let Some(reason) = rule.denies(caller, &ask) {
                    return refuse(ask, reason);
                }
            }
            Effect::Permit if permitting.is_none() && rule.applies_to(caller) => match rule.permits(&ask) {
                Ok(()) => permitting = Some(rule),
                Err(reason) if reason.nearness() > nearest.nearness() => nearest = reason,
                Err(_) => {}
            },
            Effect::Permit => {}
        }
    }
    match permitting {
        Some(rule) => Decision::Permit(Permitted { endpoint: ask.endpoint, domain: ask.domain, rule }),
        None => refuse(ask, nearest),
    }
}

impl Ask<'_> {
    /// The addresses that the socket would occupy.
    pub fn span(&self) -> Span {
        Span::of(self.endpoint.endpoint.address, self.endpoint.endpoint.options.v6only)
    }

    fn protocol(&self) -> Protocol {
        self.endpoint.endpoint.protocol
    }

    fn dev(&self) -> Option<&str> {
        self.endpoint.endpoint.options.dev.as_deref()
    }
}

impl Rule {
    /// Whether the rule is for `caller`. For a deny, the groups of the caller's account count too, and a caller with a
    /// subordinate uid counts as the user who owns it.
    pub fn applies_to(&self, caller: &Caller) -> bool {
        let deny = self.effect == Effect::Deny;
        let has_gid = |test: &dyn Fn(u32) -> bool| test(caller.gid) || caller.groups.iter().any(|&gid| test(gid));
        match self.subject {
            Subject::Uid(uid) => caller.uid == uid || deny && caller.owners.contains(&uid),
            Subject::Gid(gid) => has_gid(&|own| own == gid) || deny && caller.account_groups.contains(&gid),
            Subject::Uids(first, last) => (first..=last).contains(&caller.uid),
            Subject::Gids(first, last) => has_gid(&|own| (first..=last).contains(&own)),
            Subject::Any => true,
            Subject::Nobody => false,
        }
    }

    /// Whether the rule may apply to `caller`, whose accounts are not known yet. Any deny may: accounts count for it.
    pub fn may_apply_to(&self, caller: &Caller) -> bool {
        self.effect == Effect::Deny || self.applies_to(caller)
    }

    /// Checks that the rule contains all of `ask`. The subject is not compared.
    pub(crate) fn permits(&self, ask: &Ask<'_>) -> Result<(), Reason<'_>> {
        let options = &ask.endpoint.endpoint.options;
        match &self.unknown_service {
            Some(unknown) if has_port(&unknown.beside, ask) => return Err(Reason::UnknownServiceBeside(self)),
            Some(_) => return Err(Reason::UnknownService(self)),
            None if !has_port(&self.ports, ask) => {
                let has_number = self.ports.iter().any(|ports| ports.holds(ask.endpoint.port));
                return Err(if has_number { Reason::Protocol(self) } else { Reason::NoRule });
            }
            None => {}
        }
        if !ask.span().is_within(&self.addresses) {
            return Err(Reason::Address(self));
        }
        if self.dev.is_some() && self.dev.as_deref() != ask.dev() {
            return Err(Reason::Device(self));
        }
        if options.reuseport && !self.reuseport {
            return Err(Reason::Option(self, "reuseport"));
        }
        if options.freebind && !self.freebind {
            return Err(Reason::Option(self, "freebind"));
        }
        let Some(only) = &self.program else { return Ok(()) };
        match &ask.program {
            Some(asked) if asked.path == only.as_slice() => {
                asked.unfit.clone().map_or(Ok(()), |unfit| Err(Reason::UnfitProgram(self, unfit)))
            }
            Some(_) | None => Err(Reason::Program(self)),
        }
    }

    /// Why the rule denies `ask` to `caller`, if it does. A socket without `dev` uses all interfaces. A datagram socket
    /// is not limited by its address or interface: its holder can send from every address of its family, and can remove
    /// SO_BINDTODEVICE by connect(2) with AF_UNSPEC (Linux 6.18).
    fn denies(&self, caller: &Caller, ask: &Ask<'_>) -> Option<Reason<'_>> {
        if !self.applies_to(caller) || !has_port(&self.ports, ask) {
            return None;
        }
        let on = ask.span().overlaps(&self.addresses);
        let dev = self.dev.is_none() || ask.dev().is_none() || self.dev.as_deref() == ask.dev();
        if on && dev {
            return Some(Reason::Denied(self));
        }
        let datagram = ask.protocol() == Protocol::Udp && (on || ask.span().may_send_from(ask.domain, &self.addresses));
        datagram.then_some(Reason::DeniedDatagram(self, if on { "dev" } else { "on" }))
    }
}

fn has_port(ports: &[Ports], ask: &Ask<'_>) -> bool {
    ports.iter().any(|ports| ports.protocols.contains(ask.protocol()) && ports.holds(ask.endpoint.port))
}
