//! Functions of the tables of names and of a policy that other crates call.

use portgrant_protocol::Protocol;

use super::*;

#[test]
fn a_groups_members_are_primary_and_listed_users() {
    let passwd = b"zoe:x:9:33:::\nalice:x:1000:1000:::\nbob:x:1001:33:::\ncarol:x:5:1000:::\n";
    let names = Names::of(passwd, b"web:x:33:alice,,bob,ghost\nother:x:34:carol\nmore:x:33:alice\n", b"");
    let members = names.members(33).expect("given");
    assert_eq!((members.uids, members.unknown), (vec![9, 1000, 1001], vec!["ghost".to_owned()]));
    assert_eq!(names.members(35).expect("given").uids, []);
}

#[test]
fn every_uid_of_a_login_name_is_in_the_groups_of_that_name() {
    let names = Names::of(b"alice:x:1000:1000:::\nalice:x:5:5:::\n", b"web:x:33:alice\n", b"");
    assert_eq!(names.members(33).expect("given").uids, [5, 1000]);
    for uid in [5, 1000] {
        assert!(names.account_groups(uid).expect("given").contains(&33), "{uid}");
    }
    let names = names.with_subordinate_ids(b"alice:100000:10\n", b"");
    for (text, uid) in [("permit any 80\ndeny :web any", 5), ("permit any 80\ndeny uid:5 any", 100_000)] {
        let policy = policy(text);
        let caller = Caller { uid, ..Caller::default() }.with_accounts(&policy, &names).expect("given");
        assert!(matches!(verdict(&policy, &caller, "80", None), Decision::Refuse(_)), "{text}");
    }
}

#[test]
fn a_name_is_found_after_many_lookups() {
    let passwd: String =
        (0..30).map(|number| format!("user{}:x:{}:0:::\n", number * 7 % 30, number * 7 % 30)).collect();
    let names = Names::of(format!("{passwd}user7:x:999:0:::\nuser:x:777:0:::").as_bytes(), b"", b"");
    for round in 0..3 {
        for number in 0..30 {
            let uid = names.user(&format!("user{number}")).expect("given").map(|user| user.uid);
            assert_eq!(uid, Some(number), "round {round}");
        }
        for (name, uid) in [("user", Some(777)), ("user30", None), ("use", None), ("user1:x", None), ("zz", None)] {
            assert_eq!(names.user(name).expect("given").map(|user| user.uid), uid, "{name}, round {round}");
        }
    }
}

#[test]
fn an_owner_missing_from_passwd_is_listed_once() {
    let names = names();
    let owners = names.owners(["alice", "carol", "1001", "carol"].into_iter()).expect("given");
    assert_eq!(owners.unknown_names, ["carol"]);
    let mut uids = owners.uids;
    uids.sort_unstable();
    assert_eq!(uids, [1000, 1001]);
}

#[test]
fn protocols_form_a_set() {
    let tcp = Protocols::only(Protocol::Tcp);
    assert!(tcp.contains(Protocol::Mptcp) && !tcp.contains(Protocol::Udp) && !tcp.is_empty());
    let others = Protocols::ALL.without(Protocol::Mptcp);
    assert!(!others.contains(Protocol::Tcp) && others.contains(Protocol::Udp) && others.contains(Protocol::Sctp));
    assert!(others.without(Protocol::Udp).without(Protocol::Sctp).is_empty() && !others.is_empty());
    assert_eq!(tcp.without(Protocol::Sctp), tcp);
}

#[test]
fn a_policy_knows_which_programs_its_rules_name() {
    let exec = policy("permit alice 80\npermit bob 80 exec /bin/x");
    assert!(exec.names_program(b"/bin/x") && !exec.names_program(b"/bin/y"));
    assert!(!policy("permit alice 80").names_program(b"/bin/x"));
}
