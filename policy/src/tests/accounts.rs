//! The accounts that a caller counts for: their groups, and the owners of subordinate ids.

use super::*;

/// A caller: uid, gid, supplementary groups. What is denied to them, and what is not.
const SUBORDINATE: &[(u32, u32, &[u32], &str, bool)] = &[
    // A caller with a uid of alice's range counts as alice in every deny, and in no permit.
    (100_000, 5, &[], "permit any 80\ndeny alice any", true),
    (165_535, 5, &[], "permit any 80\ndeny uid:1000 80", true),
    (99_999, 5, &[], "permit any 80\ndeny alice any", false),
    (165_536, 5, &[], "permit any 80\ndeny alice any", false),
    (100_000, 5, &[], "permit uid:100000 80\ndeny alice any", true),
    (100_000, 5, &[], "permit gid:5 80\ndeny alice any", true),
    (100_000, 5, &[], "permit any 80\ndeny mallory any\ndeny alice 81", false),
    (100_000, 5, &[], "permit alice 80\npermit any 81\ndeny mallory any", true),
    (165_536, 5, &[], "permit :web 80\npermit any 81\ndeny :alice any", true),
    // The owner is a number; if ranges overlap, each owner counts.
    (165_536, 5, &[], "permit any 80\ndeny bob any", true),
    (100_005, 5, &[], "permit any 80\ndeny bob any", true),
    (100_005, 5, &[], "permit any 80\ndeny alice any", true),
    (100_006, 5, &[], "permit any 80\ndeny bob any", false),
    // carol is not in /etc/passwd, so she may be any user who is not there.
    (300_000, 5, &[], "permit any 80\ndeny uid:5000 any", true),
    (300_000, 5, &[], "permit any 80\ndeny alice any", false),
    (300_010, 5, &[], "permit any 80\ndeny uid:5000 any", false),
    (300_000, 5, &[], "permit any 80\ndeny :staff any", true),
    (300_010, 5, &[], "permit any 80\ndeny :staff any", false),
    // Members of a group, found by their uids and by their gids (supplementary ones too).
    (165_536, 5, &[], "permit any 80\ndeny :web any", true),
    (100_005, 5, &[], "permit any 80\ndeny gid:33 any", true),
    (100_000, 5, &[], "permit any 80\ndeny :web any", false),
    (7, 200_000, &[], "permit any 80\ndeny :web any", true),
    (7, 265_535, &[], "permit any 80\ndeny :web any", true),
    (7, 265_536, &[], "permit any 80\ndeny :web any", false),
    (7, 5, &[6, 200_001], "permit any 80\ndeny :web any", true),
    (7, 100_000, &[], "permit any 80\ndeny :web any", false),
    (7, 100_000, &[], "permit any 80\ndeny :alice any", true),
    // A subordinate gid counts only for groups.
    (7, 200_000, &[], "permit any 80\ndeny bob any", false),
];

#[test]
fn a_deny_treats_subordinate_ids_as_their_owner() {
    for &(uid, gid, groups, text, denied) in SUBORDINATE {
        let policy = policy(text);
        let caller = Caller { uid, gid, groups: groups.to_vec(), ..Caller::default() };
        let caller = caller.with_accounts(&policy, &names()).expect("the tables are given");
        let decision = verdict(&policy, &caller, "80", None);
        assert_eq!(matches!(decision, Decision::Refuse(_)), denied, "{uid} {gid} {groups:?}: {text}\n{decision:?}");
    }
}

#[test]
fn the_owner_of_an_owner_counts_too() {
    let names =
        Names::of(PASSWD, GROUP, SERVICES).with_subordinate_ids(b"alice:5000:10\n5003:9000:10\n", b"5003:7000:1\n");
    for (uid, gid, deny) in [(9000, 1, "alice"), (9009, 1, "uid:5003"), (1, 7000, ":alice")] {
        let policy = policy(&format!("permit any 80\ndeny {deny} any"));
        let caller = Caller { uid, gid, ..Caller::default() }.with_accounts(&policy, &names).expect("given");
        assert!(matches!(verdict(&policy, &caller, "80", None), Decision::Refuse(_)), "{uid}, {gid}: {deny}");
    }
}

#[test]
fn a_refusal_names_the_owner_of_the_subordinate_id() {
    let policy = policy("permit any 80\ndeny alice any");
    let caller = Caller { uid: 100_000, ..Caller::default() }.with_accounts(&policy, &names()).expect("given");
    let report = refused(&policy, &caller, asked("80"));
    assert!(
        report
            .why
            .as_deref()
            .unwrap_or_default()
            .ends_with("deny alice any (uid 100000 is one of uid 1000's in /etc/subuid)"),
        "{}",
        report.why.as_deref().unwrap_or_default()
    );
}

/// A table that cannot change the verdict is not read, so it may be broken.
#[test]
fn subordinate_ids_are_read_only_if_a_permit_meets_a_deny() {
    for (text, expected) in [
        ("permit any 80\ndeny any 81", false),
        ("deny alice 80", false),
        ("permit bob 80\ndeny alice 80", false),
        ("permit any 80\ndeny alice 80", true),
        ("permit gid:5 80\ndeny :web 80", true),
    ] {
        let policy = policy(text);
        let caller =
            Caller { uid: 100_005, gid: 5, ..Caller::default() }.with_accounts(&policy, &names()).expect("given");
        let found = !caller.owners.is_empty();
        assert_eq!(found, expected, "{text}: {caller:?}");
    }
}

#[test]
fn a_deny_for_a_group_needs_entries_in_passwd_and_group() {
    for (passwd, group, missing) in [
        (&b""[..], GROUP, "/etc/passwd"),
        (b"\n# none\n", GROUP, "/etc/passwd"),
        (PASSWD, b"", "/etc/group"),
        (PASSWD, b"x\n", "/etc/group"),
    ] {
        let policy = policy("permit any 80\ndeny gid:33 any");
        let caller = Caller { uid: 1001, gid: 5, ..Caller::default() };
        let error = caller.with_accounts(&policy, &Names::of(passwd, group, b"")).expect_err("no table, no members");
        let report = error.message();
        assert_eq!((report.status, report.what.as_str()), (78, "the policy cannot be used"));
        assert!(
            report
                .why
                .as_deref()
                .unwrap_or_default()
                .starts_with(&format!("{missing} is missing or has no entries, and /etc/portgrant.conf:2 denies"))
        );
        assert_eq!(
            report.fix.as_deref().unwrap_or_default(),
            format!("restore the file, as root: cp -p {missing}- {missing}")
        );
        // Other rules do not need the tables.
        let policy = self::policy("permit any 80\ndeny uid:1002 any");
        let caller = Caller { uid: 1001, ..Caller::default() };
        assert!(caller.with_accounts(&policy, &Names::of(passwd, group, b"")).is_ok());
    }
}
