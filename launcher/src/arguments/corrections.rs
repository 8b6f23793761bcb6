//! Corrections for wrong words of the command line, as words to type.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use portgrant_protocol::endpoint::{is_name, is_service};
use portgrant_protocol::{Endpoint, Port};

use crate::nearest::nearest;

/// A range of at most this many ports is written as endpoints.
const MOST: u16 = 16;

/// What to write instead of an option of another program or another command.
pub(super) fn option(command: &str, word: &str) -> Option<&'static str> {
    let option = word.split('=').next().unwrap_or_default();
    let meant = |words: &[&str]| words.contains(&option);
    let takes_endpoints = ["exec", "run", "pass", "explain"].contains(&command);
    let ports = ["-p", "-P", "-b", "--port", "--ports", "--bind", "--address", "--listen-address", "--endpoint"];
    let tells = ["explain", "list"].contains(&command);
    let meanings: [(bool, &[&str], &str); 8] = [
        (takes_endpoints, &ports, "-l"),
        (tells, &["-u", "-U", "--user", "--username"], "--as-user"),
        (command == "exec", &["-u", "-U", "--as-user", "--uid", "--run-as", "--setuser"], "--user"),
        (command == "exec", &["-e", "-E", "--env", "--environment"], "--setenv"),
        (command == "exec", &["-d", "-D", "--background", "--daemonize", "--fork"], "--daemon"),
        (command == "exec", &["-a", "--accept=yes", "--nowait"], "--accept"),
        (command == "exec", &["--cwd", "--working-directory", "-C"], "--chdir"),
        (true, &["-j", "--output-json"], "--format json"),
    ];
    meanings.into_iter().find(|(fits, words, _)| *fits && meant(words)).map(|(.., meaning)| meaning)
}

/// The command that does what `word` means in other programs.
pub(super) fn command(word: &str) -> Option<&'static str> {
    const OTHERS: [(&[&str], &str); 7] = [
        (&["start", "launch", "listen", "execute", "bind"], "exec"),
        (&["wrap", "authbind", "spawn"], "run"),
        (&["send", "give", "hand"], "pass"),
        (&["why", "test", "may", "ask"], "explain"),
        (&["ls", "show", "rules", "status"], "list"),
        (&["validate", "lint", "verify", "configtest"], "check"),
        (&["lsof", "holder", "fuser", "ss"], "who"),
    ];
    OTHERS.into_iter().find(|(words, _)| words.contains(&word)).map(|(_, command)| command)
}

/// The port of `word`, if it is `HOST:PORT` with a host name.
pub(super) fn port_of_host(word: &str) -> Option<&str> {
    let (host, port) = word.split_once(':')?;
    let is_name = host.contains(|c: char| c.is_ascii_alphabetic()) && host.contains('.');
    let is_host = is_name && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
    (is_host && port.parse::<Endpoint>().is_ok()).then_some(port)
}

/// The endpoints that `word` probably means. PORT stands for a missing port.
pub(super) fn endpoints(word: &str) -> Option<Vec<String>> {
    if let Some((name, rest)) = word.split_once('=').filter(|(name, _)| is_name(name)) {
        return match endpoints(rest)?.as_slice() {
            [one] => Some(vec![format!("{name}={one}")]),
            _ => None,
        };
    }
    let guesses = [
        trimmed,
        url,
        protocols,
        option_misspelt,
        several,
        range,
        protocol_first,
        zone,
        address_alone,
        host,
        without_zeros,
    ];
    let is_valid = |text: &String| text.replace("PORT", "80").parse::<Endpoint>().is_ok();
    guesses.into_iter().filter_map(|guess| guess(word)).find(|found| !found.is_empty() && found.iter().all(is_valid))
}

fn trimmed(word: &str) -> Option<Vec<String>> {
    let inner = word.trim_matches(|c: char| c.is_whitespace() || ",;/.'\"".contains(c));
    (inner.len() < word.len()).then(|| vec![inner.to_owned()])
}

