//! The world keeps its own promises: a hostile caller that is none would make its tests say nothing.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use portgrant_tests::{BINDER, Install, LAUNCHER, LAUNCHER_ITSELF, Resource, Signal, World, both_installs};

both_installs![the_tests_install_the_helper_with_the_named_privilege];

fn the_tests_install_the_helper_with_the_named_privilege(world: &World) {
    let capabilities = world.as_root().run(["getcap", BINDER]).stdout;
    let mode = fs::metadata(BINDER).unwrap().permissions().mode() & 0o7777;

    let (expected_mode, expected_capabilities) = match world.install() {
        Install::Setuid => (0o4755, String::new()),
        Install::FileCapability => (0o755, format!("{BINDER} cap_net_bind_service=p\n")),
    };
    assert_eq!((mode, capabilities), (expected_mode, expected_capabilities));
    let folders = ["/", "/usr", "/usr/libexec", "/usr/libexec/portgrant", "/etc", "/usr/local/bin"];
    for path in folders.into_iter().chain([BINDER, LAUNCHER, LAUNCHER_ITSELF]) {
        let metadata = fs::metadata(path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o022), (0, 0, 0), "{path}");
    }
}

#[test]
fn processes_of_a_test_world_end_with_it_alone() {
    let (here, there) = mpsc::channel();
    let (ended, end) = mpsc::channel::<()>();
    let one = thread::spawn(move || {
        World::with(Install::Setuid, move |world| {
            // Daemons that left their parents, one of them into new namespaces but one.
            let script = "setsid sleep 1234 >/dev/null 2>&1 & echo $!";
            let plain = world.as_user("alice").run(["sh", "-c", script]).stdout;
            let script = "setsid unshare --mount --net sleep 1234 >/dev/null 2>&1 & echo $!";
            let apart = world.as_root().run(["sh", "-c", script]).stdout;
            let daemons: Vec<u32> = [plain, apart].iter().map(|pid| pid.trim().parse().unwrap()).collect();
            here.send(daemons.clone()).unwrap();
            end.recv().unwrap();
            assert!(daemons.into_iter().all(is_alive), "the end of another world killed them");
        });
    });
    let daemons = there.recv().unwrap();
    World::with(Install::Setuid, |_| ());
    ended.send(()).unwrap();
    one.join().unwrap();
    assert!(!daemons.into_iter().any(is_alive), "they outlived their world");
}

fn is_alive(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok() // no zombie has it
}

#[test]
fn a_test_user_has_its_ids_and_groups_and_no_capability() {
    World::with(Install::Setuid, |world| {
        let sleep = world.as_user("bob").spawn(["sleep", "60"]);

        let process = world.process_at_rest(sleep.pid());
        assert_eq!((process.uids, process.gids), ([1001; 4], [1001; 4]));
        assert_eq!(process.groups, [1001, 2000].into());
        assert!(process.is_powerless());
        assert_eq!(process.fds.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
        assert!(process.ignored.is_empty() && process.blocked.is_empty() && !process.no_new_privs);
        assert_eq!(process.umask, 0o022);
    });
}

#[test]
fn a_test_user_cannot_bind_a_low_port_but_can_make_user_namespaces() {
    World::with(Install::Setuid, |world| {
        let bind = "import socket; socket.socket().bind(('', 80))";
        world.as_user("alice").run(["python3", "-c", bind]).exits(1).complains("Permission denied");
        world.as_user("alice").run(["unshare", "--user", "--map-root-user", "id", "-u"]).succeeds().prints("0\n");
    });
}

#[test]
fn a_hostile_test_caller_has_its_properties() {
    World::with(Install::Setuid, |world| {
        let caller = world.as_user("alice").uids(1000, 1001, 1001).gids(1000, 1001, 1001).groups(&[7, 2000]);
        let caller = caller.ignoring(Signal::SIGCHLD).ignoring(Signal::SIGPIPE).blocking_all_signals();
        let caller = caller.no_new_privs().no_bounding_set().umask(0o077).in_a_deleted_folder();
        let sleep = caller.fd(9, File::open("/etc/passwd").unwrap()).spawn(["sleep", "60"]);

        let process = world.process_at_rest(sleep.pid());
        assert_eq!((process.uids, process.gids), ([1000, 1001, 1001, 1001], [1000, 1001, 1001, 1001]));
        assert_eq!(process.groups, [7, 2000].into());
        assert_eq!(process.ignored, [Signal::SIGCHLD, Signal::SIGPIPE].into());
        assert!(process.blocked.contains(&Signal::SIGTERM) && process.blocked.contains(&Signal::SIGCHLD));
        assert!(process.no_new_privs && process.bounding.is_empty());
        assert_eq!(process.umask, 0o077);
        assert!(process.folder.to_str().unwrap().ends_with(" (deleted)"), "{:?}", process.folder);
        assert_eq!(process.fds.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 9]);
        assert_eq!(process.fds[&9], Path::new("/etc/passwd"));
    });
}

