//! How sockets reach a program: `--as`, `{fd}` and `--setenv`, in the launcher and through a grant that is bound to one
//! program, which the helper executes.

use portgrant_tests::{Dialogue, LAUNCHER, Process, World, both_installs, http_get};

both_installs![
    numbers_reach_the_program_in_arguments_and_variables,
    a_grant_bound_to_a_program_keeps_the_numbers_and_variables,
    each_is_numbered_after_it_is_bound,
    an_unresolvable_placeholder_is_an_error_before_anything_is_bound,
    exim_keeps_its_socket_under_no_new_privs,
];

fn numbers_reach_the_program_in_arguments_and_variables(world: &World) {
    world.policy("permit alice 80 443\n");
    let words = [
        LAUNCHER,
        "exec",
        "-l",
        "web=80",
        "-l",
        "443",
        "--setenv",
        "TLS=<{fd:443/tcp}>",
        "--setenv",
        "ODD=\u{fc}={{fd}}",
    ];
    let script = [
        "--",
        "sh",
        "-c",
        "echo \"$0 $1 $TLS $ODD $LISTEN_FDNAMES\"; readlink /proc/self/fd/$0",
        "{fd:web}",
        "{{fd:web}}",
    ];

    let outcome = world.as_user("alice").env("TLS", "stale").run([&words[..], &script].concat());

    outcome.succeeds().prints("3 {fd:web} <4> \u{fc}={fd} web:443/tcp\nsocket:");
}

/// The helper executes the program, with what the launcher has written: nginx answers, and unicorn, which reads LISTEN_FDS
/// and UNICORN_FD, does not mind to be told twice.
fn a_grant_bound_to_a_program_keeps_the_numbers_and_variables(world: &World) {
    world.policy("permit alice 80 exec /usr/bin/sleep\npermit alice 81 exec /usr/bin/unicorn\npermit alice 82 exec /usr/bin/sleep\n");
    let words = [LAUNCHER, "exec", "--as", "nginx", "-l", "0.0.0.0:80", "--setenv", "A={fd}", "--", "sleep", "6{fd}"];
    let sleep = world.as_user("alice").env("NGINX", "9;").spawn(words);
    assert_eq!(world.process_at_rest(sleep.pid()).sockets(), [3]);
    let variable = |name| Process::variable(sleep.pid(), name);
    assert_eq!((variable("NGINX").as_deref(), variable("A").as_deref()), (Some("3;"), Some("3")));
    let line = std::fs::read(format!("/proc/{}/cmdline", sleep.pid())).expect("cmdline");
    assert_eq!(line, b"sleep\x0063\0");

    let parked = [LAUNCHER, "exec", "--as", "exim", "-l", "82", "--", "sleep", "6{fd}"];
    let sleep = world.as_user("alice").spawn(parked);
    let process = world.process_at_rest(sleep.pid());
    assert_eq!(
        (process.sockets(), process.fds.get(&3).and_then(|path| path.to_str())),
        (vec![0, 1], Some("/dev/null"))
    );

    world.file("/home/alice/config.ru", "run ->(env) { [200, {}, [\"served by rack\\n\"]] }\n");
    let words = [LAUNCHER, "exec", "--as", "unicorn", "-l", "81", "--", "unicorn", "config.ru"];
    let unicorn = world.as_user("alice").folder("/home/alice").spawn(words);
    let answer = http_get("127.0.0.1:81", "/");
    assert!(answer.contains("served by rack"), "{answer}");
    assert_eq!(Process::variable(unicorn.pid(), "UNICORN_FD").as_deref(), Some("3"));
    assert_eq!(Process::variable(unicorn.pid(), "LISTEN_FDS").as_deref(), Some("1"));
}

fn each_is_numbered_after_it_is_bound(world: &World) {
    world.policy(
        "permit alice 53/udp 80\npermit bob 53/udp 80 exec /usr/bin/printf\npermit bob 53/udp exec /usr/bin/env\n",
    );
    let words = |placeholder: &'static str, program: &'static str| {
        [LAUNCHER, "exec", "-l", "each:53/udp", "-l", "web=80", "--", program, placeholder]
    };
    // The wildcard, 127.0.0.1 and ::1, at least; then the last.
    let outcome = world.as_user("alice").run(words("{fd:53/udp} {fd:53/udp-1} {fd:web}", "printf"));
    let numbers: Vec<u32> =
        outcome.succeeds().stdout.split(' ').map(|number| number.parse().expect("a number")).collect();
    assert!(numbers[0] == 3 && numbers[1] == 4 && numbers[2] > 4, "{numbers:?}");
    let outcome = world.as_user("bob").run(words("{fd:web}", "printf"));
    outcome.exits(64).complains("the numbers of 'each' are not known before the program is executed");
    world.as_user("bob").run(words("{{fd}}", "printf")).succeeds().prints("{fd}");
    let outcome = world.as_user("alice").run(words("{fd:wbe}", "printf"));
    outcome.exits(64).complains("{fd:wbe} matches no socket").complains("53/udp, 53/udp-1, ");
    assert_eq!(world.listening(), []);
}

fn an_unresolvable_placeholder_is_an_error_before_anything_is_bound(world: &World) {
    // Without a policy the helper would say so, had it been asked.
    let cases: [(&[&str], &str); 5] = [
        (&["-l", "80", "-l", "81", "--", "true", "{fd}"], "{fd} needs exactly one socket, and there are 2"),
        (&["-l", "web=80", "--", "true", "{fd:80/tcp}"], "the names of the sockets are web"),
        (&["--as", "ngnix", "-l", "80", "--", "true"], "write --as nginx"),
        (&["--as", "inetd", "--inetd", "-l", "80", "--", "true"], "--inetd cannot be used with --as inetd"),
        (&["--setenv", "LISTEN_FDS=1", "-l", "80", "--", "true"], "LISTEN_FDS cannot be set"),
    ];
    for (words, message) in cases {
        let outcome = world.as_user("alice").run([&[LAUNCHER, "exec"], words].concat());
        outcome.exits(64).complains(message).complains("  fix: ");
    }
}

/// Its log takes the lowest free number first and closes it later: with descriptor 3 free, that would be the socket's.
fn exim_keeps_its_socket_under_no_new_privs(world: &World) {
    world.policy("permit Debian-exim 25\n");

    let words = [LAUNCHER, "exec", "--as", "exim", "--no-new-privs", "-l", "25", "--", "exim4", "-bw"];
    let exim = world.as_user("Debian-exim").spawn(words);

    for _ in 0..2 {
        let mut client = Dialogue::with("127.0.0.1:25");
        client.hear("220");
        client.say("QUIT");
        client.hear("221");
    }
    assert!(world.process(exim.pid()).no_new_privs);
}
