//! The server crate's news server on port 119 as an ordinary user, with real clients: INN's and tin.

use std::fs;
use std::time::Duration;

use portgrant_tests::{Caller, Dialogue, LAUNCHER, Running, Signal, World, both_installs};
use pty_process::Size;
use pty_process::blocking::Command;

use crate::telnet::Client;

both_installs![
    inns_clients_post_and_fetch_on_port_119,
    tin_finds_saves_and_reads_an_article_on_port_119,
    every_command_of_a_reader_has_its_answer,
    a_malformed_article_is_refused,
    a_news_server_notifies_its_clients_when_it_ends,
];

const NEWS: [&str; 3] = ["news", "news.example.test", "local.general,local.test"];
const PATIENCE: Duration = Duration::from_secs(10);
const ARTICLE: &str =
    "From: bob@example.test\r\nNewsgroups: local.test\r\nSubject: the first\r\n\r\n..a dot\r\n....\r\nthe end";

/// The server as alice: it asks, or was handed its socket.
fn serve(world: &World, before: &[&str]) -> Running {
    world.policy("permit alice nntp\n");
    world.serving("alice", &[before, &NEWS].concat(), 1)
}

fn launcher() -> [&'static str; 5] {
    [LAUNCHER, "exec", "-l", "nntp", "--"]
}

fn bob(world: &World) -> Caller {
    world.as_user("bob").env("NNTPSERVER", "127.0.0.1").env("HOME", "/home/bob").env("USER", "bob").env("TERM", "vt220")
}

fn dialogue() -> Dialogue {
    let mut client = Dialogue::with("127.0.0.1:119");
    client.hear("200");
    client
}

fn post(client: &mut Dialogue, article: &str, code: &str) -> String {
    client.say("POST");
    client.hear("340");
    client.say(&format!("{article}\r\n."));
    client.hear(code)
}

fn inns_clients_post_and_fetch_on_port_119(world: &World) {
    for before in [&launcher()[..], &[]] {
        let _server = serve(world, before);
        let article = |group| {
            format!("From: bob@example.test\nNewsgroups: {group}\nSubject: the first\n\n.a dot\n...\nthe end\n")
        };

        bob(world).stdin(article("local.test")).run(["inews", "-h"]).succeeds();
        let refused = bob(world).stdin(article("no.such")).run(["inews", "-h"]);
        refused.exits(1).complains("441 there is no such group");

        let list = |what| bob(world).run(["/usr/lib/news/bin/getlist", "-h", "127.0.0.1", what]);
        assert_eq!(list("active").succeeds().stdout, "local.general 0 1 y\nlocal.test 1 1 y\n");
        list("newsgroups").succeeds().prints("local.test\tA group of news.example.test\n");
        list("overview.fmt")
            .succeeds()
            .prints("Subject:\nFrom:\nDate:\nMessage-ID:\nReferences:\n:bytes\n:lines\nXref:full\n");
        list("active.times").exits(1).complains("503");
        let get = |since| {
            world.as_user("news").run(["/usr/lib/news/bin/nntpget", "-t", since, "-n", "local.*,!*.general", "::1"])
        };
        // It shows the dots as they came over the wire, and needs a folder of INN's.
        let got = get("251122 000000");
        got.succeeds()
            .prints("Path: news.example.test!not-for-mail\n")
            .prints("\nXref: news.example.test local.test:1\n");
        got.prints("posting-host=\"127.0.0.1\"\n").prints("\n\n..a dot\n....\nthe end\n.\n");
        get("20991122 000000").succeeds().is_silent();
    }
}

fn tin_finds_saves_and_reads_an_article_on_port_119(world: &World) {
    let _server = serve(world, &launcher());
    post(&mut dialogue(), ARTICLE, "240");
    fs::write("/home/bob/.newsrc", "local.test:\n").expect("a file");
    world.folder("/home/bob/saved", "bob", 0o755);
    world.as_root().run(["chown", "bob", "/home/bob/.newsrc"]).succeeds();
    let tin = |words: &[&str]| bob(world).run([&["tin", "-r", "-n", "-g", "127.0.0.1", "-X"], words].concat());

    tin(&["-Z", "-v"]).exits(2).prints("1 unread");
    tin(&["-S", "-v", "-s", "/home/bob/saved"]).succeeds().prints("the first").prints("Saved 1 article from 1 group");
    let saved = world.as_root().run(["grep", "-rhx", "-e", "\\.a dot", "-e", "\\.\\.\\.", "/home/bob/saved"]);
    assert_eq!(saved.succeeds().stdout, ".a dot\n...\n");

    let tin = Command::new("tin").args(["-r", "-n", "-g", "127.0.0.1", "-X", "local.test"]).env("HOME", "/home/bob");
    let mut screen = Client::start(tin.env("TERM", "vt220").env("USER", "bob"), Size::new(24, 80));
    screen.see("the first");
    screen.press("\r");
    screen.see(".a dot");
    screen.see("the end");
}

