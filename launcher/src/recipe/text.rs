//! The text of recipes. Headings are at the margin and end in a colon; text to copy is indented by four.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::servers::{Adoption, Descriptor, Server, Serves, Variable, servers};

/// Columns of a printed line.
const WIDTH: usize = 96;

/// A list of all servers, one line each.
pub(crate) fn list() -> String {
    let width = servers().map(|server| server.name.len()).max().unwrap_or(0) + 2;
    let line = |server: &Server| wrapped(&format!("  {:width$}", server.name), width + 2, server.takes);
    let (never, can): (Vec<&Server>, Vec<&Server>) =
        servers().partition(|server| matches!(server.adoption, Adoption::Never));
    let lines = |servers: &[&Server]| servers.iter().map(|server| line(server)).collect::<String>();
    format!(
        "What servers take (portgrant recipe SERVER prints how; portgrant exec --as SERVER does it):\n{}\n\
         Servers that bind for themselves (portgrant recipe SERVER prints what to do instead):\n{}\n\
         Others: try `portgrant recipe systemd`, `inetd`, or {{fd}} among the arguments.\n",
        lines(&can),
        lines(&never)
    )
}

/// The recipe of `server`.
pub(crate) fn of(server: &Server) -> String {
    let mut text = wrapped("", 0, &format!("{} takes {}.", server.name, server.takes));
    if !matches!(server.adoption, Adoption::Never) {
        text += &format!("\n{}", wrapped("", 0, &with_as(server)));
    }
    text += &commands(server);
    for (name, content) in server.files {
        text += &format!("\n{name}:\n\n{}", indented(content));
    }
    if !server.signals.is_empty() {
        text += "\nSignals, and whether clients are answered after them:\n\n";
        text += &server.signals.iter().map(|sentence| wrapped("  * ", 4, sentence)).collect::<String>();
    }
    if !server.notes.is_empty() {
        text += if server.is_startable() { "\nGood to know:\n\n" } else { "\nInstead:\n\n" };
        text += &server.notes.iter().map(|note| wrapped("  * ", 4, note)).collect::<String>();
    }
    let since = (!server.since.is_empty()).then(|| format!("Since {}.", server.since));
    let tried = match (server.is_startable(), server.tried) {
        (false, _) => None,
        (true, "") => Some("The tests of portgrant do not start it.".to_owned()),
        (true, versions) => Some(format!("Tested as it stands here, with {versions}.")),
    };
    let last: Vec<String> = since.into_iter().chain(tried).collect();
    if !last.is_empty() {
        text += &format!("\n{}", wrapped("", 0, &last.join(" ")));
    }
    text
}

/// The commands after the files were written to `folder`.
pub(crate) fn next(server: &Server, folder: &str) -> String {
    format!("\nIn {folder}:\n{}", commands(server))
}

/// The commands, for each way that works.
fn commands(server: &Server) -> String {
    let user = server.user.map(|user| format!(", as {user}")).unwrap_or_default();
    let run = server.run.map(after_run);
    let ways = [
        (server.exec, "Command"),
        (server.accept, if server.exec.is_some() { "Command for a process for each connection" } else { "Command" }),
        (run.as_deref(), "Command to start it unchanged (in kernel mode leave out 'portgrant run --')"),
        (server.reload, "Command to reload its configuration"),
    ];
    let ways = ways.into_iter().filter_map(|(command, heading)| Some((command?, heading)));
    ways.map(|(command, heading)| format!("\n{heading}{user}:\n\n{}", indented(command))).collect()
}

/// The command with `portgrant run --` before its last command, which may have several lines joined by backslashes.
fn after_run(command: &str) -> String {
    let command = command.trim_end();
    let last = command.rmatch_indices('\n').map(|(at, _)| at).find(|&at| !command[..at].ends_with('\\'));
    let (before, last) = command.split_at(last.map_or(0, |at| at + 1));
    format!("{before}portgrant run -- {last}")
}

