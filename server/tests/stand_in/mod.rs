//! Programs in place of the helper, without privilege: scripts, and the test program itself, which binds ports above
//! 1023 like the helper and sends them. Shared by the tests of several crates.

#![allow(dead_code, reason = "each test program uses its part of it")]

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use portgrant_protocol::record::Reply;
use portgrant_protocol::{Address, Endpoint, Protocol, Resolved, transfer};

/// A separate folder for one test, removed at its end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// An empty folder for the test that calls itself `name`.
    pub(crate) fn new(name: &str) -> Folder {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    /// The path of `name` in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// An executable script in it, run by /bin/sh.
    ///
    /// A child writes it: a file that this process had open for writing might still be so in a child that another test
    /// starts at the moment, and could not be executed (ETXTBSY).
    pub(crate) fn script(&self, name: &str, body: &str) -> PathBuf {
        let path = self.join(name);
        let mut writer = Command::new("/bin/sh")
            .args(["-c", "cat >\"$0\" && chmod 755 \"$0\""])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .expect("/bin/sh");
        writer.stdin.take().expect("a pipe").write_all(format!("#!/bin/sh\n{body}\n").as_bytes()).expect("written");
        assert!(writer.wait().expect("waited").success());
        path
    }

    /// A helper that grants everything: this test program, running [`helper`].
    pub(crate) fn granting_helper(&self) -> PathBuf {
        self.script("granting", &format!("export ARGUMENTS=\"$*\"\n{}", run_helper()))
    }

    /// A helper that sends `record`, with `descriptors` copies of its standard error.
    pub(crate) fn answering_helper(&self, record: &str, descriptors: usize) -> PathBuf {
        let message = format!("export RECORD='{record}' DESCRIPTORS={descriptors}");
        self.script("answering", &format!("{message}\n{}", run_helper()))
    }
}

/// The line of a script that becomes this program's [`helper`].
pub(crate) fn run_helper() -> String {
    let program = std::env::current_exe().expect("this program");
    format!("exec '{}' --ignored --exact stand_in::helper --nocapture", program.display())
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Not a test: the other tests run it as their helper. It sends the given record, or grants what is asked.
#[test]
#[ignore = "runs as the helper of the other tests"]
fn helper() {
    match std::env::var("RECORD") {
        Ok(record) => say(&record),
        Err(_) => grant(),
    }
}

fn say(record: &str) {
    let count: usize = std::env::var("DESCRIPTORS").ok().and_then(|count| count.parse().ok()).expect("a number");
    let copy = |_| std::io::stderr().as_fd().try_clone_to_owned().expect("a copy");
    let descriptors: Vec<OwnedFd> = (0..count).map(copy).collect();
    transfer::send(std::io::stdin().as_fd(), record.as_bytes(), &descriptors).expect("sent");
}

/// `pass -l ENDPOINT… --to 0`, without privilege and without a policy.
fn grant() {
    let arguments = std::env::var("ARGUMENTS").expect("run as a helper");
    let words: Vec<&str> = arguments.split(' ').collect();
    assert_eq!((words.first(), &words[words.len() - 2..]), (Some(&"pass"), &["--to", "0"][..]), "{arguments}");
    let endpoints = words.windows(2).filter(|pair| pair[0] == "-l").map(|pair| pair[1]);
    let (names, sockets): (Vec<String>, Vec<OwnedFd>) = endpoints.map(bind).unzip();
    let record = Reply::Granted { names }.encode().expect("short");
    transfer::send(std::io::stdin().as_fd(), &record, &sockets).expect("sent");
}

fn bind(text: &str) -> (String, OwnedFd) {
    let endpoint: Endpoint = text.parse().expect(text);
    let asked: Resolved = endpoint.resolve(&Default::default()).expect(text);
    let Address::V4(address) = asked.endpoint.address else { panic!("{text}: write an IPv4 address") };
    let socket = match asked.endpoint.protocol {
        Protocol::Udp => std::net::UdpSocket::bind((address, asked.port.get())).map(OwnedFd::from),
        Protocol::Tcp | Protocol::Sctp | Protocol::Mptcp => {
            TcpListener::bind((address, asked.port.get())).map(OwnedFd::from)
        }
    };
    (asked.name(), socket.expect(text))
}

/// A port of 127.0.0.1 that nobody has at the moment.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    listener.local_addr().expect("bound").port()
}
