use portgrant_policy::{Ask, AskedProgram, Caller, Decision, Domain, Names, Policy, Source, decide};
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

/// Enough for any two rules.
pub(crate) fn unbounded() -> Budget {
    Budget::new(u64::MAX)
}

fn makes_needless(wide: &Rule, narrow: &Rule) -> bool {
    Extent::of(wide).makes_needless(&Extent::of(narrow), &unbounded())
}

fn denies_all(deny: &Rule, permit: &Rule) -> bool {
    Extent::of(deny).denies_all(&Extent::of(permit), &unbounded())
}

fn denies_some(deny: &Rule, permit: &Rule) -> bool {
    Extent::of(deny).denies_some(&Extent::of(permit), &unbounded())
}

fn pair(one: &str, other: &str) -> (Rule, Rule) {
    match policy(&format!("{one}\n{other}\n")).rules.as_slice() {
        [one, other] => (one.clone(), other.clone()),
        rules => panic!("{rules:?}"),
    }
}

#[test]
fn only_a_wider_rule_makes_a_rule_needless() {
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
        ("permit alice 80 on 10.0.0.0/9 10.128.0.0/9", "permit alice 80 on 10.0.0.0/8", true),
        ("permit alice 80 on 0.0.0.0/1 128.0.0.0/1", "permit alice 80 on 0.0.0.0/0", false),
        ("permit alice 80 on [::]/1 [8000::]/1", "permit alice 80 on [::1]", true),
        ("permit alice 80 on 0.0.0.0 [::]", "permit alice 80", false),
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
fn a_deny_covers_all_of_a_permit_or_part_of_it_or_nothing() {
    for (deny, permit, all, some) in [
        ("deny alice 80", "permit alice 80", true, true),
        ("deny alice 80", "permit alice 80-81", false, true),
        ("deny alice any", "permit alice 80 443/udp", true, true),
        ("deny alice 80/udp", "permit alice 80", false, false),
        ("deny alice 80 on 10.0.0.0/8", "permit alice 80 on 0.0.0.0", true, true),
        ("deny alice 80 on 10.0.0.0/8", "permit alice 80", false, true),
        ("deny alice 80 on 0.0.0.0", "permit alice 80 on 10.0.0.0/8", false, false),
        ("deny alice 80 on 0.0.0.0/1 128.0.0.0/1", "permit alice 80 on 0.0.0.0/0", true, true),
        ("deny alice 80/udp on 10.0.0.1", "permit alice 80/udp on 10.0.0.2", true, true),
        ("deny alice 80/udp on [::1]", "permit alice 80/udp on 10.0.0.2", false, false),
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
        ("deny alice 80 on 10.0.0.1 [::1]", "permit alice 80/udp", true, true),
    ] {
        let (deny_rule, permit_rule) = pair(deny, permit);
        assert_eq!(denies_all(&deny_rule, &permit_rule), all, "all: {deny}; {permit}");
        assert_eq!(denies_some(&deny_rule, &permit_rule), some, "some: {deny}; {permit}");
    }
}

/// Every rule that these clauses make, with its text. Subjects are compared separately.
fn every_rule(effect: &str, words: &[&str]) -> Vec<(String, Policy)> {
    const ON: [&str; 11] = [
        "",
        "on 0.0.0.0",
        "on 0.0.0.0/0",
        "on 10.0.0.0/8",
        "on 10.1.0.0/16",
        "on 127.0.0.0/8",
        "on [::]",
        "on [::]/0 0.0.0.0",
        "on [::1]",
        "on 0.0.0.0/1 128.0.0.0/1",
        "on 10.0.0.0/9 10.128.0.0/9",
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
fn a_rule_reported_as_needless_permits_nothing_extra() {
    let endpoints = every_endpoint();
    let rules = every_rule("permit", &["", "reuseport", "exec /x", "exec /y"]);
    let permitted: Vec<Vec<bool>> = rules.iter().map(|(_, policy)| permitted(policy, &endpoints)).collect();
    let mut claims = 0;
    for (narrow, narrows) in rules.iter().zip(&permitted) {
        for (wide, wides) in rules.iter().zip(&permitted) {
            if makes_needless(&wide.1.rules[0], &narrow.1.rules[0]) {
                claims += 1;
                let lost = narrows.iter().zip(wides).zip(&endpoints).find(|((narrow, wide), _)| **narrow && !**wide);
                assert!(lost.is_none(), "{}; {}; {lost:?}", wide.0, narrow.0);
            }
        }
    }
    assert!(claims > 2 * rules.len(), "it claims too little: {claims}");
}

#[test]
fn a_deny_reported_to_cover_a_permit_covers_it() {
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
