//! Every recipe that `portgrant recipe` calls tested: its printed command, with its printed files, starts the real server
//! as an ordinary user on a low port, and a real client is answered. One install is enough: what differs between the two
//! has ended when a server starts.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::chown;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::accepting::servers::store_an_article;
use portgrant_tests::{Caller, Dialogue, Install, LAUNCHER, Outcome, Running, World};

/// A test of each recipe, and the list of them. A server is asked for URLs, or by a conversation of its own.
macro_rules! recipes {
    ($($name:ident: $server:literal [$($answers:tt)+],)+) => {
        $(mod $name {
            #[test]
            fn file_capability() {
                portgrant_tests::World::with(portgrant_tests::Install::FileCapability, |world| {
                    let served = super::Served::by(world, $server);
                    recipes!(@ served $($answers)+);
                    served.is_the_users();
                });
            }
        })+

        const TESTED: &[&str] = &[$($server),+];
    };
    (@ $served:ident $($url:literal => $text:literal),+) => {
        $($served.answers($url, $text);)+
    };
    (@ $served:ident $conversation:ident) => {
        super::$conversation(&$served)
    };
}

recipes! {
    systemd_as_printed: "systemd" ["http://127.0.0.1/announced.py" => "LISTEN_FDNAMES"],
    inetd_as_printed: "inetd" ["http://127.0.0.1/wait.py" => "os.dup(0)"],
    innd_as_printed: "innd" [innd],
    nnrpd_as_printed: "nnrpd" [nnrpd],
    exim_as_printed: "exim" [exim],
    dovecot_as_printed: "dovecot" ["imap://alice:secret@127.0.0.1/" => "INBOX"],
    sshd_as_printed: "sshd" [sshd],
    nginx_as_printed: "nginx" ["http://127.0.0.1/" => "served by nginx\n", "http://[::1]/" => "served by nginx\n"],
    haproxy_as_printed: "haproxy" ["http://127.0.0.1/" => "served by haproxy\n"],
    lighttpd_as_printed: "lighttpd" ["http://127.0.0.1/hello.txt" => "served by lighttpd\n"],
    php_fpm_as_printed: "php-fpm" [php_fpm],
    gunicorn_as_printed: "gunicorn" ["http://127.0.0.1/" => "served by gunicorn\n"],
    uvicorn_as_printed: "uvicorn" ["http://[::1]/" => "served by asgi\n"],
    hypercorn_as_printed: "hypercorn" ["http://127.0.0.1/" => "served by asgi\n"],
    unicorn_as_printed: "unicorn" ["http://127.0.0.1/" => "served by rack\n"],
    puma_as_printed: "puma" ["http://127.0.0.1/" => "served by rack\n"],
    server_starter_as_printed: "server-starter" ["http://[::1]/" => "served by perl\n"],
    starlet_as_printed: "starlet" ["http://127.0.0.1/" => "served by starlet\n"],
    node_as_printed: "node" ["http://127.0.0.1/" => "served by node\n"],
    jvm_as_printed: "jvm" ["http://127.0.0.1/" => "served by the JVM\n"],
    // Compiled there and then.
    go_as_printed: "go" ["http://127.0.0.1/" => "served by go\n", "http://[::1]/" => "served by go\n"],
    python_as_printed: "python" ["http://127.0.0.1/server.py" => "fileno=3"],
    // The example hello stands for the program that is printed in part.
    rust_as_printed: "rust" ["http://127.0.0.1/" => "hello from uid 1000"],
}

/// Without MODE READER: nnrpd, which that starts, turns readers away while the machine is busy (nnrpdloadlimit).
fn innd(_: &Served<'_>) {
    for address in ["127.0.0.1:119", "[::1]:119"] {
        let mut reader = Dialogue::with(address);
        reader.hear("200");
        reader.say("HELP");
        reader.hear("100");
        assert!(reader.text().iter().any(|line| line.contains("IHAVE")));
    }
}

/// innd has stored an article before.
fn nnrpd(_: &Served<'_>) {
    let mut reader = Dialogue::with("127.0.0.1:119");
    reader.hear("200");
    reader.say("GROUP local.test");
    assert_eq!(reader.hear("211"), "1 1 1 local.test");
}

