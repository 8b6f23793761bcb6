//! explain: the same verdict as the real thing, said in words and in JSON, and nothing bound.

use portgrant_tests::{BINDER, LAUNCHER, World, both_installs};

both_installs![
    explain_reports_what_would_be_bound_and_by_which_rule,
    explain_decides_for_another_user_as_a_login_would,
    explain_reads_the_policy_with_the_other_users_rights_only,
    explain_is_readable_by_programs,
    help_and_version_are_printed,
];

fn explain_reports_what_would_be_bound_and_by_which_rule(world: &World) {
    world.policy("# web\npermit alice 80 443/udp\npermit alice 25 exec /usr/bin/true\n");
    let explain = |words: &[&str]| world.as_user("alice").run([&[LAUNCHER, "explain"], words].concat());
    let outcome = explain(&["-l", "80", "-l", "quic=127.0.0.1:443/udp"]);
    assert_eq!(
        outcome.succeeds().stdout,
        "80/tcp is permitted for alice (uid 1000)\n  rule: /etc/portgrant.conf:2  permit alice 80 443/udp\n  \
         bind: [::] (IPv4 as well) port 80, tcp, listening, named '80/tcp'\n\
         127.0.0.1:443/udp is permitted for alice (uid 1000)\n  rule: /etc/portgrant.conf:2  permit alice 80 443/udp\n  \
         bind: 127.0.0.1 port 443, udp, named 'quic'\n"
    );
    explain(&["-l", "80", "-l", "81"])
        .exits(77)
        .prints("81/tcp is refused for alice (uid 1000)\n  why: none of the 2 rules");
    explain(&["-l", "25"]).exits(77).prints("only for one program");
    explain(&["-l", "25", "--", "/usr/bin/true"]).succeeds().prints("permitted");
    explain(&["-l", "25", "--", "true"]).succeeds().prints("permitted");
    explain(&["-l", "25", "--", "/bin/true"]).exits(77);
    assert_eq!(world.listening(), []);
}

fn explain_decides_for_another_user_as_a_login_would(world: &World) {
    world.policy("permit :web 80\n");
    let explain = |user| world.as_user("alice").run([LAUNCHER, "explain", "80", "--as-user", user]);
    explain("bob").succeeds().prints("80/tcp is permitted for bob (uid 1001)");
    explain("alice").exits(77).prints("refused for alice");
}

fn explain_reads_the_policy_with_the_other_users_rights_only(world: &World) {
    world.policy("permit alice 80\n");
    world.as_root().run(["chmod", "0600", "/etc/portgrant.conf"]).succeeds();
    for command in [&["explain", "80"][..], &["list"]] {
        let words = ["setpriv", "--securebits=+no_setuid_fixup,+noroot_locked", LAUNCHER];
        let outcome = world.as_root().run([&words, command, &["--as-user", "alice"]].concat());
        outcome.exits(78).complains("/etc/portgrant.conf: the caller may not read it");
    }
}

fn explain_is_readable_by_programs(world: &World) {
    world.policy("permit alice 80 exec /usr/bin/a\"b\\c\npermit alice 81\n");
    let explain = ["explain", "80", "81", "--format", "json"];
    let said = world.as_user("alice").run([&[LAUNCHER], &explain[..]].concat());
    let script = "import json, sys\n\
        said = json.loads(sys.argv[1])\n\
        assert [one['decision'] for one in said] == ['refuse', 'permit'], said\n\
        assert said[0]['program'] == '/usr/bin/a\"b\\\\x5cc' and said[0]['fix'], said\n\
        assert said[1]['rule'] == '/etc/portgrant.conf:2' and said[1]['text'] == 'permit alice 81', said\n\
        assert (said[1]['user'], said[1]['uid'], said[1]['bind']['port']) == ('alice', 1000, 81), said\n";
    world.as_user("alice").run(["python3", "-c", script, &said.exits(77).stdout]).succeeds();
    // The helper's side has other words for the same.
    let alias = world.as_user("alice").run([LAUNCHER, "explain", "-l", "80", "-l", "81", "--json"]);
    assert_eq!(alias.exits(77).stdout, said.stdout);
    let alias = world.as_user("bob").run([LAUNCHER, "explain", "81", "--for", "alice"]);
    alias.succeeds().prints("permitted for alice");
    world
        .as_user("bob")
        .run([LAUNCHER, "explain", "81", "--as-user", "nobody-here"])
        .exits(64)
        .complains("there is no user 'nobody-here'");
}

fn help_and_version_are_printed(world: &World) {
    for words in [&["--help"][..], &["-h"], &["exec", "--help"]] {
        let help = world.as_user("alice").run([&[BINDER], words].concat());
        help.succeeds().prints("portgrant-binder exec -l ENDPOINT...").prints("Exit status:");
        assert!(help.stdout.lines().all(|line| line.len() <= 90), "{help}");
    }
    world.as_user("alice").run([BINDER, "--version"]).succeeds().prints("portgrant-binder 0.");
}
