//! Port numbers and transport protocols.

use core::fmt;
use core::num::NonZeroU16;

use crate::decimal;

/// A port, 1 to 65535. There is no port 0: bind(2) would choose one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(NonZeroU16);

impl Port {
    /// The lowest port.
    pub const MIN: Port = Port(NonZeroU16::MIN);
    /// The highest port.
    pub const MAX: Port = Port(NonZeroU16::MAX);

    /// The port of this number, if it is not 0.
    pub fn new(number: u16) -> Option<Port> {
        NonZeroU16::new(number).map(Port)
    }

    /// Parses 1 to 65535 in digits, without sign or leading zero, directly into 16 bits.
    pub fn parse(word: &str) -> Option<Port> {
        if word.starts_with('0') { None } else { decimal(word.as_bytes()).and_then(NonZeroU16::new).map(Port) }
    }

    /// Its number.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Protocol {
    /// tcp(7)
    #[default]
    Tcp,
    /// udp(7)
    Udp,
    /// sctp(7), one-to-one style
    Sctp,
    /// Multipath TCP (RFC 8684); tcp in the policy
    Mptcp,
}

impl Protocol {
    /// Its word in the grammar.
    pub fn word(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
            Protocol::Mptcp => "mptcp",
        }
    }

    /// The protocol whose ports it uses: mptcp uses those of tcp.
    pub fn transport(self) -> Protocol {
        match self {
            Protocol::Tcp | Protocol::Mptcp => Protocol::Tcp,
            Protocol::Udp => Protocol::Udp,
            Protocol::Sctp => Protocol::Sctp,
        }
    }

    /// Whether its sockets listen and accept connections.
    pub fn is_stream(self) -> bool {
        self != Protocol::Udp
    }
}
