//! The installed program, with scripts in place of the helper, so that no privilege is needed.

#[path = "../../server/tests/stand_in/mod.rs"]
mod stand_in;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output};

use stand_in::{Folder, free_port};

const PORTGRANT: &str = env!("CARGO_BIN_EXE_portgrant");

fn portgrant(helper: &Path) -> Command {
    let mut command = Command::new(PORTGRANT);
    command.env("PORTGRANT_BINDER", helper);
    command
}

/// A shell that runs `script`, in which "$0" is the launcher.
fn shell(helper: &Path, script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, PORTGRANT]).env("PORTGRANT_BINDER", helper);
    command
}

/// Exit status, standard output, standard error.
fn outcome(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code().expect("it ends by itself"), text(stdout), text(stderr))
}

/// A helper that creates a file when it runs, and the file.
fn tracing_helper(folder: &Folder) -> (std::path::PathBuf, std::path::PathBuf) {
    let trace = folder.join("was-run");
    (folder.script("tracing", &format!("echo \"$*\" >>'{}'; exit 71", trace.display())), trace)
}

#[test]
fn a_wrong_command_line_exits_with_64_and_names_the_word() {
    const WRONG: &[(&[&str], &str, &str)] = &[
        (&[], "no command", "exec, run"),
        (&["xyzzy"], "'xyzzy' is not a command", "exec, run"),
        (&["exec"], "no endpoint", "-l ENDPOINT"),
        (&["exec", "-l"], "--listen <ENDPOINT> needs a value", "--help"),
        (&["exec", "-l", "80"], "no program", "PROGRAM [ARG...]"),
        (&["exec", "-l", "80", "--"], "no program", "PROGRAM [ARG...]"),
        (&["exec", "--", "true"], "no endpoint", "-l ENDPOINT"),
        (&["exec", "-l", "80", "--quick", "--", "true"], "'--quick' is not an option here", "--help"),
        (&["exec", "-l", "80", "--inetd", "--inetd", "--", "true"], "--inetd is given twice", "leave out one --inetd"),
        (&["exec", "-l", "80", "-l", "81", "--inetd", "--", "true"], "one -l ENDPOINT, not 2", "descriptor 0"),
        (&["exec", "-l", "each:69/udp", "--inetd", "--", "true"], "'each'", "one socket"),
        (&["explain"], "no endpoint", "expected ENDPOINT"),
        (&["exec", "-l", "0", "--", "true"], "'0' is not a valid port", "1 to 65535"),
        (&["exec", "-l", "65536", "--", "true"], "'65536' is not a valid port", "1 to 65535"),
        (&["exec", "-l", "-1", "--", "true"], "'-1' is not a valid port", "1 to 65535"),
        (&["explain", "-1"], "'-1' is not a valid port", "1 to 65535"),
        (&["who"], "no port", "expected PORT"),
        (&["who", "8o"], "'8o' is not a valid endpoint", "fix: "),
        (&["list", "80"], "'80' is not expected", "fix: "),
        (&["doctor", "--format", "xml"], "'xml'", "fix: "),
        (&["exec", "-l", "080", "--", "true"], "'080' is not a valid port", "1 to 65535"),
        (&["exec", "-l", "0x50", "--", "true"], "'0x50' is not a valid port", "1 to 65535"),
        (&["exec", "-l", "", "--", "true"], "empty", "[ADDRESS:]PORT"),
        (&["exec", "-l", "no-such-service", "--", "true"], "'no-such-service' is not a service", "/etc/services"),
        (&["exec", "-l", "80/icmp", "--", "true"], "'icmp' is not a valid protocol", "tcp, udp"),
        (&["exec", "-l", "80,fast", "--", "true"], "'fast' is not a valid option", "reuseport"),
        (&["exec", "-l", "80,tos=1,tos=1", "--", "true"], "'tos' is given twice", "'80,tos=1,tos=1'"),
        (&["exec", "-l", "[::1:80", "--", "true"], "is not a valid address", "[IPv6]"),
        (&["exec", "-l", "8\u{1b}[2J", "--", "true"], r"'8\x1b[2J'", "1 to 65535"),
        (&["\u{1b}[2J"], r"'\x1b[2J' is not a command", "exec, run"),
    ];
    let folder = Folder::new("usage");
    let (helper, trace) = tracing_helper(&folder);
    for (words, named, expected) in WRONG {
        let (status, output, complaint) = outcome(portgrant(&helper).args(*words));
        assert_eq!((status, output.as_str()), (64, ""), "{words:?}: {complaint}");
        assert!(complaint.starts_with("portgrant: "), "{words:?}: {complaint}");
        assert!(complaint.contains(named) && complaint.contains(expected), "{words:?}: {complaint}");
    }
    let not_text = OsStr::from_bytes(b"8\xff");
    let (status, _, complaint) = outcome(portgrant(&helper).args(["exec", "-l"]).arg(not_text).args(["--", "true"]));
    assert!(status == 64 && complaint.contains(r"'8\xff' is not UTF-8"), "{complaint}");
    let long = "1".repeat(65536);
    let (status, _, complaint) = outcome(portgrant(&helper).args(["exec", "-l", &long, "--", "true"]));
    assert!(status == 64 && complaint.contains("65536 bytes") && complaint.len() < 2048, "{complaint}");
    assert!(!trace.exists(), "the helper was never asked");
}

