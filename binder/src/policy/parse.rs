//! The grammar of the policy, as this parser has it. One rule a line, words divided by blanks and tabs:
//!
//! ```text
//! rule    = ("permit" | "deny") subject ports ["on" address…] ["dev" IFNAME] {word} ["exec" PATH]
//! subject = USER | ":" GROUP | "uid:" N | "gid:" N | "any"           a bare number is an error
//! ports   = "any" | port…       port = (N | N "-" M | SERVICE) ["/" ("tcp" | "udp" | "sctp")]
//! address = IPv4 ["/" LEN] | "[" IPv6 "]" ["/" LEN]                  bits beyond LEN are an error
//! word    = "reserved" | "reuseport" | "freebind" | "hold"           each once, in any order, in a permit only
//! ```
//! A word that begins with `#` begins a comment. PATH begins with `/`, runs to the end of the line (blanks at its end
//! cut off) and may hold `#`. The keywords win over services of the same name. Anything but printable ASCII outside of
//! comments and PATH is an error.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use portgrant_protocol::Protocol;
use portgrant_protocol::endpoint::{is_interface, is_service, port_number};
use portgrant_protocol::text::printable;

use super::{AddressError, AddressSet, Effect, Policy, Ports, Protocols, Rule, Subject};
use crate::Error;
use crate::names::{Names, id};

/// Ports that rsh and NFS trust as source ports: a rule that touches them must say `reserved`.
const TRUSTED: std::ops::RangeInclusive<u16> = 512..=1023;
/// exec, login and shell: needs the word even by service name.
const RSH: std::ops::RangeInclusive<u16> = 512..=514;

/// Something wrong with a line, or worth a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which of the policy's files
    pub file: usize,
    /// From 1
    pub line: usize,
    /// From 1, in bytes
    pub column: usize,
    /// What
    pub wrong: Wrong,
}

/// What is wrong with a word. Each names the word, made printable, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant's Display is its description")]
pub enum Wrong {
    Character(u8),
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
    UnknownService(String),
    ServiceProtocol(String, Protocol),
    Reserved(String),
    NoAddress,
    Address(String),
    PrefixLength(String),
    HostBits(String, String),
    Device(String),
    DatagramDevice,
    Twice(&'static str),
    Order(&'static str),
    OnlyInPermit(&'static str),
    Path(String),
}

/// The clauses after the ports, in their order; the words share one place.
const CLAUSES: [(&str, u8); 7] =
    [("on", 1), ("dev", 2), ("reserved", 3), ("reuseport", 3), ("freebind", 3), ("hold", 3), ("exec", 4)];

fn clause(word: &str) -> Option<(&'static str, u8)> {
    CLAUSES.into_iter().find(|clause| clause.0 == word)
}

struct Word<'a> {
    text: &'a str,
    column: usize,
}

/// A line, word by word.
struct Words<'a> {
    line: &'a [u8],
    at: usize,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Result<Option<Word<'a>>, (usize, Wrong)> {
        self.skip_blanks();
        let start = self.at;
        let rest = self.line.get(start..).unwrap_or_default();
        let len = rest.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(rest.len());
        let word = rest.get(..len).unwrap_or_default();
        if word.is_empty() || word.starts_with(b"#") {
            return Ok(None);
        }
        if let Some(odd) = word.iter().position(|byte| !byte.is_ascii_graphic()) {
            return Err((start + odd + 1, Wrong::Character(word.get(odd).copied().unwrap_or_default())));
        }
        self.at += len;
        let text = std::str::from_utf8(word).map_err(|_| (start + 1, Wrong::Character(0)))?;
        Ok(Some(Word { text, column: start + 1 }))
    }

    fn rest(&mut self) -> (&'a [u8], usize) {
        self.skip_blanks();
        (self.line.get(self.at..).unwrap_or_default().trim_ascii_end(), self.at + 1)
    }

    fn skip_blanks(&mut self) {
        while matches!(self.line.get(self.at), Some(b' ' | b'\t')) {
            self.at += 1;
        }
    }

    fn end(&self) -> usize {
        self.line.len() + 1
    }
}

/// Parses the file `text`, number `file`, into `policy` and `problems`. The error is of the tables of names.
pub(super) fn parse(
    file: usize,
    text: &[u8],
    names: &Names,
    policy: &mut Policy,
    problems: &mut Vec<Problem>,
) -> Result<(), Error> {
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let mut parser = Parser { words: Words { line, at: 0 }, names, warnings: Vec::new() };
        let at = |(column, wrong)| Problem { file, line: index + 1, column, wrong };
        match parser.rule() {
            Ok(Some(rule)) => policy.rules.push(Rule { file, line: index + 1, ..rule }),
            Ok(None) => {}
            Err(Stop::Malformed(column, wrong)) => problems.push(at((column, wrong))),
            Err(Stop::Names(error)) => return Err(error),
        }
        policy.warnings.extend(parser.warnings.into_iter().map(at));
    }
    Ok(())
}

