//! Answers of DNS: a name server that answers anything gives a client no name that does not have the client's address.
//!
//! The names are asked as a server asks them, over udp to a name server in this process.
#![no_main]

use std::borrow::Borrow;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use libfuzzer_sys::fuzz_target;
use portgrant_server::names::HostName;
use portgrant_server::{Names, ReverseName};
use words::{Choices, is_printable};

const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

struct Server {
    names: Names,
    /// What it answers, and whether an answer had the client's address
    state: Arc<Mutex<(Vec<u8>, bool)>>,
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let address: SocketAddr = socket.local_addr().expect("bound");
        let state = Arc::<Mutex<(Vec<u8>, bool)>>::default();
        let own = Arc::clone(&state);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                let Ok(query) = Message::from_vec(&buffer[..length]) else { continue };
                let mut state = own.lock().expect("no panic");
                let (answer, has_address) = answered(&query, &state.0);
                state.1 |= has_address;
                drop(state);
                let _ = socket.send_to(&answer, peer);
            }
        });
        let limit = Duration::from_millis(150);
        let names = Names::builder().servers([address]).limit(limit).remember(0).build().expect("names");
        Server { names, state }
    })
}

/// What the input says to this question, and whether it gives the client's address to the name that is asked for.
fn answered(query: &Message, input: &[u8]) -> (Vec<u8>, bool) {
    let mut choices = Choices::of(input);
    let question = query.queries[0].clone();
    let mut message = Message::response(query.metadata.id, query.metadata.op_code);
    message.metadata.message_type = MessageType::Response;
    message.metadata.recursion_available = true;
    let code = [
        ResponseCode::NoError,
        ResponseCode::NoError,
        ResponseCode::NoError,
        ResponseCode::NXDomain,
        ResponseCode::ServFail,
    ];
    // The answers to PTR stand first, those to A and AAAA behind them.
    let is_pointer = question.query_type() == RecordType::PTR;
    message.metadata.response_code = choices.one(&code);
    let mut has_address = false;
    let mut pointers = usize::from(choices.byte() % 6);
    let mut others = usize::from(choices.byte() % 6);
    while pointers + others > 0 {
        let of_pointer = pointers > 0;
        let count = if of_pointer { &mut pointers } else { &mut others };
        *count -= 1;
        let label = |choices: &mut Choices<'_>| {
            let raw = choices.bytes(20).to_vec();
            let label: Vec<u8> = if raw.is_empty() { b"mail".to_vec() } else { raw };
            Name::from_labels([&label[..], b"example"]).unwrap_or_else(|_| Name::root())
        };
        let owner = if choices.byte() % 4 == 3 { label(&mut choices) } else { question.name().clone() };
        let data = match choices.byte() % 6 {
            0 | 1 if of_pointer => RData::PTR(PTR(label(&mut choices))),
            0 => RData::A(A(CLIENT)),
            1 => RData::A(A(Ipv4Addr::from_bits(choices.long()))),
            2 => RData::CNAME(CNAME(label(&mut choices))),
            3 => RData::AAAA(AAAA(CLIENT.to_ipv6_mapped())),
            4 => RData::TXT(TXT::new(vec!["text".to_owned()])),
            _ => RData::PTR(PTR(label(&mut choices))),
        };
        if of_pointer == is_pointer {
            has_address |= !is_pointer && matches!(data, RData::A(A(address)) if address == CLIENT);
            message.answers.push(Record::from_rdata(owner, choices.one(&[0, 60, u32::MAX]), data));
        }
    }
    message.add_query(question);
    (message.to_vec().unwrap_or_default(), has_address)
}

/// A name is itself again in capitals and with a final dot, and is no number to inet_aton(3).
fn host_name(name: &HostName) {
    let text = name.as_str();
    let again = HostName::new(&format!("{}.", text.to_ascii_uppercase())).expect("the same name");
    assert!(again == *name && again == *text && again == text);
    assert!(AsRef::<str>::as_ref(&again) == text && Borrow::<str>::borrow(&again) == text);
    assert!(text.len() <= 253 && text.parse::<IpAddr>().is_err());
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    assert!(text.bytes().all(plain), "{name}");
}

fuzz_target!(|data: &[u8]| {
    String::from_utf8_lossy(data).lines().filter_map(HostName::new).for_each(|name| host_name(&name));
    let server = server();
    *server.state.lock().expect("no panic") = (data.to_vec(), false);
    let found = server.names.of(IpAddr::V4(CLIENT));
    let text = found.to_string();
    assert!(is_printable(&text) && text.len() < 3000, "{text:?}");
    if let ReverseName::Confirmed(name) = &found {
        assert!(server.state.lock().expect("no panic").1, "{name} was never given the address");
        host_name(name);
    }
});
