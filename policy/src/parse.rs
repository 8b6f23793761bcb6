//! The grammar of the policy. Each line has one rule; blanks and tabs separate its words:
//!
//! ```text
//! rule    = ("permit" | "deny") subject ports ["on" address…] ["dev" IFNAME] {word} ["exec" PATH]
//! subject = USER | ":" GROUP | "uid:" N | "gid:" N | "any"           a bare number is an error
//! ports   = "any" | port…       port = (N | N "-" M | SERVICE) ["/" ("tcp" | "udp" | "sctp")]
//! address = IPv4 ["/" LEN] | "[" IPv6 "]" ["/" LEN]                  bits beyond LEN are an error
//! word    = "reserved" | "reuseport" | "freebind"                    each once, in any order, in a permit only
//! ```
//! A word that begins with `#` begins a comment. PATH begins with `/`, ends with the line (without trailing blanks) and
//! may contain `#`. A keyword or a protocol is never read as a service of the same name. Other bytes than printable
//! ASCII outside of comments and PATH are an error, and so is a last line with a rule and without a line feed.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use portgrant_protocol::endpoint::{is_interface, is_service};
use portgrant_protocol::text::{printable, written};
use portgrant_protocol::{Port, Protocol};

use crate::address::{AddressError, AddressSet};
use crate::clause::Clause;
use crate::corrections;
use crate::error::Error;
use crate::names::{Names, id};
use crate::problem::{Problem, Wrong};
use crate::rule::{Effect, Policy, Ports, Protocols, Rule, Source, Subject, UnknownService};
use crate::scan::{line_feeds, split_once, valid_utf8};
use crate::words::{Word, Words};

/// Ports that rsh and NFS trust as source ports: a rule that touches them must say `reserved`.
const TRUSTED: core::ops::RangeInclusive<u16> = 512..=1023;
/// exec, login and shell: they need the word even if they are written as services.
const RSH: core::ops::RangeInclusive<u16> = 512..=514;

/// A clause, and the column of its first word.
type NextClause = Option<(Clause, usize)>;

impl Policy {
    /// Parses `sources`. The outer error is about the tables of names, the inner one lists every malformed line.
    #[allow(clippy::type_complexity, reason = "two kinds of failure, each with what its message needs")]
    pub fn parse(sources: Vec<Source>, names: &Names) -> Result<Result<Policy, (Policy, Vec<Problem>)>, Error> {
        Policy::parse_some(sources, names, &|_| true)
    }

    /// The same, but keeps only the rules that are `wanted`. All lines are checked and all rules are counted; the other
    /// rules use no memory.
    #[allow(clippy::type_complexity, reason = "as above")]
    pub fn parse_some(
        sources: Vec<Source>,
        names: &Names,
        wanted: &dyn Fn(&Rule) -> bool,
    ) -> Result<Result<Policy, (Policy, Vec<Problem>)>, Error> {
        let mut policy = Policy::default();
        let mut problems = Vec::new();
        for (file, source) in sources.iter().enumerate() {
            parse(file, source, names, wanted, &mut policy, &mut problems)?;
        }
        policy.sources = sources;
        Ok(if problems.is_empty() { Ok(policy) } else { Err((policy, problems)) })
    }
}