enum Stop {
    Malformed(usize, Wrong),
    Names(Error),
}

impl From<(usize, Wrong)> for Stop {
    fn from((column, wrong): (usize, Wrong)) -> Stop {
        Stop::Malformed(column, wrong)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Names(error)
    }
}

struct Parser<'a> {
    words: Words<'a>,
    names: &'a Names,
    warnings: Vec<(usize, Wrong)>,
}

impl<'a> Parser<'a> {
    fn rule(&mut self) -> Result<Option<Rule>, Stop> {
        let Some(word) = self.words.next()? else { return Ok(None) };
        let effect = match word.text {
            "permit" => Effect::Permit,
            "deny" => Effect::Deny,
            _ => return Err((word.column, Wrong::Effect(shown(word.text))).into()),
        };
        let subject = self.subject(effect)?;
        let mut rule = Rule {
            effect,
            subject,
            ports: Vec::new(),
            addresses: Vec::new(),
            dev: None,
            reuseport: false,
            freebind: false,
            hold: false,
            program: None,
            file: 0,
            line: 0,
        };
        let (trusted, clause) = self.ports(&mut rule)?;
        let reserved = self.clauses(&mut rule, clause)?;
        match trusted {
            Some((column, word)) if effect == Effect::Permit && !reserved => {
                Err((column, Wrong::Reserved(word)).into())
            }
            _ => Ok(Some(rule)),
        }
    }

