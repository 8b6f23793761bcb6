//! One request, from reading the policy to bound sockets. All of its endpoints are decided, then all or none are bound. Each
//! endpoint has its audit line.

use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::ffi::CStr;

use portgrant_policy::audit::{Line, Outcome};
use portgrant_policy::{Ask, AskedProgram, Domain, Refusal, Rule, refused};
use portgrant_protocol::Resolved;
use portgrant_trusted::{Attempts, CurrentCaller, InstalledPolicy, Reading, System, Unchanged, unchanged};

use crate::Error;
use crate::audit::Log;
use crate::permit::Permit;
use crate::time_limit::TimeLimit;

/// A request: its verb, its time limit and its log.
#[derive(Debug)]
pub struct Request<'a> {
    /// How the request was made
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

/// How a request was made, as the audit line records it.
#[derive(Debug, Clone, Copy)]
pub struct How<'a> {
    /// What is done with the grant
    pub verb: Verb,
    /// The program that will be executed
    pub program: Option<&'a CStr>,
}

/// Everything that a verdict depends on: one reading of the system's files, and the caller as the kernel reports them.
#[derive(Debug)]
pub struct Basis {
    /// The policy
    pub policy: InstalledPolicy,
    /// The caller
    pub caller: CurrentCaller,
    /// The requested endpoints, with services and interfaces looked up
    pub endpoints: Vec<Resolved>,
    /// The family of the sockets
    pub domain: Domain,
}

impl Basis {
    /// Reads the installed policy, and everything that a verdict on `endpoints` needs, for sockets of `domain`.
    pub fn read(
        system: &System,
        endpoints: Result<Vec<Resolved>, portgrant_policy::Error>,
        domain: Domain,
    ) -> Result<Basis, Error> {
        let (policy, caller) = system.policy_for_caller()?;
        Ok(Basis { policy, caller, endpoints: endpoints?, domain })
    }
}

impl Request<'_> {
    /// Decides the request that `read` returns. If all of it is permitted, calls `bind` with the permits, and with a
    /// function that proves that the policy is unchanged, which `bind` needs. If the policy did change, everything
    /// starts again, within a time limit.
    ///
    /// A grant is logged before anything is bound: afterwards the caller could end this process, or take its descriptors
    /// from it (prlimit(2)), before the line is written.
    pub fn grant<T>(
        &mut self,
        mut read: impl FnMut(&System) -> Result<Basis, Error>,
        mut bind: impl FnMut(Vec<Permit<'_>>, &dyn Fn() -> Result<Unchanged, Error>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut attempts = Attempts::from_now();
        loop {
            let reading = attempts.read_until_stable(&mut read)?;
            match self.attempt(&reading, &mut bind) {
                Err(Error::Policy(portgrant_policy::Error::Changed)) if attempts.has_time_left() => {}
                other => return other,
            }
        }
    }

    fn attempt<T>(
        &mut self,
        Reading { system, value: basis }: &Reading<Basis>,
        bind: &mut impl FnMut(Vec<Permit<'_>>, &dyn Fn() -> Result<Unchanged, Error>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let program = self.how.program.map(|path| System::asked_program(&basis.policy, path.to_bytes()));
        let permits = match permits(basis, program.as_ref()) {
            Ok(permits) => permits,
            Err(refusals) => {
                let _proof = unchanged(system)?;
                return Err(self.refuse(&refusals, basis, system));
            }
        };
        self.limit.check()?;
        let how = self.how;
        let line = |permit: &Permit<'_>| line(how, basis, Outcome::Grant, permit.endpoint(), Some(permit.rule()));
        let mut lines: Vec<Line<'_>> = permits.iter().map(line).collect();
        let is_unchanged = || {
            let is_as_fit = how.program.map(|path| System::asked_program(&basis.policy, path.to_bytes())) == program;
            Ok(if is_as_fit { unchanged(system) } else { Err(portgrant_policy::Error::Changed) }?)
        };
        self.log.write(&lines);
        let bound = bind(permits, &is_unchanged);
        if bound.is_err() {
            lines.iter_mut().for_each(|line| line.outcome = Outcome::Fail);
            self.log.write(&lines);
        }
        bound
    }

    /// Logs every refusal, and reports the first.
    fn refuse(&mut self, refusals: &[Refusal<'_>], basis: &Basis, system: &System) -> Error {
        let how = self.how;
        let line = |refusal: &Refusal<'_>| line(how, basis, Outcome::Refuse, &refusal.endpoint, refusal.reason.rule());
        let lines: Vec<Line<'_>> = refusals.iter().map(line).collect();
        self.log.write(&lines);
        let caller = basis.caller.clone().named(&system.names);
        let refused = |first| Error::Refused(Box::new(refused(first, &caller, &basis.policy, &system.names)));
        refusals.first().map_or(portgrant_policy::Error::Changed.into(), refused)
    }
}

/// A permit for each endpoint, or every refusal.
fn permits<'p>(basis: &'p Basis, program: Option<&AskedProgram<'_>>) -> Result<Vec<Permit<'p>>, Vec<Refusal<'p>>> {
    let mut permits = Vec::with_capacity(basis.endpoints.len());
    let mut refusals = Vec::new();
    for endpoint in basis.endpoints.iter().cloned() {
        let ask = Ask { endpoint, domain: basis.domain, program: program.cloned() };
        match Permit::decide(&basis.policy, &basis.caller, ask) {
            Ok(permit) => permits.push(permit),
            Err(refusal) => refusals.push(*refusal),
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
        program: how.program.map(CStr::to_bytes),
    }
}
