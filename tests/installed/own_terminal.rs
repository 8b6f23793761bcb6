//! Root's terminal, and what a program that root starts for somebody else makes of it: nothing, as it has its own.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

use portgrant_tests::{LAUNCHER, Signal, World, both_installs, http_get, opening};
use pty_process::Size;
use pty_process::blocking::Command;
use rustix::termios::{LocalModes, tcgetattr};

use crate::telnet::Client;

both_installs![
    a_program_that_root_starts_for_alice_has_a_separate_terminal,
    a_child_that_stays_behind_neither_reads_nor_types_at_roots_terminal,
    the_programs_terminal_has_the_window_size_of_roots,
    roots_shell_learns_how_the_program_ended,
    signals_that_are_sent_to_the_launcher_reach_the_program,
    a_program_can_be_stopped_and_continued_and_the_terminal_is_restored,
    a_program_in_the_background_asks_for_the_terminal_and_gets_it,
    redirected_descriptors_stay_unchanged,
    a_pipeline_shares_the_terminal,
    the_program_gets_sighup_if_roots_terminal_or_the_launcher_is_gone,
    relay_and_monitor_have_no_descriptors_of_the_program_and_one_capability,
    as_the_first_process_of_a_container_the_launcher_ends_as_the_program_does,
    a_program_that_ignores_hangups_outlives_roots_terminal,
    user_with_ones_own_name_changes_nothing,
    every_way_of_starting_works_at_a_terminal,
];

const PROMPT: &str = "root> ";
const PATIENCE: Duration = Duration::from_secs(20);
const STAYS_BEHIND: &str = include_str!("../programs/stays_behind.py");

/// Root's shell, with job control, on a terminal of 70 by 20.
struct Shell(Client);

impl Shell {
    fn start(world: &World) -> Shell {
        world.policy("permit alice 79 80\npermit root 80\n");
        let bash = Command::new("bash").args(["--norc", "--noprofile", "--noediting", "-i"]);
        let mut shell = Client::start(bash.env("PS1", PROMPT).env("TERM", "dumb"), Size::new(20, 70));
        shell.see(PROMPT);
        Shell(shell)
    }

    /// What is on the screen between a command and the next prompt.
    #[track_caller]
    fn run(&mut self, command: &str) -> String {
        self.0.press(&format!("{command}\r"));
        self.0.see("\r\n");
        self.0.see(PROMPT)
    }

    /// Starts the command and leaves it running.
    #[track_caller]
    fn begin(&mut self, command: &str, shows: &str) {
        self.0.press(&format!("{command}\r"));
        self.0.see("\r\n");
        self.0.see(shows);
    }
}

/// Root's command line that runs `program` for alice.
fn for_alice(options: &str, program: &str) -> String {
    format!("{LAUNCHER} exec --user alice {options} -l 80 -- {program}")
}

/// The same without a shell, at a terminal.
fn at_a_terminal(world: &World, script: &str) -> Client {
    world.policy("permit alice 80\n");
    let words = ["exec", "--user", "alice", "-l", "80", "--", "sh", "-c", script];
    Client::start(Command::new(LAUNCHER).args(words), Size::new(20, 70))
}

#[track_caller]
fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not soon: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn is_there(path: &str) -> bool {
    fs::exists(path).expect("stat")
}

/// Whose parent is `pid`.
fn child_of(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("children");
    children.split_whitespace().next().expect("one").parse().expect("a pid")
}

fn ended(client: &mut Client) -> ExitStatus {
    let mut status = None;
    soon("it ends", || {
        status = client.program.try_wait().expect("wait");
        status.is_some()
    });
    status.expect("ended")
}

