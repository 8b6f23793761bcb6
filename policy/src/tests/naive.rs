//! A second evaluator, and properties of every policy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

// The second evaluator is as simple as possible: a request occupies a finite set of probes, one for each address that
// generated rules can distinguish. A rule contains a set of them, tested bit by bit on the address's text.

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
    /// For an AF_INET6 socket of the caller's own
    own: bool,
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

    fn naively_applies_to(&self, asked: &Asked) -> bool {
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
            && self.naively_applies_to(asked)
            && occupied(asked.place).iter().all(held)
            && (self.dev.is_none() || self.dev == asked.dev)
            && (self.reuseport || !asked.reuseport)
    }

    /// Some address is both occupied by the request and named by the rule. A wildcard and every datagram socket occupy
    /// all of their family. A caller's own datagram socket that is bound to an IPv4 address occupies IPv6 as well.
    fn naively_denies(&self, asked: &Asked) -> bool {
        let occupied = occupied(asked.place);
        let udp = asked.protocol == "udp";
        let has_ipv4 =
            |probe: &Probe| matches!(probe, Probe::Address(address) if address.is_ipv4()) || *probe == Probe::Wildcard4;
        let v4 = occupied.contains(&Probe::Wildcard4) || udp && occupied.iter().any(has_ipv4);
        let v6 = occupied.contains(&Probe::Wildcard6) || udp && (asked.own || !occupied.iter().all(has_ipv4));
        let reached = |probe: &Probe| match probe {
            Probe::Address(address) if address.is_ipv4() => v4 || occupied.contains(probe),
            Probe::Address(_) => v6 || occupied.contains(probe),
            Probe::Wildcard4 | Probe::Wildcard6 => occupied.contains(probe),
        };
        let named = |probe: &Probe| self.on.is_empty() || self.on.iter().any(|on| naively_holds(on, *probe));
        let dev = self.dev.is_none() || asked.dev.is_none() || self.dev == asked.dev || udp;
        !self.permit
            && self.naively_applies_to(asked)
            && dev
            && universe().iter().any(|probe| reached(probe) && named(probe))
    }
}

fn any_rule() -> impl Strategy<Value = String> {
    let who = prop::sample::select(vec!["alice", "bob", "any", "any", ":web", "gid:5", "uid:100000", "uid:5000"]);
    let permit = prop::sample::select(vec![
        "80-85",
        "80-85/udp",
        "80-85 80-85/udp",
        "gopher 80-85",
        "80-82 exec /x",
        "80-85 exec /y",
        "80-85/udp exec /x",
        "80-85 on 0.0.0.0/0",
        "80-85/udp on 10.0.0.0/8 [::1]",
        "80-85 dev eth0 reuseport",
    ]);
    let deny =
        prop::sample::select(vec!["80", "81/udp", "82 on 10.0.0.1", "82 on [fd00::1]", "83 dev eth0", "http", "tftp"]);
    prop_oneof![
        3 => (who.clone(), permit).prop_map(|(who, rest)| format!("permit {who} {rest}\n")),
        1 => (who, deny).prop_map(|(who, rest)| format!("deny {who} {rest}\n")),
    ]
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
    let own = prop::bool::weighted(0.3);
    (who, place, 80u16..86, protocol, prop::sample::select(DEVS.to_vec()), any::<bool>(), own).prop_map(
        |(who, place, port, protocol, dev, reuseport, own)| Asked { who, place, port, protocol, dev, reuseport, own },
    )
}

