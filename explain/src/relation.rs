//! How two rules relate: does one hold all that the other does, or any of it? For advice and for lists only: no verdict
//! rests on it. Where it errs, it errs by saying less: what is claimed here holds for every request (the tests compare
//! with `decide`).

use portgrant_policy::{AddressSet, Rule, Span, Subject};
use portgrant_protocol::Protocol;

const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// Whether `wide`, which has the same effect, does whatever `narrow` does.
pub(crate) fn makes_needless(wide: &Rule, narrow: &Rule) -> bool {
    speaks_of_all(wide, narrow)
        && holds_ports(wide, narrow)
        && addresses(narrow).iter().all(|&set| is_held(set, &addresses(wide)))
        && (wide.dev.is_none() || wide.dev == narrow.dev)
        && (wide.reuseport || !narrow.reuseport)
        && (wide.freebind || !narrow.freebind)
        && (wide.hold || !narrow.hold)
        && (wide.program.is_none() || wide.program == narrow.program)
}

/// Whether `deny` refuses whatever `permit` permits. Whom they speak of is not compared.
pub(crate) fn denies_all(deny: &Rule, permit: &Rule) -> bool {
    let denied = addresses(deny);
    let by_protocol = |protocol: Protocol| {
        let met = |set: AddressSet| is_always_met(set, &denied) || protocol == Protocol::Udp && sends(set, &denied);
        is_held_to(deny, permit, protocol) && addresses(permit).into_iter().all(met)
    };
    let used = PROTOCOLS.into_iter().filter(|&protocol| ranges(permit, protocol).next().is_some());
    holds_ports(deny, permit) && used.into_iter().all(by_protocol)
}

/// Whether `deny` refuses anything that `permit` permits. Whom they speak of is not compared.
pub(crate) fn denies_some(deny: &Rule, permit: &Rule) -> bool {
    let denied = addresses(deny);
    PROTOCOLS.into_iter().any(|protocol| {
        let meets = |set: AddressSet| {
            denied.iter().any(|&other| may_meet(set, other)) || protocol == Protocol::Udp && sends(set, &denied)
        };
        (permit.dev.is_none() || is_held_to(deny, permit, protocol))
            && ranges(deny, protocol).any(|a| ranges(permit, protocol).any(|b| a.0 <= b.1 && b.0 <= a.1))
            && addresses(permit).into_iter().any(meets)
    })
}

/// Whether the interface keeps nothing of `permit` away from `deny`. For datagrams it never does.
fn is_held_to(deny: &Rule, permit: &Rule, protocol: Protocol) -> bool {
    deny.dev.is_none() || deny.dev == permit.dev || protocol == Protocol::Udp
}

/// Whether every datagram socket for something in `set` can send from an address that is denied.
fn sends(set: AddressSet, denied: &[AddressSet]) -> bool {
    denied.iter().any(|other| {
        matches!(
            (set, other),
            (AddressSet::V4(..) | AddressSet::V4Wildcard, AddressSet::V4(..))
                | (AddressSet::V6(..), AddressSet::V6(..))
        )
    })
}

/// Whether `wide` speaks of everybody of whom `narrow` does.
pub(crate) fn speaks_of_all(wide: &Rule, narrow: &Rule) -> bool {
    wide.subject == Subject::Any || (wide.subject == narrow.subject && wide.subject != Subject::Nobody)
}

fn holds_ports(wide: &Rule, narrow: &Rule) -> bool {
    PROTOCOLS.into_iter().all(|protocol| ranges(narrow, protocol).all(|range| is_covered(range, wide, protocol)))
}

fn ranges(rule: &Rule, protocol: Protocol) -> impl Iterator<Item = (u16, u16)> {
    rule.ports.iter().filter(move |ports| ports.protocols.contains(protocol)).map(|ports| (ports.first, ports.last))
}

/// Whether the ranges of `wide` together hold all of one.
fn is_covered((mut next, last): (u16, u16), wide: &Rule, protocol: Protocol) -> bool {
    loop {
        let reach =
            ranges(wide, protocol).filter(|range| (range.0..=range.1).contains(&next)).map(|range| range.1).max();
        match reach {
            None => return false,
            Some(reach) if reach >= last => return true,
            Some(reach) => next = reach + 1,
        }
    }
}

