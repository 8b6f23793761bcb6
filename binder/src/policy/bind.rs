//! The verdict where only bind(2) itself is seen, as by a cgroup-BPF program: a projection of [`decide()`].
//!
//! There the real ids, the protocol, the address and the port are known. Supplementary groups, the program, sctp and every
//! option are not, and what interface a socket is bound to is not believed, as in the bind verb. So a permit that rests on
//! one of these is left out, by [`Projection::of`], which says so; a deny that does cannot be projected, which is an
//! error. What remains is decided by [`decide()`] itself: what [`decide_bind`] permits, `decide` permits as well.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use portgrant_protocol::{Address, Endpoint, Options, Port, Protocol, Resolved};

use super::{Ask, Caller, Decision, Effect, Policy, Protocols, Rule, Subject, decide};
use crate::Error;
use crate::names::Names;

/// What bind(2) shows of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind {
    /// The caller's real uid
    pub uid: u32,
    /// The caller's real gid
    pub gid: u32,
    /// tcp (and mptcp), or udp
    pub transport: Transport,
    /// The address; `::` is the wildcard of both families, whatever the socket's IPV6_V6ONLY
    pub address: IpAddr,
    /// The port, 1 to 65535
    pub port: u16,
}

/// The protocols that are decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// tcp, and mptcp, which looks the same
    Tcp,
    /// udp
    Udp,
}

/// How a rule for a group is decided.
#[derive(Debug, Clone, Copy)]
pub enum Groups<'a> {
    /// For processes whose real gid it is, and nobody else. A deny for a group has no such projection.
    RealGid,
    /// For these, and for the users whose account in passwd and group has it: a rule for each of them.
    Members(&'a Names),
}

/// A policy that rests on nothing but what bind(2) shows.
#[derive(Debug, Clone)]
pub struct Projection {
    policy: Policy,
    left_out: Vec<LeftOut>,
}

/// What of the policy is not in the projection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Which of the policy's files
    pub file: usize,
    /// Which line, from 1
    pub line: usize,
    /// What of it, and why
    pub why: Unseen,
}

/// What bind(2) does not show. In a permit: the rule is left out, or that part of it. In a deny: nothing can be decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unseen {
    /// A permit for one program
    Program,
    /// A permit for one interface
    Interface,
    /// A permit's sctp ports
    Sctp,
    /// A group that a process has beside its real gid
    Group,
    /// A member that /etc/group names and /etc/passwd does not know
    Member(String),
    /// A permit that holds nobody, or no port, as `check` warns
    Nobody,
}

/// Decides `bind` by `projection`. Pure and total.
pub fn decide_bind<'p>(projection: &'p Projection, bind: &Bind) -> Decision<'p> {
    let caller = Caller { uid: bind.uid, gid: bind.gid, groups: Vec::new(), account_groups: Vec::new(), name: None };
    decide(&projection.policy, &caller, Ask { endpoint: bind.endpoint(), program: None })
}

impl Bind {
    /// The endpoint that it asks for.
    #[must_use]
    pub fn endpoint(&self) -> Resolved {
        let protocol = match self.transport {
            Transport::Tcp => Protocol::Tcp,
            Transport::Udp => Protocol::Udp,
        };
        let address = match self.address.to_canonical() {
            IpAddr::V4(address) => Address::V4(address),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Address::Any,
            IpAddr::V6(address) => Address::V6(address),
        };
        let port = Port::Number(self.port);
        let endpoint = Endpoint { name: None, address, port, protocol, options: Options::default() };
        Resolved { endpoint, port: self.port }
    }
}