/// `http://127.0.0.1:8080/path`, `tcp://*:80`, `udp://:53`
fn url(word: &str) -> Option<Vec<String>> {
    let (scheme, rest) = word.split_once("://").filter(|(scheme, _)| !["unix", "file", "fd"].contains(scheme))?;
    let authority = rest.split(['/', '?', '#']).next().and_then(|rest| rest.rsplit('@').next()).unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| Port::parse(port).is_some()) {
        Some((host, port)) => (host, port),
        None => (authority.trim_end_matches(':'), if scheme == "https" || scheme == "wss" { "443" } else { "" }),
    };
    let port = match (port, scheme) {
        ("", "http" | "ws") => "80",
        ("", "tcp" | "tcp4" | "tcp6" | "udp" | "udp4" | "udp6") => "PORT",
        ("", service) => service,
        (port, _) => port,
    };
    let is_address = |host: &str| host == "*" || Endpoint::from_os(format!("{host}:80").as_ref()).is_ok();
    let address = match host {
        "localhost" => "127.0.0.1:".to_owned(),
        host if is_address(host) => format!("{host}:"),
        _ => String::new(),
    };
    Some(vec![format!("{address}{port}{}", if scheme.starts_with("udp") { "/udp" } else { "" })])
}

/// `80,443`, `127.0.0.1:80,443`, `80 443`
fn several(word: &str) -> Option<Vec<String>> {
    let parts: Vec<&str> =
        word.split(|c: char| c.is_whitespace() || ",;+".contains(c)).filter(|part| !part.is_empty()).collect();
    let (first, rest) = parts.split_first().filter(|(_, rest)| !rest.is_empty())?;
    if !rest.iter().all(|part| part.contains(|c: char| c.is_ascii_digit())) {
        return None;
    }
    let address = first.rsplit_once(':').map(|(address, _)| address);
    let same_address = |part: &&str| match address {
        Some(address) if Port::parse(part).is_some() => format!("{address}:{part}"),
        _ => (*part).to_owned(),
    };
    Some(std::iter::once((*first).to_owned()).chain(rest.iter().map(same_address)).collect())
}

/// `8000-8010`, `80:82`, `80..82`, `127.0.0.1:80-82/udp`
fn range(word: &str) -> Option<Vec<String>> {
    let (address, ports, protocol) = range_parts(word)?;
    (ports.end() - ports.start() < MOST).then(|| ports.map(|port| format!("{address}{port}{protocol}")).collect())
}

/// The ports of a range, however many they are.
pub(super) fn ports(word: &str) -> Option<RangeInclusive<u16>> {
    range_parts(word).map(|(_, ports, _)| ports)
}

/// The address before a range of ports, the range, and the protocol after it.
fn range_parts(word: &str) -> Option<(&str, RangeInclusive<u16>, &str)> {
    let (word, protocol) = word.split_at(word.find('/').unwrap_or(word.len()));
    let is_address = |at: &usize| format!("{}:80", word.get(..*at).unwrap_or_default()).parse::<Endpoint>().is_ok();
    let start = word.rfind(':').filter(is_address).map_or(0, |at| at + 1);
    let (address, range) = word.split_at(start);
    let (first, last) = ["..", "-", ":"].into_iter().find_map(|between| range.split_once(between))?;
    let (first, last) = (Port::parse(first)?.get(), Port::parse(last)?.get());
    (first < last).then_some((address, first..=last, protocol))
}

/// `53/tcp,udp`, `53/tcp+udp`
fn protocols(word: &str) -> Option<Vec<String>> {
    let (place, protocols) = word.split_once('/')?;
    let protocols: Vec<&str> = protocols.split([',', '+', '/', '&']).collect();
    let are_protocols = protocols.iter().all(|protocol| ["tcp", "udp", "sctp", "mptcp"].contains(protocol));
    (are_protocols && protocols.len() > 1)
        .then(|| protocols.iter().map(|protocol| format!("{place}/{protocol}")).collect())
}