#[test]
fn a_test_caller_has_its_limits_arguments_and_environment() {
    World::with(Install::Setuid, |world| {
        let alice = || world.as_user("alice");
        let limited = alice().limit(Resource::RLIMIT_NOFILE, 20).limit(Resource::RLIMIT_FSIZE, 0);
        limited.run(["sh", "-c", "ulimit -n; ulimit -f"]).succeeds().prints("20\n0\n");
        alice().limit(Resource::RLIMIT_NOFILE, 3).run(["cat", "/etc/passwd"]).exits(127);

        alice().arg0("other").run(["cat", "/proc/self/cmdline"]).succeeds().prints("other\0/proc/self/cmdline\0");
        alice().env("COLOUR", "red").run(["env"]).succeeds().prints("COLOUR=red\n").prints("USER=alice\n");
        alice().no_env().run(["/usr/bin/env"]).succeeds().is_silent();
        alice().stdin("three\nlines\nof text\n").run(["wc", "-l"]).succeeds().prints("3\n");
        alice().folder("/home/alice").run(["pwd"]).succeeds().prints("/home/alice\n");
        alice().run(["sh", "-c", "kill -9 $$"]).dies_of(Signal::SIGKILL);

        let closed = alice().closing(0).closing(2).spawn(["sleep", "60"]);
        assert!(world.process_at_rest(closed.pid()).fds.keys().eq([&1]));
        let bare = alice().without_argv().spawn(["/usr/bin/yes"]);
        assert_eq!(fs::read(format!("/proc/{}/cmdline", bare.pid())).unwrap(), b"\0");
    });
}

#[test]
fn a_test_program_gets_the_given_descriptors() {
    World::with(Install::Setuid, |world| {
        let mut file = File::options().read(true).write(true).create(true).truncate(true).open("/tmp/shared").unwrap();
        file.write_all(b"before ").unwrap();

        world.as_user("alice").fd(3, file.try_clone().unwrap()).run(["sh", "-c", "echo after >&3"]).succeeds();

        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "before after\n");
    });
}

#[test]
fn each_test_world_has_a_separate_network() {
    World::with(Install::Setuid, |world| {
        assert_eq!(world.listening(), []);
        let addresses = ["127.0.0.1:80", "127.1.2.3:80", "[::1]:80"];
        let listeners = addresses.map(|address| TcpListener::bind(address).unwrap());

        let listening = world.listening();
        assert_eq!(listening.iter().map(|l| l.endpoint()).collect::<Vec<_>>(), addresses.map(|a| format!("tcp {a}")));
        assert!(listening.iter().all(|l| l.uid == 0 && l.holders.contains(&std::process::id())), "{listening:?}");
        for address in addresses {
            TcpStream::connect(address).unwrap();
        }
        drop(listeners);
    });
}

#[test]
fn the_test_log_keeps_what_users_send() {
    World::with(Install::Setuid, |world| {
        let log = world.syslog();
        world.as_user("alice").run(["logger", "--priority", "authpriv.info", "a line"]).succeeds();
        assert!(matches!(&log.lines()[..], [line] if line.starts_with("<86>") && line.ends_with("a line")), "{log:?}");
    });
}

#[test]
#[should_panic(expected = "has not ended within")]
fn a_program_that_hangs_fails_its_test() {
    World::with(Install::Setuid, |world| {
        world.as_user("alice").within(Duration::from_millis(100)).run(["sleep", "60"]).succeeds();
    });
}