impl Projection {
    /// Projects `policy`. The inner error is the policy, and every deny of it that cannot be decided; the outer one is of
    /// the tables of names.
    #[allow(clippy::type_complexity, reason = "two kinds of failure, each with what its message needs")]
    pub fn of(mut policy: Policy, groups: Groups<'_>) -> Result<Result<Projection, (Policy, Vec<LeftOut>)>, Error> {
        let (mut left_out, mut undecidable) = (Vec::new(), Vec::new());
        let mut rules = Vec::with_capacity(policy.rules.len());
        for rule in std::mem::take(&mut policy.rules) {
            let note = |why| LeftOut { file: rule.file, line: rule.line, why };
            let unseen = match rule.effect {
                Effect::Permit => &mut left_out,
                Effect::Deny => &mut undecidable,
            };
            let Some(rule) = seen(rule.clone(), |why| unseen.push(note(why))) else { continue };
            match (rule.subject, groups) {
                (Subject::Gid(gid), Groups::Members(names)) => {
                    let members = names.members(gid)?;
                    unseen.extend(members.unknown.into_iter().map(|name| note(Unseen::Member(name))));
                    rules.extend(members.uids.into_iter().map(|uid| rule.clone().of(Subject::Uid(uid))));
                }
                (Subject::Gid(_), Groups::RealGid) => unseen.push(note(Unseen::Group)),
                (Subject::Uid(_) | Subject::Any | Subject::Nobody, _) => {}
            }
            rules.push(rule);
        }
        if undecidable.is_empty() {
            policy.rules = rules;
            Ok(Ok(Projection { policy, left_out }))
        } else {
            Ok(Err((policy, undecidable)))
        }
    }

    /// The rules that are decided, each for a user, a real gid or anybody, with tcp and udp ports alone. A rule for a group
    /// stands once for the gid, and once for each member that it was expanded to.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What is not decided, in the order of the files and lines.
    #[must_use]
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }
}

/// What of a rule bind(2) shows, if anything; the rest is told to `unseen`.
fn seen(mut rule: Rule, mut unseen: impl FnMut(Unseen)) -> Option<Rule> {
    let ports = rule.ports.len();
    rule.ports.retain_mut(|ports| {
        ports.protocols = ports.protocols.without(Protocol::Sctp);
        !ports.protocols.is_empty()
    });
    let lost = ports - rule.ports.len();
    if rule.effect == Effect::Deny {
        // A deny for sctp alone is about nothing that is decided here. One for an interface holds for every socket: each may
        // be on it.
        rule.dev = None;
        return (!rule.ports.is_empty()).then_some(rule);
    }
    if rule.program.is_some() {
        unseen(Unseen::Program);
    } else if rule.dev.is_some() {
        unseen(Unseen::Interface);
    } else if rule.subject == Subject::Nobody || ports == 0 {
        unseen(Unseen::Nobody);
    } else {
        if lost > 0 {
            unseen(Unseen::Sctp);
        }
        return (!rule.ports.is_empty()).then_some(rule);
    }
    None
}

impl Rule {
    fn of(self, subject: Subject) -> Rule {
        Rule { subject, ..self }
    }
}

