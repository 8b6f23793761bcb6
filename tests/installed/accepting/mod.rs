//! `portgrant exec --accept`: a program for each connection, in the place of tcpserver and inetd's nowait.

mod connections;
mod datagrams;
mod ending;
mod names;
pub(crate) mod servers;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use portgrant_tests::{LAUNCHER, World};

const PATIENCE: Duration = Duration::from_secs(20);

fn accepting<'a>(options: &[&'a str], program: &[&'a str]) -> Vec<&'a str> {
    [&[LAUNCHER, "exec", "--accept"], options, &["--"], program].concat()
}

/// Connects, trying again where nothing listens yet.
struct Client(BufReader<TcpStream>);

impl Client {
    #[track_caller]
    fn of(address: &str) -> Client {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match TcpStream::connect(address) {
                Ok(stream) => return Client::over(stream),
                Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// From the address `source`.
    #[track_caller]
    fn from(source: &str, address: &str) -> Client {
        let inet = |address: &str| SockaddrIn::from(address.parse::<SocketAddrV4>().expect("an address"));
        let stream = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        bind(std::os::fd::AsRawFd::as_raw_fd(&stream), &inet(&format!("{source}:0"))).expect("bound");
        connect(std::os::fd::AsRawFd::as_raw_fd(&stream), &inet(address)).expect("connected");
        Client::over(TcpStream::from(stream))
    }

    fn over(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        Client(BufReader::new(stream))
    }

    /// A line, without its end.
    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    #[track_caller]
    fn say(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).expect("sent");
    }

    /// Everything up to the end.
    #[track_caller]
    fn rest(&mut self) -> String {
        let mut text = String::new();
        self.0.read_to_string(&mut text).expect("the end");
        text
    }

    /// Whether nothing comes within that time.
    fn is_silent_for(&mut self, time_limit: Duration) -> bool {
        self.0.get_ref().set_read_timeout(Some(time_limit)).expect("a time-out");
        let waits = self.0.fill_buf().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        self.0.get_ref().set_read_timeout(Some(PATIENCE)).expect("a time-out");
        waits
    }

    /// Nothing more will be sent.
    fn end(&mut self) {
        self.0.get_ref().shutdown(Shutdown::Write).expect("shut down");
    }
}

#[track_caller]
fn within(time_limit: Duration, what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + time_limit;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {time_limit:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The processes that `pid` has started, zombies too.
fn children(world: &World, pid: u32) -> Vec<String> {
    let outcome = world.as_root().run(["ps", "-o", "pid=,stat=,comm=", "--ppid", &pid.to_string()]);
    outcome.stdout.lines().map(str::to_owned).collect()
}

/// A set of signals, without those that the C library keeps to itself (32 and 33): its posix_spawn(3) ignores them.
fn signals(status: &str, set: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix(set)?.strip_prefix(":\t")).expect("a set of signals");
    u64::from_str_radix(mask, 16).expect("a mask") & !(0b11 << 31)
}