/// The addresses of a rule; none stand for every one, and the wildcards.
fn addresses(rule: &Rule) -> Vec<AddressSet> {
    const ALL: [AddressSet; 2] =
        [AddressSet::V4(std::net::Ipv4Addr::UNSPECIFIED, 0), AddressSet::V6(std::net::Ipv6Addr::UNSPECIFIED, 0)];
    if rule.addresses.is_empty() { ALL.to_vec() } else { rule.addresses.clone() }
}

fn is_held(set: AddressSet, wide: &[AddressSet]) -> bool {
    match set {
        AddressSet::V4Wildcard => Span::V4Wildcard.is_within(wide),
        AddressSet::DualWildcard => Span::DualWildcard.is_within(wide),
        AddressSet::V4(..) | AddressSet::V6(..) => wide.iter().any(|&other| is_subnet(set, other)),
    }
}

/// Whether every request for something in `set` touches `denied`: a wildcard touches each address of its family.
fn is_always_met(set: AddressSet, denied: &[AddressSet]) -> bool {
    match set {
        AddressSet::V4Wildcard => Span::V4Wildcard.overlaps(denied),
        AddressSet::DualWildcard => Span::V4Wildcard.overlaps(denied) && Span::V6Wildcard.overlaps(denied),
        AddressSet::V4(..) | AddressSet::V6(..) => denied.iter().any(|&other| is_subnet(set, other)),
    }
}

/// Whether some request for something in `set` touches `other`.
fn may_meet(set: AddressSet, other: AddressSet) -> bool {
    let wildcard = match set {
        AddressSet::V4Wildcard | AddressSet::V4(_, 0) => Some(Span::V4Wildcard),
        AddressSet::V6(_, 0) => Some(Span::V6Wildcard),
        AddressSet::DualWildcard => Some(Span::DualWildcard),
        AddressSet::V4(..) | AddressSet::V6(..) => None,
    };
    wildcard.is_some_and(|span| span.overlaps(&[other])) || is_subnet(set, other) || is_subnet(other, set)
}

fn is_subnet(narrow: AddressSet, wide: AddressSet) -> bool {
    match (narrow, wide) {
        (AddressSet::V4(network, length), AddressSet::V4(..)) => {
            length_of(wide) <= length && Span::V4(network).is_within(&[wide])
        }
        (AddressSet::V6(network, length), AddressSet::V6(..)) => {
            length_of(wide) <= length && Span::V6(network).is_within(&[wide])
        }
        _ => false,
    }
}

fn length_of(set: AddressSet) -> u8 {
    match set {
        AddressSet::V4(_, length) | AddressSet::V6(_, length) => length,
        AddressSet::V4Wildcard | AddressSet::DualWildcard => 0,
    }
}

#[cfg(test)]
pub(crate) mod tests {

    use portgrant_policy::Names;
    use portgrant_policy::{Ask, AskedProgram, Caller, Decision, Domain, Policy, Source, decide};
    use portgrant_protocol::{Endpoint, Resolved};

    use super::*;

    pub(crate) fn names() -> Names {
        let passwd = b"alice:x:1000:1000:::\nbob:x:1001:1001:::\n";
        Names::of(passwd, b"web:x:33:bob\n", b"submission 587/tcp\n")
    }

    pub(crate) fn policy(text: &str) -> Policy {
        let sources = vec![Source { path: "/etc/portgrant.conf".into(), text: format!("{text}\n").into_bytes() }];
        match Policy::parse(sources, &names()).expect("the tables are given") {
            Ok(policy) => policy,
            Err((_, problems)) => panic!("{text}: {problems:?}"),
        }
    }

    fn pair(one: &str, other: &str) -> (Rule, Rule) {
        match policy(&format!("{one}\n{other}\n")).rules.as_slice() {
            [one, other] => (one.clone(), other.clone()),
            rules => panic!("{rules:?}"),
        }
    }

