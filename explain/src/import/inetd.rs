//! inetd.conf, as Debian's openbsd-inetd reads it, or inetutils-inetd where that is installed.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use portgrant_protocol::service::Services;
use portgrant_protocol::{Message, Protocol};

use super::draft::Draft;
use super::server::{Listen, Place, Server, Way, port};
use super::{shown, text_of};

/// The dialect: for one `tcp` means IPv4 and IPv6, for the other only IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Openbsd,
    Inetutils,
}

impl Dialect {
    fn installed() -> Dialect {
        if Path::new("/usr/sbin/inetutils-inetd").exists() { Dialect::Inetutils } else { Dialect::Openbsd }
    }

    /// Address, protocol; the word has been stripped of its options.
    fn protocol(self, word: &str) -> Option<(Place, Protocol)> {
        let (protocol, family) = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)]
            .into_iter()
            .find_map(|(name, protocol)| Some((protocol, word.strip_prefix(name)?)))?;
        let v4 = Place::Address(Ipv4Addr::UNSPECIFIED.into());
        let place = match (self, family) {
            (Dialect::Openbsd, "" | "46") | (Dialect::Inetutils, "6") => Place::Dual,
            (Dialect::Inetutils, "") | (_, "4") => v4,
            (Dialect::Openbsd, "6") | (Dialect::Inetutils, "6only") => Place::V6Only,
            (Dialect::Openbsd | Dialect::Inetutils, _) => return None,
        };
        Some((place, protocol))
    }
}

/// Reads the file `path`.
pub(super) fn read(path: &Path, services: &Services, draft: &mut Draft) -> Result<(), Box<Message>> {
    let text = text_of(path)?;
    parse(&text, &shown(path), Dialect::installed(), services, draft);
    Ok(())
}

fn parse(text: &str, file: &str, dialect: Dialect, services: &Services, draft: &mut Draft) {
    let mut host = String::new();
    let mut found = false;
    for (number, line) in lines(text) {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let place = format!("{file}:{number}");
        if let [only] = words.as_slice()
            && let Some(address) = only.strip_suffix(':')
        {
            host = if address == "*" { String::new() } else { address.to_owned() };
            continue;
        }
        if words.len() < 6 {
            draft.leave_out(&place, "it has fewer than six words, so inetd ignores it too");
            continue;
        }
        let line = Line { words: &words, place: &place, host: &host, dialect, services };
        match line.server() {
            Ok(server) => {
                found |= server.obstacles.is_empty();
                draft.server(server);
            }
            Err(why) => draft.leave_out(&place, why),
        }
    }
    if found {
        draft.note(file, "the standard error of a program goes where that of portgrant goes, not to the client");
        draft.note(
            file,
            "inetd stops a service for ten minutes that starts too often in one; portgrant serves 40 connections at once, \
             and lets others wait (--max-conns, --max-rate)",
        );
        if dialect == Dialect::Openbsd {
            draft.note(file, "tcp and udp are read as openbsd-inetd reads them: for IPv4 and IPv6");
        }
    }
}

/// Lines with their numbers, without comments. A line that begins with a blank continues the one before.
fn lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.starts_with('#') || line.trim().is_empty() {
            continue;
        }
        match lines.last_mut() {
            Some((_, before)) if line.starts_with([' ', '\t']) => {
                before.push(' ');
                before.push_str(line.trim());
            }
            _ => lines.push((index + 1, line.trim().to_owned())),
        }
    }
    lines
}

struct Line<'a> {
    words: &'a [String],
    place: &'a str,
    /// The address of the services; empty for all addresses
    host: &'a str,
    dialect: Dialect,
    services: &'a Services,
}

