//! A name server on every address of the host, which answers with the address that was asked: `dns [ENDPOINT]`.
//!
//! Every name has one address: the one to which the question was sent. If portgrant or a service manager starts it, it
//! serves on the sockets that it gets. Otherwise it asks for ENDPOINT, or for `each:53/udp`: a socket for each address,
//! also for addresses that are added later. With `53/udp` one socket reports the address of each question, and the
//! answers are the same.
//!
//! ```text
//! $ dns &
//! $ dig +short @192.0.2.7 who.example A
//! 192.0.2.7
//! ```

use std::net::IpAddr;
use std::process::ExitCode;

use portgrant_server::{Datagram, EachUdp, Error, Event, Listeners, Sockets};

fn main() -> ExitCode {
    match listeners().and_then(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dns: {error}");
            ExitCode::from(error.status())
        }
    }
}

fn listeners() -> Result<Listeners, Error> {
    if let Some(sockets) = Sockets::inherited()? {
        return Listeners::from_sockets(sockets);
    }
    let endpoint = std::env::args().nth(1).unwrap_or_else(|| "dns=each:53/udp".to_owned());
    if !endpoint.contains("each:") {
        return Listeners::from_sockets(Sockets::request([endpoint])?);
    }
    let mut listeners = Listeners::new()?;
    listeners.each(EachUdp::listen(&endpoint)?)?;
    Ok(listeners)
}

fn serve(mut listeners: Listeners) -> Result<(), Error> {
    println!("serving {}", listeners.names().collect::<Vec<_>>().join(" "));
    loop {
        let event = listeners.event()?;
        if let Event::Datagram(datagram) = event {
            reply(&datagram);
        } else if let Event::Address { change, .. } = event {
            println!("{change}");
        }
    }
}

fn reply(datagram: &Datagram) {
    let (peer, asked) = (datagram.arrival.peer, datagram.arrival.asked);
    println!("{peer} asked {asked}");
    // The answer to a broadcast has the address that it is sent from.
    let own = datagram.arrival.from.unwrap_or(asked);
    if let Some(answer) = answer(&datagram.bytes, own)
        && let Err(error) = datagram.try_reply(&answer)
    {
        eprintln!("dns: no answer to {peer}: {error}");
    }
}

/// The answer to a query (RFC 1035): `own` for the type that fits it, A or AAAA, and no record for other types. `None`
/// for anything but a query with one question: without an answer, two servers never answer each other.
fn answer(query: &[u8], own: IpAddr) -> Option<Vec<u8>> {
    let (header, rest) = query.split_at_checked(12)?;
    let [flags, .., one] = [header[2], header[4], header[5]];
    if flags & 0xf8 != 0 || header[4] != 0 || one != 1 {
        return None;
    }
    let name = name_length(rest)?;
    let question = rest.get(..name + 4)?;
    let record: &[u8] = match own {
        IpAddr::V4(own) if question[name..] == [0, 1, 0, 1] => &[&[0, 4][..], &own.octets()].concat(),
        IpAddr::V6(own) if question[name..] == [0, 28, 0, 1] => &[&[0, 16][..], &own.octets()].concat(),
        IpAddr::V4(_) | IpAddr::V6(_) => &[],
    };
    // The query's id; flags: response, authoritative, and RD as in the query; one question, and one answer or none.
    let counts = [0, 1, 0, u8::from(!record.is_empty()), 0, 0, 0, 0];
    let mut answer = [&header[..2], &[0x84 | flags & 1, 0], &counts, question].concat();
    if !record.is_empty() {
        // The name of the question, at offset 12; its type and class; ten seconds.
        answer.extend([&[0xc0, 12], &question[name..], &[0, 0, 0, 10], record].concat());
    }
    Some(answer)
}

/// The length of the name at the start of `bytes`, its end included. The name of a question is not compressed.
fn name_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match usize::from(*bytes.get(at)?) {
            0 => return Some(at + 1),
            length @ 1..=63 if at < 255 => at += length + 1,
            _ => return None,
        }
    }
}
