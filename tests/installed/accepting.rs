//! `portgrant exec --accept`: a program for each connection, in the place of tcpserver and inetd's nowait.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use portgrant_tests::{Install, LAUNCHER, Process, Resource, Running, Signal, World, both_installs};

both_installs![
    a_program_gets_its_connection_and_what_the_caller_had,
    the_variables_tell_who_calls_and_never_what_the_caller_had,
    a_full_table_is_answered_by_waiting,
    a_source_at_its_bound_is_closed_and_others_are_served,
    clients_that_may_not_connect_are_closed_and_the_reason_is_reported,
    too_many_connections_in_a_second_wait_and_none_is_lost,
    an_idle_connection_is_ended_and_a_busy_one_is_not,
    a_program_that_never_ends_delays_nobody,
    a_storm_of_connections_leaves_no_zombie_and_no_descriptor,
    an_end_in_a_storm_leaves_no_program,
    a_caller_who_ignores_the_end_of_children_leaves_none_either,
    connections_wait_where_descriptors_run_out,
    an_end_is_passed_on_and_leaves_nothing,
    programs_that_do_not_end_are_killed,
    what_the_caller_ignores_or_blocks_does_not_end_it,
    programs_outlive_a_launcher_that_is_killed,
    a_program_that_goes_missing_is_told_and_may_come_back,
    what_cannot_be_executed_is_told_before_anything_is_asked,
    a_rule_bound_to_a_program_is_refused,
    its_options_are_refused_without_it,
    each_step_is_told_as_tcpserver_tells_it,
    a_name_is_told_where_it_has_the_address,
    a_name_server_that_does_not_answer_delays_its_clients_only,
];

