//! The tcpserver command of a run script (ucspi-tcp 0.88, with the options of ucspi-tcp-ipv6).

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use lexopt::{Arg, Parser};
use portgrant_protocol::service::Services;
use portgrant_protocol::{Message, Protocol};

use super::draft::Draft;
use super::server::{Listen, Place, Server, port};
use super::{shown, text_of};

/// Programs before tcpserver that become another user: the next word is that user.
const SETUIDGID: [&str; 3] = ["setuidgid", "s6-setuidgid", "envuidgid"];

/// Reads the file `path`.
pub(super) fn read(path: &Path, services: &Services, draft: &mut Draft) -> Result<(), Box<Message>> {
    let text = text_of(path)?;
    let name = path.parent().and_then(Path::file_name).filter(|_| path.file_name().is_some_and(|name| name == "run"));
    let name = name.or(path.file_stem()).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if !parse(&text, &shown(path), &name, services, draft) {
        draft.leave_out(&shown(path), "no line of it runs tcpserver");
    }
    Ok(())
}

/// Whether there is such a command.
fn parse(text: &str, file: &str, name: &str, services: &Services, draft: &mut Draft) -> bool {
    let mut variables = BTreeMap::new();
    let mut found = false;
    for (number, line) in logical_lines(text) {
        if let Some((variable, value)) = assignment(&line) {
            variables.insert(variable.to_owned(), value);
            continue;
        }
        let Some(words) = shlex::split(&line) else { continue };
        let Some(at) = words.iter().position(|word| word.rsplit('/').next() == Some("tcpserver")) else { continue };
        found = true;
        let place = format!("{file}:{number}");
        let command = Command { before: words.get(..at).unwrap_or_default(), variables: &variables, services };
        match command.server(words.get(at + 1..).unwrap_or_default(), Server::named(name, place.clone())) {
            Ok(server) => draft.server(server),
            Err(why) => draft.leave_out(&place, why),
        }
    }
    found
}

/// Lines with their numbers; one that ends in a backslash goes on.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (index, line) in text.lines().enumerate() {
        let (part, more) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        match lines.last_mut().filter(|_| goes_on) {
            Some((_, before)) => before.push_str(part),
            None => lines.push((index + 1, part.to_owned())),
        }
        goes_on = more;
    }
    lines
}

/// `NAME=VALUE`, where that is a word, or what id(1) or cat(1) says.
fn assignment(line: &str) -> Option<(&str, Option<String>)> {
    let line = line.trim().strip_prefix("export ").unwrap_or(line.trim());
    let (name, value) = line.split_once('=')?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let value = value.trim_matches('"');
    let command = value
        .strip_prefix('`')
        .and_then(|value| value.strip_suffix('`'))
        .or_else(|| value.strip_prefix("$(").and_then(|value| value.strip_suffix(')')));
    let value = match command {
        Some(command) => match command.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["id", "-u" | "-g", user] => Some((*user).to_owned()),
            ["cat" | "head", .., file] => {
                fs::read_to_string(file).ok().map(|text| text.lines().next().unwrap_or("").to_owned())
            }
            _ => None,
        },
        None => shlex::split(value)
            .filter(|words| words.len() <= 1)
            .map(|words| words.concat())
            .filter(|word| !word.contains(['$', '`'])),
    };
    is_name.then_some((name, value))
}

struct Command<'a> {
    /// What stands before tcpserver
    before: &'a [String],
    variables: &'a BTreeMap<String, Option<String>>,
    services: &'a Services,
}

