//! A DNS server that answers, lies, fails or stays silent, as each test wants.

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::{RData, Record};

use super::super::{Names, NamesBuilder, ReverseName};
use super::TTL;

/// What the server answers.
#[derive(Clone)]
pub(super) enum Reply {
    /// These, for the requested name
    Of(Vec<RData>),
    /// These
    Records(Vec<Record>),
    Code(ResponseCode),
    /// By udp, that the answer does not fit; by tcp, these
    TooLong(Vec<RData>),
    /// Bytes that are not an answer
    Bytes(fn(id: [u8; 2]) -> Vec<u8>),
    Late(Duration, Box<Reply>),
    Silence,
}

/// A DNS server on its own port, by udp and tcp, which remembers its questions.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) asked: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
}

impl Server {
    pub(super) fn start(zone: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Server {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("bound")) {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().expect("bound");
        udp.set_read_timeout(Some(Duration::from_millis(20))).expect("set");
        tcp.set_nonblocking(true).expect("set");
        let (asked, over) = (Arc::default(), Arc::<AtomicBool>::default());
        let server = Server { address, asked: Arc::clone(&asked), over: Arc::clone(&over) };
        let zone = move |query: &Message| {
            let question = format!("{} {}", query.queries[0].query_type(), query.queries[0].name().to_ascii());
            let reply = zone(&question);
            asked.lock().expect("no panic").push(question);
            reply
        };
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !over.load(Ordering::Relaxed) {
                if let Ok((length, peer)) = udp.recv_from(&mut buffer) {
                    let query = Message::from_vec(&buffer[..length]).expect("a query");
                    let reply = zone(&query);
                    let socket = udp.try_clone().expect("another");
                    answer(reply, query, Transport::Udp, move |bytes| drop(socket.send_to(&bytes, peer)));
                }
                match tcp.accept() {
                    Ok((mut stream, _)) => {
                        stream.set_nonblocking(false).expect("set");
                        let mut length = [0; 2];
                        stream.read_exact(&mut length).expect("a length");
                        let mut bytes = vec![0; u16::from_be_bytes(length).into()];
                        stream.read_exact(&mut bytes).expect("a query");
                        let query = Message::from_vec(&bytes).expect("a query");
                        let length = |bytes: &[u8]| u16::try_from(bytes.len()).expect("short").to_be_bytes();
                        answer(zone(&query), query, Transport::Tcp, move |bytes| {
                            stream.write_all(&[&length(&bytes), &*bytes].concat()).expect("sent");
                        });
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
        });
        server
    }

    /// In order, and without repetitions.
    pub(super) fn asked(&self) -> Vec<String> {
        let mut seen = HashSet::new();
        let asked = self.asked.lock().expect("no panic");
        asked.iter().filter(|question| seen.insert((*question).clone())).cloned().collect()
    }

    pub(super) fn count(&self, question: &str) -> usize {
        self.asked.lock().expect("no panic").iter().filter(|asked| *asked == question).count()
    }

    /// Names from this server, with a hosts file that does not exist.
    pub(super) fn names(&self) -> NamesBuilder {
        let builder = Names::builder().servers([self.address]).limit(Duration::from_secs(5));
        NamesBuilder { hosts: "/nonexistent/hosts".into(), resolv_conf: "/nonexistent/resolv.conf".into(), ..builder }
    }

    pub(super) fn name_of(&self, address: IpAddr) -> ReverseName {
        self.names().build().expect("names").of(address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Transport {
    Udp,
    Tcp,
}

fn answer(reply: Reply, query: Message, by: Transport, send: impl FnOnce(Vec<u8>) + Send + 'static) {
    let mut message = Message::response(query.metadata.id, query.metadata.op_code);
    message.metadata.message_type = MessageType::Response;
    message.metadata.recursion_available = true;
    let name = query.queries[0].name().clone();
    let own = |data: Vec<RData>| data.into_iter().map(|data| Record::from_rdata(name.clone(), TTL, data)).collect();
    match reply {
        Reply::Of(data) => message.answers = own(data),
        Reply::Records(records) => message.answers = records,
        Reply::Code(code) => message.metadata.response_code = code,
        Reply::TooLong(_) if by == Transport::Udp => message.metadata.truncation = true,
        Reply::TooLong(data) => message.answers = own(data),
        Reply::Bytes(bytes) => return send(bytes(query.metadata.id.to_be_bytes())),
        Reply::Silence => return,
        Reply::Late(time, reply) => {
            thread::spawn(move || {
                thread::sleep(time);
                answer(*reply, query, by, send);
            });
            return;
        }
    }
    message.add_query(query.queries[0].clone());
    send(message.to_vec().expect("a message"));
}