const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn accepting<'a>(options: &[&'a str], program: &[&'a str]) -> Vec<&'a str> {
    [&[LAUNCHER, "exec", "--accept"], options, &["--"], program].concat()
}

/// Connects, trying again where nothing listens yet.
pub(super) struct Client(BufReader<TcpStream>);

impl Client {
    #[track_caller]
    pub(super) fn of(address: &str) -> Client {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match TcpStream::connect(address) {
                Ok(stream) => return Client::over(stream),
                Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// From an address of its own.
    #[track_caller]
    fn from(source: &str, address: &str) -> Client {
        let inet = |address: &str| SockaddrIn::from(address.parse::<SocketAddrV4>().expect("an address"));
        let stream = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        bind(std::os::fd::AsRawFd::as_raw_fd(&stream), &inet(&format!("{source}:0"))).expect("bound");
        connect(std::os::fd::AsRawFd::as_raw_fd(&stream), &inet(address)).expect("connected");
        Client::over(TcpStream::from(stream))
    }

    fn over(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        Client(BufReader::new(stream))
    }

    /// A line, without its end.
    #[track_caller]
    pub(super) fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    #[track_caller]
    pub(super) fn say(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).expect("sent");
    }

    /// Everything up to the end.
    #[track_caller]
    pub(super) fn rest(&mut self) -> String {
        let mut text = String::new();
        self.0.read_to_string(&mut text).expect("the end");
        text
    }

    /// Whether nothing comes within that time.
    fn is_silent_for(&mut self, patience: Duration) -> bool {
        self.0.get_ref().set_read_timeout(Some(patience)).expect("a time-out");
        let waits = self.0.fill_buf().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        self.0.get_ref().set_read_timeout(Some(PATIENCE)).expect("a time-out");
        waits
    }

    /// Nothing more will be sent.
    fn end(&mut self) {
        self.0.get_ref().shutdown(Shutdown::Write).expect("shut down");
    }
}

#[track_caller]
fn within(patience: Duration, what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + patience;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The processes that `pid` has started, zombies too.
fn children(world: &World, pid: u32) -> Vec<String> {
    let outcome = world.as_root().run(["ps", "-o", "pid=,stat=,comm=", "--ppid", &pid.to_string()]);
    outcome.stdout.lines().map(str::to_owned).collect()
}

/// PG-2, PG-3
fn a_program_gets_its_connection_and_what_the_caller_had(world: &World) {
    world.policy("permit bob 80\n");
    let caller = world.as_user("bob").groups(&[7, 2000]).umask(0o027).folder("/home/bob");
    let caller = caller.ignoring(Signal::SIGPIPE).blocking_all_signals().env("ODD", "a=b\u{fc}\n");
    let caller = caller.fd(9, File::open("/etc/passwd").expect("open"));

    let options = ["-l", "80", "--no-new-privs", "--idle-timeout", "60"];
    let launcher = caller.spawn(accepting(&options, &["sh", "-c", "echo $$; exec sleep 60"]));

    let pid = Client::of("127.0.0.1:80").line().parse().expect("a pid");
    let process = world.process_at_rest(pid);
    assert_eq!((process.uids, process.gids), ([1001; 4], [1001; 4]));
    assert_eq!(process.groups, [7, 2000].into());
    assert!(process.is_powerless() && process.no_new_privs, "{process:?}");
    assert_eq!(process.ignored, [Signal::SIGPIPE].into());
    assert!(process.blocked.contains(&Signal::SIGTERM) && process.blocked.contains(&Signal::SIGPIPE));
    assert_eq!((process.umask, process.folder.as_path()), (0o027, Path::new("/home/bob")));
    assert_eq!(process.fds.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 9]);
    assert_eq!((process.sockets(), &process.fds[&0]), (vec![0, 1], &process.fds[&1]));
    assert_eq!(Process::variable(pid, "ODD").as_deref(), Some("a=b\u{fc}\n"));
    assert!(world.process(launcher.pid()).is_powerless());
    drop(launcher);

    let closed = world.as_user("bob").closing(0).closing(2);
    let closed = closed.spawn(accepting(&["-l", "80"], &["sh", "-c", "echo $$; exec sleep 60"]));
    let pid = Client::of("127.0.0.1:80").line().parse().expect("a pid");
    assert_eq!(world.process_at_rest(pid).fds.keys().copied().collect::<Vec<_>>(), [0, 1]);
    drop(closed);

    let _plain = world.as_user("bob").spawn(accepting(&["-l", "80"], &["cat", "/proc/self/status"]));
    let status = Client::of("127.0.0.1:80").rest();
    assert_eq!((signals(&status, "SigIgn"), signals(&status, "SigBlk")), (0, 0));
}

/// A set of signals, without those that the C library keeps to itself (32 and 33): its posix_spawn(3) ignores them.
fn signals(status: &str, set: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix(set)?.strip_prefix(":\t")).expect("a set of signals");
    u64::from_str_radix(mask, 16).expect("a mask") & !(0b11 << 31)
}

fn the_variables_tell_who_calls_and_never_what_the_caller_had(world: &World) {
    world.policy("permit alice 80 81\n");
    let stale = ["TCPREMOTEHOST", "TCP6REMOTEIP", "TCPREMOTEINFO", "TCPLOCALHOST", "TCP6INTERFACE", "LISTEN_FDS"];
    let caller = stale.iter().fold(world.as_user("alice"), |caller, name| caller.env(name, "trusted.example.test"));
    let _launcher = caller.spawn(accepting(&["-l", "80", "-l", "127.0.0.1:81"], &["env"]));

    for (address, ip, proto) in
        [("127.0.0.1:80", "127.0.0.1", "TCP"), ("127.0.0.1:81", "127.0.0.1", "TCP"), ("[::1]:80", "::1", "TCP6")]
    {
        let mut client = Client::of(address);
        let own = client.0.get_ref().local_addr().expect("an address").port();
        let port = address.rsplit_once(':').expect("a port").1;
        let environment = client.rest();
        let pairs = |prefix: &str| {
            format!("{prefix}LOCALIP={ip}\n{prefix}LOCALPORT={port}\n{prefix}REMOTEIP={ip}\n{prefix}REMOTEPORT={own}\n")
        };
        let six = if proto == "TCP6" { pairs("TCP6") } else { String::new() };
        let expected = format!("PROTO={proto}\n{}{six}REMOTE_ADDR={ip}\nREMOTE_PORT={own}\n", pairs("TCP"));
        assert!(environment.ends_with(&expected), "{environment}");
        assert!(!environment.contains("trusted") && environment.contains("USER=alice\n"), "{environment}");
    }
}

fn a_full_table_is_answered_by_waiting(world: &World) {
    world.policy("permit alice 80\n");
    let launcher = world.as_user("alice").spawn(accepting(&["-l", "80", "--max-conns", "2"], &["cat"]));
    let mut clients: Vec<Client> = (0..5).map(|_| Client::of("127.0.0.1:80")).collect();
    for client in &mut clients {
        client.say("hello");
    }
    for client in &mut clients[..2] {
        assert_eq!(client.line(), "hello");
    }
    for client in &mut clients[2..] {
        assert!(client.is_silent_for(Duration::from_millis(100)), "a third connection is served");
    }
    assert_eq!(children(world, launcher.pid()).len(), 2);
    for client in &mut clients {
        client.end();
    }
    for client in &mut clients[2..] {
        assert_eq!(client.rest(), "hello\n", "it was kept waiting, not dropped");
    }
}

fn a_source_at_its_bound_is_closed_and_others_are_served(world: &World) {
    world.policy("permit alice 80\n");
    let launcher = world.as_user("alice").spawn(accepting(&["-l", "80", "--max-per-source", "1"], &["cat"]));
    let mut first = Client::of("127.0.0.1:80");
    first.say("hello");
    assert_eq!(first.line(), "hello");

    assert_eq!(Client::of("127.0.0.1:80").rest(), "");
    assert_eq!(Client::from("127.0.0.1", "127.0.0.2:80").rest(), "");
    for mut other in [Client::from("127.0.0.2", "127.0.0.1:80"), Client::of("[::1]:80")] {
        other.say("hello");
        assert_eq!(other.line(), "hello");
    }
    within(PATIENCE, "it tells", || launcher.output().1.ends_with("wanted\n"));
    let (_, said) = launcher.output();
    assert_eq!(said.matches("a connection from 127.0.0.1 was closed").count(), 1, "{said}");
    assert!(
        said.contains("why: 127.0.0.1 already has as many as --max-per-source permits\n  fix: raise --max-per-source"),
        "{said}"
    );

    first.end();
    assert_eq!(first.rest(), "");
    within(PATIENCE, "a place for the source", || {
        let mut again = Client::of("127.0.0.1:80");
        let mut text = String::new();
        // It may be closed at any moment of this.
        let stream = again.0.get_mut();
        let said = stream.write_all(b"hello\n").and_then(|()| stream.shutdown(Shutdown::Write));
        said.and_then(|()| again.0.read_to_string(&mut text)).is_ok() && text == "hello\n"
    });
}

fn clients_that_may_not_connect_are_closed_and_the_reason_is_reported(world: &World) {
    world.policy("permit alice 80\n");
    world.file("/tmp/rules", "127.0.0.5:deny\n");
    let options = ["-l", "80", "--allow", "127.0.0.0/29", "--deny", "127.0.0.3", "--access", "/tmp/rules"];
    let launcher = world.as_user("alice").spawn(accepting(&options, &["echo", "served"]));
    // Until it listens; IPv6 is not allowed.
    assert_eq!(Client::of("[::1]:80").rest(), "");
    for (source, answer) in
        [("127.0.0.1", "served\n"), ("127.0.0.3", ""), ("127.0.0.5", ""), ("127.0.0.9", ""), ("127.0.0.7", "served\n")]
    {
        assert_eq!(Client::from(source, "127.0.0.1:80").rest(), answer, "{source}");
    }
    launcher.signal(Signal::SIGTERM);
    let outcome = launcher.wait(PATIENCE);
    // The others came in the same ten seconds.
    outcome.complains("portgrant: a connection from ::1 was closed\n  why: no --allow contains it\n");
    assert_eq!(outcome.stderr.matches("was closed").count(), 1, "{outcome}");
}

fn too_many_connections_in_a_second_wait_and_none_is_lost(world: &World) {
    world.policy("permit alice 80\n");
    let options = ["-l", "80", "--max-rate", "2:2"];
    let launcher = world.as_user("alice").spawn(accepting(&options, &["echo", "served"]));
    assert_eq!(Client::of("127.0.0.1:80").rest(), "served\n");
    let began = Instant::now();
    let clients: Vec<Client> = (0..5).map(|_| Client::of("127.0.0.1:80")).collect();
    for mut client in clients {
        assert_eq!(client.rest(), "served\n");
    }
    assert!(began.elapsed() >= Duration::from_secs(4), "at most two, a rest, two, a rest, two: {:?}", began.elapsed());
    launcher.signal(Signal::SIGTERM);
    let outcome = launcher.wait(PATIENCE);
    outcome.complains(
        "portgrant: connections have to wait for 2 seconds\n  why: more have come in a second than --max-rate permits\n",
    );
}

fn an_idle_connection_is_ended_and_a_busy_one_is_not(world: &World) {
    world.policy("permit alice 80 81\n");
    let cat = world.as_user("alice").spawn(accepting(&["-l", "80", "--idle-timeout", "3"], &["cat"]));
    let deaf = world.as_user("alice").spawn(accepting(&["-l", "81", "--idle-timeout", "3"], &["sleep", "60"]));
    let (mut idle, mut busy, mut unheard) =
        (Client::of("127.0.0.1:80"), Client::of("127.0.0.1:80"), Client::of("127.0.0.1:81"));
    idle.say("hello");
    assert_eq!(idle.line(), "hello");
    let begin = Instant::now();
    for _ in 0..8 {
        thread::sleep(Duration::from_millis(500));
        busy.say("still here");
        assert_eq!(busy.line(), "still here");
    }
    assert_eq!((idle.rest(), unheard.rest()), (String::new(), String::new()));
    within(PATIENCE, "the program of the idle one has ended", || children(world, cat.pid()).len() == 1);
    assert_eq!(children(world, deaf.pid()).len(), 1, "one that does not look at its connection goes on");
    assert_eq!(busy.rest(), "");
    // The kernel counts in its ticks.
    assert!(begin.elapsed() >= Duration::from_millis(6980), "{:?}", begin.elapsed());
}

fn a_program_that_never_ends_delays_nobody(world: &World) {
    world.policy("permit alice 80\n");
    let script = "read line; echo got $line; test $line = fast || sleep 60";
    let _launcher = world.as_user("alice").spawn(accepting(&["-l", "80"], &["sh", "-c", script]));
    let mut slow = Client::of("127.0.0.1:80");
    slow.say("slow");
    assert_eq!(slow.line(), "got slow");
    let mut mute = Client::of("127.0.0.1:80");
    let begin = Instant::now();
    for _ in 0..10 {
        let mut fast = Client::of("127.0.0.1:80");
        fast.say("fast");
        assert_eq!(fast.rest(), "got fast\n");
    }
    assert!(begin.elapsed() < PATIENCE);
    mute.end();
    assert_eq!(mute.line(), "got");
}

/// Threads have the namespaces of the one that starts them.
fn storm(clients: usize, each: usize) {
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            thread::spawn(move || {
                for _ in 0..each {
                    let mut client = Client::of("127.0.0.1:80");
                    client.say("hello");
                    client.end();
                    assert_eq!(client.rest(), "hello\n");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("every connection was answered");
    }
}

fn a_storm_of_connections_leaves_no_zombie_and_no_descriptor(world: &World) {
    world.policy("permit alice 80\n");
    let options = ["-l", "80", "--max-conns", "8", "--max-per-source", "8", "--idle-timeout", "30"];
    let launcher = world.as_user("alice").spawn(accepting(&options, &["cat"]));
    Client::of("127.0.0.1:80").end();
    // A program is waited for before its connection is closed, so neither tells of the other.
    let has_ended = || children(world, launcher.pid()).is_empty() && world.process(launcher.pid()).sockets().len() == 1;
    within(PATIENCE, "the first has ended", has_ended);
    let before = world.process(launcher.pid()).fds;
    storm(20, 25);
    within(PATIENCE, "all have ended", || children(world, launcher.pid()).is_empty());
    within(PATIENCE, "no descriptor stays", || world.process(launcher.pid()).fds == before);
    let threads = fs::read_dir(format!("/proc/{}/task", launcher.pid())).expect("proc").count();
    // One starts programs, and one writes to standard error.
    assert_eq!(threads, 2);
}

/// Whatever the launcher does when the signal comes: no program is started afterwards, and none is forgotten.
fn an_end_in_a_storm_leaves_no_program(world: &World) {
    world.policy("permit alice 80\n");
    // The same test runs beside this one, for another install.
    let seconds = if world.install() == Install::Setuid { "61.25" } else { "61.5" };
    for _ in 0..5 {
        let options = ["-l", "80", "--max-conns", "1000"];
        let launcher = world.as_user("alice").spawn(accepting(&options, &["sleep", seconds]));
        drop(Client::of("127.0.0.1:80"));
        let storm = thread::spawn(|| {
            // Until nobody listens any more.
            (0..500).map_while(|_| TcpStream::connect("127.0.0.1:80").ok()).collect::<Vec<_>>()
        });
        within(PATIENCE, "some run", || children(world, launcher.pid()).len() > 10);
        launcher.signal(Signal::SIGTERM);
        launcher.wait(PATIENCE).dies_of(Signal::SIGTERM).is_silent();
        storm.join().expect("the storm");
        assert_eq!(asleep(seconds), 0);
        assert_eq!(world.listening(), []);
    }
}

/// How many of these programs there are.
fn asleep(seconds: &str) -> usize {
    let expected = format!("sleep\0{seconds}\0");
    let processes = fs::read_dir("/proc").expect("proc").flatten();
    let command = |process: fs::DirEntry| fs::read(process.path().join("cmdline")).unwrap_or_default();
    processes.map(command).filter(|command| command == expected.as_bytes()).count()
}

fn a_caller_who_ignores_the_end_of_children_leaves_none_either(world: &World) {
    world.policy("permit alice 80\n");
    let caller = world.as_user("alice").ignoring(Signal::SIGCHLD);
    let launcher = caller.spawn(accepting(&["-l", "80", "--max-conns", "1"], &["cat", "/proc/self/status", "-"]));
    for _ in 0..5 {
        let mut client = Client::of("127.0.0.1:80");
        client.say("hello");
        client.end();
        let answer = client.rest();
        assert!(answer.ends_with("\nhello\n"), "the table has room again: {answer}");
        assert_eq!(signals(&answer, "SigIgn"), 0, "the program can wait for children of its own");
    }
    within(PATIENCE, "all have ended", || children(world, launcher.pid()).is_empty());
}

fn connections_wait_where_descriptors_run_out(world: &World) {
    world.policy("permit alice 80\n");
    let caller = world.as_user("alice").limit(Resource::RLIMIT_NOFILE, 9);
    let launcher = caller.spawn(accepting(&["-l", "80", "--idle-timeout", "60"], &["cat"]));
    let mut clients: Vec<Client> = (0..8).map(|_| Client::of("127.0.0.1:80")).collect();
    for client in &mut clients {
        client.say("hello");
        client.end();
        assert_eq!(client.rest(), "hello\n");
    }
    let mut open: Vec<Client> = (0..8).map(|_| Client::of("127.0.0.1:80")).collect();
    within(PATIENCE, "they run out", || launcher.output().1.contains("connections have to wait"));
    for client in &mut open {
        client.say("hello");
        client.end();
    }
    for client in &mut open {
        assert_eq!(client.rest(), "hello\n", "it was kept waiting, not dropped");
    }
}

fn an_end_is_passed_on_and_leaves_nothing(world: &World) {
    world.policy("permit alice 80\n");
    let script =
        "trap 'echo told; exit 3' TERM INT HUP QUIT; trap 'echo usr1' USR1; echo ready; while :; do sleep 0.02; done";
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let launcher = world.as_user("alice").spawn(accepting(&["-l", "80"], &["sh", "-c", script]));
        let (mut first, mut second) = (Client::of("127.0.0.1:80"), Client::of("127.0.0.1:80"));
        assert_eq!((first.line(), second.line()), ("ready".to_owned(), "ready".to_owned()));
        launcher.signal(Signal::SIGUSR1);
        assert_eq!((first.line(), second.line()), ("usr1".to_owned(), "usr1".to_owned()));
        launcher.signal(signal);
        assert_eq!((first.rest(), second.rest()), ("told\n".to_owned(), "told\n".to_owned()));
        launcher.wait(PATIENCE).dies_of(signal).is_silent();
        assert_eq!(world.listening(), []);
    }
    // With nothing running it ends at once.
    let launcher = world.as_user("alice").spawn(accepting(&["-l", "80"], &["true"]));
    Client::of("127.0.0.1:80").rest();
    launcher.signal(Signal::SIGTERM);
    launcher.wait(PATIENCE).dies_of(Signal::SIGTERM);
}

fn programs_that_do_not_end_are_killed(world: &World) {
    world.policy("permit alice 80\n");
    let script = "trap '' TERM INT; echo $$; while :; do sleep 0.02; done";
    for again in [true, false] {
        let launcher = world.as_user("alice").spawn(accepting(&["-l", "80"], &["sh", "-c", script]));
        let mut client = Client::of("127.0.0.1:80");
        let pid = client.line();
        let begin = Instant::now();
        launcher.signal(Signal::SIGTERM);
        within(PATIENCE, "nothing listens", || world.listening().is_empty());
        let is_there = || fs::exists(format!("/proc/{pid}")).expect("proc");
        assert!(is_there() || begin.elapsed() > Duration::from_secs(4), "it has time to end");
        if again {
            launcher.signal(Signal::SIGTERM);
        }
        launcher.wait(PATIENCE).dies_of(Signal::SIGTERM);
        within(PATIENCE, "it was killed", || !is_there());
        assert!(again || begin.elapsed() >= Duration::from_secs(5), "{:?}", begin.elapsed());
    }
}

fn what_the_caller_ignores_or_blocks_does_not_end_it(world: &World) {
    world.policy("permit alice 80\n");
    let mut launcher = world.as_user("alice").ignoring(Signal::SIGHUP).spawn(accepting(&["-l", "80"], &["cat"]));
    Client::of("127.0.0.1:80").end();
    launcher.signal(Signal::SIGHUP);
    let mut client = Client::of("127.0.0.1:80");
    client.say("hello");
    assert_eq!(client.line(), "hello");
    assert!(launcher.is_alive(), "as under nohup");
}

fn programs_outlive_a_launcher_that_is_killed(world: &World) {
    world.policy("permit alice 80\n");
    let launcher = world.as_user("alice").spawn(accepting(&["-l", "80"], &["cat"]));
    let mut client = Client::of("127.0.0.1:80");
    client.say("hello");
    assert_eq!(client.line(), "hello");
    launcher.signal(Signal::SIGKILL);
    launcher.wait(PATIENCE).dies_of(Signal::SIGKILL);
    assert_eq!(world.listening(), []);
    client.say("still");
    assert_eq!(client.line(), "still");
}

fn a_program_that_goes_missing_is_told_and_may_come_back(world: &World) {
    world.policy("permit alice 80\n");
    fs::copy("/usr/bin/cat", "/tmp/server").expect("cp");
    let launcher = world.as_user("alice").spawn(accepting(&["-l", "80"], &["/tmp/server"]));
    Client::of("127.0.0.1:80").end();
    fs::rename("/tmp/server", "/tmp/away").expect("mv");
    for _ in 0..5 {
        assert_eq!(Client::of("127.0.0.1:80").rest(), "");
    }
    within(PATIENCE, "it tells", || launcher.output().1.ends_with("path\n"));
    let (_, said) = launcher.output();
    assert_eq!(
        said,
        "portgrant: '/tmp/server' was not found\n  why: there is no such file\n  \
        fix: name a program along PATH, or its path\n"
    );
    fs::rename("/tmp/away", "/tmp/server").expect("mv");
    let mut client = Client::of("127.0.0.1:80");
    client.say("hello");
    assert_eq!(client.line(), "hello");
}

fn what_cannot_be_executed_is_told_before_anything_is_asked(world: &World) {
    world.policy("permit alice 80\n");
    let log = world.syslog();
    world.file("/tmp/script", "#!/no/such/interpreter -x\n");
    fs::set_permissions("/tmp/script", std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    for (program, status, reason) in [
        ("no-such-program", 127, "no-such-program"),
        ("/tmp/script", 127, "/no/such/interpreter"),
        ("/etc", 126, "/etc"),
        ("/etc/passwd", 126, "/etc/passwd"),
    ] {
        world.as_user("alice").run(accepting(&["-l", "80"], &[program])).exits(status).complains(reason);
    }
    assert_eq!(log.lines(), Vec::<String>::new());
    assert_eq!(world.listening(), []);
}

fn a_rule_bound_to_a_program_is_refused(world: &World) {
    world.policy("permit alice 80 exec /usr/bin/cat\n");
    let outcome = world.as_user("alice").run(accepting(&["-l", "80"], &["/usr/bin/cat"]));
    outcome.exits(77).complains("80/tcp is refused for alice").complains("the rule is for /usr/bin/cat");
    outcome.complains("fix: leave out --accept, or remove exec from the rule");
    assert_eq!(world.listening(), []);
}

fn its_options_are_refused_without_it(world: &World) {
    let wrong: [(&[&str], &str); 7] = [
        (&["--max-conns", "3"], "--max-conns needs --accept"),
        (&["--max-per-source", "3"], "--max-per-source needs --accept"),
        (&["--idle-timeout", "3"], "--idle-timeout needs --accept"),
        (&["--accept", "--max-conns", "0"], "'0' is not a valid value for --max-conns"),
        (&["--accept", "--idle-timeout", "soon"], "'soon' is not a valid value for --idle-timeout"),
        (&["--accept", "--inetd"], "--inetd cannot be used with --accept"),
        (&["--accept", "--idle-timeout", "3", "-l", "81/sctp"], "--idle-timeout cannot be used with 81/sctp"),
    ];
    for (words, expected) in wrong {
        let words = [&[LAUNCHER, "exec", "-l", "80"], words, &["--", "true"]].concat();
        world.as_user("alice").run(words).exits(64).complains(expected);
    }
}

fn each_step_is_told_as_tcpserver_tells_it(world: &World) {
    world.policy("permit alice 80\n");
    let launcher =
        world.as_user("alice").spawn(accepting(&["-v", "-l", "80"], &["sh", "-c", "echo $$; read x; exit 7"]));
    let mut client = Client::of("127.0.0.1:80");
    let (pid, port) = (client.line(), client.0.get_ref().local_addr().expect("an address").port());
    client.end();
    let said = |launcher: &Running| launcher.output().1;
    let ended = format!("portgrant: end {pid} status 7\nportgrant: status: 0/40\n");
    within(PATIENCE, "it tells the end", || said(&launcher).contains(&ended));
    let begun = format!(
        "portgrant: status: 1/40\nportgrant: pid {pid} from 127.0.0.1\nportgrant: ok {pid} 127.0.0.1:80 - 127.0.0.1:{port}\n"
    );
    assert!(said(&launcher).contains(&begun), "{}", said(&launcher));
}

/// A name server for clients at 192.0.2.7 and .8, which are addresses of this host.
fn name_server(world: &World) -> Running {
    for address in ["192.0.2.7/32", "192.0.2.8/32", "192.0.2.9/32"] {
        world.as_root().run(["ip", "address", "add", address, "dev", "lo"]).succeeds();
    }
    world.file("/etc/resolv.conf", "nameserver 127.0.0.1\n");
    world.file("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n192.0.2.9 box.example.test\n");
    let words = "dnsmasq --keep-in-foreground --user=root --listen-address=127.0.0.1 --bind-interfaces --no-resolv \
        --no-hosts --host-record=client.example.test,192.0.2.7 --ptr-record=8.2.0.192.in-addr.arpa,bank.example.test \
        --host-record=bank.example.test,192.0.2.99";
    let server = world.as_root().spawn(words.split(' '));
    within(PATIENCE, "the name server answers", || TcpStream::connect("127.0.0.1:53").is_ok());
    server
}

fn a_name_is_told_where_it_has_the_address(world: &World) {
    world.policy("permit alice 80 81\n");
    let _server = name_server(world);
    let caller = || world.as_user("alice").env("TCPREMOTEHOST", "trusted.example.test");
    let looking = caller().spawn(accepting(&["-v", "-l", "80", "--no-lookup", "--lookup"], &["env"]));
    let _not = caller().spawn(accepting(&["-l", "81", "--lookup", "--no-lookup"], &["env"]));
    for port in [80, 81] {
        drop(Client::of(&format!("127.0.0.1:{port}")));
    }
    for (address, name) in [
        ("192.0.2.7", Some("client.example.test")),
        ("192.0.2.8", None),
        ("192.0.2.9", Some("box.example.test")),
        ("127.0.0.1", Some("localhost")),
    ] {
        let environment = Client::from(address, "127.0.0.1:80").rest();
        let told = environment.lines().find_map(|line| line.strip_prefix("TCPREMOTEHOST="));
        assert_eq!(told, name, "{environment}");
        assert!(environment.contains("\nTCPLOCALHOST=localhost\n"), "{environment}");
        let without = Client::from(address, "127.0.0.1:81").rest();
        assert!(without.contains("\nTCPREMOTEIP=") && !without.contains("HOST="), "{without}");
    }
    let said = looking.output().1;
    assert!(said.contains("lookup: unconfirmed name 'bank.example.test'"), "{said}");
    assert!(said.contains("127.0.0.1:80 client.example.test 192.0.2.7:"), "{said}");
}

fn a_name_server_that_does_not_answer_delays_its_clients_only(world: &World) {
    world.policy("permit alice 80\n");
    world.as_root().run(["ip", "address", "add", "192.0.2.7/32", "dev", "lo"]).succeeds();
    world.file("/etc/resolv.conf", "nameserver 127.0.0.1\n");
    let _silent = std::net::UdpSocket::bind("127.0.0.1:53").expect("a socket");
    let launcher = world.as_user("alice").spawn(accepting(&["-l", "80", "--lookup", "--max-conns", "2"], &["env"]));
    assert!(Client::of("127.0.0.1:80").rest().contains("TCPREMOTEHOST=localhost"));
    let begin = Instant::now();
    let mut slow = Client::from("192.0.2.7", "127.0.0.1:80");
    for _ in 0..10 {
        assert!(Client::of("127.0.0.1:80").rest().contains("TCPREMOTEHOST=localhost"));
    }
    let is_over = begin.elapsed() > Duration::from_secs(4);
    assert!(is_over || slow.is_silent_for(Duration::from_millis(200)), "it is waited for");
    let environment = slow.rest();
    assert!(environment.contains("TCPREMOTEIP=192.0.2.7\n") && !environment.contains("REMOTEHOST"), "{environment}");
    assert!(begin.elapsed() >= Duration::from_secs(4), "{:?}", begin.elapsed());

    let mut given_up = Client::from("192.0.2.7", "127.0.0.1:80");
    launcher.signal(Signal::SIGTERM);
    launcher.wait(PATIENCE).dies_of(Signal::SIGTERM);
    let _ = given_up.0.read_to_string(&mut String::new());
}