/// `tcp/80`, `udp:53`, `80/TCP`, `80:udp`, `tcp4/80`
fn protocol_first(word: &str) -> Option<Vec<String>> {
    let pair = |port: &str, word: &str| {
        let word = word.to_ascii_lowercase();
        let (word, family) = match word.strip_suffix(['4', '6']) {
            Some(protocol) => (protocol, word.get(protocol.len()..).unwrap_or_default()),
            None => (word.as_str(), ""),
        };
        let fits = ["tcp", "udp", "sctp", "mptcp"].contains(&word) && !port.is_empty();
        let protocol = if word == "tcp" && !family.is_empty() { String::new() } else { format!("/{word}") };
        fits.then(|| match family {
            "4" => format!("0.0.0.0:{port}{protocol}"),
            "6" => format!("[::]:{port}{protocol},v6only"),
            _ => format!("{port}{protocol}"),
        })
    };
    let first = word.split_once(['/', ':']).and_then(|(first, last)| pair(last, first));
    let last = || word.rsplit_once(['/', ':']).and_then(|(first, last)| pair(first, last));
    first.or_else(last).map(|text| vec![text])
}

/// `80,reuse_port`, `[::]:80,ipv6only=on`
fn option_misspelt(word: &str) -> Option<Vec<String>> {
    const KNOWN: [&str; 12] = [
        "reuseport",
        "v6only",
        "backlog",
        "freebind",
        "dev",
        "keepalive",
        "linger",
        "defer_accept",
        "fastopen",
        "rcvbuf",
        "sndbuf",
        "tos",
    ];
    const OTHERS: [(&str, &str); 8] = [
        ("ipv6only", "v6only"),
        ("v6", "v6only"),
        ("interface", "dev"),
        ("device", "dev"),
        ("iface", "dev"),
        ("bindtodevice", "dev"),
        ("deferred", "defer_accept"),
        ("so_keepalive", "keepalive"),
    ];
    const FLAGS: [&str; 3] = ["reuseport", "v6only", "freebind"];
    let (place, options) = word.split_once(',')?;
    let mut text = place.to_owned();
    for option in options.split(',') {
        let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        let plain = name.to_ascii_lowercase();
        let other = OTHERS.iter().find(|other| other.0 == plain).map(|other| other.1);
        let plain = plain.trim_start_matches("so_").replace('-', "_");
        let name = other.or_else(|| nearest(&plain.replace("reuse_port", "reuseport"), KNOWN.into_iter()))?;
        text.extend([",", name]);
        if let Some(value) = value.filter(|value| !FLAGS.contains(&name) || !["on", "1", "yes", "true"].contains(value))
        {
            text.extend(["=", value]);
        }
    }
    Some(vec![text])
}

/// `[fe80::1%eth0]:80`
fn zone(word: &str) -> Option<Vec<String>> {
    let (before, rest) = word.split_once('%')?;
    let end = rest.find([']', ':', '/', ',']).unwrap_or(rest.len());
    let (zone, after) = rest.split_at_checked(end)?;
    let address = before.trim_start_matches('[');
    let after = after.trim_start_matches(']');
    let after = if after.is_empty() { ":PORT" } else { after };
    let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    Some(vec![format!("{address}{after},dev={zone}")])
}

/// `127.0.0.1`, `::1`, `[::1]`, `::1:80`
fn address_alone(word: &str) -> Option<Vec<String>> {
    let inner = word.trim_start_matches('[').trim_end_matches(']');
    if inner.parse::<Ipv4Addr>().is_ok() {
        return Some(vec![format!("{inner}:PORT")]);
    }
    if inner.parse::<Ipv6Addr>().is_ok() && (inner != word || !ends_in_a_port(word)) {
        return Some(vec![format!("[{inner}]:PORT")]);
    }
    let (address, port) = word.rsplit_once(':')?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    address.parse::<Ipv6Addr>().ok().map(|_| vec![format!("[{address}]:{port}")])
}

/// Whether an IPv6 address ends in a port: `::1:80` is a valid address, but probably means `[::1]:80`.
fn ends_in_a_port(word: &str) -> bool {
    let ending = word.rsplit_once(':').filter(|(address, _)| address.parse::<Ipv6Addr>().is_ok());
    ending.is_some_and(|(_, port)| port.len() > 1 && Port::parse(port).is_some())
}

