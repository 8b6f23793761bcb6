//! The helper's arguments. They are read after the drop, kept as bytes, and made printable for messages.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::mem::take;

use portgrant_binder::Error;
use portgrant_binder::grant::Verb;
use portgrant_protocol::text::printable;
use portgrant_protocol::{Address, Endpoint, Options, decimal, listen};
use rustix::fd::RawFd;

use crate::arguments::{Argument, Arguments};

pub(crate) const HELP: &str = include_str!("help.txt");

/// A request to the helper.
#[derive(Debug)]
pub(crate) enum Command {
    Exec(Exec),
    Pass { listen: Vec<Endpoint>, to: RawFd },
    Bind { listen: Endpoint, socket: RawFd },
    Help,
    Version,
}

#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) listen: Vec<Endpoint>,
    pub(crate) inetd: bool,
    pub(crate) no_new_privs: bool,
    /// PROGRAM and its arguments, at least the first
    pub(crate) program: Vec<&'static CStr>,
}

/// How a failure is reported, as far as the arguments were read.
#[derive(Debug, Default)]
pub(crate) struct Reporting {
    /// A connected socket to send the record to
    pub(crate) answer: Option<RawFd>,
    /// A program that is executed with the record
    pub(crate) on_failure: Option<&'static CStr>,
}

/// The options of all verbs, before they are compared with those of this verb.
#[derive(Default)]
struct Words {
    listen: Vec<Endpoint>,
    given: Vec<&'static str>,
    to: Option<RawFd>,
    socket: Option<RawFd>,
    reporting: Reporting,
    rest: Vec<&'static CStr>,
}

impl Command {
    /// Reads argv. If a later argument is wrong, the options about reporting that stand before it still apply.
    pub(crate) fn parse(arguments: &[&'static CStr]) -> (Result<Command, Error>, Reporting) {
        let mut words = Words::default();
        let command = words.command(arguments);
        (command, words.reporting)
    }
}

impl Words {
    fn command(&mut self, arguments: &[&'static CStr]) -> Result<Command, Error> {
        const VERBS: &str = "expected exec, pass or bind";
        let [_, word, arguments @ ..] = arguments else { return Err(usage("no verb was given".to_owned(), VERBS)) };
        let verb = match word.to_bytes() {
            b"exec" => Verb::Exec,
            b"pass" => Verb::Pass,
            b"bind" => Verb::Bind,
            b"-h" | b"--help" => return Ok(Command::Help),
            b"-V" | b"--version" => return Ok(Command::Version),
            _ => return Err(usage(format!("'{}' is not a verb", shown(word)), VERBS)),
        };
        let allowed: &[&str] = match verb {
            Verb::Exec => &["listen", "inetd", "no-new-privs", "answer", "on-failure"],
            Verb::Pass => &["listen", "to"],
            Verb::Bind => &["listen", "socket", "answer"],
        };
        self.read(Arguments::new(arguments), allowed)?;
        if self.given.contains(&"help") {
            return Ok(Command::Help);
        }
        if let Some(word) = self.rest.first().filter(|_| verb != Verb::Exec) {
            return Err(usage(format!("unexpected argument '{}'", shown(word)), "expected no PROGRAM with this verb"));
        }
        if self.listen.is_empty() {
            return Err(usage("no endpoint was given".to_owned(), "expected -l ENDPOINT"));
        }
        match verb {
            Verb::Exec => self.exec(),
            Verb::Pass => {
                let to = self.to.ok_or_else(|| missing("to", "expected --to FD, a connected Unix socket"))?;
                Ok(Command::Pass { listen: take(&mut self.listen), to })
            }
            Verb::Bind => self.bind(),
        }
    }

    fn read(&mut self, mut arguments: Arguments<'_>, allowed: &[&'static str]) -> Result<(), Error> {
        while let Some(argument) = arguments.next().map_err(lexed)? {
            let option = match argument {
                Argument::Option(b"-l" | b"--listen") => "listen",
                Argument::Option(b"-h" | b"--help") => "help",
                Argument::Option(b"--inetd") => "inetd",
                Argument::Option(b"--no-new-privs") => "no-new-privs",
                Argument::Option(b"--to") => "to",
                Argument::Option(b"--socket") => "socket",
                Argument::Option(b"--answer") => "answer",
                Argument::Option(b"--on-failure") => "on-failure",
                Argument::Value(first) => {
                    self.rest.push(first);
                    self.rest.extend(arguments.rest());
                    break;
                }
                Argument::Option(other) => return Err(lexed(format!("invalid option '{}'", printable(other)))),
            };
            if option != "help" && !allowed.contains(&option) {
                return Err(usage(format!("'--{option}' does not go with this verb"), "see --help for what does"));
            }
            if option != "listen" && self.given.contains(&option) {
                return Err(usage(format!("'--{option}' is given twice"), "expected it once"));
            }
            self.given.push(option);
            match option {
                "listen" => self.listen.push(endpoint(arguments.value().map_err(lexed)?)?),
                "to" => self.to = Some(descriptor(arguments.value().map_err(lexed)?)?),
                "socket" => self.socket = Some(descriptor(arguments.value().map_err(lexed)?)?),
                "answer" => self.reporting.answer = Some(descriptor(arguments.value().map_err(lexed)?)?),
                "on-failure" => self.reporting.on_failure = Some(arguments.value().map_err(lexed)?),
                _ => {}
            }
        }
        if self.listen.len() > listen::MAX {
            return Err(Error::TooMany { sockets: self.listen.len() });
        }
        Ok(())
    }

