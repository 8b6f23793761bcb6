//! The policy as tables of request and verdict, then against a second, naive evaluator under random policies.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use portgrant_protocol::{Endpoint, Resolved};
use proptest::prelude::*;

use super::*;

const PASSWD: &[u8] =
    b"root:x:0:0:::\nnews:x:9:9:::\nalice:x:1000:1000:::\nbob:x:1001:1001:::\nmallory:x:1002:1002:::\n";
const GROUP: &[u8] = b"news:x:9:\nweb:x:33:bob\nalice:x:1000:\n";
const SERVICES: &[u8] = b"http 80/tcp www\nnntp 119/tcp\nnntps 563/tcp\nsubmission 587/tcp\ntftp 69/udp\n\
    domain 53/tcp\ndomain 53/udp\nsyslog 514/udp\nlogin 513/tcp\nquic 443/udp\nreserved 80/tcp\nexec 512/tcp\n";

fn names() -> Names {
    Names::of(PASSWD, GROUP, SERVICES)
}

fn policy(text: &str) -> Policy {
    let sources = vec![Source { path: "/etc/portgrant.conf".into(), text: text.as_bytes().to_vec() }];
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
    decide(policy, who, Ask { endpoint: resolved(endpoint), program: program.map(Path::new) })
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
    // A deny on a group holds by the account, whatever groups the process still has.
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
    // The holder of a datagram socket can take it off its interface.
    ("permit alice 80/udp\ndeny alice 80 dev eth1", &["-alice 80/udp", "-alice 80/udp,dev=eth0"]),
    // Options that must be granted, and those that need not.
    (
        "permit alice 80",
        &["-alice 80,reuseport", "-alice 80,freebind", "+alice 80,backlog=5,keepalive=1:2:3,linger=0,tos=8,rcvbuf=9"],
    ),
    ("permit alice 80 freebind reuseport hold", &["+alice 80,reuseport", "+alice 80,freebind,reuseport"]),
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
    // each wants every address of both families, and is denied by any of them.
    ("permit alice 520/udp reserved", &["+alice each:520/udp"]),
    ("permit alice 520/udp on 0.0.0.0/0 [::]/0 reserved", &["+alice each:520/udp"]),
    ("permit alice 520/udp on 0.0.0.0/0 reserved", &["-alice each:520/udp"]),
    ("permit alice 520/udp on [::] reserved", &["-alice each:520/udp", "+alice 520/udp"]),
    ("permit alice 520/udp on [::]/0 0.0.0.0 reserved", &["-alice each:520/udp", "+alice 520/udp"]),
    ("permit alice 520/udp reserved\ndeny alice 520 on 10.0.0.1", &["-alice each:520/udp"]),
    // An unknown name in a permit matches nobody, and the rest of the line still counts.
    ("permit nobody-here 80\npermit alice gopher 80", &["+alice 80", "-root 80"]),
    ("permit :nogroup 80", &["-root 80", "-alice 80"]),
];

