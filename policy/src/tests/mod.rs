//! Tables of requests and verdicts, and of malformed lines. `naive` compares random policies with a second evaluator.

mod accounts;
mod malformed;
mod naive;
mod questions;
mod refusals;

use portgrant_protocol::{Endpoint, Resolved};

use super::*;

const PASSWD: &[u8] =
    b"root:x:0:0:::\nnews:x:9:9:::\nalice:x:1000:1000:::\nbob:x:1001:1001:::\nmallory:x:1002:1002:::\n";
const GROUP: &[u8] = b"news:x:9:\nweb:x:33:bob\nalice:x:1000:\nstaff:x:50:carol\n";
const SERVICES: &[u8] = b"http 80/tcp www\nnntp 119/tcp\nnntps 563/tcp\nsubmission 587/tcp\ntftp 69/udp\n\
    domain 53/tcp\ndomain 53/udp\nsyslog 514/udp\nlogin 513/tcp\nquic 443/udp\nreserved 80/tcp\nexec 512/tcp\n\
    dup 90/tcp pair\ndup 91/tcp pair\ndup 92/udp pair\nudp 7/tcp\n";

/// Subordinate ids of alice, of bob, who is in the group web, and of carol, who is not in /etc/passwd.
const SUBUID: &[u8] = b"alice:100000:65536\n1001:165536:65536\ncarol:300000:10\nbob:100005:1\n";
const SUBGID: &[u8] = b"bob:200000:65536\nalice:100000:65536\n";

fn names() -> Names {
    Names::of(PASSWD, GROUP, SERVICES).with_subordinate_ids(SUBUID, SUBGID)
}

/// The policy `text`. Its last line feed may be missing.
fn policy(text: &str) -> Policy {
    let sources = vec![Source { path: "/etc/portgrant.conf".into(), text: format!("{text}\n").into_bytes() }];
    match Policy::parse(sources, &names()).expect("the tables are given") {
        Ok(policy) => policy,
        Err((_, problems)) => panic!("{text}: {problems:?}"),
    }
}

fn problems(text: &[u8]) -> Vec<Problem> {
    let sources = vec![Source { path: "/etc/portgrant.conf".into(), text: text.to_vec() }];
    Policy::parse(sources, &names())
        .expect("the tables are given")
        .err()
        .map(|malformed| malformed.1)
        .unwrap_or_default()
}

fn caller(name: &str) -> Caller {
    Caller::account(name, &names()).expect(name)
}

fn resolved(endpoint: &str) -> Resolved {
    endpoint.parse::<Endpoint>().expect(endpoint).resolve(names().services().expect("given")).expect(endpoint)
}

fn verdict<'p>(policy: &'p Policy, who: &Caller, endpoint: &str, program: Option<&str>) -> Decision<'p> {
    let program = program.map(|path| AskedProgram { path: path.as_bytes(), unfit: None });
    decide(policy, who, Ask { endpoint: resolved(endpoint), domain: Domain::OfAddress, program })
}

fn refused(policy: &Policy, caller: &Caller, ask: Ask<'_>) -> portgrant_protocol::Message {
    match decide(policy, caller, ask) {
        Decision::Refuse(refusal) => crate::refused(&refusal, caller, policy, &names()),
        Decision::Permit(permit) => panic!("{permit:?}"),
    }
}

fn asked(endpoint: &str) -> Ask<'_> {
    Ask { endpoint: resolved(endpoint), domain: Domain::OfAddress, program: None }
}