/// PG-30
fn a_program_that_root_starts_for_alice_has_a_separate_terminal(world: &World) {
    let mut shell = Shell::start(world);
    let roots = shell.run("tty");
    let roots = roots.trim();
    assert!(roots.starts_with("/dev/pts/"), "{roots}");
    let script = "id -un; tty; for n in 0 1 2 5; do readlink /proc/self/fd/$n; done; ps -o tty= -p $$; \
        test $LISTEN_PID = $$ && echo announced; exec 4<>\"$(tty)\" && echo opened";
    let seen = shell.run(&for_alice("", &format!("sh -c '{script}' 5<>/dev/tty")));
    let lines: Vec<&str> = seen.lines().map(str::trim).collect();
    let own = lines.get(1).copied().unwrap_or_default();
    assert!(own.starts_with("/dev/pts/") && own != roots, "{seen}");
    let name = own.strip_prefix("/dev/").expect("a device");
    assert_eq!(lines, ["alice", own, own, own, own, own, name, "announced", "opened"], "{seen}");
}

/// PG-30: whatever it does with the terminal that it had, root's is another.
fn a_child_that_stays_behind_neither_reads_nor_types_at_roots_terminal(world: &World) {
    for how in ["group", "session", "detached"] {
        let folder = format!("/home/alice/{how}");
        world.folder(&folder, "alice", 0o755);
        world.file("/tmp/stays_behind.py", STAYS_BEHIND);
        let mut shell = Shell::start(world);
        let modes = shell.run("stty -g");
        shell.run(&for_alice("", &format!("python3 /tmp/stays_behind.py {how} {folder}")));
        assert!(is_there(&format!("{folder}/stays")), "{how}: it has begun");
        assert_eq!(shell.run("echo my-secret-$((40 + 2))"), "my-secret-42\r\n", "{how}: each key is the shell's");
        world.file(&format!("{folder}/type"), "");
        soon("it has typed", || is_there(&format!("{folder}/typed")));
        assert_eq!(shell.run("echo on"), "on\r\n", "{how}: nothing was written or typed before");
        assert_eq!(shell.run("stty -g"), modes, "{how}: and echo is on");
        assert!(!is_there("/tmp/typed"), "{how}");
        assert_eq!(fs::read_to_string(format!("{folder}/typed")).expect("there"), "stolen b''", "{how}");
        world.file(&format!("{folder}/end"), "");
        soon("the port is free", || world.listening().is_empty());
    }
}

fn the_programs_terminal_has_the_window_size_of_roots(world: &World) {
    // A signal ends dash's read, with an error.
    let script = "trap 'echo now $(stty size)' WINCH; echo $(stty size); while read -r line || true; do :; done";
    let mut client = at_a_terminal(world, script);
    client.see("20 70\r\n");
    client.terminal.resize(Size::new(33, 99)).expect("a size");
    client.see("now 33 99\r\n");
}

fn roots_shell_learns_how_the_program_ended(world: &World) {
    for status in [0, 1, 77, 255] {
        let mut client = at_a_terminal(world, &format!("printf last; exit {status}"));
        client.see("last");
        assert_eq!(ended(&mut client).code(), Some(status));
    }
    for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGSEGV, Signal::SIGPIPE, Signal::SIGPWR] {
        let mut client = at_a_terminal(world, &format!("kill -{} $$", signal as i32));
        assert_eq!(ended(&mut client).signal(), Some(signal as i32));
    }
    let mut client = at_a_terminal(world, "kill -40 $$");
    assert_eq!(ended(&mut client).signal(), Some(40), "one without a name");
    let mut client = at_a_terminal(world, "echo ready; exec sleep 60");
    client.see("ready");
    client.press("\u{3}");
    assert_eq!(ended(&mut client).signal(), Some(Signal::SIGINT as i32));
    world.policy("permit bob 80\n");
    let mut refused = Client::start(
        Command::new(LAUNCHER).args(["exec", "--user", "alice", "-l", "80", "--", "true"]).env("NO_COLOR", "1"),
        Size::new(20, 200),
    );
    refused.see("80/tcp is refused for alice");
    assert_eq!(ended(&mut refused).code(), Some(77));
}

