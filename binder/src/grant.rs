//! One request from verdict to sockets: all of its endpoints are decided, then all are bound, or nothing is; and every
//! endpoint leaves its audit line.

use std::path::Path;

use portgrant_protocol::service::Services;
use portgrant_protocol::{Endpoint, Port, Resolved};

use crate::audit::{self, Line, Outcome};
use crate::names::Names;
use crate::policy::{Ask, Caller, Decision, Domain, Permit, Policy, Refusal, Rule, decide};
use crate::{Error, Report, socket};

/// Who asks, in which way, and what decides.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The policy
    pub policy: &'a Policy,
    /// The caller
    pub caller: &'a Caller,
    /// Where the caller's name is found, for messages
    pub names: &'a Names,
    /// The way in, for the audit line
    pub verb: &'static str,
    /// The family of the socket
    pub domain: Domain,
    /// The program that will be executed
    pub program: Option<&'a Path>,
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

impl<'a> Request<'a> {
    /// A permit for each of `endpoints`, or the first refusal.
    pub fn permits(&self, endpoints: Vec<Resolved>) -> Result<Vec<Permit<'a>>, Error> {
        let mut permits = Vec::with_capacity(endpoints.len());
        let mut refusals = Vec::new();
        let program = self.program.map(|path| self.policy.asked_program(path));
        for endpoint in endpoints {
            match decide(self.policy, self.caller, Ask { endpoint, domain: self.domain, program: program.clone() }) {
                Decision::Permit(permit) => permits.push(permit),
                Decision::Refuse(refusal) => refusals.push(refusal),
            }
        }
        if let Some(first) = refusals.first() {
            let lines: Vec<Line<'_>> = refusals
                .iter()
                .map(|refusal| self.line(Outcome::Refuse, &refusal.endpoint, refusal.reason.rule()))
                .collect();
            // Nothing is bound whether this is written or not.
            let _ = audit::write(&lines);
            return Err(self.refused(first));
        }
        Ok(permits)
    }

    /// Spends every permit with `bind`; the first failure ends it, and what was bound until then is closed.
    ///
    /// The grant is logged before anything is bound: afterwards the caller could end this process, or take its
    /// descriptors from it (prlimit(2)), before the line is written.
    pub fn spend<T>(
        &self,
        permits: Vec<Permit<'a>>,
        bind: impl FnMut(Permit<'a>) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let line = |permit: &Permit<'a>| self.line(Outcome::Grant, permit.endpoint(), Some(permit.rule()));
        let mut lines: Vec<Line<'_>> = permits.iter().map(line).collect();
        audit::write(&lines)?;
        let bound: Result<Vec<T>, Error> = permits.into_iter().map(bind).collect();
        if bound.is_err() {
            lines.iter_mut().for_each(|line| line.outcome = Outcome::Fail);
            // It is an error already, and a better one.
            let _ = audit::write(&lines);
        }
        bound
    }

    fn refused(&self, refusal: &Refusal<'_>) -> Error {
        let caller = self.caller.clone().named(self.names);
        Error::Refused(Box::new(Report::of_refusal(refusal, &caller, self.policy)))
    }

    fn line(&self, outcome: Outcome, endpoint: &Resolved, rule: Option<&Rule>) -> Line<'a> {
        Line {
            outcome,
            uid: self.caller.uid,
            gid: self.caller.gid,
            verb: self.verb,
            endpoint: endpoint.to_string(),
            rule: rule.map(|rule| self.policy.place(rule)),
            program: self.program,
        }
    }
}
