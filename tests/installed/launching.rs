//! The launcher keeps what the helper promises: the program gets the same, and a hostile caller the same answer.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use portgrant_tests::{BINDER, LAUNCHER, Process, Resource, Signal, World, both_installs, http_get};

both_installs![
    through_the_launcher_the_program_inherits_everything_from_its_caller,
    refusals_are_printed_in_three_lines_and_nothing_is_bound,
    a_wrong_word_is_a_usage_error_at_once,
    a_program_that_cannot_be_executed_is_reported_before_anything_is_asked,
    the_launcher_handles_hostile_callers,
    a_helper_that_is_missing_or_without_privilege_is_reported,
    explain_decides_as_the_helper_does,
    the_launcher_supports_inetd_and_no_new_privs,
    a_server_of_the_crate_is_started_by_the_launcher_or_asks_for_itself,
    a_hundred_starts_leave_no_zombie_and_no_descriptor,
];

const EXEC: [&str; 5] = [LAUNCHER, "exec", "-l", "80", "--"];

fn exec<'a>(program: &[&'a str]) -> Vec<&'a str> {
    [&EXEC[..], program].concat()
}

/// PG-2, PG-3
fn through_the_launcher_the_program_inherits_everything_from_its_caller(world: &World) {
    world.policy("permit bob 80 443/udp\n");
    let caller = world.as_user("bob").groups(&[7, 2000]).umask(0o027).folder("/home/bob");
    let caller = caller.ignoring(Signal::SIGPIPE).ignoring(Signal::SIGCHLD).blocking_all_signals();
    let caller = caller.env("RUST_LOG", "trace").env("TMPDIR", "/tmp/x").env("ODD", "a=b\u{fc}\n");
    let caller = caller.env("LISTEN_PIDFDID", "5").fd(9, File::open("/etc/passwd").expect("open"));

    let words = [LAUNCHER, "exec", "-l", "w=80", "-l", "443/udp", "--", "sleep", "60"];
    let sleep = caller.spawn(words);

    let process = world.process_at_rest(sleep.pid());
    assert_eq!((process.uids, process.gids), ([1001; 4], [1001; 4]));
    assert_eq!(process.groups, [7, 2000].into());
    assert!(process.is_powerless() && !process.no_new_privs, "{process:?}");
    assert_eq!(process.ignored, [Signal::SIGPIPE, Signal::SIGCHLD].into());
    assert!(process.blocked.contains(&Signal::SIGTERM));
    assert_eq!((process.umask, process.folder.as_path()), (0o027, Path::new("/home/bob")));
    assert_eq!(process.fds.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 9]);
    assert_eq!(process.sockets(), [3, 4]);
    let variable = |name| Process::variable(sleep.pid(), name);
    assert_eq!(variable("LISTEN_PID"), Some(sleep.pid().to_string()));
    assert_eq!(variable("LISTEN_FDNAMES").as_deref(), Some("w:443/udp"));
    assert_eq!((variable("LISTEN_PIDFDID"), variable("ODD").as_deref()), (None, Some("a=b\u{fc}\n")));
    assert_eq!((variable("RUST_LOG").as_deref(), variable("TMPDIR").as_deref()), (Some("trace"), Some("/tmp/x")));
    drop(sleep);
    let plain = world.as_user("bob").run(exec(&["grep", "SigIgn", "/proc/self/status"]));
    plain.succeeds().prints("SigIgn:\t0000000000000000");
}

fn refusals_are_printed_in_three_lines_and_nothing_is_bound(world: &World) {
    world.policy("permit bob 80\npermit alice 25 exec /usr/bin/id\n");
    let refused = world.as_user("alice").run(exec(&["touch", "/tmp/ran"]));
    refused.exits(77);
    assert_eq!(
        refused.stderr,
        "portgrant: 80/tcp is refused for alice (uid 1000)\n  \
         why: none of the 2 rules in /etc/portgrant.conf and /etc/portgrant.d permits it\n  \
         fix: as root, add  permit alice 80  to /etc/portgrant.d/alice.conf\n"
    );
    world.as_user("alice").run([LAUNCHER, "exec", "-l", "25", "--", "id", "-u"]).succeeds().prints("1000\n");
    let other = world.as_user("alice").run([LAUNCHER, "exec", "-l", "25", "--", "touch", "/tmp/ran"]);
    other.exits(77).complains("/usr/bin/id").complains("/usr/bin/touch");
    world.policy("permit alice 80\npermit alice\n");
    world.as_user("alice").run(exec(&["touch", "/tmp/ran"])).exits(78).complains("/etc/portgrant.conf:2:13");
    assert!(!fs::exists("/tmp/ran").expect("stat"));
    assert_eq!(world.listening(), []);
}

