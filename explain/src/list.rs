//! `list`: the permits of a user in the order of the policy, with the denies that affect them.

use std::fmt::Write as _;

use portgrant_policy::{Caller, Effect, Names, Policy, Rule, Subject, lacked_groups, lacks_group, who};
use portgrant_protocol::Message;
use portgrant_trusted::consistent;
use rustc_hash::FxHashSet;
use serde_json::{Value, json};

use crate::account::Asked;
use crate::advice::MOST_STEPS;
use crate::arguments::Format;
use crate::candidates::Candidates;
use crate::installation;
use crate::lines::Lines;
use crate::open_ports::OpenPorts;
use crate::output::{self, BAD, DOUBTFUL, STRONG, in_style};
use crate::relation::{Budget, Extent};

/// How many denies are shown of a permit.
const MOST_DENIES: usize = 10;

/// 0, since an empty list is an answer too. A policy that cannot be used is an error, unless no port needs a rule.
pub(crate) fn list(user: Option<&str>, owns_network: bool, format: Format) -> Result<u8, Box<Message>> {
    let asked = Asked::resolve(user)?;
    let open = OpenPorts::read(owns_network && asked.is_oneself());
    let reading = consistent(|system| {
        let policy = system.policy().map(Policy::from);
        let (policy, unusable) = policy.map_or_else(|error| (Policy::default(), Some(error)), |policy| (policy, None));
        let caller = asked.caller(&policy, system)?;
        let lacked = if asked.is_account() { Vec::new() } else { Lacked::of(&policy, &caller, &system.names) };
        Ok((policy, unusable, caller, lacked))
    })?;
    let (policy, unusable, caller, lacked) = reading.value;
    let readable = if asked.is_read_by_root() { installation::readable(&policy.sources) } else { Ok(()) };
    let unusable = match unusable.map_or(readable, |error| Err(error.into())) {
        Err(message) if !open.are_all() => return Err(message),
        usable => usable.err(),
    };
    let lines = Lines::of(&policy);
    let grants = Grants::of(&policy, &lines, &caller);
    match format {
        Format::Text => {
            let rules = if unusable.is_none() { grants.text(&caller, &lines) } else { String::new() };
            let lacked: String =
                lacked.iter().map(|Lacked { why, fix, .. }| format!("{why}\n  fix: {fix}\n")).collect();
            let open_ports = open.text().map_or_else(String::new, |text| text + "\n");
            let note = asked.note().map_or_else(String::new, |note| format!("note: {note}\n"));
            output::print(&(rules + &lacked + &open_ports + &note + &open.note(unusable.as_deref())))
        }
        Format::Json => output::print_json(&json!({
            "user": caller.name, "uid": caller.uid, "unprivileged_from": open.first, "own_network": open.owns_network,
            "permits": grants.all.iter().map(|grant| grant.json(&lines)).collect::<Vec<_>>(),
            "compared_all": grants.complete,
            "lacked": lacked.iter().map(|Lacked { rule, why, fix }| json!({ "rule": rule, "why": why, "fix": fix }))
                .collect::<Vec<_>>(),
        })),
    }
}

/// A rule for a group that the account has and this process lacks.
struct Lacked {
    rule: String,
    why: String,
    fix: String,
}

impl Lacked {
    /// The first rule of each such group.
    fn of(policy: &Policy, caller: &Caller, names: &Names) -> Vec<Lacked> {
        let first = |gid| {
            let is_for_it = |rule: &&Rule| {
                rule.effect == Effect::Permit && rule.subject == Subject::Gid(gid) && !rule.ports.is_empty()
            };
            let rule = policy.rules.iter().find(is_for_it)?;
            let (why, fix) = lacks_group(rule, caller, policy, names);
            Some(Lacked { rule: policy.place(rule), why, fix })
        };
        lacked_groups(caller, names).into_iter().filter_map(first).collect()
    }
}

/// What is permitted to a user.
struct Grants<'p> {
    all: Vec<Grant<'p>>,
    /// All permits were compared with all denies
    complete: bool,
}

/// A rule that permits something to the caller, and the denies that affect it.
struct Grant<'p> {
    rule: &'p Rule,
    written: Written,
    /// The denies, and whether each refuses everything. Such denies come first
    denied_by: Vec<(&'p Rule, bool)>,
}

