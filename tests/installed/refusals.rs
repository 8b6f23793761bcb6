//! What is refused, and how it is said: no rule, a wrong word, not all of several.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;

use portgrant_tests::{BINDER, LAUNCHER, World, both_installs};

both_installs![
    a_caller_without_a_rule_is_refused_and_the_message_names_the_rule_to_add,
    a_rule_is_for_its_user_protocol_address_and_port_alone,
    of_several_endpoints_all_are_bound_or_none,
    an_address_that_is_in_use_or_missing_is_reported,
    a_wrong_word_is_named_with_what_was_expected,
    a_program_that_cannot_be_executed_leaves_nothing_bound,
    arguments_of_64_kib_work,
    a_host_without_ipv6_is_reported,
    an_interface_is_recognized_by_its_alternative_names,
    a_group_permit_needs_the_process_group_and_a_group_deny_checks_the_account,
    the_program_of_an_exec_rule_must_be_changeable_only_by_root,
    the_order_of_rules_and_files_decides_nothing,
];

/// PG-1
fn a_caller_without_a_rule_is_refused_and_the_message_names_the_rule_to_add(world: &World) {
    world.policy("permit bob 80\n# a comment\npermit any 81\n");

    let outcome = world.as_user("alice").run([BINDER, "exec", "-l", "127.0.0.1:80", "--", "true"]);

    outcome.exits(77).complains("portgrant-binder: 127.0.0.1:80/tcp is refused for alice (uid 1000)\n");
    outcome.complains("why: none of the 2 rules in /etc/portgrant.conf and /etc/portgrant.d permits it\n");
    outcome.complains("fix: as root, add  permit alice 80 on 127.0.0.1  to /etc/portgrant.d/alice.conf\n");
    world.policy_file("alice.conf", "permit alice 80 on 127.0.0.1\n");
    world.as_user("alice").run([BINDER, "exec", "-l", "127.0.0.1:80", "--", "true"]).succeeds();
}

/// PG-1
fn a_rule_is_for_its_user_protocol_address_and_port_alone(world: &World) {
    world.policy("permit alice 80 on 127.0.0.0/8 [::1]\n");
    let asked = |user, endpoint| world.as_user(user).run([BINDER, "exec", "-l", endpoint, "--", "true"]);
    for endpoint in ["127.0.0.1:80", "127.9.9.9:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
        asked("alice", endpoint).succeeds();
        asked("bob", endpoint).exits(77);
    }
    for endpoint in
        ["80", "[::]:80", "0.0.0.0:80", "127.0.0.1:81", "127.0.0.1:80/udp", "[::]:80,v6only", "127.0.0.1:80,reuseport"]
    {
        asked("alice", endpoint).exits(77).complains("is refused for alice");
    }
}

/// PG-4
fn of_several_endpoints_all_are_bound_or_none(world: &World) {
    world.policy("permit alice 80 81\n");
    let exec = |second| [BINDER, "exec", "-l", "80", "-l", second, "--", "touch", "/tmp/ran"];
    world.as_user("alice").run(exec("82")).exits(77).complains("82/tcp is refused");
    let _taken = TcpListener::bind("127.0.0.1:81").expect("root binds");
    world.as_user("alice").run(exec("127.0.0.1:81")).exits(69).complains("127.0.0.1:81/tcp is in use");
    assert_eq!(world.listening().len(), 1);
    assert!(!std::fs::exists("/tmp/ran").expect("stat"), "the program ran without all of its sockets");
}

fn an_address_that_is_in_use_or_missing_is_reported(world: &World) {
    world.policy("permit alice 80 freebind\n");
    let asked = |endpoint| world.as_user("alice").run([BINDER, "exec", "-l", endpoint, "--", "true"]);
    asked("10.9.9.9:80").exits(69).complains("no interface of this network namespace has that address");
    asked("10.9.9.9:80,freebind").succeeds();
    asked("[fe80::1]:80").exits(69).complains("name the interface with dev=");
    asked("80,dev=nope0").exits(69).complains("the interface given with dev= does not exist");
    let _taken = TcpListener::bind("0.0.0.0:80").expect("root binds");
    for endpoint in ["80", "127.0.0.1:80", "0.0.0.0:80"] {
        asked(endpoint).exits(69).complains("is in use").complains("see who: portgrant who 80/tcp");
    }
}