#[test]
fn help_and_version_exit_with_0() {
    let nowhere = Path::new("/nonexistent");
    for (words, expected) in
        [(&["--help"][..], "Usage:"), (&["exec", "--help"], "ENDPOINT"), (&["--version"], "portgrant 0")]
    {
        let (status, output, complaint) = outcome(portgrant(nowhere).args(words));
        assert_eq!((status, complaint.as_str()), (0, ""), "{words:?}");
        assert!(output.contains(expected), "{words:?}: {output}");
        assert!(output.lines().all(|line| line.len() <= 100), "{output}");
    }
    // If the reader has closed its pipe, the program ends by SIGPIPE, not by a panic.
    let (_, _, complaint) = outcome(&mut shell(nowhere, "\"$0\" exec --help | true; sleep 0.1"));
    assert_eq!(complaint, "");
}

#[test]
fn a_program_that_cannot_be_executed_is_reported_before_anything_is_asked() {
    let folder = Folder::new("program");
    let (helper, trace) = tracing_helper(&folder);
    let plain = folder.join("plain");
    std::fs::write(&plain, "").expect("written");
    let plain = plain.to_str().expect("text");
    for (program, expected_status, expected) in [
        ("no-such-program", 127, "in no folder of PATH"),
        ("/nonexistent/program", 127, "no such file"),
        ("", 127, "'' was not found"),
        ("/usr", 126, "it is a folder"),
        (plain, 126, "not executable"),
    ] {
        let (status, _, complaint) = outcome(portgrant(&helper).args(["exec", "-l", "80", "--", program]));
        assert_eq!(status, expected_status, "{complaint}");
        assert!(complaint.contains(program) && complaint.contains(expected), "{complaint}");
    }
    assert!(!trace.exists(), "the helper was never asked");
}

#[test]
fn errors_of_execve_are_reported_and_no_shell_is_tried() {
    let folder = Folder::new("execve");
    let helper = folder.granting_helper();
    let lost = folder.script("lost", "");
    let written = Command::new("/bin/sh")
        .args(["-c", "printf '#! /no/such/shell -e\\n' >\"$0\"; printf 'echo tried\\n' >\"$1\"; chmod 755 \"$1\""])
        .args([&lost, &folder.join("plain")])
        .status();
    assert!(written.expect("/bin/sh").success());
    for (program, expected_status, expected) in
        [("lost", 127, "its interpreter /no/such/shell does not exist"), ("plain", 126, "begins with #!")]
    {
        let port = free_port();
        let endpoint = format!("127.0.0.1:{port}");
        let (status, output, complaint) =
            outcome(portgrant(&helper).args(["exec", "-l", &endpoint, "--"]).arg(folder.join(program)));
        assert_eq!((status, output.as_str()), (expected_status, ""), "{complaint}");
        assert!(complaint.contains(expected), "{complaint}");
        assert!(std::net::TcpListener::bind(&endpoint).is_ok(), "nothing stayed bound");
    }
}

#[test]
fn the_program_gets_its_sockets_from_descriptor_3_on() {
    let folder = Folder::new("announced");
    let (one, two) = (free_port(), free_port());
    let program = "echo $LISTEN_FDS $LISTEN_FDNAMES $((LISTEN_PID - $$)) ${LISTEN_PIDFDID-none}; \
                   for n in 0 1 2 3 4 5 6 7 8 9; do test -e /proc/$$/fd/$n && echo $n; done; exit 0";
    let (status, output, complaint) = outcome(
        portgrant(&folder.granting_helper())
            .env("LISTEN_PIDFDID", "12")
            .args(["exec", "-l", &format!("web=127.0.0.1:{one}"), "-l", &format!("127.0.0.1:{two}/udp")])
            .args(["--", "sh", "-c", program]),
    );
    assert_eq!((status, complaint.as_str()), (0, ""));
    assert_eq!(output, format!("2 web:{two}/udp 0 none\n0\n1\n2\n3\n4\n"));
}

