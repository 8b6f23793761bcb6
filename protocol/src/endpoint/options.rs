//! The options of an endpoint: their words, their values, and the addresses and protocols that they are for.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;

use super::{Address, EndpointError, is_interface};
use crate::decimal;
use crate::port::Protocol;
use crate::text::printable;

pub(super) const WORDS: &str = "reuseport, v6only, backlog=, freebind, dev=, keepalive[=], linger=, defer_accept=, \
     fastopen=, rcvbuf=, sndbuf=, tos=";

/// What to set on a socket, named as in socket(7), ip(7), ipv6(7) and tcp(7).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Options {
    /// SO_REUSEPORT; the policy must grant it
    pub reuseport: bool,
    /// IPV6_V6ONLY
    pub v6only: bool,
    /// listen(2)'s backlog, connections; the kernel caps it at net.core.somaxconn
    pub backlog: Option<u32>,
    /// IP_FREEBIND; the policy must grant it
    pub freebind: bool,
    /// SO_BINDTODEVICE: an interface's name
    pub dev: Option<String>,
    /// SO_KEEPALIVE, and its times if they were given
    pub keepalive: Option<Option<KeepAliveTimes>>,
    /// SO_LINGER, seconds
    pub linger: Option<u16>,
    /// TCP_DEFER_ACCEPT, seconds
    pub defer_accept: Option<u32>,
    /// TCP_FASTOPEN, queue length
    pub fastopen: Option<u32>,
    /// SO_RCVBUF, bytes
    pub rcvbuf: Option<u32>,
    /// SO_SNDBUF, bytes
    pub sndbuf: Option<u32>,
    /// IP_TOS and IPV6_TCLASS
    pub tos: Option<u8>,
}

/// TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT (tcp(7)): `idle:interval:count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeepAliveTimes {
    /// Seconds of silence before the first probe, 1 to 32767
    pub idle: u16,
    /// Seconds between probes, 1 to 32767
    pub interval: u16,
    /// Probes without answer before the connection ends, 1 to 127
    pub count: u8,
}

/// The protocols that an option is for. Another combination is an error: it is not silently ignored.
struct Use {
    option: &'static str,
    given: bool,
    stream_only: bool,
    tcp_only: bool,
}

impl Options {
    pub(super) fn parse(text: Option<&str>) -> Result<Options, EndpointError> {
        let mut options = Options::default();
        for word in text.into_iter().flat_map(|text| text.split(',')) {
            let (option, value) = match word.split_once('=') {
                Some((option, value)) => (option, Some(value)),
                None => (word, None),
            };
            options.set(option, value)?;
        }
        Ok(options)
    }

    fn set(&mut self, option: &str, value: Option<&str>) -> Result<(), EndpointError> {
        match option {
            "reuseport" => flag(&mut self.reuseport, "reuseport", value),
            "v6only" => flag(&mut self.v6only, "v6only", value),
            "freebind" => flag(&mut self.freebind, "freebind", value),
            "backlog" => once(
                &mut self.backlog,
                "backlog",
                number("backlog", value, 1, 0x7fff_ffff, "1 to 2147483647 connections")?,
            ),
            "dev" => once(&mut self.dev, "dev", interface(value)?),
            "keepalive" => once(&mut self.keepalive, "keepalive", value.map(keepalive_times).transpose()?),
            "linger" => once(&mut self.linger, "linger", number("linger", value, 0, u16::MAX, "0 to 65535 seconds")?),
            "defer_accept" => once(
                &mut self.defer_accept,
                "defer_accept",
                number("defer_accept", value, 1, 65535, "1 to 65535 seconds")?,
            ),
            "fastopen" => {
                once(&mut self.fastopen, "fastopen", number("fastopen", value, 1, 65535, "1 to 65535 connections")?)
            }
            "rcvbuf" => {
                once(&mut self.rcvbuf, "rcvbuf", number("rcvbuf", value, 1, 0x3fff_ffff, "1 to 1073741823 bytes")?)
            }
            "sndbuf" => {
                once(&mut self.sndbuf, "sndbuf", number("sndbuf", value, 1, 0x3fff_ffff, "1 to 1073741823 bytes")?)
            }
            "tos" => once(&mut self.tos, "tos", number("tos", value, 0, u8::MAX, "0 to 255")?),
            "transparent" => Err(EndpointError::OptionNeedsCapability("transparent")),
            "mark" => Err(EndpointError::OptionNeedsCapability("mark")),
            _ => Err(EndpointError::Option(printable(option.as_bytes()))),
        }
    }