fn signals_that_are_sent_to_the_launcher_reach_the_program(world: &World) {
    let script = "for s in HUP INT QUIT USR1 USR2 ALRM PIPE URG; do trap \"echo got $s\" $s; done; \
        echo ready; while :; do sleep 0.02; done";
    let mut client = at_a_terminal(world, script);
    client.see("ready");
    let launcher = client.program.id().to_string();
    let send = |signal: &str| {
        world.as_root().run(["kill", "-s", signal, &launcher]).succeeds();
    };
    for signal in ["HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "PIPE", "URG"] {
        send(signal);
        client.see(&format!("got {signal}\r\n"));
    }
    send("TERM");
    assert_eq!(ended(&mut client).signal(), Some(Signal::SIGTERM as i32));
    assert_eq!(world.listening(), []);
}

fn a_program_can_be_stopped_and_continued_and_the_terminal_is_restored(world: &World) {
    let mut shell = Shell::start(world);
    let modes = shell.run("stty -g");
    shell.begin(&for_alice("", "sh -c 'echo ready; exec cat'"), "ready\r\n");
    shell.0.press("one\r");
    shell.0.see("one\r\none\r\n");
    shell.0.press("\u{1a}");
    shell.0.see("Stopped");
    shell.0.see(PROMPT);
    assert_eq!(shell.run("stty -g"), modes, "stopped");
    shell.begin("fg", "cat'\r\n");
    shell.0.press("two\r");
    shell.0.see("two\r\ntwo\r\n");
    shell.0.press("\u{3}");
    shell.0.see(PROMPT);
    assert_eq!(shell.run("echo $?"), "130\r\n");
    assert_eq!(shell.run("stty -g"), modes, "interrupted");
    for (signal, status) in [("TERM", 143), ("KILL", 137)] {
        shell.begin(&for_alice("", "sh -c 'echo pid $$; exec sleep 60'"), "pid ");
        let pid = shell.0.see("\r\n");
        world.as_root().run(["kill", "-s", signal, &pid]).succeeds();
        shell.0.see(PROMPT);
        assert_eq!(shell.run("echo $?"), format!("{status}\r\n"));
        assert_eq!(shell.run("stty -g"), modes, "{signal}");
    }
    // A program that changes the modes of its terminal and ends.
    shell.run(&for_alice("", "stty raw -echo"));
    assert_eq!(shell.run("stty -g"), modes, "changed by the program");
    // One that is stopped by somebody, not from the keyboard.
    shell.begin(&for_alice("", "sh -c 'echo ready; kill -STOP $$; echo again'"), "ready\r\n");
    shell.0.see(PROMPT);
    shell.begin("fg", "again\r\n");
    shell.0.see(PROMPT);
}

fn a_program_in_the_background_asks_for_the_terminal_and_gets_it(world: &World) {
    let mut shell = Shell::start(world);
    // Meanwhile the terminal may be as a shell has it that edits a line.
    let begins = for_alice("", "sh -c 'touch /tmp/begun; read -r line; echo got $line' &");
    let until = "while ! test -e /tmp/begun; do :; done";
    shell.run(&format!("modes=$(stty -g); stty -icanon -echo; {begins} {until}; stty $modes"));
    soon("it is stopped", || shell.run("jobs").contains("Stopped"));
    shell.begin("fg", "line'\r\n");
    let modes = |shell: &Shell| tcgetattr(&shell.0.terminal).expect("modes").local_modes;
    soon("what is typed is the program's", || !modes(&shell).contains(LocalModes::ICANON));
    shell.0.press("something\r");
    shell.0.see("something\r\ngot something\r\n");
    shell.0.see(PROMPT);
    // One that wants nothing of it runs on, and takes nothing.
    shell.run(&for_alice("", "sleep 60 &"));
    soon("it is there", || !world.listening().is_empty());
    assert_eq!(shell.run("echo mine"), "mine\r\n");
    shell.run("kill %1; wait");
}

