//! Translates between the bytes of the connection and those of the terminal: commands, doubled IAC, ends of lines (RFC
//! 854).

use std::mem;

use super::Window;
use super::negotiation::{ECHO, NAWS, Negotiation, SUPPRESS_GO_AHEAD, Say, Side, TERMINAL_TYPE};

const SE: u8 = 240;
const BREAK: u8 = 243;
const INTERRUPT: u8 = 244;
const ARE_YOU_THERE: u8 = 246;
const ERASE_CHARACTER: u8 = 247;
const ERASE_LINE: u8 = 248;
const SB: u8 = 250;
const WILL: u8 = 251;
const WONT: u8 = 252;
const DO: u8 = 253;
const DONT: u8 = 254;
const IAC: u8 = 255;
/// Of RFC 1184. Clients send them without its option, too.
const END_OF_FILE: u8 = 236;
const SUSPEND: u8 = 237;
const ABORT: u8 = 238;

/// The two commands of TERMINAL-TYPE.
const IS: u8 = 0;
const SEND: u8 = 1;

/// More is not kept of a subnegotiation: a longer one has no meaning here.
const MAX_SUBNEGOTIATION: usize = 64;

/// What both sides may do. Nothing else is accepted: no environment (RFC 1572), no X display, no line mode.
const AGREED: &[(Side, u8)] = &[
    (Side::Local, ECHO),
    (Side::Local, SUPPRESS_GO_AHEAD),
    (Side::Remote, SUPPRESS_GO_AHEAD),
    (Side::Remote, NAWS),
    (Side::Remote, TERMINAL_TYPE),
];

/// The end of a line on this side of the codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lines {
    /// As in a text: CR LF on the connection is LF here, in both directions
    Text,
    /// As on a terminal: the Enter key is CR, however it is sent; LF is sent unchanged
    Terminal,
}

/// The position in the stream from the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Data,
    Return,
    Command,
    Option(u8),
    Subnegotiation,
    SubnegotiationCommand,
}

#[derive(Debug)]
pub(crate) struct Codec {
    lines: Lines,
    negotiation: Negotiation,
    reading: Reading,
    subnegotiation: Vec<u8>,
    after_return: bool,
    window: Option<Window>,
    terminal: Option<String>,
    /// To be sent, in order: answers and data
    pub(crate) output: Vec<u8>,
}

impl Codec {
    pub(crate) fn new(lines: Lines) -> Codec {
        Codec {
            lines,
            negotiation: Negotiation::new(AGREED),
            reading: Reading::Data,
            subnegotiation: Vec::new(),
            after_return: false,
            window: None,
            terminal: None,
            output: Vec::new(),
        }
    }

    /// Asks for one character at a time, the size of the window and the type of the terminal.
    pub(crate) fn ask_for_characters(&mut self) {
        for &(side, option) in AGREED {
            self.ask(side, option, true);
        }
    }

    pub(crate) fn ask(&mut self, side: Side, option: u8, on: bool) {
        let say = self.negotiation.ask(side, option, on);
        self.say(side, option, say);
    }

    pub(crate) fn is_on(&self, side: Side, option: u8) -> bool {
        self.negotiation.is_on(side, option)
    }

    /// Whether all requests are answered.
    pub(crate) fn is_settled(&self) -> bool {
        let is_settled = |option, is_known| is_known || !self.is_on(Side::Remote, option);
        self.negotiation.is_settled()
            && is_settled(NAWS, self.window.is_some())
            && is_settled(TERMINAL_TYPE, self.terminal.is_some())
    }

    pub(crate) fn window(&self) -> Option<Window> {
        self.window
    }

    pub(crate) fn terminal(&self) -> Option<&str> {
        self.terminal.as_deref()
    }

    /// Reads bytes from the other side: data goes to `data`, answers go to the output.
    pub(crate) fn decode(&mut self, bytes: &[u8], data: &mut Vec<u8>) {
        for &byte in bytes {
            self.reading = self.read(byte, data);
        }
    }

