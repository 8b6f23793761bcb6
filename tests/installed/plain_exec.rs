//! A plain `exec` is done by `portgrant-front`, installed as `portgrant`, and everything else by the launcher that it executes.
//! Whichever does it, all is the same: status, output, the program's world, the log.

use std::fs::File;
use std::net::TcpListener;

use portgrant_tests::{BINDER, Caller, LAUNCHER, LAUNCHER_ITSELF, Signal, Syslog, World, both_installs};

both_installs![
    a_plain_exec_is_what_the_launcher_makes_of_it,
    a_plain_exec_executes_the_helper_once_and_the_launcher_only_to_report,
    a_system_call_that_fails_leaves_the_exec_to_the_launcher,
];

/// What a program sees of itself, without what differs from start to start.
const LOOK: &str = "env | grep -v '^LISTEN_PID=' | sort; echo \"$0 $*\"; [ \"$LISTEN_PID\" = $$ ] && echo own
    ls /proc/self/fd; grep -E '^(Uid|Gid|Groups|Sig(Blk|Ign|Cgt)|Cap|NoNewPrivs)' /proc/self/status; pwd; umask
    cat /proc/self/personality; ulimit -s";

/// How both programs do `words`: status, output and the new lines of the log.
fn both(
    syslog: &Syslog,
    words: &[&str],
    caller: &dyn Fn() -> Caller,
) -> [(Option<i32>, String, String, Vec<String>); 2] {
    [LAUNCHER, LAUNCHER_ITSELF].map(|program| {
        let before = syslog.lines().len();
        let outcome = caller().run([&[program], words].concat());
        // Behind the pid of the helper.
        let text = |line: &String| line.split_once("]: ").map_or(line.clone(), |(_, text)| text.to_owned());
        let lines = syslog.lines().iter().skip(before).map(text).collect();
        (outcome.status.code(), outcome.stdout, outcome.stderr, lines)
    })
}

fn a_plain_exec_is_what_the_launcher_makes_of_it(world: &World) {
    world.policy(
        "permit alice 80 443/udp 81 82\npermit alice 25 exec /usr/bin/dash\npermit alice 26 exec /usr/bin/id\n\
         permit alice 512-600 reserved\n",
    );
    world.file("/tmp/odd", "echo this has no interpreter\n");
    world.file("/tmp/script", "#!/no/such/interpreter\n");
    world.as_root().run(["chmod", "0755", "/tmp/odd", "/tmp/script"]).succeeds();
    let _held = TcpListener::bind("127.0.0.1:82").expect("bound");
    let alice = || world.as_user("alice").env("ODD", "a=b\u{fc}").env("LISTEN_FDS", "7").env("LISTEN_PIDFDID", "1");
    let look = ["sh", "-c", LOOK, "x", "--", "-l"];
    let lines: &[&[&str]] = &[
        // What the front does.
        &["exec", "-l", "80", "--"],
        &["exec", "-l", "w=127.0.0.1:80,tos=16", "--listen", "443/udp", "--no-new-privs"],
        &["exec", "--inetd", "-l", "[::1]:80"],
        &["exec", "-l", "25"],
        &["exec", "--inetd", "--no-new-privs", "-l", "25", "--"],
        // What is refused, or cannot be.
        &["exec", "-l", "26"],
        &["exec", "-l", "83"],
        &["exec", "-l", "82"],
        &["exec", "-l", "127.0.0.1:82"],
        &["exec", "-l", "10.1.2.3:80"],
        &["exec", "-l", "80,reuseport"],
        &["exec", "-l", "80", "-l", "0.0.0.0:80"],
        // What the launcher does.
        &["exec", "-l", "http"],
        &["exec", "-l", "8080"],
        &["exec", "-l", "80", "-l", "8080"],
        &["exec", "-l", "each:443/udp"],
        &["exec", "-l", "80", "--setenv", "A=1", "--"],
        &["exec", "-l", "80", "--first-fd", "5"],
        // Mistakes.
        &["exec", "-l", "80", "-l", "80"],
        &["exec", "--inetd", "-l", "80", "-l", "81"],
        &["exec", "-l", "0"],
        &["exec", "-l"],
        &["exec", "-l", "80", "--no-such-option", "--"],
        &["exec", "80"],
    ];
    let (syslog, mut count) = (world.syslog(), 0);
    let mut same = |words: &[&str], caller: &dyn Fn() -> Caller| {
        let [front, launcher] = both(&syslog, words, caller);
        assert_eq!(front, launcher, "{words:?}");
        count += 1;
    };
    for words in lines {
        same(&[words, &look[..]].concat(), &alice);
    }
    let plain = |program: &'static str| ["exec", "-l", "80", "--", program, "{fd}"];
    for program in ["/tmp/odd", "/tmp/script", "/etc/passwd", "/tmp", "nosuchprogram", "", "echo"] {
        same(&plain(program), &alice);
    }
    let words = [&["exec", "-l", "80", "--"], &look[..]].concat();
    same(&words, &|| alice().closing(0).closing(1));
    same(&words, &|| alice().closing(2).fd(4, File::open("/etc/passwd").expect("open")));
    same(&words, &|| alice().fd(3, File::open("/etc/passwd").expect("open")));
    same(&words, &|| alice().env("PORTGRANT_BINDER", BINDER));
    same(&words, &|| alice().env("PORTGRANT_BINDER", "relative"));
    same(&words, &|| alice().env("PATH", "/nowhere"));
    same(&words, &|| alice().no_env());
    same(&words, &|| alice().ignoring(Signal::SIGCHLD).blocking_all_signals());
    same(&words, &|| world.as_root());
    for start in ["80", "81", "0", "1024"] {
        std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", start).expect("the world's own sysctl");
        same(&words, &alice);
    }
    world.policy("permit alice\n");
    same(&words, &alice);
    world.policy("permit alice 80\n");
    let _ = world.as_root().run(["setcap", "-r", BINDER]);
    world.as_root().run(["chmod", "0755", BINDER]).succeeds();
    same(&words, &alice);
    world.as_root().run(["chmod", "0644", BINDER]).succeeds();
    same(&words, &alice);
    world.as_root().run(["rm", BINDER]).succeeds();
    same(&words, &alice);
    assert!(count > 45, "{count}");
}

