//! The message of a refusal, and the rule that it names.

use super::*;

#[test]
fn a_refusal_reports_the_nearest_rule() {
    let alice = caller("alice");
    let text = "permit alice 80 on 127.0.0.1\npermit alice 81 dev eth0\npermit alice 82\npermit alice 83 exec /x\ndeny alice 84\npermit bob 85";
    let policy = policy(text);
    let reason = |endpoint| match verdict(&policy, &alice, endpoint, None) {
        Decision::Refuse(refusal) => (refusal.reason.clone(), refusal.reason.rule().map(|rule| rule.line)),
        Decision::Permit(permit) => panic!("{permit:?}"),
    };
    assert!(matches!(reason("80"), (Reason::Address(_), Some(1))));
    assert!(matches!(reason("81"), (Reason::Device(_), Some(2))));
    assert!(matches!(reason("82,reuseport"), (Reason::Option(_, "reuseport"), Some(3))));
    assert!(matches!(reason("83"), (Reason::Program(_), Some(4))));
    assert!(matches!(reason("84"), (Reason::Denied(_), Some(5))));
    assert!(matches!(reason("85"), (Reason::NoRule, None)));
}

/// Rules that come nearer and nearer to permitting one request.
const NEARER: [&str; 8] = [
    "permit alice gopher 81",
    "permit alice 80/udp",
    "permit alice 80 on 127.0.0.1",
    "permit alice 80 dev eth0",
    "permit alice 80",
    "permit alice gopher 80",
    "permit alice 80 reuseport exec /y",
    "permit alice 80 reuseport exec /x",
];

#[test]
fn the_nearest_rule_is_reported_and_of_two_equal_ones_the_first() {
    let program = AskedProgram { path: b"/x", unfit: Some((b"/x".to_vec(), Distrust::Writable(0o777))) };
    let endpoint = resolved("10.0.0.1:80,dev=eth1,reuseport");
    let named = |text: &str| {
        let ask = Ask { endpoint: endpoint.clone(), domain: Domain::OfAddress, program: Some(program.clone()) };
        match decide(&policy(text), &caller("alice"), ask) {
            Decision::Refuse(refusal) => refusal.reason.rule().map(|rule| rule.line),
            Decision::Permit(permit) => panic!("{permit:?}"),
        }
    };
    for (number, near) in NEARER.iter().enumerate() {
        assert_eq!(named(&format!("{near}\n{near}")), Some(1), "{near}");
        for far in &NEARER[..number] {
            assert_eq!(named(&format!("{near}\n{far}")), Some(1), "{near}, {far}");
            assert_eq!(named(&format!("{far}\n{near}")), Some(2), "{far}, {near}");
        }
    }
}

#[test]
fn an_address_or_a_network_is_a_part_of_its_family() {
    let set = |word: &str| AddressSet::parse(word).expect(word);
    for word in ["10.0.0.1", "10.0.0.0/8", "[fd00::1]"] {
        assert!(set(word).is_part_of_family(), "{word}");
    }
    for (word, same) in [("10.0.0.1/32", "10.0.0.1"), ("[fd00::1]/128", "[fd00::1]"), ("0.0.0.0/32", "0.0.0.0")] {
        assert_eq!(set(word), set(same), "the longest prefix is one address");
    }
    for word in ["10.0.0.1/33", "[fd00::1]/129", "10.0.0.0/08"] {
        assert_eq!(AddressSet::parse(word), Err(AddressError::Length), "{word}");
    }
    for word in ["0.0.0.0", "[::]", "0.0.0.0/0", "[::]/0"] {
        assert!(!set(word).is_part_of_family(), "{word}");
    }
}

#[test]
fn a_caller_without_a_name_gets_the_name_from_passwd() {
    let named = |caller: Caller| caller.named(&names()).name;
    assert_eq!(named(Caller { uid: 1000, ..Caller::default() }).as_deref(), Some("alice"));
    assert_eq!(named(Caller { uid: 7777, ..Caller::default() }), None);
    let bobs = Caller { uid: 1000, name: Some("bob".to_owned()), ..Caller::default() };
    assert_eq!(named(bobs).as_deref(), Some("bob"));
}