#[test]
fn every_line_of_the_table_is_decided_as_it_says() {
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

/// A malformed line, the column, and what the message says.
const MALFORMED: &[(&str, usize, &str)] = &[
    ("allow alice 80", 1, "'allow' begins no rule"),
    ("permit", 7, "names nobody"),
    ("permit # alice", 15, "names nobody"),
    ("permit 1000 80", 8, "expected uid:1000"),
    ("permit uid:+5 80", 8, "is no id"),
    ("permit uid:4294967295 80", 8, "is no id"),
    ("permit gid: 80", 8, "is no id"),
    ("permit alice", 13, "has no ports"),
    ("permit alice on 127.0.0.1", 14, "has no ports"),
    ("permit alice exec /bin/x", 14, "has no ports"),
    ("permit alice 0", 14, "'0' is no port"),
    ("permit alice 65536", 14, "'65536' is no port"),
    ("permit alice 080", 14, "'080' is no port"),
    ("permit alice 80,443", 14, "'80,443' is no port"),
    ("permit alice 80-", 14, "'80-' is no port"),
    ("permit alice 80-http", 14, "'80-http' is no port"),
    ("permit alice 90-80", 14, "runs backwards"),
    ("permit alice 80/TCP", 14, "'TCP' is no protocol"),
    ("permit alice 80/mptcp", 14, "tcp (which is mptcp too)"),
    ("permit alice any 80", 18, "is no port"),
    ("permit alice 80 any", 17, "is no port"),
    ("permit alice tftp", 14, "expected tftp/udp"),
    ("deny alice tftp", 12, "expected tftp/udp"),
    ("permit alice 600", 14, "expected the word reserved"),
    ("permit alice 80 500-512", 17, "expected the word reserved"),
    ("permit alice 1023-2000", 14, "expected the word reserved"),
    ("permit alice any", 14, "expected the word reserved"),
    ("permit alice 587", 14, "expected the word reserved"),
    ("permit alice login", 14, "expected the word reserved"),
    ("permit alice syslog/udp", 14, "expected the word reserved"),
    ("permit alice 80 on", 19, "has no address"),
    ("permit alice 80 on reserved", 20, "has no address"),
    ("permit alice 80 on localhost", 20, "is no address"),
    ("permit alice 80 on ::1", 20, "is no address"),
    ("permit alice 80 on [127.0.0.1]", 20, "is no address"),
    ("permit alice 80 on 10.0.0.0/33", 20, "no good length"),
    ("permit alice 80 on 10.0.0.0/08", 20, "no good length"),
    ("permit alice 80 on [::ffff:10.0.0.0]/95", 20, "no good length"),
    ("permit alice 80 on 10.0.0.1/8", 20, "expected 10.0.0.0/8"),
    ("permit alice 80 on [::1]/64", 20, "expected [::]/64"),
    ("permit alice 80 dev", 20, "is no interface"),
    ("permit alice 80 dev abcdefghijklmnop", 21, "is no interface"),
    ("permit alice 80 hold hold", 22, "given twice"),
    ("permit alice 80 on 1.2.3.4 on 1.2.3.4", 28, "given twice"),
    ("permit alice 80 reuseport on 1.2.3.4", 27, "comes too late"),
    ("permit alice 80 dev eth0 on 1.2.3.4", 26, "comes too late"),
    ("permit alice 80 reuseport 81", 27, "is no port"),
    ("permit alice 80 exec", 21, "is no path"),
    ("permit alice 80 exec sh", 22, "is no path"),
    ("deny alice 80 exec /bin/x", 15, "is for permit"),
    ("deny alice 80 reuseport", 15, "is for permit"),
    ("deny nobody-here 80", 6, "not in /etc/passwd"),
    ("deny :nogroup 80", 6, "not in /etc/group"),
    ("deny alice gopher", 12, "is no service"),
    ("permit alice 80\r", 16, "\\x0d"),
    ("permit al\u{e9}ce 80", 10, "\\xc3"),
    ("permit alice 8\0", 15, "\\x00"),
];

#[test]
fn a_malformed_line_is_named_with_its_column() {
    for (text, column, expected) in MALFORMED {
        let text = format!("# first\n{text}\npermit alice 80\n");
        let found = problems(text.as_bytes());
        let [problem] = found.as_slice() else { panic!("{text}: {found:?}") };
        assert_eq!((problem.line, problem.column), (2, *column), "{text}: {}", problem.wrong);
        let message = problem.wrong.to_string();
        assert!(message.contains(expected) && message.is_ascii(), "{text}: {message}");
    }
}

#[test]
fn a_range_of_rsh_and_nfs_needs_its_word_and_a_service_does_not() {
    for good in [
        "permit alice 600-699 reserved",
        "permit alice any reserved",
        "permit alice submission nntps",
        "permit alice login reserved",
        "deny alice 600",
        "deny alice any",
        "permit alice 511 1024-65535",
    ] {
        assert_eq!(problems(good.as_bytes()), [], "{good}");
    }
}

#[test]
fn an_unknown_name_in_a_permit_is_a_warning() {
    let policy = policy("permit nobody-here 80\npermit :nogroup 80\npermit alice gopher quic/tcp\n");
    assert_eq!(warned(&policy), [(1, 8), (2, 8), (3, 14), (3, 21)]);
}

#[test]
fn an_interface_in_a_permit_of_udp_is_a_warning() {
    assert_eq!(
        warned(&policy("permit alice 53 dev eth0\npermit alice 53/udp dev eth0\ndeny alice 53/udp dev eth0")),
        [(2, 25)]
    );
}

fn warned(policy: &Policy) -> Vec<(usize, usize)> {
    policy.warnings.iter().map(|problem| (problem.line, problem.column)).collect()
}

#[test]
fn a_refusal_says_how_near_the_policy_came() {
    let alice = caller("alice");
    let text = "permit alice 80 on 127.0.0.1\npermit alice 81 dev eth0\npermit alice 82\npermit alice 83 exec /x\ndeny alice 84\npermit bob 85";
    let policy = policy(text);
    let reason = |endpoint| match verdict(&policy, &alice, endpoint, None) {
        Decision::Refuse(refusal) => (refusal.reason, refusal.reason.rule().map(|rule| rule.line)),
        Decision::Permit(permit) => panic!("{permit:?}"),
    };
    assert!(matches!(reason("80"), (Reason::Address(_), Some(1))));
    assert!(matches!(reason("81"), (Reason::Device(_), Some(2))));
    assert!(matches!(reason("82,reuseport"), (Reason::Option(_, "reuseport"), Some(3))));
    assert!(matches!(reason("83"), (Reason::Program(_), Some(4))));
    assert!(matches!(reason("84"), (Reason::Denied(_), Some(5))));
    assert!(matches!(reason("85"), (Reason::NoRule, None)));
}

// A second evaluator, as naive as can be: a request occupies a finite set of probes, one for each address that any
// generated rule could tell apart, and a rule holds a set of them, tested bit by bit on the address's text.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    Address(IpAddr),
    Wildcard4,
    Wildcard6,
}

