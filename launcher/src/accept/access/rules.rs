//! Rules as in tcprules(1), one in each line: `ADDRESS:allow` or `ADDRESS:deny`, then variables after a comma.
//!
//! ADDRESS is an IPv4 or IPv6 address, the start of an IPv4 address up to a dot (`10.1.`), with a range in it
//! (`10.1-3.`), or nothing, which is everybody. A prefix (`10.0.0.0/8`) works too; tcprules does not have these. The
//! longest prefix that contains a client decides; of two equal ones the first.

use std::collections::{BTreeSet, HashMap};
use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use portgrant_protocol::text::printable;

/// At most this many rules, after ranges are expanded.
const MOST: usize = 1 << 20;

#[derive(Debug, Default)]
pub(super) struct Rules {
    by_prefix: HashMap<IpNet, Rule>,
    /// The prefix lengths that occur, for IPv4 and IPv6
    lengths: [BTreeSet<u8>; 2],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) line: usize,
    pub(super) allows: bool,
    /// `NAME=VALUE`
    pub(super) variables: Vec<CString>,
}

impl Rules {
    /// An error is the line's number and what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Rules, (usize, String)> {
        let mut rules = Rules::default();
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            let (address, instructions, allows) =
                divided(line).ok_or_else(|| (number, "there is no ':allow' and no ':deny' in it".to_owned()))?;
            let variables = variables(instructions).map_err(|why| (number, why))?;
            let prefixes = prefixes(address).map_err(|why| (number, why))?;
            if rules.by_prefix.len() + prefixes.len() > MOST {
                return Err((number, format!("its ranges make more than {MOST} rules")));
            }
            for prefix in prefixes {
                if let Some(lengths) = rules.lengths.get_mut(usize::from(prefix.addr().is_ipv6())) {
                    lengths.insert(prefix.prefix_len());
                }
                let rule = Rule { line: number, allows, variables: variables.clone() };
                rules.by_prefix.entry(prefix).or_insert(rule);
            }
        }
        Ok(rules)
    }

    /// The most specific rule for `client`.
    pub(super) fn of(&self, client: IpAddr) -> Option<&Rule> {
        let lengths = self.lengths.get(usize::from(client.is_ipv6()))?;
        lengths.iter().rev().find_map(|length| self.by_prefix.get(&IpNet::new(client, *length).ok()?.trunc()))
    }
}

/// The address, the text after the instruction, and whether the instruction is `allow`. An IPv6 address contains
/// colons.
fn divided(line: &str) -> Option<(&str, &str, bool)> {
    let at = |word: &str| {
        let found = line.match_indices(word).map(|(at, _)| (at, at + word.len()));
        let is_whole =
            |(_, end): &(usize, usize)| line.get(*end..).is_some_and(|rest| rest.is_empty() || rest.starts_with(','));
        found.filter(is_whole).min()
    };
    let (place, allows) = match (at(":allow"), at(":deny")) {
        (Some(allow), Some(deny)) => (allow.min(deny), allow < deny),
        (Some(allow), None) => (allow, true),
        (None, Some(deny)) => (deny, false),
        (None, None) => return None,
    };
    Some((line.get(..place.0)?, line.get(place.1..)?, allows))
}

/// `,NAME="VALUE"`, where any character may stand in the place of the quotation marks.
fn variables(mut text: &str) -> Result<Vec<CString>, String> {
    const FORM: &str = "a variable is ,NAME=\"VALUE\"";
    let mut variables = Vec::new();
    while let Some(rest) = text.strip_prefix(',') {
        let (name, rest) = rest.split_once('=').ok_or(FORM)?;
        let mark = rest.chars().next().ok_or(FORM)?;
        let (value, rest) = rest.strip_prefix(mark).and_then(|rest| rest.split_once(mark)).ok_or(FORM)?;
        if name.is_empty() {
            return Err(FORM.to_owned());
        }
        variables.push(CString::new(format!("{name}={value}")).map_err(|_| FORM)?);
        text = rest;
    }
    if text.is_empty() { Ok(variables) } else { Err(FORM.to_owned()) }
}

