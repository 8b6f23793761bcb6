//! Endpoints, as text and as values: what a caller asks for.
//!
//! ```text
//! endpoint = [NAME "="] [ADDRESS ":"] PORT ["/" PROTOCOL] {"," OPTION ["=" VALUE]}
//! NAME     = [A-Za-z_][A-Za-z0-9_.-]{0,63}, its "=" before any of , : [ /
//! ADDRESS  = IPv4 | "[" IPv6 "]" | "*" | "each"
//! PORT     = 1 to 65535 in digits without leading zero | a service name
//! PROTOCOL = tcp (default) | udp | sctp | mptcp
//! ```
//!
//! The text is parsed once, into the final type; [`Endpoint`]'s `Display` writes it back, and that text parses to the
//! same value. A service name stays a name until [`Endpoint::resolve`], since the code that reads services(5) must also
//! decide whether to trust it.

mod options;

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

pub use options::{KeepAliveTimes, Options};

use crate::port::{Port, Protocol};
use crate::service::Services;
use crate::text::printable;

/// The longest endpoint that is read, in bytes.
pub const MAX_LEN: usize = 512;
/// The longest name, in bytes.
pub const MAX_NAME_LEN: usize = 64;
/// `IFNAMSIZ` less its NUL: the longest interface name, in bytes (if.h).
pub const MAX_INTERFACE_LEN: usize = 15;

/// The local address that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Address {
    /// None given, or `*`: the dual-stack wildcard.
    Any,
    /// An IPv4 address; 0.0.0.0 is the IPv4 wildcard. `[::ffff:a.b.c.d]` is one too.
    V4(Ipv4Addr),
    /// An IPv6 address; `[::]` is the dual-stack wildcard, and with v6only the IPv6 one.
    V6(Ipv6Addr),
    /// `each` (udp): one socket for the wildcard, and one for each unicast and broadcast address.
    Each,
}

/// The port that is asked for, as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AskedPort {
    /// A number
    Number(Port),
    /// A name to look up in services(5)
    Service(String),
}

/// What a caller asks for: one endpoint of the command line or of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The descriptor's name, if one was given.
    pub name: Option<String>,
    /// Where to bind.
    pub address: Address,
    /// Which port.
    pub port: AskedPort,
    /// Which transport.
    pub protocol: Protocol,
    /// What to set on the socket.
    pub options: Options,
}

/// An [`Endpoint`] whose service name, if it had one, was looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The endpoint as it was asked for.
    pub endpoint: Endpoint,
    /// Its port.
    pub port: Port,
}

impl Endpoint {
    /// Parses a word of a command line.
    pub fn from_bytes(word: &[u8]) -> Result<Endpoint, EndpointError> {
        core::str::from_utf8(word).map_err(|_| EndpointError::NotText(printable(word)))?.parse()
    }

    /// The same for std's type.
    #[cfg(feature = "std")]
    pub fn from_os(word: &std::ffi::OsStr) -> Result<Endpoint, EndpointError> {
        Endpoint::from_bytes(word.as_encoded_bytes())
    }

    /// Looks its service name up.
    pub fn resolve(self, services: &Services) -> Result<Resolved, EndpointError> {
        let port = match &self.port {
            AskedPort::Number(port) => *port,
            AskedPort::Service(name) => match services.port(name, self.protocol) {
                Some(port) => port,
                None => return Err(unknown_service(name, self.protocol, services)),
            },
        };
        Ok(Resolved { endpoint: self, port })
    }
}

fn unknown_service(name: &str, protocol: Protocol, services: &Services) -> EndpointError {
    match services.ports(name).next() {
        Some((known, _)) => EndpointError::ServiceProtocol { service: name.to_owned(), protocol, known },
        None => EndpointError::Service(name.to_owned()),
    }
}

impl Resolved {
    /// The descriptor's name: the given one, or by default `80/tcp`.
    pub fn name(&self) -> String {
        match &self.endpoint.name {
            Some(name) => name.clone(),
            None => format!("{}/{}", self.port, self.endpoint.protocol.word()),
        }
    }
}

