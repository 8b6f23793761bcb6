//! `explain`: the verdict on each endpoint, the rule that it comes from, and what would be bound.

use std::ffi::{CString, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use portgrant_policy::{Ask, Caller, Decision, Domain, Error, Permitted, Policy, Span, decide, refused, who};
use portgrant_protocol::program::Unfit;
use portgrant_protocol::{Kind, Message, Resolved, program, status};
use portgrant_trusted::System;
use portgrant_trusted::consistent;
use serde_json::{Value, json};

use crate::arguments::{Explain, Format};
use crate::output::{self, BAD, GOOD, in_style};

/// 0 where all of it would be permitted, else 77.
pub(crate) fn explain(asked: Explain) -> Result<u8, Box<Message>> {
    let reading = consistent(|system| {
        let policy = Policy::from(system.policy()?);
        let caller = caller(asked.user.as_deref(), &policy, system)?;
        let endpoints = asked.listen.iter().map(|endpoint| system.resolve(endpoint.clone()));
        Ok((policy, caller, endpoints.collect::<Result<Vec<_>, _>>()?))
    })?;
    let (policy, caller, endpoints) = reading.value;
    let program = asked.program.map(|program| program::find(&program, &environment())).transpose().map_err(unfit)?;
    let program = program.as_deref().map(|path| System::asked_program(&policy, path.as_os_str().as_bytes()));
    let (mut text, mut values, mut worst) = (String::new(), Vec::new(), status::OK);
    for endpoint in endpoints {
        let ask = Ask { endpoint, domain: Domain::OfAddress, program: program.clone() };
        let span = ask.span();
        match decide(&policy, &caller, ask) {
            Decision::Permit(permit) => {
                permitted(&mut text, &permit, span, &caller, &policy);
                values.push(permitted_json(&permit, span, &caller, &policy));
            }
            Decision::Refuse(refusal) => {
                worst = status::REFUSED;
                let message = refused(&refusal, &caller, &policy);
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
    match asked.format {
        Format::Text => output::print(&text)?,
        Format::Json => output::print_json(&Value::Array(values))?,
    };
    Ok(worst)
}

/// The account named, or whoever asks: by real uid, real gid and groups, as the helper has it.
pub(crate) fn caller(user: Option<&str>, policy: &Policy, system: &System) -> Result<Caller, Error> {
    let names = &system.names;
    match user {
        Some(name) => Caller::account(name, names)?.with_accounts(policy, names),
        None => Ok(Caller::from(system.caller(policy)?).named(names)),
    }
}

fn permitted(text: &mut String, permit: &Permitted<'_>, span: Span, caller: &Caller, policy: &Policy) {
    let (endpoint, rule) = (permit.endpoint(), permit.rule());
    let _ = writeln!(text, "{endpoint} is {} for {}", in_style(GOOD, "permitted"), who(caller));
    let _ = writeln!(text, "  rule: {}  {}", policy.place(rule), policy.text(rule));
    let _ = writeln!(text, "  bind: {span} port {}, {}", endpoint.port, kind(endpoint));
}

fn permitted_json(permit: &Permitted<'_>, span: Span, caller: &Caller, policy: &Policy) -> Value {
    let (endpoint, rule) = (permit.endpoint(), permit.rule());
    json!({
        "endpoint": endpoint.to_string(), "decision": "permit", "user": caller.name, "uid": caller.uid,
        "rule": policy.place(rule), "text": policy.text(rule),
        "bind": {
            "address": span.to_string(), "port": endpoint.port.get(), "protocol": endpoint.endpoint.protocol.word(),
            "listening": endpoint.endpoint.protocol.is_stream(), "name": endpoint.name(),
        },
    })
}

fn kind(endpoint: &Resolved) -> String {
    let protocol = endpoint.endpoint.protocol;
    let listening = if protocol.is_stream() { ", listening" } else { "" };
    format!("{}{listening}, as descriptor '{}'", protocol.word(), endpoint.name())
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
