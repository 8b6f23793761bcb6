//! The systemd units as they are shipped, under systemd: `tests/booted` starts this, on a separate machine where portgrant
//! is installed by packaging/install, /etc/portgrant.conf permits www-data ports 80 and 88, both units were enabled before the
//! machine was started, and web.service listens on 88. One test at a time, each leaves the units as they were then.

mod hardening;
mod importing;
mod upgrading;

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use portgrant_tests::{Outcome, World};

/// How long something may take that happens by itself, on a machine that is emulated.
const PATIENCE: Duration = Duration::from_secs(60);
const PINS: &str = "/sys/fs/bpf/portgrant";
const AUDIT: &str = "portgrant-kernel-audit.service";

fn run(words: &[&str]) -> Outcome {
    World::here().as_root().within(PATIENCE).run(words)
}

fn systemctl(words: &[&str]) -> Outcome {
    run(&[&["systemctl"], words].concat())
}

/// One property of a unit.
fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", "--value", "--property", name, unit]).succeeds().stdout.trim().to_owned()
}

#[track_caller]
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}\n{}", journal(&["--lines=40"]));
        thread::sleep(Duration::from_millis(100));
    }
}

/// What the journal has, a line each.
fn journal(words: &[&str]) -> String {
    run(&[&["journalctl", "--quiet", "--no-pager"], words].concat()).succeeds().stdout.clone()
}

/// What bind(2) returns to a service with these properties for each of `ports`.
fn bound(properties: &[&str], ports: &[u16]) -> Vec<String> {
    let script = format!(
        "import errno, socket\nfor port in {ports:?}:\n \
         try: socket.socket().bind(('127.0.0.1', port)); print('bound')\n \
         except OSError as e: print(errno.errorcode[e.errno])"
    );
    let mut words = vec!["systemd-run", "--quiet", "--wait", "--pipe", "--collect"];
    words.extend(properties.iter().flat_map(|property| ["--property", property]));
    words.extend(["/usr/bin/python3", "-Sc", &script]);
    run(&words).succeeds().stdout.lines().map(str::to_owned).collect()
}

/// www-data's on `ports`.
fn www_data(ports: &[u16]) -> Vec<String> {
    bound(&["User=www-data", "NoNewPrivileges=yes"], ports)
}

/// As it was when the machine was started.
fn as_at_boot(test: impl FnOnce(&World)) {
    let world = World::here();
    systemctl(&["reset-failed"]).succeeds();
    world.policy("permit www-data 80 88\n");
    systemctl(&["reload-or-restart", "portgrant-kernel"]).succeeds();
    systemctl(&["start", AUDIT]).succeeds();
    test(&world);
}

#[test]
fn at_boot_the_policy_is_loaded_before_the_network_is_there() {
    let order = journal(&["--boot", "--output=cat", "--unit=portgrant-kernel", "--unit=network.target"]);
    let at = |line: &str| {
        order.lines().position(|told| told.starts_with(line)).unwrap_or_else(|| panic!("no {line}: {order}"))
    };
    assert!(at("Finished portgrant-kernel.service") < at("Reached target network.target"), "{order}");
    // A server that was started by then has its port, at its first try.
    eventually("it listens", || TcpStream::connect("127.0.0.1:88").is_ok());
    assert_eq!((property("web", "ActiveState"), property("web", "User")), ("active".into(), "www-data".into()));
}

/// PG-21
#[test]
fn units_bind_permitted_ports_without_privilege() {
    as_at_boot(|_| {
        assert_eq!(www_data(&[80, 81]), ["bound", "EACCES"]);
        let confined = ["User=www-data", "CapabilityBoundingSet=", "ProtectSystem=strict", "PrivateUsers=yes"];
        assert_eq!(bound(&confined, &[80]), ["bound"]);
        assert_eq!(bound(&["User=games"], &[80]), ["EACCES"]);
        assert_eq!(bound(&["DynamicUser=yes"], &[80]), ["EACCES"]);
    });
}

/// PG-22
#[test]
fn a_reload_activates_the_new_policy_and_reports_a_broken_one() {
    as_at_boot(|world| {
        world.policy("permit www-data 81\n");
        systemctl(&["reload", "portgrant-kernel"]).succeeds();
        assert_eq!(www_data(&[80, 81]), ["EACCES", "bound"]);
        world.policy("permit www-data 80\npermit\n");
        assert!(!systemctl(&["reload", "portgrant-kernel"]).status.success());
        assert_eq!(www_data(&[80, 81]), ["EACCES", "bound"]);
        assert_eq!(property("portgrant-kernel", "ActiveState"), "active");
        let told = journal(&["--unit=portgrant-kernel", "--output=cat", "--lines=20"]);
        assert!(told.contains("why: /etc/portgrant.conf:2:7: the rule has no subject"), "{told}");
        world.policy("permit www-data 80\n");
        systemctl(&["reload", "portgrant-kernel"]).succeeds();
        assert_eq!(www_data(&[80, 81]), ["bound", "EACCES"]);
    });
}