#[test]
fn with_inetd_the_socket_is_descriptors_0_and_1_and_nothing_is_announced() {
    let folder = Folder::new("inetd");
    // In a subshell, so that the shell itself redirects nothing.
    let program = "(for n in 0 1 3 4; do readlink /proc/$$/fd/$n || echo none; done; \
                   echo ${LISTEN_FDS-unset} ${LISTEN_PID-unset}) >&2; exit 5";
    let (status, _, message) = outcome(portgrant(&folder.granting_helper()).env("LISTEN_FDS", "7").args([
        "exec",
        "--inetd",
        "-l",
        &format!("127.0.0.1:{}", free_port()),
        "--",
        "sh",
        "-c",
        program,
    ]));
    let lines: Vec<&str> = message.lines().collect();
    assert_eq!(status, 5, "the program's own");
    assert!(lines[0].starts_with("socket:") && lines[0] == lines[1], "{message}");
    assert_eq!(lines[2..], ["none", "none", "unset unset"], "{message}");
}

/// What `program` prints, run by a shell with `launcher` before it.
fn printed(folder: &Folder, before: &str, launcher: &str, program: &str) -> String {
    let (status, output, complaint) =
        outcome(shell(&folder.granting_helper(), &format!("{before} {launcher} {program}")).env("ODD", "a\u{7}\u{fc}"));
    assert_eq!(status, 0, "{complaint}");
    output
}

#[test]
fn the_program_inherits_everything_else_from_the_caller() {
    let folder = Folder::new("as-it-was");
    let launcher = format!("\"$0\" exec -l 127.0.0.1:{} --", free_port());
    for (before, program) in [
        ("exec", "grep Sig[BIC] /proc/self/status"),
        ("exec env --ignore-signal=PIPE --ignore-signal=CHLD --block-signal=USR1", "grep Sig[BIC] /proc/self/status"),
        ("umask 027; cd /usr; exec", "sh -c 'umask; pwd; ulimit -a; id'"),
        ("exec 7</etc 9>/dev/null; exec", "sh -c 'readlink /proc/self/fd/7 /proc/self/fd/9'"),
        ("exec", "sh -c 'echo \"$1\"' x \"$(printf 'a\\377b')\" | od -c"),
    ] {
        let with = printed(&folder, before, &launcher, program);
        assert_eq!(with, printed(&folder, before, "", program), "{before}, {program}");
        assert!(!with.is_empty());
    }
    // The environment is the same, byte for byte and in order, except for the variables that announce the socket.
    let with = printed(&folder, "exec", &launcher, "cat /proc/self/environ");
    let kept: String = with.split_inclusive('\0').filter(|entry| !entry.starts_with("LISTEN_")).collect();
    assert_eq!(kept, printed(&folder, "exec", "", "cat /proc/self/environ"));
    assert_eq!(with.split('\0').filter(|entry| entry.starts_with("LISTEN_")).count(), 3);
}

#[test]
fn closed_standard_descriptors_stay_closed_for_the_program() {
    let folder = Folder::new("closed");
    let program = "for n in 0 1 2 3 4 5 6; do test -e /proc/$$/fd/$n && echo $n >&7; done; exit 0";
    let (one, two) = (free_port(), free_port());
    // With -v: if a socket were received as descriptor 2, messages would be written to it, and SIGPIPE would end the
    // launcher.
    let script =
        format!("exec 7>&1; \"$0\" -v exec -l 127.0.0.1:{one} -l 127.0.0.1:{two} -- sh -c '{program}' <&- >&- 2>&-");
    assert_eq!(outcome(&mut shell(&folder.granting_helper(), &script)), (0, "3\n4\n".to_owned(), String::new()));
}

#[test]
fn a_descriptor_in_the_place_of_a_socket_is_reported_before_anything_is_asked() {
    let folder = Folder::new("occupied");
    let (helper, trace) = tracing_helper(&folder);
    let (status, _, complaint) = outcome(&mut shell(&helper, "exec \"$0\" exec -l 80 -l 81 -- true 4</dev/null"));
    assert_eq!(status, 64);
    assert!(complaint.contains("descriptor 4 is open already") && complaint.contains("4>&-"), "{complaint}");
    assert!(!trace.exists(), "the helper was never asked");
    // With --inetd this number is not needed.
    let inetd = format!("exec \"$0\" exec --inetd -l 127.0.0.1:{} -- true 3</dev/null", free_port());
    assert_eq!(outcome(&mut shell(&folder.granting_helper(), &inetd)), (0, String::new(), String::new()));
}

