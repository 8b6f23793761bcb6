//! A test connection to a listener.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Instant;

use portgrant_server::SocketInfo;
use procfs::net::TcpState;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use super::SETTLING;
use super::tables::{self, Tables};

/// A test connection that the program has not accepted yet.
pub(super) struct Probe {
    socket: OwnedFd,
    local: SocketAddr,
    target: SocketAddr,
    made: Instant,
    spoke: bool,
}

/// The state of a test connection.
pub(super) enum Fate {
    /// The program accepted it
    Accepted,
    /// It is in the queue of this listener
    Waiting,
    /// It has apparently not reached the listener
    Nowhere(String),
    /// It has failed
    Failed(String),
}

impl Probe {
    /// Connects to the listener's address, or to loopback for a wildcard.
    pub(super) fn connect(info: &SocketInfo) -> Result<Probe, String> {
        let loopback: &[IpAddr] = match info.local.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
            IpAddr::V6(ip) if ip.is_unspecified() && info.dual_stack => {
                &[IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)]
            }
            IpAddr::V6(ip) if ip.is_unspecified() => &[IpAddr::V6(Ipv6Addr::LOCALHOST)],
            IpAddr::V4(_) | IpAddr::V6(_) => &[],
        };
        let mut targets = loopback.iter().map(|&ip| SocketAddr::new(ip, info.local.port())).collect::<Vec<_>>();
        if targets.is_empty() {
            targets.push(info.local);
        }
        let mut last = String::new();
        for target in targets {
            match Probe::to(target) {
                Ok(probe) => return Ok(probe),
                Err(errno) => last = failed(target, errno),
            }
        }
        Err(last)
    }

    fn to(target: SocketAddr) -> Result<Probe, Errno> {
        let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, &target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno),
        }
        let local = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
        Ok(Probe { socket, local, target, made: Instant::now(), spoke: false })
    }

    /// The connection is accepted if the server's end has an inode, or if the server answers.
    pub(super) fn fate(&self, tables: &Tables, info: &SocketInfo, inode: u64) -> Fate {
        let mut byte = [0];
        match rustix::net::recv(&self.socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok(_) => return Fate::Accepted,
            // The kernel resets connections in the queue of a listener that is closed. This listener is open, so the
            // server did it.
            Err(Errno::CONNRESET) if Tables::read().holds(info, inode) => return Fate::Accepted,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Fate::Failed(failed(self.target, errno)),
        }
        if let Ok(Err(errno)) = sockopt::socket_error(&self.socket) {
            return Fate::Failed(failed(self.target, errno));
        }
        match tables.other_end(self.local, self.target) {
            Some(end) if end.inode != 0 => Fate::Accepted,
            Some(end) if matches!(end.state, TcpState::Established | TcpState::CloseWait) => {
                match tables::is_shared(self.target) {
                    false => Fate::Waiting,
                    true => Fate::Nowhere(format!("several sockets listen at {}", self.target)),
                }
            }
            Some(_) => Fate::Nowhere(format!("a connection to {} is not established yet", self.target)),
            None => Fate::Nowhere(format!("nothing answers a connection to {}", self.target)),
        }
    }

    /// With TCP_DEFER_ACCEPT a connection is not accepted before data arrives. So this sends an empty line, which
    /// servers of text protocols ignore.
    pub(super) fn wake_deferred(&mut self, tables: &Tables) {
        let end = tables.other_end(self.local, self.target);
        let deferred = end.is_none_or(|entry| entry.state == TcpState::SynRecv);
        if deferred && !self.spoke && self.made.elapsed() >= SETTLING {
            self.spoke = true;
            let _ = rustix::net::send(&self.socket, b"\r\n", SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }
}

fn failed(target: SocketAddr, errno: Errno) -> String {
    format!("a connection to {target} fails: {errno}")
}
