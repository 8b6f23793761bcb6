//! The text of a policy: any bytes end in rules or in problems with a place; and of what is decided, order changes nothing, a
//! permit rests on one rule, and a further deny never widens it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portgrant_policy::audit::{Line, Outcome};
use portgrant_policy::{
    AddressSet, Ask, AskedProgram, Caller, Decision, Distrust, Domain, Effect, Names, Policy, Rule, Source,
    decide, refused,
};
use portgrant_protocol::service::Services;
use portgrant_protocol::{Endpoint, Resolved};
use words::is_printable;

const PASSWD: &[u8] = b"root:x:0:0:::\nalice:x:1000:1000:::\nbob:x:1001:1001:::\ncarol:x:1002:33:::\n";
const GROUP: &[u8] = b"web:x:33:alice\nalice:x:1000:\n";
const SERVICES: &[u8] =
    b"http 80/tcp\ndomain 53/tcp\ndomain 53/udp\ntftp 69/udp\nlogin 513/tcp\nldaps 636/tcp\nm3ua 80/sctp\n";

fn names() -> Names {
    Names::of(PASSWD, GROUP, SERVICES)
        .with_subordinate_ids(b"alice:2000:10\nstranger:3000:5\n", b"bob:4000:10\nstranger:33:1\n")
}

const ASKED: [&str; 14] = [
    "80",
    "53/udp",
    "127.0.0.1:80",
    "[::1]:80",
    "[::]:80,v6only",
    "0.0.0.0:53/udp",
    "each:53/udp",
    "80/sctp",
    "80,dev=lo",
    "636",
    "80,reuseport",
    "80,freebind",
    "80/mptcp",
    "10.0.0.1:53/udp",
];

const CALLERS: [u32; 6] = [0, 1000, 1001, 1002, 2005, 3001];

fn caller(uid: u32) -> Caller {
    Caller { uid, gid: uid, groups: vec![4003], ..Caller::default() }
}

fn verdicts(policy: &Policy, names: &Names) -> Vec<bool> {
    let services = Services::parse(SERVICES);
    let mut all = Vec::new();
    for uid in CALLERS {
        let Ok(caller) = caller(uid).with_accounts(policy, names) else { continue };
        let caller = caller.named(names);
        for asked in ASKED {
            let endpoint: Endpoint = asked.parse().expect("an endpoint");
            let endpoint: Resolved = endpoint.resolve(&services).expect("a number");
            let unfit = (b"/bin/true".to_vec(), Distrust::Writable(0o666));
            for (domain, program) in
                [(Domain::OfAddress, Some(None)), (Domain::OfAddress, Some(Some(unfit))), (Domain::Inet6, None)]
            {
                let program = program.map(|unfit| AskedProgram { path: b"/bin/true", unfit });
                let decision = decide(policy, &caller, Ask { endpoint: endpoint.clone(), domain, program });
                match &decision {
                    Decision::Permit(permit) => {
                        let rule = permit.rule();
                        assert!(rule.effect == Effect::Permit && rule.applies_to(&caller), "{rule:?}");
                        assert!(rule.ports.iter().any(|ports| {
                            (ports.first..=ports.last).contains(&endpoint.port)
                                && ports.protocols.contains(endpoint.endpoint.protocol)
                        }));
                        let denied = policy.rules.iter().any(|rule| {
                            rule.effect == Effect::Deny
                                && rule.applies_to(&caller)
                                && rule.addresses.is_empty()
                                && rule.dev.is_none()
                                && rule.ports.iter().any(|ports| {
                                    (ports.first..=ports.last).contains(&endpoint.port)
                                        && ports.protocols.contains(endpoint.endpoint.protocol)
                                })
                        });
                        assert!(!denied, "{asked} by {uid} is denied and permitted");
                    }
                    Decision::Refuse(refusal) => {
                        let message = refused(refusal, &caller, policy, names);
                        assert!(
                            message.status == 77 && message.text("portgrant").lines().all(is_printable),
                            "{message:?}"
                        );
                        let rule = refusal.reason.rule().map(|rule| policy.place(rule));
                        let outcome = Outcome::Refuse;
                        let (uid, gid, endpoint) = (caller.uid, caller.gid, refusal.endpoint.to_string());
                        let line = Line {
                            outcome,
                            uid,
                            gid,
                            verb: "exec",
                            endpoint,
                            rule,
                            program: refusal.program.as_deref(),
                        };
                        assert!(is_printable(&line.as_of("portgrant-binder", 1)));
                    }
                }
                all.push(matches!(decision, Decision::Permit(_)));
            }
        }
    }
    all
}

