//! The verdict. A pure function of the policy, the caller and the request, and total: it always answers, with a reason.
//!
//! A permit must contain the whole request, by one rule; a deny applies where it overlaps any part of it; deny beats
//! permit; what no rule permits is refused.

use std::net::Ipv6Addr;
use std::path::Path;

use portgrant_protocol::{Address, Protocol, Resolved};

use super::{Caller, Effect, Policy, Rule, Span, Subject};

/// A request as it is decided: an endpoint, and what goes with the way it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask<'a> {
    /// What is asked for
    pub endpoint: Resolved,
    /// The program that will be executed, where the helper itself does that
    pub program: Option<&'a Path>,
}

/// The verdict.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Decision<'p> {
    /// It may be bound.
    Permit(Permit<'p>),
    /// It may not.
    Refuse(Refusal<'p>),
}

/// Permission to bind one endpoint, once. Only [`decide`] makes it, nothing copies it, and the bind spends it.
///
/// ```compile_fail,E0599
/// # use portgrant_binder::policy::Permit;
/// fn twice(permit: Permit<'_>) {
///     drop(permit.clone()); // nothing copies a permit
/// }
/// ```
/// ```compile_fail,E0382
/// # use portgrant_binder::{policy::Permit, privilege::Dropped, socket};
/// fn twice(permit: Permit<'_>, dropped: &Dropped) {
///     let _ = socket::bind(permit, dropped);
///     let _ = socket::bind(permit, dropped); // spent
/// }
/// ```
/// ```compile_fail,E0451
/// # use portgrant_binder::policy::{Permit, Rule};
/// fn forged(endpoint: portgrant_protocol::Resolved, rule: &Rule) -> Permit<'_> {
///     Permit { endpoint, rule } // its fields are decide's alone
/// }
/// ```
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Permit<'p> {
    endpoint: Resolved,
    rule: &'p Rule,
}

