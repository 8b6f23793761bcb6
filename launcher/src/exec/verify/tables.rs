//! The kernel's tables of sockets: listeners and connections.

use std::net::SocketAddr;

use portgrant_protocol::Protocol;
use portgrant_server::SocketInfo;
use portgrant_server::{Holder, HolderState, Queue};
use procfs::net::{TcpNetEntry, TcpState, UdpNetEntry};

/// The sockets of this network namespace.
pub(super) struct Tables {
    pub(super) tcp: Vec<TcpNetEntry>,
    udp: Vec<UdpNetEntry>,
}

impl Tables {
    pub(super) fn read() -> Tables {
        let tcp = [procfs::net::tcp(), procfs::net::tcp6()];
        let udp = [procfs::net::udp(), procfs::net::udp6()];
        Tables {
            tcp: tcp.into_iter().flatten().flatten().collect(),
            udp: udp.into_iter().flatten().flatten().collect(),
        }
    }

    fn listening(&self) -> impl Iterator<Item = &TcpNetEntry> {
        self.tcp.iter().filter(|entry| entry.state == TcpState::Listen)
    }

    /// Whether the socket is still open in any process, and listens. This process has closed its copy.
    pub(super) fn holds(&self, info: &SocketInfo, inode: u64) -> bool {
        match info.protocol {
            Protocol::Tcp => self.listening().any(|entry| entry.inode == inode),
            // The listening tcp socket below it has another inode.
            Protocol::Mptcp => self.listening().any(|entry| {
                entry.local_address.ip().to_canonical() == info.local.ip()
                    && entry.local_address.port() == info.local.port()
            }),
            Protocol::Udp => self.udp.iter().any(|entry| entry.inode == inode),
            // The kernel's sctp table has no comparable inodes.
            Protocol::Sctp => true,
        }
    }

    /// The server's end of a connection from `local` to `target`, unless it is in TIME_WAIT.
    pub(super) fn other_end(&self, local: SocketAddr, target: SocketAddr) -> Option<&TcpNetEntry> {
        let is = |address: SocketAddr, other: SocketAddr| {
            address.port() == other.port() && address.ip().to_canonical() == other.ip().to_canonical()
        };
        self.tcp.iter().find(|entry| {
            entry.state != TcpState::TimeWait && is(entry.remote_address, local) && is(entry.local_address, target)
        })
    }
}

/// Whether several sockets listen at `target`, so that a connection may be in the queue of another one.
pub(super) fn is_shared(target: SocketAddr) -> bool {
    let holders = portgrant_server::holders(&target.to_string()).unwrap_or_default();
    holders.iter().filter(|holder| holder.state == HolderState::Listening).count() > 1
}

/// The kernel's entry of a socket that was handed over.
pub(super) fn holder(info: &SocketInfo, inode: u64) -> Option<Holder> {
    let at = match info.local {
        SocketAddr::V4(local) => format!("{local}/{}", info.protocol.word()),
        SocketAddr::V6(local) => format!("[{}]:{}/{}", local.ip(), local.port(), info.protocol.word()),
    };
    let holders = portgrant_server::holders(&at).ok()?;
    holders.into_iter().find(|holder| holder.inode.is_some_and(|found| u64::from(found) == inode))
}

/// How many connections wait at a listener, and how many may.
pub(super) fn queue(info: &SocketInfo, inode: u64) -> Option<Queue> {
    holder(info, inode)?.queue
}