fn parse(sources: Vec<Source>, names: &Names) -> Option<Policy> {
    match Policy::parse(sources, names).expect("the tables are given") {
        Ok(policy) => {
            for warning in &policy.warnings {
                assert!(is_printable(&warning.wrong.to_string()), "{warning:?}");
            }
            Some(policy)
        }
        Err((policy, problems)) => {
            assert!(!problems.is_empty());
            for problem in &problems {
                assert!(problem.line > 0 && problem.column > 0 && is_printable(&problem.wrong.to_string()));
                assert!(is_printable(&policy.line(problem.file, problem.line)));
            }
            None
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let names = names();
    let source = |text: &[u8]| Source { path: b"/etc/portgrant.conf".to_vec(), text: text.to_vec() };
    let Some(policy) = parse(vec![source(data)], &names) else { return };
    assert!(policy.rules.len() < 200 || data.len() > 200);
    for rule in &policy.rules {
        assert!(policy.place(rule).starts_with("/etc/portgrant.conf:") && is_printable(&policy.text(rule)));
        assert!(rule.ports.iter().all(|ports| ports.first <= ports.last && !ports.protocols.is_empty()));
        assert!(
            rule.effect == Effect::Permit || !(rule.reuseport || rule.freebind || rule.program.is_some())
        );
        for set in &rule.addresses {
            assert_eq!(AddressSet::parse(&set.to_string()), Ok(*set));
        }
        assert!(rule.program.as_deref().is_none_or(|path| policy.names_program(path)));
        // The rule's own text is the same rule.
        let alone =
            [policy.sources[rule.file].text.split(|byte| *byte == b'\n').nth(rule.line - 1).unwrap_or_default(), b"\n"]
                .concat();
        let alone = parse(vec![source(&alone)], &names).expect("one good line of a good policy");
        assert_eq!((alone.rules[0].subject, &alone.rules[0].ports), (rule.subject, &rule.ports));
    }
    let before = verdicts(&policy, &names);
    // The helper keeps no rule that cannot apply to its caller, and decides as if it had kept all.
    let kept = |rule: &Rule| CALLERS.iter().any(|uid| rule.may_apply_to(&caller(*uid)));
    let some = Policy::parse_some(vec![source(data)], &names, &kept).expect("the tables are given");
    let some = some.expect("no line is read less than before");
    assert!(some.count == policy.count && some.rules.len() <= policy.rules.len());
    assert_eq!(before, verdicts(&some, &names), "a rule that was not kept decides");
    let mut lines: Vec<&[u8]> = data.split_inclusive(|byte| *byte == b'\n').collect();
    lines.reverse();
    // A last line that is a comment needs no line feed, and as the first it would swallow the next.
    if lines.iter().all(|line| line.ends_with(b"\n")) {
        let reversed = parse(vec![source(&lines.concat())], &names).expect("the same lines");
        assert_eq!(before, verdicts(&reversed, &names), "order decides");
    }
    let denied = parse(vec![source(data), source(b"deny alice 80\n")], &names).expect("one more rule");
    let after = verdicts(&denied, &names);
    if before.len() == after.len() {
        assert!(before.iter().zip(&after).all(|(before, after)| before >= after), "a deny widened the policy");
    }
});
