//! Several ports at once, IPv4 and IPv6, by their names: the server crate's chat as an ordinary user.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use portgrant_tests::{LAUNCHER, Signal, World, both_installs};

both_installs![each_port_has_its_name_in_both_families, the_other_clients_continue_if_one_leaves_or_floods];

const PATIENCE: Duration = Duration::from_secs(10);

struct Person {
    connection: BufReader<TcpStream>,
    name: String,
}

impl Person {
    fn at(address: &str) -> Person {
        let connection = TcpStream::connect(address).expect("it listens");
        connection.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let name = connection.local_addr().expect("an address").to_string();
        Person { connection: BufReader::new(connection), name }
    }

    fn say(&mut self, text: &str) {
        self.connection.get_mut().write_all(format!("{text}\r\n").as_bytes()).expect("sent");
    }

    #[track_caller]
    fn hear(&mut self, expected: &str) {
        let mut line = String::new();
        self.connection.read_line(&mut line).unwrap_or_else(|error| panic!("{error} instead of {expected}"));
        assert_eq!(line.trim_end(), expected);
    }
}

fn each_port_has_its_name_in_both_families(world: &World) {
    world.policy("permit alice 98 99 100\n");
    // The lobby is two sockets, one of each family; the workshop is one for both.
    let handed = ["-l", "lobby=127.0.0.1:98", "-l", "workshop=99", "-l", "lobby=[::1]:98", "-l", "100"];
    let server = world.serving("alice", &[&[LAUNCHER, "exec"], &handed[..], &["--", "chat"]].concat(), 4);

    let mut v4 = Person::at("127.0.0.1:98");
    v4.hear(&format!("lobby: you are {}, with 0 others", v4.name));
    let mut v6 = Person::at("[::1]:98");
    v6.hear(&format!("lobby: you are {}, with 1 others", v6.name));
    v4.hear(&format!("{} comes", v6.name));
    // On a socket for both, a client by IPv4 is shown so.
    let mut mapped = Person::at("127.0.0.1:99");
    mapped.hear(&format!("workshop: you are {}, with 0 others", mapped.name));
    let mut unnamed = Person::at("[::1]:100");
    unnamed.hear(&format!("100/tcp: you are {}, with 0 others", unnamed.name));

    v6.say("hello\u{1b}[2J");
    v4.hear(&format!("{} says hello?[2J", v6.name));
    mapped.say("nobody of the lobby hears this");
    v4.say("bye");
    v6.hear(&format!("{} says bye", v4.name));

    server.signal(Signal::SIGTERM);
    for person in [&mut v4, &mut v6, &mut mapped, &mut unnamed] {
        person.hear("bye: the chat ends");
    }
    drop((v4, v6, mapped, unnamed));
    server.wait(PATIENCE).succeeds();
}

fn the_other_clients_continue_if_one_leaves_or_floods(world: &World) {
    world.policy("permit alice 98\n");
    let _server = world.serving("alice", &["chat"], 1);
    let (mut one, mut other) = (Person::at("127.0.0.1:98"), Person::at("[::1]:98"));
    one.hear(&format!("lobby: you are {}, with 0 others", one.name));
    other.hear(&format!("lobby: you are {}, with 1 others", other.name));
    one.hear(&format!("{} comes", other.name));
    other.say(&"x".repeat(600));
    other.hear("bye: that line was too long");
    one.hear(&format!("{} goes", other.name));
    let gone = Person::at("127.0.0.1:98");
    one.hear(&format!("{} comes", gone.name));
    let name = gone.name.clone();
    drop(gone);
    one.hear(&format!("{name} goes"));
}
