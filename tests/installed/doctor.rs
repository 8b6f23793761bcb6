//! doctor: each thing that can be wrong with an installation is broken once, and its line and its fix are seen; what the
//! fix says is done, and all is well again.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use portgrant_tests::{BINDER, Caller, Install, LAUNCHER, Outcome, POLICY, World, both_installs};

both_installs![
    a_correct_installation_is_reported_as_correct,
    doctor_finds_a_helper_without_privilege_and_its_fix_works,
    a_helper_that_others_can_change_is_found,
    doctor_and_errors_report_a_missing_or_unreachable_helper,
    programs_of_another_version_are_found,
    doctor_reports_what_keeps_this_process_from_gaining_privilege,
    a_policy_that_cannot_be_believed_is_found,
    files_that_only_root_can_read_are_found_by_root_and_by_everybody,
    tables_of_names_that_others_can_change_are_found,
    doctor_warns_of_settings_that_may_be_unintended,
    findings_are_readable_by_programs,
];

fn doctor(world: &World) -> Outcome {
    world.as_user("alice").run([LAUNCHER, "doctor"])
}

/// The line of what is broken, its fix, and the status that goes with it.
#[track_caller]
fn broken(caller: Caller, text: &str, fix: &str) {
    let outcome = caller.run([LAUNCHER, "doctor"]);
    let line = outcome.exits(78).stdout.lines().find(|line| line.starts_with("broken ") && line.contains(text));
    assert!(line.is_some(), "not told: {text}: {outcome}");
    outcome.prints(&format!("fix: {fix}"));
}

fn chmod(path: &str, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap_or_else(|error| panic!("chmod {path}: {error}"));
}

fn files_that_only_root_can_read_are_found_by_root_and_by_everybody(world: &World) {
    world.policy("permit alice http\n");
    world.policy_file("more.conf", "permit alice 81\n");
    // No part of the policy.
    world.policy_file(".draft.conf", "permit alice 82\n");
    chmod("/etc/portgrant.d/.draft.conf", 0o600);
    for (path, mode, right) in [
        ("/etc/portgrant.conf", 0o600, 0o644),
        ("/etc/portgrant.d/more.conf", 0o600, 0o644),
        ("/etc/portgrant.d", 0o711, 0o755),
        ("/etc/passwd", 0o600, 0o644),
        ("/etc/services", 0o640, 0o644),
        ("/etc", 0o700, 0o755),
    ] {
        chmod(path, mode);
        world.as_user("alice").run([LAUNCHER, "exec", "-l", "80", "--", "true"]).exits(78);
        let fix = format!("as root: chmod {right:04o} {path}");
        world
            .as_root()
            .run([LAUNCHER, "check"])
            .exits(78)
            .prints(&format!("error: users cannot read {path}"))
            .prints(&fix);
        broken(world.as_root(), &format!("users cannot read {path}"), &fix);
        chmod(path, right);
        world.as_root().run([LAUNCHER, "check"]).succeeds();
        world.as_user("alice").run([LAUNCHER, "exec", "-l", "80", "--", "true"]).succeeds();
    }
}

/// Everything that the installation wants is there.
fn well(world: &World) {
    world.policy("permit alice 80\n");
}

fn a_correct_installation_is_reported_as_correct(world: &World) {
    well(world);
    let _log = world.syslog();
    let outcome = doctor(world);
    let privilege = match world.install() {
        Install::Setuid => "setuid root",
        Install::FileCapability => "cap_net_bind_service=p",
    };
    outcome
        .succeeds()
        .prints(&format!("ok      helper     {BINDER}, version "))
        .prints(&format!("ok      privilege  {privilege}\n"))
        .prints("ok      process    it can gain privilege")
        .prints("ok      policy     well-formed, and only root can change it: 1 rule in 1 file")
        .prints("ok      names      only root can change /etc/passwd")
        .prints("ok      ports      ports below 1024 need a rule")
        .prints("ok      log        /dev/log takes the line")
        .prints("note    kernel     Linux ")
        .prints("\nall is well\n");
    assert!(!outcome.stdout.contains("fix: "), "{outcome}");
    assert!(world.as_root().run([LAUNCHER, "doctor"]).succeeds().stdout.ends_with("all is well\n"));
}