fn redirected_descriptors_stay_unchanged(world: &World) {
    let mut shell = Shell::start(world);
    let script = "cat; readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/6; readlink /proc/self/fd/2 >&2";
    let command = for_alice("", &format!("sh -c '{script}' >/tmp/out 6</etc/hosts"));
    let screen = shell.run(&format!("echo in | {command}"));
    let out = fs::read_to_string("/tmp/out").expect("there");
    let lines: Vec<&str> = out.lines().collect();
    let [input, pipe, "/tmp/out", "/etc/hosts"] = lines.as_slice() else { panic!("{out}") };
    assert!(*input == "in" && pipe.starts_with("pipe:["), "{out}");
    assert!(screen.trim().starts_with("/dev/pts/"), "{screen}");
    assert!(!shell.run("tty").trim().eq(screen.trim()));
}

fn a_pipeline_shares_the_terminal(world: &World) {
    let mut shell = Shell::start(world);
    assert!(shell.run(&format!("yes | {} | cat", for_alice("", "head -n 1"))).starts_with("y\r\n"));
    let ask = for_alice("", "sh -c 'read -r line </dev/tty; echo got $line'");
    shell.0.press(&format!("{ask} | cat\r"));
    shell.0.see("cat\r\n");
    shell.0.press("this\r");
    shell.0.see("got this\r\n");
    shell.0.see(PROMPT);
    // A script goes on beside what it has started: its terminal stays its own.
    let script = format!("{} & read -r line; echo mine $line; kill $!", for_alice("", "sleep 60"));
    world.file("/tmp/script", &script);
    shell.0.press("sh /tmp/script\r");
    soon("it is there", || !world.listening().is_empty());
    shell.0.press("that\r");
    shell.0.see("mine that\r\n");
    shell.0.see(PROMPT);
}

fn the_program_gets_sighup_if_roots_terminal_or_the_launcher_is_gone(world: &World) {
    world.policy("permit alice 80\n");
    let script = "trap 'echo hung up >/tmp/hup; exit' HUP; echo ready >&2; while :; do sleep 0.02; done";
    let run = for_alice("", &format!("sh -c \"{script}\""));
    // In the foreground of its terminal, or not, the standard input being another.
    for (is_killed, input) in [(false, ""), (true, ""), (true, "</dev/null")] {
        let script = format!("exec {run} {input}");
        let mut client = Client::start(Command::new("sh").args(["-c", &script]), Size::new(20, 70));
        client.see("ready");
        let monitor = child_of(client.program.id());
        if is_killed {
            client.program.kill().expect("killed");
        } else {
            let (another, _) = opening(|| pty_process::blocking::open().expect("another"));
            client.terminal = another;
        }
        soon("it gets the signal", || is_there("/tmp/hup") && world.listening().is_empty());
        soon("nobody is left", || !is_there(&format!("/proc/{monitor}")));
        fs::remove_file("/tmp/hup").expect("removed");
    }
}

/// PG-2: root's processes beside alice's program, which she can neither signal nor trace.
fn relay_and_monitor_have_no_descriptors_of_the_program_and_one_capability(world: &World) {
    world.policy("permit alice 80\n");
    let run = for_alice("", "sh -c 'echo ready; exec sleep 60'");
    let script = format!("exec 7</etc/hosts; exec {run} </etc/passwd");
    let mut client = Client::start(Command::new("bash").args(["-c", &script]), Size::new(20, 70));
    client.see("ready");
    let relay = client.program.id();
    let monitor = child_of(relay);
    let program = world.process(child_of(monitor));
    assert!(program.uids == [1000; 4] && program.is_powerless() && program.fds.contains_key(&7), "{program:?}");
    for pid in [relay, monitor] {
        let process = world.process(pid);
        assert_eq!((process.uids, process.folder.to_str()), ([0; 4], Some("/")));
        let inherited: Vec<_> = process.fds.values().filter(|to| to.starts_with("/etc")).collect();
        assert!(inherited.is_empty() && process.inheritable.is_empty(), "{process:?}");
        let held: Vec<String> = process.permitted.iter().map(ToString::to_string).collect();
        assert_eq!(held, ["CAP_KILL"]);
        assert_eq!(process.permitted, process.effective);
        world.as_user("alice").run(["kill", &pid.to_string()]).exits(1);
    }
    let listens = world.listening();
    assert_eq!(listens.first().map(|socket| socket.holders.len()), Some(1), "{listens:?}");
}