    /// Refuses what the kernel would refuse or ignore for this address and protocol.
    pub(super) fn fit(&self, address: Address, protocol: Protocol) -> Result<(), EndpointError> {
        let not_for = |option, what| Err(EndpointError::OptionNotFor { option, what });
        if address == Address::Each {
            if protocol != Protocol::Udp {
                return Err(EndpointError::EachIsUdp(protocol));
            }
            if self.freebind {
                return not_for("freebind", "each, which binds the addresses that are there");
            }
        }
        if self.v6only && matches!(address, Address::V4(_) | Address::Each) {
            return not_for("v6only", "an address that is not IPv6");
        }
        for used in self.uses() {
            if used.given && used.stream_only && !protocol.is_stream() {
                return not_for(used.option, "udp");
            }
            if used.given && used.tcp_only && protocol == Protocol::Sctp {
                return not_for(used.option, "sctp");
            }
        }
        Ok(())
    }

    fn uses(&self) -> [Use; 5] {
        let uses = |option, given, tcp_only| Use { option, given, stream_only: true, tcp_only };
        [
            uses("backlog", self.backlog.is_some(), false),
            uses("linger", self.linger.is_some(), false),
            uses("keepalive", self.keepalive.is_some(), true),
            uses("defer_accept", self.defer_accept.is_some(), true),
            uses("fastopen", self.fastopen.is_some(), true),
        ]
    }
}

fn once<T>(slot: &mut Option<T>, option: &'static str, value: T) -> Result<(), EndpointError> {
    match slot.replace(value) {
        Some(_) => Err(EndpointError::OptionTwice(option)),
        None => Ok(()),
    }
}

fn flag(slot: &mut bool, option: &'static str, value: Option<&str>) -> Result<(), EndpointError> {
    if let Some(value) = value {
        return Err(EndpointError::OptionValue { option, word: printable(value.as_bytes()), expected: "no value" });
    }
    if core::mem::replace(slot, true) {
        return Err(EndpointError::OptionTwice(option));
    }
    Ok(())
}

fn number<T>(
    option: &'static str,
    value: Option<&str>,
    least: T,
    most: T,
    expected: &'static str,
) -> Result<T, EndpointError>
where
    T: TryFrom<u64> + PartialOrd,
{
    let word = value.unwrap_or_default();
    match decimal(word.as_bytes()) {
        Some(number) if (word == "0" || !word.starts_with('0')) && number >= least && number <= most => Ok(number),
        _ => Err(EndpointError::OptionValue { option, word: printable(word.as_bytes()), expected }),
    }
}

fn interface(value: Option<&str>) -> Result<String, EndpointError> {
    let word = value.unwrap_or_default();
    if is_interface(word) {
        return Ok(word.to_owned());
    }
    Err(EndpointError::OptionValue {
        option: "dev",
        word: printable(word.as_bytes()),
        expected: "an interface's name of 1 to 15 bytes",
    })
}

fn keepalive_times(value: &str) -> Result<KeepAliveTimes, EndpointError> {
    const EXPECTED: &str = "idle:interval:count, 1 to 32767 seconds twice and 1 to 127 probes";
    let mut words = value.split(':');
    let mut next = |most| number("keepalive", words.next(), 1, most, EXPECTED);
    let (idle, interval, count) = (next(32767)?, next(32767)?, next(127)?);
    match (words.next(), u8::try_from(count)) {
        (None, Ok(count)) => Ok(KeepAliveTimes { idle, interval, count }),
        _ => Err(EndpointError::OptionValue {
            option: "keepalive",
            word: printable(value.as_bytes()),
            expected: EXPECTED,
        }),
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (word, given) in [("reuseport", self.reuseport), ("v6only", self.v6only), ("freebind", self.freebind)] {
            if given {
                write!(f, ",{word}")?;
            }
        }
        if let Some(dev) = &self.dev {
            write!(f, ",dev={dev}")?;
        }
        match self.keepalive {
            Some(Some(times)) => write!(f, ",keepalive={}:{}:{}", times.idle, times.interval, times.count)?,
            Some(None) => f.write_str(",keepalive")?,
            None => {}
        }
        let numbers = [
            ("backlog", self.backlog),
            ("linger", self.linger.map(u32::from)),
            ("defer_accept", self.defer_accept),
            ("fastopen", self.fastopen),
            ("rcvbuf", self.rcvbuf),
            ("sndbuf", self.sndbuf),
            ("tos", self.tos.map(u32::from)),
        ];
        for (word, number) in numbers {
            if let Some(number) = number {
                write!(f, ",{word}={number}")?;
            }
        }
        Ok(())
    }
}