/// The prefixes of an address word.
fn prefixes(word: &str) -> Result<Vec<IpNet>, String> {
    if let Some((user, _)) = word.split_once('@') {
        let user = printable(user.as_bytes());
        return Err(format!(
            "'{user}@' names a user, and portgrant does not ask the client who its user is: leave '{user}@' out to mean \
             every user there"
        ));
    }
    if word.starts_with('=') {
        return Err("names of clients are not compared: write addresses".to_owned());
    }
    if word.is_empty() {
        let everybody: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        return Ok(everybody.iter().filter_map(|address| IpNet::new(*address, 0).ok()).collect());
    }
    if let Ok(prefix) = crate::arguments::prefix(word) {
        return Ok(vec![prefix]);
    }
    start(word)
        .ok_or_else(|| format!("'{word}' is not an address, a prefix, or the start of an IPv4 address up to a dot"))
}

/// `10.1.`, `10.1-3.` or `10.1.2.3-9`.
fn start(word: &str) -> Option<Vec<IpNet>> {
    let parts: Vec<&str> = word.strip_suffix('.').unwrap_or(word).split('.').collect();
    let is_whole = parts.len() == 4 && !word.ends_with('.');
    if !is_whole && (!word.ends_with('.') || parts.len() > 3) {
        return None;
    }
    let octet = |text: &str| text.parse::<u8>().ok().filter(|number| number.to_string() == text);
    let mut starts: Vec<Vec<u8>> = vec![Vec::new()];
    for part in &parts {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = octet(first)?..=octet(last)?;
        if starts.len() * range.clone().count() > MOST {
            return None;
        }
        starts =
            starts.iter().flat_map(|start| range.clone().map(|octet| [start.as_slice(), &[octet]].concat())).collect();
    }
    let length = u8::try_from(8 * parts.len()).ok()?;
    let net = |start: &Vec<u8>| {
        let mut octets = [0; 4];
        octets.get_mut(..start.len())?.copy_from_slice(start);
        IpNet::new(IpAddr::from(octets), length).ok()
    };
    starts.iter().map(net).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_rule_decides_as_with_tcpserver() {
        let text = "# comment\n18.23.0.32:deny\n127.:allow,RELAYCLIENT=\"\",A=/b c/\n10.2-3.:deny\n1.2.3.37-39:deny\n\
                    ::1:allow,B=\"x:deny\"\n2001:db8::/32:deny\n10.2.9.0/24:allow\n:allow,C=\"1\"\n127.:deny\n";
        let rules = Rules::parse(text).expect("rules");
        for (client, line, allows, variables) in [
            ("18.23.0.32", 2, false, ""),
            ("127.0.0.1", 3, true, "RELAYCLIENT= A=b c"),
            ("10.2.3.4", 4, false, ""),
            ("10.3.3.4", 4, false, ""),
            ("10.4.3.4", 9, true, "C=1"),
            ("1.2.3.38", 5, false, ""),
            ("1.2.3.40", 9, true, "C=1"),
            ("::1", 6, true, "B=x:deny"),
            ("2001:db8::7", 7, false, ""),
            ("10.2.9.1", 8, true, ""),
            ("::2", 9, true, "C=1"),
        ] {
            let rule = rules.of(client.parse().expect("an address")).expect("a rule");
            let found: Vec<&str> = rule.variables.iter().map(|variable| variable.to_str().expect("text")).collect();
            assert_eq!((rule.line, rule.allows, found.join(" ").as_str()), (line, allows, variables), "{client}");
        }
        let open = Rules::parse("10.:deny\n").expect("rules");
        assert!(open.of("11.0.0.1".parse().expect("an address")).is_none(), "nobody says anything");
    }

    #[test]
    fn a_malformed_access_rule_is_reported() {
        for (text, line, why) in [
            ("10.0.0.1\n", 1, "no ':allow'"),
            ("\n10.0.0.1:allowed\n", 2, "no ':allow'"),
            ("joe@10.0.0.1:deny\n", 1, "leave 'joe@' out"),
            ("=host.example:deny\n", 1, "names of clients"),
            ("host:deny\n", 1, "'host' is not an address"),
            ("10.1:deny\n", 1, "'10.1' is not an address"),
            ("10.256.:deny\n", 1, "'10.256.' is not an address"),
            ("10.0.0.1/8:deny\n", 1, "'10.0.0.1/8' is not an address"),
            ("10.:allow,A\n", 1, "a variable is"),
            ("10.:allow,A=\"b\n", 1, "a variable is"),
            ("10.:allow A=\"b\"\n", 1, "no ':allow'"),
            ("0-255.0-255.0-255.0-255:deny\n", 1, "is not an address"),
        ] {
            let (found, said) = Rules::parse(text).expect_err(text);
            assert!(found == line && said.contains(why), "{text}: {found}: {said}");
        }
    }
}