#[test]
fn an_exec_rule_needs_the_word_reserved_too() {
    for (rule, is_wrong) in [
        ("permit alice 600 exec /bin/x\n", true),
        ("permit alice 600 freebind exec /bin/x\n", true),
        ("permit alice 600 reserved exec /bin/x\n", false),
        ("permit alice 600 reserved freebind exec /bin/x\n", false),
        ("permit alice 80 exec /bin/x\n", false),
        ("permit alice 600 on 127.0.0.1 dev lo reserved reuseport freebind exec /bin/x\n", false),
    ] {
        let reserved = |problem: &Problem| problem.wrong == Wrong::Reserved("600".to_owned());
        let found = problems(rule.as_bytes());
        assert_eq!((found.len(), found.iter().all(reserved)), (usize::from(is_wrong), true), "{rule}");
    }
}

#[test]
fn a_path_may_contain_any_byte_but_nul() {
    assert!(problems(b"permit alice 80 exec /a\x01b\n").is_empty());
    let found = problems(b"permit alice 80 exec /a\0b\n");
    assert!(matches!(found.as_slice(), [Problem { wrong: Wrong::Path(_), column: 22, .. }]), "{found:?}");
}

#[test]
fn a_range_of_ids_includes_its_first_and_last_id() {
    let rule = policy("deny alice 80").rules.remove(0);
    let concerns = |subject, caller: Caller| Rule { subject, ..rule.clone() }.applies_to(&caller);
    for (id, expected) in [(4, false), (5, true), (6, true), (7, true), (8, false)] {
        assert_eq!(concerns(Subject::Uids(5, 7), Caller { uid: id, ..Caller::default() }), expected, "{id}");
        assert_eq!(concerns(Subject::Gids(5, 7), Caller { gid: id, ..Caller::default() }), expected, "{id}");
        let member = Caller { groups: vec![90, id], ..Caller::default() };
        assert_eq!(concerns(Subject::Gids(5, 7), member), expected, "{id}");
    }
}

#[test]
fn a_refusal_near_a_rule_with_an_unknown_service_names_the_rule_and_the_word() {
    let named =
        "'gopher' is not a service in /etc/services, so nothing is permitted by the rule at /etc/portgrant.conf:1";
    for (text, endpoint, is_named) in [
        ("permit alice gopher 80", "80", true),
        ("permit alice gopher 80", "70", true),
        ("permit bob gopher 80", "80", false),
        // For its known ports, this rule is nearer than one with another address; for other ports it is not.
        ("permit alice gopher 80\npermit alice 80 on 10.0.0.1", "80", true),
        ("permit alice gopher 81\npermit alice 80 on 10.0.0.1", "80", false),
    ] {
        let policy = policy(text);
        assert_eq!(policy.rules[0].ports, [], "whoever looks at it, it permits nothing");
        let report = refused(&policy, &caller("alice"), asked(endpoint));
        assert_eq!(
            report.why.as_deref().unwrap_or_default().starts_with(named),
            is_named,
            "{text}, {endpoint}: {}",
            report.why.as_deref().unwrap_or_default()
        );
        assert_eq!(
            report.fix.as_deref().unwrap_or_default().contains("write PORT instead of gopher in that rule"),
            is_named,
            "{}",
            report.fix.as_deref().unwrap_or_default()
        );
        assert_eq!(report.status, 77);
    }
}

