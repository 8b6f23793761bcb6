//! Policy files that cannot be believed: everything is refused (78), and it is said which file, and why.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use portgrant_tests::{BINDER, LAUNCHER, Outcome, World, both_installs};

both_installs![
    an_untrusted_policy_file_refuses_everything,
    folders_above_the_policy_must_belong_to_root,
    one_malformed_line_refuses_everything,
    files_of_the_folder_are_read_in_byte_order_and_others_are_not,
    passwd_group_and_services_must_belong_to_root,
    passwd_and_group_may_be_symlinks_that_only_root_can_change,
    a_deny_for_a_group_needs_passwd_and_group,
    a_last_line_without_its_line_feed_is_refused_and_named,
    a_service_in_a_deny_is_every_port_that_the_name_has,
    an_unknown_service_makes_its_permit_permit_nothing,
    the_caller_cannot_choose_another_policy,
    a_hundred_thousand_rules_are_read,
];

const CONF: &str = "/etc/portgrant.conf";

const ASK: [&str; 7] = [BINDER, "exec", "-l", "80", "--", "touch", "/tmp/ran"];

fn ask(world: &World) -> Outcome {
    world.as_user("alice").run(ASK)
}

fn chmod(path: &str, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap_or_else(|error| panic!("chmod {path}: {error}"));
}

/// PG-5
fn an_untrusted_policy_file_refuses_everything(world: &World) {
    let good = || {
        let _ = fs::remove_file(CONF);
        world.policy("permit alice 80\n");
    };
    ask(world).exits(78).complains("/etc/portgrant.conf: it does not exist");
    good();
    fs::write(CONF, "").expect("write");
    ask(world).exits(78).complains("/etc/portgrant.conf: it is empty");
    good();
    chmod(CONF, 0o664);
    ask(world).exits(78).complains("its mode is 0664").complains("chmod go-w /etc/portgrant.conf");
    chmod(CONF, 0o646);
    ask(world).exits(78).complains("its mode is 0646");
    chmod(CONF, 0o600);
    ask(world).exits(78).complains("may not read it").complains("chmod 0644");
    good();
    world.as_root().run(["chown", "alice", CONF]).succeeds();
    ask(world).exits(78).complains("it belongs to uid 1000, not to root");
    fs::remove_file(CONF).expect("rm");
    world.file("/etc/elsewhere", "permit alice 80\n");
    symlink("/etc/elsewhere", CONF).expect("symlink");
    ask(world).exits(78).complains("it is a symlink");
    fs::remove_file(CONF).expect("rm");
    world.as_root().run(["mkfifo", "-m", "644", CONF]).succeeds();
    ask(world).exits(78).complains("it is not a regular file");
    fs::remove_file(CONF).expect("rm");
    fs::create_dir(CONF).expect("mkdir");
    ask(world).exits(78).complains("it is not a regular file");
    fs::remove_dir(CONF).expect("rmdir");
    good();
    fs::OpenOptions::new().write(true).open(CONF).and_then(|file| file.set_len((16 << 20) + 1)).expect("truncate");
    ask(world).exits(78).complains("it is larger than 16 MiB");
    assert!(!fs::exists("/tmp/ran").expect("stat"));
    good();
    ask(world).succeeds();
}

fn folders_above_the_policy_must_belong_to_root(world: &World) {
    world.policy("permit alice 80\n");
    world.policy_file("more.conf", "permit alice 81\n");
    for folder in ["/etc/portgrant.d", "/etc", "/"] {
        chmod(folder, 0o775);
        ask(world).exits(78).complains(&format!("{folder}: its mode is 0775"));
        chmod(folder, 0o755);
    }
    world.as_root().run(["chown", "alice", "/etc/portgrant.d"]).succeeds();
    ask(world).exits(78).complains("/etc/portgrant.d: it belongs to uid 1000");
    fs::rename("/etc/portgrant.d", "/etc/away").expect("mv");
    symlink("/etc/away", "/etc/portgrant.d").expect("symlink");
    ask(world).exits(78).complains("/etc/portgrant.d: it is not a folder");
    fs::remove_file("/etc/portgrant.d").expect("rm");
    ask(world).succeeds();
}