/// No program is started for nothing, and no message comes from a second attempt.
fn a_plain_exec_executes_the_helper_once_and_the_launcher_only_to_report(world: &World) {
    world.policy("permit alice 80\n");
    let executed = |words: &[&str]| {
        let trace = ["strace", "-f", "-o", "/tmp/trace", "-e", "trace=execve", "-s", "200"];
        let _ = world.as_user("alice").run([&trace[..], &[LAUNCHER], words].concat());
        let trace = std::fs::read_to_string("/tmp/trace").expect("a trace");
        let programs = trace.lines().filter_map(|line| line.split("execve(\"").nth(1)?.split('"').next());
        programs.map(|path| path.rsplit('/').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    // The helper has no privilege under strace, and says so.
    assert_eq!(executed(&["exec", "-l", "80", "--", "true"]), ["portgrant", "portgrant-binder", "portgrant"]);
    let trace = std::fs::read_to_string("/tmp/trace").expect("a trace");
    assert!(trace.contains("\"answer\", \"PORTGRANT=1\\nSTATUS=78\\nKIND=no-privilege"), "{trace}");
    assert_eq!(executed(&["exec", "-l", "81", "--", "true"]), ["portgrant", "portgrant-binder", "portgrant"]);
    assert_eq!(executed(&["exec", "-l", "8080", "--", "true"]), ["portgrant", "portgrant", "true"]);
    assert_eq!(executed(&["--version"]), ["portgrant", "portgrant"]);
}

/// Each call that may fail: what comes of it is the same.
fn a_system_call_that_fails_leaves_the_exec_to_the_launcher(world: &World) {
    // How often the front makes it at least: what follows is the program's.
    const FAULTS: [(&str, &str, usize); 11] = [
        ("readlinkat", "ENOENT", 1),
        ("newfstatat", "EACCES", 2),
        ("open", "EMFILE", 2),
        ("read", "EIO", 1),
        ("fcntl", "EMFILE", 3),
        ("capget", "EPERM", 1),
        ("socketpair", "EMFILE", 1),
        ("clone", "EAGAIN", 1),
        ("recvmsg", "EIO", 1),
        ("getsockname", "ENOBUFS", 1),
        ("wait4", "ECHILD", 1),
    ];
    world.policy("permit alice 80\n");
    for (call, error, most) in FAULTS {
        for when in 1..=most {
            let fault = format!("inject={call}:error={error}:when={when}");
            // Only the first process: a helper that is traced has no privilege.
            let strace = ["strace", "-o", "/tmp/trace", "-e", &fault, LAUNCHER];
            let exec = ["exec", "-l", "80", "--", "sh", "-c", "[ $LISTEN_PID = $$ ] && echo $LISTEN_FDS /proc/$$/fd/3"];
            world.as_user("alice").run([&strace[..], &exec].concat()).succeeds().prints("1 /proc/");
        }
    }
    assert_eq!(world.listening(), []);
}
