//! One request, from reading the policy to bound sockets: all of its endpoints are decided, then all are bound, or nothing
//! is; and every endpoint leaves its audit line.

use std::path::Path;

use portgrant_protocol::service::Services;
use portgrant_protocol::{Endpoint, Port, Resolved};

use crate::audit::{Line, Log, Outcome};
use crate::names::Names;
use crate::policy::{Ask, AskedProgram, Caller, Decision, Domain, Permit, Policy, Refusal, Rule, decide};
use crate::reading::{self, Attempts, Reading};
use crate::stamps::Unchanged;
use crate::time_limit::TimeLimit;
use crate::{Error, refused, socket};

/// Who is asked by which way in, and what bounds and records it.
#[derive(Debug)]
pub struct Request<'a> {
    /// The way in
    pub how: How<'a>,
    /// How long all of it may take
    pub limit: &'a TimeLimit,
    /// Where the audit lines go
    pub log: Log,
}

/// What the helper does with a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Executes a program with the sockets
    Exec,
    /// Sends the sockets
    Pass,
    /// Binds a socket of the caller's
    Bind,
}

impl Verb {
    /// The word on the command line, and in the audit line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Verb::Exec => "exec",
            Verb::Pass => "pass",
            Verb::Bind => "bind",
        }
    }
}

/// A way in, as the audit line records it.
#[derive(Debug, Clone, Copy)]
pub struct How<'a> {
    /// What is done with the grant
    pub verb: Verb,
    /// The program that will be executed
    pub program: Option<&'a Path>,
}

/// What a verdict rests on: one reading of the system's files, and the kernel's word on the caller.
#[derive(Debug)]
pub struct Basis {
    /// The policy
    pub policy: Policy,
    /// The caller
    pub caller: Caller,
    /// What is asked for, services and interfaces looked up
    pub endpoints: Vec<Resolved>,
    /// The family of the sockets
    pub domain: Domain,
}

impl Basis {
    /// Reads the installed policy, and what it needs to be decided for `endpoints`, on sockets of `domain`.
    pub fn read(names: &Names, endpoints: Result<Vec<Resolved>, Error>, domain: Domain) -> Result<Basis, Error> {
        let policy = Policy::installed(names)?;
        let caller = Caller::current(&policy, names)?;
        Ok(Basis { policy, caller, endpoints: endpoints?, domain })
    }
}

/// Looks up the service and the interface that `endpoint` names, if it does.
pub fn resolve(mut endpoint: Endpoint, names: &Names) -> Result<Resolved, Error> {
    endpoint.options.dev = endpoint.options.dev.as_deref().map(socket::interface);
    let none = Services::default();
    let services = match endpoint.port {
        Port::Service(_) => names.services()?,
        Port::Number(_) => &none,
    };
    Ok(endpoint.resolve(services)?)
}

impl Request<'_> {
    /// Decides what `read` reads. If all of it is permitted, `bind` spends the permits; it gets a way to prove that the
    /// policy is unchanged, and needs that proof. If the policy did change, all of it starts over, within bounds.
    ///
    /// A grant is logged before anything is bound: afterwards the caller could end this process, or take its descriptors
    /// from it (prlimit(2)), before the line is written.
    pub fn grant<T>(
        &mut self,
        mut read: impl FnMut(&Names) -> Result<Basis, Error>,
        mut bind: impl FnMut(Vec<Permit<'_>>, &dyn Fn() -> Result<Unchanged, Error>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut attempts = Attempts::from_now();
        loop {
            let reading = attempts.settled(&mut read)?;
            match self.attempt(&reading, &mut bind) {
                Err(Error::Changed) if attempts.may_go_on() => {}
                other => return other,
            }
        }
    }

    fn attempt<T>(
        &mut self,
        Reading { names, value: basis }: &Reading<Basis>,
        bind: &mut impl FnMut(Vec<Permit<'_>>, &dyn Fn() -> Result<Unchanged, Error>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let program = self.how.program.map(|path| basis.policy.asked_program(path));
        let permits = match permits(basis, program.as_ref()) {
            Ok(permits) => permits,
            Err(refusals) => {
                let _proof = reading::unchanged(names)?;
                return Err(self.refuse(&refusals, basis, names));
            }
        };
        self.limit.check()?;
        let how = self.how;
        let line = |permit: &Permit<'_>| line(how, basis, Outcome::Grant, permit.endpoint(), Some(permit.rule()));
        let mut lines: Vec<Line<'_>> = permits.iter().map(line).collect();
        let unchanged = || {
            let is_as_fit = self.how.program.map(|path| basis.policy.asked_program(path)) == program;
            if is_as_fit { reading::unchanged(names) } else { Err(Error::Changed) }
        };
        self.log.write(&lines);
        let bound = bind(permits, &unchanged);
        if bound.is_err() {
            lines.iter_mut().for_each(|line| line.outcome = Outcome::Fail);
            self.log.write(&lines);
        }
        bound
    }

    /// Logs every refusal, and reports the first.
    fn refuse(&mut self, refusals: &[Refusal<'_>], basis: &Basis, names: &Names) -> Error {
        let how = self.how;
        let line = |refusal: &Refusal<'_>| line(how, basis, Outcome::Refuse, &refusal.endpoint, refusal.reason.rule());
        let lines: Vec<Line<'_>> = refusals.iter().map(line).collect();
        self.log.write(&lines);
        let caller = basis.caller.clone().named(names);
        let refused = |first| Error::Refused(Box::new(refused(first, &caller, &basis.policy)));
        refusals.first().map_or(Error::Changed, refused)
    }
}

/// A permit for each endpoint, or every refusal.
fn permits<'p>(basis: &'p Basis, program: Option<&AskedProgram<'_>>) -> Result<Vec<Permit<'p>>, Vec<Refusal<'p>>> {
    let mut permits = Vec::with_capacity(basis.endpoints.len());
    let mut refusals = Vec::new();
    for endpoint in basis.endpoints.iter().cloned() {
        let ask = Ask { endpoint, domain: basis.domain, program: program.cloned() };
        match decide(&basis.policy, &basis.caller, ask) {
            Decision::Permit(permit) => permits.push(permit),
            Decision::Refuse(refusal) => refusals.push(refusal),
        }
    }
    if refusals.is_empty() { Ok(permits) } else { Err(refusals) }
}

/// The audit line of one endpoint.
fn line<'a>(how: How<'a>, basis: &Basis, outcome: Outcome, endpoint: &Resolved, rule: Option<&Rule>) -> Line<'a> {
    Line {
        outcome,
        uid: basis.caller.uid,
        gid: basis.caller.gid,
        verb: how.verb.word(),
        endpoint: endpoint.to_string(),
        rule: rule.map(|rule| basis.policy.place(rule)),
        program: how.program,
    }
}