fn doctor_finds_a_helper_without_privilege_and_its_fix_works(world: &World) {
    well(world);
    let has_neither = "it has neither cap_net_bind_service=p nor root's setuid bit";
    chmod(BINDER, 0o755);
    let _ = world.as_root().run(["setcap", "-r", BINDER]);
    broken(
        world.as_user("alice"),
        has_neither,
        &format!("as root: setcap cap_net_bind_service=p {BINDER}; or as root: "),
    );
    world.as_user("alice").run([LAUNCHER, "exec", "-l", "80", "--", "true"]).exits(78);
    // Another owner's bit, another capability.
    world.as_root().run(["chown", "bob", BINDER]).succeeds();
    chmod(BINDER, 0o4755);
    broken(world.as_user("alice"), has_neither, "as root: setcap");
    broken(world.as_user("alice"), &format!("{BINDER} belongs to uid 1001"), &format!("as root: chown root {BINDER}"));
    world.as_root().run(["chown", "root", BINDER]).succeeds();
    chmod(BINDER, 0o755);
    world.as_root().run(["setcap", "cap_net_raw=p", BINDER]).succeeds();
    broken(world.as_user("alice"), has_neither, "as root: setcap");
    for (capability, warning) in [
        ("cap_net_bind_service=ep", "cap_net_bind_service=ep: if the bounding set lacks it"),
        ("cap_net_bind_service,cap_net_raw=p", "other capabilities that it does not need"),
    ] {
        world.as_root().run(["setcap", capability, BINDER]).succeeds();
        doctor(world)
            .succeeds()
            .prints(warning)
            .prints(&format!("fix: as root: setcap cap_net_bind_service=p {BINDER}\n"));
    }
    world.as_root().run(["setcap", "cap_net_bind_service=p", BINDER]).succeeds();
    doctor(world).succeeds();
    world.as_user("alice").run([LAUNCHER, "exec", "-l", "80", "--", "true"]).succeeds();
    // The bit is on a file system where it is void.
    world.as_root().run(["mount", "-o", "remount,nosuid", "/usr/libexec"]).succeeds();
    broken(world.as_user("alice"), "is mounted nosuid", "as root, install it on a file system without nosuid");
}

fn a_helper_that_others_can_change_is_found(world: &World) {
    well(world);
    for place in ["/usr/libexec", "/usr/libexec/portgrant"] {
        chmod(place, 0o777);
        broken(world.as_user("alice"), &format!("{place} has mode 0777"), &format!("as root: chmod go-w {place}"));
        chmod(place, 0o755);
    }
    world.as_root().run(["chown", "bob", "/usr/libexec/portgrant"]).succeeds();
    broken(
        world.as_user("alice"),
        "/usr/libexec/portgrant belongs to uid 1001",
        "as root: chown root /usr/libexec/portgrant",
    );
    world.as_root().run(["chown", "root", "/usr/libexec/portgrant"]).succeeds();
    chmod(POLICY, 0o757);
    broken(world.as_user("alice"), &format!("{POLICY} has mode 0757"), &format!("as root: chmod go-w {POLICY}"));
    chmod(POLICY, 0o755);
    doctor(world).succeeds();
}