/// Parses `source`, file number `file`, into `policy` and `problems`. The error is about the tables of names.
fn parse(
    file: usize,
    source: &Source,
    names: &Names,
    wanted: &dyn Fn(&Rule) -> bool,
    policy: &mut Policy,
    problems: &mut Vec<Problem>,
) -> Result<(), Error> {
    // Reused for each line, so that an unwanted rule needs no memory.
    let mut rule = Rule::blank();
    let whole = source.text.ends_with(b"\n");
    let text = source.text.as_slice();
    let valid = valid_utf8(text);
    let mut start = 0;
    for (index, end) in line_feeds(text).chain([text.len()]).enumerate() {
        let line = text.get(start..end).unwrap_or_default();
        let line_text = valid.get(start..end).unwrap_or_else(|| valid_utf8(line));
        start = end + 1;
        rule.clear();
        let words = Words::of(line, line_text, index == 0, &source.path);
        let mut parser = Parser { words, names, warnings: Vec::new() };
        let at = |(column, wrong)| Problem { file, line: index + 1, column, wrong };
        if end == text.len() && !whole && is_rule(line) {
            let path = printable(&source.path);
            problems.push(at((line.len() + 1, Wrong::CutOff { line: printable(line.trim_ascii()), path })));
        }
        match parser.rule(&mut rule) {
            Ok(false) => continue,
            Ok(true) => {
                policy.count += 1;
                if !wanted(&rule) {
                    continue;
                }
                let rule = core::mem::replace(&mut rule, Rule::blank());
                policy.rules.push(Rule { file, line: index + 1, ..rule });
            }
            Err(Stop::Malformed(column, wrong)) => problems.push(at((column, wrong))),
            Err(Stop::Names(error)) => return Err(error),
        }
        policy.warnings.extend(parser.warnings.into_iter().map(at));
    }
    Ok(())
}

