//! The message for a refusal.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use core::net::{Ipv4Addr, Ipv6Addr};

use portgrant_protocol::text::printable;
use portgrant_protocol::{Address, Kind, Message, Protocol, Resolved};

use crate::address::{AddressSet, Span};
use crate::caller::Caller;
use crate::decide::{Reason, Refusal};
use crate::distrust::Distrust;
use crate::names::Names;
use crate::near::{Near, near};
use crate::rule::{Policy, Rule, Subject};

/// The refusal of `refusal.endpoint`, with what could be asked for instead, and the rule that would permit it.
pub fn refused(refusal: &Refusal<'_>, caller: &Caller, policy: &Policy, names: &Names) -> Message {
    let what = format!("{} is refused for {}", refusal.endpoint, who(caller));
    let is_denied = matches!(refusal.reason, Reason::Denied(_) | Reason::DeniedDatagram(..));
    let near = if is_denied { None } else { near(refusal, caller, &policy.sources, names) };
    let (why, fix) = near.map_or_else(|| reason(refusal, caller, policy), |near| nearly(&near, caller, policy));
    let rule = refusal.reason.rule();
    let program = match &refusal.reason {
        Reason::Program(rule) => rule.program.as_deref().map(|path| program(Some(path))),
        Reason::NoRule
        | Reason::UnknownService(_)
        | Reason::UnknownServiceBeside(_)
        | Reason::Protocol(_)
        | Reason::Address(_)
        | Reason::Device(_)
        | Reason::Option(..)
        | Reason::UnfitProgram(..)
        | Reason::DeniedDatagram(..)
        | Reason::Denied(_) => None,
    };
    let endpoint = Some(refusal.endpoint.to_string());
    let rule = rule.map(|rule| policy.place(rule));
    Message { rule, program, endpoint, ..Message::of(Kind::Refused, what).why(why).fix(fix) }
}

/// Why a rule that would permit it does not, and what to do.
fn nearly(near: &Near, caller: &Caller, policy: &Policy) -> (String, String) {
    match near {
        Near::Lacks { rule, group } => {
            let account = caller.name.as_ref().map_or_else(|| format!("uid {}", caller.uid), |name| shown(name));
            (
                format!(
                    "{account}'s account is in {group}, this process is not, and the rule at {} is for that group",
                    place(policy, rule)
                ),
                format!("log in again, or in this shell: newgrp {group}"),
            )
        }
        Near::Name { rule, subject, meant } => {
            let kind = if subject.starts_with(':') { "group" } else { "user" };
            let subject = shown(subject);
            let name = subject.trim_start_matches(':');
            (
                format!(
                    "{kind} '{name}' does not exist, so nothing is permitted by the rule at {}",
                    place(policy, rule)
                ),
                match meant.as_str() {
                    _ if name.contains(',') => {
                        "as root, write one rule for each of these names in its place".to_owned()
                    }
                    "any" => format!("as root, write any instead of {subject} in that rule, if everybody is meant"),
                    _ => format!("as root, write {meant} instead of {subject} in that rule"),
                },
            )
        }
    }
}

/// Why it is refused, and what to do: first what the policy does permit, then how to widen it.
fn reason(refusal: &Refusal<'_>, caller: &Caller, policy: &Policy) -> (String, String) {
    let place = |rule| place(policy, rule);
    let (add, file) = suggestion(caller, &refusal.endpoint);
    let add = format!("as root, add  {add}  to {file}");
    match &refusal.reason {
        Reason::NoRule => (no_rule(policy), add),
        Reason::UnknownService(rule) | Reason::UnknownServiceBeside(rule) => (
            format!(
                "'{}' is not a service in /etc/services, so nothing is permitted by the rule at {}",
                unknown_service(rule),
                place(rule)
            ),
            format!("as root, write a number for '{}' in that rule, or take the word out", unknown_service(rule)),
        ),
        Reason::Protocol(rule) => (
            format!("that protocol is not in the rule at {}", place(rule)),
            format!("ask for {}; or {add}", by_protocol(rule, &refusal.endpoint)),
        ),
        Reason::Address(rule) => (
            format!("not all of that address is in the rule at {}", place(rule)),
            format!("ask for {}; or {add}", within(&rule.addresses, &refusal.endpoint)),
        ),
        Reason::Device(rule) => (
            format!("the interface is not that of the rule at {}", place(rule)),
            format!(
                "ask for dev={}, in exec or pass (one's own socket can leave it)",
                rule.dev.as_deref().unwrap_or("")
            ),
        ),
        Reason::Option(rule, option) => (
            format!("{option} is not granted by the rule at {}", place(rule)),
            format!("ask without {option}; or as root, add the word {option} to that rule"),
        ),
        Reason::Program(rule) => (
            format!("it is only for one program, by the rule at {}{}", place(rule), instead(refusal)),
            format!("start that program with portgrant exec: -- {}", program(rule.program.as_deref())),
        ),
        Reason::UnfitProgram(rule, unfit) => (
            format!(
                "{}: {}, so nothing is permitted to that program by the rule at {}",
                program(Some(&unfit.0)),
                unfit.1,
                place(rule)
            ),
            if matches!(unfit.1, Distrust::System(_)) {
                unfit.1.fix(&unfit.0)
            } else {
                "as root, put it where only root may write, all folders above included, and name it there".to_owned()
            },
        ),
        Reason::DeniedDatagram(rule, "dev") => (
            format!(
                "it is denied by the rule at {}{}; 'dev' does not narrow udp: a udp socket can leave its interface",
                place(rule),
                by_account(caller, rule)
            ),
            "as root, change that rule (a port with /tcp denies tcp alone); a deny beats every permit".to_owned(),
        ),
        Reason::DeniedDatagram(rule, _) => (
            format!(
                "it is denied by the rule at {}{}; an address does not narrow udp: a udp socket can send from every \
                 local address of its family",
                place(rule),
                by_account(caller, rule)
            ),
            "as root, change that rule (a port with /tcp denies tcp alone); a deny beats every permit".to_owned(),
        ),
        Reason::Denied(rule) => (
            format!("it is denied by the rule at {}{}", place(rule), by_account(caller, rule)),
            "as root, change that rule; a deny beats every permit".to_owned(),
        ),
    }
}