#[test]
fn a_refusal_says_that_an_address_or_an_interface_does_not_narrow_udp() {
    let policy =
        policy("permit any 53/udp 54/udp 55/udp\ndeny alice 53 on 127.0.0.53\ndeny alice 54 dev eth0\ndeny alice 55");
    for (endpoint, said) in [
        (
            "10.9.0.2:53/udp",
            "an address does not narrow udp: a udp socket can send from every local address of its family",
        ),
        ("54/udp,dev=eth1", "'dev' does not narrow udp"),
    ] {
        let report = refused(&policy, &caller("alice"), asked(endpoint));
        assert!(
            report.why.as_deref().unwrap_or_default().starts_with("it is denied by the rule at /etc/portgrant.conf:"),
            "{}",
            report.why.as_deref().unwrap_or_default()
        );
        assert!(
            report.why.as_deref().unwrap_or_default().contains(said),
            "{}",
            report.why.as_deref().unwrap_or_default()
        );
    }
    for endpoint in ["127.0.0.53:53/udp", "54/udp,dev=eth0", "55/udp"] {
        let report = refused(&policy, &caller("alice"), asked(endpoint));
        assert!(
            report.why.as_deref().unwrap_or_default().starts_with("it is denied")
                && !report.why.as_deref().unwrap_or_default().contains("narrow"),
            "{endpoint}: {}",
            report.why.as_deref().unwrap_or_default()
        );
    }
}

#[test]
fn a_callers_ipv6_socket_with_an_ipv4_address_counts_for_both_families() {
    let policy = policy("permit alice 53/udp 53\ndeny alice 53 on [fd00::1]");
    let permitted = |endpoint: &str, domain| {
        let ask = Ask { endpoint: resolved(endpoint), domain, program: None };
        matches!(decide(&policy, &caller("alice"), ask), Decision::Permit(_))
    };
    assert!(permitted("10.0.0.1:53/udp", Domain::OfAddress) && !permitted("10.0.0.1:53/udp", Domain::Inet6));
    assert!(permitted("0.0.0.0:53/udp", Domain::OfAddress) && !permitted("0.0.0.0:53/udp", Domain::Inet6));
    assert!(permitted("10.0.0.1:53", Domain::Inet6), "tcp");
}

#[test]
fn an_exec_rule_whose_program_is_unfit_permits_nothing_and_stops_no_other_rule() {
    let found = (b"/x".to_vec(), Distrust::Writable(0o777));
    let ask = |path: &'static str| {
        let program = AskedProgram { path: path.as_bytes(), unfit: Some(found.clone()) };
        Ask { endpoint: resolved("80"), domain: Domain::OfAddress, program: Some(program) }
    };
    let exec = "permit alice 80 exec /x\n";
    for (text, line) in [(format!("{exec}permit alice 80"), 2), (format!("permit alice 80\n{exec}"), 1)] {
        let policy = policy(&text);
        match decide(&policy, &caller("alice"), ask("/x")) {
            Decision::Permit(permit) => assert_eq!(permit.rule().line, line, "{text}"),
            Decision::Refuse(refusal) => panic!("{text}: {refusal:?}"),
        }
    }
    let report = refused(
        &policy(&format!("permit alice 80 exec /y\n{exec}permit alice 80 on 10.0.0.1")),
        &caller("alice"),
        ask("/x"),
    );
    let why = "/x: its mode is 0777: others than root may write to it, so nothing is permitted to that program by the rule \
        at /etc/portgrant.conf:2  permit alice 80 exec /x";
    assert_eq!((report.why.as_deref().unwrap_or_default(), report.status), (why, 77));
    // An unfit file affects only the rules for that file.
    let report = refused(&policy(exec), &caller("alice"), ask("/z"));
    assert!(
        report.why.as_deref().unwrap_or_default().starts_with("it is only for one program"),
        "{}",
        report.why.as_deref().unwrap_or_default()
    );
}

