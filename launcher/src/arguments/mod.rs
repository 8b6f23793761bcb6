//! The command line: its grammar and its help. Each command has a file.

mod accept;
mod check;
mod complaint;
mod completions;
mod corrections;
mod doctor;
mod exec;
mod explain;
mod import;
mod life;
mod list;
mod pass;
mod recipe;
mod run;
mod who;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use anstyle::{AnsiColor, Style};
use clap::builder::{OsStringValueParser, Styles, TypedValueParser};
use clap::error::ErrorKind;
use clap::{ArgAction, Parser, Subcommand};
use portgrant_front::plain::{Plain, given_twice};
use portgrant_protocol::{AskedPort, Endpoint, Port};
use portgrant_server::{Message, Services};

use crate::Error;

pub(crate) use accept::prefix;
pub use accept::{Accept, MaxRate};
pub use check::Check;
pub use completions::Completions;
pub use doctor::Doctor;
pub use exec::Exec;
pub use explain::Explain;
pub use import::{Import, Origin};
pub use life::{Life, Log};
pub use list::List;
pub use pass::Pass;
pub use recipe::Recipe;
pub use run::Run;
pub use who::{Place, Who};

/// Only headings and words to type are styled.
const STYLES: Styles = Styles::plain()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(Style::new().bold());

const ENDPOINTS: &str = "\
An ENDPOINT is [NAME=][ADDRESS:]PORT[/PROTOCOL][,OPTION...]:
  80                      port 80, every address, IPv4 and IPv6, tcp
  nntp                    a service by its name in /etc/services
  0.0.0.0:80              every IPv4 address, like `listen 80;` in nginx
  https=[::]:443,v6only   with a name by which the program finds it
  127.0.0.1:53/udp        another protocol: tcp, udp, sctp or mptcp
  each:520/udp            a socket for each address of this host
Options: reuseport v6only backlog= freebind dev= keepalive[=] linger=
  defer_accept= fastopen= rcvbuf= sndbuf= tos=";

const EXAMPLES: &str = "\
Examples:
  portgrant exec -l 80 -- ./server             as descriptor 3, announced by LISTEN_FDS
  portgrant exec -l 25 --as exim -- exim4 -bw  as exim expects it
  portgrant exec -l 25 --accept -- exim4 -bs   one program for each connection
  portgrant exec -l 80 --daemon --verify -- ./server
  portgrant run -- python3 -m http.server 80   a program that binds for itself
  portgrant pass -l 443 --to ./server.sock     one more port for a running server
  portgrant explain 80                         may I bind it? which rule decides?
  portgrant list                               which ports may I bind?
  portgrant who 80                             who holds it?
  portgrant doctor                             is the installation right?

Exit status: the program's own, or
   64  the command line is wrong         78   the policy or the installation is broken
   69  address in use or nonexistent     126  the program cannot be executed
   71  the system failed                 127  the program was not found
   77  refused by the policy

Manual: portgrant(1), portgrant.conf(5), portgrant(7), portgrant-binder(8)";

/// Start a program with sockets on ports below 1024, as an ordinary user.
///
/// The rules in /etc/portgrant.conf and /etc/portgrant.d/*.conf decide which ports you may bind.
#[derive(Debug, Parser)]
#[command(name = "portgrant", version, after_help = EXAMPLES, max_term_width = 100, styles = STYLES)]
pub struct Arguments {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
    /// Print each step to standard error
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one of them in the life of a process")]
pub enum Command {
    /// Execute a program with sockets that it could not bind itself
    Exec(Exec),
    /// Run an unchanged program that binds its ports itself
    Run(Run),
    /// Pass sockets to a running server, over the server's Unix socket
    Pass(Pass),
    /// Print whether the policy permits an endpoint, and which rule decides; bind nothing
    Explain(Explain),
    /// List the rules that permit you ports, with the exceptions
    List(List),
    /// Check the policy for errors, and warn about probable mistakes
    Check(Check),
    /// Print who holds a port: program, user, address, and which other binds it blocks
    Who(Who),
    /// Check this installation, and print how to repair it
    Doctor(Doctor),
    /// Print how a known server takes a socket: command, configuration and pitfalls
    Recipe(Recipe),
    /// Turn files of authbind, inetd, xinetd, tcpserver or systemd into rules and commands
    Import(Import),
    /// Print the completion script for a shell
    Completions(Completions),
}

/// The output format.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Format {
    /// Text for people, or JSON for programs
    #[arg(long, value_name = "text|json", value_enum, default_value_t = Writing::Text, hide_possible_values = true)]
    format: Writing,
    /// As the helper's side has it: the same as --format json
    #[arg(long, hide = true)]
    json: bool,
}

/// The reader of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Writing {
    /// For people
    Text,
    /// For programs
    Json,
}

impl Format {
    /// Which it is.
    pub fn writing(self) -> Writing {
        if self.json { Writing::Json } else { self.format }
    }
}

