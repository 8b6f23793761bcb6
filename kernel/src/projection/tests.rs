//! Compares the projection with `decide`: it permits nothing more, and loses nothing that bind(2) shows.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use portgrant_policy::Source;

const PASSWD: &[u8] = b"alice:x:1000:1000:::\nbob:x:1001:33:::\ncarol:x:1002:1002:::\nalice:x:2010:2010:::\n";
const GROUP: &[u8] = b"alice:x:1000:\nweb:x:33:alice\ncarol:x:1002:\n";
const SUBUID: &[u8] = b"alice:2000:2\n1001:2002:1\ncarol:2001:2\nsomebody-else:2003:1\n2000:2010:1\n";
const SUBGID: &[u8] = b"alice:3000:2\nbob:3001:2\n2000:3010:1\n";

fn policy(text: &str) -> Policy {
    let sources = vec![Source { path: "/etc/portgrant.conf".into(), text: text.as_bytes().to_vec() }];
    Policy::parse(sources, &names()).expect("given").unwrap_or_else(|(_, problems)| panic!("{text}: {problems:?}"))
}

fn names() -> Names {
    Names::of(PASSWD, GROUP, b"http 80/tcp\n").with_subordinate_ids(SUBUID, SUBGID)
}

fn projection(text: &str, groups: Groups) -> Result<Projection, Vec<(usize, Unseen)>> {
    projection_by(text, groups, &names())
}

fn projection_by(text: &str, groups: Groups, names: &Names) -> Result<Projection, Vec<(usize, Unseen)>> {
    let lines = |left: Vec<LeftOut>| left.into_iter().map(|left| (left.line, left.why)).collect();
    Projection::of(policy(text), groups, names).expect("given").map_err(|undecidable| lines(undecidable.1))
}

fn permits(projection: &Projection, bind: &Bind) -> bool {
    matches!(decide_bind(projection, bind), Decision::Permit(_))
}

fn bind(who: (u32, u32), transport: Transport, address: &str, port: u16) -> Bind {
    Bind {
        uid: who.0,
        gid: who.1,
        transport,
        address: address.parse().expect("an address"),
        port: Port::new(port).expect("a port"),
    }
}

const ALICE: (u32, u32) = (1000, 1000);
const BOB: (u32, u32) = (1001, 33);

#[test]
fn a_permit_that_cannot_be_decided_is_left_out_and_named() {
    let text = "permit alice 80 exec /bin/x\npermit alice 81 dev eth0\npermit alice 82/sctp\npermit alice 83 84/sctp\n\
        permit :web 85\npermit nobody-here 86\npermit alice gopher\npermit alice 87 reuseport freebind\n";
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
    let undecidable = projection_by("deny :web 80\n", Groups::Members, &stranger).err();
    assert_eq!(undecidable, Some(vec![(1, Unseen::Member("stranger".into()))]));
    let permit = projection_by("permit :web 80\n", Groups::Members, &stranger).expect("a permit");
    assert_eq!(permit.left_out().len(), 1);
}

#[test]
fn a_deny_for_an_interface_applies_to_every_socket_and_one_for_sctp_to_none() {
    let text = "permit alice 80 81\ndeny alice 80 dev eth0\ndeny any 81/sctp\n";
    let projection = projection(text, Groups::RealGid).expect("all decided");
    assert!(!permits(&projection, &bind(ALICE, Transport::Tcp, "127.0.0.1", 80)));
    assert!(permits(&projection, &bind(ALICE, Transport::Tcp, "127.0.0.1", 81)));
}

#[test]
fn a_group_becomes_its_members_when_asked_for() {
    let projection = projection("permit :web 80 81\ndeny :web 81\n", Groups::Members).expect("expanded");
    assert!(projection.left_out().is_empty());
    let open = |who, port| permits(&projection, &bind(who, Transport::Tcp, "::", port));
    assert!(open(ALICE, 80) && open(BOB, 80) && open((5, 33), 80) && !open((1002, 1002), 80));
    assert!(!open(ALICE, 81) && !open(BOB, 81) && !open((5, 33), 81));
}

