//! xinetd.conf and the files that it includes, as xinetd 2.3.15 reads them.

mod clients;
mod entry;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use portgrant_protocol::service::Services;
use portgrant_protocol::{Message, Protocol};

use super::draft::Draft;
use super::server::{Listen, Place, Server, Way, port, prefixes};
use super::shown;
use entry::{Configuration, Entry, Value};

/// xinetd's default: 50 connections a second, then a pause of 10 seconds.
const CPS: &str = "50:10";
/// The access files of TCP wrappers, which xinetd and tcpd read.
const WRAPPERS: [&str; 2] = ["/etc/hosts.allow", "/etc/hosts.deny"];

/// Reads the file `path`, and what it includes.
pub(super) fn read(path: &Path, services: &Services, draft: &mut Draft) -> Result<(), Box<Message>> {
    let configuration = Configuration::read(path, draft)?;
    let is_wrapped = WRAPPERS.iter().any(|file| std::fs::read_to_string(file).is_ok_and(|text| has_rules(&text)));
    convert(&configuration, &shown(path), is_wrapped, services, draft);
    Ok(())
}

fn has_rules(text: &str) -> bool {
    text.lines().any(|line| !line.trim().is_empty() && !line.starts_with('#'))
}

fn convert(configuration: &Configuration, file: &str, is_wrapped: bool, services: &Services, draft: &mut Draft) {
    let mut found = false;
    for entry in configuration.enabled() {
        let service = Service { entry, is_wrapped, services };
        match service.server() {
            Ok(server) => {
                found |= server.obstacles.is_empty();
                draft.server(server);
            }
            Err(why) => draft.leave_out(&entry.place, why),
        }
    }
    if found {
        draft.note(file, "the standard error of a program goes where that of portgrant goes, not to the client");
        draft.note(file, "connections beyond instances and cps wait; xinetd closes them");
    }
}

struct Service<'a> {
    entry: &'a Entry,
    is_wrapped: bool,
    services: &'a Services,
}