/// Where bytes are cut out of a text, how many, and what is put there.
fn slips() -> impl Strategy<Value = Vec<(prop::sample::Index, usize, String)>> {
    let put = prop_oneof![
        Just(String::new()),
        prop::sample::select(vec!["\u{a0}", "\r", "#", "\t", "\n", "/", "-", "0", "600", " exec ", " on ", " any "])
            .prop_map(str::to_owned),
        "[ -~]{1,3}",
    ];
    prop::collection::vec((any::<prop::sample::Index>(), 0..4usize, put), 0..4)
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
    fn the_verdict_equals_that_of_the_naive_evaluator(lines in prop::collection::vec(lines(), 0..5), asked in requests()) {
        let text: String = lines.iter().map(|line| line.text() + "\n").collect();
        let expected = lines.iter().any(|line| line.naively_permits(&asked)) && !lines.iter().any(|line| line.naively_denies(&asked));
        let policy = policy(&text);
        let domain = if asked.own { Domain::Inet6 } else { Domain::OfAddress };
        let ask = Ask { endpoint: resolved(&asked.endpoint()), domain, program: None };
        let decision = decide(&policy, &caller(asked.who), ask);
        prop_assert_eq!(matches!(decision, Decision::Permit(_)), expected, "{}\n{:?}: {:?}", text, asked, decision);
    }

    /// The order of lines and the order of files.
    #[test]
    fn the_order_of_the_rules_never_decides(
        (rules, shuffled) in prop::collection::vec(any_rule(), 0..7).prop_flat_map(|rules| (Just(rules.clone()), Just(rules).prop_shuffle())),
        asked in requests(), program in prop::sample::select(vec![None, Some("/x"), Some("/y")]), unfit in any::<bool>(),
        uid in prop::sample::select(vec![1000u32, 1001, 100_000, 165_536, 300_000]), files in 1usize..4,
    ) {
        let outcome = |rules: &[String], files: usize| {
            let sources = rules.chunks(rules.len().div_ceil(files).max(1));
            let sources = sources.map(|lines| Source { path: "/x".into(), text: lines.concat().into_bytes() });
            let policy = Policy::parse(sources.collect(), &names()).expect("given").expect("well-formed");
            let caller = Caller { uid, gid: 5, ..Caller::default() }.with_accounts(&policy, &names()).expect("given");
            let unfit = unfit.then(|| ("/x".into(), Distrust::Missing));
            let program = program.map(|path| AskedProgram { path: path.as_bytes(), unfit });
            let domain = if asked.own { Domain::Inet6 } else { Domain::OfAddress };
            match decide(&policy, &caller, Ask { endpoint: resolved(&asked.endpoint()), domain, program }) {
                Decision::Permit(_) => None,
                Decision::Refuse(refusal) => Some(crate::refused(&refusal, &caller, &policy, &names()).status),
            }
        };
        prop_assert_eq!(outcome(&rules, 1), outcome(&shuffled, files), "{:?}\n{:?}", rules, shuffled);
    }

    #[test]
    fn rules_for_other_users_change_neither_verdict_nor_message(
        rules in prop::collection::vec(any_rule(), 0..9), asked in requests(),
        program in prop::sample::select(vec![None, Some("/x"), Some("/y")]),
        uid in prop::sample::select(vec![1000u32, 1001, 100_000, 165_536, 300_000]), gid in prop::sample::select(vec![5u32, 33]),
    ) {
        let process = Caller { uid, gid, ..Caller::default() };
        let outcome = |wanted: &dyn Fn(&Rule) -> bool| {
            let sources = vec![Source { path: "/x".into(), text: rules.concat().into_bytes() }];
            let policy = Policy::parse_some(sources, &names(), wanted).expect("given").expect("well-formed");
            let caller = process.clone().with_accounts(&policy, &names()).expect("given");
            let program = program.map(|path| AskedProgram { path: path.as_bytes(), unfit: None });
            let domain = if asked.own { Domain::Inet6 } else { Domain::OfAddress };
            match decide(&policy, &caller, Ask { endpoint: resolved(&asked.endpoint()), domain, program }) {
                Decision::Permit(permitted) => policy.place(permitted.rule()),
                Decision::Refuse(refusal) => crate::refused(&refusal, &caller, &policy, &names()).to_string(),
            }
        };
        prop_assert_eq!(outcome(&|rule| rule.may_apply_to(&process)), outcome(&|_| true), "{:?}", rules);
    }

    /// And all other rules are counted.
    #[test]
    fn a_malformed_line_is_found_in_rules_for_any_user(
        rules in prop::collection::vec(any_rule(), 1..7), slips in slips(),
        uid in prop::sample::select(vec![1000u32, 1001, 5000]),
    ) {
        let process = Caller { uid, gid: 5, ..Caller::default() };
        let mut text = rules.concat().into_bytes();
        for (at, cut, put) in slips {
            let start = at.index(text.len() + 1);
            text.splice(start..(start + cut).min(text.len()), put.bytes());
        }
        let found = |wanted: &dyn Fn(&Rule) -> bool| {
            let sources = vec![Source { path: "/x".into(), text: text.clone() }];
            let parsed = Policy::parse_some(sources, &names(), wanted).expect("given");
            parsed.map_or_else(|(policy, problems)| (policy.count, problems), |policy| (policy.count, Vec::new()))
        };
        let all = found(&|_| true);
        prop_assert_eq!(&found(&|rule| rule.may_apply_to(&process)), &all, "{}", text.escape_ascii());
        prop_assert_eq!(&found(&|_| false), &all, "{}", text.escape_ascii());
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
