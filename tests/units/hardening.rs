//! The lines of a unit that take rights away: which go with which way to a port. The table and the units of
//! portgrant-units(7) are read from the page, and each cell is tried.

use std::fs;

use portgrant_tests::{Outcome, World};

use crate::{eventually, journal, property, run, systemctl};

const PAGE: &str = include_str!("../../packaging/man/portgrant-units.7");
/// Takes over the socket that was handed over, or binds one, and says so.
const SERVER: &str = "#!/usr/bin/python3 -S\nimport os, socket\n\
    print('bound', socket.socket(fileno=3).getsockname()[1])\n";
const BINDS: &str = "#!/usr/bin/python3 -S\nimport socket\ns = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
    s.bind(('127.0.0.1', 80))\ns.listen()\nprint('bound', s.getsockname()[1])\n";

/// A way to a port: whether User= stands in the unit, and the command.
const WAYS: [(bool, &[&str]); 4] = [
    (true, &["portgrant", "exec", "-l", "127.0.0.1:80", "--", "/run/server"]),
    (false, &["portgrant", "exec", "--user", "www-data", "-l", "127.0.0.1:80", "--", "/run/server"]),
    (true, &["portgrant", "run", "--", "/run/binds"]),
    (true, &["/run/binds"]),
];
const KERNEL: usize = 3;

fn prepare() -> World {
    let world = World::here();
    for (path, content) in [("/run/server", SERVER), ("/run/binds", BINDS)] {
        world.file(path, content);
        run(&["chmod", "0755", path]).succeeds();
    }
    world.policy("permit www-data 80 88\n");
    world
}

/// What the way does in a service with these lines.
fn tried(way: usize, lines: &str) -> Outcome {
    let (has_user, command) = WAYS[way];
    let user = if has_user { "User=www-data" } else { "User=root" };
    let mut words = vec!["systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--property", user];
    words.extend(lines.split("; ").filter(|line| *line != "User=www-data").flat_map(|line| ["--property", line]));
    words.extend(command);
    run(&words)
}

/// systemd's number, and how it was built.
fn version() -> (u32, String) {
    let text = systemctl(&["--version"]).succeeds().stdout.clone();
    let number = text.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    (number.expect("a version"), text)
}

#[test]
fn every_cell_of_the_manual_page_is_as_it_says() {
    let _world = prepare();
    let (number, built) = version();
    let plain = PAGE.replace("\\-", "-");
    let rows = plain.lines().skip_while(|line| *line != "_").skip(1).take_while(|line| *line != ".TE");
    let rows: Vec<Vec<&str>> = rows.map(|row| row.split('\t').collect()).collect();
    let (mut wrong, mut cells) = (Vec::new(), 0);
    for way in 0..WAYS.len() {
        systemctl(&[if way == KERNEL { "start" } else { "stop" }, "portgrant-kernel"]).succeeds();
        for row in &rows {
            let [lines, expected] = [row[0], row[1 + way]];
            let outcome = tried(way, lines);
            let has_not = ["Failed to parse", "Unknown assignment"].iter().any(|word| outcome.stderr.contains(word))
                || lines.contains("SocketBind") && built.contains("-BPF_FRAMEWORK");
            let expected = expected == "yes" || expected.parse::<u32>().is_ok_and(|since| number >= since);
            cells += usize::from(!has_not);
            if !has_not && expected != (outcome.stdout == "bound 80\n") {
                wrong.push(format!("{lines}, {}: {outcome}", WAYS[way].1.join(" ")));
            }
        }
    }
    println!("measured: {cells} cells under systemd {number}");
    assert!(wrong.is_empty() && rows.len() > 40, "{}", wrong.join("\n"));
}