impl Command<'_> {
    fn server(&self, words: &[String], mut server: Server) -> Result<Server, String> {
        let words = until_operator(words);
        let words = words.iter().map(|word| self.expanded(word)).collect::<Result<Vec<_>, _>>()?;
        let before = self.before.iter().map(|word| self.expanded(word)).collect::<Result<Vec<_>, _>>()?;
        let mut chain = self.chain(&before, &mut server)?;
        let mut options = Vec::new();
        let rest = self.options(&words, &mut server, &mut options)?;
        let [host, service, program @ ..] = rest.as_slice() else {
            return Err("expected HOST PORT PROGRAM after the options of tcpserver".to_owned());
        };
        if program.is_empty() {
            return Err("expected a program after the port".to_owned());
        }
        let place = match host.as_str() {
            "0" | "" | "0.0.0.0" => {
                server.note(
                    "0 is read as ucspi-tcp reads it: every address of IPv4; for IPv6 as well, ask for the port alone",
                );
                Place::Address(Ipv4Addr::UNSPECIFIED.into())
            }
            "localhost" => Place::Address(Ipv4Addr::LOCALHOST.into()),
            host => Place::parse(host)
                .ok_or_else(|| format!("'{host}' is the name of a host: write its address, and import it again"))?,
        };
        let port = port(service, Protocol::Tcp, self.services)
            .ok_or_else(|| format!("'{service}' is not a port and not a service in /etc/services"))?;
        server.listen.push(Listen { name: None, place, port, protocol: Protocol::Tcp, options });
        chain.extend(program.iter().cloned());
        server.program = chain;
        if server.user.is_none() {
            server.user = Some("root".to_owned());
            server.note(
                "tcpserver has no -u, so it is taken to run as root; give it a user of its own if it can have one",
            );
        }
        Ok(server)
    }

    /// The words before tcpserver that must now come before the program.
    fn chain(&self, before: &[String], server: &mut Server) -> Result<Vec<String>, String> {
        let mut chain = Vec::new();
        let mut words = before.iter();
        while let Some(word) = words.next() {
            let name = word.rsplit('/').next().unwrap_or(word);
            if SETUIDGID.contains(&name) {
                server.user = words.next().cloned();
            } else if name == "chpst" {
                return Err(
                    "chpst stands before tcpserver: put it before the program, but for -u, and import it again"
                        .to_owned(),
                );
            } else if name != "exec" {
                chain.push(word.clone());
            }
        }
        Ok(chain)
    }

    /// Reads the options, and returns what follows them.
    fn options(&self, words: &[String], server: &mut Server, socket: &mut Vec<String>) -> Result<Vec<String>, String> {
        let mut parser = Parser::from_args(words);
        let (mut looks_up, mut asks_ident) = (true, true);
        let broken = |error: lexopt::Error| format!("the options of tcpserver cannot be read: {error}");
        let mut rest = Vec::new();
        while let Some(argument) = parser.next().map_err(broken)? {
            let argument = match argument {
                Arg::Short(letter) => letter,
                Arg::Long(other) => return Err(format!("--{other} is not an option of tcpserver")),
                Arg::Value(first) => {
                    rest.push(first.to_string_lossy().into_owned());
                    rest.extend(parser.raw_args().map_err(broken)?.map(|word| word.to_string_lossy().into_owned()));
                    break;
                }
            };
            let mut value = || parser.value().map_err(broken).map(|value| value.to_string_lossy().into_owned());
            match argument {
                'c' => {
                    let most = value()?;
                    // Some versions accept LIMIT/REPORT.
                    let most = most.split('/').next().unwrap_or(&most).to_owned();
                    server.options.extend(["--max-conns".to_owned(), most]);
                }
                'x' => self.access(&value()?, server),
                'u' => server.user = Some(value()?),
                'g' => {
                    let group = value()?;
                    server.unit.push(format!("Group={group}"));
                    server.note(format!(
                        "the group {group} is set by the unit of --write; --user sets the account's own"
                    ));
                }
                'U' => return Err("-U takes the user from $UID: write -u USER, and import it again".to_owned()),
                'b' => socket.push(format!("backlog={}", value()?)),
                'I' => socket.push(format!("dev={}", value()?)),
                'l' if value()? != "0" => server.note("-l has no equal: TCPLOCALHOST is set by --lookup alone"),
                'B' => {
                    let _banner = value()?;
                    server.note("-B has no equal: the program itself must greet its client");
                }
                't' => drop(value()?),
                'H' => looks_up = false,
                'h' => looks_up = true,
                'R' => asks_ident = false,
                'r' => asks_ident = true,
                'v' => server.options.push("-v".to_owned()),
                'D' => server.note("-D has no equal: the program sets TCP_NODELAY by itself, if it needs it"),
                'o' => server.note("-o has no equal: portgrant leaves IP options to the kernel"),
                '1' => server.note("-1 has no equal: the port is the one that you write"),
                'X' => server.note("-X has no equal: without the file of --access nothing starts"),
                '6' => server.note("-6 has no equal: an IPv4 client is TCP, on an IPv6 socket as well"),
                'q' | 'Q' | 'p' | 'P' | 'O' | 'd' | '4' | 'l' => {}
                other => return Err(format!("-{other} is not an option of tcpserver that is known here")),
            }
        }
        if looks_up {
            server.options.push("--lookup".to_owned());
            server.note("a client's name is set only if it has the client's address, as with -p");
        }
        if asks_ident {
            server.note("portgrant does not ask ident servers: TCPREMOTEINFO is never set (-R)");
        }
        Ok(rest)
    }

    /// `rules.cdb` is made from a text, which is what `--access` reads.
    fn access(&self, file: &str, server: &mut Server) {
        let text = file.strip_suffix(".cdb").unwrap_or(file);
        if text == file || !Path::new(text).is_file() {
            return server.obstacle(format!(
                "-x {file}: portgrant reads the text that tcprules made it from, which is not beside it without .cdb"
            ));
        }
        server.options.extend(["--access".to_owned(), text.to_owned()]);
        server.note(format!("--access reads {text} itself: a change counts at once, without tcprules"));
    }

    /// `word` with the values of variables that the script sets.
    fn expanded(&self, word: &str) -> Result<String, String> {
        let mut text = String::new();
        let mut rest = word;
        while let Some((before, behind)) = rest.split_once('$') {
            text.push_str(before);
            let braced = behind.strip_prefix('{').and_then(|behind| behind.split_once('}'));
            let (name, after) = braced.unwrap_or_else(|| {
                let end = behind.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(behind.len());
                behind.split_at(end)
            });
            match self.variables.get(name) {
                Some(Some(value)) => text.push_str(value),
                _ => return Err(format!("'{word}' is known to the shell alone: write its value, and import it again")),
            }
            rest = after;
        }
        if rest.contains('`') {
            return Err(format!("'{word}' is known to the shell alone: write its value, and import it again"));
        }
        Ok(text + rest)
    }
}