    #[test]
    fn a_wider_rule_makes_a_narrower_one_needless_and_nothing_else_does() {
        for (wide, narrow, expected) in [
            ("permit alice 80-90", "permit alice 85", true),
            ("permit alice 80 81-83 84", "permit alice 80-84", true),
            ("permit alice 80-82 84", "permit alice 80-84", false),
            ("permit any 80", "permit alice 80", true),
            ("permit alice 80", "permit any 80", false),
            ("permit alice 80", "permit alice 80/udp", false),
            ("permit alice 80", "permit alice 80 on 127.0.0.1", true),
            ("permit alice 80 on 0.0.0.0/0 [::]/0", "permit alice 80", true),
            ("permit alice 80 on 127.0.0.0/8", "permit alice 80 on 126.0.0.0/7", false),
            ("permit alice 80 on 0.0.0.0/0", "permit alice 80 on 0.0.0.0 10.0.0.0/8", true),
            ("permit alice 80 on 0.0.0.0/0", "permit alice 80 on [::]", false),
            ("permit alice 80", "permit alice 80 reuseport", false),
            ("permit alice 80 dev eth0", "permit alice 80", false),
            ("permit alice 80", "permit alice 80 dev eth0 exec /x", true),
            ("permit alice 80 exec /x", "permit alice 80", false),
            ("permit nobody-here 80", "permit nobody-there 80", false),
        ] {
            let (one, other) = pair(wide, narrow);
            assert_eq!(makes_needless(&one, &other), expected, "{wide}; {narrow}");
        }
    }

    #[test]
    fn a_deny_takes_all_of_a_permit_or_some_or_nothing() {
        for (deny, permit, all, some) in [
            ("deny alice 80", "permit alice 80", true, true),
            ("deny alice 80", "permit alice 80-81", false, true),
            ("deny alice any", "permit alice 80 443/udp", true, true),
            ("deny alice 80/udp", "permit alice 80", false, false),
            ("deny alice 80 on 10.0.0.0/8", "permit alice 80 on 0.0.0.0", true, true),
            ("deny alice 80 on 10.0.0.0/8", "permit alice 80", false, true),
            ("deny alice 80 on 0.0.0.0", "permit alice 80 on 10.0.0.0/8", false, false),
            ("deny alice 80 on [::1]", "permit alice 80 on 0.0.0.0/0", false, false),
            ("deny alice 80 dev eth0", "permit alice 80 dev eth1", false, false),
            ("deny alice 80 dev eth0", "permit alice 80/udp dev eth1", true, true),
            ("deny alice 80 dev eth0", "permit alice 80 dev eth0", true, true),
            ("deny alice 80 on 127.0.0.1", "permit alice 80 on 10.0.0.1", false, false),
            ("deny alice 80 on 127.0.0.1", "permit alice 80/udp on 10.0.0.1", true, true),
            ("deny alice 80 on 127.0.0.1", "permit alice 80/udp", false, true),
            ("deny alice 80 on 127.0.0.1", "permit alice 80 80/udp on 10.0.0.1", false, true),
            ("deny alice 80 on 127.0.0.1", "permit alice 80/udp on [::1]", false, false),
            ("deny alice 80 on 0.0.0.0", "permit alice 80/udp on 10.0.0.1", false, false),
        ] {
            let (deny_rule, permit_rule) = pair(deny, permit);
            assert_eq!(denies_all(&deny_rule, &permit_rule), all, "all: {deny}; {permit}");
            assert_eq!(denies_some(&deny_rule, &permit_rule), some, "some: {deny}; {permit}");
        }
    }

    /// Every rule that these clauses make, with its text. Whom it speaks of is a matter of its own.
    fn every_rule(effect: &str, words: &[&str]) -> Vec<(String, Policy)> {
        const ON: [&str; 9] = [
            "",
            "on 0.0.0.0",
            "on 0.0.0.0/0",
            "on 10.0.0.0/8",
            "on 10.1.0.0/16",
            "on 127.0.0.0/8",
            "on [::]",
            "on [::]/0 0.0.0.0",
            "on [::1]",
        ];
        let mut rules = Vec::new();
        for ports in ["80-82", "80 81/udp"] {
            for on in ON {
                for dev in ["", "dev a", "dev b"] {
                    rules.extend(words.iter().map(|word| format!("{effect} any {ports} {on} {dev} {word}")));
                }
            }
        }
        rules.into_iter().map(|text| (text.clone(), policy(&text))).collect()
    }

