//! Who holds an address: the answer to `Address already in use`.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nix::net::if_::{if_indextoname, if_nametoindex};
use nix::unistd::{Uid, User};
use portgrant_protocol::text::printable;
use portgrant_protocol::{Address, Resolved};

use super::sock_diag::{self, Entry};
use crate::client::TcpState;
use crate::failure::Error;
use crate::resolved;

/// A socket that conflicts with an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Where it is bound: the requested address, or an overlapping one
    pub local: SocketAddr,
    /// Whether it is a wildcard for IPv4 as well
    pub dual_stack: bool,
    /// The address to which it is connected
    pub peer: Option<SocketAddr>,
    /// Its state
    pub state: HolderState,
    /// Its owner; `None` if it has none any more
    pub uid: Option<u32>,
    /// The name of the owner, if there is one
    pub user: Option<String>,
    /// The interface that it is bound to (SO_BINDTODEVICE)
    pub device: Option<String>,
    /// Its number in `socket:[NUMBER]` below /proc/PID/fd; `None` if no process holds it
    pub inode: Option<u32>,
    /// The number of its control group: the inode of the cgroup2 folder, as ls -di shows it (Linux 5.7)
    pub cgroup: Option<u64>,
    /// Its queue, if it listens
    pub queue: Option<Queue>,
    /// A process that holds it, if this user may see it: a process of the same user, or any process for root
    pub process: Option<Process>,
}

/// The queue of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// How many connections wait to be accepted
    pub waiting: u32,
    /// How many may: the backlog of listen(2), as the kernel has it
    pub most: u32,
}

/// A process that holds a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number
    pub pid: u32,
    /// Its name (proc_pid_comm(5)), printable
    pub program: String,
    /// Its effective user: `user www-data`, or `uid 70000` if that user has no name. The socket may be another's.
    pub user: String,
}

/// The state of a [`Holder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HolderState {
    /// It listens (stream sockets)
    Listening,
    /// It is bound: a datagram socket, or a stream socket that does not listen
    Bound,
    /// It is a connection in this state, and was bound without SO_REUSEADDR
    Connection(TcpState),
    /// The socket is closed: the kernel waits for late segments of a connection
    TimeWait {
        /// How much longer
        left: Duration,
    },
}

impl Holder {
    /// Whether this process holds it.
    pub fn is_own(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.pid == std::process::id())
    }
}

/// The sockets that hold `endpoint`, or an overlapping address (a wildcard and a specific address, or `[::]` and IPv4).
/// Sockets that listen or are bound come first, then connections, then TIME_WAIT. The list is empty if no socket does,
/// or if the kernel does not report them.
///
/// Every user sees address, state and owner. A user sees the pid and the program only of their own processes; root sees
/// all.
///
/// ```
/// # let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// # let endpoint = format!("{}", listener.local_addr()?);
/// for holder in portgrant_server::holders(&endpoint)? {
///     println!("{holder}"); // nginx (pid 812, user www-data) listens at 0.0.0.0:80
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn holders(endpoint: &str) -> Result<Vec<Holder>, Error> {
    of(&resolved::of(resolved::parse(endpoint)?)?)
        .map_err(|source| Error::system("cannot ask the kernel for its sockets", source))
}

/// The same for an endpoint that was looked up.
pub(crate) fn of(asked: &Resolved) -> io::Result<Vec<Holder>> {
    let place = Place::asked(asked);
    let entries = sock_diag::sockets(asked.endpoint.protocol, asked.port.get())?;
    let mut entries: Vec<Entry> = entries.into_iter().filter(|entry| place.overlaps(&Place::of(entry))).collect();
    entries.sort_by_key(|entry| (rank(entry), entry.expires));
    let processes = processes(&entries);
    Ok(entries.into_iter().map(|entry| holder(entry, &processes)).collect())
}

/// The place of a socket, as bind(2) compares it: address, one family or both, interface.
#[derive(Debug, Clone, Copy)]
struct Place {
    ip: IpAddr,
    dual_stack: bool,
    device: u32,
}

