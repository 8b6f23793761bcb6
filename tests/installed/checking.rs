//! check: what is wrong with a policy, under the very word, and what of it is probably not meant.

use std::fs;

use portgrant_tests::{LAUNCHER, Outcome, World, both_installs};

both_installs![
    a_malformed_word_is_underlined_and_the_policy_is_refused,
    check_warns_of_a_rule_without_effect_and_names_its_cause,
    check_warns_of_untrusted_programs_and_interpreters,
    check_warns_of_ports_that_nfs_trusts_if_nfs_is_exported,
    findings_are_readable_by_programs,
    check_uses_colour_only_for_terminals,
    check_escapes_control_bytes_and_reads_only_regular_files,
    of_100000_warnings_the_first_are_shown_and_the_others_counted,
    an_error_is_shown_after_any_number_of_warnings,
    of_a_very_long_line_only_the_part_with_the_error_is_shown,
];

fn check(world: &World, words: &[&str]) -> Outcome {
    world.as_user("alice").run([&[LAUNCHER, "check"], words].concat())
}

fn a_malformed_word_is_underlined_and_the_policy_is_refused(world: &World) {
    world.policy("permit alice 80\n\tpermit\tbob 8o # x\n");
    world.policy_file("b.conf", "permit nobody-here 81\npermit bob 1-2-3 on\n");
    let outcome = check(world, &[]);
    assert_eq!(
        outcome.exits(78).stdout,
        "/etc/portgrant.conf:2:13: error: '8o' is not a valid port; expected 1 to 65535, N-M or a service, or a clause \
         in the right order\n     permit bob 8o # x\n                ^^\n\
         /etc/portgrant.d/b.conf:1:8: warning: user 'nobody-here' is not in /etc/passwd; expected a user, or uid:N\n\
        \x20   permit nobody-here 81\n           ^^^^^^^^^^^\n\
         /etc/portgrant.d/b.conf:2:14: error: '1-2-3' is not a valid port; expected 1 to 65535, N-M or a service, or a \
         clause in the right order\n    permit bob 1-2-3 on\n                 ^^^\n\
         2 rules, 2 files, 2 errors, 1 warning: invalid\n"
    );
    // A draft of somebody's own, before it is installed.
    world.folder("/home/alice/draft", "alice", 0o755);
    fs::write("/home/alice/draft/a.conf", "permit alice 80\n").expect("write");
    check(world, &["/home/alice/draft/a.conf"]).succeeds().prints("1 rule, 1 file, 0 errors, 0 warnings: well-formed");
}

fn check_warns_of_a_rule_without_effect_and_names_its_cause(world: &World) {
    world.policy("permit alice 80  # web\npermit any 80-90\npermit bob 100 exec /usr/bin/true\n");
    world.policy_file("deny.conf", "deny :web any\n");
    check(world, &[])
        .succeeds()
        .prints(
            "/etc/portgrant.conf:1:1: warning: the rule adds nothing: /etc/portgrant.conf:2  permit any 80-90  \
             permits all of it already; remove one of the two\n    permit alice 80  # web\n    ^^^^^^^^^^^^^^^\n",
        )
        .prints(
            "/etc/portgrant.conf:3:1: warning: the rule permits nothing: all of it is denied at \
             /etc/portgrant.d/deny.conf:1  deny :web any; remove one of the two\n",
        )
        .prints("4 rules, 2 files, 0 errors, 2 warnings: well-formed\n");
    // It is as it says.
    world.as_user("bob").run([LAUNCHER, "exec", "-l", "100", "--", "/usr/bin/true"]).exits(77);
}

fn check_warns_of_untrusted_programs_and_interpreters(world: &World) {
    world.file("/home/alice/own", "");
    world.as_root().run(["chown", "alice", "/home/alice/own"]).succeeds();
    world.as_root().run(["install", "-Dm0777", "/usr/bin/true", "/usr/local/lib/open"]).succeeds();
    world.policy(
        "permit alice 80 exec /usr/bin/python3\npermit alice 81 exec /no/such\npermit alice 82 exec /usr/bin/true\n\
         permit alice 83 exec /home/alice/own\npermit alice 84 exec /usr/local/lib/open\n",
    );
    check(world, &[])
        .succeeds()
        .prints("/etc/portgrant.conf:1:1: warning: python3 is an interpreter or a script")
        .prints("/etc/portgrant.conf:2:1: warning: the rule cannot be used: /no: it does not exist")
        .prints("/etc/portgrant.conf:4:1: warning: the rule cannot be used: /home/alice: it belongs to uid 1000")
        .prints("/etc/portgrant.conf:5:1: warning: the rule cannot be used: /usr/local/lib/open: its mode is 0777")
        .prints("check its content, then as root: chmod go-w /usr/local/lib/open")
        .prints("4 warnings");
}

fn check_warns_of_ports_that_nfs_trusts_if_nfs_is_exported(world: &World) {
    world.policy("permit alice 600-699 reserved\npermit bob 80\n");
    check(world, &[]).succeeds().prints("0 warnings");
    world.file("/etc/exports", "/srv 10.0.0.0/8(rw,sec=krb5p)\n");
    check(world, &[]).succeeds().prints("0 warnings");
    world.file("/etc/exports", "# all\n/srv 10.0.0.0/8(rw)\n");
    check(world, &[])
        .succeeds()
        .prints("/etc/portgrant.conf:1:1: warning: NFS with sec=sys is exported by /etc/exports, and trusts")
        .prints("1 warning: well-formed");
}