/// Words, and what the message says.
const WRONG: &[(&[&str], &str)] = &[
    (&[], "no verb was given"),
    (&["run"], "'run' is not a verb"),
    (&["exec"], "no endpoint was given"),
    (&["exec", "-l"], "missing argument for option '-l'"),
    (&["exec", "-l", "80"], "no program was given"),
    (&["exec", "-l", "80", "--"], "no program was given"),
    (&["exec", "-l", "0", "--", "true"], "'0' is not a valid port"),
    (&["exec", "-l", "65536", "--", "true"], "'65536' is not a valid port"),
    (&["exec", "-l", "-1", "--", "true"], "'-1' is not a valid port"),
    (&["exec", "-l", "080", "--", "true"], "'080' is not a valid port"),
    (&["exec", "-l", "0x50", "--", "true"], "'0x50' is not a valid port"),
    (&["exec", "-l", "", "--", "true"], "the endpoint is empty"),
    (&["exec", "-l", "gopherd", "--", "true"], "'gopherd' is not a service in /etc/services"),
    (&["exec", "-l", "tftp", "--", "true"], "expected tftp/udp"),
    (&["exec", "-l", "80/tdp", "--", "true"], "'tdp' is not a valid protocol"),
    (&["exec", "-l", "80,nodelay", "--", "true"], "'nodelay' is not a valid option"),
    (&["exec", "-l", "80,backlog=1,backlog=2", "--", "true"], "'backlog' is given twice"),
    (&["exec", "-l", "80,transparent", "--", "true"], "'transparent' needs a capability"),
    (&["exec", "--inetd", "--inetd", "-l", "80", "--", "true"], "'--inetd' is given twice"),
    (&["exec", "--to", "3", "-l", "80", "--", "true"], "'--to' does not go with this verb"),
    (&["exec", "--policy", "/tmp/x", "-l", "80", "--", "true"], "invalid option '--policy'"),
    (&["exec", "--inetd=yes", "-l", "80", "--", "true"], "--inetd"),
    (&["pass", "-l", "80"], "'--to' is missing"),
    (&["pass", "-l", "80", "--to", "9"], "descriptor 9 is not open"),
    (&["pass", "-l", "80", "--to", "-1"], "'-1' is not a descriptor"),
    (&["pass", "-l", "80", "--to", "99999999999"], "is not a descriptor"),
    (&["pass", "-l", "80", "--to", "1"], "connected Unix socket"),
    (&["pass", "-l", "80", "--to", "1", "true"], "unexpected argument 'true'"),
    (&["bind", "-l", "80"], "'--socket' is missing"),
    (&["bind", "-l", "80", "-l", "81", "--socket", "1"], "'--socket' needs exactly one endpoint"),
    (&["bind", "-l", "80,reuseport", "--socket", "1"], "expected no options"),
    (&["bind", "-l", "80", "--socket", "1"], "expected a socket"),
    (&["explain", "-l", "80"], "'explain' is not a verb"),
];

fn a_wrong_word_is_named_with_what_was_expected(world: &World) {
    world.policy("permit alice any reserved\n");
    for (words, expected) in WRONG {
        let outcome = world.as_user("alice").run([&[BINDER], *words].concat());
        outcome.exits(64).complains(expected).complains("\n  why: ").complains("\n  fix: ");
        assert!(outcome.stdout.is_empty() && outcome.stderr.is_ascii(), "{words:?}: {outcome}");
    }
    let not_text = OsStr::from_bytes(b"80\xff\x1b[2J");
    let words = [BINDER.as_ref(), "exec".as_ref(), "-l".as_ref(), not_text, "--".as_ref(), "true".as_ref()];
    world.as_user("alice").run(words).exits(64).complains("'80\\xff\\x1b[2J' is not UTF-8");
}

/// PG-4
fn a_program_that_cannot_be_executed_leaves_nothing_bound(world: &World) {
    world.policy("permit alice 80\n");
    world.file("/home/alice/script", "echo no interpreter\n");
    world.file("/home/alice/lost", "#!/no/such/interpreter\n");
    for path in ["/home/alice/script", "/home/alice/lost"] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    }
    world.folder("/home/bob/hidden", "bob", 0o700);
    world.file("/home/bob/hidden/program", "x");
    let table = [
        ("no-such-program", 127, "'no-such-program' was not found"),
        ("/no/such/program", 127, "'/no/such/program' was not found"),
        ("/etc/passwd/x", 127, "was not found"),
        ("/home/alice/lost", 127, "its interpreter /no/such/interpreter does not exist"),
        ("/etc", 126, "it is a folder"),
        ("/etc/passwd", 126, "'/etc/passwd' cannot be executed"),
        ("/home/alice/script", 126, "nothing is tried with /bin/sh"),
        // Looked up as the caller: what is hidden looks the same whether it is there or not.
        ("/home/bob/hidden/program", 126, "Permission denied"),
        ("/home/bob/hidden/nothing", 126, "Permission denied"),
    ];
    for (program, status, expected) in table {
        let outcome = world.as_user("alice").run([BINDER, "exec", "-l", "80", "--", program]);
        outcome.exits(status).complains(expected);
        assert_eq!(world.listening(), []);
    }
    let current = world.as_user("alice").folder("/home/alice").env("PATH", ":/nonexistent");
    current.run([BINDER, "exec", "-l", "80", "--", "script"]).exits(126);
}