/// PG-5
fn one_malformed_line_refuses_everything(world: &World) {
    world.policy("permit alice 80\n");
    world.policy_file("a.conf", "# fine\npermit bob 81\ndeny mallroy any\n permit bob 8o\n");
    let outcome = ask(world);
    outcome
        .exits(78)
        .complains("/etc/portgrant.d/a.conf:3:6: user 'mallroy' is not in /etc/passwd")
        .complains("(and 1 more)");
    let check = world.as_user("alice").run([LAUNCHER, "check"]);
    check.exits(78).prints("/etc/portgrant.d/a.conf:3:6: error: user 'mallroy' is not in /etc/passwd");
    check
        .prints("    deny mallroy any\n         ^^^^^^^\n")
        .prints("/etc/portgrant.d/a.conf:4:13: error: '8o' is not a valid port");
    check.prints("permit bob 8o\n                ^^\n").prints("2 rules, 2 files, 2 errors, 0 warnings: invalid\n");
    world.policy_file("a.conf", "permit nobody-here 81\n");
    ask(world).succeeds();
    world
        .as_user("alice")
        .run([LAUNCHER, "check"])
        .succeeds()
        .prints("warning: user 'nobody-here'")
        .prints("1 warning: well-formed\n");
}

fn files_of_the_folder_are_read_in_byte_order_and_others_are_not(world: &World) {
    world.policy("# nothing here\n");
    for skipped in [".hidden.conf", "alice.conf~", "alice.conf.dpkg-new", "README", "alice"] {
        world.policy_file(skipped, "permit alice 80\n");
    }
    ask(world).exits(77).complains("there is no rule in");
    for name in ["b.conf", "a.conf", "B.conf", "10.conf", "9.conf"] {
        world.policy_file(name, "permit alice 80\n");
    }
    let explain = || world.as_user("alice").run([LAUNCHER, "explain", "-l", "80"]);
    for name in ["10.conf", "9.conf", "B.conf", "a.conf", "b.conf"] {
        explain().succeeds().prints(&format!("rule: /etc/portgrant.d/{name}:1  permit alice 80\n"));
        fs::remove_file(format!("/etc/portgrant.d/{name}")).expect("rm");
    }
    world.policy_file("deny.conf", "");
    explain().exits(78).complains("/etc/portgrant.d/deny.conf: it is empty");
}

fn passwd_group_and_services_must_belong_to_root(world: &World) {
    for (rule, file) in
        [("permit alice 80", "passwd"), ("permit :alice 80", "group"), ("permit uid:1000 http", "services")]
    {
        let path = format!("/etc/{file}");
        chmod(&path, 0o666);
        world.policy(&format!("{rule}\n"));
        ask(world).exits(78).complains(&format!("{path}: its mode is 0666"));
        // Not needed, not read.
        world.policy("permit uid:1000 80\n");
        ask(world).succeeds();
        chmod(&path, 0o644);
        world.policy(&format!("{rule}\n"));
        ask(world).succeeds();
    }
}

