//! A real telnet client, on a pseudo-terminal, with the server crate on port 23 as an ordinary user.

use std::io::{ErrorKind, Read, Write};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use portgrant_tests::{LAUNCHER, Running, World, both_installs, opening};
use pty_process::Size;
use pty_process::blocking::{Command, Pty};

both_installs![
    a_telnet_client_sends_one_character_at_a_time,
    a_program_behind_a_telnet_client_has_a_terminal_that_follows_its_window,
];

const PATIENCE: Duration = Duration::from_secs(10);

/// A program on a terminal, and what it shows.
pub(crate) struct Client {
    pub(crate) terminal: Pty,
    pub(crate) program: Child,
    screen: String,
}

impl Client {
    /// Debian's telnet on a terminal of 70 by 20.
    fn connect() -> Client {
        Client::start(Command::new("telnet").args(["127.0.0.1", "23"]).env("TERM", "vt220"), Size::new(20, 70))
    }

    pub(crate) fn start(command: Command, size: Size) -> Client {
        opening(|| {
            let (terminal, end) = pty_process::blocking::open().expect("a terminal");
            terminal.resize(size).expect("a size");
            // So that a screen that never shows what is waited for ends the test.
            fcntl(&terminal, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a flag");
            let program = command.spawn(end).expect("a program");
            Client { terminal, program, screen: String::new() }
        })
    }

    pub(crate) fn press(&mut self, keys: &str) {
        self.terminal.write_all(keys.as_bytes()).expect("pressed");
    }

    /// Waits until the screen shows `text`, wipes it up to there, and returns what stood before it.
    #[track_caller]
    pub(crate) fn see(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        while !self.screen.contains(text) {
            let mut bytes = [0; 4096];
            match self.terminal.read(&mut bytes) {
                Ok(length) => self.screen += &String::from_utf8_lossy(&bytes[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("{error}: {text:?} is not on the screen: {:?}", self.screen),
            }
        }
        let (before, after) = self.screen.split_once(text).expect("seen");
        let (before, after) = (before.to_owned(), after.to_owned());
        self.screen = after;
        before
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// The server as alice, once it listens.
fn serve(world: &World, program: &[&str]) -> Running {
    world.policy("permit alice telnet\n");
    let server = world.as_user("alice").spawn([&[LAUNCHER, "exec", "-l", "telnet", "--"], program].concat());
    let deadline = Instant::now() + PATIENCE;
    while world.listening().is_empty() || !world.process_at_rest(server.pid()).is_powerless() {
        assert!(Instant::now() < deadline, "nobody listens");
    }
    server
}

fn a_telnet_client_sends_one_character_at_a_time(world: &World) {
    let server = serve(world, &["keys"]);
    let mut client = Client::connect();
    client.see("press keys, q to end");
    client.press("x");
    client.see("key 'x', window 70 by 20");
    client.press("\r");
    client.see("key '\\r', window");
    client.terminal.resize(Size::new(33, 99)).expect("a size");
    // The client tells its new size when it gets to it: before this key, or before the next.
    let deadline = Instant::now() + PATIENCE;
    loop {
        client.press("y");
        client.see("key 'y', window ");
        if client.see("\r\n") == "99 by 33" {
            break;
        }
        assert!(Instant::now() < deadline, "the new size is not told");
    }
    client.press("q");
    client.see("bye");
    client.see("Connection closed by foreign host");
    assert_eq!(world.process(server.pid()).uids, [1000; 4]);
}

fn a_program_behind_a_telnet_client_has_a_terminal_that_follows_its_window(world: &World) {
    // A signal ends dash's read, with an error.
    let script = "trap 'echo now $(stty size)' WINCH; echo $(stty size) $TERM $(id -u); \
        while [ \"$line\" != bye ]; do read -r line && echo \"got $line\"; done; echo the end";
    let server = serve(world, &["terminal", "23", "sh", "-c", script]);
    let mut client = Client::connect();
    client.see("20 70 vt220 1000");
    client.press("hello\r");
    client.see("hello\r\ngot hello");
    client.press("wrong\u{15}right\r");
    client.see("got right");
    client.terminal.resize(Size::new(33, 99)).expect("a size");
    client.see("now 33 99");
    client.press("bye\r");
    client.see("the end");
    client.see("Connection closed by foreign host");

    // A client that goes takes its program along.
    let mut gone = Client::connect();
    gone.see("vt220 1000");
    let children = || world.as_root().run(["pgrep", "-c", "-P", &server.pid().to_string()]).stdout;
    assert_eq!(children().trim(), "1");
    drop(gone);
    let deadline = Instant::now() + PATIENCE;
    while children().trim() != "0" {
        assert!(Instant::now() < deadline, "the program outlives its client");
    }
}