fn arguments_of_64_kib_work(world: &World) {
    world.policy("permit alice 80\n");
    let long = "x".repeat(64 << 10);
    let words = [BINDER, "exec", "-l", "80", "--", "printf", "%s", &long];
    let outcome = world.as_user("alice").run(words);
    assert_eq!(outcome.succeeds().stdout.len(), long.len());
    world.as_user("alice").run([BINDER, "exec", "-l", &long, "--", "true"]).exits(64).complains("at most 512 are read");
    let mut many = vec![BINDER, "exec"];
    many.extend(["-l", "80"].repeat(254));
    many.extend(["--", "true"]);
    world.as_user("alice").run(many).exits(64).complains("254 were asked for");
}

fn a_host_without_ipv6_is_reported(world: &World) {
    world.policy("permit alice 80\n");
    for family in ["all", "default", "lo"] {
        // The world's own network namespace.
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{family}/disable_ipv6"), "1").expect("sysctl");
    }
    let asked = |endpoint| world.as_user("alice").run([BINDER, "exec", "-l", endpoint, "--", "true"]);
    asked("[::1]:80").exits(69).complains("no interface");
    asked("0.0.0.0:80").succeeds();
    // A kernel without IPv6: a filter answers EAFNOSUPPORT to socket(AF_INET6). Set by root, so without no_new_privs.
    let script = "import ctypes, os, struct, sys\n\
        nr = {'x86_64': 41, 'aarch64': 198}[os.uname().machine]\n\
        code = [(0x20, 0, 0, 0), (0x15, 0, 3, nr), (0x20, 0, 0, 16), (0x15, 0, 1, 10), (6, 0, 0, 0x50000 | 97), (6, 0, 0, 0x7fff0000)]\n\
        filter = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *one) for one in code))\n\
        program = struct.pack('HxxxxxxP', len(code), ctypes.addressof(filter))\n\
        assert ctypes.CDLL(None).prctl(22, 2, program, 0, 0) == 0\n\
        os.setgroups([]); os.setgid(1000); os.setuid(1000)\n\
        os.execv(sys.argv[1], sys.argv[1:])\n";
    let without = |words: &[&str]| world.as_root().run([&["python3", "-c", script], words].concat());
    for program in [BINDER, LAUNCHER] {
        let asked = |endpoint| without(&[program, "exec", "-l", endpoint, "--", "true"]);
        asked("80").exits(69).complains("this host has no IPv6").complains("ask for 0.0.0.0:80");
        asked("0.0.0.0:80").succeeds();
    }
    without(&[LAUNCHER, "explain", "80"]).exits(69).prints("this host has no IPv6").prints("fix: ask for 0.0.0.0:80");
    let doctor = without(&[LAUNCHER, "doctor"]);
    doctor
        .prints("warning ipv6       an endpoint without an address (80) cannot be bound, as it is for IPv6 as well: ");
    doctor.prints("Address family not supported by protocol").prints("fix: ask for the IPv4 addresses: 0.0.0.0:80");
}

/// PG-1
fn an_interface_is_recognized_by_its_alternative_names(world: &World) {
    for words in
        [&["link", "add", "pg0", "type", "veth"][..], &["link", "property", "add", "dev", "pg0", "altname", "alt0"]]
    {
        world.as_root().run([&["ip"], words].concat()).succeeds();
    }
    let asked = |dev| {
        let endpoint = format!("80,dev={dev}");
        world.as_user("alice").run([BINDER, "exec", "-l", &endpoint, "--", "true"])
    };
    for denied in ["pg0", "alt0"] {
        world.policy(&format!("permit alice 80\ndeny alice 80 dev {denied}\n"));
        asked("pg0").exits(77).complains("denied by the rule");
        asked("alt0").exits(77).complains("denied by the rule");
        asked("lo").succeeds();
        world.policy(&format!("permit alice 80 dev {denied}\n"));
        asked("pg0").succeeds();
        asked("alt0").succeeds();
        asked("lo").exits(77).complains("ask for 80,dev=pg0");
    }
}

