//! `explain`: the verdict on each endpoint, the rule that decides, and what would be bound.

use std::ffi::{CString, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use portgrant_policy::{Ask, Caller, Decision, Domain, Error, Policy, Rule, Span, Subject, decide, refused, who};
use portgrant_protocol::program::Unfit;
use portgrant_protocol::service::{self, Services};
use portgrant_protocol::{Endpoint, Kind, Message, Resolved, program, status};
use portgrant_trusted::{System, consistent, read_unjudged};
use serde_json::{Value, json};

use crate::account::Asked;
use crate::arguments::{Explain, Format};
use crate::installation;
use crate::obstacle::{self, Obstacle};
use crate::open_ports::OpenPorts;
use crate::output::{self, BAD, GOOD, in_style};

/// Returns 0 if everything would be bound, as far as is known; 69 if something cannot be bound on this host; else 77.
pub(crate) fn explain(asked: Explain) -> Result<u8, Box<Message>> {
    let whom = Asked::resolve(asked.user.as_deref())?;
    let open = OpenPorts::read(asked.owns_network && whom.is_oneself());
    let needs_rule = |endpoint: &Resolved| open.why(endpoint.port.get()).is_none();
    let reading = consistent(|system| {
        let endpoints = asked.listen.iter().map(|endpoint| resolved(endpoint, system, needs_rule));
        let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
        let (policy, unusable) = match system.policy() {
            Ok(policy) => (Policy::from(policy), None),
            Err(error) if !endpoints.iter().any(needs_rule) => (Policy::default(), Some(error.message())),
            Err(error) => return Err(error),
        };
        let caller = whom.caller(&policy, system)?;
        Ok((policy, unusable, caller, endpoints))
    })?;
    let (policy, mut unusable, caller, endpoints) = reading.value;
    if whom.is_read_by_root()
        && let Err(message) = installation::readable(&policy.sources)
    {
        if endpoints.iter().any(needs_rule) {
            return Err(message);
        }
        unusable = unusable.or(Some(*message));
    }
    let program = asked.program.map(|program| program::find(&program, &environment())).transpose().map_err(unfit)?;
    let program = program.as_deref().map(|path| System::asked_program(&policy, path.as_os_str().as_bytes()));
    let (mut text, mut values, mut worst) = (String::new(), Vec::new(), status::OK);
    for endpoint in endpoints {
        let ask = Ask { endpoint, domain: Domain::OfAddress, program: program.clone() };
        let span = ask.span();
        let obstacle = obstacle::of(&ask.endpoint);
        let would = Would { endpoint: ask.endpoint.clone(), span, obstacle: obstacle.as_ref() };
        if let Some(why) = open.why(ask.endpoint.port.get()) {
            worst = worst.max(would.status());
            let _ = writeln!(text, "{} {}\n  why: {why}", ask.endpoint, in_style(GOOD, "needs no rule"));
            would.write(&mut text);
            values.push(would.json(json!({
                "decision": "permit", "user": caller.name, "uid": caller.uid, "rule": null, "text": null,
                "unprivileged_from": open.first, "own_network": open.owns_network,
            })));
            continue;
        }
        match decide(&policy, &caller, ask) {
            Decision::Permit(permit) => {
                worst = worst.max(would.status());
                permitted(&mut text, permit.rule(), &would, (&caller, whom.is_account()), &policy);
                would.write(&mut text);
                values.push(would.json(json!({
                    "decision": "permit", "user": caller.name, "uid": caller.uid, "rule": policy.place(permit.rule()),
                    "text": policy.text(permit.rule()),
                })));
            }
            Decision::Refuse(refusal) => {
                worst = status::REFUSED;
                let message = refused(&refusal, &caller, &policy, &reading.system.names);
                let part = |part: &Option<String>| part.clone().unwrap_or_default();
                let (why, fix) = (part(&message.why), part(&message.fix));
                let _ = writeln!(text, "{}\n  why: {why}\n  fix: {fix}", in_style(BAD, &message.what));
                values.push(json!({
                    "endpoint": refusal.endpoint.to_string(), "decision": "refuse", "user": caller.name,
                    "uid": caller.uid, "why": why, "fix": fix, "rule": message.rule, "program": message.program,
                    "text": refusal.reason.rule().map(|rule| policy.text(rule)),
                }));
            }
        }
    }
    let note = whom.note().map_or_else(String::new, |note| format!("note: {note}\n"));
    text.extend([note, open.note(unusable.as_ref())]);
    match asked.format {
        Format::Text => output::print(&text)?,
        Format::Json => output::print_json(&Value::Array(values))?,
    };
    Ok(worst)
}

/// The endpoint with the port's number. For a port that needs no rule, /etc/services need not be trusted.
fn resolved(asked: &Endpoint, system: &System, needs_rule: impl Fn(&Resolved) -> bool) -> Result<Resolved, Error> {
    system.resolve(asked.clone()).or_else(|error| {
        let text = read_unjudged(service::PATH.as_bytes()).unwrap_or_default();
        let found = asked.clone().resolve(&Services::parse(&text)).ok();
        found.filter(|found| !needs_rule(found)).ok_or(error)
    })
}

/// The address that a socket would be bound to, and the obstacle on this host, if any.
struct Would<'a> {
    endpoint: Resolved,
    span: Span,
    obstacle: Option<&'a Obstacle>,
}