    fn read(&mut self, byte: u8, data: &mut Vec<u8>) -> Reading {
        match self.reading {
            Reading::Data => self.read_data(byte, data),
            Reading::Return => match (byte, self.lines) {
                (b'\0' | b'\n', Lines::Terminal) => Reading::Data,
                (_, Lines::Terminal) => self.read_data(byte, data),
                (b'\0', Lines::Text) => emit(data, b'\r'),
                (b'\n', Lines::Text) => emit(data, b'\n'),
                (_, Lines::Text) => {
                    data.push(b'\r');
                    self.read_data(byte, data)
                }
            },
            Reading::Command => self.read_command(byte, data),
            Reading::Option(verb) => {
                self.hear(verb, byte);
                Reading::Data
            }
            Reading::Subnegotiation if byte == IAC => Reading::SubnegotiationCommand,
            Reading::Subnegotiation => self.collect(byte),
            Reading::SubnegotiationCommand if byte == IAC => self.collect(byte),
            Reading::SubnegotiationCommand if byte == SE => {
                self.end_subnegotiation();
                Reading::Data
            }
            // It has no end: discard what was collected, and treat the command by itself.
            Reading::SubnegotiationCommand => self.read_command(byte, data),
        }
    }

    fn read_data(&mut self, byte: u8, data: &mut Vec<u8>) -> Reading {
        match (byte, self.lines) {
            (IAC, _) => Reading::Command,
            (b'\r', Lines::Text) => Reading::Return,
            // At once: it may be a key, and nothing may follow.
            (b'\r', Lines::Terminal) => {
                data.push(b'\r');
                Reading::Return
            }
            _ => emit(data, byte),
        }
    }

    /// The function keys of old keyboards are control characters, as on a terminal.
    fn read_command(&mut self, byte: u8, data: &mut Vec<u8>) -> Reading {
        match byte {
            IAC => emit(data, IAC),
            WILL | WONT | DO | DONT => Reading::Option(byte),
            SB => {
                self.subnegotiation.clear();
                Reading::Subnegotiation
            }
            INTERRUPT | BREAK => emit(data, 0x03),
            END_OF_FILE => emit(data, 0x04),
            ERASE_LINE => emit(data, 0x15),
            SUSPEND => emit(data, 0x1a),
            ABORT => emit(data, 0x1c),
            ERASE_CHARACTER => emit(data, 0x7f),
            ARE_YOU_THERE => {
                self.output.extend(b"\r\n[yes]\r\n");
                Reading::Data
            }
            _ => Reading::Data,
        }
    }

    fn hear(&mut self, verb: u8, option: u8) {
        let side = if matches!(verb, WILL | WONT) { Side::Remote } else { Side::Local };
        let was_on = self.is_on(side, option);
        let say = self.negotiation.hear(side, option, matches!(verb, WILL | DO));
        self.say(side, option, say);
        if !was_on && (side, option) == (Side::Remote, TERMINAL_TYPE) && self.is_on(side, option) {
            self.output.extend([IAC, SB, TERMINAL_TYPE, SEND, IAC, SE]);
        }
    }

    fn say(&mut self, side: Side, option: u8, say: Say) {
        if let Some(on) = say {
            let verb = match (side, on) {
                (Side::Local, true) => WILL,
                (Side::Local, false) => WONT,
                (Side::Remote, true) => DO,
                (Side::Remote, false) => DONT,
            };
            self.output.extend([IAC, verb, option]);
        }
    }

    /// One byte more than the limit, to recognize what is too long.
    fn collect(&mut self, byte: u8) -> Reading {
        if self.subnegotiation.len() <= MAX_SUBNEGOTIATION {
            self.subnegotiation.push(byte);
        }
        Reading::Subnegotiation
    }

    fn end_subnegotiation(&mut self) {
        let content = mem::take(&mut self.subnegotiation);
        match content.as_slice() {
            [NAWS, c1, c0, r1, r0] if self.is_on(Side::Remote, NAWS) => {
                let (columns, rows) = (u16::from_be_bytes([*c1, *c0]), u16::from_be_bytes([*r1, *r0]));
                self.window = Some(Window { columns, rows });
            }
            [TERMINAL_TYPE, IS, name @ ..] if self.is_on(Side::Remote, TERMINAL_TYPE) => {
                self.terminal = Some(terminal(name).unwrap_or_else(|| "unknown".to_owned()));
            }
            _ => {}
        }
    }

