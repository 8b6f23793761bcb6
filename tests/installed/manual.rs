//! The examples of the manual pages, run as they stand there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use portgrant_tests::{BINDER, LAUNCHER, Running, World, both_installs};

both_installs![
    the_manual_s_program_adopts_what_it_inherits,
    the_manual_s_shell_script_gets_its_port_by_executing_itself,
    the_manual_s_client_is_passed_a_socket,
    the_manual_s_client_in_c_is_passed_a_socket,
    the_manual_s_client_has_its_own_socket_bound,
    the_manual_s_client_in_c_has_its_own_socket_bound,
    the_manual_s_server_takes_one_port_more,
    the_manual_s_shell_script_sends_a_socket_to_the_manual_s_server,
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

/// The path of a program, compiled from the example of that name.
fn compiled(world: &World, name: &str) -> &'static str {
    const PROGRAM: &str = "/tmp/manual";
    let gcc = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", PROGRAM, "-xc", "-"];
    world.as_user("alice").stdin(example(name)).run(gcc).succeeds();
    PROGRAM
}

fn the_manual_s_program_adopts_what_it_inherits(world: &World) {
    world.policy("permit alice 80 53/udp\n");
    let program = example("adopt");
    let words = ["exec", "-l", "web=0.0.0.0:80", "-l", "127.0.0.1:53/udp", "--", "python3", "-c", &program];
    let outcome = world.as_user("alice").run([LAUNCHER].iter().chain(&words));
    outcome.succeeds().prints("{'web': ('0.0.0.0', 80), '53/udp': ('127.0.0.1', 53)}");
    world.as_user("alice").run(["python3", "-c", &program]).exits(1).complains("no socket was handed over");
}

fn the_manual_s_shell_script_gets_its_port_by_executing_itself(world: &World) {
    const SCRIPT: &str = "/tmp/serve";
    world.file(SCRIPT, &example("exec in sh"));
    fs::set_permissions(SCRIPT, fs::Permissions::from_mode(0o755)).expect("chmod");
    let program = "import os, socket; print(socket.socket(fileno=0).getsockname(), 'LISTEN_FDS' in os.environ)";
    let serve = || world.as_user("alice").run([SCRIPT, "python3", "-c", program]);
    world.policy("permit alice 80\n");
    serve().succeeds().prints("descriptor 3 is web").prints("('0.0.0.0', 80) False");
    world.policy("permit alice 81\n");
    serve().exits(77).complains("0.0.0.0:80/tcp is refused for alice");
}

fn the_manual_s_client_is_passed_a_socket(world: &World) {
    world.policy("permit alice 80\n");
    let program = example("pass");
    let ask = |endpoint| world.as_user("alice").run(["python3", "-c", &program, BINDER, endpoint]);
    ask("web=0.0.0.0:80").succeeds().prints("web ('0.0.0.0', 80)");
    ask("81").exits(1).complains("81/tcp is refused for alice").complains("permit alice 81");
}

fn the_manual_s_client_in_c_is_passed_a_socket(world: &World) {
    world.policy("permit alice 80\n");
    let program = compiled(world, "pass in C");
    let ask = |endpoint| world.as_user("alice").run([program, BINDER, endpoint]);
    ask("web=0.0.0.0:80").succeeds().prints("0.0.0.0 port 80");
    ask("[::]:80").succeeds().prints(":: port 80");
    ask("81").exits(1).complains("WHAT=81/tcp is refused for alice");
    world.as_user("alice").run([program, "/bin/false", "80"]).exits(1).complains("no answer");
}

fn the_manual_s_client_has_its_own_socket_bound(world: &World) {
    world.policy("permit alice 80 on 0.0.0.0\n");
    let program = example("bind");
    let ask = |endpoint| world.as_user("alice").run(["python3", "-c", &program, BINDER, endpoint]);
    ask("0.0.0.0:80").succeeds().prints("('0.0.0.0', 80)");
    ask("0.0.0.0:81").exits(1).complains("0.0.0.0:81/tcp is refused for alice");
}

fn the_manual_s_client_in_c_has_its_own_socket_bound(world: &World) {
    world.policy("permit alice 80 on 0.0.0.0\n");
    let program = compiled(world, "bind in C");
    let ask = |endpoint| world.as_user("alice").run([program, BINDER, endpoint]);
    ask("0.0.0.0:80").succeeds().prints("0.0.0.0 port 80");
    ask("0.0.0.0:81").exits(1).complains("0.0.0.0:81/tcp is refused for alice");
}

fn the_manual_s_server_takes_one_port_more(world: &World) {
    world.policy("permit alice 80\n");
    let server = mailbox(world);
    let pass = [LAUNCHER, "-v", "pass", "-l", "web=0.0.0.0:80", "--to", MAILBOX];
    world.as_user("alice").run(pass).succeeds().complains("it took web");
    server.wait(Duration::from_secs(20)).succeeds().prints("web ('0.0.0.0', 80)");
}

fn the_manual_s_shell_script_sends_a_socket_to_the_manual_s_server(world: &World) {
    let script = example("pass in sh");
    let pass = || world.as_user("alice").run(["sh", "-c", &script, "sh", MAILBOX]);
    world.policy("permit alice 80\n");
    pass().succeeds().prints("the port is in use, or the server did not answer");
    let server = mailbox(world);
    pass().succeeds().prints("the server took the socket");
    server.wait(Duration::from_secs(20)).succeeds().prints("web ('0.0.0.0', 80)");
    world.policy("permit alice 81\n");
    let server = mailbox(world);
    pass().succeeds().prints("the policy refused the port");
    server.wait(Duration::from_secs(20)).exits(1).complains("0.0.0.0:80/tcp is refused for alice");
}

const MAILBOX: &str = "/tmp/manual.sock";

/// The manual's server, once it listens.
fn mailbox(world: &World) -> Running {
    let _ = fs::remove_file(MAILBOX);
    let server = world.as_user("alice").spawn(["python3", "-c", &example("mailbox"), MAILBOX]);
    // Not the file: that is there a moment before somebody listens at it. 00010000 is __SO_ACCEPTCON.
    let listens = |line: &str| line.ends_with(MAILBOX) && line.contains(" 00010000 ");
    let end = Instant::now() + Duration::from_secs(20);
    while !fs::read_to_string("/proc/thread-self/net/unix").expect("read").lines().any(listens) {
        assert!(Instant::now() < end, "it listens");
        std::thread::sleep(Duration::from_millis(10));
    }
    server
}
