//! A server that replaces itself, the server crate's example `generations`, as a service: what its clients get when it is
//! upgraded, reloaded, stopped and restarted, and whether systemd watches the process that serves.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread::{self, JoinHandle};

use portgrant_tests::{http_get, skip};

use crate::{PATIENCE, eventually, property, run, systemctl};

const PROGRAM: &str = "/portgrant/programs/generations";
const SERVICE: &str = "generations";
const ADDRESS: &str = "127.0.0.1:8088";
/// KiB of a download, one every hundredth of a second.
const DOWNLOAD: usize = 300;

/// The ways in which a unit has its server upgraded by `systemctl reload`.
fn reloads() -> Vec<&'static str> {
    let version = systemctl(&["--version"]).succeeds().stdout.clone();
    let number: u32 = version.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a version");
    let mut reloads = vec!["Type=notify\nExecReload=kill -USR2 $MAINPID"];
    if number >= 253 {
        reloads.push("Type=notify-reload\nReloadSignal=USR2");
    }
    reloads
}

/// The service, running, as it is `reload`ed and with more lines in its unit; stopped and removed afterwards.
fn with_service(reload: &str, more: &str, test: impl FnOnce()) {
    if !Path::new(PROGRAM).exists() {
        return skip("the example servers are not built for this machine");
    }
    let file = format!("/run/systemd/system/{SERVICE}.service");
    let unit = format!(
        "[Service]\n{reload}\n{more}\nUser=www-data\nKillSignal=SIGQUIT\nTimeoutStopSec={0}\n\
         ExecStart={PROGRAM} --drain {0} {ADDRESS}\n",
        PATIENCE.as_secs()
    );
    fs::create_dir_all("/run/systemd/system").expect("a folder");
    fs::write(&file, unit).expect("written");
    systemctl(&["daemon-reload"]).succeeds();
    systemctl(&["start", SERVICE]).succeeds();
    test();
    systemctl(&["stop", SERVICE]).succeeds();
    fs::remove_file(file).expect("removed");
    systemctl(&["daemon-reload"]).succeeds();
    systemctl(&["reset-failed"]).succeeds();
}

/// A download that has begun.
fn download() -> JoinHandle<usize> {
    let mut stream = TcpStream::connect(ADDRESS).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    write!(stream, "GET /drip/{DOWNLOAD} HTTP/1.0\r\n\r\n").expect("sent");
    let mut all = vec![0];
    stream.read_exact(&mut all).expect("it begins");
    thread::spawn(move || {
        // An end that is a reset is seen by what is missing.
        let _ = stream.read_to_end(&mut all);
        let body = all.windows(4).position(|end| end == b"\r\n\r\n").map(|at| all.len() - at - 4);
        body.unwrap_or_default()
    })
}

#[track_caller]
fn is_whole(download: JoinHandle<usize>) {
    assert_eq!(download.join().expect("joined"), DOWNLOAD * 1024);
}

fn generation() -> String {
    let answer = http_get(ADDRESS, "/");
    let after = answer.split("generation ").nth(1).and_then(|rest| rest.split(' ').next());
    after.expect(&answer).to_owned()
}

fn main_process() -> String {
    property(SERVICE, "MainPID")
}

/// The processes of the service.
fn processes() -> Vec<String> {
    let group = property(SERVICE, "ControlGroup");
    let list = ["", "/systemd", "/unified"].map(|hierarchy| format!("/sys/fs/cgroup{hierarchy}{group}/cgroup.procs"));
    let text = list.iter().find_map(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Upgrades to `number`, while a download runs, and waits until the old generation has ended.
fn upgrade(number: u32) {
    let running = download();
    systemctl(&["reload", SERVICE]).succeeds();
    eventually("the next one serves", || generation() == number.to_string());
    is_whole(running);
    eventually("and it alone", || processes() == [main_process()]);
}

#[test]
fn a_stop_lets_downloads_finish_after_many_upgrades() {
    for reload in reloads() {
        for upgrades in 0..3 {
            with_service(reload, "", || {
                (0..upgrades).for_each(|done| upgrade(done + 2));
                let running = download();
                systemctl(&["stop", SERVICE]).succeeds();
                is_whole(running);
                let ended = ["ActiveState", "Result"].map(|name| property(SERVICE, name));
                assert_eq!(ended, ["inactive", "success"], "after {upgrades} upgrades by {reload}");
            });
        }
    }
}

#[test]
fn a_restart_lets_downloads_of_an_upgraded_server_finish() {
    with_service(reloads()[0], "", || {
        upgrade(2);
        let running = download();
        systemctl(&["restart", SERVICE]).succeeds();
        is_whole(running);
        assert_eq!(generation(), "1");
    });
}

/// Also while the generation before still finishes what it has: systemd asks both processes to end.
#[test]
fn a_stop_right_after_an_upgrade_lets_the_downloads_of_both_generations_finish() {
    with_service(reloads()[0], "", || {
        let of_the_first = download();
        systemctl(&["reload", SERVICE]).succeeds();
        eventually("the next one serves", || generation() == "2");
        let of_the_second = download();
        systemctl(&["stop", SERVICE]).succeeds();
        is_whole(of_the_first);
        is_whole(of_the_second);
    });
}

#[test]
fn the_watchdog_watches_the_process_that_serves() {
    with_service(reloads()[0], "WatchdogSec=10", || {
        upgrade(2);
        let second = main_process();
        thread::sleep(std::time::Duration::from_secs(12));
        assert_eq!((main_process(), generation()), (second.clone(), "2".to_owned()), "it is heard");
        run(&["kill", "-STOP", &second]).succeeds();
        eventually("it is ended", || property(SERVICE, "Result") == "watchdog");
    });
}

/// systemd learns at once that the process has ended, as of any of its children.
#[test]
fn an_upgraded_server_that_crashes_is_started_again() {
    with_service(reloads()[0], "Restart=on-failure\nRestartSec=0", || {
        upgrade(2);
        run(&["kill", "-KILL", &main_process()]).succeeds();
        eventually("it was started again", || property(SERVICE, "NRestarts") == "1");
        eventually("it serves", || TcpStream::connect(ADDRESS).is_ok());
        assert_eq!(generation(), "1");
    });
}
