//! Servers that run out of descriptors. Alone in their program, and one after the other: the limit is the whole process's.

use std::fs::File;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use portgrant_server::error::{ListenerError, MailboxError};
use portgrant_server::{Event, Listeners, Mailbox};
use rustix::net::{Shutdown, shutdown};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Opens as many files as there may be.
fn use_up() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).expect("not negative")
}

/// One test at a time, with 64 descriptors.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), ..limit }).expect("lowered");
    alone
}

fn listener() -> (TcpListener, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("tcp");
    let at = listener.local_addr().expect("bound");
    (listener, at)
}

#[test]
fn a_server_out_of_descriptors_reports_it_once_and_goes_on() {
    let _alone = alone();
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
        assert!(listeners.event_within(Duration::from_millis(500)).expect("no error").is_none(), "reported once");
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

#[test]
fn a_listener_that_is_shut_down_does_not_make_the_loop_spin() {
    let _alone = alone();
    let (web, web_at) = listener();
    let (other, late) = (listener().0, listener().0);
    let copies = [other.try_clone().expect("a copy"), late.try_clone().expect("a copy")];
    let mut listeners = Listeners::new().expect("made");
    listeners.tcp("web", web).expect("added");
    listeners.tcp("other", other).expect("added");
    let _client = TcpStream::connect(web_at).expect("connected");
    let all = use_up();
    let event = listeners.event_within(Duration::from_secs(5)).expect("no error");
    assert!(matches!(event, Some(Event::Exhausted { .. })), "{event:?}");

    listeners.tcp("late", late).expect("added");
    for copy in &copies {
        shutdown(copy, Shutdown::Read).expect("shut down");
    }
    let before = processor_time();
    assert!(listeners.event_within(Duration::from_secs(1)).expect("no error").is_none());
    let spent = processor_time() - before;
    assert!(spent < Duration::from_millis(50), "it spins: {spent:?} of a second");

    drop(all);
    let (mut clients, mut failed) = (0, Vec::new());
    for _ in 0..3 {
        match listeners.event_within(Duration::from_secs(5)) {
            Ok(Some(Event::Connection(_))) => clients += 1,
            Err(error) if matches!(error.downcast_ref(), Some(ListenerError::Failed { .. })) => {
                let Some(ListenerError::Failed { name, .. }) = error.downcast_ref() else { continue };
                failed.push(name.clone());
            }
            event => panic!("{event:?}"),
        }
    }
    failed.sort();
    assert_eq!((clients, failed.as_slice()), (1, ["late".to_owned(), "other".to_owned()].as_slice()));
}

#[test]
fn a_loop_around_accept_waits_where_accept_would_fail_again_at_once() {
    let _alone = alone();
    let (web, at) = listener();
    let client = TcpStream::connect(at).expect("connected");
    let all = use_up();
    let before = processor_time();
    let server = thread::spawn(move || portgrant_server::accept(&web));
    thread::sleep(Duration::from_secs(1));
    let spent = processor_time() - before;
    assert!(spent < Duration::from_millis(50), "it spins: {spent:?} of a second");
    assert!(!server.is_finished(), "and it does not give up");
    drop(all);
    let (_, peer) = server.join().expect("no panic").expect("accepted");
    assert_eq!(peer, client.local_addr().expect("bound"));
}

#[test]
fn a_loop_around_a_mailbox_does_not_spin_either() {
    let _alone = alone();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("exhausted-mailbox-{}", std::process::id()));
    let mailbox = Mailbox::bind(&path).expect("made");
    let client = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::SEQPACKET, None);
    let client = client.expect("a socket");
    rustix::net::connect(&client, &rustix::net::SocketAddrUnix::new(&path).expect("a path")).expect("connected");
    let all = use_up();
    let (before, begun) = (processor_time(), Instant::now());
    let mut errors = 0;
    while begun.elapsed() < Duration::from_secs(1) {
        let error = mailbox.receive().expect_err("no descriptors");
        assert!(matches!(error.downcast_ref(), Some(MailboxError::Unusable { .. })), "{error}");
        errors += 1;
    }
    let spent = processor_time() - before;
    assert!(spent < Duration::from_millis(50) && errors <= 11, "it spins: {spent:?} of a second, {errors} errors");
    drop(all);
}
