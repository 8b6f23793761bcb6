//! list: what a user may bind, in the policy's order, and what is denied of it.

use portgrant_tests::{LAUNCHER, Outcome, World, both_installs};

both_installs![
    list_shows_permits_in_the_policys_order_with_their_denies,
    list_of_another_user_shows_their_rules,
    list_can_print_json,
    list_of_a_broken_policy_is_an_error,
    list_shows_the_first_denies_and_counts_the_others,
    a_very_large_policy_is_listed,
    list_ends_silently_if_nobody_reads_its_pipe,
];

fn list(world: &World, user: &str, words: &[&str]) -> Outcome {
    world.as_user(user).run([&[LAUNCHER, "list"], words].concat())
}

const POLICY: &str = "# ours\npermit alice 80  443/udp reuseport # web\npermit bob 25\n\
    permit any 600-610 on 127.0.0.0/8 [::1] reserved exec /usr/bin/true\n";

fn list_shows_permits_in_the_policys_order_with_their_denies(world: &World) {
    world.policy(POLICY);
    world.policy_file("deny.conf", "deny alice 443\ndeny any 600-700\ndeny bob 80\n");
    assert_eq!(
        list(world, "alice", &[]).succeeds().stdout,
        "2 rules permit something to alice (uid 1000)\n  80 443/udp\n\
        \x20     rule    /etc/portgrant.conf:2  permit alice 80  443/udp reuseport # web\n\
        \x20     options reuseport\n\
        \x20     except  /etc/portgrant.d/deny.conf:1  deny alice 443\n  600-610\n\
        \x20     rule    /etc/portgrant.conf:4  permit any 600-610 on 127.0.0.0/8 [::1] reserved exec /usr/bin/true\n\
        \x20     on      127.0.0.0/8 [::1]\n\
        \x20     only    /usr/bin/true, started with portgrant exec\n\
        \x20     nothing /etc/portgrant.d/deny.conf:2  deny any 600-700\n\
         every user can bind ports from 1024 on without a rule, and a deny has no effect there: \
         net.ipv4.ip_unprivileged_port_start\n"
    );
    // It is as it says.
    world.as_user("alice").run([LAUNCHER, "exec", "-l", "443/udp", "--", "true"]).exits(77);
    world.as_user("alice").run([LAUNCHER, "exec", "-l", "80", "--", "true"]).succeeds();
    world.policy("# nothing\n");
    list(world, "alice", &[]).succeeds().prints("no rule permits anything to alice (uid 1000)\n");
    std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "80").expect("the world's own sysctl");
    list(world, "alice", &[]).succeeds().prints("every user can bind ports from 80 on without a rule");
}

fn list_of_another_user_shows_their_rules(world: &World) {
    world.policy("permit alice 80\npermit :web 81\npermit bob 82\n");
    world.policy_file("deny.conf", "deny :web 82\n");
    let bobs = list(world, "alice", &["--as-user", "bob"]);
    bobs.succeeds()
        .prints("2 rules permit something to bob (uid 1001)\n  81\n")
        .prints("nothing /etc/portgrant.d/deny");
    assert_eq!(bobs.stdout, list(world, "bob", &[]).succeeds().stdout);
    // The groups are those of the process for a permit, and the account's for a deny.
    let without = world.as_user("bob").groups(&[1001]).run([LAUNCHER, "list"]);
    without.succeeds().prints("1 rule permits something to bob (uid 1001)\n  82\n").prints("nothing ");
    list(world, "alice", &["--as-user", "nobody-here"]).exits(64).complains("there is no user 'nobody-here'");
}

fn list_can_print_json(world: &World) {
    world.policy(POLICY);
    world.policy_file("deny.conf", "deny alice 443\n");
    let json = list(world, "alice", &["--format", "json"]);
    let script = "import json, sys\n\
        said = json.loads(sys.argv[1])\n\
        assert (said['user'], said['uid'], said['unprivileged_from']) == ('alice', 1000, 1024), said\n\
        web, some = said['permits']\n\
        assert web['ports'] == ['80', '443/udp'] and web['options'] == ['reuseport'], web\n\
        assert web['rule'] == '/etc/portgrant.conf:2' and web['program'] is None, web\n\
        assert [(one['rule'], one['all']) for one in web['denied_by']] == [('/etc/portgrant.d/deny.conf:1', False)], web\n\
        assert some['addresses'] == ['127.0.0.0/8', '[::1]'] and some['program'] == '/usr/bin/true', some\n";
    world.as_user("alice").run(["python3", "-c", script, &json.succeeds().stdout]).succeeds();
}

fn list_of_a_broken_policy_is_an_error(world: &World) {
    let outcome = list(world, "alice", &[]);
    outcome.exits(78).complains("/etc/portgrant.conf: it does not exist");
    world.policy("permit alice 80\npermit alice 8o\n");
    let outcome = list(world, "alice", &[]);
    outcome.exits(78).complains("/etc/portgrant.conf:2:14: '8o' is not a valid port").complains("see portgrant check");
    assert_eq!(outcome.stdout, "");
}

fn list_shows_the_first_denies_and_counts_the_others(world: &World) {
    let denies: String = (100..130).map(|port| format!("deny any {port}\n")).collect();
    world.policy(&format!("permit alice 1-200\n{denies}"));
    let said = list(world, "alice", &[]);
    said.succeeds()
        .prints("      except  /etc/portgrant.conf:11  deny any 109\n      except  20 more denies are not shown\n");
    list(world, "alice", &["--json"]).succeeds().prints("\"denied_by_more\": 20").prints("\"compared_all\": true");
}

fn a_very_large_policy_is_listed(world: &World) {
    let rule = |port: u32| format!("permit alice {port} on 10.0.{}.{}\ndeny any {port}\n", port >> 8, port & 255);
    world.policy(&(1024..51_024).map(rule).collect::<String>());
    let said = list(world, "alice", &[]);
    said.succeeds()
        .prints("50000 rules permit something to alice")
        .prints("      nothing /etc/portgrant.conf:100000  deny any 51023\n");
    assert_eq!(said.stdout.matches("      nothing ").count(), 50_000);
    assert!(!said.stdout.contains("too large"), "all of them were compared");
    // No port is everybody's. The kernel wants the ports that it chooses itself to be above.
    for (name, value) in [("ip_local_port_range", "60000 60999"), ("ip_unprivileged_port_start", "60000")] {
        std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).expect("the world's own sysctl");
    }
    let refused = world.as_user("alice").run([LAUNCHER, "explain", "10.0.199.79:51023"]);
    refused.exits(77).prints("/etc/portgrant.conf:100000");
}

fn list_ends_silently_if_nobody_reads_its_pipe(world: &World) {
    world.policy(POLICY);
    for command in ["list", "list --format json", "explain 80", "check"] {
        // It starts when the reader is gone.
        let wait = "trap '' PIPE; while echo 2>&-; do :; done";
        let script = format!("{{ {wait}; {LAUNCHER} {command}; echo status $? >&2; }} | true");
        let outcome = world.as_user("alice").run(["sh", "-c", &script]);
        assert_eq!(outcome.succeeds().stderr, "status 141\n", "{command}");
    }
}