#[test]
fn no_new_privs_is_set_only_if_it_is_asked_for() {
    let folder = Folder::new("no-new-privs");
    let program = "grep NoNewPrivs /proc/self/status";
    let with = format!("\"$0\" exec --no-new-privs -l 127.0.0.1:{} --", free_port());
    assert_eq!(printed(&folder, "exec", &with, program), "NoNewPrivs:\t1\n");
    let without = with.replace("--no-new-privs ", "");
    assert_eq!(printed(&folder, "exec", &without, program), printed(&folder, "exec", "", program));
}

#[test]
fn a_refusal_is_printed_in_three_lines_with_its_status() {
    let folder = Folder::new("refusal");
    let record = "PORTGRANT=1\nSTATUS=77\nKIND=refused\nWHAT=80/tcp is refused for alice (uid 1000)\n\
                  WHY=no rule permits it\nFIX=as root, add  permit alice 80  to /etc/portgrant.d/alice.conf\n";
    let refused = outcome(portgrant(&folder.answering_helper(record, 0)).args(["exec", "-l", "80", "--", "true"]));
    let message = "portgrant: 80/tcp is refused for alice (uid 1000)\n  why: no rule permits it\n  \
                fix: as root, add  permit alice 80  to /etc/portgrant.d/alice.conf\n";
    assert_eq!(refused, (77, String::new(), message.to_owned()));
}

#[test]
fn a_grant_that_is_bound_to_the_program_is_left_to_the_helper() {
    let folder = Folder::new("bound");
    let record = "PORTGRANT=1\nSTATUS=77\nKIND=refused\nWHAT=80/tcp is refused for alice\n\
                  WHY=it is only for one program\nFIX=start that program\nPROGRAM=/bin/sh\n";
    folder.answering_helper(record, 0);
    let helper = folder.script(
        "either",
        "case $1 in exec) for word; do echo \"$word\"; done;; *) exec \"${0%/*}/answering\" \"$@\";; esac",
    );
    let asked = ["exec", "--no-new-privs", "-l", "web=80,tos=1", "-l", "[::1]:53/udp", "--"];
    let (status, output, complaint) = outcome(portgrant(&helper).args(asked).args(["/bin/sh", "-c", "a  b"]));
    assert_eq!((status, complaint.as_str()), (0, ""));
    let words = "exec\n-l\nweb=80,tos=1\n-l\n[::1]:53/udp\n--on-failure\n";
    assert_eq!(output, format!("{words}{PORTGRANT}\n--no-new-privs\n--\n/bin/sh\n-c\na  b\n"));

    // The refusal names one rule, but another may be for this program.
    let (status, output, complaint) = outcome(portgrant(&helper).args(asked).args(["/bin/cat"]));
    assert_eq!((status, complaint.as_str()), (0, ""));
    assert!(output.ends_with("--\n/bin/cat\n"), "{output}");
    // The helper cannot be tried if arguments depend on numbers that are not known yet.
    let (status, output, complaint) =
        outcome(portgrant(&helper).args(["exec", "-l", "each:53/udp", "--", "/bin/cat", "{fd:53/udp}"]));
    assert_eq!((status, output.as_str()), (77, ""));
    assert!(complaint.contains("only for one program; PROGRAM is /bin/cat\n  fix: start that program"), "{complaint}");
}

#[test]
fn a_failure_of_the_helper_in_the_launchers_place_is_reported_by_the_launcher() {
    let answer = |record: &str| outcome(Command::new(PORTGRANT).args(["answer", record]));
    let record = "PORTGRANT=1\nSTATUS=77\nKIND=refused\nWHAT=80/tcp is refused\nWHY=no rule\nFIX=ask\nLATER=yes\n";
    let message = "portgrant: 80/tcp is refused\n  why: no rule\n  fix: ask\n";
    assert_eq!(answer(record), (77, String::new(), message.to_owned()));
    // From a later version: the kind is unknown here, but the text is shown.
    let later = "PORTGRANT=1\nSTATUS=69\nKIND=frozen\nWHAT=80/tcp is frozen\nSINCE=noon\n";
    assert_eq!(answer(later), (69, String::new(), "portgrant: 80/tcp is frozen\n".to_owned()));
    // The launcher looks up which process holds an address that is in use.
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let endpoint = format!("127.0.0.1:{}/tcp", held.local_addr().expect("an address").port());
    let record = format!("PORTGRANT=1\nSTATUS=69\nKIND=in-use\nWHAT=no words of the helper's\nENDPOINT={endpoint}\n");
    let (status, _, complaint) = answer(&record);
    assert!(status == 69 && complaint.contains(&format!("pid {}", std::process::id())), "{complaint}");
    assert_eq!(answer("STATUS=77").0, 71);
}