/// A policy, and what it permits (`+`) and refuses (`-`): `who endpoint [program]`.
const VERDICTS: &[(&str, &[&str])] = &[
    ("", &["-alice 80"]),
    ("# permit alice 80\n\t \n", &["-alice 80"]),
    (
        "permit alice 80 # for the web",
        &["+alice 80", "-alice 81", "-bob 80", "-root 80", "-alice 80/udp", "-alice 80/sctp"],
    ),
    (
        "permit alice 80",
        &["+alice 80/mptcp", "+alice [::1]:80", "+alice 0.0.0.0:80", "+alice [::]:80,v6only", "+alice 80,dev=eth0"],
    ),
    ("permit alice 80/udp 81/sctp", &["+alice 80/udp", "-alice 80", "+alice 81/sctp", "-alice 81"]),
    ("permit news nntp nntps", &["+news nntp", "+news 119", "+news 563", "-news 80"]),
    ("permit any www", &["+alice 80", "+bob http", "+root 80"]),
    ("permit :web 80-82", &["+bob 80", "+bob 82", "-bob 83", "-bob 79", "-alice 80"]),
    ("permit gid:33 80\npermit uid:1000 81", &["+bob 80", "-alice 80", "+alice 81"]),
    ("permit alice any reserved", &["+alice 1", "+alice 1023", "+alice 65535", "-alice 80/udp", "-bob 1"]),
    // A deny beats a permit, wherever it stands, for every protocol that it does not name.
    ("permit alice 80 80/udp\ndeny alice 80", &["-alice 80", "-alice 80/udp"]),
    ("deny alice 80/udp\npermit alice 80 80/udp", &["+alice 80", "-alice 80/udp"]),
    ("permit any any reserved\ndeny mallory any", &["+alice 80", "-mallory 80", "-mallory 80/udp"]),
    ("permit any 1-100\ndeny alice 53-90", &["+alice 52", "-alice 53", "-alice 90", "+alice 91", "+bob 53"]),
    ("permit any 514 53 reserved\ndeny any domain", &["-alice 53", "-alice 53/udp", "+alice 514"]),
    // A deny for a group applies to the account, even if the process has given up the group.
    ("permit any 80\ndeny :web any", &["-bob 80", "+alice 80"]),
    // Addresses: containment for a permit, overlap for a deny.
    (
        "permit alice 80 on 127.0.0.0/8",
        &[
            "+alice 127.0.0.1:80",
            "+alice 127.255.255.255:80",
            "-alice 128.0.0.0:80",
            "-alice 0.0.0.0:80",
            "-alice 80",
            "-alice [::1]:80",
        ],
    ),
    (
        "permit alice 80 on 127.0.0.1 [::1]",
        &["+alice 127.0.0.1:80", "+alice [::1]:80", "+alice [::ffff:127.0.0.1]:80", "-alice 127.0.0.2:80", "-alice 80"],
    ),
    (
        "permit alice 80 on 0.0.0.0",
        &["+alice 0.0.0.0:80", "-alice 127.0.0.1:80", "-alice 80", "-alice [::]:80", "-alice [::]:80,v6only"],
    ),
    ("permit alice 80 on 0.0.0.0/0", &["+alice 0.0.0.0:80", "+alice 127.0.0.1:80", "-alice 80", "-alice [::1]:80"]),
    (
        "permit alice 80 on [::]/0",
        &[
            "+alice [::1]:80",
            "+alice [::]:80,v6only",
            "-alice 80",
            "-alice [::]:80",
            "-alice 127.0.0.1:80",
            "-alice [::ffff:1.2.3.4]:80",
        ],
    ),
    ("permit alice 80 on [::]/0 0.0.0.0/0", &["+alice 80", "+alice [::]:80", "+alice 1.2.3.4:80"]),
    (
        "permit alice 80 on [::]",
        &["+alice 80", "+alice [::]:80,v6only", "+alice 0.0.0.0:80", "-alice [::1]:80", "-alice 1.2.3.4:80"],
    ),
    ("permit alice 80 on 0.0.0.0/1", &["+alice 1.2.3.4:80", "-alice 0.0.0.0:80", "-alice 200.0.0.1:80"]),
    ("permit alice 80 on [::ffff:10.0.0.0]/104", &["+alice 10.1.2.3:80", "-alice 11.0.0.1:80", "-alice [::1]:80"]),
    ("permit alice 80\npermit alice 80 on 127.0.0.1", &["+alice 80"]),
    ("permit alice 80 on 0.0.0.0/0\npermit alice 80 on [::]/0", &["-alice 80", "+alice 0.0.0.0:80"]),
    (
        "permit alice 80\ndeny alice 80 on 10.0.0.0/8",
        &[
            "+alice 127.0.0.1:80",
            "-alice 10.0.0.1:80",
            "-alice 0.0.0.0:80",
            "-alice 80",
            "+alice [::1]:80",
            "+alice [::]:80,v6only",
        ],
    ),
    (
        "permit alice 80\ndeny alice 80 on [::1]",
        &["+alice 0.0.0.0:80", "-alice 80", "-alice [::]:80,v6only", "-alice [::1]:80", "+alice [::2]:80"],
    ),
    (
        "permit alice 80\ndeny alice 80 on 0.0.0.0",
        &["-alice 0.0.0.0:80", "-alice 80", "+alice 1.2.3.4:80", "+alice [::]:80,v6only"],
    ),
    // Interfaces.
    ("permit alice 80 dev eth1", &["+alice 80,dev=eth1", "-alice 80", "-alice 80,dev=eth0", "-alice 80,dev=eth11"]),
    ("permit alice 80\ndeny alice 80 dev eth1", &["-alice 80", "-alice 80,dev=eth1", "+alice 80,dev=eth0"]),
    // The holder of a datagram socket can remove it from its interface.
    ("permit alice 80/udp\ndeny alice 80 dev eth1", &["-alice 80/udp", "-alice 80/udp,dev=eth0"]),
    // An address does not limit a datagram socket either: a deny for any address that it can send from applies.
    (
        "permit alice 53/udp\ndeny alice 53/udp on 127.0.0.53",
        &[
            "-alice 127.0.0.53:53/udp",
            "-alice 10.0.0.1:53/udp",
            "-alice 0.0.0.0:53/udp",
            "-alice [::ffff:10.0.0.1]:53/udp",
            "-alice 53/udp",
            "-alice each:53/udp",
            "+alice [::1]:53/udp",
            "+alice [::]:53/udp,v6only",
        ],
    ),
    (
        "permit alice 53/udp 53\ndeny alice 53 on [fd00::1]",
        &[
            "-alice [::1]:53/udp",
            "-alice [::]:53/udp,v6only",
            "-alice 53/udp",
            "+alice 10.0.0.1:53/udp",
            "+alice 0.0.0.0:53/udp",
            "+alice [::1]:53",
            "-alice [fd00::1]:53",
        ],
    ),
    (
        "permit alice 53/udp\ndeny alice 53/udp on 0.0.0.0",
        &["-alice 0.0.0.0:53/udp", "-alice 53/udp", "+alice 10.0.0.1:53/udp", "+alice [::]:53/udp,v6only"],
    ),
    ("permit alice 53/udp\ndeny alice 53/tcp on 10.0.0.1", &["+alice 10.0.0.1:53/udp", "+alice 53/udp"]),
    ("permit alice 53/udp on 10.0.0.1", &["+alice 10.0.0.1:53/udp", "-alice 10.0.0.2:53/udp"]),
    // Options that a rule must grant, and options that are always permitted.
    (
        "permit alice 80",
        &["-alice 80,reuseport", "-alice 80,freebind", "+alice 80,backlog=5,keepalive=1:2:3,linger=0,tos=8,rcvbuf=9"],
    ),
    ("permit alice 80 freebind reuseport", &["+alice 80,reuseport", "+alice 80,freebind,reuseport"]),
    ("permit alice 80 reuseport\npermit alice 80 freebind", &["-alice 80,freebind,reuseport"]),
    // Programs.
    (
        "permit news 119 exec /usr/lib/news/bin/innd",
        &[
            "+news 119 /usr/lib/news/bin/innd",
            "-news 119",
            "-news 119 /usr/lib/news/bin/innd2",
            "-news 119 /usr/lib/news/bin/../bin/innd",
            "-news 119 /usr/lib/news//bin/innd",
        ],
    ),
    ("permit news 119 exec /a b #c \t", &["+news 119 /a b #c"]),
    ("permit news 119 exec /x\npermit news 119", &["+news 119"]),
    // `each` needs every address of both families, and a deny for any of them applies.
    ("permit alice 520/udp reserved", &["+alice each:520/udp"]),
    ("permit alice 520/udp on 0.0.0.0/0 [::]/0 reserved", &["+alice each:520/udp"]),
    ("permit alice 520/udp on 0.0.0.0/0 reserved", &["-alice each:520/udp"]),
    ("permit alice 520/udp on [::] reserved", &["-alice each:520/udp", "+alice 520/udp"]),
    ("permit alice 520/udp on [::]/0 0.0.0.0 reserved", &["-alice each:520/udp", "+alice 520/udp"]),
    ("permit alice 520/udp reserved\ndeny alice 520 on 10.0.0.1", &["-alice each:520/udp"]),
    // An unknown name in a permit matches nobody, and an unknown service makes the whole rule permit nothing.
    ("permit nobody-here 80\npermit alice 80", &["+alice 80", "-root 80"]),
    ("permit :nogroup 80", &["-root 80", "-alice 80"]),
    ("permit alice gopher 80", &["-alice 80"]),
    ("permit alice 80 gopher", &["-alice 80"]),
    ("permit alice 70-90 http gopher/udp 443/udp", &["-alice 80", "-alice 70", "-alice 443/udp"]),
    ("permit alice tftp/tcp 80", &["-alice 80", "-alice 69", "-alice 69/udp"]),
    ("permit alice gopher 80\npermit alice 80", &["+alice 80"]),
    // A service in a deny is every port that the name has, for every protocol if none is named.
    ("permit any 1-511 1-511/udp\ndeny any tftp", &["-alice 69", "-alice 69/udp", "+alice 68/udp", "+alice 70"]),
    ("permit any 1-511 1-511/udp\ndeny any tftp/udp", &["+alice 69", "-alice 69/udp"]),
    (
        "permit any 1-511 1-511/udp\ndeny any dup",
        &["-alice 90", "-alice 91", "-alice 92", "-alice 90/udp", "+alice 93"],
    ),
    ("permit any 1-511 1-511/udp\ndeny any dup/tcp", &["-alice 90", "-alice 91", "+alice 92", "+alice 90/udp"]),
    ("permit any 1-511 1-511/udp\ndeny any pair", &["-alice 90", "-alice 91", "-alice 92/udp", "+alice 93"]),
    ("permit any dup", &["+alice 90", "-alice 91"]),
];

