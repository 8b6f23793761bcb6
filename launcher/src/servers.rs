//! How each known server accepts a socket that it did not bind. `portgrant recipe` prints this table, and
//! `portgrant exec --as SERVER` follows it. Its source is `servers/table.toml`, which build/servers.rs turns into
//! constants.

use std::net::SocketAddr;
use std::os::fd::RawFd;

use clap::builder::{PossibleValue, PossibleValuesParser};
use portgrant_server::Message;

/// A server, and how it takes sockets.
#[derive(Debug)]
pub(crate) struct Server {
    /// Its name
    pub(crate) name: &'static str,
    /// Its other names
    pub(crate) aliases: &'static [&'static str],
    /// How it takes sockets, in one sentence without its subject
    pub(crate) takes: &'static str,
    /// How `--as` passes the sockets
    pub(crate) adoption: Adoption,
    /// The sockets that it can serve on
    pub(crate) serves: Serves,
    /// The account that the package made for it
    pub(crate) user: Option<&'static str>,
    /// The command for `portgrant exec`
    pub(crate) exec: Option<&'static str>,
    /// The command for a process for each connection
    pub(crate) accept: Option<&'static str>,
    /// The command for kernel mode and for `portgrant run --`
    pub(crate) run: Option<&'static str>,
    /// The server's own command that reloads its configuration
    pub(crate) reload: Option<&'static str>,
    /// Its files: name and content
    pub(crate) files: &'static [(&'static str, &'static str)],
    /// What signals do, one sentence each
    pub(crate) signals: &'static [&'static str],
    /// Pitfalls and other notes
    pub(crate) notes: &'static [&'static str],
    /// The first version that can do it
    pub(crate) since: &'static str,
    /// The versions that tests/servers started by this recipe; empty if it started none
    pub(crate) tried: &'static str,
}

/// Every server, in the order of the table.
const SERVERS: &[Server] = include!(concat!(env!("OUT_DIR"), "/servers.rs"));

/// How sockets reach a program. Each socket is announced in one way only: gunicorn fails if a socket is announced
/// twice, and other servers may keep an unused copy open.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Adoption {
    /// From descriptor 3 on, announced by LISTEN_*
    ListenFds,
    /// From descriptor 3 on, announced by the server's own variable instead
    Variable(Variable),
    /// From descriptor 3 on, announced by the number in an argument, as in this sample
    Argument(&'static str),
    /// The one socket as descriptors 0 and 1, inetd's `wait`
    Standard,
    /// The same, with /dev/null at 3
    StandardParked,
    /// One connection as descriptors 0 and 1, inetd's `nowait`
    Connection,
    /// Not at all: the server binds its own sockets
    Never,
}

/// A server's own variable. In `entry`, `FD` stands for the number, `ADDRESS` for `127.0.0.1` or `[::1]`, `BARE` for
/// the address without brackets, `PORT` for the port.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Variable {
    /// Its name
    pub(crate) name: &'static str,
    /// Its text for each socket
    pub(crate) entry: &'static str,
    /// How the entries of several sockets are joined
    pub(crate) joined: Joined,
}

/// How the entries of several sockets are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joined {
    /// In one variable, separated by this text
    By(&'static str),
    /// In one variable for each socket; the names end in 0, 1, …
    Numbered,
}

/// Which sockets a server can serve on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serves {
    /// Any
    Any,
    /// Stream sockets
    Streams,
    /// One stream socket
    OneStream,
    /// IPv4 stream sockets
    Ipv4Streams,
}

/// A socket of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) name: String,
    pub(crate) number: RawFd,
    pub(crate) local: SocketAddr,
}

impl Server {
    /// Whether there is a way to start it.
    pub(crate) fn is_startable(&self) -> bool {
        self.exec.is_some() || self.accept.is_some() || self.run.is_some()
    }
}

impl Variable {
    /// The variables that announce `descriptors`: names and values.
    pub(crate) fn announce(&self, descriptors: &[Descriptor]) -> Vec<(String, String)> {
        let entries = descriptors.iter().map(|descriptor| self.entry_of(descriptor));
        match self.joined {
            Joined::By(between) => vec![(self.name.to_owned(), entries.collect::<Vec<_>>().join(between))],
            Joined::Numbered => (0..).zip(entries).map(|(n, entry)| (format!("{}{n}", self.name), entry)).collect(),
        }
    }

    /// Whether `name` is this variable, or one of its numbered ones.
    pub(crate) fn is_named(&self, name: &[u8]) -> bool {
        name.strip_prefix(self.name.as_bytes()).is_some_and(|number| match self.joined {
            Joined::By(_) => number.is_empty(),
            Joined::Numbered => !number.is_empty() && number.iter().all(u8::is_ascii_digit),
        })
    }

