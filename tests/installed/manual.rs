//! The examples of the manual pages, run as they stand there.

use std::fs;
use std::time::{Duration, Instant};

use portgrant_tests::{BINDER, LAUNCHER, World, both_installs};

both_installs![
    the_manual_s_program_adopts_what_it_inherits,
    the_manual_s_client_is_passed_a_socket,
    the_manual_s_client_has_its_own_socket_bound,
    the_manual_s_server_takes_one_port_more,
];

const PAGE: &str = include_str!("../../packaging/man/portgrant.7");

/// The example of that name, as the page shows it.
fn example(name: &str) -> String {
    let begin = format!(".\\\" example: {name}\n");
    let (_, text) = PAGE.split_once(&begin).unwrap_or_else(|| panic!("portgrant(7) has no example {name}"));
    let (text, _) = text.split_once(".\\\" end\n").expect("it ends");
    [("\\-", "-"), ("\\(aq", "'"), ("\\e", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (roff, it)| text.replace(roff, it))
}

fn the_manual_s_program_adopts_what_it_inherits(world: &World) {
    world.policy("permit alice 80 53/udp\n");
    let program = example("adopt");
    let words = ["exec", "-l", "web=0.0.0.0:80", "-l", "127.0.0.1:53/udp", "--", "python3", "-c", &program];
    let outcome = world.as_user("alice").run([LAUNCHER].iter().chain(&words));
    outcome.succeeds().prints("{'web': ('0.0.0.0', 80), '53/udp': ('127.0.0.1', 53)}");
    world.as_user("alice").run(["python3", "-c", &program]).exits(1).complains("nothing was handed over");
}

fn the_manual_s_client_is_passed_a_socket(world: &World) {
    world.policy("permit alice 80\n");
    let program = example("pass");
    let ask = |endpoint| world.as_user("alice").run(["python3", "-c", &program, BINDER, endpoint]);
    ask("web=0.0.0.0:80").succeeds().prints("web ('0.0.0.0', 80)");
    ask("81").exits(1).complains("81/tcp is refused for alice").complains("permit alice 81");
}

fn the_manual_s_client_has_its_own_socket_bound(world: &World) {
    world.policy("permit alice 80 on 0.0.0.0\n");
    let program = example("bind");
    let ask = |endpoint| world.as_user("alice").run(["python3", "-c", &program, BINDER, endpoint]);
    ask("0.0.0.0:80").succeeds().prints("('0.0.0.0', 80)");
    ask("0.0.0.0:81").exits(1).complains("0.0.0.0:81/tcp is refused for alice");
}

fn the_manual_s_server_takes_one_port_more(world: &World) {
    const MAILBOX: &str = "/tmp/manual.sock";
    world.policy("permit alice 80\n");
    let server = world.as_user("alice").spawn(["python3", "-c", &example("mailbox"), MAILBOX]);
    // Not the file: that is there a moment before somebody listens at it. 00010000 is __SO_ACCEPTCON.
    let listens = |line: &str| line.ends_with(MAILBOX) && line.contains(" 00010000 ");
    let end = Instant::now() + Duration::from_secs(20);
    while !fs::read_to_string("/proc/thread-self/net/unix").expect("read").lines().any(listens) {
        assert!(Instant::now() < end, "it listens");
        std::thread::sleep(Duration::from_millis(10));
    }
    let pass = |endpoint| world.as_user("alice").run([LAUNCHER, "-v", "pass", "-l", endpoint, "--to", MAILBOX]);
    pass("web=0.0.0.0:80").succeeds().complains("it took web");
    server.wait(Duration::from_secs(20)).succeeds().prints("web ('0.0.0.0', 80)");
}