/// The lines of grants for `port`, with other lines of syslog.
fn grants(port: u16) -> Vec<String> {
    let fields = "--output-fields=PRIORITY,SYSLOG_FACILITY,SYSLOG_IDENTIFIER,MESSAGE";
    let lines = journal(&["--boot", "--output=json", fields, "--identifier=portgrant-kernel"]);
    lines.lines().filter(|line| line.contains(&format!(":{port}/tcp"))).map(str::to_owned).collect()
}

/// PG-25
#[test]
fn every_grant_is_in_the_journal_across_restarts_and_reloads() {
    as_at_boot(|world| {
        world.policy("permit www-data 90-99\n");
        systemctl(&["reload", "portgrant-kernel"]).succeeds();
        let logged = |port| {
            assert_eq!(www_data(&[port]), ["bound"]);
            eventually("the grant is logged", || !grants(port).is_empty());
        };
        logged(90);
        let line = &grants(90)[0];
        let uid = world.uid("www-data");
        let said =
            format!("grant uid={uid} gid={uid} verb=kernel endpoint=127.0.0.1:90/tcp rule=/etc/portgrant.conf:1");
        assert!(line.contains(&said), "{line}");
        // LOG_AUTHPRIV and LOG_INFO
        assert!(line.contains("\"SYSLOG_FACILITY\":\"10\"") && line.contains("\"PRIORITY\":\"6\""), "{line}");

        // Grants while it is down are logged by the next one.
        systemctl(&["kill", "--signal=SIGKILL", AUDIT]).succeeds();
        logged(91);
        eventually("it was started again", || property(AUDIT, "ActiveState") == "active");
        assert!(property(AUDIT, "NRestarts") != "0");
        systemctl(&["reload", "portgrant-kernel"]).succeeds();
        logged(92);
        // And of a policy that was loaded anew.
        systemctl(&["restart", "portgrant-kernel"]).succeeds();
        logged(93);
        for port in 90..94 {
            assert_eq!(grants(port).len(), 1, "{:?}", grants(port));
        }
        assert!(
            run(&["/usr/local/sbin/portgrant-kernel", "show"])
                .succeeds()
                .stdout
                .contains("read by portgrant-kernel audit")
        );
    });
}

/// PG-23
#[test]
fn a_stop_leaves_nothing_and_no_failed_unit() {
    as_at_boot(|_| {
        systemctl(&["stop", "portgrant-kernel"]).succeeds();
        assert_eq!(www_data(&[80]), ["EACCES"]);
        assert!(!fs::exists(PINS).expect("a file system"));
        eventually("the reader has ended", || property(AUDIT, "ActiveState") == "inactive");
        assert_eq!(systemctl(&["list-units", "--failed", "--no-legend", "portgrant-*"]).succeeds().stdout, "");
        // It comes back with the policy.
        systemctl(&["start", "portgrant-kernel"]).succeeds();
        assert_eq!(www_data(&[80]), ["bound"]);
        eventually("the reader is back", || property(AUDIT, "ActiveState") == "active");
    });
}

/// As at a restart while the machine is started.
#[test]
fn an_interrupted_start_does_not_block_the_next() {
    as_at_boot(|world| {
        systemctl(&["stop", "portgrant-kernel"]).succeeds();
        world.folder("/run/systemd/system/portgrant-kernel.service.d", "root", 0o755);
        let slow = "/run/systemd/system/portgrant-kernel.service.d/slow.conf";
        world.file(slow, "[Service]\nExecStartPost=/bin/sleep 100\n");
        systemctl(&["daemon-reload"]).succeeds();
        systemctl(&["start", "--no-block", "portgrant-kernel"]).succeeds();
        eventually("it is loaded", || property("portgrant-kernel", "SubState") == "start-post");
        systemctl(&["stop", "portgrant-kernel"]).succeeds();
        assert!(!fs::exists(PINS).expect("a file system"));
        fs::remove_file(slow).expect("removed");
        systemctl(&["daemon-reload"]).succeeds();
        systemctl(&["start", "portgrant-kernel"]).succeeds();
        // What somebody loaded by hand is left as it is.
        systemctl(&["stop", "portgrant-kernel"]).succeeds();
        run(&["/usr/local/sbin/portgrant-kernel", "load"]).succeeds();
        systemctl(&["start", "portgrant-kernel"]).exits(1);
        assert!(fs::exists(PINS).expect("a file system"));
        run(&["/usr/local/sbin/portgrant-kernel", "unload"]).succeeds();
    });
}

