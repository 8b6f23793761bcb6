//! Which socket of a SO_REUSEPORT group receives a connection or a datagram.

use std::os::fd::AsFd;

use nix::libc::{self, sock_filter, sock_fprog};
use nix::sys::socket::SetSockOpt;
use nix::sys::socket::sockopt::AttachReusePortCbpf;

use crate::client::SocketOptionError;
use crate::failure::Error;

/// Makes the kernel distribute by CPU instead of by a hash: a packet that arrives on CPU _n_ goes to socket _n_ modulo
/// the length of `group`. With as many sockets as CPUs, and each worker on its own CPU, a connection stays where its
/// packets arrive.
///
/// `group` must be the whole SO_REUSEPORT group in the order in which it was bound, as [`Server::group`] returns it:
/// the kernel counts in that order. When a socket closes, the last one takes its number. A CPU without a socket uses
/// the hash again. This needs no privilege (SO_ATTACH_REUSEPORT_CBPF, socket(7); Linux 4.5, for tcp 4.6).
///
/// [`Server::group`]: crate::Server::group
///
/// ```
/// # use portgrant_server::{Bind, steer_by_cpu};
/// # let free = std::net::UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
/// let bind = Bind::to(&format!("{free}/udp"))?.reuse_port();
/// let group = [bind.udp()?, bind.udp()?];
/// steer_by_cpu(&group)?; // even CPUs to the first, odd ones to the second
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn steer_by_cpu<S: AsFd>(group: &[S]) -> Result<(), Error> {
    let (Some(any), Ok(length)) = (group.first(), u32::try_from(group.len())) else { return Ok(()) };
    // `raw_smp_processor_id() % length`. The kernel documentation of socket filters describes the words.
    let mut program = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, (libc::SKF_AD_OFF + libc::SKF_AD_CPU).cast_unsigned()),
        instruction(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, length),
        instruction(libc::BPF_RET | BPF_A, 0),
    ];
    // The kernel copies the program during the call. `program` outlives it, and `len` is its length.
    let attached = AttachReusePortCbpf.set(any, &sock_fprog { len: 3, filter: program.as_mut_ptr() });
    attached.map_err(|errno| SocketOptionError { option: "SO_ATTACH_REUSEPORT_CBPF", source: errno.into() }.into())
}

/// From linux/filter.h; libc has only the others.
const BPF_A: u32 = 0x10;

fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter { code: u16::try_from(code).unwrap_or_default(), jt: 0, jf: 0, k }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::time::{Duration, Instant};

    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    use super::*;
    use crate::binding::{Bind, Server};

    fn free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").expect("a listener").local_addr().expect("bound").port()
    }

    /// Runs `act` on each CPU that this thread may use (at most 8).
    fn on_each_cpu(act: impl Fn(usize)) {
        let allowed = sched_getaffinity(None).expect("a set");
        for cpu in (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).take(8) {
            let mut only = CpuSet::new();
            only.set(cpu);
            sched_setaffinity(None, &only).expect("pinned");
            act(cpu);
        }
        sched_setaffinity(None, &allowed).expect("as before");
    }

    #[test]
    fn connections_go_to_the_worker_of_the_cpu_that_they_arrive_on() {
        let endpoint = format!("127.0.0.1:{}", free_port());
        let group = Server::default().group(&endpoint, 3).expect("a group");
        steer_by_cpu(&group).expect("steered");
        let group: Vec<TcpListener> = group.into_iter().map(|socket| socket.into_tcp().expect("tcp")).collect();
        for listener in &group {
            listener.set_nonblocking(true).expect("set");
        }
        on_each_cpu(|cpu| {
            // Over the loopback a packet arrives on the CPU that sent it. By the hash, all would reach one socket with
            // a probability of 3^-20.
            let clients: Vec<_> = (0..20).map(|_| TcpStream::connect(&endpoint).expect("connected")).collect();
            for worker in 0..group.len() {
                let expected = if worker == cpu % group.len() { clients.len() } else { 0 };
                assert_eq!(group[worker].incoming().map_while(Result::ok).count(), expected, "CPU {cpu}, {worker}");
            }
        });
    }

    #[test]
    fn datagrams_are_steered_as_well() {
        let bind = Bind::to(&format!("127.0.0.1:{}/udp", free_port())).expect("an endpoint").reuse_port();
        let group: Vec<UdpSocket> = (0..2).map(|_| bind.udp().expect("bound")).collect();
        steer_by_cpu(&group).expect("steered");
        for socket in &group {
            socket.set_nonblocking(true).expect("set");
        }
        on_each_cpu(|cpu| {
            let begin = Instant::now();
            for _ in 0..20 {
                let client = UdpSocket::bind("127.0.0.1:0").expect("a client");
                client.send_to(b"x", group[0].local_addr().expect("bound")).expect("sent");
            }
            let count = |socket: &UdpSocket| std::iter::from_fn(|| socket.recv(&mut [0]).ok()).count();
            let counts: Vec<usize> = group.iter().map(count).collect();
            assert_eq!((counts[cpu % 2], counts[(cpu + 1) % 2]), (20, 0), "CPU {cpu}");
            assert!(begin.elapsed() < Duration::from_secs(5));
        });
    }

    #[test]
    fn a_socket_outside_of_a_group_cannot_be_steered() {
        let alone = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let error = steer_by_cpu(&[alone]).expect_err("no SO_REUSEPORT");
        assert!(
            matches!(error.downcast_ref(), Some(SocketOptionError { option: "SO_ATTACH_REUSEPORT_CBPF", .. })),
            "{error}"
        );
        steer_by_cpu::<TcpListener>(&[]).expect("nothing to do");
    }
}