fn as_the_first_process_of_a_container_the_launcher_ends_as_the_program_does(world: &World) {
    let mut shell = Shell::start(world);
    for (script, status) in [("kill -TERM $$", 143), ("exit 3", 3), ("(sleep 0.1; exit 9) & exit 4", 4)] {
        let run = for_alice("", &format!("sh -c '{script}'"));
        shell.run(&format!("unshare --mount --pid --fork --mount-proc {run}"));
        assert_eq!(shell.run("echo $?"), format!("{status}\r\n"), "{script}");
    }
}

fn a_program_that_ignores_hangups_outlives_roots_terminal(world: &World) {
    let mut shell = Shell::start(world);
    shell.run(&format!("cd /tmp; nohup {} &", for_alice("", "sleep 60")));
    soon("it is there", || !world.listening().is_empty());
    let relay = child_of(shell.0.program.id());
    let program = child_of(child_of(relay));
    drop(shell);
    soon("the relay has noticed", || !world.process(relay).fds.values().any(|to| to.ends_with("ptmx")));
    assert_eq!(world.listening().len(), 1);
    world.as_root().run(["kill", &relay.to_string()]).succeeds();
    soon("a signal still reaches it", || world.listening().is_empty() && !is_there(&format!("/proc/{program}")));
}

fn user_with_ones_own_name_changes_nothing(world: &World) {
    let mut shell = Shell::start(world);
    let own = shell.run("tty; echo $$");
    let script = "sh -c 'tty; echo $PPID'";
    assert_eq!(shell.run(&format!("{LAUNCHER} exec --user root -l 80 -- {script}")), own);
    let alices = "setpriv --reuid alice --regid alice --init-groups";
    assert_eq!(shell.run(&format!("{alices} {}", for_alice("", script))), own);
}

fn every_way_of_starting_works_at_a_terminal(world: &World) {
    let mut shell = Shell::start(world);
    // --wait: the program begins with the first client.
    shell
        .0
        .press(&format!("{}\r", for_alice("--wait --inetd", "sh -c 'tty <&2 >&2; exec /usr/local/bin/hello --inetd'")));
    soon("it waits", || !world.listening().is_empty());
    assert!(http_get("127.0.0.1:80", "/").contains("hello from uid 1000"));
    shell.0.see("/dev/pts/");
    shell.0.press("\u{3}");
    shell.0.see(PROMPT);
    // --verify: the result is printed there.
    shell.begin(&for_alice("--verify=2", "sleep 60"), "the program does not accept on 80/tcp");
    shell.0.press("\u{3}");
    shell.0.see(PROMPT);
    // --accept: each connection's program, and the launcher that stays as alice.
    shell.0.press(&format!("{}\r", for_alice("--accept", "sh -c 'tty <&2 >&2; id -un'")));
    soon("it listens", || !world.listening().is_empty());
    let mut answer = String::new();
    TcpStream::connect("127.0.0.1:80").and_then(|mut client| client.read_to_string(&mut answer)).expect("an answer");
    assert_eq!(answer, "alice\n");
    shell.0.see("/dev/pts/");
    shell.0.press("\u{3}");
    shell.0.see(PROMPT);
    assert_eq!(shell.run("echo $?"), "130\r\n");
    // A grant that is bound to a program is the helper's to execute.
    world.policy("permit alice 80 exec /usr/bin/tty\n");
    assert!(shell.run(&for_alice("", "/usr/bin/tty")).starts_with("/dev/pts/"));
}