fn passwd_and_group_may_be_symlinks_that_only_root_can_change(world: &World) {
    world.policy("permit uid:1000 http\n");
    let root = |words: &[&str]| {
        world.as_root().run(words).succeeds();
    };
    // As NixOS has it: two links, one of them relative, through a sticky folder of a group.
    root(&["mkdir", "-p", "/nix/store/abc/etc"]);
    root(&["mv", "/etc/services", "/nix/store/abc/etc/services"]);
    root(&["chmod", "1775", "/nix/store"]);
    symlink("../nix/store/abc", "/etc/static").expect("symlink");
    symlink("/etc/static/etc/services", "/etc/services").expect("symlink");
    ask(world).succeeds();
    world.as_user("alice").run([LAUNCHER, "explain", "80"]).succeeds();
    world.as_user("alice").run([LAUNCHER, "check"]).succeeds();
    let refused = |change: &[&str], undo: &[&str], why: &str| {
        root(change);
        ask(world).exits(78).complains(why);
        root(undo);
        ask(world).succeeds();
    };
    for path in ["/etc/static", "/etc/services"] {
        refused(
            &["chown", "-h", "bob", path],
            &["chown", "-h", "root", path],
            &format!("{path}: it belongs to uid 1001"),
        );
    }
    refused(&["chmod", "0775", "/nix/store"], &["chmod", "1775", "/nix/store"], "/nix/store: its mode is 0775");
    refused(&["chmod", "1777", "/nix/store"], &["chmod", "1775", "/nix/store"], "/nix/store: its mode is 1777");
    let table = "/nix/store/abc/etc/services";
    refused(&["chmod", "0666", table], &["chmod", "0644", table], &format!("{table}: its mode is 0666"));
    refused(
        &["chown", "bob", "/nix/store/abc"],
        &["chown", "root", "/nix/store/abc"],
        "/nix/store/abc: it belongs to uid 1001",
    );
    // Where a link of /proc leads is up to the caller.
    fs::remove_file("/etc/services").expect("rm");
    symlink("/proc/self/fd/9", "/etc/services").expect("symlink");
    let caller = world.as_user("alice").fd(9, fs::File::open(table).expect("open"));
    let outcome = caller.run(ASK);
    outcome.exits(78);
    // In a user namespace /proc itself belongs to nobody that is known.
    assert!(
        ["why: /proc/self: it is a symlink", "why: /proc: its owner has no id"]
            .iter()
            .any(|why| outcome.stderr.contains(why)),
        "{outcome}"
    );
    fs::remove_file("/etc/services").expect("rm");
    symlink("/etc/services", "/etc/services").expect("symlink");
    ask(world).exits(78).complains("/etc/services: it leads through more than 40 symlinks");
    // A link that leads nowhere is a table that is not there.
    fs::remove_file("/etc/services").expect("rm");
    symlink("/etc/no-such", "/etc/services").expect("symlink");
    ask(world).exits(77).complains("'http' is not a service in /etc/services");
}

/// PG-52
fn a_deny_for_a_group_needs_passwd_and_group(world: &World) {
    // As uid 1000, while `change` has been done to the file.
    let asks = |file: &str, change: &str| {
        let script = format!(
            "cp -p {file} {file}- && {change} && {{ setpriv --reuid=1000 --regid=1000 --clear-groups -- \"$@\"; status=$?; }}\n\
            cp -p {file}- {file} && exit $status\n"
        );
        world.as_root().run([&["sh", "-c", &script, "-"], &ASK[..]].concat())
    };
    for file in ["/etc/passwd", "/etc/group"] {
        for rule in ["deny :web any", "deny gid:2000 any"] {
            world.policy(&format!("permit uid:1000 80\n{rule}\n"));
            asks(file, "true").succeeds();
            let by_name = rule == "deny :web any" && file == "/etc/group";
            for change in ["rm", "truncate -s0", "echo '# nobody' | tee", "echo | tee"] {
                let outcome = asks(file, &format!("{change} {file} >/dev/null"));
                outcome.exits(78);
                if by_name {
                    outcome.complains("/etc/portgrant.conf:2:6: group 'web' is not in /etc/group");
                } else {
                    outcome.complains(&format!(
                        "{file} is missing or has no entries, and /etc/portgrant.conf:2 denies a group"
                    ));
                    outcome.complains(&format!("fix: restore the file, as root: cp -p {file}- {file}"));
                }
            }
        }
        // No other rule needs them.
        world.policy("permit uid:1000 80\ndeny uid:1001 any\n");
        asks(file, &format!("rm {file}")).succeeds();
    }
}

/// PG-52
fn a_last_line_without_its_line_feed_is_refused_and_named(world: &World) {
    world.policy("permit alice 80\n");
    let more = "/etc/portgrant.d/more.conf";
    for (path, text, place) in [
        (CONF, "permit alice 80", "/etc/portgrant.conf:1:16"),
        (more, "# more\npermit alice 80", "/etc/portgrant.d/more.conf:2:16"),
        (more, "deny mallory any\npermit alice 80 on 127", "/etc/portgrant.d/more.conf:2:23"),
    ] {
        world.policy_file("more.conf", "# nothing\n");
        world.file(path, text);
        let quoted =
            format!("'{}' has no line feed at its end, so it may be cut off", text.lines().last().expect("a line"));
        let outcome = ask(world);
        if !text.contains("mallory") {
            outcome.exits(78).complains(&format!("{place}: {quoted}"));
            outcome.complains(&format!("fix: read that line, and if it is complete, as root: echo >>{path}"));
        }
        let check = world.as_user("alice").run([LAUNCHER, "check"]);
        check.exits(78).prints(&format!("{place}: error: {quoted}")).prints(": invalid");
        world.as_user("alice").run([LAUNCHER, "list"]).exits(78);
        // The fix, as it stands there.
        world.as_root().run(["sh", "-c", &format!("echo >> {path}")]).succeeds();
        if !text.contains("mallory") {
            ask(world).succeeds();
            world.as_user("alice").run([LAUNCHER, "check"]).succeeds();
        }
        world.policy("permit alice 80\n");
    }
    for end in ["# the end", "  \t", "\n\n# the end "] {
        world.policy_file("more.conf", &format!("permit bob 80\n{end}"));
        ask(world).succeeds();
        world.as_user("alice").run([LAUNCHER, "check"]).succeeds();
    }
}