fn doctor_and_errors_report_a_missing_or_unreachable_helper(world: &World) {
    well(world);
    let exec = |caller: Caller| caller.run([LAUNCHER, "exec", "-l", "80", "--", "true"]);
    chmod("/usr/libexec/portgrant", 0o700);
    // Nor can the launcher be reached then, which would tell.
    for outcome in [exec(world.as_user("alice")), world.as_user("alice").run([LAUNCHER, "doctor"])] {
        outcome.exits(78).complains("Permission denied").complains("as root: chmod 0755 /usr/libexec/portgrant ");
    }
    chmod("/usr/libexec/portgrant", 0o755);
    world.folder("/closed", "root", 0o700);
    let elsewhere = || world.as_user("alice").env("PORTGRANT_BINDER", "/closed/helper");
    let (text, fix) = ("cannot be reached: you may not enter /closed", "as root: chmod 0755 /closed");
    broken(elsewhere(), text, fix);
    exec(elsewhere()).exits(78).complains(text).complains(fix);
    let mode = fs::metadata(BINDER).expect("installed").permissions().mode();
    chmod(BINDER, 0o700);
    let text = format!("you may not execute {BINDER}");
    broken(world.as_user("alice"), &text, &format!("as root: chmod a+x {BINDER}"));
    exec(world.as_user("alice")).exits(78).complains(&format!("doctor: {text}")).complains("chmod a+x");
    chmod(BINDER, mode);
    let own = || world.as_user("alice").env("PORTGRANT_BINDER", "/no/such/helper");
    broken(own(), "PORTGRANT_BINDER names /no/such/helper", "unset PORTGRANT_BINDER");
    exec(own())
        .exits(78)
        .complains("doctor: PORTGRANT_BINDER names /no/such/helper")
        .complains("unset PORTGRANT_BINDER");
    fs::rename(BINDER, "/usr/libexec/away").expect("mv");
    broken(world.as_user("alice"), "portgrant-binder is not installed", "install portgrant");
    symlink("/no/such", BINDER).expect("symlink");
    broken(world.as_user("alice"), "is a symlink that leads to no file", "as root, put the helper itself there");
    exec(world.as_user("alice")).exits(78).complains("is a symlink that leads to no file");
    fs::remove_file(BINDER).expect("rm");
    fs::rename("/usr/libexec/away", BINDER).expect("mv");
    doctor(world).succeeds();
    fs::rename(POLICY, "/usr/libexec/away").expect("mv");
    broken(
        world.as_user("alice"),
        "portgrant-explain, which reads the policy, was not found",
        "install all of portgrant",
    );
    for verb in ["list", "check"] {
        world.as_user("alice").run([LAUNCHER, verb]).exits(78).complains("portgrant-explain, which reads the policy");
    }
}

fn programs_of_another_version_are_found(world: &World) {
    well(world);
    for (path, name) in [(POLICY, "portgrant-explain"), (BINDER, "portgrant-binder")] {
        fs::rename(path, "/usr/libexec/away").expect("mv");
        let script = |said: &str| {
            let text = format!("#!/bin/sh\necho {said}\n");
            world.file("/tmp/script", &text);
            world.as_root().run(["install", "-m0755", "/tmp/script", path]).succeeds();
        };
        script(&format!("{name} 99.1"));
        broken(world.as_user("alice"), &format!("{path} is version 99.1"), "as root, install both from one build");
        script("");
        broken(world.as_user("alice"), &format!("{path} does not print its version"), "as root, install it again");
        fs::rename("/usr/libexec/away", path).expect("mv");
    }
    doctor(world).succeeds();
}

fn doctor_reports_what_keeps_this_process_from_gaining_privilege(world: &World) {
    well(world);
    broken(
        world.as_user("alice").no_new_privs(),
        "no_new_privs is set here",
        "start it without no_new_privs (systemd: NoNewPrivileges=",
    );
    let no_set = world.as_user("alice").no_bounding_set();
    broken(no_set, "CAP_NET_BIND_SERVICE is not in the bounding set", "start it with the capability in the set");
    let traced = world.as_user("alice").run(["strace", "-o", "/dev/null", LAUNCHER, "doctor"]);
    traced.prints("warning process    a tracer without privilege is attached");
    // A container that shares the network of the host, and one with its own.
    let another = "broken  namespace  the network belongs to another user namespace";
    let apart = |more: &[&str]| {
        let words = [&["unshare", "--user", "--map-root-user"], more, &[LAUNCHER, "doctor"]].concat();
        world.as_user("alice").run(words)
    };
    apart(&[]).exits(78).prints(another).prints("podman: without --network host");
    let own = apart(&["--net"]);
    own.prints("note    namespace  this is a user namespace");
    assert!(!own.stdout.contains(another), "{own}");
}