fn a_wrong_word_is_a_usage_error_at_once(world: &World) {
    // There is not even a policy: a wrong word is reported first.
    let wrong: [(&[&str], &str); 9] = [
        (&["exec", "-l", "0", "--", "true"], "'0' is not a valid port"),
        (&["exec", "-l", "-1", "--", "true"], "'-1' is not a valid port"),
        (&["exec", "-l", "80,nodelay", "--", "true"], "'nodelay' is not a valid option"),
        (&["exec", "-l", "80,v6only,v6only", "--", "true"], "'v6only' is given twice"),
        (&["exec", "-l", "80"], "no program is given"),
        (&["exec", "--", "true"], "no endpoint is given"),
        (&["exec", "-l", "80", "--frob", "--", "true"], "'--frob'"),
        (&["exce"], "'exce' is not a command"),
        (&[], "no command is given"),
    ];
    for (words, expected) in wrong {
        let outcome = world.as_user("alice").run([&[LAUNCHER], words].concat());
        outcome.exits(64).complains(expected);
    }
    let long = "x".repeat(64 << 10);
    world.as_user("alice").run([LAUNCHER, "exec", "-l", &long, "--", "true"]).exits(64).complains("65536 bytes");
}

fn a_program_that_cannot_be_executed_is_reported_before_anything_is_asked(world: &World) {
    world.policy("permit alice 80\n");
    let log = world.syslog();
    for (program, status) in [("no-such-program", 127), ("/etc", 126), ("/etc/passwd", 126)] {
        world.as_user("alice").run(exec(&[program])).exits(status).complains(program);
    }
    assert_eq!(log.lines(), Vec::<String>::new());
    world.as_user("alice").run(exec(&["true"])).succeeds();
    assert!(log.lines()[0].contains("verb=pass endpoint=80/tcp"), "{log:?}");
}

/// PG-3, PG-4, PG-7
fn the_launcher_handles_hostile_callers(world: &World) {
    world.policy("permit alice 80\n");
    let alice = || world.as_user("alice");
    let served = exec(&["printf", "served"]);
    alice().without_argv().run([LAUNCHER]).exits(64);
    for closed in [&[0][..], &[2], &[0, 2]] {
        let caller = closed.iter().fold(alice(), |caller, &number| caller.closing(number));
        let sleep = caller.spawn(exec(&["sleep", "60"]));
        let process = world.process_at_rest(sleep.pid());
        assert_eq!(process.sockets(), [3]);
        assert!(closed.iter().all(|number| !process.fds.contains_key(number)), "{closed:?}: {:?}", process.fds);
    }
    alice().ignoring(Signal::SIGCHLD).ignoring(Signal::SIGPIPE).run(&served).succeeds().prints("served");
    alice().blocking_all_signals().run(&served).succeeds().prints("served");
    alice().in_a_deleted_folder().run(&served).succeeds().prints("served");
    alice().limit(Resource::RLIMIT_FSIZE, 0).run(&served).succeeds().prints("served");
    for limit in [3, 4, 5, 6] {
        let outcome = alice().limit(Resource::RLIMIT_NOFILE, limit).run(&served);
        let clear = outcome.stderr.contains("why: ") || outcome.stderr.contains("error while loading shared libraries");
        assert!(if outcome.status.success() { outcome.stdout == "served" } else { clear }, "{limit}: {outcome}");
    }
    // No second process may be: the helper cannot be asked, and that is said.
    let outcome = alice().limit(Resource::RLIMIT_NPROC, 1).run(&served);
    assert!(outcome.stdout == "served" || outcome.stderr.contains("why: "), "{outcome}");
    let hostile =
        alice().env("LISTEN_FDS", "7").env("RUST_BACKTRACE", "full").env("PATH", ".").env("RUST_LOG", "trace");
    hostile.run(exec(&["/usr/bin/printf", "served"])).succeeds().prints("served");
    let taken = alice().fd(3, File::open("/etc/passwd").expect("open")).run(&served);
    taken.exits(64).complains("descriptor 3 is open already");
    assert_eq!(world.listening(), []);
}

