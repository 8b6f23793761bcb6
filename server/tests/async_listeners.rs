//! The same events for tokio: feature `tokio`.
#![cfg(feature = "tokio")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use portgrant_server::{AsyncListeners, EachUdp, Event, Listeners};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(5);

fn listeners() -> (AsyncListeners, SocketAddr, SocketAddr) {
    let (tcp, udp) = (TcpListener::bind("127.0.0.1:0").expect("tcp"), UdpSocket::bind("[::]:0").expect("udp"));
    let (tcp_at, port) = (tcp.local_addr().expect("bound"), udp.local_addr().expect("bound").port());
    let mut listeners = Listeners::new().expect("made");
    listeners.tcp("web", tcp).expect("added");
    listeners.udp("dns", udp).expect("added");
    (AsyncListeners::new(listeners).expect("registered"), tcp_at, (Ipv4Addr::new(127, 0, 0, 5), port).into())
}

async fn next(listeners: &mut AsyncListeners) -> Event<TcpStream> {
    tokio::time::timeout(SOON, listeners.event()).await.expect("in time").expect("no error")
}

#[tokio::test]
async fn connections_and_datagrams_come_by_their_names() {
    let (mut listeners, tcp_at, udp_at) = listeners();
    for _ in 0..3 {
        let mut client = TcpStream::connect(tcp_at).await.expect("connected");
        let Event::Connection(mut connection) = next(&mut listeners).await else { panic!("no connection") };
        assert_eq!(&*connection.name, "web");
        connection.stream.write_all(b"hello").await.expect("sent");
        drop(connection);
        let mut said = String::new();
        client.read_to_string(&mut said).await.expect("received");
        assert_eq!(said, "hello");

        let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a client");
        client.send_to(b"question", udp_at).await.expect("sent");
        let Event::Datagram(datagram) = next(&mut listeners).await else { panic!("no datagram") };
        assert_eq!((&*datagram.name, &*datagram.bytes), ("dns", &b"question"[..]));
        datagram.reply_async(b"answer").await.expect("sent");
        let (_, from) = client.recv_from(&mut [0; 9]).await.expect("answered");
        assert_eq!(from, udp_at);
    }
}

#[tokio::test]
async fn a_cancelled_wait_loses_nothing() {
    let (mut listeners, tcp_at, _) = listeners();
    for _ in 0..20 {
        let given_up = tokio::time::timeout(Duration::from_millis(1), listeners.event()).await;
        assert!(given_up.is_err());
        let _client = TcpStream::connect(tcp_at).await.expect("connected");
        assert!(matches!(next(&mut listeners).await, Event::Connection(_)));
    }
}

#[tokio::test]
async fn a_flood_does_not_starve_other_tasks() {
    let (mut listeners, _, udp_at) = listeners();
    let stopper = listeners.stopper();
    let client = UdpSocket::bind("127.0.0.1:0").expect("a client");
    client.set_nonblocking(true).expect("set");
    // On the one thread of this runtime: it runs only when the other gives way.
    let other = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        stopper.stop();
    });
    let began = std::time::Instant::now();
    let mut datagrams = 0;
    loop {
        // There is always one more.
        let _ = client.send_to(b"flood", udp_at);
        let event = listeners.event().await.expect("no error");
        if matches!(event, Event::Stopped) {
            break;
        }
        assert!(matches!(event, Event::Datagram(_)), "{event:?}");
        datagrams += 1;
        assert!(began.elapsed() < SOON, "the other task never ran");
    }
    assert!(datagrams > 100, "{datagrams}");
    other.await.expect("no panic");
}

#[tokio::test]
async fn the_sockets_of_each_are_awaited_too() {
    let port = UdpSocket::bind("[::]:0").expect("dual-stack").local_addr().expect("bound").port();
    let (mut listeners, ..) = listeners();
    listeners.each(EachUdp::listen(&format!("rip=each:{port}/udp")).expect("bound")).expect("added");
    let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a client");
    for asked in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 8)] {
        client.send_to(b"question", (asked, port)).await.expect("sent");
        let Event::Datagram(datagram) = next(&mut listeners).await else { panic!("no datagram") };
        assert_eq!((&*datagram.name, datagram.arrival.asked), ("rip", asked.into()));
    }
    listeners.stopper().stop();
    assert!(matches!(next(&mut listeners).await, Event::Stopped));
}

#[tokio::test]
async fn errors_of_sent_datagrams_do_not_block_the_runtime() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("udp");
    let copy = socket.try_clone().expect("a copy");
    let mut listeners = Listeners::new().expect("made");
    listeners.udp("dns", socket).expect("added");
    let mut listeners = AsyncListeners::new(listeners).expect("registered");
    nix::sys::socket::setsockopt(&copy, nix::sys::socket::sockopt::Ipv4RecvErr, &true).expect("IP_RECVERR");
    let nobody = UdpSocket::bind("127.0.0.1:0").and_then(|closed| closed.local_addr()).expect("an address");
    copy.send_to(b"hello?", nobody).expect("sent");
    assert!(tokio::time::timeout(Duration::from_millis(100), listeners.event()).await.is_err(), "nothing came");
    let at = copy.local_addr().expect("bound");
    UdpSocket::bind("127.0.0.1:0").and_then(|client| client.send_to(b"question", at)).expect("sent");
    assert!(matches!(next(&mut listeners).await, Event::Datagram(_)));
}
