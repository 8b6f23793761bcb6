//! The server crate's mail server on port 25 as an ordinary user, with real clients: swaks and exim.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use portgrant_tests::{Dialogue, LAUNCHER, Outcome, Running, Signal, World, both_installs};

both_installs![
    swaks_delivers_to_port_25,
    exim_delivers_to_port_25,
    a_second_message_cannot_be_smuggled_in_within_another,
    too_large_input_is_refused_and_the_client_may_continue,
    a_message_in_progress_may_finish_when_the_server_ends,
];

const FOLDER: &str = "/home/alice/Maildir";
const SINK: [&str; 3] = ["sink", FOLDER, "example.test"];
const PATIENCE: Duration = Duration::from_secs(10);
const EXIM: &str = "
primary_hostname = client.example.test
keep_environment =
tls_advertise_hosts =
begin routers
all:
  driver = manualroute
  route_list = * 127.0.0.1
  self = send
  transport = smtp
begin transports
smtp:
  driver = smtp
";

/// The server as alice: it asks, or was handed its socket.
fn serve(world: &World, before: &[&str]) -> Running {
    world.policy("permit alice smtp\n");
    world.serving("alice", &[before, &SINK].concat(), 1)
}

fn launcher() -> [&'static str; 5] {
    [LAUNCHER, "exec", "-l", "25", "--"]
}

/// The messages that were kept; each is whole, and nothing is left of any other.
fn kept() -> Vec<String> {
    let files = |name: &str| fs::read_dir(format!("{FOLDER}/{name}")).expect("a folder");
    let mut paths: Vec<_> = files("new").map(|entry| entry.expect("a file").path()).collect();
    assert_eq!(files("tmp").count(), 0, "something is left");
    paths.sort();
    paths.iter().map(|path| String::from_utf8(fs::read(path).expect("a message")).expect("text")).collect()
}

/// Sends all at once, and receives up to the server's end.
fn talk(text: &str) -> String {
    let mut client = TcpStream::connect("127.0.0.1:25").expect("it listens");
    client.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    client.write_all(text.as_bytes()).expect("sent");
    let mut replies = String::new();
    client.read_to_string(&mut replies).unwrap_or_else(|error| panic!("{error}, after {replies}"));
    replies
}

fn swaks_delivers_to_port_25(world: &World) {
    world.file("/tmp/big", &"0123456789abcdef0123456789abcdef0123456789abcdef\n".repeat(150_000));
    world.file("/tmp/bigger", &"0123456789abcdef0123456789abcdef0123456789abcdef\n".repeat(230_000));
    let swaks = |words: &[&str]| -> Outcome {
        let start = ["swaks", "--server", "127.0.0.1", "--from", "bob@elsewhere.test", "--hide-all", "--suppress-data"];
        world.as_user("bob").run([&start, words].concat())
    };
    for before in [&launcher()[..], &[]] {
        let _ = fs::remove_dir_all(FOLDER);
        let _server = serve(world, before);

        swaks(&["--to", "alice@example.test", "--body", "hello\n.a dot\n...\n"]).succeeds();
        let some = "alice@example.test,nobody@other.test,bob@example.test";
        swaks(&["--pipeline", "--to", some, "--header", "Subject: piped"]).succeeds();
        swaks(&["--to", "nobody@other.test"]).exits(24);
        swaks(&["--to", "alice@example.test", "--body", "@/tmp/big"]).succeeds();
        swaks(&["--to", "alice@example.test", "--body", "@/tmp/bigger"]).exits(26);

        let kept = kept();
        let [dots, piped, big] = &kept[..] else { panic!("{} messages", kept.len()) };
        assert!(
            dots.starts_with("Return-Path: <bob@elsewhere.test>\nDelivered-To: alice@example.test\nReceived: from ")
        );
        assert!(dots.contains("([127.0.0.1])\n\tby example.test with SMTP id "), "{dots}");
        assert!(dots.contains("\n\nhello\n.a dot\n...\n"), "{dots}");
        assert!(
            piped.contains("\nDelivered-To: alice@example.test\nDelivered-To: bob@example.test\nReceived: "),
            "{piped}"
        );
        assert!(big.len() > 49 * 150_000 && big.contains(&fs::read_to_string("/tmp/big").expect("a file")));
        assert!(!kept.concat().contains('\r'));
    }
}

fn exim_delivers_to_port_25(world: &World) {
    let _server = serve(world, &launcher());
    world.file("/etc/exim4/exim4.conf", EXIM);
    let message = "From: root@elsewhere.test\nSubject: by exim\n\nhello\n.\n..\n";
    let to = ["alice@example.test", "bob@example.test", "nobody@other.test"];
    let exim =
        world.as_root().stdin(message).run([&["exim4", "-oi", "-odf", "-f", "root@elsewhere.test"], &to[..]].concat());
    exim.succeeds();
    let log = fs::read_to_string("/var/log/exim4/mainlog").expect("a log");
    for expected in ["=> alice@example.test", "-> bob@example.test", "C=\"250 2.0.0 kept\"", "550 5.7.1 that is nobody"]
    {
        assert!(log.contains(expected), "{expected} is not in {log}");
    }
    let kept = kept();
    assert!(
        kept[0].contains("Received: from client.example.test ([127.0.0.1])") && kept[0].ends_with("\n\nhello\n.\n..\n")
    );
}

