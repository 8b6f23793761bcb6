//! One server as a super-server or a unit starts it: its user, its sockets and its command; and its rules, command and
//! unit for portgrant.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portgrant_protocol::{Port, Protocol};

use super::quote;

/// Ports for which a rule must say `reserved`.
const TRUSTED: std::ops::RangeInclusive<u16> = 512..=1023;

/// Where a socket is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// `[::]`, for IPv4 as well
    Dual,
    /// `[::]` alone
    V6Only,
    /// An address; 0.0.0.0 is the wildcard of IPv4
    Address(IpAddr),
}

/// A socket that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listen {
    pub(super) name: Option<String>,
    pub(super) place: Place,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
    /// As an endpoint has them: `backlog=5`
    pub(super) options: Vec<String>,
}

/// How the program gets its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// A program for each connection; for udp a program while datagrams wait
    Accept,
    /// The listening socket as descriptor 0, from the first connection on, and again after the program has ended
    Wait,
    /// The same, at once
    Inetd,
    /// From descriptor 3 on, at once
    Listen,
}

/// A server that was found.
#[derive(Debug)]
pub(super) struct Server {
    /// The unit's name, without `.service`
    pub(super) name: String,
    /// `FILE:LINE`
    pub(super) place: String,
    /// A name, or the number of an account; none if that is not known
    pub(super) user: Option<String>,
    pub(super) listen: Vec<Listen>,
    pub(super) way: Way,
    /// Further options of `portgrant exec`
    pub(super) options: Vec<String>,
    pub(super) argv0: Option<String>,
    pub(super) program: Vec<String>,
    /// Lines of `[Service]` besides User= and ExecStart=
    pub(super) unit: Vec<String>,
    /// Whether systemd must ignore a failure of the command
    pub(super) may_fail: bool,
    /// The name of the existing unit, if only a drop-in for it is needed
    pub(super) drop_in: Option<String>,
    /// Differences, as remarks
    pub(super) notes: Vec<String>,
    /// Settings without an equivalent, without which the server would permit more
    pub(super) obstacles: Vec<String>,
}

impl Place {
    /// `on …` in a rule: no more than this socket.
    fn on(self) -> String {
        match self {
            Place::Dual => "[::]".to_owned(),
            Place::V6Only => "[::]/0".to_owned(),
            Place::Address(IpAddr::V4(ip)) => ip.to_string(),
            Place::Address(IpAddr::V6(ip)) => format!("[{ip}]"),
        }
    }

    /// Reads an address as super-servers write it: with brackets or without.
    pub(super) fn parse(word: &str) -> Option<Place> {
        if word == "*" {
            return Some(Place::Address(Ipv4Addr::UNSPECIFIED.into()));
        }
        let bare = word.strip_prefix('[').and_then(|word| word.strip_suffix(']')).unwrap_or(word);
        let address: IpAddr = bare.parse().ok()?;
        Some(if address == IpAddr::V6(Ipv6Addr::UNSPECIFIED) { Place::Dual } else { Place::Address(address) })
    }
}

impl Listen {
    /// The endpoint for `-l`.
    fn endpoint(&self) -> String {
        let mut text = self.name.as_ref().map(|name| format!("{name}=")).unwrap_or_default();
        match self.place {
            Place::Dual => {}
            Place::V6Only => text += "[::]:",
            Place::Address(IpAddr::V4(ip)) => {
                let _ = write!(text, "{ip}:");
            }
            Place::Address(IpAddr::V6(ip)) => {
                let _ = write!(text, "[{ip}]:");
            }
        }
        let _ = write!(text, "{}", self.port);
        if self.protocol != Protocol::Tcp {
            let _ = write!(text, "/{}", self.protocol.word());
        }
        if self.place == Place::V6Only {
            text += ",v6only";
        }
        for option in &self.options {
            let _ = write!(text, ",{option}");
        }
        text
    }

    fn rule(&self, user: &str) -> String {
        let mut text = format!("permit {} {}", subject(user), self.port);
        if self.protocol.transport() != Protocol::Tcp {
            let _ = write!(text, "/{}", self.protocol.word());
        }
        let _ = write!(text, " on {}", self.place.on());
        if let Some(device) = self.options.iter().find_map(|option| option.strip_prefix("dev=")) {
            let _ = write!(text, " dev {device}");
        }
        if TRUSTED.contains(&self.port) {
            text += " reserved";
        }
        for word in ["reuseport", "freebind"] {
            if self.options.iter().any(|option| option == word) {
                let _ = write!(text, " {word}");
            }
        }
        text
    }
}

/// A user in a rule.
pub(super) fn subject(user: &str) -> String {
    if user.bytes().all(|byte| byte.is_ascii_digit()) { format!("uid:{user}") } else { user.to_owned() }
}

impl Server {
    /// A server with this name and place, and nothing else yet.
    pub(super) fn named(name: &str, place: String) -> Server {
        Server {
            name: name.to_owned(),
            place,
            user: None,
            listen: Vec::new(),
            way: Way::Accept,
            options: Vec::new(),
            argv0: None,
            program: Vec::new(),
            unit: Vec::new(),
            may_fail: false,
            drop_in: None,
            notes: Vec::new(),
            obstacles: Vec::new(),
        }
    }

    pub(super) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    pub(super) fn obstacle(&mut self, text: impl Into<String>) {
        self.obstacles.push(text.into());
    }