/// With the configuration that Debian's package makes, certificate warning and all.
fn exim(_: &Served<'_>) {
    let mut client = Dialogue::with("127.0.0.1:25");
    client.hear("220");
    for line in ["EHLO client.example.test", "MAIL FROM:<>", "RCPT TO:<postmaster@localhost>"] {
        client.say(line);
        client.hear("250");
    }
    client.say("DATA");
    client.hear("354");
    client.say("Subject: a message\r\n\r\nThrough descriptor 0.\r\n.");
    client.hear("250");
}

/// The user's own key lets that user in, who is the only one that this sshd can let in.
fn sshd(served: &Served<'_>) {
    let made = served.user().run([
        "sh",
        "-c",
        "mkdir -m 700 .ssh && ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519 &&
        cp .ssh/id_ed25519.pub .ssh/authorized_keys",
    ]);
    made.succeeds();
    Dialogue::with("127.0.0.1:22").hear("SSH-2.0-OpenSSH");
    let words = ["ssh", "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes", "127.0.0.1", "id -un"];
    served.user().run(words).succeeds().prints("alice\n");
}

fn php_fpm(_: &Served<'_>) {
    let answer = fast_cgi("127.0.0.1:90", "/home/alice/hello.php");
    assert!(answer.contains("served by php-fpm"), "{answer}");
}

mod a_recipe_is_called_tested_where_it_is {
    #[test]
    fn file_capability() {
        portgrant_tests::World::with(
            portgrant_tests::Install::FileCapability,
            super::a_recipe_is_called_tested_where_it_is,
        );
    }
}

fn a_recipe_is_called_tested_where_it_is(world: &World) {
    let list = recipe(world, &[]);
    let indented = list.stdout.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    let known: Vec<&str> = indented.filter_map(|line| line.split(' ').next()).collect();
    assert!(known.len() > TESTED.len(), "{known:?}");
    for server in known {
        let printed = recipe(world, &[server]).stdout;
        assert_eq!(
            printed.contains("Tested as it stands here, with "),
            TESTED.contains(&server),
            "{server}: {printed}"
        );
        let cannot = printed.contains("\nInstead:\n");
        let with_as = world.as_user("alice").run([LAUNCHER, "exec", "--as", server, "-l", "80", "--", "true"]);
        if cannot {
            with_as.exits(64).complains(&format!("--as {server} is not possible")).complains("see portgrant recipe");
        }
    }
    let words = [LAUNCHER, "recipe", "ngnix"];
    world
        .as_user("alice")
        .run(words)
        .exits(64)
        .complains("did you mean nginx?")
        .complains("portgrant recipe lists the servers");
}

fn recipe(world: &World, server: &[&str]) -> Outcome {
    let outcome = world.as_user("alice").run([&[LAUNCHER, "recipe"], server].concat());
    outcome.succeeds();
    outcome
}

/// A server that was started by its recipe, and the world that it serves in.
struct Served<'a> {
    world: &'a World,
    user: String,
    running: Running,
    /// Whether portgrant holds the sockets itself
    stays: bool,
}