    /// Writes `data` to the output, in the form of the connection.
    pub(crate) fn encode(&mut self, data: &[u8]) {
        for &byte in data {
            let after_return = mem::replace(&mut self.after_return, byte == b'\r');
            match (byte, after_return) {
                (b'\n', false) if self.lines == Lines::Text => self.output.extend(b"\r\n"),
                (b'\n', _) => self.output.push(b'\n'),
                (_, true) => self.output.push(b'\0'),
                (_, false) => {}
            }
            match byte {
                b'\n' => {}
                IAC => self.output.extend([IAC, IAC]),
                _ => self.output.push(byte),
            }
        }
    }
}

fn emit(data: &mut Vec<u8>, byte: u8) -> Reading {
    data.push(byte);
    Reading::Data
}

/// A terminal name of terminfo, in lower case. A name that a program could take for something else, such as a path, is
/// not valid: it becomes TERM.
fn terminal(name: &[u8]) -> Option<String> {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'_');
    let fits = (1..=40).contains(&name.len()) && name.iter().all(fits);
    fits.then(|| String::from_utf8_lossy(name).to_ascii_lowercase())
}

/// Checks that decoding any client bytes, and encoding the result, stays within its bounds (for the fuzzer).
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8]) {
    let mut codec = Codec::new(Lines::Terminal);
    codec.ask_for_characters();
    let mut data = Vec::new();
    codec.decode(bytes, &mut data);
    assert!(data.len() <= bytes.len() && codec.subnegotiation.len() <= MAX_SUBNEGOTIATION + 1);
    assert!(codec.output.len() <= 15 + 6 * bytes.len());
    assert!(!codec.is_settled() || !codec.is_on(Side::Remote, NAWS) || codec.window().is_some());
    let before = codec.output.len();
    codec.encode(&data);
    assert!(codec.output.len() - before <= 2 * data.len());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(codec: &mut Codec, bytes: &[u8]) -> Vec<u8> {
        let mut data = Vec::new();
        codec.decode(bytes, &mut data);
        data
    }

    fn answered(bytes: &[u8]) -> Vec<u8> {
        let mut codec = Codec::new(Lines::Terminal);
        assert!(decoded(&mut codec, bytes).is_empty(), "{bytes:?}");
        codec.output
    }

    #[test]
    fn an_accepted_request_is_answered_once_and_others_are_refused() {
        assert_eq!(answered(&[IAC, DO, ECHO, IAC, DO, ECHO]), [IAC, WILL, ECHO]);
        assert_eq!(answered(&[IAC, DO, 39, IAC, WILL, 39, IAC, DO, 36]), [IAC, WONT, 39, IAC, DONT, 39, IAC, WONT, 36]);
        assert_eq!(answered(&[IAC, DONT, ECHO, IAC, WONT, NAWS]), [0_u8; 0]);
        let asks_for_its_name = [IAC, DO, TERMINAL_TYPE, IAC, SB, TERMINAL_TYPE, SEND, IAC, SE];
        assert_eq!(answered(&[IAC, WILL, TERMINAL_TYPE, IAC, WILL, TERMINAL_TYPE]), asks_for_its_name);
    }

    #[test]
    fn the_window_size_is_read_after_naws_was_agreed() {
        let mut codec = Codec::new(Lines::Terminal);
        let size = [IAC, SB, NAWS, 0, 132, 1, IAC, IAC, IAC, SE];
        decoded(&mut codec, &size);
        assert_eq!(codec.window(), None, "nobody agreed");
        codec.ask_for_characters();
        assert!(!codec.is_settled());
        decoded(&mut codec, &[IAC, WILL, NAWS]);
        decoded(&mut codec, &size);
        assert_eq!(codec.window(), Some(Window { columns: 132, rows: 511 }), "255 is doubled");
        decoded(&mut codec, &[IAC, DO, ECHO, IAC, DO, SUPPRESS_GO_AHEAD, IAC, WONT, SUPPRESS_GO_AHEAD]);
        assert!(!codec.is_settled());
        decoded(&mut codec, &[IAC, WONT, TERMINAL_TYPE]);
        assert!(codec.is_settled());
        for wrong in [&[NAWS, 0, 1][..], &[NAWS, 0, 1, 0, 1, 0], &[NAWS; 500]] {
            decoded(&mut codec, &[&[IAC, SB], wrong, &[IAC, SE]].concat());
            assert_eq!(codec.window(), Some(Window { columns: 132, rows: 511 }), "{wrong:?}");
        }
    }

    #[test]
    fn an_endless_subnegotiation_is_dropped() {
        let mut codec = Codec::new(Lines::Terminal);
        assert!(decoded(&mut codec, &[&[IAC, SB][..], &[b'x'; 100_000]].concat()).is_empty());
        assert!(codec.subnegotiation.len() <= MAX_SUBNEGOTIATION + 1);
        assert_eq!(decoded(&mut codec, &[IAC, SE, b'x']), b"x");
    }

    #[test]
    fn an_invalid_terminal_name_becomes_unknown() {
        let terminal_of = |name: &[u8]| {
            let mut codec = Codec::new(Lines::Terminal);
            let is = [&[IAC, WILL, TERMINAL_TYPE, IAC, SB, TERMINAL_TYPE, IS], name, &[IAC, SE]].concat();
            decoded(&mut codec, &is);
            codec.terminal().map(str::to_owned)
        };
        assert_eq!(terminal_of(b"XTERM-256color").as_deref(), Some("xterm-256color"));
        for hostile in [&b""[..], b"../../tmp/x", b"x=y", b"x y", b"x\n", &[b'x'; 41], &[b'x'; 4096]] {
            assert_eq!(terminal_of(hostile).as_deref(), Some("unknown"), "{hostile:?}");
        }
    }

    #[test]
    fn line_ends_are_converted_for_text_or_terminal() {
        for (lines, connection, expected) in [
            (Lines::Text, &b"a\r\nb\r\0c\nd"[..], &b"a\nb\rc\nd"[..]),
            (Lines::Text, b"\r\r\n", b"\r\n"),
            (Lines::Terminal, b"a\r\nb\r\0c\rd", b"a\rb\rc\rd"),
        ] {
            assert_eq!(decoded(&mut Codec::new(lines), connection), expected, "{lines:?}");
        }
        for (lines, data, expected) in [
            (Lines::Text, &b"a\nb\r\nc\rd"[..], &b"a\r\nb\r\nc\r\0d"[..]),
            (Lines::Terminal, b"a\nb\r\nc\rd\xff", b"a\nb\r\nc\r\0d\xff\xff"),
        ] {
            let mut codec = Codec::new(lines);
            // In pieces: the end of a piece affects the next one.
            data.iter().for_each(|byte| codec.encode(&[*byte]));
            assert_eq!(codec.output, expected, "{lines:?}");
        }
    }

    #[test]
    fn telnet_functions_become_control_characters_and_ayt_is_answered() {
        let mut codec = Codec::new(Lines::Terminal);
        let all = [IAC, INTERRUPT, b'x', IAC, ERASE_CHARACTER, IAC, ERASE_LINE, IAC, IAC, IAC, 241, IAC, ARE_YOU_THERE];
        assert_eq!(decoded(&mut codec, &all), [0x03, b'x', 0x7f, 0x15, 0xff]);
        assert_eq!(codec.output, b"\r\n[yes]\r\n");
    }

    proptest! {
        #[test]
        fn encoded_text_is_decoded_from_any_fragments(data: Vec<u8>, cut in 1_usize..9) {
            let mut sender = Codec::new(Lines::Text);
            sender.encode(&data);
            let mut receiver = Codec::new(Lines::Text);
            let mut received = Vec::new();
            sender.output.chunks(cut).for_each(|piece| receiver.decode(piece, &mut received));
            // A newline may have been CR LF before. For a CR at the very end it is not known what follows.
            let text = String::from_utf8_lossy(&data).into_owned();
            let expected = text.replace("\r\n", "\n");
            let expected = expected.strip_suffix('\r').unwrap_or(&expected);
            prop_assert_eq!(String::from_utf8_lossy(&received), expected);
            prop_assert!(receiver.output.is_empty());
        }

        #[test]
        fn no_bytes_panic_or_grow_the_codec(bytes: Vec<u8>) {
            let mut codec = Codec::new(Lines::Terminal);
            codec.ask_for_characters();
            let data = decoded(&mut codec, &bytes);
            prop_assert!(data.len() <= bytes.len() && codec.subnegotiation.len() <= MAX_SUBNEGOTIATION + 1);
            prop_assert!(codec.output.len() <= 15 + 6 * bytes.len());
        }
    }
}
