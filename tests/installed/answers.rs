//! How the helper's failures reach programs: as a record over a descriptor, or by executing a program with it.

use std::os::fd::{AsFd, OwnedFd};

use portgrant_protocol::record::Reply;
use portgrant_protocol::{Kind, Message, transfer};
use portgrant_tests::{BINDER, LAUNCHER, World, both_installs};

both_installs![
    with_answer_a_failure_is_a_record_and_not_text,
    every_kind_has_its_word_and_its_status,
    a_reader_that_is_late_does_not_delay_the_helper,
    a_program_is_executed_with_the_record_of_a_failure,
    the_program_inherits_no_descriptor_for_answers,
    an_answer_descriptor_that_cannot_carry_records_is_an_error,
    the_launcher_reports_what_fails_after_the_helper_took_its_place,
];

/// The helper's exit status, what it sent over descriptor 9, and what it wrote.
fn answered(world: &World, words: &[&str]) -> (i32, Option<Message>, String) {
    let (ours, theirs) = transfer::pair().expect("socketpair");
    let helper = world.as_user("alice").fd(9, theirs).spawn([&[BINDER], words].concat());
    let outcome = helper.wait(std::time::Duration::from_secs(20));
    let message = match transfer::receive(ours.as_fd()) {
        Ok((record, descriptors)) if descriptors.is_empty() => match Reply::parse(&record) {
            Ok(Reply::Failed(message)) => Some(message),
            other => panic!("{other:?}"),
        },
        _ => None,
    };
    (outcome.status.code().unwrap_or(-1), message, format!("{}{}", outcome.stdout, outcome.stderr))
}

fn with_answer_a_failure_is_a_record_and_not_text(world: &World) {
    world.policy("permit bob 80\n");
    let words = ["exec", "-l", "127.0.0.1:80", "--answer", "9", "--", "true"];
    let (status, message, text) = answered(world, &words);
    let message = message.expect("a record");
    assert_eq!((status, text.as_str()), (77, ""));
    assert_eq!((message.kind, message.status, message.rule.as_deref()), (Kind::Refused, 77, None));
    assert_eq!(message.endpoint.as_deref(), Some("127.0.0.1:80/tcp"));
    assert!(message.what.contains("refused for alice") && message.fix.is_some(), "{message:?}");
    // Wrong arguments behind it as well.
    let (status, message, text) = answered(world, &["exec", "--answer", "9", "-l", "80", "--", "/no/such/program"]);
    assert_eq!((status, message.map(|message| message.kind), text.as_str()), (127, Some(Kind::Program), ""));
    let (status, message, text) = answered(world, &["exec", "--answer", "9", "-l", "no endpoint"]);
    assert_eq!((status, message.map(|message| message.kind), text.as_str()), (64, Some(Kind::Usage), ""));
}

fn every_kind_has_its_word_and_its_status(world: &World) {
    world.policy("permit alice 80 81\n");
    let kind = |listen: &str| {
        let (status, message, text) = answered(world, &["exec", "-l", listen, "--answer", "9", "--", "true"]);
        assert_eq!(text, "");
        (status, message.map(|message| message.kind))
    };
    assert_eq!(kind("80"), (0, None), "a program that runs is not a failure");
    let _held = std::net::TcpListener::bind("[::]:80").expect("bound");
    assert_eq!(kind("80"), (69, Some(Kind::InUse)));
    assert_eq!(kind("10.9.9.9:81"), (69, Some(Kind::NotThere)));
    assert_eq!(kind("82"), (77, Some(Kind::Refused)));
    world.policy("permit nonsense\n");
    assert_eq!(kind("80"), (78, Some(Kind::BrokenPolicy)));
    world.policy("permit alice 81\n");
    let _ = world.as_root().run(["setcap", "-r", BINDER]);
    world.as_root().run(["chmod", "0755", BINDER]).succeeds();
    assert_eq!(kind("81"), (78, Some(Kind::NoPrivilege)));
}

/// PG-7
fn a_reader_that_is_late_does_not_delay_the_helper(world: &World) {
    world.policy("permit bob 80\n");
    let (ours, theirs) = transfer::pair().expect("socketpair");
    // Full: the next record finds no room.
    while transfer::send_now(theirs.as_fd(), &[b'x'; 4096]).is_ok() {}
    let words = [BINDER, "exec", "-l", "80", "--answer", "9", "--", "true"];
    world.as_user("alice").fd(9, theirs).run(words).exits(77).is_silent();
    drop(ours);
}

fn a_program_is_executed_with_the_record_of_a_failure(world: &World) {
    world.policy("permit bob 80\n");
    world.file("/tmp/failed", "#!/bin/sh\nprintf '%s|' \"$#\" \"$1\" \"$HOME\"; printf '%s' \"$2\"; exit 3\n");
    world.as_root().run(["chmod", "0755", "/tmp/failed"]).succeeds();
    let words = [BINDER, "exec", "-l", "80", "--on-failure", "/tmp/failed", "--", "true"];
    let outcome = world.as_user("alice").run(words);
    outcome.exits(3).prints("2|answer|/home/alice|PORTGRANT=1\nSTATUS=77\nKIND=refused\nWHAT=80/tcp is refused");
    assert_eq!(outcome.stderr, "");
    // Where it cannot be executed, people read it after all.
    let words = [BINDER, "exec", "-l", "80", "--on-failure", "/no/such/program", "--", "true"];
    world.as_user("alice").run(words).exits(77).complains("80/tcp is refused");
}

/// PG-3
fn the_program_inherits_no_descriptor_for_answers(world: &World) {
    world.policy("permit alice 80\n");
    let (_ours, theirs) = transfer::pair().expect("socketpair");
    let words = [BINDER, "exec", "-l", "80", "--answer", "9", "--", "sleep", "60"];
    let sleep = world.as_user("alice").fd(9, theirs).spawn(words);
    assert_eq!(world.process_at_rest(sleep.pid()).sockets(), [3]);
}

fn an_answer_descriptor_that_cannot_carry_records_is_an_error(world: &World) {
    world.policy("permit alice 80\n");
    let exec = |answer| [BINDER, "exec", "-l", "80", "--answer", answer, "--", "true"];
    world.as_user("alice").run(exec("9")).exits(64).complains("descriptor 9 is not open");
    let file: OwnedFd = std::fs::File::open("/etc/passwd").expect("open").into();
    world.as_user("alice").fd(9, file).run(exec("9")).exits(64).complains("cannot be used");
    world.as_user("alice").run(exec("nine")).exits(64).complains("'nine' is not a descriptor");
    assert_eq!(world.listening(), []);
}

fn the_launcher_reports_what_fails_after_the_helper_took_its_place(world: &World) {
    world.policy("permit alice 80 exec /usr/bin/printf\n");
    let exec = [LAUNCHER, "exec", "-l", "80", "--", "printf", "served"];
    world.as_user("alice").run(exec).succeeds().prints("served");
    let held = world.as_user("root").spawn([
        "python3",
        "-c",
        "import socket, time\ns = socket.socket()\n\
        s.bind(('0.0.0.0', 80)); s.listen(); print('held', flush=True); time.sleep(60)\n",
    ]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !held.output().0.contains("held") {
        assert!(std::time::Instant::now() < deadline, "{:?}", held.output());
    }
    let outcome = world.as_user("alice").run(exec);
    outcome.exits(69).complains("portgrant: 80/tcp is in use");
    // Who holds it the launcher knows alone.
    outcome.complains("0.0.0.0:80 listens, the socket is root's");
}