fn universe() -> Vec<Probe> {
    let v4 = ["10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "127.0.0.1", "200.1.1.1"];
    let v6 = ["fd00::", "fd00::1", "fd00::2", "fd00::3", "::1", "fe80::1"];
    let address = |text: &&str| Probe::Address(text.parse().expect("an address"));
    v4.iter().map(address).chain(v6.iter().map(address)).chain([Probe::Wildcard4, Probe::Wildcard6]).collect()
}

fn bits(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{:032b}", u32::from(address)),
        IpAddr::V6(address) => format!("{:0128b}", u128::from(address)),
    }
}

fn naively_holds(on: &str, probe: Probe) -> bool {
    let (address, length) = on.split_once('/').map_or((on, None), |(address, length)| (address, Some(length)));
    let address: IpAddr = address.trim_matches(['[', ']']).parse().expect("generated");
    if length.is_none() && address.is_unspecified() {
        return match probe {
            Probe::Wildcard4 => true,
            Probe::Wildcard6 => address.is_ipv6(),
            Probe::Address(_) => false,
        };
    }
    let whole = bits(address).len();
    let length: usize = length.map_or(whole, |length| length.parse().expect("generated"));
    match probe {
        Probe::Address(probe) => {
            probe.is_ipv4() == address.is_ipv4() && bits(probe)[..length] == bits(address)[..length]
        }
        Probe::Wildcard4 => address.is_ipv4() && length == 0,
        Probe::Wildcard6 => address.is_ipv6() && length == 0,
    }
}

fn occupied(place: &str) -> Vec<Probe> {
    match place {
        "" | "[::]:" => vec![Probe::Wildcard4, Probe::Wildcard6],
        "0.0.0.0:" => vec![Probe::Wildcard4],
        "[::],v6only" => vec![Probe::Wildcard6],
        address => {
            vec![Probe::Address(address.trim_end_matches(':').trim_matches(['[', ']']).parse().expect("generated"))]
        }
    }
}

#[derive(Debug, Clone)]
struct Line {
    permit: bool,
    subject: &'static str,
    first: u16,
    span: u16,
    protocol: Option<&'static str>,
    on: Vec<&'static str>,
    dev: Option<&'static str>,
    reuseport: bool,
}