/// Parses an endpoint, so that a wrong one is reported with the word.
fn endpoint() -> impl TypedValueParser<Value = Endpoint> {
    OsStringValueParser::new().try_map(|word| Endpoint::from_os(&word))
}

/// Reads argv.
pub(crate) fn parse(arguments: &[OsString]) -> Result<Arguments, Error> {
    let plain = plain_exec(arguments).map(|exec| Arguments { command: Command::Exec(exec), verbose: 0 });
    let parsed = plain.map_or_else(|| Arguments::try_parse_from(arguments), Ok).map_err(|error| {
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            return Error::Answered(error.render().ansi().to_string());
        }
        Error::Usage(Box::new(complaint::complaint(&error, arguments)))
    })?;
    match &parsed.command {
        Command::Exec(asked) => asked.check(arguments)?,
        Command::Run(asked) => asked.check()?,
        Command::Pass(asked) => distinct(&asked.listen)?,
        Command::Explain(_)
        | Command::List(_)
        | Command::Check(_)
        | Command::Who(_)
        | Command::Doctor(_)
        | Command::Recipe(_)
        | Command::Import(_)
        | Command::Completions(_) => {}
    }
    Ok(parsed)
}

/// Refuses two sockets with the same address and port, unless they share it. A service counts as its number.
fn distinct(listen: &[Endpoint]) -> Result<(), Error> {
    if listen.len() < 2 {
        return Ok(());
    }
    let is_named = |asked: &Endpoint| matches!(asked.port, AskedPort::Service(_));
    // What cannot be read is reported where it is needed.
    let services =
        if listen.iter().any(is_named) { Services::system().unwrap_or_default() } else { Services::default() };
    let numbered: Vec<Endpoint> = listen.iter().map(|asked| by_number(asked, &services)).collect();
    let Some(at) = given_twice(&numbered) else { return Ok(()) };
    let port = |at: usize| numbered.get(at).map(|asked| &asked.port);
    let service = listen.iter().enumerate().find(|(other, asked)| port(*other) == port(at) && is_named(asked));
    let asked = listen.get(at).map(ToString::to_string).unwrap_or_default();
    let message = Message::new(format!("-l {asked} is given twice")).fix(format!("leave out one -l {asked}"));
    usage(match (service.map(|(_, asked)| &asked.port), port(at)) {
        (Some(AskedPort::Service(name)), Some(AskedPort::Number(port))) => {
            message.why(format!("{name} is port {port}"))
        }
        _ => message,
    })
}

/// The same endpoint with its port's number, as far as it is known.
fn by_number(asked: &Endpoint, services: &Services) -> Endpoint {
    let number = match &asked.port {
        AskedPort::Service(name) => services.port(name, asked.protocol).and_then(Port::new),
        AskedPort::Number(_) => None,
    };
    let port = number.map_or_else(|| asked.port.clone(), AskedPort::Number);
    Endpoint { port, ..asked.clone() }
}

fn usage(message: Message) -> Result<(), Error> {
    Err(Error::Usage(Box::new(message)))
}

/// Parses the most common command line without clap. clap builds all commands and options, which takes a seventh of the
/// time until such a program starts.
fn plain_exec(arguments: &[OsString]) -> Option<Exec> {
    let Plain { listen, inetd, no_new_privs, program } = Plain::read(arguments.iter().map(|word| word.as_bytes()))?;
    let program = arguments.get(program..)?.to_vec();
    Some(Exec { listen, inetd, no_new_privs, program, ..Exec::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_exec_is_parsed_as_clap_parses_it() {
        let plain = [
            "portgrant exec -l 80 -- server -v --help",
            "portgrant exec -l web=443,v6only --listen 53/udp --no-new-privs -- nginx -l -- x",
            "portgrant exec --inetd -l 80 -- cat",
            "portgrant exec -l 80 cat",
            "portgrant exec -l 80 --inetd cat -v -l -- --help",
            "portgrant exec -l 80 --  --",
        ];
        let others = [
            "portgrant exec -l 80",
            "portgrant exec -l 80 --",
            "portgrant exec -- cat",
            "portgrant exec -l no/port -- cat",
            "portgrant exec -l -- cat",
            "portgrant exec -l80 -- cat",
            "portgrant exec -l 80 --inetd --inetd -- cat",
            "portgrant exec -l 80 --accept -- cat",
            "portgrant exec -l 80 -v -- cat",
            "portgrant exec -l 80 - cat",
            "portgrant exec -l 80 -l 80 -- cat",
            "portgrant exec --help",
            "portgrant exec",
            "portgrant -v exec -l 80 -- cat",
            "portgrant list -l 80 -- cat",
            "portgrant",
        ];
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        for line in plain {
            let read = plain_exec(&words(line)).expect(line);
            let by_clap = Arguments::try_parse_from(words(line)).expect("it fits");
            let Command::Exec(by_clap) = by_clap.command else { panic!("{line}") };
            assert_eq!(format!("{read:?}"), format!("{by_clap:?}"), "{line}");
        }
        for line in others {
            assert!(plain_exec(&words(line)).is_none(), "{line}");
        }
    }
}
