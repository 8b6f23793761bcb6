//! `portgrant who`: who holds a port, and which binds that blocks. The server crate reads the kernel's table of sockets
//! (sock_diag(7)); the processes come from /proc.

mod process;

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use portgrant_protocol::{AskedPort, Endpoint, Protocol};
use portgrant_server::{Holder, HolderState, Services};
use rustix::process::geteuid;
use serde_json::{Value, json};

use crate::arguments::Place;
use crate::output::{self, DOUBTFUL, GOOD, STRONG, answered, in_style};
use crate::{Error, Who, Writing};
use process::Process;

/// The exit status if nobody holds the port, as in fuser(1) and pgrep(1).
const NOBODY: u8 = 1;

/// Exits with 0 if any of the ports is held, else with 1.
pub(crate) fn who(asked: &Who) -> Result<Infallible, Error> {
    let mut answers = Vec::new();
    for place in &asked.places {
        for endpoint in each_protocol(place)? {
            answers.push(Answer::of(endpoint)?);
        }
    }
    match asked.format.writing() {
        Writing::Text => output::print(&answers.iter().map(Answer::text).collect::<String>())?,
        Writing::Json => output::print_json(&answers.iter().map(Answer::json).collect())?,
    }
    Err(answered(answers.iter().any(Answer::is_held), NOBODY))
}

/// The lines below `Address already in use`; empty if the holder cannot be found.
pub(crate) fn holder_lines(endpoint: &str) -> String {
    let answer = endpoint.parse().ok().and_then(|endpoint| Answer::of(endpoint).ok());
    let lines = answer.filter(Answer::is_held).map(|answer| answer.text()).unwrap_or_default();
    let plain = anstream::adapter::strip_str(&lines).to_string();
    plain.lines().skip(1).map(|line| format!("{line}\n")).collect()
}

/// Without a protocol both tcp and udp are searched, if the service's name has both.
fn each_protocol(place: &Place) -> Result<Vec<Endpoint>, Error> {
    let known: Vec<Protocol> = match &place.endpoint.port {
        _ if place.has_protocol => return Ok(vec![place.endpoint.clone()]),
        AskedPort::Number(_) => vec![Protocol::Tcp, Protocol::Udp],
        AskedPort::Service(name) => {
            let services = Services::system()?;
            [Protocol::Tcp, Protocol::Udp]
                .into_iter()
                .filter(|&protocol| services.port(name, protocol).is_some())
                .collect()
        }
    };
    // For an unknown name, tcp reports the error.
    let protocols = if known.is_empty() { vec![Protocol::Tcp] } else { known };
    Ok(protocols.into_iter().map(|protocol| Endpoint { protocol, ..place.endpoint.clone() }).collect())
}

/// Everything at one endpoint.
struct Answer {
    /// The endpoint as the caller wrote it, with its protocol
    asked: String,
    protocol: Protocol,
    /// The sockets that listen or are bound, and their processes
    sockets: Vec<Socket>,
    /// The number of connections in each state
    connections: BTreeMap<String, usize>,
    /// The number of closed connections in TIME_WAIT, and the seconds until the last of them ends
    time_wait: (usize, u64),
}

struct Socket {
    holder: Holder,
    processes: Vec<Process>,
    /// The control group that made the socket, if no process of it is visible
    group: Option<String>,
}

impl Answer {
    fn of(endpoint: Endpoint) -> Result<Answer, Error> {
        let protocol = endpoint.protocol;
        let mut asked = endpoint.to_string();
        if !asked.contains('/') {
            asked = format!("{asked}/{}", protocol.word());
        }
        let holders = portgrant_server::holders(&endpoint.to_string())?;
        let (mut sockets, mut connections, mut time_wait) = (Vec::new(), BTreeMap::new(), (0, 0));
        for holder in holders {
            if let HolderState::TimeWait { left } = holder.state {
                let seconds = left.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX);
                time_wait = (time_wait.0 + 1, time_wait.1.max(seconds));
            } else if let (HolderState::Connection(state), true) = (holder.state, protocol.is_stream()) {
                *connections.entry(state.to_string()).or_default() += 1;
            } else {
                sockets.push(holder);
            }
        }
        let sockets = with_processes(sockets);
        Ok(Answer { asked, protocol, sockets, connections, time_wait })
    }

    fn is_held(&self) -> bool {
        !self.sockets.is_empty() || !self.connections.is_empty()
    }

    /// Whether a process that this user may not see holds it.
    fn is_hidden(&self) -> bool {
        !geteuid().is_root() && self.sockets.iter().any(|socket| socket.processes.is_empty())
    }

    fn text(&self) -> String {
        let asked = in_style(STRONG, &self.asked);
        let mut out = match (self.is_held(), self.time_wait.0) {
            (true, _) => format!("{asked} is {}\n", in_style(DOUBTFUL, "held")),
            (false, 0) => format!("{asked} is {}\n", in_style(GOOD, "free")),
            (false, _) => format!("{asked} is {} for programs that set SO_REUSEADDR\n", in_style(GOOD, "free")),
        };
        for socket in &self.sockets {
            socket.write(&mut out, self.protocol);
        }
        for (address, count) in self.shared() {
            let by = if self.protocol.is_stream() { "SO_REUSEPORT" } else { "SO_REUSEPORT or SO_REUSEADDR" };
            let _ = writeln!(out, "  {count} sockets share {address} by {by}");
        }
        let states: Vec<String> = self.connections.iter().map(|(state, count)| format!("{count} {state}")).collect();
        if !states.is_empty() {
            let _ = writeln!(out, "  connections: {}", states.join(", "));
        }
        if let (count @ 1.., seconds) = self.time_wait {
            let _ = writeln!(out, "  TIME_WAIT: {count}, for {seconds} seconds at most");
        }
        if self.is_hidden() {
            let _ = writeln!(out, "  some programs are not shown to you: as root: portgrant who {}", self.asked);
        }
        out
    }

    /// The addresses with several sockets, and how many.
    fn shared(&self) -> Vec<(String, usize)> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for socket in &self.sockets {
            *counts.entry(socket.address()).or_default() += 1;
        }
        counts.into_iter().filter(|(_, count)| *count > 1).collect()
    }

    fn json(&self) -> Value {
        json!({
            "endpoint": self.asked, "protocol": self.protocol.word(), "held": self.is_held(),
            "hidden": self.is_hidden(), "sockets": self.sockets.iter().map(Socket::json).collect::<Vec<_>>(),
            "connections": self.connections, "time_wait": { "count": self.time_wait.0, "seconds": self.time_wait.1 },
        })
    }
}