#[test]
fn a_missing_or_broken_helper_exits_with_78_and_lists_the_paths() {
    let folder = Folder::new("helper");
    let (status, _, complaint) =
        outcome(Command::new(PORTGRANT).env_remove("PORTGRANT_BINDER").args(["exec", "-l", "80", "--", "true"]));
    if status == 78 {
        assert!(complaint.contains("/usr/libexec/portgrant/portgrant-binder"), "{complaint}");
    } else {
        assert!(Path::new("/usr/libexec/portgrant").exists() || Path::new("/usr/local/libexec/portgrant").exists());
    }
    let plain = folder.join("plain");
    std::fs::write(&plain, "").expect("written");
    for (helper, expected) in [
        (Path::new("portgrant-binder"), "absolute"),
        (Path::new("/nonexistent"), "is not there"),
        (&plain, "Permission denied"),
    ] {
        let (status, _, complaint) = outcome(portgrant(helper).args(["exec", "-l", "80", "--", "true"]));
        assert_eq!(status, 78, "{complaint}");
        assert!(complaint.contains(expected) && complaint.contains("fix: "), "{complaint}");
        let (status, _, complaint) = outcome(portgrant(helper).args(["explain", "80"]));
        assert_eq!(status, 78, "{complaint}");
        assert!(complaint.contains("portgrant-explain") || complaint.contains("absolute"), "{complaint}");
    }
}

#[test]
fn explain_list_and_check_run_the_program_beside_the_helper() {
    let folder = Folder::new("policy");
    folder.script("portgrant-explain", "for word; do echo \"$word\"; done; exit 77");
    let helper = folder.join("portgrant-binder");
    for (asked, expected) in [
        (
            &["explain", "-l", "80", "443/udp", "--as-user", "alice", "--format", "json", "--", "/usr/sbin/innd", "-f"]
                [..],
            "explain --format json -l 80 -l 443/udp --as-user alice -- /usr/sbin/innd -f",
        ),
        (&["explain", "80", "--for", "alice", "--json"], "explain --format json -l 80 --as-user alice"),
        (&["explain", "nntp"], "explain --format text -l nntp"),
        (&["list"], "list --format text"),
        (&["list", "--as-user", "bob", "--format", "json"], "list --format json --as-user bob"),
        (&["check"], "check --format text --"),
        (&["check", "--json", "--", "--odd", "b.conf"], "check --format json -- --odd b.conf"),
    ] {
        let (status, output, complaint) = outcome(portgrant(&helper).args(asked));
        assert_eq!((status, complaint.as_str()), (77, ""));
        assert_eq!(output.lines().collect::<Vec<_>>().join(" "), expected);
    }
}

#[test]
fn steps_are_printed_only_with_v() {
    let folder = Folder::new("steps");
    let helper = folder.granting_helper();
    let endpoint = format!("127.0.0.1:{}", free_port());
    let exec = ["exec", "-l", &endpoint, "--", "true"];
    assert_eq!(
        outcome(portgrant(&helper).env("RUST_LOG", "portgrant_launcher=trace").args(exec)),
        (0, String::new(), String::new())
    );
    let (status, _, steps) = outcome(portgrant(&helper).env("RUST_LOG", "portgrant_launcher=off").arg("-v").args(exec));
    assert_eq!(status, 0);
    let binding = format!("binding {endpoint}, which needs no rule\n");
    for expected in ["the program is /", &binding, "descriptor 3 is", "executing"] {
        assert!(steps.contains(expected), "{steps}");
    }
    assert!(steps.lines().all(|line| line.starts_with("portgrant: ")), "{steps}");
}

#[test]
fn a_killed_helper_is_reported_by_each_command() {
    let folder = Folder::new("killed");
    let helper = folder.script("killed", "kill -KILL $$");
    let why = "its time limit of 10 s was over: it was stopped, or the machine is overloaded";
    let expected = format!("portgrant: the helper {} was killed\n  why: {why}\n  fix: try again\n", helper.display());
    for words in [&[][..], &["--wait"], &["--accept"], &["--verify"]] {
        let words = [&["exec", "-l", "80"], words, &["--", "true"]].concat();
        let (status, output, complaint) = outcome(portgrant(&helper).args(&words));
        assert_eq!((status, output.as_str(), complaint.as_str()), (71, "", expected.as_str()), "{words:?}");
    }
}