fn findings_are_readable_by_programs(world: &World) {
    world.policy("permit alice 80\npermit alice 80\npermit nobody-here 25\n");
    let json = check(world, &["--format", "json"]);
    let script = "import json, sys\n\
        said = json.loads(sys.argv[1])\n\
        assert said['rules'] == 3 and said['files'] == ['/etc/portgrant.conf'], said\n\
        found = [(one['kind'], one['code'], one['line'], one['column']) for one in said['findings']]\n\
        assert found == [('warning', 'needless', 2, 1), ('warning', 'unknown-name', 3, 8)], said\n";
    world.as_user("alice").run(["python3", "-c", script, &json.succeeds().stdout]).succeeds();
    world.policy("permit alice 8o\n");
    check(world, &["--json"]).exits(78).prints("\"kind\": \"error\"").prints("\"code\": \"malformed\"");
    world.as_root().run(["chmod", "0666", "/etc/portgrant.conf"]).succeeds();
    check(world, &["--json"]).exits(78).prints("\"code\": \"installation\"").prints("chmod go-w /etc/portgrant.conf");
}

fn check_uses_colour_only_for_terminals(world: &World) {
    world.policy("permit alice 8o\n");
    let plain = check(world, &[]);
    assert!(!plain.stdout.contains('\x1b') && !plain.stderr.contains('\x1b'), "{plain}");
    let at_a_terminal = |variable: &str, value: &str| {
        let line = format!("{LAUNCHER} check; {LAUNCHER} doctor; {LAUNCHER} who 80; {LAUNCHER} list --as-user alice");
        let caller = world.as_user("alice").env("TERM", "xterm").env(variable, value);
        caller.run(["script", "-qec", &line, "/dev/null"]).stdout
    };
    let coloured = at_a_terminal("OTHER", "1");
    assert!(coloured.contains("\x1b[31m") && coloured.contains("\x1b[32m"), "{coloured:?}");
    for (variable, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let plain = at_a_terminal(variable, value);
        assert!(plain.contains("is not a valid port") && !plain.contains('\x1b'), "{variable}: {plain:?}");
    }
}

fn check_escapes_control_bytes_and_reads_only_regular_files(world: &World) {
    fs::write("/tmp/odd.conf", b"permit alice 80 exec /usr/\x1b[31mred\x01x\xff\npermit al\x1bice 80\n")
        .expect("write");
    let text = check(world, &["/tmp/odd.conf"]);
    text.exits(78).prints("    permit al\\x1bice 80\n             ^^^^\n");
    fs::write("/tmp/odd.conf", b"permit alice 80 exec /usr/\x1b[31mred\x01x\xff\n").expect("write");
    let text = check(world, &["/tmp/odd.conf"]);
    text.succeeds().prints("/usr/\\x1b[31mred\\x01x\\xff: it does not exist");
    assert!(text.stdout.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{text}");
    world.as_root().run(["mkfifo", "-m", "644", "/tmp/fifo"]).succeeds();
    for odd in ["/tmp/fifo", "/dev/zero", "/tmp"] {
        check(world, &[odd]).exits(78).complains("it is not a regular file");
    }
}

/// PG-41
fn of_100000_warnings_the_first_are_shown_and_the_others_counted(world: &World) {
    let rules: String = (0..100_000).map(|uid| format!("permit uid:{} 80 443\n", 10_000 + uid)).collect();
    world.policy(&format!("{rules}deny any any\n"));
    let said = check(world, &[]);
    said.succeeds()
        .prints("/etc/portgrant.conf:1000:1: warning: the rule permits nothing: all of it is denied at")
        .prints("\n99000 more findings are not shown\n100001 rules, 1 file, 0 errors, 100000 warnings: well-formed\n");
    assert!(!said.stdout.contains("conf:1001:") && said.stdout.len() < 1_000_000, "{} bytes", said.stdout.len());
    let json = check(world, &["--json"]);
    json.succeeds().prints("\"left_out\": 99000").prints("\"warnings\": 100000").prints("\"compared_all\": true");
    let doctor = world.as_user("alice").run([LAUNCHER, "doctor"]);
    doctor.prints("99992 more findings: portgrant check lists all").prints("100001 rules in 1 file");
}

fn an_error_is_shown_after_any_number_of_warnings(world: &World) {
    world.policy(&format!("{}permit alice 8o\n", "permit nobody-here 80\n".repeat(2000)));
    check(world, &[])
        .exits(78)
        .prints("/etc/portgrant.conf:2001:14: error: '8o' is not a valid port")
        .prints("1001 more findings are not shown\n2000 rules, 1 file, 1 error, 2000 warnings: invalid\n");
}

fn of_a_very_long_line_only_the_part_with_the_error_is_shown(world: &World) {
    world.policy(&format!("permit alice{}\n", " no-such-service".repeat(65_000)));
    let said = check(world, &[]);
    said.succeeds().prints("64000 more findings are not shown\n").prints("...\n").prints("no-such-service no-such");
    assert!(said.stdout.len() < 2_000_000, "{} bytes", said.stdout.len());
}