/// `localhost:80`, `:80`, `0:80`, `80:`
fn host(word: &str) -> Option<Vec<String>> {
    let (host, port) = word.split_once(':')?;
    let text = match (host, port) {
        ("localhost", port) => format!("127.0.0.1:{port}"),
        ("0" | "0.0.0.0", port) => format!("0.0.0.0:{port}"),
        ("" | "any" | "all", port) => port.to_owned(),
        (port, "") if Port::parse(port).is_some() || is_service(port) => port.to_owned(),
        _ => return None,
    };
    Some(vec![text])
}

/// `080`, `+80`
fn without_zeros(word: &str) -> Option<Vec<String>> {
    let port = word.trim_start_matches(['0', '+']);
    (port.len() < word.len()).then(|| vec![port.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &[(&str, &str)] = &[
        ("80,443", "80 443"),
        ("127.0.0.1:80,443", "127.0.0.1:80 127.0.0.1:443"),
        ("80, 443", "80 443"),
        ("80,", "80"),
        (" 80", "80"),
        ("http://", "80"),
        ("http://localhost", "127.0.0.1:80"),
        ("https://example.org/path", "443"),
        ("http://127.0.0.1:8080/x", "127.0.0.1:8080"),
        ("tcp://*:80", "*:80"),
        ("udp://[::1]:53", "[::1]:53/udp"),
        ("imap://", "imap"),
        ("tcp/80", "80/tcp"),
        ("udp:53", "53/udp"),
        ("80/TCP", "80/tcp"),
        ("127.0.0.1:53/UDP", "127.0.0.1:53/udp"),
        ("tcp4/80", "0.0.0.0:80"),
        ("80/tcp6", "[::]:80,v6only"),
        ("80-82", "80 81 82"),
        ("80:82", "80 81 82"),
        ("80..81", "80 81"),
        ("127.0.0.1:80-82", "127.0.0.1:80 127.0.0.1:81 127.0.0.1:82"),
        ("[::1]:53-54/udp", "[::1]:53/udp [::1]:54/udp"),
        ("53/tcp,udp", "53/tcp 53/udp"),
        ("127.0.0.1:53/udp+tcp", "127.0.0.1:53/udp 127.0.0.1:53/tcp"),
        ("::1", "[::1]:PORT"),
        ("[::1]", "[::1]:PORT"),
        ("::1:80", "[::1]:80"),
        ("127.0.0.1", "127.0.0.1:PORT"),
        ("[fe80::1%eth0]:80", "[fe80::1]:80,dev=eth0"),
        ("fe80::1%eth0", "[fe80::1]:PORT,dev=eth0"),
        ("localhost:80", "127.0.0.1:80"),
        (":80", "80"),
        ("80:", "80"),
        ("web=:80", "web=80"),
        ("080", "80"),
        ("+80", "80"),
        ("80,reuse-port", "80,reuseport"),
        ("[::]:80,ipv6only=on", "[::]:80,v6only"),
        ("80,backlg=5", "80,backlog=5"),
        ("80,interface=eth0", "80,dev=eth0"),
    ];

    #[test]
    fn each_known_endpoint_mistake_gets_a_correction() {
        for (word, instead) in WORDS {
            assert_eq!(endpoints(word).map(|found| found.join(" ")).as_deref(), Some(*instead), "{word}");
        }
    }

    #[test]
    fn an_unclear_word_gets_no_guess() {
        for word in
            ["", "-1", "0", "65536", "8o/icmp", "1-65535", "80,fast", "a:b:c", "[", "]", "%", "=", "://", "\u{e9}"]
        {
            assert_eq!(endpoints(word), None, "{word}");
        }
        assert_eq!((option("who", "-p"), command("serve"), nearest("xyz", ["run"].into_iter())), (None, None, None));
    }

    #[test]
    fn options_and_commands_of_other_programs_are_known() {
        assert_eq!((option("exec", "-p"), option("list", "--user")), (Some("-l"), Some("--as-user")));
        assert_eq!((option("exec", "--as-user=bob"), option("run", "--user")), (Some("--user"), None));
        assert_eq!((command("validate"), nearest("rnu", ["exec", "run"].into_iter())), (Some("check"), Some("run")));
    }
}
