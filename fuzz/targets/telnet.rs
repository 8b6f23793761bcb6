//! Telnet: any bytes, cut anywhere, give no more data than they have, a bounded answer, and a terminal name that is a name;
//! and what one side writes, the other reads.
#![no_main]

use std::io::{self, Read, Write};

use libfuzzer_sys::fuzz_target;
use portgrant_server::telnet::{ECHO, NAWS, SUPPRESS_GO_AHEAD, TERMINAL_TYPE, Telnet};
use words::Choices;

/// A connection in memory, which is read in pieces.
#[derive(Debug)]
struct Wire<'a> {
    from: &'a [u8],
    piece: usize,
    to: Vec<u8>,
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.piece.min(buffer.len());
        (&mut self.from).take(length as u64).read(buffer)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.to.extend(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::of(data);
    let asked = choices.byte();
    let piece = usize::from(choices.byte()).max(1);
    let rest = choices.rest();
    let mut telnet = Telnet::new(Wire { from: rest, piece, to: Vec::new() });
    for (bit, option) in [ECHO, SUPPRESS_GO_AHEAD, NAWS, TERMINAL_TYPE].into_iter().enumerate() {
        if asked & 1 << bit != 0 {
            telnet.offer(option, asked & 128 == 0).expect("memory");
        }
        if asked & 16 << bit != 0 {
            telnet.ask(option, true).expect("memory");
        }
    }
    let begun = telnet.stream().to.len();
    let mut read = Vec::new();
    telnet.read_to_end(&mut read).expect("memory");
    assert!(read.len() <= rest.len());
    // An answer of three bytes to each command of three; ARE YOU THERE has nine for two, and a terminal type asks once more.
    assert!(telnet.stream().to.len() - begun <= 6 * rest.len(), "{} answers", telnet.stream().to.len());
    if let Some(name) = telnet.terminal_type() {
        assert!(
            (1..=40).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-+_".contains(&byte))
        );
        assert!(telnet.peer_does(TERMINAL_TYPE) || !name.is_empty());
    }
    if telnet.window().is_some() {
        assert!(rest.contains(&NAWS));
    }
    let _ = (telnet.does(ECHO), telnet.peer_does(NAWS));
    assert!(!telnet.does(200) && !telnet.peer_does(200), "nobody agreed to that");

    portgrant_server::fuzzing::telnet_by_character(rest);

    // Cut anywhere, the same is read.
    let mut whole = Telnet::new(Wire { from: rest, piece: usize::MAX, to: Vec::new() });
    let mut all = Vec::new();
    whole.read_to_end(&mut all).expect("memory");
    if asked == 0 {
        assert_eq!(read, all);
    }

    // What is written without CR is read as it was.
    let text: Vec<u8> = rest.iter().copied().filter(|byte| *byte != b'\r').collect();
    let mut sender = Telnet::new(Wire { from: &[], piece: 1, to: Vec::new() });
    sender.write_all(&text).expect("memory");
    sender.flush().expect("memory");
    let sent = sender.stream().to.clone();
    let mut receiver = Telnet::new(Wire { from: &sent, piece, to: Vec::new() });
    let mut received = Vec::new();
    receiver.read_to_end(&mut received).expect("memory");
    assert_eq!(received, text);
    assert!(receiver.stream().to.is_empty(), "data is no command");
});