#[test]
fn a_refusal_first_says_what_to_ask_for_instead() {
    for (rule, endpoint, fix) in [
        ("443 on 127.0.0.0/8", "443", "ask for 127.0.0.1:443; or as root, add  permit alice 443  to "),
        ("443 on [::1]", "https=443", "ask for https=[::1]:443; or as root, add  permit alice 443  to "),
        ("443 on 10.1.2.3", "[::]:443,v6only", "ask for 10.1.2.3:443; or as root, add  permit alice 443 on [::]/0"),
        ("443 on 10.0.0.0/8", "443", "ask for an address of 10.0.0.0/8; or as root, add  permit alice 443  to "),
        ("443 on 0.0.0.0", "443,backlog=9", "ask for 0.0.0.0:443,backlog=9; or as root, add  "),
        ("443 on 0.0.0.0/0", "443", "ask for 0.0.0.0:443; or "),
        ("443 on [::]", "127.0.0.1:443", "ask for 443; or as root, add  permit alice 443 on 127.0.0.1  to "),
        ("53/udp", "53", "ask for 53/udp; or as root, add  permit alice 53  to "),
        ("443", "443/udp", "ask for 443/tcp; or as root, add  permit alice 443/udp  to "),
        ("400-500/sctp", "443", "ask for 443/sctp; or as root, add  permit alice 443  to "),
        ("53 on 127.0.0.1", "53/udp", "ask for 127.0.0.1:53/tcp; or as root, add  permit alice 53/udp  to "),
        ("53 dev lo", "53/udp", "ask for 53/tcp,dev=lo; or as root, add  permit alice 53/udp  to "),
        ("53 on [::1] dev lo", "d=53/udp,rcvbuf=9000", "ask for d=[::1]:53/tcp,dev=lo; or as root, add  "),
        ("53 on 10.0.0.0/8", "53/udp", "ask for 53/tcp at an address of 10.0.0.0/8; or as root, add  "),
        ("443 on 127.0.0.1 dev lo", "443,reuseport", "ask for 127.0.0.1:443,dev=lo; or as root, add  "),
        (
            "443 dev lo",
            "443,backlog=9",
            "ask for 443,dev=lo,backlog=9, in exec or pass (one's own socket can leave it)",
        ),
        ("443", "443,reuseport", "ask without reuseport; or as root, add the word reuseport to that rule"),
    ] {
        let policy = policy(&format!("permit alice {rule}"));
        let report = refused(&policy, &caller("alice"), asked(endpoint));
        let said = report.fix.unwrap_or_default();
        assert!(said.starts_with(fix), "{rule}, {endpoint}: {said}");
        // The request that the fix names is permitted.
        let asked =
            said.strip_prefix("ask for ").and_then(|said| said.split("; or ").next()?.split(", in exec").next());
        if let Some(instead) = asked.filter(|asked| !asked.contains("an address")) {
            assert!(matches!(verdict(&policy, &caller("alice"), instead, None), Decision::Permit(_)), "{instead}");
        }
    }
}

#[test]
fn a_refusal_names_a_group_that_the_process_lacks() {
    let policy = policy("permit :web 80\npermit gid:33 81 exec /x");
    let bob = Caller { groups: vec![1001], ..caller("bob") };
    let report = refused(&policy, &bob, asked("80"));
    assert_eq!(
        (report.why.as_deref(), report.fix.as_deref(), report.status),
        (
            Some(
                "bob's account is in web, this process is not, and the rule at /etc/portgrant.conf:1  permit :web 80 is \
                 for that group"
            ),
            Some("log in again; or in this shell, run: newgrp web"),
            77
        )
    );
    // A group that would not help is not mentioned.
    for (who, endpoint) in [(&bob, "80/udp"), (&bob, "81"), (&caller("alice"), "80")] {
        let report = refused(&policy, who, asked(endpoint));
        assert!(!report.why.as_deref().unwrap_or_default().contains("account"), "{endpoint}: {report:?}");
    }
}