#[test]
fn a_mapped_address_is_ipv4_and_the_wildcard_is_both_families() {
    let projection = projection("permit alice 80 on 127.0.0.0/8\npermit alice 81 on [::]/0\n", Groups::RealGid);
    let projection = projection.expect("no deny");
    let open = |address, port| permits(&projection, &bind(ALICE, Transport::Tcp, address, port));
    assert!(open("::ffff:127.0.0.1", 80) && !open("::ffff:0.0.0.0", 80) && !open("::", 80));
    assert!(open("::1", 81) && !open("::", 81) && !open("::ffff:127.0.0.1", 81));
}

#[test]
fn a_deny_for_a_group_needs_the_tables_that_name_its_members() {
    for (passwd, group) in [(&b""[..], GROUP), (PASSWD, b"")] {
        let of = |text| Projection::of(policy(text), Groups::Members, &Names::of(passwd, group, b""));
        let error = of("permit any 80\ndeny gid:33 80\n").expect_err("no members are known").message();
        assert!(
            error.status == 78
                && error.why.as_deref().unwrap_or_default().contains("/etc/portgrant.conf:2 denies a group"),
            "{}",
            error.why.as_deref().unwrap_or_default()
        );
        assert!(of("permit gid:33 80\ndeny uid:7 80\n").expect("not needed").is_ok());
    }
}

#[test]
fn a_deny_applies_to_the_subordinate_ids_of_a_denied_user() {
    let open = |text, groups, uid, gid| {
        let projection = projection(text, groups).expect("all decided");
        permits(&projection, &bind((uid, gid), Transport::Tcp, "::", 80))
    };
    let text = "permit any 80\ndeny alice 80\n";
    let open_to =
        |uids: std::ops::Range<u32>| uids.filter(|&uid| open(text, Groups::RealGid, uid, 7)).collect::<Vec<_>>();
    assert_eq!(open_to(1998..2013), [1998, 1999, 2002, 2003, 2004, 2005, 2006, 2007, 2008, 2009, 2011, 2012]);
    let text = "permit any 80\ndeny :web 80\n";
    let denied =
        |gids: std::ops::Range<u32>| gids.filter(|&gid| !open(text, Groups::Members, 7, gid)).collect::<Vec<_>>();
    assert_eq!(denied(2998..3012), [3000, 3001, 3002, 3010]);
    assert!(!open(text, Groups::Members, 2002, 7) && open(text, Groups::Members, 2003, 7));
    // Debian gives every new user a range. Such a policy must still load.
    let passwd: String = (0..500).map(|n| format!("u{n}:x:{n}:{n}:::\n")).collect();
    let subuid: String = (0..500).map(|n| format!("u{n}:{}:65536\n", 100_000 + n * 65_536)).collect();
    let names = Names::of(passwd.as_bytes(), b"g:x:9:\n", b"").with_subordinate_ids(subuid.as_bytes(), b"");
    let denies: String = (0..500).map(|n| format!("deny uid:{n} any\n")).collect();
    let projection = projection_by(&format!("permit any 80\n{denies}"), Groups::RealGid, &names).expect("decided");
    let open = |uid| permits(&projection, &bind((uid, 7), Transport::Tcp, "::", 80));
    assert!(open(99_999) && !open(100_000) && !open(32_867_999) && open(32_868_000));
}

#[test]
fn an_address_in_a_deny_means_its_whole_family_for_udp() {
    let projection = projection("permit any 53 53/udp\ndeny any 53 on 127.0.0.53\n", Groups::RealGid).expect("decided");
    let open = |transport, address| permits(&projection, &bind(ALICE, transport, address, 53));
    assert!(open(Transport::Tcp, "10.0.0.1") && !open(Transport::Tcp, "127.0.0.53"));
    for (address, is_open) in
        [("10.0.0.1", false), ("0.0.0.0", false), ("::", false), ("::ffff:10.0.0.1", false), ("::1", true)]
    {
        assert_eq!(open(Transport::Udp, address), is_open, "{address}");
    }
}

#[test]
fn a_udp_socket_of_af_inet6_with_an_ipv4_address_counts_for_both_families() {
    let projection = projection("permit any 53/udp\ndeny any 53/udp on [fd00::1]\n", Groups::RealGid).expect("decided");
    let open = |address| permits(&projection, &bind(ALICE, Transport::Udp, address, 53));
    assert!(open("10.0.0.1") && open("0.0.0.0") && !open("::1") && !open("::"));
    assert!(!open("::ffff:10.0.0.1") && !open("::ffff:0.0.0.0"));
}