impl Line<'_> {
    fn word(&self, number: usize) -> &str {
        self.words.get(number).map_or("", String::as_str)
    }

    fn server(&self) -> Result<Server, String> {
        let (hosts, service) = match self.word(0).rsplit_once(':') {
            Some((hosts, service)) => (hosts, service),
            None => (self.host, self.word(0)),
        };
        let mut protocol = self.word(2).split(',');
        let word = protocol.next().unwrap_or_default();
        if self.word(5) == "internal" {
            return Err(format!("inetd answers {service} itself, and portgrant has no services of its own"));
        }
        if word == "unix" {
            return Err("a Unix socket needs no portgrant: keep inetd for it, or use a systemd socket unit".to_owned());
        }
        if service.contains('/') || word.starts_with("rpc/") {
            return Err(format!("'{service}' of {word}: portgrant has no tcpmux and registers no RPC services"));
        }
        let kind = self.word(1);
        let (any, protocol_of) = self
            .dialect
            .protocol(word)
            .filter(|(_, protocol)| kind == if protocol.is_stream() { "stream" } else { "dgram" })
            .ok_or_else(|| format!("'{kind} {word}' is not a socket that portgrant binds"))?;
        let port = port(service, protocol_of, self.services)
            .ok_or_else(|| format!("'{service}' is not a port and not a service in /etc/services"))?;
        let mut server = Server::named(service, self.place.to_owned());
        let options: Vec<String> = protocol
            .filter_map(|option| {
                buffer(option).or_else(|| {
                    server.notes.push(format!("'{option}' of the socket is not taken over"));
                    None
                })
            })
            .collect();
        for host in hosts.split(',') {
            let place = match host {
                "" | "*" => any,
                host => match Place::parse(host) {
                    // Each of inetd's sockets is for one family.
                    Some(Place::Dual) => Place::V6Only,
                    Some(place) if is_of(place, any) => place,
                    Some(_) => return Err(format!("{word} is not for the address {host}")),
                    None => {
                        return Err(format!("'{host}' is the name of a host: write its address, and import it again"));
                    }
                },
            };
            server.listen.push(Listen { name: None, place, port, protocol: protocol_of, options: options.clone() });
        }
        server.way = self.way(protocol_of, &mut server.notes)?;
        self.user(&mut server);
        let argv = self.words.get(6..).unwrap_or_default();
        server.run(self.word(5), if argv.is_empty() { self.words.get(5..).unwrap_or_default() } else { argv });
        if self.words.iter().any(|word| word.contains(['"', '\''])) {
            server.note("a quotation mark is taken for a part of its word, as openbsd-inetd does");
        }
        if server.listen.len() > 1 && server.way == Way::Wait {
            server.obstacle("it has several addresses, and as a wait service portgrant hands over one socket: write a line for each");
        }
        Ok(server)
    }

    fn way(&self, protocol: Protocol, notes: &mut Vec<String>) -> Result<Way, String> {
        let word = self.word(3);
        let (wait, most) = word.split_once(['.', ':', '/']).map_or((word, None), |(wait, most)| (wait, Some(most)));
        if let Some(most) = most {
            notes.push(format!("'{most}' starts a minute have no equal; --max-rate counts connections a second"));
        }
        match (wait, protocol.is_stream()) {
            ("nowait", true) => Ok(Way::Accept),
            ("wait", true) => {
                notes.push(
                    "as a command it is started once; in the unit of --write it is started again for the next connection"
                        .to_owned(),
                );
                Ok(Way::Wait)
            }
            ("nowait", false) => {
                notes.push("for udp, one program runs at a time: nowait becomes wait".to_owned());
                Ok(Way::Accept)
            }
            ("wait", false) => Ok(Way::Accept),
            _ => Err(format!("'{word}' is neither wait nor nowait")),
        }
    }

    fn user(&self, server: &mut Server) {
        let word = self.word(4);
        let (user, group) = word.split_once([':', '.']).map_or((word, None), |(user, group)| (user, Some(group)));
        if let Some(group) = group {
            server.unit.push(format!("Group={group}"));
            server.note(format!("the group {group} is set by the unit of --write; --user sets the account's own"));
        }
        if user == "root" {
            server.note("it runs as root; if it needs no other privilege, give it a user of its own");
        }
        server.user = Some(user.to_owned());
    }
}

fn is_of(place: Place, any: Place) -> bool {
    match (place, any) {
        (_, Place::Dual) => true,
        (Place::Address(ip), Place::Address(_)) => ip.is_ipv4(),
        (Place::Address(ip), Place::V6Only) => ip.is_ipv6(),
        (Place::Dual | Place::V6Only, _) => !matches!(any, Place::Address(IpAddr::V4(_))),
    }
}