/// Up to a redirection, a pipe or the next command.
fn until_operator(words: &[String]) -> &[String] {
    let is_operator = |word: &String| {
        let bare = word.trim_start_matches(|c: char| c.is_ascii_digit());
        bare.starts_with(['<', '>', '|', '&', ';']) || word.ends_with(';')
    };
    let end = words.iter().position(is_operator).unwrap_or(words.len());
    words.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(script: &str) -> Draft {
        let mut draft = Draft::default();
        let services = Services::parse(b"smtp 25/tcp\nfinger 79/tcp\n");
        assert!(parse(script, "run", "smtp", &services, &mut draft), "{script}");
        draft
    }

    #[test]
    fn a_run_script_becomes_a_rule_and_a_command() {
        let qmail = "#!/bin/sh\nU=`id -u qmaild`\nG=`id -g qmaild`\nMAX=30\nexec softlimit -m 30000000 \\\n  tcpserver -vRHl0 -c \"$MAX\" \
                     -u \"$U\" -g \"${G}\" 0 smtp /var/qmail/bin/qmail-smtpd 2>&1\n";
        for (script, rule, command) in [
            (
                qmail,
                "permit qmaild 25 on 0.0.0.0",
                "portgrant exec --user qmaild -l 0.0.0.0:25 --accept -v --max-conns 30 -- softlimit -m 30000000 /var/qmail/bin/qmail-smtpd",
            ),
            (
                "setuidgid nobody tcpserver -HR -b 5 127.0.0.1 79 fingerd -l | cat",
                "permit nobody 79 on 127.0.0.1",
                "portgrant exec --user nobody -l 127.0.0.1:79,backlog=5 --accept -- fingerd -l",
            ),
            (
                "/usr/bin/tcpserver -u 7 ::1 finger fingerd 'x y' # fast",
                "permit uid:7 79 on [::1]",
                "portgrant exec --user 7 -l '[::1]:79' --accept --lookup -- fingerd 'x y'",
            ),
        ] {
            let draft = of(script);
            assert_eq!(draft.rules.iter().map(|(_, rule)| rule.as_str()).collect::<Vec<_>>(), [rule], "{script}");
            assert_eq!(draft.servers.iter().map(Server::command).collect::<Vec<_>>(), [command]);
        }
    }

    #[test]
    fn a_script_with_unknown_values_is_left_out_and_reported() {
        for (script, why) in [
            ("tcpserver -u $UIDX 0 25 x", "'$UIDX' is known to the shell alone"),
            ("tcpserver ::1 finger fingerd '$x y'", "'$x y' is known to the shell alone"),
            ("tcpserver -x /nowhere/rules.cdb 0 25 x", "which is not beside it"),
            ("tcpserver -U 0 25 x", "-U takes the user from $UID"),
            ("tcpserver mail.example 25 x", "the name of a host"),
            ("tcpserver 0 nope x", "'nope' is not a port"),
            ("tcpserver 0 25", "expected a program"),
            ("tcpserver -k 0 25 x", "-k is not an option"),
            ("chpst -u a tcpserver 0 25 x", "chpst stands before"),
        ] {
            let draft = of(script);
            assert!(draft.rules.is_empty() && draft.left_something_out(), "{script}");
            assert!(draft.text("tcpserver").contains(why), "{script}: {}", draft.text("tcpserver"));
        }
        let mut draft = Draft::default();
        assert!(!parse("echo hello\n", "run", "x", &Services::default(), &mut draft));
    }
}