    fn every_endpoint() -> Vec<Resolved> {
        let mut endpoints = Vec::new();
        for address in ["0.0.0.0", "[::]", "10.1.0.1", "10.9.0.1", "[::1]", "each", "127.0.0.1"] {
            for port in ["80", "81", "80/udp", "81/udp"] {
                for option in ["", ",v6only", ",dev=a", ",dev=b", ",reuseport"] {
                    endpoints.extend(format!("{address}:{port}{option}").parse::<Endpoint>().ok());
                }
            }
        }
        endpoints.into_iter().filter_map(|endpoint| endpoint.resolve(&Default::default()).ok()).collect()
    }

    /// What the rules together permit, endpoint by endpoint.
    fn permitted(policy: &Policy, endpoints: &[Resolved]) -> Vec<bool> {
        let caller = Caller::account("alice", &names()).expect("alice");
        let permits = |endpoint: &Resolved| {
            let program = Some(AskedProgram { path: b"/x", unfit: None });
            let ask = Ask { endpoint: endpoint.clone(), domain: Domain::OfAddress, program };
            matches!(decide(policy, &caller, ask), Decision::Permit(_))
        };
        endpoints.iter().map(permits).collect()
    }

    #[test]
    fn a_rule_that_is_called_needless_permits_nothing_that_the_other_does_not() {
        let endpoints = every_endpoint();
        let rules = every_rule("permit", &["", "reuseport", "exec /x", "exec /y"]);
        let permitted: Vec<Vec<bool>> = rules.iter().map(|(_, policy)| permitted(policy, &endpoints)).collect();
        let mut claims = 0;
        for (narrow, narrows) in rules.iter().zip(&permitted) {
            for (wide, wides) in rules.iter().zip(&permitted) {
                if makes_needless(&wide.1.rules[0], &narrow.1.rules[0]) {
                    claims += 1;
                    let lost =
                        narrows.iter().zip(wides).zip(&endpoints).find(|((narrow, wide), _)| **narrow && !**wide);
                    assert!(lost.is_none(), "{}; {}; {lost:?}", wide.0, narrow.0);
                }
            }
        }
        assert!(claims > 2 * rules.len(), "it claims too little: {claims}");
    }

    #[test]
    fn a_deny_takes_what_it_is_said_to_take() {
        let endpoints = every_endpoint();
        let denies = every_rule("deny", &[""]);
        for (text, permit) in every_rule("permit", &["", "reuseport"]) {
            let before = permitted(&permit, &endpoints);
            let left: Vec<Vec<bool>> = denies
                .iter()
                .map(|(_, deny)| {
                    let rules = [permit.rules.clone(), deny.rules.clone()].concat();
                    permitted(&Policy { rules, ..Policy::default() }, &endpoints)
                })
                .collect();
            for ((deny_text, deny), left) in denies.iter().zip(&left) {
                let (deny, permit) = (&deny.rules[0], &permit.rules[0]);
                let all = denies_all(deny, permit) && left.iter().any(|&left| left);
                let some = !denies_some(deny, permit) && *left != before;
                assert!(!all && !some, "all {all}, some {some}: {deny_text}; {text}");
            }
            for ((wide_text, wide), wides) in denies.iter().zip(&left) {
                for ((narrow_text, narrow), narrows) in denies.iter().zip(&left) {
                    let needless = makes_needless(&wide.rules[0], &narrow.rules[0]);
                    let lets_through = wides.iter().zip(narrows).any(|(&wide, &narrow)| wide && !narrow);
                    assert!(!needless || !lets_through, "{wide_text}; {narrow_text}; {text}");
                }
            }
        }
    }
}
