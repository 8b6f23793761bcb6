//! Real servers that have one connection each, under `portgrant exec --accept`: what tcpserver and inetd started.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use portgrant_tests::{Caller, Dialogue, LAUNCHER, World, both_installs};

use super::{Client, accepting};

both_installs![
    nnrpd_serves_readers_on_119,
    tin_reads_a_group_from_nnrpd,
    exim_takes_messages_on_25,
    swaks_sends_a_message_to_exim_under_no_new_privs,
    sshd_greets_on_22,
];

const INND: &str = "/usr/lib/news/bin/innd";
const NNRPD: &str = "/usr/lib/news/bin/nnrpd";
const EXIM: &str = "/usr/sbin/exim4";

const ARTICLE: &str = "\
From: alice@example.test\r
Newsgroups: local.test\r
Subject: a first article\r
Message-ID: <first@news.example.test>\r
\r
It came by innd, and is read by nnrpd.\r
.";

/// nnrpd reads what innd has stored: an article, and the overview of its group.
pub(crate) fn store_an_article(world: &World) {
    world.folder("/run/news", "news", 0o755);
    readers_are_served_under_load();
    let innd = world.as_user("news").spawn([LAUNCHER, "exec", "-l", "0.0.0.0:119", "--", INND, "-f"]);
    let mut client = Dialogue::with("127.0.0.1:119");
    client.hear("200");
    world.as_user("news").run(["/usr/lib/news/bin/ctlinnd", "newgroup", "local.test"]).succeeds();
    client.say("MODE STREAM");
    client.hear("203");
    client.say("IHAVE <first@news.example.test>");
    client.hear("335");
    let date = world.as_root().run(["date", "-uR"]).stdout;
    client.say(&format!("Path: elsewhere!not-for-mail\r\nDate: {}\r\n{ARTICLE}", date.trim()));
    client.hear("235");
    client.say("QUIT");
    client.hear("205");
    world.as_user("news").run(["/usr/lib/news/bin/ctlinnd", "shutdown", "stored"]).succeeds();
    let _ended = innd.wait(Duration::from_secs(20));
}

/// nnrpd turns readers away while the machine's load is above a bound.
pub(crate) fn readers_are_served_under_load() {
    let settings = fs::read_to_string("/etc/news/inn.conf").expect("inn.conf");
    let line = settings.lines().find(|line| line.starts_with("nnrpdloadlimit:")).expect("a limit");
    fs::write("/etc/news/inn.conf", settings.replace(line, "nnrpdloadlimit: 0")).expect("inn.conf");
}

fn nnrpd_serves_readers_on_119(world: &World) {
    world.policy("permit news nntp\n");
    store_an_article(world);
    let launcher = world.as_user("news").spawn(accepting(&["-l", "nntp"], &[NNRPD, "-f"]));

    for address in ["127.0.0.1:119", "[::1]:119"] {
        let (mut reader, mut other) = (Dialogue::with(address), Dialogue::with(address));
        other.hear("200");
        reader.hear("200");
        reader.say("GROUP local.test");
        assert_eq!(reader.hear("211"), "1 1 1 local.test");
        reader.say("XOVER 1");
        reader.hear("224");
        assert!(reader.text()[0].contains("a first article"));
        reader.say("ARTICLE <first@news.example.test>");
        reader.hear("220");
        assert!(reader.text().contains(&"It came by innd, and is read by nnrpd.".to_owned()));
        reader.say("QUIT");
        reader.hear("205");
        other.say("QUIT");
        other.hear("205");
    }
    assert!(world.process(launcher.pid()).is_powerless());
    assert_eq!(
        world.listening().iter().map(|l| (l.endpoint(), l.uid)).collect::<Vec<_>>(),
        [("tcp *:119".to_owned(), world.uid("news"))]
    );
}