#[test]
fn an_address_stands_for_its_family_in_a_deny_for_udp() {
    let set = |word: &str| AddressSet::parse(word).expect(word);
    for (word, expected) in [("10.0.0.1", "0.0.0.0/0"), ("10.0.0.0/8", "0.0.0.0/0"), ("[fd00::1]", "[::]/0")] {
        assert_eq!(family(set(word)), set(expected), "{word}");
    }
    for word in ["0.0.0.0", "[::]", "0.0.0.0/0", "[::]/0"] {
        assert_eq!(family(set(word)), set(word), "{word}");
    }
}

fn rules() -> impl Strategy<Value = String> {
    let subject =
        select(vec!["alice", "bob", "any", ":web", "gid:1002", "nobody-here", "uid:2000", "gid:3001", "uid:9999"]);
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
    let uid = select(vec![1000u32, 1001, 1002, 1003, 2000, 2001, 2002, 2003, 2004, 2010]);
    (uid, select(vec![33, 1000, 1002, 3000, 3001, 3002, 3010]), transport, address, 80u16..86)
        .prop_map(|(uid, gid, transport, address, port)| bind((uid, gid), transport, address, port))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// `decide` also gets groups, an interface and mptcp.
    #[test]
    fn the_projection_never_permits_more_than_decide(
        rules in prop::collection::vec(rules(), 0..5), bind in binds(), groups in subsequence(vec![33, 1002], 0..3),
        dev in select(vec![None, Some("eth0"), Some("eth1")]), mptcp in any::<bool>(), expand in any::<bool>(),
    ) {
        let (text, names) = (rules.concat(), names());
        // Members are found by account, so the caller's groups must be those of a login.
        let groups = if expand { names.account_groups(bind.uid).expect("given") } else { groups };
        let how = if expand { Groups::Members } else { Groups::RealGid };
        let Ok(projection) = projection(&text, how) else {
            prop_assert!(!expand && text.contains("deny :") || text.contains("deny gid:"), "{}", text);
            return Ok(());
        };
        let policy = policy(&text);
        let caller = Caller { uid: bind.uid, gid: bind.gid, groups, ..Caller::default() };
        let caller = caller.with_accounts(&policy, &names).expect("given");
        let mut endpoint = bind.endpoint();
        if mptcp && bind.transport == Transport::Tcp {
            endpoint.endpoint.protocol = Protocol::Mptcp;
        }
        endpoint.endpoint.options.dev = dev.map(str::to_owned);
        let whole = decide(&policy, &caller, Ask { endpoint, domain: bind.domain(), program: None });
        if let Decision::Permit(permit) = decide_bind(&projection, &bind) {
            prop_assert!(matches!(whole, Decision::Permit(_)), "{}\n{:?}: {:?}", text, bind, whole);
            prop_assert!(permit.rule().program.is_none() && permit.rule().dev.is_none());
        }
    }

    /// Nothing is lost if the policy only depends on what bind(2) shows.
    #[test]
    fn a_policy_of_visible_facts_is_decided_as_by_decide(
        rules in prop::collection::vec(rules(), 0..5), bind in binds(),
    ) {
        let unseen = [":web", "gid:", "dev", "exec", "sctp"];
        let rules: Vec<_> = rules.into_iter().filter(|rule| !unseen.iter().any(|word| rule.contains(word))).collect();
        let text = rules.concat();
        let (projection, policy) = (projection(&text, Groups::RealGid).expect("all is seen"), policy(&text));
        let caller = Caller { uid: bind.uid, gid: bind.gid, ..Caller::default() };
        let caller = caller.with_accounts(&policy, &names()).expect("given");
        let ask = Ask { endpoint: bind.endpoint(), domain: bind.domain(), program: None };
        let line = |decision: Decision<'_>| match decision {
            Decision::Permit(permit) => Some(permit.rule().line),
            Decision::Refuse(_) => None,
        };
        prop_assert_eq!(line(decide_bind(&projection, &bind)), line(decide(&policy, &caller, ask)), "{}", text);
    }
}