#[test]
fn the_units_of_the_manual_page_serve() {
    let _world = prepare();
    let (number, _) = version();
    for (name, unit) in units() {
        if name == "kernel" {
            systemctl(&["start", "portgrant-kernel"])
        } else {
            systemctl(&["stop", "portgrant-kernel"])
        }
        .succeeds();
        fs::write("/run/systemd/system/shown.service", unit.replace("[Service]", "[Service]\nType=oneshot"))
            .expect("written");
        systemctl(&["daemon-reload"]).succeeds();
        let started = systemctl(&["start", "shown"]);
        let told = journal(&["--unit=shown", "--output=cat", "--lines=20"]);
        assert!(started.status.success() && told.contains("bound 80"), "{name}, {number}: {told}");
    }
    fs::remove_file("/run/systemd/system/shown.service").expect("removed");
    systemctl(&["daemon-reload"]).succeeds();
}

/// The units that stand in the page.
fn units() -> Vec<(&'static str, String)> {
    let parts = PAGE.split(".\\\" unit: ").skip(1).map(|part| part.split_once('\n').expect("a unit"));
    let unit = |text: &str| text.split(".\\\" end").next().unwrap_or_default().replace("\\-", "-");
    parts.map(|(name, text)| (name, unit(text))).collect()
}

/// The filter of @system-service kills what it does not know.
#[test]
fn run_says_before_the_program_starts_what_a_filter_keeps_from_it() {
    let _world = prepare();
    for (lines, why) in [
        (
            "SystemCallFilter=@system-service",
            "a system call filter kills every process that calls pidfd_getfd(2) (SIGSYS)",
        ),
        (
            "SystemCallFilter=@system-service; SystemCallErrorNumber=EPERM",
            "a system call filter or a container forbids pidfd_getfd(2) (Operation not permitted (os error 1))",
        ),
    ] {
        let outcome = tried(2, lines);
        let fix = "fix: in a unit of systemd, add the line SystemCallFilter=pidfd_getfd seccomp capset @setuid; ";
        outcome.exits(78).complains(&format!("  why: {why}\n  {fix}"));
    }
}

/// The store is empty at the first start, and not at the second.
#[test]
fn a_descriptor_store_needs_one_more_option() {
    let world = prepare();
    systemctl(&["stop", "portgrant-kernel"]).succeeds();
    world.file(
        "/run/stores",
        "#!/usr/bin/python3 -S\nimport os, socket, time\n\
         print('names', os.environ['LISTEN_FDS'], os.environ['LISTEN_FDNAMES'], flush=True)\n\
         notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
         notify.connect(os.environ['NOTIFY_SOCKET'])\n\
         kept = os.open('/run/server', os.O_RDONLY)\n\
         if os.environ['LISTEN_FDS'] == '1': socket.send_fds(notify, [b'FDSTORE=1\\nFDNAME=mine'], [kept])\n\
         notify.send(b'READY=1')\ntime.sleep(600)\n",
    );
    run(&["chmod", "0755", "/run/stores"]).succeeds();
    let start = |more: &str, starts: &[&str]| {
        let unit = format!(
            "[Service]\nType=notify\nUser=www-data\nFileDescriptorStoreMax=9\n\
             ExecStart=portgrant exec {more}-l 127.0.0.1:80 -- /run/stores\n"
        );
        fs::write("/run/systemd/system/stores.service", unit).expect("written");
        systemctl(&["daemon-reload"]).succeeds();
        starts.iter().map(|verb| systemctl(&[verb, "stores"]).status.success()).collect::<Vec<_>>()
    };
    assert_eq!(start("", &["start", "restart"]), [true, false]);
    assert_eq!(property("stores", "ExecMainStatus"), "64");
    let told = journal(&["--unit=stores", "--output=cat", "--lines=20"]);
    assert!(
        told.contains("why: LISTEN_FDS announces it (mine): a socket unit or a descriptor store passed it"),
        "{told}"
    );
    assert!(told.contains("fix: add --keep-listen: "), "{told}");
    systemctl(&["stop", "stores"]).succeeds();
    systemctl(&["reset-failed"]).succeeds();
    assert_eq!(start("--keep-listen ", &["start", "restart"]), [true, true]);
    let names = || journal(&["--unit=stores", "--output=cat", "--lines=20"]);
    eventually("the second has both", || names().contains("names 2 mine:80/tcp"));
    systemctl(&["stop", "stores"]).succeeds();
    fs::remove_file("/run/systemd/system/stores.service").expect("removed");
    systemctl(&["daemon-reload"]).succeeds();
}