    fn subject(&mut self, effect: Effect) -> Result<Subject, Stop> {
        let Some(word) = self.words.next()? else { return Err((self.words.end(), Wrong::NoSubject).into()) };
        let numeric = |digits| id(digits).ok_or((word.column, Wrong::Id(shown(word.text))));
        if let Some(digits) = word.text.strip_prefix("uid:") {
            return Ok(Subject::Uid(numeric(digits)?));
        }
        if let Some(digits) = word.text.strip_prefix("gid:") {
            return Ok(Subject::Gid(numeric(digits)?));
        }
        if word.text == "any" {
            return Ok(Subject::Any);
        }
        if word.text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err((word.column, Wrong::BareNumber(shown(word.text))).into());
        }
        let group = word.text.strip_prefix(':');
        let found = match group {
            Some(group) => self.names.group(group)?.map(Subject::Gid),
            None => self.names.user(word.text)?.map(|user| Subject::Uid(user.uid)),
        };
        if let Some(subject) = found {
            return Ok(subject);
        }
        let user = || Wrong::UnknownUser(shown(word.text));
        self.unknown(effect, word.column, group.map_or_else(user, |group| Wrong::UnknownGroup(shown(group))))?;
        Ok(Subject::Nobody)
    }

    /// A name that the tables do not hold breaks a deny, which would deny nobody, and in a permit matches nobody.
    fn unknown(&mut self, effect: Effect, column: usize, wrong: Wrong) -> Result<(), Stop> {
        if effect == Effect::Deny {
            return Err((column, wrong).into());
        }
        self.warnings.push((column, wrong));
        Ok(())
    }

    /// Reads the ports up to the first clause. Returns the first of them that needs `reserved`, and that clause.
    #[allow(clippy::type_complexity, reason = "a place and a word, and the next word")]
    fn ports(&mut self, rule: &mut Rule) -> Result<(Option<(usize, String)>, Option<Word<'a>>), Stop> {
        let mut trusted = None;
        let (mut count, mut any) = (0, false);
        let next = loop {
            let Some(word) = self.words.next()? else { break None };
            if clause(word.text).is_some() || any {
                break Some(word);
            }
            count += 1;
            any = count == 1 && word.text == "any";
            let by_name = self.port(rule, &word)?;
            let needs_word = |ports: &Ports| {
                let single_name = by_name && !RSH.contains(&ports.first);
                ports.first <= *TRUSTED.end() && ports.last >= *TRUSTED.start() && !single_name
            };
            if trusted.is_none() && rule.ports.last().is_some_and(needs_word) {
                trusted = Some((word.column, shown(word.text)));
            }
        };
        if count == 0 {
            return Err((next.map_or(self.words.end(), |word| word.column), Wrong::NoPorts).into());
        }
        Ok((trusted, next))
    }

    /// Adds what one word stands for; says whether it is a service's name.
    fn port(&mut self, rule: &mut Rule, word: &Word<'a>) -> Result<bool, Stop> {
        let unsaid = if rule.effect == Effect::Deny { Protocols::ALL } else { Protocols::only(Protocol::Tcp) };
        if word.text == "any" {
            if !rule.ports.is_empty() {
                return Err((word.column, Wrong::Port(shown(word.text))).into());
            }
            rule.ports.push(Ports { protocols: unsaid, first: 1, last: u16::MAX });
            return Ok(false);
        }
        let (port, protocol) = match word.text.split_once('/') {
            Some((port, protocol)) => (port, Some(protocol_word(protocol, word)?)),
            None => (word.text, None),
        };
        let protocols = protocol.map_or(unsaid, Protocols::only);
        if port.starts_with(|c: char| c.is_ascii_digit()) {
            let (first, last) = port.split_once('-').unwrap_or((port, port));
            let number = |digits| port_number(digits).ok_or((word.column, Wrong::Port(shown(word.text))));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err((word.column, Wrong::Range(shown(word.text))).into());
            }
            rule.ports.push(Ports { protocols, first, last });
            return Ok(false);
        }
        if !is_service(port) {
            return Err((word.column, Wrong::Port(shown(word.text))).into());
        }
        self.service(rule, word, port, protocol)?;
        Ok(true)
    }

    fn service(
        &mut self,
        rule: &mut Rule,
        word: &Word<'a>,
        name: &str,
        protocol: Option<Protocol>,
    ) -> Result<(), Stop> {
        let services = self.names.services()?;
        let single = |protocols, port| Ports { protocols, first: port, last: port };
        if let Some(port) = services.port(name, protocol.unwrap_or_default()) {
            let only = Protocols::only(protocol.unwrap_or_default());
            if rule.effect == Effect::Deny && protocol.is_none() {
                // Whatever the name stands for, under every protocol: a deny errs on the side of refusing.
                rule.ports.extend(services.ports(name).map(|(_, port)| single(Protocols::ALL, port)));
            } else {
                rule.ports.push(single(only, port));
            }
            return Ok(());
        }
        match services.ports(name).next() {
            Some((known, _)) if protocol.is_none() => {
                Err((word.column, Wrong::ServiceProtocol(shown(name), known)).into())
            }
            _ => self.unknown(rule.effect, word.column, Wrong::UnknownService(shown(word.text))),
        }
    }

    /// Reads the clauses from `word` on; says whether `reserved` is among them.
    fn clauses(&mut self, rule: &mut Rule, mut word: Option<Word<'a>>) -> Result<bool, Stop> {
        let mut seen: Vec<(&'static str, u8)> = Vec::new();
        while let Some(current) = word {
            let Some(this) = clause(current.text) else {
                return Err((current.column, Wrong::Port(shown(current.text))).into());
            };
            let wrong = |wrong| Stop::Malformed(current.column, wrong);
            if seen.iter().any(|earlier| earlier.0 == this.0) {
                return Err(wrong(Wrong::Twice(this.0)));
            }
            if seen.last().is_some_and(|earlier| earlier.1 > this.1) {
                return Err(wrong(Wrong::Order(this.0)));
            }
            if rule.effect == Effect::Deny && this.1 > 2 {
                return Err(wrong(Wrong::OnlyInPermit(this.0)));
            }
            seen.push(this);
            word = match this.0 {
                "on" => self.addresses(rule)?,
                "dev" => self.device(rule)?,
                "exec" => return self.program(rule).map(|()| seen.iter().any(|clause| clause.0 == "reserved")),
                "reuseport" => self.word(&mut rule.reuseport)?,
                "freebind" => self.word(&mut rule.freebind)?,
                "hold" => self.word(&mut rule.hold)?,
                _ => self.words.next()?,
            };
        }
        Ok(seen.iter().any(|clause| clause.0 == "reserved"))
    }

    fn word(&mut self, said: &mut bool) -> Result<Option<Word<'a>>, Stop> {
        *said = true;
        Ok(self.words.next()?)
    }

    fn addresses(&mut self, rule: &mut Rule) -> Result<Option<Word<'a>>, Stop> {
        loop {
            let word = self.words.next()?;
            let word = match word {
                Some(word) if clause(word.text).is_none() => word,
                next if rule.addresses.is_empty() => {
                    return Err((next.map_or(self.words.end(), |word| word.column), Wrong::NoAddress).into());
                }
                next => return Ok(next),
            };
            let set = AddressSet::parse(word.text).map_err(|error| {
                let wrong = match error {
                    AddressError::Form => Wrong::Address(shown(word.text)),
                    AddressError::Length => Wrong::PrefixLength(shown(word.text)),
                    AddressError::HostBits(network) => Wrong::HostBits(shown(word.text), network),
                };
                (word.column, wrong)
            })?;
            rule.addresses.push(set);
        }
    }

    fn device(&mut self, rule: &mut Rule) -> Result<Option<Word<'a>>, Stop> {
        match self.words.next()? {
            Some(word) if is_interface(word.text) => {
                rule.dev = Some(word.text.to_owned());
                if rule.effect == Effect::Permit
                    && rule.ports.iter().any(|ports| ports.protocols.contains(Protocol::Udp))
                {
                    self.warnings.push((word.column, Wrong::DatagramDevice));
                }
            }
            Some(word) => return Err((word.column, Wrong::Device(shown(word.text))).into()),
            None => return Err((self.words.end(), Wrong::Device(String::new())).into()),
        }
        Ok(self.words.next()?)
    }

    fn program(&mut self, rule: &mut Rule) -> Result<(), Stop> {
        let (path, column) = self.words.rest();
        if !path.starts_with(b"/") || path.contains(&0) {
            return Err((column, Wrong::Path(printable(path))).into());
        }
        rule.program = Some(PathBuf::from(OsStr::from_bytes(path)));
        Ok(())
    }
}