impl Place {
    fn asked(asked: &Resolved) -> Place {
        let options = &asked.endpoint.options;
        let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let ip = match asked.endpoint.address {
            Address::Any | Address::Each => any,
            Address::V4(ip) => ip.into(),
            Address::V6(ip) => ip.into(),
        };
        let device = options.dev.as_deref().and_then(|dev| if_nametoindex(dev).ok()).unwrap_or(0);
        Place { ip, dual_stack: ip == any && !options.v6only, device }
    }

    fn of(entry: &Entry) -> Place {
        Place { ip: entry.local.ip(), dual_stack: is_dual(entry), device: entry.device }
    }

    fn overlaps(&self, other: &Place) -> bool {
        let same_device = self.device == 0 || other.device == 0 || self.device == other.device;
        let same_address = if self.ip.is_ipv4() == other.ip.is_ipv4() {
            self.ip == other.ip || self.ip.is_unspecified() || other.ip.is_unspecified()
        } else {
            self.dual_stack || other.dual_stack
        };
        same_device && same_address
    }
}

fn is_dual(entry: &Entry) -> bool {
    entry.local.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && !entry.v6only
}

fn rank(entry: &Entry) -> u8 {
    match (entry.expires, TcpState::from_number(entry.state)) {
        (Some(_), _) => 3,
        (None, TcpState::Listen) => 0,
        (None, TcpState::Close) => 1,
        (None, _) => 2,
    }
}

fn holder(entry: Entry, processes: &HashMap<u32, Process>) -> Holder {
    let state = match (entry.expires, TcpState::from_number(entry.state)) {
        (Some(left), _) => HolderState::TimeWait { left },
        (None, TcpState::Listen) => HolderState::Listening,
        (None, TcpState::Close) => HolderState::Bound,
        (None, state) => HolderState::Connection(state),
    };
    let uid = entry.expires.is_none().then_some(entry.uid);
    Holder {
        local: entry.local,
        dual_stack: is_dual(&entry),
        peer: (entry.remote.port() != 0).then_some(entry.remote),
        state,
        uid,
        user: uid.and_then(name),
        device: Some(entry.device).filter(|&device| device != 0).and_then(interface),
        inode: (entry.inode != 0).then_some(entry.inode),
        cgroup: entry.cgroup,
        queue: (state == HolderState::Listening).then_some(Queue { waiting: entry.queue.0, most: entry.queue.1 }),
        process: processes.get(&entry.inode).cloned(),
    }
}

fn interface(index: u32) -> Option<String> {
    // If the interface no longer exists, nix 0.31 returns an empty name.
    let name = if_indextoname(index).ok().map(|name| printable(name.as_bytes()));
    name.filter(|name| !name.is_empty())
}

/// The processes that hold these sockets, as far as this process may see them (proc_pid_fd(5)). This process comes
/// first. /proc is read only once, for any number of connections.
fn processes(entries: &[Entry]) -> HashMap<u32, Process> {
    let mut unknown: HashSet<u32> = entries.iter().map(|entry| entry.inode).filter(|&inode| inode != 0).collect();
    let mut found = HashMap::new();
    let others = fs::read_dir("/proc").into_iter().flatten().flatten();
    let others = others.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for pid in std::iter::once(std::process::id()).chain(others) {
        if unknown.is_empty() {
            break;
        }
        let mut held = sockets_of(pid).filter(|inode| unknown.contains(inode)).peekable();
        if held.peek().is_none() {
            continue;
        }
        let program = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        let program = printable(program.trim_ascii_end());
        let user = user_of(pid);
        let held: HashSet<u32> = held.collect();
        unknown.retain(|inode| !held.contains(inode));
        found.extend(
            held.into_iter().map(|inode| (inode, Process { pid, program: program.clone(), user: user.clone() })),
        );
    }
    found
}

/// The name of a user, printable.
fn name(uid: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| printable(user.name.as_bytes()))
}