#[test]
fn the_unit_mounts_the_bpf_file_system_if_it_is_missing() {
    as_at_boot(|_| {
        systemctl(&["stop", "portgrant-kernel", AUDIT, "portgrant-bpf"]).succeeds();
        run(&["umount", "/sys/fs/bpf"]).succeeds();
        systemctl(&["start", "portgrant-kernel"]).succeeds();
        let mounted = run(&["findmnt", "--noheadings", "--output=FSTYPE,OPTIONS", "/sys/fs/bpf"]);
        mounted.succeeds().prints("bpf").prints("nosuid,nodev,noexec").prints("mode=700");
        assert_eq!(www_data(&[80]), ["bound"]);
    });
}

#[test]
fn the_units_are_valid_and_confined_and_work() {
    as_at_boot(|_| {
        let units = ["portgrant-bpf.service", "portgrant-kernel.service", AUDIT];
        // No man(1) is there to look the page up.
        run(&[&["systemd-analyze", "verify", "--man=no"][..], &units].concat()).succeeds().is_silent();
        for unit in &units[1..] {
            // Of ten; by far the most of Debian's own have more than nine.
            run(&["systemd-analyze", "security", "--no-pager", "--threshold=30", unit]).succeeds();
        }
        // Calls that the filter forbids end with EPERM, and of what it would kill the kernel tells. Other tests write into
        // this journal as well, so the kernel's lines count only if they name the program of these units.
        let words: Vec<&str> = units.iter().flat_map(|unit| ["--unit", unit]).collect();
        let told = journal(&[&["--boot", "--output=cat"][..], &words].concat());
        for sign in ["31/SYS", "Operation not permitted"] {
            assert!(!told.contains(sign), "{sign}: {told}");
        }
        let told = journal(&["--boot", "--output=cat", "_TRANSPORT=kernel", "_TRANSPORT=audit"]);
        for line in told.lines().filter(|line| line.contains("portgrant-kernel")) {
            for sign in ["SECCOMP", "type=1326", "apparmor=\"DENIED\""] {
                assert!(!line.contains(sign), "{line}");
            }
        }
    });
}

/// README.md: a user's own unit, in a service manager of that user.
#[test]
fn a_unit_of_a_users_own_service_manager_gets_its_port() {
    const SERVER: &str = "#!/usr/bin/python3 -S\nimport os, socket\n\
        s = socket.socket(fileno=3) if 'LISTEN_FDS' in os.environ else socket.create_server(('127.0.0.1', 80))\n\
        while True:\n c = s.accept()[0]; c.sendall(str(os.getuid()).encode()); c.close()\n";
    as_at_boot(|world| {
        systemctl(&["stop", "portgrant-kernel"]).succeeds();
        world.file("/run/served", SERVER);
        run(&["chmod", "0755", "/run/served"]).succeeds();
        // As user@.service starts it, but without PAM and logind.
        let manager = ["--property=User=www-data", "--property=RuntimeDirectory=manager", "--property=Delegate=yes"];
        let start = [
            "systemd-run",
            "--quiet",
            "--unit=manager",
            "--property=Type=notify",
            "--setenv=XDG_RUNTIME_DIR=/run/manager",
        ];
        run(&[&start[..], &manager, &["/lib/systemd/systemd", "--user"]].concat()).succeeds();
        for (name, command) in [("execs", "exec -l 127.0.0.1:80"), ("runs", "run")] {
            let unit = format!("[Service]\nExecStart=/usr/local/bin/portgrant {command} -- /run/served\n");
            world.file(&format!("/etc/systemd/user/{name}.service"), &unit);
            let own = |verb| {
                let user = ["setpriv", "--reuid=www-data", "--regid=www-data", "--clear-groups", "env"];
                run(&[&user[..], &["XDG_RUNTIME_DIR=/run/manager", "systemctl", "--user", verb, name]].concat())
                    .succeeds();
            };
            own("start");
            eventually("the user's server answers", || {
                let mut uid = String::new();
                TcpStream::connect("127.0.0.1:80").is_ok_and(|mut to| to.read_to_string(&mut uid).is_ok())
                    && uid == world.uid("www-data").to_string()
            });
            own("stop");
        }
        systemctl(&["stop", "manager"]).succeeds();
    });
}