fn protocol_word(protocol: &str, word: &Word<'_>) -> Result<Protocol, (usize, Wrong)> {
    match protocol {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        _ => Err((word.column, Wrong::Protocol(shown(protocol)))),
    }
}

fn shown(word: &str) -> String {
    printable(word.as_bytes())
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Character(byte) => write!(f, "byte \\x{byte:02x} has no place in a rule; expected printable ASCII"),
            Wrong::Effect(word) => write!(f, "'{word}' begins no rule; expected permit or deny"),
            Wrong::NoSubject => f.write_str("the rule names nobody; expected USER, :GROUP, uid:N, gid:N or any"),
            Wrong::BareNumber(word) => {
                write!(f, "'{word}' could be a name or an id; expected uid:{word} or gid:{word}")
            }
            Wrong::Id(word) => write!(f, "'{word}' is no id; expected 0 to 4294967294 in digits"),
            Wrong::UnknownUser(word) => write!(f, "user '{word}' is not in /etc/passwd; expected a user, or uid:N"),
            Wrong::UnknownGroup(word) => write!(f, "group '{word}' is not in /etc/group; expected a group, or gid:N"),
            Wrong::NoPorts => f.write_str("the rule has no ports; expected any, or PORT[-PORT][/PROTOCOL]..."),
            Wrong::Port(word) => {
                write!(f, "'{word}' is no port; expected 1 to 65535, N-M or a service, or a clause in its order")
            }
            Wrong::Range(word) => write!(f, "'{word}' runs backwards; expected the smaller port first"),
            Wrong::Protocol(word) => {
                write!(f, "'{word}' is no protocol; expected tcp (which is mptcp too), udp or sctp")
            }
            Wrong::UnknownService(word) => {
                write!(f, "'{word}' is no service in /etc/services; expected one, or a number")
            }
            Wrong::ServiceProtocol(word, known) => {
                write!(f, "'{word}' has no tcp entry in /etc/services; expected {word}/{}", known.word())
            }
            Wrong::Reserved(word) => write!(
                f,
                "'{word}' touches 512-1023, which rsh and NFS trust as source ports; expected the word reserved \
                 (a single port from 515 on needs none when it is written as a service)"
            ),
            Wrong::NoAddress => f.write_str("'on' has no address; expected IPv4[/LEN] or [IPv6][/LEN]"),
            Wrong::Address(word) => write!(f, "'{word}' is no address; expected IPv4[/LEN] or [IPv6][/LEN]"),
            Wrong::PrefixLength(word) => {
                write!(f, "'{word}' has no good length; expected 0 to 32, for IPv6 to 128, for [::ffff:...] 96 to 128")
            }
            Wrong::HostBits(word, network) => write!(f, "'{word}' has bits beyond its length; expected {network}"),
            Wrong::Device(word) => write!(f, "'{word}' is no interface; expected a name of 1 to 15 bytes"),
            Wrong::DatagramDevice => f.write_str(
                "'dev' does not hold for udp: whoever has the socket can lift it by connect(2) with AF_UNSPEC; \
                 expected another user for what must be kept apart",
            ),
            Wrong::Twice(word) => write!(f, "'{word}' is given twice"),
            Wrong::Order(word) => {
                write!(f, "'{word}' comes too late; expected on, dev, reserved reuseport freebind hold, exec")
            }
            Wrong::OnlyInPermit(word) => {
                write!(f, "'{word}' is for permit; a deny refuses the endpoint however it is asked for")
            }
            Wrong::Path(word) => write!(f, "'{word}' is no path; expected one that begins with /"),
        }
    }
}
