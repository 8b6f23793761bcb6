//! The names of authbind's files, and the users and groups that a rule names.

use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::Path;

use nix::unistd::{Gid, Group, Uid, User};

use super::{ALL, UPPER};

/// The meaning of a file's name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name {
    Port(u16),
    Address { address: IpAddr, port: u16, comes_first: bool },
    Uid { uid: u32, ports: RangeInclusive<u16> },
}

/// Reads the last two parts of a path, or says why authbind never opens such a file.
pub(super) fn name(file: &Path) -> Result<Name, &'static str> {
    let word = file.file_name().and_then(|name| name.to_str()).ok_or("it is not text")?;
    let folder = file.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
    let (is_upper, bare) = word.strip_prefix('!').map_or((false, word), |bare| (true, bare));
    match folder {
        "byport" => Ok(Name::Port(port(bare, is_upper)?)),
        "byaddr" => {
            let (address, end, is_colon) = match bare.rsplit_once(',') {
                Some((address, end)) => (address, end, false),
                None => bare.rsplit_once(':').map(|(address, end)| (address, end, true)).ok_or(FORM)?,
            };
            let port = port(end, is_upper)?;
            let parsed: IpAddr = address.parse().map_err(|_| FORM)?;
            let (is_short, is_long) = match parsed {
                IpAddr::V4(_) => (true, false),
                IpAddr::V6(_) if is_colon => return Err("an IPv6 address and its port have a comma between them"),
                IpAddr::V6(ip) => (ip.to_string() == address, long(ip) == address),
            };
            if !is_short && !is_long {
                return Err("the address is written in another way than inet_ntop(3) writes it");
            }
            let comes_first = if parsed.is_ipv4() { is_colon } else { is_short };
            Ok(Name::Address { address: parsed, port, comes_first })
        }
        _ => {
            let uid = bare
                .parse()
                .ok()
                .filter(|uid: &u32| uid.to_string() == bare)
                .ok_or("it is not the number of a user")?;
            let ports = if is_upper { UPPER } else { *ALL.start()..=UPPER.start() - 1 };
            Ok(Name::Uid { uid, ports })
        }
    }
}

const FORM: &str = "it is not ADDRESS,PORT";

fn port(word: &str, is_upper: bool) -> Result<u16, &'static str> {
    let port: u16 =
        word.parse().ok().filter(|port: &u16| port.to_string() == word).ok_or("it is not a port in digits")?;
    match (ALL.contains(&port), UPPER.contains(&port), is_upper) {
        (false, ..) => Err("authbind is for ports from 1 to 1023"),
        (_, true, false) => Err("from port 512 on the name begins with '!'"),
        (_, false, true) => Err("below port 512 the name has no '!'"),
        (true, true, true) | (true, false, false) => Ok(port),
    }
}

/// Without `::`, as in authbind's second attempt.
fn long(ip: Ipv6Addr) -> String {
    ip.segments().map(|part| format!("{part:x}")).join(":")
}

/// A user in the form of a rule: the name if exactly one account has the uid, else the number.
pub(super) fn user(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) if is_word(&user.name) => user.name,
        Ok(_) | Err(_) => format!("uid:{uid}"),
    }
}

/// The same for a group.
pub(super) fn group(gid: u32) -> String {
    match Group::from_gid(Gid::from_raw(gid)) {
        Ok(Some(group)) if is_word(&group.name) => format!(":{}", group.name),
        Ok(_) | Err(_) => format!("gid:{gid}"),
    }
}

/// Whether a rule can contain `name`, with no other meaning.
fn is_word(name: &str) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#' && byte != b':');
    plain && name != "any" && name.parse::<u32>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_file_names_that_authbind_looks_for_are_read() {
        let address = |text: &str, port, comes_first| {
            Ok(Name::Address { address: text.parse().expect("an address"), port, comes_first })
        };
        for (path, expected) in [
            ("byport/80", Ok(Name::Port(80))),
            ("byport/!600", Ok(Name::Port(600))),
            ("byport/600", Err("from port 512 on the name begins with '!'")),
            ("byport/!80", Err("below port 512 the name has no '!'")),
            ("byport/080", Err("it is not a port in digits")),
            ("byport/http", Err("it is not a port in digits")),
            ("byport/1024", Err("authbind is for ports from 1 to 1023")),
            ("byaddr/10.0.0.1:80", address("10.0.0.1", 80, true)),
            ("byaddr/10.0.0.1,80", address("10.0.0.1", 80, false)),
            ("byaddr/!10.0.0.1,600", address("10.0.0.1", 600, false)),
            ("byaddr/::1,80", address("::1", 80, true)),
            ("byaddr/0:0:0:0:0:0:0:1,80", address("::1", 80, false)),
            ("byaddr/0::1,80", Err("the address is written in another way than inet_ntop(3) writes it")),
            ("byaddr/::1:80", Err("an IPv6 address and its port have a comma between them")),
            ("byaddr/localhost,80", Err("it is not ADDRESS,PORT")),
            ("byuid/1000", Ok(Name::Uid { uid: 1000, ports: 1..=511 })),
            ("byuid/!1000", Ok(Name::Uid { uid: 1000, ports: 512..=1023 })),
            ("byuid/alice", Err("it is not the number of a user")),
        ] {
            assert_eq!(name(&Path::new("/etc/authbind").join(path)), expected, "{path}");
        }
    }
}
