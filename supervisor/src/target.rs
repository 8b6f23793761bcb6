//! The process that waits in bind(2): its arguments, read once, and its socket.
//!
//! Another thread of the process can change its memory at any time. So the address is copied once, and that copy is
//! decided on and bound. The descriptor is also copied, and held from before the decision until after the bind.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use portgrant_protocol::{Address, AskedPort, Endpoint, Port, Protocol};
use portgrant_sys::netns_cookie;
use portgrant_sys::seccomp::{self, Notification};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::filter::{Form, form};

/// The size of `struct sockaddr_storage`, the longest address that the kernel accepts.
const LONGEST: u64 = 128;

/// One call of bind(2): the descriptor and the bytes of the address.
#[derive(Debug)]
pub(crate) struct Call {
    fd: i32,
    /// `struct sockaddr_*`, as the target gave it
    pub(crate) address: Vec<u8>,
}

impl Call {
    /// Reads the arguments of thread `notification.thread`. Fails if its memory cannot be read (it made itself
    /// undumpable, or is not visible), or if an argument is not valid.
    pub(crate) fn read(notification: &Notification) -> io::Result<Call> {
        let mut words = notification.arguments;
        if form(notification.architecture, notification.call) == Some(Form::Socketcall) {
            let mut array = [0; 12];
            read(notification, words[1], &mut array)?;
            for (word, bytes) in words.iter_mut().zip(array.chunks_exact(4)) {
                *word = bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
            }
        }
        // Both are an int; the upper half of the register is ignored.
        let [fd, length] = [words[0], words[2]].map(|word| word & u64::from(u32::MAX));
        if length > LONGEST {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut address = vec![0; usize::try_from(length).unwrap_or(0)];
        read(notification, words[1], &mut address)?;
        let fd = i32::try_from(fd).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(Call { fd, address })
    }

    /// The socket, as a copy of the thread's descriptor.
    pub(crate) fn socket(&self, notification: &Notification) -> io::Result<OwnedFd> {
        let thread = i32::try_from(notification.thread).ok().and_then(rustix::process::Pid::from_raw);
        let thread = thread.ok_or(io::ErrorKind::NotFound)?;
        // A thread may have a separate descriptor table (clone(2) without CLONE_FILES). Before Linux 6.9 only a process
        // can be opened, by the id of its first thread; nearly all threads share that thread's table.
        const PIDFD_THREAD: PidfdFlags = PidfdFlags::from_bits_retain(rustix::fs::OFlags::EXCL.bits());
        let none = PidfdFlags::empty();
        let process = match pidfd_open(thread, PIDFD_THREAD) {
            Err(Errno::INVAL) => match pidfd_open(thread, none) {
                // It is not the first thread. Only /proc shows its process.
                Err(Errno::INVAL | Errno::NOENT) => pidfd_open(process_of(thread)?, none)?,
                first => first?,
            },
            other => other?,
        };
        Ok(pidfd_getfd(process, self.fd, PidfdGetfdFlags::empty())?)
    }

    /// The requested port, if `address` is IPv4 or IPv6.
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

    /// Whether this call asks for `local`, the address of a bound socket.
    pub(crate) fn asks_for(&self, local: SocketAddr) -> bool {
        let ip = match local.ip().to_canonical() {
            IpAddr::V4(ip) => Address::V4(ip),
            IpAddr::V6(ip) => Address::V6(ip),
        };
        self.place().is_some_and(|(address, port, _)| (address, port) == (ip, local.port()))
    }

    /// The error for the address alone, if the kernel refuses it with any port: it does not exist, or does not fit
    /// `socket`. (For IPv6 the kernel checks the port first, so the real call does not show this.)
    pub(crate) fn unfit(&self, socket: BorrowedFd<'_>) -> Option<i32> {
        let domain = sockopt::socket_domain(socket).ok()?;
        let kind = sockopt::socket_type(socket).ok()?;
        let other = socket_with(domain, kind, SocketFlags::CLOEXEC, sockopt::socket_protocol(socket).ok()?).ok()?;
        if domain == AddressFamily::INET6 {
            sockopt::set_ipv6_v6only(&other, sockopt::ipv6_v6only(socket).ok()?).ok()?;
            sockopt::set_ipv6_freebind(&other, sockopt::ipv6_freebind(socket).ok()?).ok()?;
        } else {
            sockopt::set_ip_freebind(&other, sockopt::ip_freebind(socket).ok()?).ok()?;
        }
        let mut address = self.address.clone();
        address.get_mut(2..4)?.fill(0);
        seccomp::bind(other.as_fd(), &address).err()?.raw_os_error()
    }

    /// The endpoint to ask the helper for. `None` if the helper cannot bind it: another protocol than tcp, udp and
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
        // For other addresses the kernel ignores the scope.
        let is_scoped =
            matches!(address, Address::V6(ip) if scope != 0 && (ip.is_unicast_link_local() || ip.is_multicast()));
        if is_scoped || !is_of_this_network(socket) {
            return None;
        }
        Some(Endpoint {
            name: None,
            address,
            port: AskedPort::Number(Port::new(port)?),
            protocol,
            options: Default::default(),
        })
    }
}

/// Fills `bytes` from address `from` of the waiting thread's memory. It uses the thread id, since /proc may be missing
/// or of another pid namespace.
fn read(notification: &Notification, from: u64, bytes: &mut [u8]) -> io::Result<()> {
    let thread = i32::try_from(notification.thread).map_err(|_| io::ErrorKind::NotFound)?;
    let base = usize::try_from(from).map_err(|_| io::ErrorKind::InvalidInput)?;
    let there = [RemoteIoVec { base, len: bytes.len() }];
    let length = bytes.len();
    let read = process_vm_readv(Pid::from_raw(thread), &mut [IoSliceMut::new(bytes)], &there)?;
    if read == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// The process of `thread`.
fn process_of(thread: rustix::process::Pid) -> io::Result<rustix::process::Pid> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", thread.as_raw_pid()))?;
    let tgid = status.lines().find_map(|line| line.strip_prefix("Tgid:")).and_then(|pid| pid.trim().parse().ok());
    tgid.and_then(rustix::process::Pid::from_raw).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn is_of_this_network(socket: BorrowedFd<'_>) -> bool {
    let own = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    match (netns_cookie(socket), own.map(|own| netns_cookie(own.as_fd()))) {
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
        let local = |text: &str| text.parse::<SocketAddr>().expect(text);
        assert!(call(&v4(2)).asks_for(local("127.0.0.1:80")));
        assert!(call(&v6(mapped)).asks_for(local("[::ffff:10.0.0.1]:443")), "as getsockname(2) tells it");
        assert!(call(&v6(own)).asks_for(local("[2001:db8::1]:443")));
        for other in ["127.0.0.2:80", "127.0.0.1:81", "[::]:80"] {
            assert!(!call(&v4(2)).asks_for(local(other)), "{other}");
        }
        assert_eq!(call(&[]).port(), None);
        assert_eq!(call(&[2]).port(), None);
    }
}