    fn exec(&mut self) -> Result<Command, Error> {
        let inetd = self.given.contains(&"inetd");
        if self.rest.is_empty() {
            return Err(usage("no program was given".to_owned(), "expected -- PROGRAM [ARG...]"));
        }
        let several = self.listen.len() != 1 || self.listen.iter().any(|asked| asked.address == Address::Each);
        if inetd && several {
            return Err(usage("'--inetd' needs exactly one socket".to_owned(), "expected one -l ENDPOINT, not each"));
        }
        let no_new_privs = self.given.contains(&"no-new-privs");
        Ok(Command::Exec(Exec { listen: take(&mut self.listen), inetd, no_new_privs, program: take(&mut self.rest) }))
    }

    fn bind(&mut self) -> Result<Command, Error> {
        let socket = self.socket.ok_or_else(|| missing("socket", "expected --socket FD"))?;
        if self.reporting.answer == Some(socket) {
            return Err(usage(format!("descriptor {socket} is given twice"), "expected another one with --answer"));
        }
        let listen = self.listen.pop().filter(|_| self.listen.is_empty());
        let listen = listen
            .ok_or_else(|| usage("'--socket' needs exactly one endpoint".to_owned(), "expected one -l ENDPOINT"))?;
        if listen.options != Options::default() || listen.address == Address::Each {
            return Err(usage(
                format!("'{listen}' asks for more than an address"),
                "expected no options: they are the socket's own, and the caller sets them",
            ));
        }
        Ok(Command::Bind { listen, socket })
    }
}

fn missing(option: &str, expected: &'static str) -> Error {
    usage(format!("'--{option}' is missing"), expected)
}

fn descriptor(word: &CStr) -> Result<RawFd, Error> {
    decimal(word.to_bytes())
        .ok_or_else(|| usage(format!("'{}' is not a descriptor", shown(word)), "expected its number in digits"))
}

fn usage(what: String, expected: &'static str) -> Error {
    Error::Usage { what, expected }
}

fn lexed(error: String) -> Error {
    usage(error, "expected an option of this verb, see --help")
}

fn shown(word: &CStr) -> String {
    printable(word.to_bytes())
}

fn endpoint(word: &CStr) -> Result<Endpoint, Error> {
    Endpoint::from_bytes(word.to_bytes()).map_err(|error| portgrant_policy::Error::from(error).into())
}