    /// Sets the command from an argv of inetd. Its first word is argv0, which is kept if it differs from the program's
    /// name.
    pub(super) fn run(&mut self, path: &str, argv: &[String]) {
        let name = argv.first().map_or(path, String::as_str);
        let last = path.rsplit('/').next().unwrap_or(path);
        self.argv0 = (name != path && name != last).then(|| name.to_owned());
        self.program = [path.to_owned()].into_iter().chain(argv.iter().skip(1).cloned()).collect();
    }

    /// The rules that `user` needs, and nothing more.
    pub(super) fn rules(&self, user: &str) -> Vec<String> {
        self.listen.iter().map(|listen| listen.rule(user)).collect()
    }

    /// The command for root.
    pub(super) fn command(&self) -> String {
        let mut words: Vec<String> = ["portgrant", "exec"].map(str::to_owned).into();
        words.extend(
            self.user.iter().filter(|user| *user != "root").flat_map(|user| ["--user".to_owned(), user.clone()]),
        );
        words.extend(self.arguments());
        quote::shell(&words)
    }

    /// `portgrant exec` and its options, for a unit whose command stays the same.
    pub(super) fn before_the_program(&self) -> String {
        let words = ["portgrant", "exec"].map(str::to_owned).into_iter().chain(self.options()).collect::<Vec<_>>();
        quote::unit(&words)
    }

    /// The arguments of `portgrant exec`, without the user.
    fn arguments(&self) -> Vec<String> {
        self.options().into_iter().chain(self.program.iter().cloned()).collect()
    }

    fn options(&self) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        words.extend(self.listen.iter().flat_map(|listen| ["-l".to_owned(), listen.endpoint()]));
        let way: &[&str] = match self.way {
            Way::Accept => &["--accept"],
            Way::Wait => &["--inetd", "--wait"],
            Way::Inetd => &["--inetd"],
            Way::Listen => &[],
        };
        words.extend(way.iter().map(|word| (*word).to_owned()));
        words.extend(self.options.iter().cloned());
        words.extend(self.argv0.iter().flat_map(|name| ["--argv0".to_owned(), name.clone()]));
        words.push("--".to_owned());
        words
    }

    /// The unit, or the drop-in for the existing one: names below the folder, and contents.
    pub(super) fn unit_files(&self) -> Vec<(String, String)> {
        let command: Vec<String> =
            ["portgrant".to_owned(), "exec".to_owned()].into_iter().chain(self.arguments()).collect();
        let start = format!("ExecStart={}{}\n", if self.may_fail { "-" } else { "" }, quote::unit(&command));
        let lines: String = self.unit.iter().map(|line| format!("{line}\n")).collect();
        // Where the program ends, the next connection starts it again, as often as systemd.socket(5) starts a service.
        let waits = self.way == Way::Wait;
        let limit = if waits { "StartLimitIntervalSec=2\nStartLimitBurst=20\n" } else { "" };
        let again = if waits { "Restart=always\nRestartSec=0\n" } else { "" };
        if let Some(unit) = &self.drop_in {
            let limit = if waits { format!("[Unit]\n{limit}") } else { String::new() };
            let content = format!("# {}\n{limit}[Service]\nExecStart=\n{start}{again}{lines}", self.place);
            return vec![(format!("{unit}.d/portgrant.conf"), content)];
        }
        let user = self.user.as_ref().map(|user| format!("User={user}\n")).unwrap_or_default();
        let restart = if waits { again } else { "Restart=on-failure\n" };
        let content = format!(
            "# {}\n[Unit]\nDescription={}\nAfter=network.target\n{limit}\n[Service]\n{user}{start}{restart}{lines}\n\
             [Install]\nWantedBy=multi-user.target\n",
            self.place, self.name
        );
        vec![(format!("{}.service", self.name), content)]
    }
}

/// `only_from`, `IPAddressAllow=` and their like: the option for each prefix.
pub(super) fn prefixes(option: &str, prefixes: impl IntoIterator<Item = String>) -> impl Iterator<Item = String> {
    prefixes.into_iter().flat_map(move |prefix| [option.to_owned(), prefix])
}

/// The port that a number or the name of a service stands for.
pub(super) fn port(word: &str, protocol: Protocol, services: &portgrant_protocol::service::Services) -> Option<u16> {
    Port::parse(word).or_else(|| services.port(word, protocol)).map(Port::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_permits_exactly_one_socket() {
        let listen = |place, port, options: &[&str]| Listen {
            name: None,
            place,
            port,
            protocol: Protocol::Tcp,
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        let one: IpAddr = "127.0.0.1".parse().expect("an address");
        for (socket, endpoint, rule) in [
            (listen(Place::Dual, 21, &[]), "21", "permit ftp 21 on [::]"),
            (listen(Place::V6Only, 21, &[]), "[::]:21,v6only", "permit ftp 21 on [::]/0"),
            (
                listen(Place::Address(one), 600, &["backlog=5"]),
                "127.0.0.1:600,backlog=5",
                "permit ftp 600 on 127.0.0.1 reserved",
            ),
            (
                listen(Place::Dual, 80, &["reuseport", "dev=lo"]),
                "80,reuseport,dev=lo",
                "permit ftp 80 on [::] dev lo reuseport",
            ),
        ] {
            assert_eq!((socket.endpoint().as_str(), socket.rule("ftp").as_str()), (endpoint, rule));
        }
        assert_eq!(subject("1000"), "uid:1000");
    }
}