/// What `--as` does for `server`.
fn with_as(server: &Server) -> String {
    let option = format!("--as {}", server.name);
    let sockets = match server.serves {
        Serves::Any => "sockets of any kind",
        Serves::Streams => "stream sockets only",
        Serves::OneStream => "one stream socket only",
        Serves::Ipv4Streams => "IPv4 stream sockets only",
    };
    match &server.adoption {
        Adoption::ListenFds => format!(
            "{option} changes nothing: descriptors from 3 on, LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES; {sockets}."
        ),
        Adoption::Variable(variable) => format!(
            "{option} sets {}, and removes LISTEN_*; descriptors from 3 on; {sockets}.",
            sample(variable, server.serves)
        ),
        Adoption::Argument(sample) => format!(
            "{option} requires {{fd}} among the arguments, as in {sample}, and removes LISTEN_*; \
             descriptors from 3 on; {sockets}."
        ),
        Adoption::Standard => {
            format!("{option} is --inetd: one socket, as descriptors 0 and 1; no LISTEN_*; {sockets}.")
        }
        Adoption::StandardParked => format!(
            "{option} is --inetd, with /dev/null as descriptor 3: one socket, as descriptors 0 and 1; no LISTEN_*; {sockets}."
        ),
        Adoption::Connection => format!("It is started by --accept, once for each connection; {sockets}."),
        Adoption::Never => String::new(),
    }
}

/// An example of `variable` with two sockets.
fn sample(variable: &Variable, serves: Serves) -> String {
    let (written, second) = match serves {
        Serves::Ipv4Streams => ("127.0.0.1:443", Ipv4Addr::LOCALHOST.into()),
        Serves::Any | Serves::Streams | Serves::OneStream => ("'[::1]:443'", IpAddr::V6(Ipv6Addr::LOCALHOST)),
    };
    let socket = |number, local| Descriptor { name: String::new(), number, local };
    let both = [socket(3, (Ipv4Addr::UNSPECIFIED, 80).into()), socket(4, (second, 443).into())];
    let announced = variable.announce(&both);
    let announced = announced.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
    format!("{} (for -l 0.0.0.0:80 -l {written})", announced.join(" and "))
}

fn indented(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("    {line}\n") }).collect()
}

/// `text` after `start`, broken between words; further lines are indented by `indent`.
fn wrapped(start: &str, indent: usize, text: &str) -> String {
    let mut line = start.to_owned();
    let mut lines = String::new();
    let mut is_empty = true;
    for word in text.split(' ') {
        if !is_empty && line.len() + 1 + word.len() > WIDTH {
            lines += &format!("{line}\n");
            line = " ".repeat(indent);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line += word;
        is_empty = false;
    }
    lines + &line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_is_complete_and_fits_a_terminal() {
        for server in servers() {
            let text = of(server);
            let prose = text.lines().filter(|line| !line.starts_with("    "));
            for line in prose {
                assert!(line.len() <= WIDTH && !line.ends_with(' '), "{}: {line:?}", server.name);
            }
            assert!(text.is_ascii() && text.starts_with(server.name), "{text}");
            assert_eq!(text.contains("\nCommand"), server.is_startable(), "{text}");
            assert!(server.is_startable() || text.contains("\nInstead:\n\n  * "), "{text}");
            for command in [server.exec, server.accept, server.run, server.reload].into_iter().flatten() {
                assert!(command.lines().all(|line| text.contains(line.trim())), "{text}");
            }
        }
    }

    #[test]
    fn the_list_has_a_line_for_each_server() {
        let list = list();
        for server in servers() {
            assert!(list.contains(&format!("\n  {} ", server.name)), "{}", server.name);
        }
        assert!(list.lines().all(|line| line.len() <= WIDTH + 4), "{list}");
    }

    #[test]
    fn a_recipe_shows_what_as_sets() {
        let nginx = crate::servers::named("nginx").map(of).expect("nginx");
        assert!(nginx.contains("--as nginx sets NGINX=3;4; (for"), "{nginx}");
        let puma = crate::servers::named("puma").map(of).expect("puma");
        assert!(puma.contains("PUMA_INHERIT_0=3:tcp://0.0.0.0:80 and PUMA_INHERIT_1=4:tcp://[::1]:443"), "{puma}");
    }
}
