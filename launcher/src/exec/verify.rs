//! `--verify`: whether the program really accepts on what it was given.
//!
//! Servers that compare addresses, or that a wrapper stands before, ignore an inherited socket without a word: it listens,
//! clients connect, and nobody ever answers. So this makes one connection to each listener, sends nothing, and looks in
//! the kernel's table whether it was accepted: while it waits in the queue, no file belongs to it (inode 0).

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use log::debug;
use portgrant_protocol::Protocol;
use portgrant_protocol::socket::Facts;
use portgrant_protocol::text::printable;
use portgrant_server::Message;
use portgrant_server::daemon::{Fork, fork, leave};
use procfs::net::{TcpNetEntry, TcpState, UdpNetEntry};
use procfs::process::{FDTarget, Process, all_processes};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::process::{PidfdFlags, getpid, pidfd_open, setsid};

use crate::Error;

/// How often the kernel's tables are looked into.
pub(crate) const PACE: Duration = Duration::from_millis(100);
/// How long a program that has closed a socket may take to show where it listens instead; and how long a datagram
/// socket, which nobody can be seen to read, must be held.
const SETTLING: Duration = Duration::from_secs(1);

/// What is known so far.
pub(crate) enum Verdict {
    /// Not enough
    Pending,
    /// Each socket is served
    Serving,
    /// Some are not, and why
    Ignored(Message),
}

/// The sockets that a program was given, and what was found out about each.
pub(crate) struct Verification {
    given: Vec<Given>,
    patience: Duration,
    begun: Option<Instant>,
}

struct Given {
    name: String,
    facts: Facts,
    /// As links in /proc/PID/fd and the kernel's tables have it
    inode: u64,
    state: State,
}

enum State {
    Unknown,
    Probed(Probe),
    Served,
    Closed { since: Instant },
}

/// A connection of our own, which the program has not accepted yet.
struct Probe {
    socket: OwnedFd,
    local: SocketAddr,
    made: Instant,
    spoke: bool,
}

impl Verification {
    /// Of `sockets`, while this process still has them. They are not kept.
    pub(crate) fn of(names: &[String], sockets: &[OwnedFd], patience: Duration) -> Verification {
        let given = names.iter().zip(sockets).filter_map(|(name, socket)| {
            let facts = Facts::of(socket.as_fd()).ok()?;
            let inode = rustix::fs::fstat(socket).ok()?.st_ino;
            Some(Given { name: name.clone(), facts, inode, state: State::Unknown })
        });
        Verification { given: given.collect(), patience, begun: None }
    }

    /// Looks once; to be called again after [`PACE`] while nothing is decided.
    pub(crate) fn look(&mut self, program: u32) -> Verdict {
        let begun = *self.begun.get_or_insert_with(Instant::now);
        let tables = Tables::read();
        for given in &mut self.given {
            given.look(&tables, begun);
        }
        let is_decided = |given: &Given| match &given.state {
            State::Served => true,
            State::Closed { since } => since.elapsed() >= SETTLING,
            State::Unknown | State::Probed(_) => false,
        };
        if !self.given.iter().all(is_decided) && begun.elapsed() < self.patience {
            return Verdict::Pending;
        }
        let ignored: Vec<&Given> = self.given.iter().filter(|given| !matches!(given.state, State::Served)).collect();
        if ignored.is_empty() {
            return Verdict::Serving;
        }
        Verdict::Ignored(explain(&ignored, &Suspects::of(program, &self.given, &Tables::read()), begun))
    }
}

impl Given {
    fn look(&mut self, tables: &Tables, begun: Instant) {
        let next = match &self.state {
            State::Served | State::Closed { .. } => None,
            _ if !tables.holds(self) => Some(State::Closed { since: Instant::now() }),
            State::Unknown if !matches!(self.facts.protocol, Protocol::Tcp | Protocol::Mptcp) => {
                (begun.elapsed() >= SETTLING).then_some(State::Served)
            }
            State::Unknown => Probe::connect(&self.facts).map(State::Probed),
            State::Probed(probe) => probe.is_accepted(tables, self).then_some(State::Served),
        };
        if let State::Probed(probe) = &mut self.state {
            probe.wake_deferred(tables);
        }
        if let Some(next) = next {
            self.state = next;
        }
    }
}