/// `rcvbuf=64k` as an endpoint has it.
fn buffer(option: &str) -> Option<String> {
    let (name, size) = option.split_once('=').filter(|(name, _)| matches!(*name, "rcvbuf" | "sndbuf"))?;
    let (digits, factor) = match size.as_bytes().last()? {
        b'k' => (size.get(..size.len() - 1)?, 1024),
        b'm' => (size.get(..size.len() - 1)?, 1024 * 1024),
        _ => (size, 1),
    };
    let bytes = digits.parse::<u32>().ok()?.checked_mul(factor)?;
    Some(format!("{name}={bytes}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICES: &[u8] = b"ftp 21/tcp\ntelnet 23/tcp\ntftp 69/udp\nlogin 513/tcp\necho 7/tcp\n";

    fn of(text: &str, dialect: Dialect) -> Draft {
        let mut draft = Draft::default();
        parse(text, "inetd.conf", dialect, &Services::parse(SERVICES), &mut draft);
        draft
    }

    #[test]
    fn a_line_becomes_a_rule_and_a_command() {
        for (line, rule, command) in [
            (
                "ftp stream tcp nowait ftpd /usr/sbin/in.ftpd in.ftpd -l",
                "permit ftpd 21 on [::]",
                "portgrant exec --user ftpd -l 21 --accept -- /usr/sbin/in.ftpd -l",
            ),
            (
                "telnet stream tcp nowait root /usr/sbin/tcpd in.telnetd",
                "permit root 23 on [::]",
                "portgrant exec -l 23 --accept --argv0 in.telnetd -- /usr/sbin/tcpd",
            ),
            (
                "127.0.0.1:ftp stream tcp4,rcvbuf=64k nowait.60 ftpd:staff /usr/sbin/in.ftpd",
                "permit ftpd 21 on 127.0.0.1",
                "portgrant exec --user ftpd -l 127.0.0.1:21,rcvbuf=65536 --accept -- /usr/sbin/in.ftpd",
            ),
            (
                "tftp dgram udp6 wait nobody /usr/sbin/in.tftpd in.tftpd '/srv/tftp'",
                "permit nobody 69/udp on [::]/0",
                "portgrant exec --user nobody -l '[::]:69/udp,v6only' --accept -- /usr/sbin/in.tftpd \"'/srv/tftp'\"",
            ),
            (
                "login stream tcp wait 1000 /bin/x x",
                "permit uid:1000 513 on [::] reserved",
                "portgrant exec --user 1000 -l 513 --inetd --wait -- /bin/x",
            ),
        ] {
            let draft = of(line, Dialect::Openbsd);
            assert_eq!(draft.rules.iter().map(|(_, rule)| rule.as_str()).collect::<Vec<_>>(), [rule]);
            assert_eq!(draft.servers.iter().map(Server::command).collect::<Vec<_>>(), [command]);
            assert!(!draft.left_something_out());
        }
    }

    #[test]
    fn tcp_means_ipv4_only_for_inetutils() {
        let line = "ftp stream tcp nowait ftp /bin/x x\ntelnet stream tcp6only nowait ftp /bin/x x\n";
        let draft = of(line, Dialect::Inetutils);
        let rules: Vec<&str> = draft.rules.iter().map(|(_, rule)| rule.as_str()).collect();
        assert_eq!(rules, ["permit ftp 21 on 0.0.0.0", "permit ftp 23 on [::]/0"]);
    }

    #[test]
    fn a_line_with_only_an_address_applies_to_the_lines_below() {
        let text = "10.0.0.1:\nftp stream tcp nowait a /bin/x x\n*:\nftp stream tcp nowait a /bin/x\n\t-v\n#ftp\n";
        let draft = of(text, Dialect::Openbsd);
        let rules: Vec<&str> = draft.rules.iter().map(|(_, rule)| rule.as_str()).collect();
        assert_eq!(rules, ["permit a 21 on 10.0.0.1", "permit a 21 on [::]"]);
        assert_eq!(draft.servers.last().map(|server| server.place.as_str()), Some("inetd.conf:4"));
    }

    #[test]
    fn an_inetd_line_without_an_equivalent_is_left_out_and_reported() {
        for (line, why) in [
            ("echo stream tcp nowait root internal", "inetd answers echo itself"),
            ("rstatd/1-3 dgram rpc/udp wait root /usr/sbin/rpc.rstatd rpc.rstatd", "registers no RPC"),
            ("tcpmux/+date stream tcp nowait guest /bin/date date", "no tcpmux"),
            ("/run/x stream unix nowait root /bin/x x", "a Unix socket needs no portgrant"),
            ("nope stream tcp nowait root /bin/x x", "'nope' is not a port"),
            ("localhost:ftp stream tcp nowait root /bin/x x", "the name of a host"),
            ("ftp stream tcp sometimes root /bin/x x", "neither wait nor nowait"),
            ("ftp dgram tcp wait root /bin/x x", "'dgram tcp' is not a socket"),
            ("ftp stream", "fewer than six words"),
            ("[::1]:ftp stream tcp4 nowait root /bin/x x", "tcp4 is not for the address [::1]"),
        ] {
            let draft = of(line, Dialect::Openbsd);
            assert!(draft.rules.is_empty() && draft.servers.is_empty() && draft.left_something_out(), "{line}");
            assert!(draft.text("inetd").contains(why), "{line}: {}", draft.text("inetd"));
        }
    }
}
