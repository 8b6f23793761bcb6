//! The process that waits in bind(2): what it asks for, read once, and its socket.
//!
//! Everything in it may change while it is read, by another of its threads. So the address is copied, once, and that
//! copy is what is decided on and what is bound; the socket is a copy of the descriptor, held from before the decision
//! until after the bind.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use portgrant_protocol::{Address, Endpoint, Port, Protocol};
use rustix::net::{AddressFamily, SocketType, ipproto, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::filter::{Form, form};
use crate::raw::{self, Notification};

/// `struct sockaddr_storage`: the kernel takes no longer address.
const LONGEST: u64 = 128;

/// One call of bind(2): which descriptor, and the bytes of the address.
#[derive(Debug)]
pub(crate) struct Call {
    fd: i32,
    /// `struct sockaddr_*`, as the target gave it
    pub(crate) address: Vec<u8>,
}

impl Call {
    /// Reads what thread `notification.thread` asks for. An error where its memory cannot be read (it made itself
    /// undumpable, or is out of sight) or is none.
    pub(crate) fn read(notification: &Notification) -> io::Result<Call> {
        let memory = File::open(format!("/proc/{}/mem", notification.thread))?;
        let mut words = notification.arguments;
        if form(notification.architecture, notification.call) == Some(Form::Socketcall) {
            let mut array = [0; 12];
            memory.read_exact_at(&mut array, words[1])?;
            for (word, bytes) in words.iter_mut().zip(array.chunks_exact(4)) {
                *word = bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
            }
        }
        // An int each, whatever the upper half of the register holds.
        let [fd, length] = [words[0], words[2]].map(|word| word & u64::from(u32::MAX));
        if length > LONGEST {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut address = vec![0; usize::try_from(length).unwrap_or(0)];
        memory.read_exact_at(&mut address, words[1])?;
        let fd = i32::try_from(fd).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(Call { fd, address })
    }

    /// The socket itself, by a descriptor of this process's own.
    pub(crate) fn socket(&self, notification: &Notification) -> io::Result<OwnedFd> {
        let thread = i32::try_from(notification.thread).ok().and_then(Pid::from_raw);
        let thread = thread.ok_or(io::ErrorKind::NotFound)?;
        // A thread may have a descriptor table of its own (clone(2) without CLONE_FILES). Before Linux 6.9 only a
        // process can be opened: its first thread's table is that of nearly every other.
        const PIDFD_THREAD: PidfdFlags = PidfdFlags::from_bits_retain(rustix::fs::OFlags::EXCL.bits());
        let process = match pidfd_open(thread, PIDFD_THREAD) {
            Err(rustix::io::Errno::INVAL) => pidfd_open(process_of(thread)?, PidfdFlags::empty())?,
            other => other?,
        };
        Ok(pidfd_getfd(process, self.fd, PidfdGetfdFlags::empty())?)
    }

    /// The port that is asked for, where `address` is one of IPv4 or IPv6.
    pub(crate) fn port(&self) -> Option<u16> {
        self.place().map(|(_, port, _)| port)
    }

    /// Address, port, and the scope of an IPv6 address.
    fn place(&self) -> Option<(Address, u16, u32)> {
        let bytes = self.address.as_slice();
        let (family, rest) = bytes.split_first_chunk::<2>()?;
        let (port, rest) = rest.split_first_chunk::<2>()?;
        let port = u16::from_be_bytes(*port);
        match i32::from(u16::from_ne_bytes(*family)) {
            // AF_UNSPEC with INADDR_ANY is AF_INET to an IPv4 socket, and an error to others.
            nix::libc::AF_INET | nix::libc::AF_UNSPEC if bytes.len() >= 16 => {
                let ip = Ipv4Addr::from(*rest.first_chunk::<4>()?);
                Some((Address::V4(ip), port, 0))
            }
            nix::libc::AF_INET6 if bytes.len() >= 24 => {
                let ip = Ipv6Addr::from(*rest.get(4..20)?.first_chunk::<16>()?);
                let scope =
                    rest.get(20..24).and_then(|scope| scope.first_chunk()).map_or(0, |s| u32::from_ne_bytes(*s));
                Some((ip.to_ipv4_mapped().map_or(Address::V6(ip), Address::V4), port, scope))
            }
            _ => None,
        }
    }

    /// What the helper can be asked for this call on `socket`; `None` where that is nothing that it binds: no tcp, udp or
    /// sctp, another network namespace, or an address with a scope.
    pub(crate) fn endpoint(&self, socket: BorrowedFd<'_>) -> Option<Endpoint> {
        let (address, port, scope) = self.place()?;
        let protocol = match (sockopt::socket_type(socket).ok()?, sockopt::socket_protocol(socket).ok()??) {
            (SocketType::STREAM, ipproto::TCP) => Protocol::Tcp,
            (SocketType::STREAM, ipproto::MPTCP) => Protocol::Mptcp,
            (SocketType::STREAM, ipproto::SCTP) => Protocol::Sctp,
            (SocketType::DGRAM, ipproto::UDP) => Protocol::Udp,
            _ => return None,
        };
        if scope != 0 || !is_of_this_network(socket) {
            return None;
        }
        Some(Endpoint { name: None, address, port: Port::Number(port), protocol, options: Default::default() })
    }
}

/// The process that `thread` is of.
fn process_of(thread: Pid) -> io::Result<Pid> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", thread.as_raw_pid()))?;
    let tgid = status.lines().find_map(|line| line.strip_prefix("Tgid:")).and_then(|pid| pid.trim().parse().ok());
    tgid.and_then(Pid::from_raw).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn is_of_this_network(socket: BorrowedFd<'_>) -> bool {
    let own = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, rustix::net::SocketFlags::CLOEXEC, None);
    match (raw::netns_cookie(socket), own.map(|own| raw::netns_cookie(own.as_fd()))) {
        (Ok(theirs), Ok(Ok(ours))) => theirs == ours,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(address: &[u8]) -> Call {
        Call { fd: 3, address: address.to_vec() }
    }

    #[test]
    fn an_address_is_read_as_the_kernel_reads_it() {
        let v4 = |family: u8| [&[family, 0, 0, 80, 127, 0, 0, 1][..], &[0; 8]].concat();
        assert_eq!(call(&v4(2)).place(), Some((Address::V4(Ipv4Addr::LOCALHOST), 80, 0)));
        assert_eq!(call(&v4(0)).place(), Some((Address::V4(Ipv4Addr::LOCALHOST), 80, 0)));
        assert_eq!(call(&v4(2)[..15]).place(), None, "too short: the kernel says EINVAL");
        assert_eq!(call(&v4(1)).place(), None, "AF_UNIX");
        let v6 = |ip: Ipv6Addr| [&[10, 0, 1, 187, 0, 0, 0, 0][..], &ip.octets(), &[7, 0, 0, 0]].concat();
        let own: Ipv6Addr = "2001:db8::1".parse().expect("an address");
        assert_eq!(call(&v6(own)).place(), Some((Address::V6(own), 443, 7)));
        assert_eq!(call(&v6(own)[..24]).place(), Some((Address::V6(own), 443, 0)), "RFC 2133's, without a scope");
        assert_eq!(call(&v6(own)[..23]).place(), None);
        let mapped = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped();
        assert_eq!(call(&v6(mapped)).place(), Some((Address::V4(Ipv4Addr::new(10, 0, 0, 1)), 443, 7)));
        assert_eq!(call(&[]).port(), None);
        assert_eq!(call(&[2]).port(), None);
    }
}