fn a_helper_that_is_missing_or_without_privilege_is_reported(world: &World) {
    world.policy("permit alice 80\n");
    world.as_user("alice").no_new_privs().run(exec(&["true"])).exits(78).complains("no_new_privs is set");
    let own = || world.as_user("alice").env("PORTGRANT_BINDER", "/no/such/helper");
    let outcome = own().run(exec(&["true"]));
    outcome.complains("/no/such/helper").complains("fix: ");
    assert!(matches!(outcome.status.code(), Some(71 | 78)), "{outcome}");
    fs::rename(BINDER, "/usr/libexec/away").expect("mv");
    let outcome = world.as_user("alice").run(exec(&["true"]));
    outcome.complains(BINDER).complains("fix: ");
    assert!(matches!(outcome.status.code(), Some(71 | 78)), "{outcome}");
}

fn explain_decides_as_the_helper_does(world: &World) {
    world.policy("permit alice 80 81/udp\npermit alice 90-99 on 127.0.0.0/8\npermit :web 82\ndeny alice 95\n");
    let asked =
        ["80", "80/udp", "81/udp", "127.0.0.1:90", "0.0.0.0:90", "127.0.0.1:95", "82", "80,reuseport", "[::1]:80"];
    let mut permitted = 0;
    for user in ["alice", "bob"] {
        for endpoint in asked {
            let helper = world.as_user(user).run([BINDER, "exec", "-l", endpoint, "--", "true"]);
            let explained = world.as_user(user).run([LAUNCHER, "explain", endpoint]);
            assert_eq!(explained.status.code(), helper.status.code(), "{user} {endpoint}: {explained}{helper}");
            permitted += usize::from(helper.status.success());
        }
    }
    assert_eq!(permitted, 5);
}

fn the_launcher_supports_inetd_and_no_new_privs(world: &World) {
    world.policy("permit alice 80\npermit bob 80 exec /usr/bin/sleep\n");
    for user in ["alice", "bob"] {
        let words = [LAUNCHER, "exec", "--inetd", "--no-new-privs", "-l", "80", "--", "sleep", "60"];
        let sleep = world.as_user(user).env("LISTEN_FDS", "3").spawn(words);
        let process = world.process_at_rest(sleep.pid());
        assert_eq!(process.fds.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!((process.sockets(), process.no_new_privs), (vec![0, 1], true));
        assert_eq!(Process::variable(sleep.pid(), "LISTEN_FDS"), None);
    }
}

fn a_server_of_the_crate_is_started_by_the_launcher_or_asks_for_itself(world: &World) {
    world.policy("permit alice 80\n");
    let starts: [&[&str]; 4] = [
        &[LAUNCHER, "exec", "-l", "80", "--", "hello"],
        &[LAUNCHER, "exec", "--inetd", "-l", "80", "--", "hello", "--inetd"],
        &[BINDER, "exec", "-l", "0.0.0.0:80", "--", "hello"],
        &["hello", "127.0.0.1:80"],
    ];
    for words in starts {
        let hello = world.as_user("alice").spawn(words);
        let answer = http_get("127.0.0.1:80", "/");
        assert!(answer.contains("hello from uid 1000 at 127.0.0.1:80"), "{words:?}: {answer}");
        assert!(world.process(hello.pid()).is_powerless());
        // The client's connection goes, the listener stays.
        let deadline = Instant::now() + Duration::from_secs(10);
        while world.process(hello.pid()).sockets().len() != 1 {
            assert!(Instant::now() < deadline, "{words:?}: {:?}", world.process(hello.pid()).fds);
        }
    }
    world.as_user("bob").run(["hello", "80"]).exits(77).complains("80/tcp is refused for bob");
}

fn a_hundred_starts_leave_no_zombie_and_no_descriptor(world: &World) {
    world.policy("permit alice 80\n");
    let script = "set -- /proc/$$/fd/*; before=$#; for i in $(seq 100); do portgrant exec -l 80 -- true || exit 1; done; \
        ps -o stat= --ppid $$ | grep -c Z; set -- /proc/$$/fd/*; echo $(($# - before))";
    world.as_user("alice").run(["sh", "-c", script]).succeeds().prints("0\n0\n");
    assert_eq!(world.listening(), []);
}