impl Would<'_> {
    fn status(&self) -> u8 {
        self.obstacle.map_or(status::OK, |_| status::UNAVAILABLE)
    }

    fn write(&self, text: &mut String) {
        let Would { endpoint, span, obstacle } = self;
        if let Some((why, fix)) = obstacle {
            let _ = writeln!(text, "  why: {why}\n  fix: {fix}");
            return;
        }
        let _ = writeln!(text, "  bind: {span} port {}, {}", endpoint.port, kind(endpoint));
    }

    fn json(&self, mut value: Value) -> Value {
        value["endpoint"] = self.endpoint.to_string().into();
        value["bind"] = json!({
            "address": self.span.to_string(), "port": self.endpoint.port.get(),
            "protocol": self.endpoint.endpoint.protocol.word(),
            "listening": self.endpoint.endpoint.protocol.is_stream(), "name": self.endpoint.name(),
        });
        value["obstacle"] = self.obstacle.map(|(why, fix)| json!({ "why": why, "fix": fix })).into();
        value
    }
}

/// The rule. If it is for a group, a note says that only sessions with this group can use it.
fn permitted(text: &mut String, rule: &Rule, would: &Would<'_>, whom: (&Caller, bool), policy: &Policy) {
    let (caller, is_account) = whom;
    let but = if would.obstacle.is_some() { ", but cannot be bound here" } else { "" };
    let _ = writeln!(text, "{} is {} for {}{but}", would.endpoint, in_style(GOOD, "permitted"), who(caller));
    let _ = writeln!(text, "  rule: {}  {}", policy.place(rule), policy.text(rule));
    if is_account && matches!(rule.subject, Subject::Gid(_)) {
        text.push_str("  note: it is for a group: a session that is older than the membership must log in again\n");
    }
}

fn kind(endpoint: &Resolved) -> String {
    let protocol = endpoint.endpoint.protocol;
    let listening = if protocol.is_stream() { ", listening" } else { "" };
    format!("{}{listening}, named '{}'", protocol.word(), endpoint.name())
}

fn environment() -> Vec<CString> {
    let entry = |(mut name, value): (OsString, OsString)| {
        name.push("=");
        name.push(value);
        CString::new(name.into_vec()).ok()
    };
    std::env::vars_os().filter_map(entry).collect()
}

fn unfit(unfit: Unfit) -> Box<Message> {
    let message = Message::of(Kind::Program, unfit.to_string()).status(unfit.status());
    Box::new(message.why(unfit.why.to_string()).fix(unfit.fix()))
}