impl<'p> Permit<'p> {
    /// What may be bound.
    pub fn endpoint(&self) -> &Resolved {
        &self.endpoint
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
    /// Why not
    pub reason: Reason<'p>,
}

/// The reason of a refusal: the deny, or else how near the nearest permit came. Ordered by nearness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason<'p> {
    /// No rule permits this port to this caller
    NoRule,
    /// A rule permits the port, but not on all of these addresses
    Address(&'p Rule),
    /// A rule permits the port, but only on its interface
    Device(&'p Rule),
    /// A rule permits the endpoint, but not this option
    Option(&'p Rule, &'static str),
    /// A rule permits the endpoint, but only to its program
    Program(&'p Rule),
    /// A rule denies it
    Denied(&'p Rule),
}

impl<'p> Reason<'p> {
    fn nearness(&self) -> u8 {
        match self {
            Reason::NoRule => 0,
            Reason::Address(_) => 1,
            Reason::Device(_) => 2,
            Reason::Option(..) => 3,
            Reason::Program(_) => 4,
            Reason::Denied(_) => 5,
        }
    }

    /// The rule that it speaks of.
    pub fn rule(&self) -> Option<&'p Rule> {
        match self {
            Reason::NoRule => None,
            Reason::Address(rule)
            | Reason::Device(rule)
            | Reason::Option(rule, _)
            | Reason::Program(rule)
            | Reason::Denied(rule) => Some(rule),
        }
    }
}

/// Decides `ask` of `caller`.
pub fn decide<'p>(policy: &'p Policy, caller: &Caller, ask: Ask<'_>) -> Decision<'p> {
    let mut permitting = None;
    let mut nearest = Reason::NoRule;
    for rule in &policy.rules {
        match rule.effect {
            Effect::Deny if rule.denies(caller, &ask) => {
                return Decision::Refuse(Refusal { endpoint: ask.endpoint, reason: Reason::Denied(rule) });
            }
            Effect::Permit if permitting.is_none() && rule.concerns(caller) && rule.has_port(&ask) => {
                match rule.contains(&ask) {
                    Ok(()) => permitting = Some(rule),
                    Err(reason) if reason.nearness() > nearest.nearness() => nearest = reason,
                    Err(_) => {}
                }
            }
            Effect::Deny | Effect::Permit => {}
        }
    }
    match permitting {
        Some(rule) => Decision::Permit(Permit { endpoint: ask.endpoint, rule }),
        None => Decision::Refuse(Refusal { endpoint: ask.endpoint, reason: nearest }),
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
    /// Whether the rule speaks of `caller`. To a deny a group is the caller's if they have it or if their account does.
    pub fn concerns(&self, caller: &Caller) -> bool {
        let by_account = |gid| self.effect == Effect::Deny && caller.account_groups.contains(&gid);
        match self.subject {
            Subject::Uid(uid) => caller.uid == uid,
            Subject::Gid(gid) => caller.gid == gid || caller.groups.contains(&gid) || by_account(gid),
            Subject::Any => true,
            Subject::Nobody => false,
        }
    }

    /// Whether the rule holds all of `ask`, port and subject aside.
    fn contains(&self, ask: &Ask<'_>) -> Result<(), Reason<'_>> {
        let options = &ask.endpoint.endpoint.options;
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
        if self.program.is_some() && self.program.as_deref().map(Path::as_os_str) != ask.program.map(Path::as_os_str) {
            return Err(Reason::Program(self));
        }
        Ok(())
    }

    /// Whether the rule concerns `caller` and any part of `ask`. An interface is touched by a socket on it and by one on
    /// all of them. A datagram socket is on all of them whatever it was bound to: its holder lifts SO_BINDTODEVICE by
    /// connect(2) with AF_UNSPEC (Linux 6.18).
    fn denies(&self, caller: &Caller, ask: &Ask<'_>) -> bool {
        let held_to = ask.dev().filter(|_| ask.protocol() != Protocol::Udp);
        let dev = self.dev.is_none() || held_to.is_none() || self.dev.as_deref() == held_to;
        self.concerns(caller) && self.has_port(ask) && dev && ask.span().overlaps(&self.addresses)
    }

    fn has_port(&self, ask: &Ask<'_>) -> bool {
        let port = ask.endpoint.port;
        let holds = |ports: &super::Ports| {
            ports.protocols.contains(ask.protocol()) && (ports.first..=ports.last).contains(&port)
        };
        self.ports.iter().any(holds)
    }
}

/// A rule that would permit `endpoint` to `caller`, and no more than its address, port and options; and the file to put
/// it into.
pub fn suggestion(caller: &Caller, endpoint: &Resolved) -> (String, String) {
    // A name that the grammar would read otherwise, or that is no good file name, is not put into anybody's mouth.
    let plain = |name: &&str| portgrant_protocol::endpoint::is_name(name) && *name != "any";
    let (subject, stem) = match caller.name.as_deref().filter(|name| plain(name)) {
        Some(name) => (name.to_owned(), name.to_owned()),
        None => (format!("uid:{}", caller.uid), format!("uid-{}", caller.uid)),
    };
    let asked = &endpoint.endpoint;
    let mut rule = format!("permit {subject} {}", endpoint.port);
    if asked.protocol.transport() != Protocol::Tcp {
        rule.extend(["/", asked.protocol.word()]);
    }
    match asked.address {
        Address::Any | Address::V6(Ipv6Addr::UNSPECIFIED) if asked.options.v6only => rule.push_str(" on [::]/0"),
        Address::V4(address) => rule.extend([" on ", &address.to_string()]),
        Address::V6(address) => rule.extend([" on ", &format!("[{address}]")]),
        Address::Any | Address::Each => {}
    }
    if let Some(dev) = &asked.options.dev {
        rule.extend([" dev ", dev]);
    }
    let words = [
        (" reserved", (512..=1023).contains(&endpoint.port)),
        (" reuseport", asked.options.reuseport),
        (" freebind", asked.options.freebind),
    ];
    rule.extend(words.into_iter().filter(|word| word.1).map(|word| word.0));
    (rule, format!("/etc/portgrant.d/{stem}.conf"))
}