#[test]
fn a_refusal_names_a_rule_with_a_misspelt_subject() {
    let policy = policy(
        "permit alcie 80\npermit @web 81\npermit web 82\npermit * 83\npermit alice,bob 84\npermit mallroy 85\ndeny any 86\n\
         permit alcie 86",
    );
    for (who, endpoint, expected) in [
        ("alice", "80", Some(("user 'alcie'", 1, "write alice instead of alcie in that rule"))),
        ("bob", "81", Some(("user '@web'", 2, "write :web instead of @web in that rule"))),
        ("bob", "82", Some(("user 'web'", 3, "write :web instead of web in that rule"))),
        ("bob", "83", Some(("user '*'", 4, "write any instead of * in that rule (if everybody is meant)"))),
        ("bob", "84", Some(("user 'alice,bob'", 5, "write one rule for each of these names in its place"))),
        ("mallory", "85", Some(("user 'mallroy'", 6, "write mallory instead of mallroy in that rule"))),
        ("bob", "80", None),
        ("alice", "81", None),
        ("alice", "80/udp", None),
        ("alice", "86", None),
    ] {
        let report = refused(&policy, &caller(who), asked(endpoint));
        let (why, fix) = (report.why.unwrap_or_default(), report.fix.unwrap_or_default());
        match expected {
            Some((subject, line, instead)) => {
                let begins = format!(
                    "{subject} does not exist, so nothing is permitted by the rule at /etc/portgrant.conf:{line}  permit"
                );
                assert!(why.starts_with(&begins), "{who} {endpoint}: {why}");
                assert_eq!(fix, format!("as root, {instead}"));
            }
            None => assert!(!why.contains("does not exist"), "{who} {endpoint}: {why}"),
        }
    }
}

#[test]
fn a_refusal_names_a_rule_that_lists_the_caller_among_its_ports() {
    let policy = policy(
        "permit alice bob mallory 80\npermit alice web 81\npermit alice all 82\npermit alice, bob 83\npermit alice gopherd 84",
    );
    const ONE: &str = "is a user, and a rule has one subject";
    let each = |word: &str| format!("remove {word} from that rule, and add the same rule for {word}");
    for (who, endpoint, word, is, fix) in [
        ("bob", "80", "bob", ONE, each("bob")),
        ("mallory", "80", "mallory", ONE, each("mallory")),
        ("alice", "80", "bob", ONE, each("bob")),
        (
            "alice",
            "81",
            "web",
            "is a group, and a rule has one subject",
            "remove web from that rule, and add the same rule for :web".to_owned(),
        ),
        (
            "alice",
            "82",
            "all",
            "is not a service in /etc/services",
            "write any reserved instead of all in that rule (if every port is meant)".to_owned(),
        ),
        ("bob", "83", "bob", ONE, each("bob")),
        ("alice", "83", "alice,", "does not exist", "write alice instead of alice, in that rule".to_owned()),
        (
            "alice",
            "84",
            "gopherd",
            "is not a service in /etc/services",
            "write PORT instead of gopherd in that rule; or as root, remove gopherd from that rule".to_owned(),
        ),
    ] {
        let report = refused(&policy, &caller(who), asked(endpoint));
        let begins = format!("'{word}' {is}, so nothing is permitted by the rule at /etc/portgrant.conf:");
        let why = report.why.unwrap_or_default();
        assert!(why.trim_start_matches("user ").starts_with(&begins), "{who} {endpoint}: {why}");
        assert_eq!(report.fix, Some(format!("as root, {fix}")), "{who} {endpoint}");
    }
    // Nobody else's refusal speaks of it, nor one that the rule would not change.
    for (who, endpoint) in [("bob", "81"), ("bob", "84"), ("mallory", "83"), ("bob", "80/udp")] {
        let report = refused(&policy, &caller(who), asked(endpoint));
        assert!(
            report.why.as_deref().unwrap_or_default().starts_with("none of the 5 rules"),
            "{who} {endpoint}: {report:?}"
        );
    }
}

#[test]
fn a_user_of_a_directory_service_is_shown_by_name_but_the_rule_uses_the_uid() {
    let policy = policy("permit root 80");
    let name = Some("DOM\\bob".to_owned());
    let caller = Caller { uid: 10_001, gid: 10_001, name, is_of_directory: true, ..Caller::default() };
    let report = refused(&policy, &caller, asked("80"));
    assert_eq!(report.what, "80/tcp is refused for DOM\\bob (uid 10001)");
    let fix = "as root, add  permit uid:10001 80  to /etc/portgrant.d/uid-10001.conf";
    assert_eq!(report.fix.as_deref(), Some(fix));
}