/// Finds the processes of all sockets in one pass over /proc.
fn with_processes(holders: Vec<Holder>) -> Vec<Socket> {
    let inodes = holders.iter().filter_map(|holder| holder.inode).map(u64::from).collect();
    let mut by_inode: HashMap<u64, Vec<Process>> = process::holding(&inodes);
    let unseen =
        holders.iter().filter(|holder| holder.inode.is_some_and(|inode| !by_inode.contains_key(&inode.into())));
    let groups = process::control_groups(&unseen.filter_map(|holder| holder.cgroup).collect());
    let socket = |holder: Holder| {
        let processes = holder.inode.and_then(|inode| by_inode.remove(&inode.into())).unwrap_or_default();
        let group = holder.cgroup.and_then(|number| groups.get(&number).cloned());
        Socket { holder, processes, group }
    };
    holders.into_iter().map(socket).collect()
}

impl Socket {
    fn address(&self) -> String {
        let device = self.holder.device.as_ref().map(|device| format!("%{device}")).unwrap_or_default();
        let IpAddr::V6(ip) = self.holder.local.ip() else {
            return format!("{}{device}:{}", self.holder.local.ip(), self.holder.local.port());
        };
        format!("[{ip}]{device}:{}", self.holder.local.port())
    }

    fn state(&self) -> &'static str {
        let is_connected = matches!(self.holder.state, HolderState::Connection(_));
        match (self.holder.state == HolderState::Listening, is_connected) {
            (true, _) => "listens",
            (false, true) => "is connected",
            (false, false) => "is bound",
        }
    }

    fn write(&self, out: &mut String, protocol: Protocol) {
        let (user, uid) = (self.holder.user.as_ref(), self.holder.uid);
        let user = user.cloned().or(uid.map(|uid| format!("uid {uid}"))).unwrap_or_else(|| "nobody".to_owned());
        let peer = self.holder.peer.map(|peer| format!(" with {peer}")).unwrap_or_default();
        let address = in_style(STRONG, &self.address());
        let _ = writeln!(out, "  {address} {}{peer}, the socket is {user}'s", self.state());
        for process in &self.processes {
            let _ = writeln!(out, "      by   {}", process.text());
        }
        if let (true, Some(group)) = (self.processes.is_empty(), &self.group) {
            let _ = writeln!(out, "      in   {group}");
        }
        let _ = writeln!(out, "      bars {}", bars(&self.holder, protocol));
    }

    fn json(&self) -> Value {
        let holder = &self.holder;
        json!({
            "address": holder.local.ip().to_string(), "port": holder.local.port(), "dual_stack": holder.dual_stack,
            "device": holder.device, "state": self.state(), "peer": holder.peer.map(|peer| peer.to_string()),
            "uid": holder.uid, "user": holder.user, "cgroup": self.group,
            "processes": self.processes.iter().map(Process::json).collect::<Vec<_>>(),
        })
    }
}

/// Which addresses no other process can bind while this socket exists, unless the port is shared.
fn bars(holder: &Holder, protocol: Protocol) -> String {
    let local: SocketAddr = holder.local;
    let addresses = match (local.ip(), holder.dual_stack) {
        (_, true) => "every address, of IPv6 and of IPv4".to_owned(),
        (IpAddr::V4(ip), _) if ip.is_unspecified() => "every address of IPv4, and [::] without v6only".to_owned(),
        (IpAddr::V6(ip), _) if ip.is_unspecified() => "every address of IPv6; IPv4 is free of it (v6only)".to_owned(),
        (IpAddr::V4(ip), _) => format!("{ip}, 0.0.0.0, and [::] without v6only"),
        (IpAddr::V6(ip), _) => format!("[{ip}] and [::]"),
    };
    let device = holder.device.as_ref().map(|device| format!(", on {device} or on no interface")).unwrap_or_default();
    format!("{addresses}{device}, port {}/{}", local.port(), protocol.transport().word())
}