    fn entry_of(&self, descriptor: &Descriptor) -> String {
        let bare = descriptor.local.ip().to_string();
        let address = if descriptor.local.is_ipv6() { format!("[{bare}]") } else { bare.clone() };
        let entry = self.entry.replace("FD", &descriptor.number.to_string());
        entry.replace("ADDRESS", &address).replace("BARE", &bare).replace("PORT", &descriptor.local.port().to_string())
    }
}

/// Every server.
pub(crate) fn servers() -> impl Iterator<Item = &'static Server> {
    SERVERS.iter()
}

/// The server with this name or alias.
pub(crate) fn named(name: &str) -> Option<&'static Server> {
    servers().find(|server| server.name == name || server.aliases.contains(&name))
}

/// The server names that clap accepts and completions offer.
pub(crate) fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(servers().map(|server| PossibleValue::new(server.name).aliases(server.aliases)))
}

/// The same for `--as`. Servers that accept no socket are parsed, for a clear message, but not offered.
pub(crate) fn names_to_follow() -> PossibleValuesParser {
    let never = |server: &Server| matches!(server.adoption, Adoption::Never);
    let value = |server: &'static Server| PossibleValue::new(server.name).aliases(server.aliases).hide(never(server));
    PossibleValuesParser::new(servers().map(value))
}

/// The message if there is no recipe for `word`, which is printable.
pub(crate) fn no_recipe(word: &str) -> Message {
    let message = Message::new(format!("there is no recipe for '{word}'"));
    match nearest(word) {
        Some(name) => message.fix(format!("write {name}; or see portgrant recipe for the list")),
        None => message.why("portgrant recipe lists the servers that it knows").fix(
            "try portgrant run if the server binds its port itself; portgrant exec --accept if a connection is its standard \
             input; portgrant recipe systemd, inetd or python for what other servers take; or portgrant-kernel(8), under \
             which every bind(2) is decided by the policy",
        ),
    }
}

/// The message if `word` of `--as` is not a known server. It is printable.
pub(crate) fn unknown(word: &str) -> Message {
    let known = format!("portgrant recipe lists the {} servers that it knows", SERVERS.len());
    let message = Message::new(format!("'{word}' is not a server that portgrant knows")).why(known);
    match nearest(word) {
        Some(name) => message.fix(format!("write --as {name}")),
        None => {
            message.fix("leave out --as (for a server that takes LISTEN_FDS); or see portgrant recipe for the list")
        }
    }
}

/// The known server whose name is most similar to `word`, if any is similar.
fn nearest(word: &str) -> Option<&'static str> {
    let names = || servers().flat_map(|server| [server.name].into_iter().chain(server.aliases.iter().copied()));
    let likeness = |name: &&str| strsim::jaro_winkler(&word.to_lowercase(), name);
    names().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).filter(|name| likeness(name) > 0.75)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_or_alias_belongs_to_two_servers() {
        let mut words: Vec<&str> =
            servers().flat_map(|s| [s.name].into_iter().chain(s.aliases.iter().copied())).collect();
        let count = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), count);
    }

    #[test]
    fn a_server_is_found_by_its_names_and_a_near_name_is_suggested() {
        assert_eq!(named("exim4").map(|server| server.name), Some("exim"));
        assert!(named("Exim").is_none());
        for (word, nearest) in
            [("ngnix", "nginx"), ("Gunicorn", "gunicorn"), ("phpfpm", "php-fpm"), ("apache", "apache2")]
        {
            let message = unknown(word);
            assert!(message.fix.is_some_and(|fix| fix == format!("write --as {nearest}")), "{word}");
        }
        let message = unknown("zzz");
        assert!(
            !message.to_string().contains("write --as") && message.to_string().contains("portgrant recipe lists"),
            "{message}"
        );
    }

    #[test]
    fn variables_have_the_form_that_their_servers_read() {
        let at = |name: &str, number, local: &str| Descriptor {
            name: name.to_owned(),
            number,
            local: local.parse().expect("an address"),
        };
        let both = [at("a", 3, "127.0.0.1:80"), at("b", 4, "[::1]:443")];
        let expected = [
            ("nginx", "NGINX=3;4;"),
            ("php-fpm", "FPM_SOCKETS=127.0.0.1:80=3,::1:443=4"),
            ("unicorn", "UNICORN_FD=3,4"),
            ("server-starter", "SERVER_STARTER_PORT=127.0.0.1:80=3;[::1]:443=4"),
            ("puma", "PUMA_INHERIT_0=3:tcp://127.0.0.1:80 PUMA_INHERIT_1=4:tcp://[::1]:443"),
        ];
        for (name, text) in expected {
            let Some(Adoption::Variable(variable)) = named(name).map(|server| server.adoption) else {
                panic!("{name}")
            };
            let written: Vec<String> = variable.announce(&both).iter().map(|(n, v)| format!("{n}={v}")).collect();
            assert_eq!(written.join(" "), text);
            assert!(variable.announce(&both).iter().all(|(name, _)| variable.is_named(name.as_bytes())));
        }
    }
}