fn every_command_of_a_reader_has_its_answer(world: &World) {
    let _server = serve(world, &launcher());
    let mut client = dialogue();
    client.say("CAPABILITIES");
    client.hear("101");
    let capabilities = client.text();
    for capability in ["VERSION 2", "READER", "POST", "OVER MSGID", "LIST ACTIVE NEWSGROUPS OVERVIEW.FMT", "NEWNEWS"] {
        assert!(capabilities.iter().any(|line| line == capability), "{capability} is not in {capabilities:?}");
    }
    for (command, code) in [
        ("MODE READER", "200"),
        ("GROUP no.such", "411"),
        ("ARTICLE 1", "412"),
        ("OVER", "412"),
        ("NEXT", "412"),
        ("LISTGROUP", "412"),
        ("ARTICLE <no@such>", "430"),
        ("GROUP local.general", "211"),
        ("ARTICLE", "420"),
        ("NEXT", "420"),
        ("OVER 1-", "423"),
        ("GROUP", "501"),
        ("NEWGROUPS 26112 1", "501"),
        ("LIST ACTIVE.TIMES", "503"),
        ("IHAVE <a@b>", "500"),
        ("", "500"),
        (&"x".repeat(600), "501"),
        ("DATE", "111"),
    ] {
        client.say(command);
        client.hear(code);
    }
    let ids: Vec<String> = (1..=3).map(|number| format!("<{number}@example.test>")).collect();
    for id in &ids {
        assert_eq!(post(&mut client, &format!("Message-ID: {id}\r\n{ARTICLE}"), "240"), "it is here");
    }
    post(&mut client, &format!("Message-ID: {}\r\n{ARTICLE}", ids[0]), "441");
    client.say("GROUP local.test");
    assert_eq!(client.hear("211"), "3 1 3 local.test");
    for (command, code, reply) in [
        ("STAT", "223", format!("1 {}", ids[0])),
        ("LAST", "422", "that was the first".to_owned()),
        ("NEXT", "223", format!("2 {}", ids[1])),
        ("STAT 3", "223", format!("3 {}", ids[2])),
        ("NEXT", "421", "that was the last".to_owned()),
        ("STAT <1@example.test>", "223", format!("0 {}", ids[0])),
        ("LAST", "223", format!("2 {}", ids[1])),
    ] {
        client.say(command);
        assert_eq!(client.hear(code), reply, "{command}");
    }
    client.say("BODY");
    client.hear("222");
    assert_eq!(client.text(), ["..a dot", "....", "the end"]); // as it is on the wire
    client.say("HEAD <3@example.test>");
    client.hear("221");
    let head = client.text();
    assert!(head.iter().any(|line| line == "Message-ID: <3@example.test>"), "{head:?}");
    for (command, expected) in [("OVER 2-", &ids[1..]), ("XOVER 1-2", &ids[..2]), ("OVER <2@example.test>", &ids[1..2])]
    {
        client.say(command);
        client.hear("224");
        let lines = client.text();
        let fields: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
        assert!(fields.iter().all(|line| line.len() == 9 && line[1] == "the first" && line[7] == "3"), "{lines:?}");
        assert_eq!(fields.iter().map(|line| line[4]).collect::<Vec<_>>(), expected, "{command}");
    }
    client.say("LISTGROUP local.test 2-3");
    client.hear("211");
    assert_eq!(client.text(), ["2", "3"]);
    client.say("LIST ACTIVE *.t?st,!local.g*");
    client.hear("215");
    assert_eq!(client.text(), ["local.test 3 1 y"]);
    client.say("NEWGROUPS 20200101 000000 GMT");
    client.hear("231");
    assert_eq!(client.text().len(), 2);
    client.say("QUIT");
    client.hear("205");
}

fn a_malformed_article_is_refused(world: &World) {
    let _server = serve(world, &launcher());
    let mut client = dialogue();
    for wrong in [
        "".to_owned(),
        "From: bob@example.test\r\n\r\nno subject".to_owned(),
        "no header\r\n\r\nbody".to_owned(),
        ARTICLE.replace("Subject: the first", "Subject: the first\r\nSubject: the second"),
        ARTICLE.replace("local.test", "no.such"),
        format!("Message-ID: none\r\n{ARTICLE}"),
        format!("{ARTICLE}\r\n{}", "x".repeat(1100)),
        format!("{ARTICLE}\r\n{}", "0123456789\r\n".repeat(30_000)),
    ] {
        post(&mut client, &wrong, "441");
    }
    // Whose end is it? Nobody goes on to find out.
    client.say("POST");
    client.hear("340");
    client.say(&format!("{ARTICLE}\n.\r\nPOST"));
    client.hear("400");
    let mut client = dialogue();
    client.say("GROUP local.test");
    assert_eq!(client.hear("211"), "0 1 0 local.test");
}

fn a_news_server_notifies_its_clients_when_it_ends(world: &World) {
    let server = serve(world, &[]);
    let (mut idle, mut posting) = (dialogue(), dialogue());
    posting.say("POST");
    posting.hear("340");
    server.signal(Signal::SIGTERM);
    idle.hear("400");
    // What is under way may finish.
    std::thread::sleep(Duration::from_secs(1)); // longer than it takes to be interrupted
    posting.say(&format!("{ARTICLE}\r\n."));
    posting.hear("240");
    posting.hear("400");
    server.wait(PATIENCE).succeeds();
}
