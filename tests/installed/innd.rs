//! A news server on port 119, never root: INN takes LISTEN_FDS.

use std::fs;

use crate::accepting::servers::readers_are_served_under_load;
use portgrant_tests::{BINDER, Caller, Dialogue, LAUNCHER, Running, World, both_installs};

both_installs![
    innd_serves_119_on_ipv4_and_ipv6,
    innd_serves_119_through_the_launcher,
    innd_is_started_by_a_rule_bound_to_it,
    innd_is_started_through_the_launcher_by_a_rule_bound_to_it,
    innd_without_a_rule_is_refused_and_not_started,
    innd_is_refused_by_a_rule_bound_to_another_program,
];

const INND: &str = "/usr/lib/news/bin/innd";
const PID_FILE: &str = "/run/news/innd.pid";

fn innd_serves_119_on_ipv4_and_ipv6(world: &World) {
    world.policy("permit news nntp\n");

    let innd = news(world).spawn(exec(BINDER));

    serves_news(world, &innd);
}

fn innd_serves_119_through_the_launcher(world: &World) {
    world.policy("permit news nntp\n");

    let innd = news(world).spawn(exec(LAUNCHER));

    serves_news(world, &innd);
}

fn innd_is_started_by_a_rule_bound_to_it(world: &World) {
    world.policy("permit news 119 exec /usr/lib/news/bin/innd\n");

    let innd = news(world).spawn(exec(BINDER));

    serves_news(world, &innd);
}

fn innd_is_started_through_the_launcher_by_a_rule_bound_to_it(world: &World) {
    world.policy("permit news 119 exec /usr/lib/news/bin/innd\n");

    let innd = news(world).spawn(exec(LAUNCHER));

    serves_news(world, &innd);
}

fn innd_without_a_rule_is_refused_and_not_started(world: &World) {
    world.policy("permit Debian-exim 119\npermit news 120\n");

    for program in [BINDER, LAUNCHER] {
        let outcome = news(world).run(exec(program));

        outcome.exits(77).complains("119");
        assert_eq!(world.listening(), []);
        assert!(!fs::exists(PID_FILE).unwrap(), "innd was started");
    }
}

fn innd_is_refused_by_a_rule_bound_to_another_program(world: &World) {
    world.policy("permit news 119 exec /usr/lib/news/bin/nnrpd\n");

    for program in [BINDER, LAUNCHER] {
        let outcome = news(world).run(exec(program));

        outcome.exits(77).complains("119");
        assert_eq!(world.listening(), []);
        assert!(!fs::exists(PID_FILE).unwrap(), "innd was started");
    }
}

fn news(world: &World) -> Caller {
    world.folder("/run/news", "news", 0o755); // the package's service makes it
    readers_are_served_under_load();
    world.as_user("news")
}

fn exec(program: &str) -> [&str; 9] {
    [program, "exec", "-l", "0.0.0.0:119", "-l", "[::]:119,v6only", "--", INND, "-f"]
}

fn serves_news(world: &World, innd: &Running) {
    for address in ["127.0.0.1:119", "[::1]:119"] {
        let mut client = Dialogue::with(address);
        client.hear("200");
        client.say("HELP");
        client.hear("100");
        assert!(client.text().iter().any(|line| line.contains("MODE READER")), "HELP names no MODE READER");
        client.say("MODE READER");
        client.hear("200");
        client.say("QUIT");
        client.hear("205");
    }
    let news = world.uid("news");
    let process = world.process(innd.pid());
    assert_eq!((process.uids, process.gids), ([news; 4], [news; 4]));
    assert!(process.is_powerless(), "innd has kept a capability: {process:?}");
    assert_eq!(process.program.to_str(), Some(INND));
    assert!(fs::exists(PID_FILE).unwrap());

    let listening = world.listening();
    assert_eq!(listening.iter().map(|l| l.endpoint()).collect::<Vec<_>>(), ["tcp 0.0.0.0:119", "tcp [::]:119"]);
    assert!(listening.iter().all(|l| l.uid == news && l.holders == [innd.pid()]), "{listening:?}");
}