impl<'p> Grants<'p> {
    fn of(policy: &'p Policy, lines: &Lines<'_>, caller: &Caller) -> Grants<'p> {
        let concerning =
            |effect| policy.rules.iter().filter(move |rule| rule.effect == effect && rule.applies_to(caller));
        let denies: Vec<Extent<'p>> = concerning(Effect::Deny).map(Extent::of).collect();
        let candidates = Candidates::of(&denies);
        // Their subjects are already compared.
        let groups: FxHashSet<Subject> = denies.iter().map(|deny| deny.rule.subject).collect();
        let budget = Budget::new(MOST_STEPS);
        let grant = |rule: &'p Rule| {
            let permit = Extent::of(rule);
            let may =
                groups.iter().flat_map(|subject| candidates.overlapping((*subject, Effect::Deny), &permit, &budget));
            let mut denied_by: Vec<(&Rule, bool)> = may
                .filter(|deny| !budget.is_exhausted() && deny.denies_some(&permit, &budget))
                .map(|deny| (deny.rule, deny.denies_all(&permit, &budget)))
                .collect();
            denied_by.sort_by_key(|(deny, all)| (!all, deny.file, deny.line));
            Grant { rule, written: Written::of(&lines.text(rule)), denied_by }
        };
        let all = concerning(Effect::Permit).filter(|rule| !rule.ports.is_empty()).map(grant).collect();
        Grants { all, complete: !budget.is_exhausted() }
    }

    fn text(&self, caller: &Caller, lines: &Lines<'_>) -> String {
        let mut out = match self.all.len() {
            0 => format!("no rule permits anything to {}\n", who(caller)),
            1 => format!("1 rule permits something to {}\n", who(caller)),
            many => format!("{many} rules permit something to {}\n", who(caller)),
        };
        for grant in &self.all {
            grant.write(&mut out, lines);
        }
        if !self.complete {
            out.push_str(
                "the policy is too large to compare all of its rules: not every deny is shown; portgrant explain knows all\n",
            );
        }
        out
    }
}

impl Grant<'_> {
    fn write(&self, out: &mut String, lines: &Lines<'_>) {
        let _ = writeln!(out, "  {}", in_style(STRONG, &self.written.ports));
        let _ = writeln!(out, "      rule    {}  {}", lines.place(self.rule), lines.text(self.rule));
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
        if let Some((deny, true)) = self.denied_by.first() {
            let _ = writeln!(out, "      {} {}", in_style(BAD, "nothing"), lines.cite(deny));
            return;
        }
        for (deny, _) in self.denied_by.iter().take(MOST_DENIES) {
            let _ = writeln!(out, "      {}  {}", in_style(DOUBTFUL, "except"), lines.cite(deny));
        }
        if let more @ 1.. = self.denied_by.len().saturating_sub(MOST_DENIES) {
            let _ = writeln!(out, "      {}  {more} more denies are not shown", in_style(DOUBTFUL, "except"));
        }
    }

    fn json(&self, lines: &Lines<'_>) -> Value {
        let denied =
            |(deny, all): &(&Rule, bool)| json!({ "rule": lines.place(deny), "text": lines.short(deny), "all": all });
        let mut value = json!({ "rule": lines.place(self.rule), "text": lines.text(self.rule) });
        value["ports"] = self.written.ports.split(' ').collect();
        value["addresses"] = self.written.addresses.split_whitespace().collect();
        value["dev"] = self.rule.dev.clone().into();
        value["options"] = self.options().into();
        value["program"] = self.written.program.clone().into();
        value["denied_by"] = self.denied_by.iter().take(MOST_DENIES).map(denied).collect();
        value["denied_by_more"] = self.denied_by.len().saturating_sub(MOST_DENIES).into();
        value
    }

    fn options(&self) -> Vec<&'static str> {
        let rule = self.rule;
        let words = [("reuseport", rule.reuseport), ("freebind", rule.freebind)];
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
        const CLAUSES: [&str; 6] = ["on", "dev", "reserved", "reuseport", "freebind", "exec"];
        let is_word = |word: &&str| !CLAUSES.contains(word) && !word.starts_with('#');
        let after = |count| text.split_whitespace().skip(count);
        let ports = after(2).take_while(is_word).collect::<Vec<_>>();
        let mut clauses = after(2 + ports.len()).take_while(|word| !word.starts_with('#'));
        let on = clauses.next() == Some("on");
        let addresses = after(3 + ports.len()).take_while(|word| on && is_word(word)).collect::<Vec<_>>();
        let exec = after(2 + ports.len()).take_while(|word| !word.starts_with('#')).any(|word| word == "exec");
        // The rest of the line is a path, which begins with a slash.
        let path = text.split_once(" exec").map(|(_, path)| path.trim_start().to_owned());
        Written { ports: ports.join(" "), addresses: addresses.join(" "), program: path.filter(|_| exec) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_rule_keeps_its_own_words() {
        for (text, ports, addresses, program) in [
            ("permit alice 80", "80", "", None),
            (" permit  :web 80  443/udp reuseport # x", "80 443/udp", "", None),
            ("permit any any on 10.0.0.0/8 [::1] dev eth0 freebind", "any", "10.0.0.0/8 [::1]", None),
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
