//! The messages of `--verify`: who does not accept, where the program listens instead, and what to do.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use portgrant_protocol::text::printable;
use portgrant_server::Message;
use procfs::net::TcpState;
use procfs::process::{FDTarget, Process, all_processes};

use super::tables::{self, Tables};
use super::{Finding, Given};

/// Wrappers that stay as the parent of the program that they start, even with `exec` in a script.
const STAYING: [&str; 16] = [
    "timeout",
    "flock",
    "su",
    "sudo",
    "runuser",
    "doas",
    "script",
    "strace",
    "ltrace",
    "watch",
    "tini",
    "dumb-init",
    "chronic",
    "setarch",
    "faketime",
    "unshare",
];

/// The program and its descendants, as far as this user may see them.
pub(super) struct Suspects {
    program: u32,
    /// The processes that hold a socket that is not served
    holders: Vec<(u64, String)>,
    /// The processes that listen elsewhere
    instead: Vec<Instead>,
    /// The program's name
    name: String,
    has_children: bool,
}

struct Instead {
    pid: u32,
    program: String,
    local: SocketAddr,
}

impl Suspects {
    pub(super) fn of(program: u32, given: &[Given], tables: &Tables) -> Suspects {
        let mut suspects =
            Suspects { program, holders: Vec::new(), instead: Vec::new(), name: String::new(), has_children: false };
        for (pid, name, sockets) in family(program) {
            if pid == program {
                suspects.name.clone_from(&name);
            } else {
                suspects.has_children = true;
            }
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
    // A child's pid may be smaller than its parent's, so repeat until none is added.
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

/// Sockets on which nobody accepts.
pub(super) fn ignored(ignored: &[&(&Given, Finding)], suspects: &Suspects, begun: Instant) -> Message {
    let names = ignored.iter().map(|(given, _)| given.name.as_str()).collect::<Vec<_>>().join(", ");
    let closed = ignored.iter().all(|(_, finding)| matches!(finding, Finding::Closed));
    let mut why = if closed {
        "it closed the socket, as servers do with one that their configuration does not mention".to_owned()
    } else {
        let seconds = begun.elapsed().as_secs().max(1);
        let holder = suspects.holders.iter().find(|(inode, _)| ignored.iter().any(|(given, _)| given.inode == *inode));
        let holder = holder.map(|(_, holder)| format!(", which {holder} has open")).unwrap_or_default();
        format!("for {seconds} seconds a connection has waited in the queue of the socket{holder}")
    };
    for Instead { pid, program, local } in &suspects.instead {
        why.push_str(&format!("; {program} (pid {pid}) listens at {local} instead"));
    }
    Message::new(format!("the program does not accept on {names}")).why(why).fix(advice(ignored, suspects))
}

fn advice(ignored: &[&(&Given, Finding)], suspects: &Suspects) -> String {
    let Suspects { program, name, .. } = suspects;
    let elsewhere = suspects.instead.first();
    if suspects.has_children && STAYING.contains(&name.as_str()) {
        return format!(
            "put {name} before portgrant, as in {name} ... portgrant exec ...: the sockets are announced to process {program} \
             alone (LISTEN_PID), and that is {name}"
        );
    }
    match elsewhere {
        Some(instead) if instead.pid != *program => format!(
            "have the wrapper start {} with exec, or put the wrapper before portgrant: the sockets are announced to process \
             {program} alone (LISTEN_PID)",
            instead.program
        ),
        Some(instead) if ignored.iter().any(|(given, _)| given.info.local.port() == instead.local.port()) => format!(
            "ask for the very address that the server is configured for: -l {}; or use portgrant run, under which it binds \
             by itself",
            instead.local
        ),
        Some(_) => "configure the server for the address that was asked for, or for the inherited descriptor; or use \
                    portgrant run, under which it binds by itself"
            .to_owned(),
        None => "see in the server's manual how it takes over an inherited socket; or use portgrant run, under which it binds \
                 by itself"
            .to_owned(),
    }
}

/// The message for a socket that no test connection has reached: probably not the program's fault.
pub(super) fn not_reached(given: &Given, why: &str) -> Message {
    let holder = tables::holder(&given.info, given.inode);
    let mut why = why.to_owned();
    if let Some(process) = holder.as_ref().and_then(|holder| holder.process.as_ref()) {
        why.push_str(&format!("; {} (pid {}) has the socket open", process.program, process.pid));
    }
    if let Some(queue) = holder.and_then(|holder| holder.queue) {
        why.push_str(&format!("; {} of at most {} connections wait in its queue", queue.waiting, queue.most));
    }
    Message::new(format!("--verify could not try {}", given.name))
        .why(why)
        .fix("check the interface and its addresses (ip addr) and the packet filter (nft list ruleset); or leave out --verify")
}

/// The message if the program has replaced the backlog that the caller asked for.
pub(super) fn replaced_backlog(given: &Given) -> Option<Message> {
    let before = given.backlog?;
    let now = tables::queue(&given.info, given.inode)?.most;
    (now != before).then(|| {
        Message::new(format!("the program has replaced the backlog of {}: it is {now}", given.name))
            .why(format!("it was {before}, and the program has called listen(2) again with a number of its own"))
            .fix("set it in the program's configuration, and leave out backlog=")
    })
}