impl fmt::Display for Resolved {
    /// Address, port and protocol as they will be bound, without name and options: `127.0.0.1:25/tcp`, `80/tcp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_address(f, self.endpoint.address)?;
        write!(f, "{}/{}", self.port, self.endpoint.protocol.word())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name}=")?;
        }
        write_address(f, self.address)?;
        match &self.port {
            AskedPort::Number(port) => write!(f, "{port}")?,
            AskedPort::Service(name) => f.write_str(name)?,
        }
        if self.protocol != Protocol::Tcp {
            write!(f, "/{}", self.protocol.word())?;
        }
        self.options.fmt(f)
    }
}

fn write_address(f: &mut fmt::Formatter<'_>, address: Address) -> fmt::Result {
    match address {
        Address::Any => Ok(()),
        Address::V4(address) => write!(f, "{address}:"),
        Address::V6(address) => write!(f, "[{address}]:"),
        Address::Each => f.write_str("each:"),
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Endpoint, EndpointError> {
        if text.is_empty() {
            return Err(EndpointError::Empty);
        }
        if text.len() > MAX_LEN {
            return Err(EndpointError::TooLong(text.len()));
        }
        let (name, rest) = split_name(text)?;
        let (place, options) = match rest.split_once(',') {
            Some((place, options)) => (place, Some(options)),
            None => (rest, None),
        };
        let (address, port) = split_address(place)?;
        let (port, protocol) = match port.split_once('/') {
            Some((port, protocol)) => (port, parse_protocol(protocol)?),
            None => (port, Protocol::Tcp),
        };
        let port = parse_port(port)?;
        let options = Options::parse(options)?;
        options.fit(address, protocol)?;
        Ok(Endpoint { name, address, port, protocol, options })
    }
}

fn split_name(text: &str) -> Result<(Option<String>, &str), EndpointError> {
    match text.find(['=', ',', ':', '[', '/']) {
        Some(at) if text[at..].starts_with('=') => {
            let name = &text[..at];
            if !is_name(name) {
                return Err(EndpointError::Name(printable(name.as_bytes())));
            }
            Ok((Some(name.to_owned()), &text[at + 1..]))
        }
        _ => Ok((None, text)),
    }
}

/// Whether `name` is a valid name for a descriptor.
pub fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME_LEN
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// Whether `name` is a valid interface name: as in the kernel (dev_valid_name), without the bytes that the grammars
/// use.
pub fn is_interface(name: &str) -> bool {
    (1..=MAX_INTERFACE_LEN).contains(&name.len())
        && !matches!(name, "." | "..")
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/,:#".contains(&byte))
}

/// Whether `name` has the form of a service name: RFC 6335, and `_ . +`, which services(5) files use as well.
pub fn is_service(name: &str) -> bool {
    name.len() <= MAX_NAME_LEN
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte))
}

fn split_address(place: &str) -> Result<(Address, &str), EndpointError> {
    let wrong = |word: &str| EndpointError::Address(printable(word.as_bytes()));
    if let Some(bracketed) = place.strip_prefix('[') {
        let (address, rest) = bracketed.split_once(']').ok_or_else(|| wrong(place))?;
        let address: Ipv6Addr = address.parse().map_err(|_| wrong(address))?;
        let port = rest.strip_prefix(':').ok_or_else(|| EndpointError::Port(printable(rest.as_bytes())))?;
        return Ok((canonical(address), port));
    }
    let Some((address, port)) = place.split_once(':') else { return Ok((Address::Any, place)) };
    if port.contains(':') {
        return Err(EndpointError::Brackets(printable(place.as_bytes())));
    }
    let address = match address {
        "*" => Address::Any,
        "each" => Address::Each,
        _ => Address::V4(address.parse().map_err(|_| wrong(address))?),
    };
    Ok((address, port))
}