fn a_group_permit_needs_the_process_group_and_a_group_deny_checks_the_account(world: &World) {
    world.policy("permit :web 80\n");
    let exec = [BINDER, "exec", "-l", "80", "--", "true"];
    world.as_user("bob").run(exec).succeeds();
    world.as_user("bob").groups(&[]).run(exec).exits(77);
    world.as_user("alice").run(exec).exits(77);
    world.as_user("alice").gids(2000, 2000, 2000).run(exec).succeeds();
    // The effective gid is not who one is.
    world.as_user("alice").gids(1000, 2000, 2000).run(exec).exits(77);
    world.policy("permit any 80\ndeny :web any\n");
    world.as_user("alice").run(exec).succeeds();
    world.as_user("bob").groups(&[]).run(exec).exits(77).complains("denied by the rule at /etc/portgrant.conf:2");
}

fn the_program_of_an_exec_rule_must_be_changeable_only_by_root(world: &World) {
    world.folder("/opt/a/bin", "root", 0o755);
    world.as_root().run(["cp", "/bin/true", "/opt/a/bin/true"]).succeeds();
    std::os::unix::fs::symlink("/opt/a/bin", "/opt/b").expect("symlink");
    world.policy("permit alice 80 exec /opt/b/true\n");
    let exec = || world.as_user("alice").run([BINDER, "exec", "-l", "80", "--", "/opt/b/true"]);
    exec().succeeds();
    // The same file by another name is not the rule's.
    world
        .as_user("alice")
        .run([BINDER, "exec", "-l", "80", "--", "/opt/a/bin/true"])
        .exits(77)
        .complains("only for one program");
    for (path, mode) in [("/opt/a/bin/true", 0o775), ("/opt/a", 0o757)] {
        let change =
            |mode| std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("chmod");
        change(mode);
        let rule = "nothing is permitted to that program by the rule at /etc/portgrant.conf:1  permit alice 80 exec";
        exec().exits(77).complains(&format!("{path}: its mode is")).complains(rule);
        change(0o755);
        exec().succeeds();
        world.as_root().run(["chown", "alice", path]).succeeds();
        exec()
            .exits(77)
            .complains(&format!("{path}: it belongs to uid 1000"))
            .complains("put it where only root may write");
        world.as_root().run(["chown", "root", path]).succeeds();
    }
    world.as_root().run(["chown", "-h", "alice", "/opt/b"]).succeeds();
    exec().exits(77).complains("/opt/b: it belongs to uid 1000");
}

/// PG-53
fn the_order_of_rules_and_files_decides_nothing(world: &World) {
    let program = "/usr/local/bin/unfit";
    world.as_root().run(["install", "-m0777", "/bin/true", program]).succeeds();
    let unfit = format!("permit alice 80 exec {program}");
    let exec = || world.as_user("alice").run([BINDER, "exec", "-l", "80", "--", program]);
    let explain = || world.as_user("alice").run([LAUNCHER, "explain", "-l", "80", "--", program]);
    let both = |rules: [&str; 2], expected: i32| {
        for [first, second] in [rules, [rules[1], rules[0]]] {
            for (policy, more) in
                [(format!("{first}\n{second}\n"), "#\n".to_owned()), (format!("{first}\n"), format!("{second}\n"))]
            {
                world.policy(&policy);
                world.policy_file("more.conf", &more);
                exec().exits(expected);
                explain().exits(expected);
            }
        }
    };
    both([&unfit, "permit alice 80"], 0);
    both([&unfit, "permit alice 80 exec /bin/true"], 77);
    both(["permit alice 80", "permit alice gopher 80"], 0);
    both(["permit alice 80", "deny alice http"], 77);
    // Of two programs each has the port, whichever rule stands first.
    for [first, second] in [["/usr/bin/true", "/usr/bin/echo"], ["/usr/bin/echo", "/usr/bin/true"]] {
        world.policy(&format!("permit alice 80 exec {first}\npermit alice 80 exec {second}\n"));
        for program in [first, second] {
            world.as_user("alice").run([LAUNCHER, "exec", "-l", "80", "--", program]).succeeds();
        }
    }
}