fn a_service_in_a_deny_is_every_port_that_the_name_has(world: &World) {
    world.policy("permit any 1-511 1-511/udp\ndeny any tftp\n");
    let asks = |endpoint: &str| world.as_user("alice").run([BINDER, "exec", "-l", endpoint, "--", "true"]);
    asks("69/udp").exits(77).complains("denied by the rule at /etc/portgrant.conf:2");
    asks("69").exits(77).complains("denied by the rule at /etc/portgrant.conf:2");
    asks("70").succeeds();
    world.file("/etc/services", "tftp 69/udp\nold-tftp 70/udp tftp\n");
    asks("70").exits(77);
    world.policy("permit any 1-511 1-511/udp\ndeny any tftp/udp\n");
    asks("70").succeeds();
    asks("70/udp").exits(77);
}

fn an_unknown_service_makes_its_permit_permit_nothing(world: &World) {
    world.policy("permit alice gopherd 80\n");
    let why = "'gopherd' is not a service in /etc/services, so nothing is permitted by the rule at /etc/portgrant.conf:1  permit";
    ask(world).exits(77).complains(why).complains("write PORT instead of gopherd in that rule");
    let check = world.as_user("alice").run([LAUNCHER, "check"]);
    check.succeeds().prints("'gopherd' is not a service in /etc/services").prints("1 warning: well-formed");
    world.policy_file("more.conf", "permit alice 80\n");
    ask(world).succeeds();
    world.policy("permit alice 53 udp\n");
    ask(world)
        .exits(78)
        .complains("/etc/portgrant.conf:1:17: 'udp' is a protocol, not a port")
        .complains("as in 53/udp");
    // Without /etc/services every rule with a service permits nothing, and no other rule is harmed.
    fs::remove_file("/etc/services").expect("rm");
    world.policy("permit alice http\n");
    ask(world).succeeds();
    fs::remove_file("/etc/portgrant.d/more.conf").expect("rm");
    ask(world).exits(77).complains("'http' is not a service in /etc/services");
    world.policy("deny bob http\npermit alice 80\n");
    ask(world).exits(78);
}

/// PG-5
fn the_caller_cannot_choose_another_policy(world: &World) {
    world.policy("permit bob 80\n");
    world.folder("/home/alice/etc", "alice", 0o755);
    world.file("/home/alice/portgrant.conf", "permit alice 80\n");
    let caller = world.as_user("alice").folder("/home/alice").env("PORTGRANT_CONF", "/home/alice/portgrant.conf");
    caller.run([BINDER, "exec", "-l", "80", "--", "true"]).exits(77);
    // A draft may be checked, and is only read.
    world.as_user("alice").run([LAUNCHER, "check", "/home/alice/portgrant.conf"]).succeeds().prints("1 rule, 1 file");
    world.as_user("alice").run([LAUNCHER, "check", "/etc/shadow"]).exits(71).complains("Permission denied");
    world.as_user("alice").run([LAUNCHER, "check", "/no/such"]).exits(71).complains("/no/such");
}

fn a_hundred_thousand_rules_are_read(world: &World) {
    let many: String = (0..100_000).map(|uid| format!("permit uid:{} {}\n", uid + 5000, uid % 500 + 1)).collect();
    world.policy(&many);
    ask(world).exits(77).complains("none of the 100000 rules");
    world.policy_file("alice.conf", "permit alice 80\n");
    ask(world).succeeds();
}
