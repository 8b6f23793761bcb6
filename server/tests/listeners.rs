//! Several ports at once: what comes in by which name, in what order, and how it ends.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv6RecvErr};
use portgrant_server::error::{InvalidEndpoint, ListenerError};
use portgrant_server::{EachUdp, Error, Event, Listeners};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown, sockopt};
use rustix::time::{ClockId, clock_gettime};

const SOON: Duration = Duration::from_secs(5);
const A_MOMENT: Duration = Duration::from_millis(50);

/// A listener, and where it is.
fn tcp(address: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(address).expect(address);
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

fn next(listeners: &mut Listeners) -> Event {
    listeners.event_within(SOON).expect("no error").expect("an event")
}

/// The name that the next connection came in by.
fn next_connection(listeners: &mut Listeners) -> String {
    let Event::Connection(client) = next(listeners) else { panic!("no connection") };
    client.name.to_string()
}

/// A port that is free for udp on all addresses of both families.
fn free_port() -> u16 {
    UdpSocket::bind("[::]:0").expect("dual-stack").local_addr().expect("bound").port()
}

fn is_answered(listeners: &mut Listeners, asked: SocketAddr) -> bool {
    let client = UdpSocket::bind("127.0.0.1:0").expect("a client");
    client.set_read_timeout(Some(SOON)).expect("set");
    client.send_to(b"question", asked).expect("sent");
    let Event::Datagram(datagram) = next(listeners) else { panic!("no datagram") };
    assert_eq!((datagram.arrival.asked, datagram.arrival.peer), (asked.ip(), client.local_addr().expect("bound")));
    datagram.reply(b"answer").expect("sent");
    let (length, from) = client.recv_from(&mut [0; 64]).expect("answered");
    (length, from) == (6, asked)
}

#[test]
fn each_event_has_its_listeners_name_and_ipv4_clients_are_ipv4() {
    let (web, _) = tcp("[::]:0");
    let port = web.local_addr().expect("bound").port();
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let udp_at = udp.local_addr().expect("bound");
    let mut listeners = Listeners::new().expect("made");
    listeners.tcp("web", web).expect("added");
    listeners.udp("dns", udp).expect("added");
    assert_eq!(listeners.names().collect::<Vec<_>>(), ["web", "dns"]);
    assert!(listeners.event_within(A_MOMENT).expect("no error").is_none());

    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connected");
    let Event::Connection(mut connection) = next(&mut listeners) else { panic!("no connection") };
    assert_eq!((&*connection.name, connection.peer), ("web", client.local_addr().expect("bound")));
    // The listener does not block; the connection does.
    thread::scope(|scope| {
        let reader = scope.spawn(|| connection.stream.read(&mut [0; 9]).expect("read"));
        thread::sleep(A_MOMENT);
        client.write_all(b"hello").expect("sent");
        assert_eq!(reader.join().expect("no panic"), 5);
    });
    assert!(is_answered(&mut listeners, udp_at));
}

#[test]
fn a_flood_at_one_delays_another_by_one_event() {
    let ((flooded, at), (quiet, quiet_at)) = (tcp("127.0.0.1:0"), tcp("127.0.0.1:0"));
    let mut listeners = Listeners::new().expect("made");
    listeners.tcp("flooded", flooded).expect("added");
    listeners.tcp("quiet", quiet).expect("added");
    let connect = |at: SocketAddr| TcpStream::connect(at).expect("connected");
    let _flood: Vec<TcpStream> = (0..50).map(|_| connect(at)).collect();
    for _ in 0..5 {
        assert_eq!(next_connection(&mut listeners), "flooded");
        let _client = connect(quiet_at);
        let names = [next_connection(&mut listeners), next_connection(&mut listeners)];
        assert!(names.contains(&"quiet".to_owned()), "{names:?}");
    }
}

#[test]
fn a_stopper_stops_the_listeners_at_once_from_another_thread() {
    let (listener, at) = tcp("127.0.0.1:0");
    let mut listeners = Listeners::new().expect("made");
    listeners.tcp("web", listener).expect("added");
    let stopper = listeners.stopper();
    let began = Instant::now();
    let waker = thread::spawn(move || {
        thread::sleep(A_MOMENT);
        stopper.stop();
    });
    assert!(matches!(listeners.event(), Ok(Event::Stopped)));
    assert!((A_MOMENT..SOON).contains(&began.elapsed()));
    waker.join().expect("no panic");
    let _client = TcpStream::connect(at).expect("the backlog takes it");
    assert!(matches!(listeners.event(), Ok(Event::Stopped)), "no other event comes");
}

#[test]
fn a_failed_listener_is_reported_once_and_the_others_continue() {
    let ((broken, _), (sound, at)) = (tcp("127.0.0.1:0"), tcp("127.0.0.1:0"));
    let mut listeners = Listeners::new().expect("made");
    shutdown(&broken, Shutdown::Both).expect("shut down");
    listeners.tcp("broken", broken).expect("added");
    listeners.tcp("sound", sound.try_clone().expect("a copy")).expect("added");
    let error = listeners.event_within(SOON).expect_err("broken");
    assert!(matches!(error.downcast_ref(), Some(ListenerError::Failed { name, .. }) if name == "broken"), "{error}");
    let _client = TcpStream::connect(at).expect("connected");
    assert_eq!(next_connection(&mut listeners), "sound");
    shutdown(&sound, Shutdown::Both).expect("shut down");
    assert!(matches!(
        listeners.event_within(SOON).as_ref().map_err(Error::downcast_ref),
        Err(Some(ListenerError::Failed { .. }))
    ));
    assert!(
        matches!(listeners.event().as_ref().map_err(Error::downcast_ref), Err(Some(ListenerError::NoListener))),
        "not a wait for ever"
    );
}

#[test]
fn a_client_that_disconnected_delays_nobody() {
    let (listener, at) = tcp("127.0.0.1:0");
    let copy = listener.try_clone().expect("a copy");
    let mut listeners = Listeners::new().expect("made");
    listeners.tcp("web", listener).expect("added");
    let _client = TcpStream::connect(at).expect("connected");
    copy.accept().expect("another process was faster");
    assert!(listeners.event_within(A_MOMENT).expect("no error").is_none());
}

#[test]
fn every_address_answers_from_itself_even_without_a_separate_socket() {
    let port = free_port();
    let each = EachUdp::listen(&format!("rip=each:{port}/udp")).expect("bound");
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    assert!(each.addresses().any(|address| address == loopback) && each.name() == "rip");
    let mut listeners = Listeners::new().expect("made");
    listeners.each(each).expect("added");
    assert!(is_answered(&mut listeners, loopback));
    assert!(is_answered(&mut listeners, (Ipv4Addr::new(127, 7, 7, 7), port).into()), "by the wildcard");
}

#[test]
fn no_other_process_can_bind_beside_the_sockets_of_each() {
    let port = free_port();
    let each = EachUdp::listen(&format!("each:{port}/udp")).expect("bound");
    assert!(!sockopt::socket_reuseport(each.wildcard()).expect("asked"));
    for address in ["127.0.0.1", "127.0.0.9", "0.0.0.0"] {
        for only_reuseaddr in [true, false] {
            let intruder = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None);
            let intruder = intruder.expect("a socket");
            sockopt::set_socket_reuseaddr(&intruder, true).expect("set");
            sockopt::set_socket_reuseport(&intruder, !only_reuseaddr).expect("set");
            let address = SocketAddr::new(address.parse().expect("an address"), port);
            assert_eq!(rustix::net::bind(&intruder, &address), Err(Errno::ADDRINUSE));
        }
    }
    let error = EachUdp::listen(&format!("each:{port}/udp")).expect_err("in use");
    assert!(matches!(error.downcast_ref(), Some(ListenerError::NotBound { .. })), "{error}");
    assert!(error.message().fix.is_some_and(|fix| fix.contains("ss -lunp")) && error.status() == 69);
}