#[test]
fn every_line_of_the_table_gets_its_verdict() {
    for (text, verdicts) in VERDICTS {
        let policy = policy(text);
        for line in *verdicts {
            let mut words = line.get(1..).unwrap_or_default().splitn(3, ' ');
            let (who, endpoint) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let decision = verdict(&policy, &caller(who), endpoint, words.next());
            let permitted = matches!(decision, Decision::Permit(_));
            assert_eq!(permitted, line.starts_with('+'), "{text}\n  {line}: {decision:?}");
        }
    }
}

/// The tables of portgrant.conf(5)'s EXAMPLES: their cells, row by row.
fn tables_of_the_manual() -> Vec<Vec<Vec<&'static str>>> {
    let page = include_str!("../../../packaging/man/portgrant.conf.5");
    let (_, examples) = page.split_once(".SH EXAMPLES\n").expect("there are examples");
    let (examples, _) = examples.split_once("\n.SH ").expect("they end");
    let rows = |table: &'static str| {
        let (_, rows) = table.split_once("\n_\n")?;
        let (rows, _) = rows.split_once(".TE")?;
        Some(rows.lines().map(|row| row.split('|').collect()).collect())
    };
    examples.split(".TS\n").filter_map(rows).collect()
}

#[test]
fn the_manual_s_examples_get_the_verdicts_that_it_states() {
    let tables = tables_of_the_manual();
    let [permits, denies] = tables.as_slice() else { panic!("{tables:?}") };
    assert!(permits.len() > 9 && denies.len() > 6, "{tables:?}");
    let decided = |policy: &Policy, endpoint: &str| match verdict(policy, &caller("alice"), endpoint, None) {
        Decision::Permit(_) => "permitted",
        Decision::Refuse(_) => "refused",
    };
    for row in permits {
        let [rule, request, said] = row.as_slice() else { panic!("{row:?}") };
        let rule = format!("permit alice {rule}\n");
        let said = said.split(':').next().expect("a word");
        if said == "malformed" {
            assert!(!problems(rule.as_bytes()).is_empty(), "{rule}");
        } else {
            assert_eq!(decided(&policy(&rule), request), said, "{rule}{request}");
        }
    }
    let policy = policy("permit alice 80 53/udp\ndeny alice any on 10.0.0.0/8\n");
    for row in denies {
        let [requests, said] = row.as_slice() else { panic!("{row:?}") };
        for request in requests.split(", or ") {
            assert_eq!(decided(&policy, request), said.split(':').next().expect("a word"), "{request}");
        }
    }
}

#[test]
fn unwanted_rules_are_only_counted() {
    let text = "permit bob 80 on 10.0.0.0/8 dev lo exec /x\npermit nobody-here 81\npermit alice 82\ndeny mallory 83\n";
    let parse = |text: &str| {
        let sources = vec![Source { path: "/etc/portgrant.conf".into(), text: text.into() }];
        let alice = Caller { uid: 1000, gid: 1000, ..Caller::default() };
        Policy::parse_some(sources, &names(), &|rule| rule.may_apply_to(&alice)).expect("the tables are given")
    };
    let policy = parse(text).expect("well-formed");
    let lines: Vec<usize> = policy.rules.iter().map(|rule| rule.line).collect();
    assert_eq!((lines, policy.count, policy.warnings.len()), (vec![3, 4], 4, 0));
    for wrong in
        ["permit bob 80 on 10.0.0.1/8\n", "permit bob 600\n", "permit bob 80 exec x\n", "permit bob 80 on 1.1.1.1"]
    {
        assert_eq!(parse(wrong).expect_err("malformed").1.len(), 1, "{wrong}");
    }
}