impl<'a> Served<'a> {
    fn by(world: &'a World, server: &str) -> Served<'a> {
        assert_eq!(world.install(), Install::FileCapability);
        let printed = Printed::read(&recipe(world, &[server]).stdout);
        world.policy(&format!("permit {} 1-511\n", printed.user));
        world.folder("/run/news", "news", 0o755);
        let account = world.uid(&printed.user);
        for (name, content) in &printed.files {
            let path = Path::new("/home/alice").join(name);
            fs::write(&path, content).expect(name);
            chown(&path, Some(account), None).expect(name);
        }
        if server == "rust" {
            fs::copy("/usr/local/bin/hello", "/home/alice/server").expect("the example");
        }
        if server == "nnrpd" {
            store_an_article(world);
        }
        let caller = world.as_user(&printed.user).folder("/home/alice");
        let stays = printed.command.contains(" --accept ");
        Served { world, running: caller.spawn(["sh", "-ec", &printed.command]), user: printed.user, stays }
    }

    fn user(&self) -> Caller {
        self.world.as_user(&self.user).folder("/home/alice")
    }

    /// curl's own client, once there is something to connect to.
    #[track_caller]
    fn answers(&self, url: &str, text: &str) {
        const REFUSED: Option<i32> = Some(7);
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            let outcome = self.world.as_root().run(["curl", "-sS", "-g", "--max-time", "20", url]);
            if outcome.status.code() != REFUSED || Instant::now() > deadline {
                let (_, said) = self.running.output();
                assert!(outcome.status.success() && outcome.stdout.contains(text), "{outcome}\n--- the server\n{said}");
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Every socket is the user's, and so is every process that holds one.
    fn is_the_users(&self) {
        let (listening, uid) = (self.world.listening(), self.world.uid(&self.user));
        assert!(!listening.is_empty() && listening.iter().all(|socket| socket.uid == uid && socket.port < 512));
        let holders = listening.iter().flat_map(|socket| &socket.holders);
        let holders: Vec<_> = holders.map(|&pid| self.world.process(pid)).collect();
        assert!(!holders.is_empty());
        for process in holders {
            assert!(process.uids == [uid; 4] && process.is_powerless(), "{process:?}");
            assert_eq!(process.program == Path::new(LAUNCHER), self.stays, "{process:?}");
        }
    }
}

/// What a recipe gives to be copied.
struct Printed {
    user: String,
    command: String,
    files: BTreeMap<String, String>,
}

impl Printed {
    /// Headings stand at the margin and end in a colon; what follows is indented by four.
    fn read(text: &str) -> Printed {
        let mut sections: BTreeMap<String, String> = BTreeMap::new();
        let mut heading = String::new();
        for line in text.lines() {
            match (line.strip_prefix("    "), line.strip_suffix(':')) {
                (Some(copied), _) if !heading.is_empty() => {
                    sections.entry(heading.clone()).or_default().push_str(&format!("{copied}\n"));
                }
                (None, Some(name)) if !line.starts_with(' ') => name.clone_into(&mut heading),
                _ if line.is_empty() => sections.entry(heading.clone()).or_default().push('\n'),
                _ => heading.clear(),
            }
        }
        sections.remove("Good to know");
        sections.remove("");
        let heading = sections.keys().find(|name| name.starts_with("Command")).cloned().expect("a command");
        let command = sections.remove(&heading).expect("a command");
        let user = heading.strip_prefix("Command, as ").unwrap_or("alice").to_owned();
        let files = sections.into_iter().map(|(name, content)| (name, content.trim().to_owned() + "\n"));
        Printed { user, command, files: files.collect() }
    }
}

/// One FastCGI request for a script, as a web server makes it; what came back, unparsed.
fn fast_cgi(address: &str, script: &str) -> String {
    const BEGIN: u8 = 1;
    const PARAMETERS: u8 = 4;
    const INPUT: u8 = 5;
    let record = |kind, content: &[u8]| {
        let length = u16::try_from(content.len()).expect("short").to_be_bytes();
        [&[1, kind, 0, 1, length[0], length[1], 0, 0], content].concat()
    };
    let mut parameters = Vec::new();
    for (name, value) in [("REQUEST_METHOD", "GET"), ("SCRIPT_FILENAME", script), ("SCRIPT_NAME", "/")] {
        parameters.extend([name.len(), value.len()].map(|length| u8::try_from(length).expect("short")));
        parameters.extend(name.bytes().chain(value.bytes()));
    }
    let responder = [0, 1, 0, 0, 0, 0, 0, 0];
    let request =
        [record(BEGIN, &responder), record(PARAMETERS, &parameters), record(PARAMETERS, &[]), record(INPUT, &[])];
    let mut stream = connected(address);
    stream.write_all(&request.concat()).expect("sent");
    stream.shutdown(Shutdown::Write).expect("shutdown");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

fn connected(address: &str) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => {
                stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
                return stream;
            }
            Err(e) => assert!(Instant::now() < deadline, "{address}: {e}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}
