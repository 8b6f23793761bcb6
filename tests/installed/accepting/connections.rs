//! What a program gets with its connection, and how many there are at once.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use portgrant_tests::{LAUNCHER, Process, Resource, Running, Signal, World, both_installs};

use super::*;

both_installs![
    a_program_gets_its_connection_and_what_the_caller_had,
    the_variables_describe_the_client_and_ignore_the_callers_values,
    connections_wait_while_the_table_is_full,
    a_source_at_its_limit_is_refused_and_others_are_served,
    clients_that_may_not_connect_are_closed_and_the_reason_is_reported,
    too_many_connections_in_a_second_wait_and_none_is_lost,
    an_idle_connection_is_ended_and_a_busy_one_is_not,
    a_program_that_never_ends_delays_no_other_client,
    connections_wait_while_descriptors_are_used_up,
    a_missing_program_is_reported_and_served_again_when_it_returns,
    a_program_that_cannot_be_executed_is_reported_before_the_helper_runs,
    a_rule_bound_to_a_program_is_refused,
    options_of_accept_are_refused_without_it,
    each_step_is_printed_as_tcpserver_prints_it,
];

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

fn the_variables_describe_the_client_and_ignore_the_callers_values(world: &World) {
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

fn connections_wait_while_the_table_is_full(world: &World) {
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

fn a_source_at_its_limit_is_refused_and_others_are_served(world: &World) {
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

fn a_program_that_never_ends_delays_no_other_client(world: &World) {
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

fn connections_wait_while_descriptors_are_used_up(world: &World) {
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

fn a_missing_program_is_reported_and_served_again_when_it_returns(world: &World) {
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
        fix: name a program in PATH, or its path\n"
    );
    fs::rename("/tmp/away", "/tmp/server").expect("mv");
    let mut client = Client::of("127.0.0.1:80");
    client.say("hello");
    assert_eq!(client.line(), "hello");
}

fn a_program_that_cannot_be_executed_is_reported_before_the_helper_runs(world: &World) {
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
    outcome.complains("fix: leave out --accept; or as root, remove exec from the rule");
    assert_eq!(world.listening(), []);
}

fn options_of_accept_are_refused_without_it(world: &World) {
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

fn each_step_is_printed_as_tcpserver_prints_it(world: &World) {
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