impl Probe {
    /// To the address itself, of a wildcard to loopback. `None` where it is not reached (the queue is full, say): it is
    /// tried again.
    fn connect(facts: &Facts) -> Option<Probe> {
        let loopback: &[IpAddr] = match facts.local.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
            IpAddr::V6(ip) if ip.is_unspecified() && facts.dual_stack => {
                &[IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)]
            }
            IpAddr::V6(ip) if ip.is_unspecified() => &[IpAddr::V6(Ipv6Addr::LOCALHOST)],
            IpAddr::V4(_) | IpAddr::V6(_) => &[],
        };
        let mut targets = loopback.iter().map(|&ip| SocketAddr::new(ip, facts.local.port())).collect::<Vec<_>>();
        if targets.is_empty() {
            targets.push(facts.local);
        }
        targets.into_iter().find_map(Probe::to)
    }

    fn to(target: SocketAddr) -> Option<Probe> {
        let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None).ok()?;
        match rustix::net::connect(&socket, &target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(_) => return None,
        }
        let local = SocketAddr::try_from(rustix::net::getsockname(&socket).ok()?).ok()?;
        Some(Probe { socket, local, made: Instant::now(), spoke: false })
    }

    /// A socket of the server's that belongs to a file; or an answer, which can come from nobody else.
    fn is_accepted(&self, tables: &Tables, given: &Given) -> bool {
        let mut byte = [0];
        match rustix::net::recv(&self.socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok(_) => true,
            // The kernel resets what waits in the queue of a listener that is closed.
            Err(Errno::CONNRESET) => Tables::read().holds(given),
            Err(_) => tables.other_end(self).is_some_and(|entry| entry.inode != 0),
        }
    }

    /// With TCP_DEFER_ACCEPT there is no connection before there is something to read. An empty line is what servers of
    /// text protocols overlook.
    fn wake_deferred(&mut self, tables: &Tables) {
        let deferred = tables.other_end(self).is_none_or(|entry| entry.state == TcpState::SynRecv);
        if deferred && !self.spoke && self.made.elapsed() >= SETTLING {
            self.spoke = true;
            let _ = rustix::net::send(&self.socket, b"\r\n", SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }
}

/// The sockets of this network namespace.
struct Tables {
    tcp: Vec<TcpNetEntry>,
    udp: Vec<UdpNetEntry>,
}

impl Tables {
    fn read() -> Tables {
        let tcp = [procfs::net::tcp(), procfs::net::tcp6()];
        let udp = [procfs::net::udp(), procfs::net::udp6()];
        Tables {
            tcp: tcp.into_iter().flatten().flatten().collect(),
            udp: udp.into_iter().flatten().flatten().collect(),
        }
    }

    /// Whether anybody still has it, and it listens. This process has closed its own.
    fn holds(&self, given: &Given) -> bool {
        let listens = |entry: &&TcpNetEntry| entry.state == TcpState::Listen;
        match given.facts.protocol {
            Protocol::Tcp => self.tcp.iter().filter(listens).any(|entry| entry.inode == given.inode),
            // What listens there is a socket below it, with an inode of its own.
            Protocol::Mptcp => self.tcp.iter().filter(listens).any(|entry| {
                entry.local_address.ip().to_canonical() == given.facts.local.ip()
                    && entry.local_address.port() == given.facts.local.port()
            }),
            Protocol::Udp => self.udp.iter().any(|entry| entry.inode == given.inode),
            // The kernel's table of them has no inodes that could be compared.
            Protocol::Sctp => true,
        }
    }

    fn other_end(&self, probe: &Probe) -> Option<&TcpNetEntry> {
        let is_probe = |address: SocketAddr| {
            address.port() == probe.local.port() && address.ip().to_canonical() == probe.local.ip().to_canonical()
        };
        self.tcp.iter().find(|entry| is_probe(entry.remote_address))
    }
}

/// The program and what it started, as far as this user may see it.
struct Suspects {
    program: u32,
    /// Who has one of the sockets that nobody accepts on
    holders: Vec<(u64, String)>,
    /// Who listens elsewhere
    instead: Vec<Instead>,
}

struct Instead {
    pid: u32,
    program: String,
    local: SocketAddr,
}

impl Suspects {
    fn of(program: u32, given: &[Given], tables: &Tables) -> Suspects {
        let mut suspects = Suspects { program, holders: Vec::new(), instead: Vec::new() };
        for (pid, name, sockets) in family(program) {
            for inode in sockets {
                if given.iter().any(|given| given.inode == inode) {
                    suspects.holders.push((inode, format!("{name} (pid {pid})")));
                } else if let Some(entry) =
                    tables.tcp.iter().find(|entry| entry.inode == inode && entry.state == TcpState::Listen)
                {
                    let ip = entry.local_address.ip().to_canonical();
                    let local = SocketAddr::new(ip, entry.local_address.port());
                    suspects.instead.push(Instead { pid, program: name.clone(), local });
                }
            }
        }
        suspects
    }
}

/// The process and its descendants: pid, name, the inodes of the sockets that each has open.
fn family(program: u32) -> Vec<(u32, String, BTreeSet<u64>)> {
    let all = all_processes().into_iter().flatten().flatten();
    let all: Vec<(Process, procfs::process::Stat)> =
        all.filter_map(|process| process.stat().ok().map(|stat| (process, stat))).collect();
    let mut pids = BTreeSet::from([program.cast_signed()]);
    // A pid may be smaller than its parent's, so until nobody is added.
    loop {
        let known = pids.len();
        let children = all.iter().filter(|(_, stat)| pids.contains(&stat.ppid)).map(|(_, stat)| stat.pid);
        pids.extend(children.collect::<Vec<_>>());
        if pids.len() == known {
            break;
        }
    }
    let members = all.iter().filter(|(_, stat)| pids.contains(&stat.pid));
    members
        .map(|(process, stat)| {
            let open = process.fd().into_iter().flatten().flatten();
            let sockets =
                open.filter_map(|open| if let FDTarget::Socket(inode) = open.target { Some(inode) } else { None });
            (stat.pid.cast_unsigned(), printable(stat.comm.as_bytes()), sockets.collect())
        })
        .collect()
}

fn explain(ignored: &[&Given], suspects: &Suspects, begun: Instant) -> Message {
    let names = ignored.iter().map(|given| given.name.as_str()).collect::<Vec<_>>().join(", ");
    let closed = ignored.iter().all(|given| matches!(given.state, State::Closed { .. }));
    let mut why = if closed {
        "it closed the socket, as servers do with one that their configuration does not mention".to_owned()
    } else {
        let seconds = begun.elapsed().as_secs().max(1);
        let holder = suspects.holders.iter().find(|(inode, _)| ignored.iter().any(|given| given.inode == *inode));
        let holder = holder.map(|(_, holder)| format!(", which {holder} has open")).unwrap_or_default();
        format!("for {seconds} seconds a connection has waited in the queue of the socket{holder}")
    };
    for Instead { pid, program, local } in &suspects.instead {
        why.push_str(&format!("; {program} (pid {pid}) listens at {local} instead"));
    }
    Message::new(format!("the program does not accept on {names}")).why(why).fix(advice(ignored, suspects))
}

fn advice(ignored: &[&Given], suspects: &Suspects) -> String {
    let program = suspects.program;
    match suspects.instead.first() {
        Some(instead) if instead.pid != program => format!(
            "have the wrapper start {} with exec: the sockets are announced to process {program} alone (LISTEN_PID)",
            instead.program
        ),
        Some(instead) if ignored.iter().any(|given| given.facts.local.port() == instead.local.port()) => {
            format!("ask for the very address that the server is configured for: -l {}", instead.local)
        }
        Some(_) => {
            "configure the server for the address that was asked for, or for the inherited descriptor".to_owned()
        }
        None => "see in the server's manual how it takes over an inherited socket".to_owned(),
    }
}

/// Leaves a process behind that looks on while this one becomes the program, and tells what it finds on standard error.
///
/// It is no child of the program's, so nothing that the program waits for: the process between ends at once, and who is
/// left belongs to init (or to whoever reaps orphans here). It has a session of its own, and closes what it inherited.
pub(crate) fn from_aside(verification: Verification) -> Result<(), Error> {
    // Before the forks: a pid could be another's by the time that it is looked up.
    let program = pidfd_open(getpid(), PidfdFlags::empty()).map_err(|errno| Error::Aside(errno.into()))?;
    let pid = std::process::id();
    match fork()? {
        Fork::Parent(between) => {
            let between = nix::unistd::Pid::from_raw(between.cast_signed());
            while nix::sys::wait::waitpid(between, None) == Err(nix::errno::Errno::EINTR) {}
            Ok(())
        }
        Fork::Child => {
            let _ = setsid();
            if let Ok(Fork::Child) = fork() {
                look_on(verification, &program, pid);
            }
            leave(0)
        }
    }
}

fn look_on(mut verification: Verification, program: &OwnedFd, pid: u32) {
    close_all_but(&[2, program.as_raw_fd()]);
    let _ = rustix::process::chdir("/");
    loop {
        if has_ended(program, PACE) {
            return;
        }
        match verification.look(pid) {
            Verdict::Pending => {}
            Verdict::Serving => return debug!("the program accepts on what it was given"),
            Verdict::Ignored(message) => return crate::output::say(&message),
        }
    }
}

/// A port that the program closes must be free, and whoever reads what it writes must see the end of it.
fn close_all_but(kept: &[RawFd]) {
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let open: Vec<RawFd> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in open.into_iter().filter(|number| !kept.contains(number)) {
        let _ = nix::unistd::close(number);
    }
}

fn has_ended(process: &OwnedFd, within: Duration) -> bool {
    let within = Timespec::try_from(within).ok();
    poll(&mut [PollFd::new(process, PollFlags::IN)], within.as_ref()).is_ok_and(|count| count > 0)
}
