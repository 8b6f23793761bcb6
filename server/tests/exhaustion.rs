//! A server that runs out of descriptors. Alone in its program: the limit is the whole process's.

use std::fs::File;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use portgrant_server::{Event, Listeners};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Opens as many files as there may be.
fn use_up() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).expect("not negative")
}

#[test]
fn a_server_out_of_descriptors_says_so_once_serves_on_and_does_not_spin() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), ..limit }).expect("lowered");
    let (tcp, udp) = (TcpListener::bind("127.0.0.1:0").expect("tcp"), UdpSocket::bind("127.0.0.1:0").expect("udp"));
    let (tcp_at, udp_at) = (tcp.local_addr().expect("bound"), udp.local_addr().expect("bound"));
    let other = TcpListener::bind("127.0.0.1:0").expect("tcp");
    let other_at = other.local_addr().expect("bound");
    let mut listeners = Listeners::new().expect("made");
    listeners.tcp("web", tcp).expect("added");
    listeners.tcp("other", other).expect("added");
    listeners.udp("dns", udp).expect("added");
    let asking = UdpSocket::bind("127.0.0.1:0").expect("a client");

    for _ in 0..2 {
        let clients = [tcp_at, other_at].map(|at| TcpStream::connect(at).expect("connected"));
        let all = use_up();
        let event = listeners.event_within(Duration::from_secs(5)).expect("no error");
        assert!(
            matches!(&event, Some(Event::Exhausted { source, .. }) if source.raw_os_error() == Some(24)),
            "{event:?}"
        );

        let before = processor_time();
        assert!(listeners.event_within(Duration::from_millis(500)).expect("no error").is_none(), "told once");
        let spent = processor_time() - before;
        assert!(spent < Duration::from_millis(50), "it spins: {spent:?} of 500 ms");

        asking.send_to(b"question", udp_at).expect("sent");
        let event = listeners.event_within(Duration::from_secs(5)).expect("no error");
        assert!(matches!(event, Some(Event::Datagram(_))), "datagrams need no descriptor");

        drop(all);
        let mut names = Vec::new();
        for _ in &clients {
            let event = listeners.event_within(Duration::from_secs(5)).expect("no error");
            let Some(Event::Connection(client)) = event else { panic!("{event:?}") };
            names.push(client.name.to_string());
        }
        names.sort();
        assert_eq!(names, ["other", "web"]);
    }
}