fn tin_reads_a_group_from_nnrpd(world: &World) {
    world.policy("permit news nntp\n");
    store_an_article(world);
    let _launcher = world.as_user("news").spawn(accepting(&["-l", "nntp"], &[NNRPD, "-f"]));
    drop(Client::of("127.0.0.1:119"));

    // In batch mode, without a terminal: 2 where there is something to read, and 0 where there is nothing.
    for (newsrc, status) in [("local.test:\n", 2), ("local.test: 1-1\n", 0)] {
        fs::write("/home/alice/.newsrc", newsrc).expect("written");
        let alice = world.as_user("alice").folder("/home/alice").env("NNTPSERVER", "127.0.0.1").env("TERM", "dumb");
        alice.run(["rtin", "-Z", "-Q", "-f", "/home/alice/.newsrc"]).exits(status);
    }
}

fn mailer(world: &World) -> Caller {
    world.file("/etc/exim4/exim4.conf", crate::exim::CONFIGURATION);
    world.as_user("Debian-exim")
}

fn exim_takes_messages_on_25(world: &World) {
    world.policy("permit Debian-exim smtp\n");
    let launcher = mailer(world).spawn(accepting(&["-l", "25", "--max-conns", "2"], &[EXIM, "-bs"]));

    let mut ids = Vec::new();
    for address in ["127.0.0.1:25", "[::1]:25"] {
        let mut client = Dialogue::with(address);
        client.hear("220");
        client.say("EHLO client.example.test");
        let ip = if address.contains("::1") { "::1" } else { "127.0.0.1" };
        let hello = client.hear("250");
        assert!(hello.contains(&format!("[{ip}]")), "exim knows who calls: {hello}");
        for (line, code) in [
            ("MAIL FROM:<alice@example.test>", "250"),
            ("RCPT TO:<bob@elsewhere.test>", "550"),
            ("RCPT TO:<bob@example.test>", "250"),
            ("DATA", "354"),
        ] {
            client.say(line);
            client.hear(code);
        }
        client.say("Subject: a message\r\n\r\nThrough a new connection.\r\n.");
        ids.push(client.hear("250"));
        client.say("QUIT");
        client.hear("221");
    }
    for id in &ids {
        let id = id.strip_prefix("OK id=").unwrap_or_else(|| panic!("no id in {id}"));
        let body = fs::read_to_string(format!("/var/spool/exim4/input/{id}-D")).expect("the message in the spool");
        assert!(body.contains("Through a new connection."), "{body}");
    }
    assert!(world.process(launcher.pid()).is_powerless());
}

fn swaks_sends_a_message_to_exim_under_no_new_privs(world: &World) {
    world.policy("permit Debian-exim smtp\n");
    let options = ["-l", "25", "--no-new-privs", "--max-per-source", "3", "--idle-timeout", "60"];
    let _launcher = mailer(world).spawn(accepting(&options, &[EXIM, "-bs"]));
    drop(Client::of("127.0.0.1:25"));

    let words = ["swaks", "--server", "127.0.0.1", "--to", "bob@example.test", "--from", "alice@example.test"];
    world.as_user("alice").run(words).succeeds().prints("250 OK id=");
    mailer(world).run([EXIM, "-bp"]).succeeds().prints("bob@example.test");
}

fn sshd_greets_on_22(world: &World) {
    world.policy("permit alice ssh\n");
    world.folder("/run/sshd", "root", 0o755);
    world.as_user("alice").run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/home/alice/key"]).succeeds();
    let sshd = ["/usr/sbin/sshd", "-i", "-e", "-o", "UsePAM=no", "-h", "/home/alice/key"];
    let launcher = world.as_user("alice").spawn(accepting(&["-l", "22"], &sshd));
    let mut client = Client::of("127.0.0.1:22");
    let greeting = client.line();
    assert!(greeting.starts_with("SSH-2.0-OpenSSH"), "{greeting}: {:?}", launcher.output());
    drop(client);
    let children = format!("/proc/{0}/task/{0}/children", launcher.pid());
    let deadline = Instant::now() + Duration::from_secs(20);
    while !fs::read_to_string(&children).expect("children").is_empty() {
        assert!(Instant::now() < deadline, "sshd goes on without a client");
        thread::sleep(Duration::from_millis(10));
    }
}