fn canonical(address: Ipv6Addr) -> Address {
    match address.to_ipv4_mapped() {
        Some(mapped) => Address::V4(mapped),
        None => Address::V6(address),
    }
}

fn parse_port(word: &str) -> Result<AskedPort, EndpointError> {
    if let Some(port) = Port::parse(word) {
        return Ok(AskedPort::Number(port));
    }
    if is_service(word) {
        return Ok(AskedPort::Service(word.to_owned()));
    }
    Err(EndpointError::Port(printable(word.as_bytes())))
}

fn parse_protocol(word: &str) -> Result<Protocol, EndpointError> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Mptcp]
        .into_iter()
        .find(|protocol| protocol.word() == word)
        .ok_or_else(|| EndpointError::Protocol(printable(word.as_bytes())))
}

/// Why a text is not a valid endpoint. Each variant has the word, made printable, and its message says what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant's Display is its description")]
pub enum EndpointError {
    Empty,
    TooLong(usize),
    NotText(String),
    Name(String),
    Address(String),
    Brackets(String),
    Port(String),
    Protocol(String),
    Service(String),
    ServiceProtocol { service: String, protocol: Protocol, known: Protocol },
    Option(String),
    OptionTwice(&'static str),
    OptionValue { option: &'static str, word: String, expected: &'static str },
    OptionNeedsCapability(&'static str),
    OptionNotFor { option: &'static str, what: &'static str },
    EachIsUdp(Protocol),
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndpointError::Empty => {
                f.write_str("the endpoint is empty; expected [NAME=][ADDRESS:]PORT[/PROTOCOL][,OPTION...]")
            }
            EndpointError::TooLong(len) => write!(f, "the endpoint has {len} bytes; at most {MAX_LEN} are read"),
            EndpointError::NotText(word) => write!(f, "'{word}' is not UTF-8; an endpoint is ASCII text"),
            EndpointError::Name(word) => {
                write!(
                    f,
                    "'{word}' is not a valid name; expected a letter or _, then at most 63 of letters, digits, _ . -"
                )
            }
            EndpointError::Address(word) => {
                write!(
                    f,
                    "'{word}' is not a valid address; expected IPv4, [IPv6], * or each (host names are not looked up)"
                )
            }
            EndpointError::Brackets(word) => {
                write!(f, "'{word}' has more than one colon; an IPv6 address stands in brackets: [::1]:80")
            }
            EndpointError::Port(word) => {
                write!(
                    f,
                    "'{word}' is not a valid port; expected 1 to 65535 in digits without leading zero, or a service name"
                )
            }
            EndpointError::Protocol(word) => {
                write!(f, "'{word}' is not a valid protocol; expected tcp, udp, sctp or mptcp")
            }
            EndpointError::Service(word) => write!(f, "'{word}' is not a service in {}", crate::service::PATH),
            EndpointError::ServiceProtocol { service, protocol, known } => write!(
                f,
                "'{service}' has no {} entry in {}; expected {service}/{}",
                protocol.transport().word(),
                crate::service::PATH,
                known.word()
            ),
            EndpointError::Option(word) => {
                write!(f, "'{word}' is not a valid option; expected one of {}", options::WORDS)
            }
            EndpointError::OptionTwice(option) => write!(f, "'{option}' is given twice"),
            EndpointError::OptionValue { option, word, expected } => {
                write!(f, "'{word}' does not fit '{option}'; expected {expected}")
            }
            EndpointError::OptionNeedsCapability(option) => {
                write!(f, "'{option}' needs a capability that portgrant never holds (CAP_NET_ADMIN or CAP_NET_RAW)")
            }
            EndpointError::OptionNotFor { option, what } => write!(f, "'{option}' is not for {what}"),
            EndpointError::EachIsUdp(protocol) => {
                write!(f, "'each' is for udp, not {}; expected each:PORT/udp", protocol.word())
            }
        }
    }
}

impl core::error::Error for EndpointError {}

#[cfg(test)]
mod tests;