impl Service<'_> {
    fn server(&self) -> Result<Server, String> {
        let entry = self.entry;
        let kinds = entry.words("type");
        if let Some(kind) = kinds.iter().find(|kind| *kind != "UNLISTED") {
            let what = match kind.as_str() {
                "INTERNAL" => "xinetd answers it itself, and portgrant has no services of its own",
                "RPC" => "portgrant registers no RPC services",
                _ => "portgrant has no tcpmux",
            };
            return Err(format!("type = {kind}: {what}"));
        }
        if entry.one("redirect").is_some() {
            return Err("redirect has no equal in portgrant: use systemd-socket-proxyd(8) or haproxy".to_owned());
        }
        let protocol = match (entry.one("socket_type"), entry.one("protocol")) {
            (Some("stream"), None | Some("tcp")) | (None, Some("tcp")) => Protocol::Tcp,
            (Some("dgram"), None | Some("udp")) | (None, Some("udp")) => Protocol::Udp,
            (Some("stream"), Some("sctp")) => Protocol::Sctp,
            (kind, protocol) => {
                let words = [kind, protocol].into_iter().flatten().collect::<Vec<_>>().join(" ");
                return Err(format!("'{words}' is not a socket that portgrant binds"));
            }
        };
        let number = entry.one("port").unwrap_or(&entry.name);
        let port = port(number, protocol, self.services)
            .ok_or_else(|| format!("'{number}' is not a port and not a service in /etc/services"))?;
        let mut server = Server::named(entry.one("id").unwrap_or(&entry.name), entry.place.clone());
        let mut options = Vec::new();
        self.flags(&mut server, &mut options, protocol);
        let place = self.place()?;
        server.listen.push(Listen { name: None, place, port, protocol, options });
        server.way = match (entry.one("wait"), protocol) {
            (Some("no"), Protocol::Tcp | Protocol::Sctp | Protocol::Mptcp) | (Some("yes"), Protocol::Udp) => {
                Way::Accept
            }
            (Some("yes"), _) => Way::Wait,
            (Some("no"), Protocol::Udp) => {
                server.note("for udp, one program runs at a time: wait = no becomes yes");
                Way::Accept
            }
            _ => return Err("wait is neither yes nor no".to_owned()),
        };
        self.user(&mut server)?;
        self.program(&mut server)?;
        self.clients(&mut server);
        self.limits(&mut server);
        self.environment(&mut server);
        self.rest(&mut server);
        Ok(server)
    }

    fn place(&self) -> Result<Place, String> {
        let flags = self.entry.words("flags");
        let has = |flag: &str| flags.iter().any(|word| word.eq_ignore_ascii_case(flag));
        match self.entry.one("bind").or_else(|| self.entry.one("interface")) {
            Some(word) => match Place::parse(word) {
                Some(Place::Address(IpAddr::V4(ip))) => Ok(Place::Address(ip.into())),
                Some(place) if !has("IPv4") || has("IPv6") => Ok(place),
                Some(_) => Err(format!("bind = {word} is not for the flag IPv4")),
                None => Err(format!("'{word}' is the name of a host: write its address, and import it again")),
            },
            None if has("IPv4") && !has("IPv6") => Ok(Place::Address(Ipv4Addr::UNSPECIFIED.into())),
            None if self.entry.one("v6only") == Some("yes") => Ok(Place::V6Only),
            None => Ok(Place::Dual),
        }
    }

    fn flags(&self, server: &mut Server, options: &mut Vec<String>, protocol: Protocol) {
        for flag in self.entry.words("flags") {
            match flag.to_ascii_uppercase().as_str() {
                "IPV4" | "IPV6" | "REUSE" | "NAMEINARGS" | "NOLIBWRAP" => {}
                "KEEPALIVE" if protocol == Protocol::Tcp => options.push("keepalive".to_owned()),
                "KEEPALIVE" => {}
                "NODELAY" => {
                    server
                        .note("the flag NODELAY has no equal: the program sets TCP_NODELAY by itself, if it needs it");
                }
                "NORETRY" => {
                    server.note("the flag NORETRY has no equal: portgrant tries again as soon as a program ends");
                }
                "IDONLY" => server.obstacle("the flag IDONLY has no equal: portgrant does not ask ident servers"),
                "INTERCEPT" => {
                    server.obstacle("the flag INTERCEPT has no equal: a program with its own socket is not watched");
                }
                "SENSOR" => server.obstacle("the flag SENSOR has no equal: it is a trap, not a service"),
                other => server.obstacle(format!("the flag {other} has no equal")),
            }
        }
    }

    fn user(&self, server: &mut Server) -> Result<(), String> {
        let user = self.entry.one("user").ok_or("it has no user, so xinetd does not start it either")?;
        if user == "root" {
            server.note("it runs as root; if it needs no other privilege, give it a user of its own");
        }
        if let Some(group) = self.entry.one("group") {
            server.unit.push(format!("Group={group}"));
            server.note(format!("the group {group} is set by the unit of --write; --user sets the account's own"));
        }
        if self.entry.one("groups") != Some("yes") {
            server.note("groups = no has no equal: the program has the supplementary groups of its user");
        }
        server.user = Some(user.to_owned());
        Ok(())
    }

    fn program(&self, server: &mut Server) -> Result<(), String> {
        let path = self.entry.one("server").ok_or("it has no server, so xinetd does not start it either")?;
        let words = self.entry.words("server_args");
        let flags = self.entry.words("flags");
        let has = |flag: &str| flags.iter().any(|word| word.eq_ignore_ascii_case(flag));
        let argv: Vec<String> = if has("NAMEINARGS") {
            words
        } else {
            let name = path.rsplit('/').next().unwrap_or(path).to_owned();
            [name].into_iter().chain(words).collect()
        };
        server.run(path, &argv);
        let is_tcpd = path.rsplit('/').next() == Some("tcpd");
        if self.is_wrapped && !has("NOLIBWRAP") && !is_tcpd {
            // tcpd looks up the name in these files, and executes it if it is a path.
            let name = self.entry.one("libwrap").filter(|name| Some(*name) != path.rsplit('/').next());
            if let Some(name) = name {
                server.obstacle(format!("libwrap = {name}: tcpd(8) looks for the name of the program in hosts.allow"));
            }
            server.argv0 = Some(path.to_owned());
            if let Some(program) = server.program.first_mut() {
                "/usr/sbin/tcpd".clone_into(program);
            }
            server.note("hosts.allow and hosts.deny count by way of tcpd: install the package tcpd");
        }
        Ok(())
    }

    fn clients(&self, server: &mut Server) {
        let (only_from, no_access) = (self.entry.value("only_from"), self.entry.value("no_access"));
        let is_stream = server.listen.iter().all(|listen| listen.protocol.is_stream()) && server.way == Way::Accept;
        if (only_from.is_some() || no_access.is_some()) && !is_stream {
            let text = "only_from and no_access have no equal for a program that has the socket itself";
            return server.obstacle(text);
        }
        if let Some(Value { words, .. }) = only_from {
            let (known, unknown) = clients::of(words);
            for word in unknown {
                server.note(format!(
                    "only_from = {word} is a name, and names are not looked up: it is not allowed any more"
                ));
            }
            if known.is_empty() {
                return server.obstacle("only_from allows no client that portgrant can allow");
            }
            server.options.extend(prefixes("--allow", known));
        }
        if let Some(Value { words, .. }) = no_access {
            let (known, unknown) = clients::of(words);
            for word in unknown {
                server.obstacle(format!("no_access = {word} is a name, and names are not looked up: write addresses"));
            }
            server.options.extend(prefixes("--deny", known));
        }
    }

    fn limits(&self, server: &mut Server) {
        if server.way != Way::Accept || server.listen.iter().any(|listen| !listen.protocol.is_stream()) {
            return;
        }
        match self.entry.one("instances") {
            Some(number) if number.parse::<u32>().is_ok_and(|number| number > 0) => {
                server.options.extend(["--max-conns".to_owned(), number.to_owned()]);
            }
            _ => server.note("instances is unlimited: portgrant serves 40 connections at once (--max-conns)"),
        }
        if let Some(number) = self.entry.one("per_source").filter(|number| number.parse::<u32>().is_ok_and(|n| n > 0)) {
            server.options.extend(["--max-per-source".to_owned(), number.to_owned()]);
            server.note("per_source counts an IPv6 /64 as one source");
        }
        let rate = match self.entry.words("cps").as_slice() {
            [rate, rest] => format!("{rate}:{rest}"),
            _ => CPS.to_owned(),
        };
        if !rate.starts_with("0:") {
            server.options.extend(["--max-rate".to_owned(), rate]);
        }
    }

    fn environment(&self, server: &mut Server) {
        for setting in self.entry.words("env") {
            server.options.extend(["--setenv".to_owned(), setting]);
        }
        if self.entry.value("passenv").is_some() {
            server
                .note("passenv has no equal: the program has portgrant's environment; start it by env -i to clear it");
        }
    }

    fn rest(&self, server: &mut Server) {
        for (name, value) in &self.entry.values {
            let words = value.words.join(" ");
            let in_unit = |key: &str| format!("{key}={words}");
            match name.as_str() {
                "nice" => server.unit.push(in_unit("Nice")),
                "umask" => server.unit.push(in_unit("UMask")),
                "rlimit_as" => server.unit.push(in_unit("LimitAS")),
                "rlimit_cpu" => server.unit.push(in_unit("LimitCPU")),
                "rlimit_data" => server.unit.push(in_unit("LimitDATA")),
                "rlimit_files" => server.unit.push(in_unit("LimitNOFILE")),
                "rlimit_rss" => server.unit.push(in_unit("LimitRSS")),
                "rlimit_stack" => server.unit.push(in_unit("LimitSTACK")),
                "access_times" => server.obstacle("access_times has no equal"),
                "max_load" => server.note("max_load has no equal"),
                "banner" | "banner_success" | "banner_fail" => {
                    server.note(format!("{name} has no equal: the program writes what its client reads"));
                }
                "log_type" | "log_on_success" | "log_on_failure" => {
                    server.note("the log has no equal: portgrant -v prints a line for each connection");
                }
                // What is looked for above, and what means nothing by itself.
                "type" | "redirect" | "socket_type" | "protocol" | "port" | "id" | "bind" | "interface" | "v6only"
                | "flags" | "wait" | "user" | "group" | "groups" | "server" | "server_args" | "libwrap"
                | "only_from" | "no_access" | "instances" | "per_source" | "cps" | "env" | "passenv" | "disable"
                | "deny_time" | "mdns" => {}
                other => server.obstacle(format!("'{other}' is not an attribute that is known here")),
            }
        }
        if !server.unit.is_empty() {
            let lines = server.unit.join(", ");
            server.note(format!("{lines}: the unit of --write sets this, and the command does not"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICES: &[u8] = b"ftp 21/tcp\ntftp 69/udp\n";

    fn of(text: &str, is_wrapped: bool) -> Draft {
        let (mut draft, mut configuration) = (Draft::default(), Configuration::default());
        configuration.parse(text, "xinetd.conf", &mut draft);
        convert(&configuration, "xinetd.conf", is_wrapped, &Services::parse(SERVICES), &mut draft);
        draft
    }

    fn service(name: &str, attributes: &str) -> String {
        let lines: String = attributes.split(';').map(|line| format!("  {}\n", line.trim())).collect();
        format!("service {name}\n{{\n{lines}}}\n")
    }

    const PLAIN: &str =
        "socket_type = stream; wait = no; user = ftp; server = /usr/sbin/in.ftpd; groups = yes; instances = 3";

    #[test]
    fn a_service_becomes_a_rule_and_a_command() {
        for (attributes, rule, command) in [
            ("", "permit ftp 21 on [::]", "-l 21 --accept --max-conns 3 --max-rate 50:10 -- /usr/sbin/in.ftpd"),
            (
                "flags = IPv4 KEEPALIVE; cps = 5 30; per_source = 2",
                "permit ftp 21 on 0.0.0.0",
                "-l 0.0.0.0:21,keepalive --accept --max-conns 3 --max-per-source 2 --max-rate 5:30 -- /usr/sbin/in.ftpd",
            ),
            (
                "bind = 127.0.0.1; port = 2100; type = UNLISTED; server_args = -l 'x",
                "permit ftp 2100 on 127.0.0.1",
                "-l 127.0.0.1:2100 --accept --max-conns 3 --max-rate 50:10 -- /usr/sbin/in.ftpd -l \"'x\"",
            ),
            (
                "only_from = 10.0.0.0 ::1; no_access = 10.1.2.{3,4}",
                "permit ftp 21 on [::]",
                "-l 21 --accept --allow 10.0.0.0/8 --allow ::1/128 --deny 10.1.2.3/32 --deny 10.1.2.4/32 --max-conns 3 --max-rate 50:10 -- /usr/sbin/in.ftpd",
            ),
            (
                "flags = NAMEINARGS; server_args = other -l; env = A=1 B=2",
                "permit ftp 21 on [::]",
                "-l 21 --accept --max-conns 3 --max-rate 50:10 --setenv A=1 --setenv B=2 --argv0 other -- /usr/sbin/in.ftpd -l",
            ),
        ] {
            let draft = of(&service("ftp", &format!("{PLAIN}; {attributes}")), false);
            assert_eq!(draft.rules.iter().map(|(_, rule)| rule.as_str()).collect::<Vec<_>>(), [rule], "{attributes}");
            let expected = format!("portgrant exec --user ftp {command}");
            assert_eq!(draft.servers.iter().map(Server::command).collect::<Vec<_>>(), [expected]);
        }
        let draft = of(&service("ftp", PLAIN), true);
        let command = draft.servers.iter().map(Server::command).collect::<String>();
        assert!(command.ends_with("--argv0 /usr/sbin/in.ftpd -- /usr/sbin/tcpd"), "{command}");
    }

    #[test]
    fn an_xinetd_service_that_would_get_wider_access_is_left_out() {
        for (attributes, why) in [
            ("access_times = 2:00-9:00", "access_times has no equal"),
            ("no_access = bad.example", "no_access = bad.example is a name"),
            ("only_from = good.example", "only_from allows no client"),
            ("only_from =", "only_from allows no client"),
            ("flags = IDONLY", "the flag IDONLY has no equal"),
            ("flags = SENSOR", "it is a trap, not a service"),
            ("type = INTERNAL", "xinetd answers it itself"),
            ("redirect = 10.0.0.1 80", "redirect has no equal"),
            ("bind = host", "'host' is the name of a host"),
            ("frobnicate = 1", "'frobnicate' is not an attribute"),
        ] {
            let draft = of(&service("ftp", &format!("{PLAIN}; {attributes}")), false);
            assert!(draft.rules.is_empty() && draft.servers.is_empty() && draft.left_something_out(), "{attributes}");
            assert!(draft.text("xinetd").contains(why), "{attributes}: {}", draft.text("xinetd"));
        }
    }

    #[test]
    fn defaults_apply_to_services_and_disabled_services_are_skipped() {
        let defaults = "defaults\n{\n only_from = 10.0.0.0/8\n instances = 9\n disabled = off\n}\n";
        let off = service("tftp", "id = off; socket_type = dgram; wait = yes; user = x; server = /bin/x");
        let gone = service("ftp", &format!("disable = yes; {PLAIN}"));
        let plain =
            service("ftp", "socket_type = stream; wait = no; user = ftp; server = /bin/x; only_from += 192.0.2.1");
        let draft = of(&format!("{defaults}{off}{gone}{plain}"), false);
        let commands: Vec<String> = draft.servers.iter().map(Server::command).collect();
        let expected = "portgrant exec --user ftp -l 21 --accept --allow 10.0.0.0/8 --allow 192.0.2.1/32 --max-conns 9 \
                        --max-rate 50:10 -- /bin/x";
        assert_eq!(commands, [expected]);
    }
}