#[derive(Debug, Clone)]
struct Asked {
    who: &'static str,
    place: &'static str,
    port: u16,
    protocol: &'static str,
    dev: Option<&'static str>,
    reuseport: bool,
}

impl Line {
    fn text(&self) -> String {
        let mut text = format!(
            "{} {} {}-{}",
            if self.permit { "permit" } else { "deny" },
            self.subject,
            self.first,
            self.first + self.span
        );
        text.extend(self.protocol.map(|protocol| format!("/{protocol}")));
        if !self.on.is_empty() {
            text.push_str(&format!(" on {}", self.on.join(" ")));
        }
        text.extend(self.dev.map(|dev| format!(" dev {dev}")));
        text.extend((self.permit && self.reuseport).then_some(" reuseport"));
        text
    }

    fn naively_concerns(&self, asked: &Asked) -> bool {
        let subject = match self.subject {
            "any" => true,
            ":web" => asked.who == "bob",
            name => name == asked.who,
        };
        let protocol = match self.protocol {
            Some(protocol) => protocol == asked.protocol || (protocol, asked.protocol) == ("tcp", "mptcp"),
            None => !self.permit || asked.protocol == "tcp" || asked.protocol == "mptcp",
        };
        subject && protocol && (self.first..=self.first + self.span).any(|port| port == asked.port)
    }

    fn naively_permits(&self, asked: &Asked) -> bool {
        let held = |probe: &Probe| self.on.is_empty() || self.on.iter().any(|on| naively_holds(on, *probe));
        self.permit
            && self.naively_concerns(asked)
            && occupied(asked.place).iter().all(held)
            && (self.dev.is_none() || self.dev == asked.dev)
            && (self.reuseport || !asked.reuseport)
    }

    /// Some address is both occupied by the request and named by the rule; a wildcard occupies all of its family.
    fn naively_denies(&self, asked: &Asked) -> bool {
        let occupied = occupied(asked.place);
        let reached = |probe: &Probe| match probe {
            Probe::Address(address) if address.is_ipv4() => {
                occupied.contains(&Probe::Wildcard4) || occupied.contains(probe)
            }
            Probe::Address(_) => occupied.contains(&Probe::Wildcard6) || occupied.contains(probe),
            Probe::Wildcard4 | Probe::Wildcard6 => occupied.contains(probe),
        };
        let named = |probe: &Probe| self.on.is_empty() || self.on.iter().any(|on| naively_holds(on, *probe));
        let dev = self.dev.is_none() || asked.dev.is_none() || self.dev == asked.dev || asked.protocol == "udp";
        !self.permit
            && self.naively_concerns(asked)
            && dev
            && universe().iter().any(|probe| reached(probe) && named(probe))
    }
}

const ON: [&str; 14] = [
    "0.0.0.0",
    "0.0.0.0/0",
    "10.0.0.0/30",
    "10.0.0.2/31",
    "10.0.0.1",
    "127.0.0.0/8",
    "128.0.0.0/1",
    "[::]",
    "[::]/0",
    "[fd00::]/126",
    "[fd00::2]/127",
    "[::1]",
    "[fe80::]/10",
    "0.0.0.0/1",
];
const PLACES: [&str; 12] = [
    "",
    "0.0.0.0:",
    "[::]:",
    "[::],v6only",
    "10.0.0.1:",
    "10.0.0.2:",
    "10.0.0.4:",
    "127.0.0.1:",
    "200.1.1.1:",
    "[fd00::1]:",
    "[fd00::3]:",
    "[::1]:",
];
const DEVS: [Option<&str>; 3] = [None, Some("eth0"), Some("eth1")];

fn lines() -> impl Strategy<Value = Line> {
    let protocol = prop::sample::select(vec![None, Some("tcp"), Some("udp")]);
    let on = prop::collection::vec(prop::sample::select(ON.to_vec()), 0..3);
    let who = prop::sample::select(vec!["alice", "bob", "any", ":web"]);
    (any::<bool>(), who, 80u16..84, 0u16..3, protocol, on, prop::sample::select(DEVS.to_vec()), any::<bool>()).prop_map(
        |(permit, subject, first, span, protocol, on, dev, reuseport)| Line {
            permit,
            subject,
            first,
            span,
            protocol,
            on,
            dev,
            reuseport,
        },
    )
}