/// Whether `line` is neither blank nor a comment.
fn is_rule(line: &[u8]) -> bool {
    !matches!(line.trim_ascii_start().first(), None | Some(b'#'))
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
    /// Reads the line into `rule`, which is blank. Returns whether the line has a rule.
    fn rule(&mut self, rule: &mut Rule) -> Result<bool, Stop> {
        let Some(word) = self.words.next()? else { return Ok(false) };
        let effect = match word.text {
            "permit" => Effect::Permit,
            "deny" => Effect::Deny,
            _ => return Err((word.column, Wrong::Effect(shown(word.text))).into()),
        };
        rule.effect = effect;
        rule.subject = self.subject(effect)?;
        let (trusted, clause) = self.ports(rule)?;
        let reserved = self.clauses(rule, clause)?;
        if let Some(word) = trusted.filter(|_| effect == Effect::Permit && !reserved) {
            return Err((word.column, Wrong::Reserved(shown(word.text))).into());
        }
        if let Some(unknown) = &mut rule.unknown_service {
            // A rule without ports permits nothing.
            unknown.beside = core::mem::take(&mut rule.ports);
        }
        Ok(true)
    }

    fn subject(&mut self, effect: Effect) -> Result<Subject, Stop> {
        let Some(word) = self.words.next()? else { return Err((self.words.end(), Wrong::NoSubject).into()) };
        let numeric = |digits| id(digits).ok_or_else(|| (word.column, Wrong::Id(shown(word.text))));
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

    /// An unknown name is an error in a deny, which would deny nobody. In a permit it matches nobody, with a warning.
    fn unknown(&mut self, effect: Effect, column: usize, wrong: Wrong) -> Result<(), Stop> {
        if effect == Effect::Deny {
            return Err((column, wrong).into());
        }
        self.warnings.push((column, wrong));
        Ok(())
    }

    /// Reads the ports up to the first clause. Returns the first of them that needs `reserved`, and that clause.
    fn ports(&mut self, rule: &mut Rule) -> Result<(Option<Word<'a>>, NextClause), Stop> {
        let mut trusted = None;
        let (mut count, mut any) = (0, false);
        let next = loop {
            if any {
                break self.next_clause()?;
            }
            let Some(word) = self.words.next()? else { break None };
            if let Some(clause) = Clause::of(word.text) {
                break Some((clause, word.column));
            }
            count += 1;
            any = count == 1 && word.text == "any";
            let by_name = self.port(rule, &word).map_err(|stop| self.with_the_next_word(stop, &word))?;
            let needs_word = |ports: &Ports| {
                let single_name = by_name && !RSH.contains(&ports.first.get());
                ports.first.get() <= *TRUSTED.end() && ports.last.get() >= *TRUSTED.start() && !single_name
            };
            if trusted.is_none() && rule.ports.last().is_some_and(needs_word) {
                trusted = Some(word);
            }
        };
        if count == 0 {
            return Err((next.map_or(self.words.end(), |clause| clause.1), Wrong::NoPorts).into());
        }
        Ok((trusted, next))
    }

    /// Of `udp 53` and `10.0.0.0/8 80` both words are meant otherwise.
    fn with_the_next_word(&mut self, stop: Stop, word: &Word<'a>) -> Stop {
        match (stop, self.words.next()) {
            (Stop::Malformed(column, Wrong::Port(_) | Wrong::ProtocolAlone(_)), Ok(Some(next)))
                if next.column == column + word.text.len() + 1
                    && Clause::of(next.text).is_none()
                    && corrections::two(word.text, next.text).is_some() =>
            {
                Stop::Malformed(column, Wrong::TwoWords(word.text.to_owned(), next.text.to_owned()))
            }
            (stop, _) => stop,
        }
    }

    /// Adds the ports of one word. Returns whether the word is a service's name.
    fn port(&mut self, rule: &mut Rule, word: &Word<'a>) -> Result<bool, Stop> {
        let default = if rule.effect == Effect::Deny { Protocols::ALL } else { Protocols::only(Protocol::Tcp) };
        if word.text == "any" {
            if !rule.ports.is_empty() {
                return Err((word.column, Wrong::Port(shown(word.text))).into());
            }
            rule.ports.push(Ports { protocols: default, first: Port::MIN, last: Port::MAX });
            return Ok(false);
        }
        let (port, protocol) = match split_once(word.text, b'/') {
            Some((port, protocol)) => (port, Some(protocol_word(port, protocol, word)?)),
            None => (word.text, None),
        };
        let protocols = protocol.map_or(default, Protocols::only);
        if port.starts_with(|c: char| c.is_ascii_digit()) {
            let (first, last) = range(port).map_err(|at| {
                // The column of the invalid number in a range, or of the word if there is a correction for all of it.
                let at = if corrections::port(word.text).is_none() { at } else { 0 };
                (word.column + at, Wrong::Port(shown(word.text)))
            })?;
            if first > last {
                return Err((word.column, Wrong::Range(shown(word.text))).into());
            }
            rule.ports.push(Ports { protocols, first, last });
            return Ok(false);
        }
        if ["tcp", "udp", "sctp", "mptcp"].contains(&port) {
            return Err((word.column, Wrong::ProtocolAlone(shown(word.text))).into());
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
        let found = rule.ports.len();
        if rule.effect == Effect::Deny {
            // All ports of the name, and every protocol if the rule names none: in doubt a deny refuses.
            let entries = services.ports(name).filter(|entry| protocol.is_none_or(|protocol| protocol == entry.0));
            let protocols = protocol.map_or(Protocols::ALL, Protocols::only);
            rule.ports.extend(entries.map(|(_, port)| single(protocols, port)));
        } else if let Some(port) = services.port(name, protocol.unwrap_or_default()) {
            rule.ports.push(single(Protocols::only(protocol.unwrap_or_default()), port));
        } else if let (Some((known, _)), None) = (services.ports(name).next(), protocol) {
            return Err((word.column, Wrong::ServiceProtocol(shown(name), known)).into());
        }
        if rule.ports.len() == found {
            self.unknown(rule.effect, word.column, Wrong::UnknownService(shown(word.text)))?;
            rule.unknown_service
                .get_or_insert_with(|| Box::new(UnknownService { word: shown(word.text), beside: Vec::new() }));
        }
        Ok(())
    }

    /// Reads the clauses from `next` on. Returns whether `reserved` is among them.
    fn clauses(&mut self, rule: &mut Rule, mut next: NextClause) -> Result<bool, Stop> {
        let (mut seen, mut place) = (0_u8, Clause::On);
        let bit = |clause: Clause| 1 << clause as u8;
        while let Some((clause, column)) = next {
            let wrong = |wrong| Stop::Malformed(column, wrong);
            if seen & bit(clause) != 0 {
                return Err(wrong(Wrong::Twice(clause.name())));
            }
            if clause.place() < place {
                return Err(wrong(Wrong::Order(clause.name())));
            }
            if rule.effect == Effect::Deny && clause.place() > Clause::Dev {
                return Err(wrong(Wrong::OnlyInPermit(clause.name())));
            }
            seen |= bit(clause);
            place = clause.place();
            match clause {
                Clause::Reserved => {}
                Clause::Reuseport => rule.reuseport = true,
                Clause::Freebind => rule.freebind = true,
                Clause::Dev => self.device(rule)?,
                Clause::On => {
                    next = self.addresses(rule)?;
                    continue;
                }
                Clause::Exec => {
                    self.program(rule)?;
                    break;
                }
            }
            next = self.next_clause()?;
        }
        Ok(seen & bit(Clause::Reserved) != 0)
    }

    fn next_clause(&mut self) -> Result<NextClause, Stop> {
        let Some(word) = self.words.next()? else { return Ok(None) };
        match Clause::of(word.text) {
            Some(clause) => Ok(Some((clause, word.column))),
            None => Err((word.column, Wrong::Port(shown(word.text))).into()),
        }
    }

    fn addresses(&mut self, rule: &mut Rule) -> Result<NextClause, Stop> {
        let narrows_udp = rule.effect == Effect::Permit && rule.has_udp();
        loop {
            let word = self.words.next()?;
            let clause = word.as_ref().and_then(|word| Clause::of(word.text).map(|clause| (clause, word.column)));
            let word = match word {
                Some(word) if clause.is_none() => word,
                _ if rule.addresses.is_empty() => {
                    return Err((clause.map_or(self.words.end(), |clause| clause.1), Wrong::NoAddress).into());
                }
                _ => return Ok(clause),
            };
            let set = AddressSet::parse(word.text).map_err(|error| {
                let wrong = match error {
                    AddressError::Form => Wrong::Address(shown(word.text)),
                    AddressError::Length => Wrong::PrefixLength(shown(word.text)),
                    AddressError::HostBits(network) => Wrong::HostBits(shown(word.text), network),
                };
                (word.column, wrong)
            })?;
            if narrows_udp && set.is_part_of_family() && !rule.addresses.iter().any(|set| set.is_part_of_family()) {
                self.warnings.push((word.column, Wrong::DatagramAddress));
            }
            rule.addresses.push(set);
        }
    }

    fn device(&mut self, rule: &mut Rule) -> Result<(), Stop> {
        match self.words.next()? {
            Some(word) if is_interface(word.text) => {
                rule.dev = Some(word.text.to_owned());
                if rule.effect == Effect::Permit && rule.has_udp() {
                    self.warnings.push((word.column, Wrong::DatagramDevice));
                }
            }
            Some(word) => return Err((word.column, Wrong::Device(shown(word.text))).into()),
            None => return Err((self.words.end(), Wrong::Device(String::new())).into()),
        }
        Ok(())
    }

    fn program(&mut self, rule: &mut Rule) -> Result<(), Stop> {
        let (path, column) = self.words.rest();
        // Not contains(), which costs more than this on so short a text.
        let is_text = path.iter().all(|byte| *byte != 0);
        if !path.starts_with(b"/") || !is_text {
            return Err((column, Wrong::Path(printable(path))).into());
        }
        rule.program = Some(path.to_vec());
        Ok(())
    }
}

/// `N` or `N-M`; the error is the position of the invalid number.
fn range(word: &str) -> Result<(Port, Port), usize> {
    let Some((first, last)) = split_once(word, b'-') else {
        let port = Port::parse(word).ok_or(0_usize)?;
        return Ok((port, port));
    };
    Ok((Port::parse(first).ok_or(0_usize)?, Port::parse(last).ok_or(word.len() - last.len())?))
}

fn protocol_word(port: &str, protocol: &str, word: &Word<'_>) -> Result<Protocol, (usize, Wrong)> {
    match protocol {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        // `tcp/80`, `10.0.0.0/8`: the whole word is wrong, not only the protocol.
        _ if corrections::protocol(protocol).is_none() && corrections::port(word.text).is_some() => {
            Err((word.column, Wrong::Port(shown(word.text))))
        }
        _ => Err((word.column + port.len() + 1, Wrong::Protocol(shown(protocol)))),
    }
}

fn shown(word: &str) -> String {
    written(word.as_bytes())
}
