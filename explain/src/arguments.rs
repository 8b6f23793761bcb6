//! The command line, which the launcher writes. The launcher has already checked the caller's words, and prints the
//! help.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use lexopt::{Arg, Parser};
use portgrant_policy::Error;
use portgrant_protocol::text::printable;
use portgrant_protocol::{Endpoint, Kind, Message};

pub(crate) const HELP: &str = "\
portgrant-explain prints what /etc/portgrant.conf decides. It binds nothing and has no privilege.
People type `portgrant explain`, `portgrant list` and `portgrant check`.

Usage:
  portgrant-explain explain -l ENDPOINT... [--as-user USER] [--own-network] [--format text|json] [-- PROGRAM]
  portgrant-explain list    [--as-user USER] [--own-network] [--format text|json]
  portgrant-explain check   [--strict] [--own-network] [--format text|json] [--] [FILE...]
  portgrant-explain import  FROM [--write FOLDER] [--] [FILE...]
The launcher gives --own-network if the caller can bind every port of this network namespace without the helper.

Exit status: 0; 1 check --strict found warnings, or import left something out; 64 usage; 69 cannot be bound here; 71 the
system failed; 77 refused by policy; 78 the policy is broken.
";

/// How the answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
}

/// The command.
#[derive(Debug)]
pub(crate) enum Command {
    Explain(Explain),
    List { user: Option<String>, owns_network: bool, format: Format },
    Check { files: Vec<PathBuf>, is_strict: bool, owns_network: bool, format: Format },
    Import(Import),
    Help,
    Version,
}

#[derive(Debug)]
pub(crate) struct Explain {
    pub(crate) listen: Vec<Endpoint>,
    pub(crate) user: Option<String>,
    /// The caller owns this network namespace, by a user namespace
    pub(crate) owns_network: bool,
    pub(crate) format: Format,
    pub(crate) program: Option<OsString>,
}

/// Where the files come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Authbind,
    Inetd,
    Xinetd,
    Tcpserver,
    Systemd,
}

impl Origin {
    pub(crate) const ALL: [Origin; 5] =
        [Origin::Authbind, Origin::Inetd, Origin::Xinetd, Origin::Tcpserver, Origin::Systemd];

    /// Its word on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Origin::Authbind => "authbind",
            Origin::Inetd => "inetd",
            Origin::Xinetd => "xinetd",
            Origin::Tcpserver => "tcpserver",
            Origin::Systemd => "systemd",
        }
    }
}

/// The files to import.
#[derive(Debug)]
pub(crate) struct Import {
    pub(crate) from: Origin,
    pub(crate) files: Vec<PathBuf>,
    pub(crate) write: Option<PathBuf>,
}

const VERBS: &str = "expected explain, list, check or import";

impl Command {
    pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Command, Box<Message>> {
        let mut arguments = arguments.skip(1);
        let verb = arguments.next().ok_or_else(|| usage("no verb was given".to_owned(), VERBS))?;
        let mut parser = Parser::from_args(arguments);
        let (mut listen, mut rest) = (Vec::new(), Vec::new());
        let (mut user, mut format, mut write) = (None, Format::Text, None);
        let (mut is_strict, mut owns_network) = (false, false);
        while let Some(argument) = parser.next().map_err(lexed)? {
            match argument {
                Arg::Short('l') | Arg::Long("listen") if verb == "explain" => {
                    listen.push(Endpoint::from_os(&parser.value().map_err(lexed)?).map_err(Error::from)?);
                }
                Arg::Long("as-user") if verb != "check" => user = Some(name(parser.value().map_err(lexed)?)?),
                Arg::Long("strict") if verb == "check" => is_strict = true,
                Arg::Long("own-network") if verb != "import" => owns_network = true,
                Arg::Long("write") if verb == "import" => write = Some(parser.value().map_err(lexed)?.into()),
                Arg::Long("format") if verb != "import" => format = written(&parser.value().map_err(lexed)?)?,
                Arg::Value(first) if verb != "list" => {
                    rest.push(first);
                    rest.extend(parser.raw_args().map_err(lexed)?);
                    break;
                }
                Arg::Short(_) | Arg::Long(_) | Arg::Value(_) => return Err(lexed(argument.unexpected())),
            }
        }
        match verb.to_str() {
            Some("explain") if listen.is_empty() => {
                Err(usage("no endpoint was given".to_owned(), "expected -l ENDPOINT"))
            }
            Some("explain") => {
                Ok(Command::Explain(Explain { listen, user, owns_network, format, program: rest.into_iter().next() }))
            }
            Some("list") => Ok(Command::List { user, owns_network, format }),
            Some("check") => {
                let files = rest.into_iter().map(PathBuf::from).collect();
                Ok(Command::Check { files, is_strict, owns_network, format })
            }
            Some("import") => {
                let mut rest = rest.into_iter();
                let from = origin(&rest.next().unwrap_or_default())?;
                Ok(Command::Import(Import { from, files: rest.map(PathBuf::from).collect(), write }))
            }
            Some("-h" | "--help") => Ok(Command::Help),
            Some("-V" | "--version") => Ok(Command::Version),
            _ => Err(usage(format!("'{}' is not a verb", shown(&verb)), VERBS)),
        }
    }
}

fn written(word: &OsStr) -> Result<Format, Box<Message>> {
    match word.to_str() {
        Some("text") => Ok(Format::Text),
        Some("json") => Ok(Format::Json),
        _ => Err(usage(format!("'{}' is not a format", shown(word)), "expected text or json")),
    }
}

fn origin(word: &OsStr) -> Result<Origin, Box<Message>> {
    let known = Origin::ALL.into_iter().find(|from| word == from.word());
    known.ok_or_else(|| {
        let words = Origin::ALL.map(Origin::word).join(", ");
        let message = Message::of(Kind::Usage, format!("'{}' is not known to import", shown(word)));
        Box::new(message.fix(format!("expected one of {words}")))
    })
}

fn name(word: OsString) -> Result<String, Box<Message>> {
    word.into_string().map_err(|word| Error::UnknownUser(shown(&word)).into())
}

fn usage(what: String, expected: &'static str) -> Box<Message> {
    Box::new(Message::of(Kind::Usage, what).why(expected).fix("see portgrant-explain --help"))
}

fn lexed(error: lexopt::Error) -> Box<Message> {
    Box::new(Message::of(Kind::Usage, printable(error.to_string().as_bytes())).fix("see portgrant-explain --help"))
}

fn shown(word: &OsStr) -> String {
    printable(word.as_encoded_bytes())
}