fn requests() -> impl Strategy<Value = Asked> {
    let who = prop::sample::select(vec!["alice", "bob"]);
    let protocol = prop::sample::select(vec!["tcp", "udp", "mptcp"]);
    let place = prop::sample::select(PLACES.to_vec());
    (who, place, 80u16..86, protocol, prop::sample::select(DEVS.to_vec()), any::<bool>())
        .prop_map(|(who, place, port, protocol, dev, reuseport)| Asked { who, place, port, protocol, dev, reuseport })
}

impl Asked {
    fn endpoint(&self) -> String {
        let (place, v6only) = match self.place {
            "[::],v6only" => ("[::]:", ",v6only"),
            place => (place, ""),
        };
        let mut text = format!("{place}{}/{}{v6only}", self.port, self.protocol);
        text.extend(self.dev.map(|dev| format!(",dev={dev}")));
        text.extend(self.reuseport.then_some(",reuseport"));
        text
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_verdict_is_the_naive_evaluators(lines in prop::collection::vec(lines(), 0..5), asked in requests()) {
        let text: String = lines.iter().map(|line| line.text() + "\n").collect();
        let expected = lines.iter().any(|line| line.naively_permits(&asked)) && !lines.iter().any(|line| line.naively_denies(&asked));
        let policy = policy(&text);
        let decision = verdict(&policy, &caller(asked.who), &asked.endpoint(), None);
        prop_assert_eq!(matches!(decision, Decision::Permit(_)), expected, "{}\n{:?}: {:?}", text, asked, decision);
    }

    #[test]
    fn the_rule_that_a_refusal_suggests_would_permit(asked in requests(), port in 1u16.., who in prop::sample::select(vec!["alice", "root"])) {
        let asked = Asked { port, who, ..asked };
        let (rule, file) = suggestion(&caller(who), &resolved(&asked.endpoint()));
        prop_assert_eq!(file, format!("/etc/portgrant.d/{who}.conf"));
        let policy = policy(&rule);
        let decision = verdict(&policy, &caller(who), &asked.endpoint(), None);
        prop_assert!(matches!(decision, Decision::Permit(_)), "{}: {:?}", rule, decision);
    }

    #[test]
    fn no_policy_panics(bytes in prop::collection::vec(any::<u8>(), 0..120), tail in "(permit|deny) [a-z:]{1,6} [ -~]{0,40}") {
        let _ = problems(&bytes);
        let _ = problems(tail.as_bytes());
    }
}

#[test]
fn the_naive_evaluator_knows_the_addresses_of_the_table() {
    assert!(naively_holds("10.0.0.0/30", Probe::Address(Ipv4Addr::new(10, 0, 0, 3).into())));
    assert!(!naively_holds("10.0.0.0/30", Probe::Address(Ipv4Addr::new(10, 0, 0, 4).into())));
    assert!(!naively_holds("[::]/0", Probe::Address(Ipv4Addr::LOCALHOST.into())));
    assert!(
        naively_holds("[::]", Probe::Wildcard4) && !naively_holds("[::]", Probe::Address(Ipv6Addr::LOCALHOST.into()))
    );
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
fn the_manual_s_examples_are_decided_as_it_says() {
    let tables = tables_of_the_manual();
    let [permits, denies] = tables.as_slice() else { panic!("{tables:?}") };
    assert!(permits.len() > 9 && denies.len() > 3, "{tables:?}");
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
    let policy = policy("permit alice 80\ndeny alice 80 on 10.0.0.0/8\n");
    for row in denies {
        let [requests, said] = row.as_slice() else { panic!("{row:?}") };
        for request in requests.trim_start_matches("alice: ").split(", or ") {
            assert_eq!(decided(&policy, request), said.split(':').next().expect("a word"), "{request}");
        }
    }
}