fn a_policy_that_cannot_be_believed_is_found(world: &World) {
    broken(
        world.as_user("alice"),
        "/etc/portgrant.conf: it does not exist",
        "as root: echo '# no rule yet' >>/etc/portgrant.conf",
    );
    well(world);
    world.policy_file("a.conf", "permit alice 81\n");
    for (path, mode, mended) in [
        ("/etc/portgrant.conf", 0o666, 0o644),
        ("/etc/portgrant.d/a.conf", 0o664, 0o644),
        ("/etc/portgrant.d", 0o777, 0o755),
        ("/etc", 0o775, 0o755),
    ] {
        chmod(path, mode);
        broken(
            world.as_user("alice"),
            &format!("{path}: its mode is {mode:04o}"),
            &format!("check its content, then as root: chmod go-w {path}"),
        );
        chmod(path, mended);
    }
    chmod("/etc/portgrant.conf", 0o600);
    broken(world.as_user("alice"), "the caller may not read it", "as root: chmod 0644 /etc/portgrant.conf");
    chmod("/etc/portgrant.conf", 0o644);
    fs::rename("/etc/portgrant.d/a.conf", "/etc/elsewhere").expect("mv");
    symlink("/etc/elsewhere", "/etc/portgrant.d/a.conf").expect("symlink");
    broken(world.as_user("alice"), "/etc/portgrant.d/a.conf: it is a symlink", "as root, put the file itself");
    fs::remove_file("/etc/portgrant.d/a.conf").expect("rm");
    world.policy_file("a.conf", "permit alice 81\npermit alice 8o\n");
    broken(
        world.as_user("alice"),
        "/etc/portgrant.d/a.conf:2:14: '8o' is not a valid port",
        "as root, correct that line",
    );
    world.policy_file("a.conf", "permit alice 81\n");
    doctor(world).succeeds().prints("well-formed, and only root can change it: 2 rules in 2 files");
}

fn tables_of_names_that_others_can_change_are_found(world: &World) {
    // Rules that need none of them: the helper would not look.
    world.policy("permit uid:1000 80\n");
    for table in ["/etc/subuid", "/etc/subgid"] {
        world.file(table, "");
    }
    for table in ["/etc/passwd", "/etc/group", "/etc/services", "/etc/subuid", "/etc/subgid"] {
        chmod(table, 0o666);
        broken(
            world.as_user("alice"),
            &format!("names      {table}: its mode is 0666"),
            &format!("check its content, then as root: chmod go-w {table}"),
        );
        chmod(table, 0o644);
    }
    fs::rename("/etc/subuid", "/etc/away").expect("mv");
    symlink("/etc/away", "/etc/subuid").expect("symlink");
    broken(world.as_user("alice"), "/etc/subuid: it is a symlink", "as root, put the file itself at /etc/subuid");
}

fn doctor_warns_of_settings_that_may_be_unintended(world: &World) {
    world.policy("permit alice 80\npermit alice 600-610 reserved\npermit alice 80\n");
    world.file("/etc/exports", "/srv *(rw)\n");
    let warns = |text: &str, fix: &str| {
        let outcome = doctor(world);
        let line = outcome.succeeds().stdout.lines().find(|line| line.starts_with("warning ") && line.contains(text));
        assert!(line.is_some(), "not told: {text}: {outcome}");
        outcome.prints(fix);
    };
    warns("log        /dev/log is not there", "fix: as root, start a log daemon");
    warns("policy     /etc/portgrant.conf:3:1: the rule adds nothing", "");
    warns("nfs        /etc/portgrant.conf:2:1: NFS with sec=sys is exported by /etc/exports", "sec=krb5");
    for (start, text) in [("0", "every user can bind every port"), ("80", "every user can bind ports from 80 on")] {
        fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", start).expect("the world's own sysctl");
        warns(text, "as root: sysctl net.ipv4.ip_unprivileged_port_start=1024");
    }
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "2000").expect("the world's own sysctl");
    doctor(world).succeeds().prints("note    ports      ports below 2000 need a rule");
    // A log daemon that died left its socket.
    drop(std::os::unix::net::UnixDatagram::bind("/dev/log").expect("a socket"));
    chmod("/dev/log", 0o666);
    warns("log        /dev/log: Connection refused", "fix: as root, restart the log daemon");
}

fn findings_are_readable_by_programs(world: &World) {
    well(world);
    chmod("/etc/services", 0o666);
    let json = world.as_user("alice").run([LAUNCHER, "doctor", "--format", "json"]);
    let script = "import json, sys\n\
        said = json.loads(sys.argv[1])\n\
        assert (said['broken'], said['warnings']) == (1, 1), said\n\
        bad = [one for one in said['findings'] if one['state'] == 'broken']\n\
        assert [(one['about'], one['fix']) for one in bad] == [('names', 'check its content, then as root: chmod go-w /etc/services')], said\n";
    world.as_user("alice").run(["python3", "-c", script, &json.exits(78).stdout]).succeeds();
}