/// A user for people.
fn words(user: Option<&str>, uid: Option<u32>) -> String {
    match (user, uid) {
        (Some(user), _) => format!("user {user}"),
        (None, Some(uid)) => format!("uid {uid}"),
        (None, None) => "nobody".to_owned(),
    }
}

/// The effective user of a process (proc_pid_status(5)): real, effective, saved, file system.
fn user_of(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let uid = ids.and_then(|ids| ids.split_ascii_whitespace().nth(1)?.parse().ok());
    words(uid.and_then(name).as_deref(), uid)
}

/// The numbers of the sockets that a process holds.
fn sockets_of(pid: u32) -> impl Iterator<Item = u32> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors.filter_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    })
}

impl fmt::Display for Holder {
    /// `nginx (pid 812, user www-data) listens at 0.0.0.0:80`, in printable ASCII.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = self.local;
        let peer = self.peer.map(|peer| format!(" with {peer}")).unwrap_or_default();
        if let HolderState::TimeWait { left } = self.state {
            let left = left.as_secs_f32().ceil();
            return write!(f, "a closed connection{peer} at {local} is in TIME_WAIT for {left} seconds more");
        }
        match &self.process {
            Some(_) if self.is_own() => write!(f, "this process (pid {})", std::process::id())?,
            Some(process) => write!(f, "{} (pid {}, {})", process.program, process.pid, process.user)?,
            None => write!(f, "a socket of {}", words(self.user.as_deref(), self.uid))?,
        }
        match self.state {
            HolderState::Listening => write!(f, " listens at {local}")?,
            HolderState::Connection(state) => write!(f, " has a connection{peer} at {local} in {state}")?,
            HolderState::Bound | HolderState::TimeWait { .. } => write!(f, " is bound to {local}")?,
        }
        f.write_str(if self.dual_stack { " (IPv4 as well)" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn asked(text: &str) -> Place {
        let endpoint: portgrant_protocol::Endpoint = text.parse().expect(text);
        Place::asked(&endpoint.resolve(&Default::default()).expect(text))
    }

    #[test]
    fn addresses_overlap_as_bind_compares_them() {
        for (one, other, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("127.0.0.1:1", "0.0.0.0:1", true),
            ("127.0.0.1:1", "1", true),
            ("127.0.0.1:1", "[::]:1,v6only", false),
            ("0.0.0.0:1", "[::]:1", true),
            ("0.0.0.0:1", "[::]:1,v6only", false),
            ("[::1]:1", "[::]:1,v6only", true),
            ("[::1]:1", "127.0.0.1:1", false),
            ("127.0.0.1:1,dev=lo", "1", true),
        ] {
            assert_eq!(asked(one).overlaps(&asked(other)), expected, "{one} {other}");
            assert_eq!(asked(other).overlaps(&asked(one)), expected, "{other} {one}");
        }
        let on = |device| Place { device, ..asked("1") };
        assert!(!on(1).overlaps(&on(2)) && on(1).overlaps(&on(1)) && on(0).overlaps(&on(2)));
    }

    #[test]
    fn the_holder_is_reported_with_program_pid_and_user() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let local = listener.local_addr().expect("bound");
        for endpoint in [local.to_string(), local.port().to_string(), format!("0.0.0.0:{}", local.port())] {
            let found = holders(&endpoint).expect("asked");
            let holder = found.iter().find(|holder| holder.local == local).expect("there");
            assert!(holder.is_own() && holder.state == HolderState::Listening);
            assert_eq!(holder.uid, Some(rustix::process::geteuid().as_raw()));
            let text = holder.to_string();
            let own = std::process::id();
            assert_eq!(text, format!("this process (pid {own}) listens at {local}"));
        }
        assert!(holders(&format!("127.0.0.9:{}", local.port())).expect("asked").is_empty(), "another address");
        assert!(holders(&format!("{local}/udp")).expect("asked").is_empty(), "another protocol");

        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let local = socket.local_addr().expect("bound");
        let found = holders(&format!("{local}/udp")).expect("asked");
        assert!(matches!(found.as_slice(), [Holder { state: HolderState::Bound, .. }]), "{found:?}");
    }
}