impl Protocols {
    fn without(self, protocol: Protocol) -> Protocols {
        Protocols(self.0 & !Protocols::only(protocol).0)
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `transport` is one of them.
    #[must_use]
    pub fn have(self, transport: Transport) -> bool {
        match transport {
            Transport::Tcp => self.contains(Protocol::Tcp),
            Transport::Udp => self.contains(Protocol::Udp),
        }
    }
}

impl fmt::Display for Unseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unseen::Program => f.write_str("which program binds is not seen here"),
            Unseen::Interface => f.write_str("the interface of a caller's own socket is not believed"),
            Unseen::Sctp => f.write_str("sctp is not seen here; its other ports hold"),
            Unseen::Group => f.write_str("of a process's groups only the real gid is seen here"),
            Unseen::Member(name) => write!(f, "{name} is a member in /etc/group, and not in /etc/passwd"),
            Unseen::Nobody => f.write_str("it names nobody, or no port, see portgrant check"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use proptest::sample::{select, subsequence};

    use super::*;
    use crate::policy::Source;

    const PASSWD: &[u8] = b"alice:x:1000:1000:::\nbob:x:1001:33:::\ncarol:x:1002:1002:::\n";
    const GROUP: &[u8] = b"alice:x:1000:\nweb:x:33:alice\ncarol:x:1002:\n";

    fn policy(text: &str) -> Policy {
        let sources = vec![Source { path: "/etc/portgrant.conf".into(), text: text.as_bytes().to_vec() }];
        Policy::parse(sources, &names()).expect("given").unwrap_or_else(|(_, problems)| panic!("{text}: {problems:?}"))
    }

    fn names() -> Names {
        Names::of(PASSWD, GROUP, b"http 80/tcp\n")
    }

    fn projection(text: &str, groups: Groups<'_>) -> Result<Projection, Vec<(usize, Unseen)>> {
        let lines = |left: Vec<LeftOut>| left.into_iter().map(|left| (left.line, left.why)).collect();
        Projection::of(policy(text), groups).expect("given").map_err(|undecidable| lines(undecidable.1))
    }

    fn permits(projection: &Projection, bind: &Bind) -> bool {
        matches!(decide_bind(projection, bind), Decision::Permit(_))
    }

    fn bind(who: (u32, u32), transport: Transport, address: &str, port: u16) -> Bind {
        Bind { uid: who.0, gid: who.1, transport, address: address.parse().expect("an address"), port }
    }

    const ALICE: (u32, u32) = (1000, 1000);
    const BOB: (u32, u32) = (1001, 33);

    #[test]
    fn a_permit_that_cannot_be_decided_is_left_out_and_named() {
        let text = "permit alice 80 exec /bin/x\npermit alice 81 dev eth0\npermit alice 82/sctp\npermit alice 83 84/sctp\n\
            permit :web 85\npermit nobody-here 86\npermit alice gopher\npermit alice 87 reuseport freebind hold\n";
        let projection = projection(text, Groups::RealGid).expect("no deny");
        let named: Vec<_> = projection.left_out().iter().map(|left| (left.line, left.why.clone())).collect();
        let expected = [Unseen::Program, Unseen::Interface, Unseen::Sctp, Unseen::Sctp, Unseen::Group, Unseen::Nobody];
        let expected: Vec<_> = (1..).zip(expected.into_iter().chain([Unseen::Nobody])).collect();
        assert_eq!(named, expected);
        let open = |who, port| permits(&projection, &bind(who, Transport::Tcp, "0.0.0.0", port));
        assert_eq!((80..90).filter(|&port| open(ALICE, port)).collect::<Vec<_>>(), [83, 87]);
        assert_eq!((80..90).filter(|&port| open(BOB, port)).collect::<Vec<_>>(), [85]);
    }

    #[test]
    fn a_deny_that_cannot_be_decided_is_an_error() {
        assert_eq!(projection("deny :web 80\n", Groups::RealGid).err(), Some(vec![(1, Unseen::Group)]));
        let stranger = Names::of(PASSWD, b"web:x:33:alice,stranger\n", b"");
        let undecidable = projection("deny :web 80\n", Groups::Members(&stranger)).err();
        assert_eq!(undecidable, Some(vec![(1, Unseen::Member("stranger".into()))]));
        let permit = projection("permit :web 80\n", Groups::Members(&stranger)).expect("a permit");
        assert_eq!(permit.left_out().len(), 1);
    }

    #[test]
    fn a_deny_for_an_interface_holds_for_every_socket_and_one_for_sctp_for_none() {
        let text = "permit alice 80 81\ndeny alice 80 dev eth0\ndeny any 81/sctp\n";
        let projection = projection(text, Groups::RealGid).expect("all decided");
        assert!(!permits(&projection, &bind(ALICE, Transport::Tcp, "127.0.0.1", 80)));
        assert!(permits(&projection, &bind(ALICE, Transport::Tcp, "127.0.0.1", 81)));
    }

    #[test]
    fn a_group_becomes_its_members_when_asked_for() {
        let names = names();
        let projection = projection("permit :web 80 81\ndeny :web 81\n", Groups::Members(&names)).expect("expanded");
        assert!(projection.left_out().is_empty());
        let open = |who, port| permits(&projection, &bind(who, Transport::Tcp, "::", port));
        assert!(open(ALICE, 80) && open(BOB, 80) && open((5, 33), 80) && !open((1002, 1002), 80));
        assert!(!open(ALICE, 81) && !open(BOB, 81) && !open((5, 33), 81));
    }

    #[test]
    fn a_mapped_address_is_ipv4_and_the_wildcard_both_families() {
        let projection = projection("permit alice 80 on 127.0.0.0/8\npermit alice 81 on [::]/0\n", Groups::RealGid);
        let projection = projection.expect("no deny");
        let open = |address, port| permits(&projection, &bind(ALICE, Transport::Tcp, address, port));
        assert!(open("::ffff:127.0.0.1", 80) && !open("::ffff:0.0.0.0", 80) && !open("::", 80));
        assert!(open("::1", 81) && !open("::", 81) && !open("::ffff:127.0.0.1", 81));
    }

    fn rules() -> impl Strategy<Value = String> {
        let subject = select(vec!["alice", "bob", "any", ":web", "gid:1002", "nobody-here"]);
        let protocol = select(vec!["", "/tcp", "/udp", "/sctp"]);
        let on = select(vec!["", " on 127.0.0.0/8", " on 0.0.0.0", " on [::]", " on [::]/0", " on 0.0.0.0/0 [::1]"]);
        let rest = select(vec!["", "", "", " dev eth0", " reuseport", " exec /bin/x"]);
        let effect = select(vec!["permit", "permit", "deny"]);
        (effect, subject, 80u16..83, 0u16..3, protocol, on, rest).prop_map(
            |(effect, subject, first, more, protocol, on, rest)| {
                let deny = effect == "deny";
                let subject = if deny && subject == "nobody-here" { "any" } else { subject };
                let rest = if deny && !rest.starts_with(" dev") { "" } else { rest };
                format!("{effect} {subject} {first}-{}{protocol}{on}{rest}\n", first + more)
            },
        )
    }

    fn binds() -> impl Strategy<Value = Bind> {
        let address = select(vec!["0.0.0.0", "127.0.0.1", "10.0.0.1", "::", "::1", "::2", "::ffff:127.0.0.1"]);
        let transport = select(vec![Transport::Tcp, Transport::Udp]);
        (1000u32..1004, select(vec![33, 1000, 1002]), transport, address, 80u16..86)
            .prop_map(|(uid, gid, transport, address, port)| bind((uid, gid), transport, address, port))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        /// Whatever else `decide` is told of the same socket: groups, its interface, that it is mptcp.
        #[test]
        fn what_is_permitted_here_is_permitted_by_decide(
            rules in prop::collection::vec(rules(), 0..5), bind in binds(), groups in subsequence(vec![33, 1002], 0..3),
            account_groups in subsequence(vec![33, 1000, 1002], 0..4), dev in select(vec![None, Some("eth0"), Some("eth1")]),
            mptcp in any::<bool>(), expand in any::<bool>(),
        ) {
            let (text, names) = (rules.concat(), names());
            // Members are those of the accounts, so there the caller's groups must be what a login gives.
            let of_account = names.account_groups(bind.uid).expect("given");
            let (groups, account_groups) = if expand { (of_account.clone(), of_account) } else { (groups, account_groups) };
            let how = if expand { Groups::Members(&names) } else { Groups::RealGid };
            let Ok(projection) = projection(&text, how) else {
                prop_assert!(!expand && text.contains("deny :") || text.contains("deny gid:"), "{}", text);
                return Ok(());
            };
            let caller = Caller { uid: bind.uid, gid: bind.gid, groups, account_groups, name: None };
            let mut endpoint = bind.endpoint();
            if mptcp && bind.transport == Transport::Tcp {
                endpoint.endpoint.protocol = Protocol::Mptcp;
            }
            endpoint.endpoint.options.dev = dev.map(str::to_owned);
            let policy = policy(&text);
            let whole = decide(&policy, &caller, Ask { endpoint, program: None });
            if let Decision::Permit(permit) = decide_bind(&projection, &bind) {
                prop_assert!(matches!(whole, Decision::Permit(_)), "{}\n{:?}: {:?}", text, bind, whole);
                prop_assert!(permit.rule().program.is_none() && permit.rule().dev.is_none());
            }
        }

        /// And nothing is lost where bind(2) shows all that the policy rests on.
        #[test]
        fn a_policy_that_rests_on_what_is_seen_is_decided_as_decide_does(
            rules in prop::collection::vec(rules(), 0..5), bind in binds(),
        ) {
            let unseen = [":web", "gid:", "dev", "exec", "sctp"];
            let rules: Vec<_> = rules.into_iter().filter(|rule| !unseen.iter().any(|word| rule.contains(word))).collect();
            let text = rules.concat();
            let (projection, policy) = (projection(&text, Groups::RealGid).expect("all is seen"), policy(&text));
            let caller = Caller { uid: bind.uid, gid: bind.gid, groups: vec![], account_groups: vec![], name: None };
            let ask = Ask { endpoint: bind.endpoint(), program: None::<&Path> };
            let line = |decision: Decision<'_>| match decision {
                Decision::Permit(permit) => Some(permit.rule().line),
                Decision::Refuse(_) => None,
            };
            prop_assert_eq!(line(decide_bind(&projection, &bind)), line(decide(&policy, &caller, ask)), "{}", text);
        }
    }
}
