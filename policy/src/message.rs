//! The message for a refusal.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use core::net::{Ipv4Addr, Ipv6Addr};

use portgrant_protocol::text::{printable, written};
use portgrant_protocol::{Address, AskedPort, Endpoint, Kind, Message, Options, Protocol, Resolved};

use crate::address::{AddressSet, Span};
use crate::caller::Caller;
use crate::decide::{Reason, Refusal};
use crate::distrust::Distrust;
use crate::names::Names;
use crate::near::{Form, Listed, Near, near};
use crate::rule::{Policy, Rule, Subject};

/// The refusal of `refusal.endpoint`, with what could be asked for instead, and the rule that would permit it.
pub fn refused(refusal: &Refusal<'_>, caller: &Caller, policy: &Policy, names: &Names) -> Message {
    let what = format!("{} is refused for {}", refusal.endpoint, who(caller));
    let is_denied = matches!(refusal.reason, Reason::Denied(_) | Reason::DeniedDatagram(..));
    let near = if is_denied { None } else { near(refusal, caller, &policy.sources, names) };
    let (why, fix) = match &near {
        Some(Near::Lacks(rule)) => lacks_group(rule, caller, policy, names),
        Some(Near::Listed(rule)) => {
            let name = caller.name.as_deref().unwrap_or_default();
            not_a_service(name, Some(Listed::User), rule, policy)
        }
        Some(Near::Name { rule, subject, meant }) => misnamed(rule, subject, meant, policy),
        None => reason(refusal, caller, policy, names),
    };
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

/// Why a rule for a group does not permit it, and what to do: the caller's account has the group, but the process lacks
/// it.
pub fn lacks_group(rule: &Rule, caller: &Caller, policy: &Policy, names: &Names) -> (String, String) {
    let account = caller.name.as_ref().map_or_else(|| format!("uid {}", caller.uid), |name| shown(name));
    let gid = if let Subject::Gid(gid) = rule.subject { gid } else { caller.gid };
    let group = names.group_of(gid).ok().flatten().map_or_else(|| format!("gid {gid}"), ToOwned::to_owned);
    (
        format!(
            "{account}'s account is in {group}, this process is not, and the rule at {} is for that group",
            place(policy, rule)
        ),
        format!("log in again; or in this shell, run: newgrp {group}"),
    )
}

/// Why a rule whose subject does not exist permits nothing, and what to write instead.
fn misnamed(rule: &Rule, subject: &str, meant: &str, policy: &Policy) -> (String, String) {
    let kind = if subject.starts_with(':') { "group" } else { "user" };
    let subject = shown(subject);
    let name = subject.trim_start_matches(':');
    (
        format!("{kind} '{name}' does not exist, so nothing is permitted by the rule at {}", place(policy, rule)),
        match meant {
            _ if matches!(Form::of(&subject), Form::Several(_)) => {
                "as root, write one rule for each of these names in its place".to_owned()
            }
            "any" => format!("as root, write any instead of {subject} in that rule (if everybody is meant)"),
            _ => format!("as root, write {meant} instead of {subject} in that rule"),
        },
    )
}

/// Why a rule with `word` in place of a port permits nothing, and what to write instead.
fn not_a_service(word: &str, listed: Option<Listed>, rule: &Rule, policy: &Policy) -> (String, String) {
    let (is, fix) = match listed {
        Some(Listed::User) => (
            format!("'{word}' is a user, and a rule has one subject"),
            format!("as root, remove {word} from that rule, and add the same rule for {word}"),
        ),
        Some(Listed::Group) => (
            format!("'{word}' is a group, and a rule has one subject"),
            format!("as root, remove {word} from that rule, and add the same rule for :{word}"),
        ),
        Some(Listed::EveryPort) => (
            format!("'{word}' is not a service in /etc/services"),
            format!("as root, write any reserved instead of {word} in that rule (if every port is meant)"),
        ),
        None => (
            format!("'{word}' is not a service in /etc/services"),
            format!("as root, write PORT instead of {word} in that rule; or as root, remove {word} from that rule"),
        ),
    };
    (format!("{is}, so nothing is permitted by the rule at {}", place(policy, rule)), fix)
}

/// Why it is refused, and what to do: first what the policy does permit, then how to widen it.
fn reason(refusal: &Refusal<'_>, caller: &Caller, policy: &Policy, names: &Names) -> (String, String) {
    let place = |rule| place(policy, rule);
    let (add, file) = suggestion(caller, &refusal.endpoint);
    let add = format!("as root, add  {add}  to {file}");
    match &refusal.reason {
        Reason::NoRule => (no_rule(policy), add),
        Reason::UnknownService(rule) | Reason::UnknownServiceBeside(rule) => {
            let word = unknown_service(rule);
            not_a_service(word, Listed::of(word, names), rule, policy)
        }
        Reason::Protocol(rule) => (
            format!("that protocol is not in the rule at {}", place(rule)),
            format!("ask for {}; or {add}", permitted_by(rule, &refusal.endpoint)),
        ),
        Reason::Address(rule) => (
            format!("not all of that address is in the rule at {}", place(rule)),
            format!("ask for {}; or {add}", permitted_by(rule, &refusal.endpoint)),
        ),
        Reason::Device(rule) => (
            format!("the interface is not that of the rule at {}", place(rule)),
            format!(
                "ask for {}, in exec or pass (one's own socket can leave it)",
                permitted_by(rule, &refusal.endpoint)
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

/// The endpoint that `rule` permits and that is most similar to `asked`.
fn permitted_by(rule: &Rule, asked: &Resolved) -> String {
    let asked_protocol = asked.endpoint.protocol;
    let has = |protocol: Protocol| {
        rule.ports.iter().any(|ports| ports.holds(asked.port) && ports.protocols.contains(protocol))
    };
    let mut endpoint = asked.endpoint.clone();
    if !has(asked_protocol) {
        let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        endpoint.protocol = protocols.into_iter().find(|protocol| has(*protocol)).unwrap_or_default();
        // A name in services(5) may have another port by that protocol. The socket's options are for the other one.
        endpoint.port = AskedPort::Number(asked.port);
        let Options { v6only, dev, .. } = endpoint.options;
        endpoint.options = Options { v6only, dev, ..Options::default() };
        if endpoint.address == Address::Each {
            endpoint.address = Address::Any;
        }
    }
    let unknown = within(&rule.addresses, &mut endpoint);
    endpoint.options.reuseport &= rule.reuseport;
    endpoint.options.freebind &= rule.freebind;
    endpoint.options.dev = rule.dev.clone().or(endpoint.options.dev);
    let is_another = endpoint.protocol != asked_protocol;
    match unknown {
        Some(set) if is_another => {
            return format!("{}/{} at an address of {set}", asked.port, endpoint.protocol.word());
        }
        Some(set) => return format!("an address of {set}"),
        None => {}
    }
    let text = endpoint.to_string();
    if !is_another || endpoint.protocol != Protocol::Tcp {
        return text;
    }
    // An endpoint's text leaves tcp out, which is what differs here.
    let place = text.split(',').next().unwrap_or_default().len();
    let (place, options) = text.split_at(place);
    format!("{place}/tcp{options}")
}

/// Moves `endpoint` into one of `sets`: to its only address, the loopback address or the wildcard. If there is none,
/// returns a set, since the addresses of this host are not known here.
fn within<'a>(sets: &'a [AddressSet], endpoint: &mut Endpoint) -> Option<&'a AddressSet> {
    if Span::of(endpoint.address, endpoint.options.v6only).is_within(sets) {
        return None;
    }
    let loopback = |set: &AddressSet| {
        let both = [Address::V4(Ipv4Addr::LOCALHOST), Address::V6(Ipv6Addr::LOCALHOST)];
        both.into_iter().find(|address| Span::of(*address, false).is_within(core::slice::from_ref(set)))
    };
    let wildcard = sets.contains(&AddressSet::DualWildcard).then_some(Address::Any);
    let one = wildcard.or_else(|| sets.iter().find_map(|set| set.single().or_else(|| loopback(set))));
    let Some(address) = one else { return sets.first() };
    endpoint.options.v6only &= !matches!(address, Address::V4(_));
    endpoint.address = address;
    None
}

/// `alice (uid 1000)`, or `uid 1000` if the name is not known.
pub fn who(caller: &Caller) -> String {
    match &caller.name {
        Some(name) => format!("{} (uid {})", shown(name), caller.uid),
        None => format!("uid {}", caller.uid),
    }
}

/// A name as people write it: with its backslash, as in `DOMAIN\user`.
fn shown(name: &str) -> String {
    written(name.as_bytes())
}

/// The word among a rule's ports that is not a service.
fn unknown_service(rule: &Rule) -> &str {
    rule.unknown_service.as_deref().map_or("", |unknown| &unknown.word)
}

/// The program that the caller named, if any.
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
