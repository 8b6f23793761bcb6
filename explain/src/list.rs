//! `list`: what a user may bind, in the order of the policy, and what is denied of it.

use std::fmt::Write as _;

use portgrant_policy::{Caller, Effect, Policy, Rule, who};
use portgrant_protocol::Message;
use portgrant_trusted::consistent;

use serde_json::{Value, json};

use crate::arguments::Format;
use crate::explain::caller;
use crate::output::{self, BAD, DOUBTFUL, STRONG, in_style};
use crate::relation::{denies_all, denies_some};

/// Where the kernel says which ports are for everybody (ip(7)).
const UNPRIVILEGED_FROM: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// Always 0: nothing is an answer as well.
pub(crate) fn list(user: Option<&str>, format: Format) -> Result<u8, Box<Message>> {
    let reading = consistent(|system| {
        let policy = Policy::from(system.policy()?);
        let caller = caller(user, &policy, system)?;
        Ok((policy, caller))
    })?;
    let (policy, caller) = reading.value;
    let grants = grants(&policy, &caller);
    let from = std::fs::read_to_string(UNPRIVILEGED_FROM).ok().and_then(|text| text.trim().parse().ok());
    match format {
        Format::Text => output::print(&text(&grants, &caller, &policy, from)),
        Format::Json => output::print_json(&json!({
            "user": caller.name, "uid": caller.uid, "unprivileged_from": from,
            "permits": grants.iter().map(|grant| grant.json(&policy)).collect::<Vec<_>>(),
        })),
    }
}

/// A rule that permits something to the caller, and the denies that cut into it.
struct Grant<'p> {
    rule: &'p Rule,
    written: Written,
    denied_by: Vec<&'p Rule>,
}

fn grants<'p>(policy: &'p Policy, caller: &Caller) -> Vec<Grant<'p>> {
    let concerning = |effect| policy.rules.iter().filter(move |rule| rule.effect == effect && rule.concerns(caller));
    let denies: Vec<&Rule> = concerning(Effect::Deny).collect();
    let grant = |rule: &'p Rule| Grant {
        rule,
        written: Written::of(&policy.text(rule)),
        denied_by: denies.iter().copied().filter(|deny| denies_some(deny, rule)).collect(),
    };
    concerning(Effect::Permit).filter(|rule| !rule.ports.is_empty()).map(grant).collect()
}

fn text(grants: &[Grant<'_>], caller: &Caller, policy: &Policy, from: Option<u32>) -> String {
    let mut out = match grants.len() {
        0 => format!("no rule permits anything to {}\n", who(caller)),
        1 => format!("1 rule permits something to {}\n", who(caller)),
        many => format!("{many} rules permit something to {}\n", who(caller)),
    };
    for grant in grants {
        grant.write(&mut out, policy);
    }
    if let Some(from @ ..=65535) = from {
        let _ = writeln!(out, "everybody may bind ports from {from} on, without a rule and without portgrant");
    }
    out
}

impl Grant<'_> {
    fn write(&self, out: &mut String, policy: &Policy) {
        let cited = |rule: &Rule| format!("{}  {}", policy.place(rule), policy.text(rule));
        let all = self.denied_by.iter().find(|deny| denies_all(deny, self.rule));
        let _ = writeln!(out, "  {}", in_style(STRONG, &self.written.ports));
        let _ = writeln!(out, "      rule    {}", cited(self.rule));
        let words = self.options().join(" ");
        let dev = self.rule.dev.as_deref().unwrap_or_default();
        let program = self.written.program.as_deref().unwrap_or_default();
        let started = format!("{program}, started with portgrant exec");
        let program = if program.is_empty() { "" } else { started.as_str() };
        let on = self.written.addresses.as_str();
        for (label, value) in [("on", on), ("dev", dev), ("options", words.as_str()), ("only", program)] {
            if !value.is_empty() {
                let _ = writeln!(out, "      {label:<7} {value}");
            }
        }
        match all {
            Some(deny) => {
                let _ = writeln!(out, "      {} {}", in_style(BAD, "nothing"), cited(deny));
            }
            None => self.denied_by.iter().for_each(|deny| {
                let _ = writeln!(out, "      {}  {}", in_style(DOUBTFUL, "except"), cited(deny));
            }),
        }
    }

    fn json(&self, policy: &Policy) -> Value {
        let cited = |rule: &Rule| json!({ "rule": policy.place(rule), "text": policy.text(rule) });
        let denied = |deny: &&Rule| {
            let mut value = cited(deny);
            value["all"] = denies_all(deny, self.rule).into();
            value
        };
        let mut value = cited(self.rule);
        value["ports"] = self.written.ports.split(' ').collect();
        value["addresses"] = self.written.addresses.split_whitespace().collect();
        value["dev"] = self.rule.dev.clone().into();
        value["options"] = self.options().into();
        value["program"] = self.written.program.clone().into();
        value["denied_by"] = self.denied_by.iter().map(denied).collect();
        value
    }

    fn options(&self) -> Vec<&'static str> {
        let rule = self.rule;
        let words = [("reuseport", rule.reuseport), ("freebind", rule.freebind), ("hold", rule.hold)];
        words.into_iter().filter(|word| word.1).map(|word| word.0).collect()
    }
}

/// A well-formed permit's words, as the administrator wrote them.
#[derive(Debug, PartialEq, Eq)]
struct Written {
    ports: String,
    addresses: String,
    program: Option<String>,
}

impl Written {
    fn of(text: &str) -> Written {
        const CLAUSES: [&str; 7] = ["on", "dev", "reserved", "reuseport", "freebind", "hold", "exec"];
        let is_word = |word: &&str| !CLAUSES.contains(word) && !word.starts_with('#');
        let after = |count| text.split_whitespace().skip(count);
        let ports = after(2).take_while(is_word).collect::<Vec<_>>();
        let mut clauses = after(2 + ports.len()).take_while(|word| !word.starts_with('#'));
        let on = clauses.next() == Some("on");
        let addresses = after(3 + ports.len()).take_while(|word| on && is_word(word)).collect::<Vec<_>>();
        let exec = after(2 + ports.len()).take_while(|word| !word.starts_with('#')).any(|word| word == "exec");
        // What follows is a path to the end of the line, and it begins with a slash.
        let path = text.split_once(" exec").map(|(_, path)| path.trim_start().to_owned());
        Written { ports: ports.join(" "), addresses: addresses.join(" "), program: path.filter(|_| exec) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_shown_in_its_own_words() {
        for (text, ports, addresses, program) in [
            ("permit alice 80", "80", "", None),
            (" permit  :web 80  443/udp reuseport # x", "80 443/udp", "", None),
            ("permit any any on 10.0.0.0/8 [::1] dev eth0 hold", "any", "10.0.0.0/8 [::1]", None),
            ("permit news 119 exec /usr/lib/news/bin/a b # c", "119", "", Some("/usr/lib/news/bin/a b # c")),
            ("permit news 119 on [::] exec  /x", "119", "[::]", Some("/x")),
            ("permit news nntp# 119 # on exec /x", "nntp# 119", "", None),
        ] {
            let expected = Written {
                ports: ports.to_owned(),
                addresses: addresses.to_owned(),
                program: program.map(str::to_owned),
            };
            assert_eq!(Written::of(text), expected, "{text}");
        }
    }
}
