//! Errors and warnings about a line of the policy: the place and the text.

use alloc::string::String;
use core::fmt;

use portgrant_protocol::Protocol;

use crate::corrections;

/// An error or a warning about a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which of the policy's files
    pub file: usize,
    /// From 1
    pub line: usize,
    /// From 1, in bytes
    pub column: usize,
    /// What is wrong
    pub wrong: Wrong,
}

/// What is wrong with a word. Each text names the word, made printable, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant's Display is its description")]
pub enum Wrong {
    Character(u8),
    CarriageReturn { path: String },
    ByteOrderMark { path: String },
    Typography { what: &'static str, instead: &'static str, bytes: usize },
    CutOff { line: String, path: String },
    Effect(String),
    NoSubject,
    BareNumber(String),
    Id(String),
    UnknownUser(String),
    UnknownGroup(String),
    NoPorts,
    Port(String),
    Range(String),
    Protocol(String),
    ProtocolAlone(String),
    TwoWords(String, String),
    UnknownService(String),
    ServiceProtocol(String, Protocol),
    Reserved(String),
    NoAddress,
    Address(String),
    PrefixLength(String),
    HostBits(String, String),
    Device(String),
    DatagramAddress,
    DatagramDevice,
    Twice(&'static str),
    Order(&'static str),
    OnlyInPermit(&'static str),
    Path(String),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Character(byte) => {
                write!(f, "byte \\x{byte:02x} is not allowed in a rule; expected printable ASCII")
            }
            Wrong::CarriageReturn { path } => {
                write!(f, "the line ends in a carriage return; as root: sed -i 's/\\r$//' {path}")
            }
            Wrong::ByteOrderMark { path } => {
                write!(f, "the file begins with a byte order mark; as root: sed -i '1s/^\\xEF\\xBB\\xBF//' {path}")
            }
            Wrong::Typography { what, instead, .. } => write!(f, "{what} stands here; write {instead}"),
            Wrong::CutOff { line, path } => write!(
                f,
                "'{line}' has no line feed at its end, so it may be cut off; if it is complete, as root: echo >>{path}"
            ),
            Wrong::Effect(word) => match corrections::effect(word) {
                Some(instead) => write!(f, "'{word}' is not the start of a rule; write {instead}"),
                None => write!(f, "'{word}' is not the start of a rule; expected permit or deny"),
            },
            Wrong::NoSubject => f.write_str("the rule has no subject; expected USER, :GROUP, uid:N, gid:N or any"),
            Wrong::BareNumber(word) => {
                write!(f, "'{word}' could be a name or an id; expected uid:{word} or gid:{word}")
            }
            Wrong::Id(word) => write!(f, "'{word}' is not a valid id; expected 0 to 4294967294 in digits"),
            Wrong::UnknownUser(word) => write!(f, "user '{word}' is not in /etc/passwd; expected a user, or uid:N"),
            Wrong::UnknownGroup(word) => write!(f, "group '{word}' is not in /etc/group; expected a group, or gid:N"),
            Wrong::NoPorts => f.write_str("the rule has no ports; expected any, or PORT[-PORT][/PROTOCOL]..."),
            Wrong::Port(word) => match corrections::port(word) {
                Some(instead) => write!(f, "'{word}' is not a valid port; write {instead}"),
                None => write!(
                    f,
                    "'{word}' is not a valid port; expected 1 to 65535, N-M or a service, or a clause in the right order"
                ),
            },
            Wrong::Range(word) => write!(f, "'{word}' is not a valid range; expected the smaller port first"),
            Wrong::Protocol(word) => match corrections::protocol(word) {
                Some(instead) => write!(f, "'{word}' is not a valid protocol; write {instead}"),
                None => write!(f, "'{word}' is not a valid protocol; expected tcp (which is mptcp too), udp or sctp"),
            },
            Wrong::TwoWords(first, second) => {
                let instead = corrections::two(first, second).unwrap_or_default();
                write!(f, "'{first} {second}' is in the wrong order; write {instead}")
            }
            Wrong::ProtocolAlone(word) => {
                write!(f, "'{word}' is a protocol, not a port; expected both in one word, as in 53/{word}")
            }
            Wrong::UnknownService(word) => {
                write!(
                    f,
                    "'{word}' is not a service in /etc/services; expected one, or a number (a permit with it permits nothing)"
                )
            }
            Wrong::ServiceProtocol(word, known) => {
                write!(f, "'{word}' has no tcp entry in /etc/services; write {word}/{}", known.word())
            }
            Wrong::Reserved(word) => write!(
                f,
                "'{word}' overlaps 512-1023, which rsh and NFS trust as source ports; add the word reserved \
                 (a single port from 515 on does not need it if it is written as a service)"
            ),
            Wrong::NoAddress => f.write_str("'on' has no address; expected IPv4[/LEN] or [IPv6][/LEN]"),
            Wrong::Address(word) => match corrections::address(word) {
                Some(instead) => write!(f, "'{word}' is not a valid address; write {instead}"),
                None => write!(f, "'{word}' is not a valid address; expected IPv4[/LEN] or [IPv6][/LEN]"),
            },
            Wrong::PrefixLength(word) => match corrections::netmask(word) {
                Some(instead) => write!(f, "'{word}' has an invalid prefix length; write {instead}"),
                None => write!(
                    f,
                    "'{word}' has an invalid prefix length; expected 0 to 32 (IPv4), 0 to 128 (IPv6) or 96 to 128 ([::ffff:...])"
                ),
            },
            Wrong::HostBits(word, network) => {
                write!(f, "'{word}' has bits beyond its prefix length; write {network}")
            }
            Wrong::Device(word) => write!(f, "'{word}' is not a valid interface; expected a name of 1 to 15 bytes"),
            Wrong::DatagramAddress => f.write_str(
                "'on' does not narrow udp: the holder of the socket can send from every local address of its family; \
                 expected a separate user for each service that must be isolated",
            ),
            Wrong::DatagramDevice => f.write_str(
                "'dev' does not restrict udp: the holder of the socket can remove it by connect(2) with AF_UNSPEC; \
                 expected a separate user for each service that must be isolated",
            ),
            Wrong::Twice(word) => write!(f, "'{word}' is given twice; remove it"),
            Wrong::Order(word) => {
                write!(
                    f,
                    "'{word}' is in the wrong place; expected the order on, dev, reserved reuseport freebind, exec"
                )
            }
            Wrong::OnlyInPermit(word) => {
                write!(f, "'{word}' is for permit (a deny refuses the endpoint however it is asked for); remove it")
            }
            Wrong::Path(word) => write!(f, "'{word}' is not a valid path; expected one that begins with /"),
        }
    }
}