/// Where a rule stands, and its text.
fn place(policy: &Policy, rule: &Rule) -> String {
    format!("{}  {}", policy.place(rule), policy.text(rule))
}

/// `asked` by a protocol that `rule` has for its port.
fn by_protocol(rule: &Rule, asked: &Resolved) -> String {
    let has = |protocol: &Protocol| {
        rule.ports.iter().any(|ports| ports.holds(asked.port) && ports.protocols.contains(*protocol))
    };
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(has).unwrap_or_default();
    format!("{}/{}", asked.port, protocol.word())
}

/// `asked` within one of `sets`: at the address itself, the loopback address or the wildcard; of another network nobody
/// here knows which addresses this host has.
fn within(sets: &[AddressSet], asked: &Resolved) -> String {
    let loopback = |set: &AddressSet| {
        let both = [Address::V4(Ipv4Addr::LOCALHOST), Address::V6(Ipv6Addr::LOCALHOST)];
        both.into_iter().find(|address| Span::of(*address, false).is_within(core::slice::from_ref(set)))
    };
    let wildcard = sets.contains(&AddressSet::DualWildcard).then_some(Address::Any);
    let one = wildcard.or_else(|| sets.iter().find_map(|set| set.single().or_else(|| loopback(set))));
    match (one, sets.first()) {
        (Some(address), _) => {
            let mut endpoint = asked.endpoint.clone();
            endpoint.options.v6only &= !matches!(address, Address::V4(_));
            endpoint.address = address;
            endpoint.to_string()
        }
        (None, Some(set)) => format!("an address of {set}"),
        (None, None) => asked.to_string(),
    }
}

/// `alice (uid 1000)`, or `uid 1000` where no name is known.
pub fn who(caller: &Caller) -> String {
    match &caller.name {
        Some(name) => format!("{} (uid {})", shown(name), caller.uid),
        None => format!("uid {}", caller.uid),
    }
}

/// A name as people write it: with its backslash, as in `DOMAIN\user`.
fn shown(name: &str) -> String {
    printable(name.as_bytes()).replace("\\x5c", "\\")
}

/// The word among a rule's ports that is not a service.
fn unknown_service(rule: &Rule) -> &str {
    rule.unknown_service.as_deref().map_or("", |unknown| &unknown.word)
}

/// For which program it was asked instead.
fn instead(refusal: &Refusal<'_>) -> String {
    refusal.program.as_deref().map_or_else(String::new, |path| format!("; PROGRAM is {}", program(Some(path))))
}

/// Why a rule denies `caller`, if the caller's own ids do not show it.
fn by_account(caller: &Caller, rule: &Rule) -> String {
    match rule.subject {
        Subject::Uid(uid) if caller.uid != uid => {
            format!(" (uid {} is one of uid {uid}'s in /etc/subuid)", caller.uid)
        }
        Subject::Gid(gid) if caller.gid != gid && !caller.groups.contains(&gid) => {
            format!(
                " (gid {gid} is a group of the caller's account, or of the account that owns these ids in /etc/subuid or \
                 /etc/subgid)"
            )
        }
        Subject::Uid(_) | Subject::Gid(_) | Subject::Uids(..) | Subject::Gids(..) | Subject::Any | Subject::Nobody => {
            String::new()
        }
    }
}

fn no_rule(policy: &Policy) -> String {
    match policy.count {
        0 => "there is no rule in /etc/portgrant.conf and /etc/portgrant.d".to_owned(),
        1 => "the one rule in /etc/portgrant.conf and /etc/portgrant.d does not permit it".to_owned(),
        many => format!("none of the {many} rules in /etc/portgrant.conf and /etc/portgrant.d permits it"),
    }
}

fn program(path: Option<&[u8]>) -> String {
    printable(path.unwrap_or_default())
}

/// A rule that would permit `endpoint` to `caller`, and no more than its address, port and options; and the file to put
/// it into.
pub fn suggestion(caller: &Caller, endpoint: &Resolved) -> (String, String) {
    // A name that the grammar would read differently, or that is not a plain file name, is not suggested.
    let plain = |name: &&str| portgrant_protocol::endpoint::is_name(name) && *name != "any";
    let name = caller.name.as_deref().filter(|name| plain(name) && !caller.is_of_directory);
    let (subject, stem) = match name {
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
        (" reserved", (512..=1023).contains(&endpoint.port.get())),
        (" reuseport", asked.options.reuseport),
        (" freebind", asked.options.freebind),
    ];
    rule.extend(words.into_iter().filter(|word| word.1).map(|word| word.0));
    (rule, format!("/etc/portgrant.d/{stem}.conf"))
}
