//! explain and check: the same verdict as the real thing, said in words and in JSON, and nothing bound.

use portgrant_tests::{BINDER, World, both_installs};

both_installs![
    explain_says_what_would_be_bound_and_by_which_rule,
    explain_decides_for_another_user_as_a_login_would,
    explain_is_readable_by_programs,
    check_warns_of_exec_rules_that_bind_nothing,
    check_shows_nothing_that_a_terminal_obeys_and_reads_only_files,
    help_and_version_are_printed,
];

fn explain_says_what_would_be_bound_and_by_which_rule(world: &World) {
    world.policy("# web\npermit alice 80 443/udp\npermit alice 25 exec /usr/bin/true\n");
    let explain = |words: &[&str]| world.as_user("alice").run([&[BINDER, "explain"], words].concat());
    let outcome = explain(&["-l", "80", "-l", "quic=127.0.0.1:443/udp"]);
    assert_eq!(
        outcome.succeeds().stdout,
        "80/tcp is permitted for alice (uid 1000)\n  rule: /etc/portgrant.conf:2  permit alice 80 443/udp\n  \
         bind: [::] (IPv4 as well) port 80, tcp, listening, as descriptor '80/tcp'\n\
         127.0.0.1:443/udp is permitted for alice (uid 1000)\n  rule: /etc/portgrant.conf:2  permit alice 80 443/udp\n  \
         bind: 127.0.0.1 port 443, udp, as descriptor 'quic'\n"
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
    let explain = |user| world.as_user("alice").run([BINDER, "explain", "-l", "80", "--for", user]);
    explain("bob").succeeds().prints("80/tcp is permitted for bob (uid 1001)");
    explain("alice").exits(77).prints("refused for alice");
}

fn explain_is_readable_by_programs(world: &World) {
    world.policy("permit alice 80 exec /usr/bin/a\"b\\c\npermit alice 81\n");
    let script = "import json, subprocess, sys\n\
        said = json.loads(subprocess.run([sys.argv[1], 'explain', '--json', '-l', '80', '-l', '81'], stdout=-1).stdout)\n\
        assert [one['decision'] for one in said] == ['refuse', 'permit'], said\n\
        assert said[0]['program'] == '/usr/bin/a\"b\\\\x5cc', said\n\
        assert said[1]['rule'] == '/etc/portgrant.conf:2' and said[1]['text'] == 'permit alice 81', said\n\
        found = json.loads(subprocess.run([sys.argv[1], 'check', '--json'], stdout=-1).stdout)\n\
        assert len(found) == 1 and found[0]['kind'] == 'warning' and found[0]['line'] == '1', found\n";
    world.as_user("alice").run(["python3", "-c", script, BINDER]).succeeds();
}

fn check_warns_of_exec_rules_that_bind_nothing(world: &World) {
    world.policy(
        "permit alice 80 exec /usr/bin/python3\npermit alice 81 exec /no/such\npermit alice 82 exec /usr/bin/true\n",
    );
    let check = world.as_user("alice").run([BINDER, "check"]);
    check.succeeds().prints("/etc/portgrant.conf:1:1: warning: python3 runs what its caller tells it to");
    check
        .prints("/etc/portgrant.conf:2:1: warning: the rule cannot be used: /no: it does not exist")
        .prints("2 warnings\n");
}

fn check_shows_nothing_that_a_terminal_obeys_and_reads_only_files(world: &World) {
    std::fs::write("/tmp/odd.conf", b"permit alice 80 exec /usr/\x1b[31mred\x01x\xff\n").expect("write");
    let check = |words: &[&str]| world.as_user("alice").run([&[BINDER, "check"], words].concat());
    let text = check(&["/tmp/odd.conf"]);
    text.succeeds().prints("/usr/\\x1b[31mred\\x01x\\xff: it does not exist");
    assert!(text.stdout.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{text}");
    let json = check(&["--json", "/tmp/odd.conf"]);
    let script = "import json, sys\nassert json.loads(sys.argv[1])[0]['line'] == '1'\n";
    world.as_user("alice").run(["python3", "-c", script, &json.succeeds().stdout]).succeeds();
    world.as_root().run(["mkfifo", "-m", "644", "/tmp/fifo"]).succeeds();
    for odd in ["/tmp/fifo", "/dev/zero", "/tmp"] {
        check(&[odd]).exits(78).complains("it is not a regular file");
    }
}

fn help_and_version_are_printed(world: &World) {
    for words in [&["--help"][..], &["-h"], &["exec", "--help"]] {
        let help = world.as_user("alice").run([&[BINDER], words].concat());
        help.succeeds().prints("portgrant-binder exec    -l ENDPOINT...").prints("Exit status:");
        assert!(help.stdout.lines().all(|line| line.len() <= 90), "{help}");
    }
    world.as_user("alice").run([BINDER, "--version"]).succeeds().prints("portgrant-binder 0.");
}