#[test]
fn wrong_uses_of_each_are_reported() {
    for wrong in ["127.0.0.1:5353/udp", "5353/udp", "each:5353/udp,reuseport"] {
        assert!(
            matches!(
                EachUdp::listen(wrong).as_ref().map_err(Error::downcast_ref),
                Err(Some(ListenerError::NotEach { .. }))
            ),
            "{wrong}"
        );
    }
    assert!(EachUdp::listen("each:53").is_err_and(|error| error.downcast_ref::<InvalidEndpoint>().is_some()));
}

fn processor_time() -> Duration {
    // Of this thread alone: other tests run beside it.
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("not negative")
}

/// Nothing comes within a second, and waiting for it takes next to no processor time.
#[track_caller]
fn rests(listeners: &mut Listeners) {
    let before = processor_time();
    assert!(listeners.event_within(Duration::from_secs(1)).expect("no error").is_none());
    let spent = processor_time() - before;
    assert!(spent < Duration::from_millis(100), "it spins: {spent:?} of a second");
}

/// Has an error in the error queue of `socket` (IP_RECVERR): nobody is where it sends to.
fn send_in_vain(socket: &UdpSocket) {
    setsockopt(socket, Ipv4RecvErr, &true).expect("IP_RECVERR");
    let nobody = UdpSocket::bind("127.0.0.1:0").and_then(|closed| closed.local_addr()).expect("an address");
    socket.send_to(b"hello?", nobody).expect("sent");
}

#[test]
fn errors_of_sent_datagrams_do_not_make_the_loop_spin() {
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let (udp_at, copy) = (udp.local_addr().expect("bound"), udp.try_clone().expect("a copy"));
    let mut listeners = Listeners::new().expect("made");
    listeners.udp("dns", udp).expect("added");
    send_in_vain(&copy);
    rests(&mut listeners);
    assert!(is_answered(&mut listeners, udp_at));

    let each = EachUdp::listen(&format!("each:{}/udp", free_port())).expect("bound");
    let copy = each.wildcard().socket().try_clone().expect("a copy");
    let mut listeners = Listeners::new().expect("made");
    listeners.each(each).expect("added");
    setsockopt(&copy, Ipv6RecvErr, &true).expect("IPV6_RECVERR");
    let nobody = UdpSocket::bind("[::1]:0").and_then(|closed| closed.local_addr()).expect("an address");
    copy.send_to(b"hello?", nobody).expect("sent");
    rests(&mut listeners);
}

#[test]
fn a_udp_socket_that_is_shut_down_is_reported_once() {
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let copy = udp.try_clone().expect("a copy");
    let mut listeners = Listeners::new().expect("made");
    listeners.udp("dns", udp).expect("added");
    listeners.tcp("web", tcp("127.0.0.1:0").0).expect("added");
    // It is not connected, which is an error; it is shut down all the same (Linux 6.18).
    let _ = shutdown(&copy, Shutdown::Read);
    let error = listeners.event_within(SOON).expect_err("it is shut down");
    let Some(ListenerError::Failed { name, source }) = error.downcast_ref() else { panic!("{error}") };
    assert_eq!((name.as_str(), source.raw_os_error()), ("dns", Some(Errno::SHUTDOWN.raw_os_error())));
    rests(&mut listeners);
}