fn a_second_message_cannot_be_smuggled_in_within_another(world: &World) {
    let _server = serve(world, &launcher());
    let hello = "EHLO client.test\r\nMAIL FROM:<bob@elsewhere.test>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n";
    let second = "MAIL FROM:<root@example.test>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\nsmuggled\r\n.\r\nQUIT\r\n";
    let long = "x".repeat(1500);
    for end in [
        "\n.\n",
        "\n.\r\n",
        "\r\n.\n",
        "\r.\r\n",
        "\r\n.\r",
        "\r\r\n.\r\n",
        &format!("{long}\n.\r\n"),
        &format!("{long}\r.\r\n"),
    ] {
        let replies = talk(&format!("{hello}Subject: the first\r\n\r\ntext{end}{second}"));
        assert!(replies.lines().last().is_some_and(|line| line.starts_with("521 5.5.2")), "{end:?}: {replies}");
        assert_eq!(replies.matches("\n354").count(), 1, "{end:?}: {replies}");
    }
    assert!(
        talk("EHLO client.test\nQUIT\r\n")
            .ends_with("521 5.5.2 a line must end in CR LF, and nothing else is an end\r\n")
    );
    assert_eq!(kept(), [""; 0]);
    // The same with true ends is two messages.
    let replies = talk(&format!("{hello}Subject: the first\r\n\r\ntext\r\n.\r\n{second}"));
    assert_eq!(replies.matches("250 2.0.0 kept").count(), 2, "{replies}");
    assert_eq!(kept().len(), 2);
}

fn too_large_input_is_refused_and_the_client_may_continue(world: &World) {
    let _server = serve(world, &launcher());
    let mut client = Dialogue::with("127.0.0.1:25");
    client.hear("220");
    let recipients: Vec<_> = (0..100).map(|number| (format!("RCPT TO:<user{number}@EXAMPLE.test>"), "250")).collect();
    let long = format!("NOOP {}", "x".repeat(510));
    let before = [
        ("MAIL FROM:<bob@elsewhere.test>", "503"),
        ("EHLO", "501"),
        ("EHLO two words", "501"),
        (&long, "500"),
        ("EHLO client.test", "250"),
        ("DATA", "503"),
        ("RCPT TO:<alice@example.test>", "503"),
        ("MAIL FROM:bob@elsewhere.test", "501"),
        ("MAIL FROM:<bob@elsewhere.test> SIZE=10485761", "552"),
        ("MAIL FROM:<bob@elsewhere.test> SIZE=-1", "555"),
        ("MAIL FROM:<> SIZE=1000 BODY=8BITMIME", "250"),
        ("MAIL FROM:<bob@elsewhere.test>", "503"),
        ("RCPT TO:<>", "501"),
        ("RCPT TO:<@example.test>", "550"),
        ("RCPT TO:<a@elsewhere.test>", "550"),
        ("DATA", "554"),
        ("RCPT TO:<Postmaster>", "250"),
        ("RSET", "250"),
        ("VRFY alice", "252"),
        ("HELP", "214"),
        ("mail from:<bob@elsewhere.test>", "250"),
    ];
    let recipients = recipients.iter().map(|(line, code)| (line.as_str(), *code));
    let after = [("RCPT TO:<one@example.test>", "452"), ("DATA", "354")];
    for (line, code) in before.into_iter().chain(recipients).chain(after) {
        client.say(line);
        client.hear(code);
    }
    client.say(&format!("{}\r\n.", "x".repeat(999)));
    client.hear("554");
    client.say("NOOP");
    client.hear("250");
    for _ in 0..5 {
        client.say("NO");
        client.hear("500");
    }
    client.hear("421");
    assert_eq!(kept(), [""; 0]);
}

fn a_message_in_progress_may_finish_when_the_server_ends(world: &World) {
    let server = serve(world, &launcher());
    let (mut idle, mut sending) = (Dialogue::with("127.0.0.1:25"), Dialogue::with("127.0.0.1:25"));
    idle.hear("220");
    sending.hear("220");
    for (line, code) in
        [("HELO client.test", "250"), ("MAIL FROM:<>", "250"), ("RCPT TO:<a@example.test>", "250"), ("DATA", "354")]
    {
        sending.say(line);
        sending.hear(code);
    }
    server.signal(Signal::SIGTERM);
    idle.hear("421");
    std::thread::sleep(Duration::from_secs(1)); // longer than it takes to be interrupted
    sending.say("Subject: late\r\n\r\nbut whole\r\n.");
    sending.hear("250");
    sending.hear("421");
    server.wait(PATIENCE).succeeds();
    assert!(kept()[0].ends_with("\n\nbut whole\n"));
}
