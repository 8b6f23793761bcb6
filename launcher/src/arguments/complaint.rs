//! The message for a wrong command line: the word, and what to type instead.

use std::ffi::{CString, OsString};

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use nix::unistd::User;
use portgrant_protocol::text::printable;
use portgrant_protocol::{AskedPort, Endpoint, program};
use portgrant_server::{Message, Services};

use super::{Arguments, corrections};
use crate::nearest::nearest;

/// The message for clap's error, in plain words. The caller's words are made printable.
#[expect(clippy::wildcard_enum_match_arm, reason = "clap may find more: its own words serve for that")]
pub(super) fn complaint(error: &clap::Error, arguments: &[OsString]) -> Message {
    let context = |kind| error.get(kind).map(|found| printable(found.to_string().as_bytes())).unwrap_or_default();
    let (word, value) = (context(ContextKind::InvalidArg), context(ContextKind::InvalidValue));
    match error.kind() {
        ErrorKind::ValueValidation if !word.contains("ENDPOINT") && !word.contains("PORT") => {
            let option = word.split(['[', '=', ' ']).next().unwrap_or_default();
            let expected = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            let expected = match expected.split_once(" is not in ") {
                Some((_, range)) => format!("expected {}", range.replace("..=", " to ")),
                None => expected,
            };
            Message::new(format!("'{value}' is not a valid value for {option}")).fix(expected)
        }
        ErrorKind::ValueValidation => {
            let why = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            // clap replaces bytes that are not UTF-8; the reason shows the original bytes.
            let raw = error.get(ContextKind::InvalidValue).map(ToString::to_string).unwrap_or_default();
            let shown = if raw.contains('\u{fffd}') { "this".to_owned() } else { format!("'{value}'") };
            let before = if word.contains("--listen") { "-l " } else { "" };
            let fix = match corrections::endpoints(&raw) {
                Some(found) => {
                    let found: Vec<String> = found.iter().map(|text| format!("{before}{}", shell_word(text))).collect();
                    format!("write {}", found.join(" "))
                }
                None => match corrections::port_of_host(&raw) {
                    Some(port) => {
                        format!("write {before}{port} (every address); or name an address that ip addr prints")
                    }
                    None if corrections::ports(&raw).is_some() => {
                        format!(
                            "write {before}PORT (an endpoint has one port: write it for each that the program uses)"
                        )
                    }
                    None => "see portgrant exec --help for the valid forms".to_owned(),
                },
            };
            Message::new(format!("{shown} is not a valid endpoint")).why(why).fix(fix)
        }
        ErrorKind::MissingRequiredArgument if word.contains("--listen") => {
            Message::new("no endpoint is given").fix(without_endpoint(arguments))
        }
        ErrorKind::MissingRequiredArgument if word.contains("--daemon") => {
            Message::new("--pid-file, --notify and --log need --daemon").fix("add --daemon, or leave them out")
        }
        ErrorKind::MissingRequiredArgument if word.contains("SERVER") => {
            Message::new("no server is given").fix("add SERVER at the end; or see portgrant recipe for the list")
        }
        ErrorKind::MissingRequiredArgument if word.contains("FROM") => Message::new("nothing to import is given")
            .fix("expected authbind, inetd, xinetd, tcpserver or systemd, and the files"),
        ErrorKind::MissingRequiredArgument if word.contains("--to") => {
            Message::new("no server is given").fix("add --to PATH (the server's own Unix socket)")
        }
        ErrorKind::MissingRequiredArgument if word.contains("PROGRAM") => {
            Message::new("no program is given").fix("add PROGRAM [ARG...] at the end")
        }
        ErrorKind::MissingRequiredArgument if word.contains("PORT") => {
            Message::new("no port is given").fix("expected PORT, as in 80, 53/udp, 127.0.0.1:25 or nntp")
        }
        ErrorKind::MissingRequiredArgument => {
            Message::new("no endpoint is given").fix("expected ENDPOINT, as in 80 or 127.0.0.1:53/udp")
        }
        ErrorKind::UnknownArgument if word.starts_with('-') => {
            Message::new(format!("'{word}' is not an option here")).fix(other_option(&word, arguments))
        }
        ErrorKind::UnknownArgument => {
            Message::new(format!("'{word}' is not expected here")).fix(match command_of(arguments) {
                "list" if is_endpoint(&word) => format!("to ask about an endpoint, run: portgrant explain {word}"),
                "list" => format!("write --as-user {}", shell_word(&word)),
                "pass" => format!("write -l {word}"),
                command => format!("see portgrant {command} --help"),
            })
        }
        ErrorKind::InvalidSubcommand => {
            let word = context(ContextKind::InvalidSubcommand);
            Message::new(format!("'{word}' is not a command")).fix(other_command(&word, arguments))
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Message::new("no command is given").fix(format!("expected {}; see portgrant --help", commands()))
        }
        ErrorKind::InvalidValue if word.contains("--as") && !value.is_empty() => crate::servers::unknown(&value),
        ErrorKind::InvalidValue if word.contains("SERVER") && !value.is_empty() => crate::servers::no_recipe(&value),
        ErrorKind::InvalidValue if value.is_empty() => Message::new(format!("{word} needs a value")).fix("see --help"),
        ErrorKind::InvalidValue => {
            let known = match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(known)) => format!("expected {}", listed(known.iter().map(String::as_str))),
                _ => "see --help".to_owned(),
            };
            let option = word.split(' ').next().unwrap_or_default();
            Message::new(format!("'{value}' is not a valid value for {option}")).fix(known)
        }
        ErrorKind::ArgumentConflict => conflict(error, &word),
        _ => Message::new(printable(first_line(&error.to_string()).as_bytes())).fix("see --help"),
    }
}

/// The requested command.
fn command_of(arguments: &[OsString]) -> &str {
    let words = arguments.iter().skip(1).filter_map(|word| word.to_str());
    words.into_iter().find(|word| !word.starts_with('-')).unwrap_or_default()
}

/// What to do about `exec` or `pass` without an endpoint.
fn without_endpoint(arguments: &[OsString]) -> String {
    const EXPECTED: &str = "expected -l ENDPOINT, as in -l 80 or -l 127.0.0.1:53/udp";
    let after_dashes = arguments.iter().position(|word| word == "--").map(|at| at + 1);
    let dashed = after_dashes.map(|at| arguments.get(at..).unwrap_or_default()).unwrap_or_default();
    let bare =
        arguments.get(2..).filter(|words| words.first().is_some_and(|word| !is_option(word))).unwrap_or_default();
    if let Some(endpoint) = bare.first().filter(|word| is_number(word)) {
        let endpoint = printable(endpoint.as_encoded_bytes());
        return format!("write -l {endpoint} instead of {endpoint}");
    }
    let program = if dashed.is_empty() { bare } else { dashed };
    if program.is_empty() || command_of(arguments) != "exec" {
        return EXPECTED.to_owned();
    }
    format!("{EXPECTED}; or, if the program binds its port itself, run: portgrant run -- {}", shell_words(program))
}

fn is_option(word: &OsString) -> bool {
    word.as_encoded_bytes().starts_with(b"-")
}

/// Whether `word` is an endpoint with a numeric port, so probably not a program.
fn is_number(word: &OsString) -> bool {
    Endpoint::from_os(word).is_ok_and(|endpoint| matches!(endpoint.port, AskedPort::Number(_)))
}

/// Whether `word` is an endpoint and not the name of a user.
fn is_endpoint(word: &str) -> bool {
    let is_user = || matches!(User::from_name(word), Ok(Some(_)));
    word.parse::<Endpoint>().is_ok_and(|endpoint| match &endpoint.port {
        AskedPort::Number(_) => true,
        AskedPort::Service(name) => {
            let services = Services::system().unwrap_or_default();
            services.port(name, endpoint.protocol).is_some() && !is_user()
        }
    })
}

/// What to type instead of an unknown option.
fn other_option(word: &str, arguments: &[OsString]) -> String {
    let grammar = Arguments::command();
    let command = grammar.find_subcommand(command_of(arguments));
    let name = command.map(clap::Command::get_name).unwrap_or_default();
    let known = || command.into_iter().flat_map(clap::Command::get_arguments).filter_map(clap::Arg::get_long);
    let option = word.split('=').next().unwrap_or_default();
    let mut of_exec = grammar.find_subcommand("exec").into_iter().flat_map(clap::Command::get_arguments);
    let is_of_exec = |known: &clap::Arg| {
        let short = known.get_short().map(|short| format!("-{short}"));
        let long = known.get_long().map(|long| format!("--{long}"));
        [short, long].contains(&Some(option.to_owned()))
    };
    if command.is_none() && of_exec.any(is_of_exec) {
        return format!("run: portgrant exec {}", shell_words(arguments.get(1..).unwrap_or_default()));
    }
    let near = || option.strip_prefix("--").and_then(|long| nearest(long, known())).map(|near| format!("--{near}"));
    match corrections::option(name, word).map(str::to_owned).or_else(near) {
        Some(other) => format!("write {other} instead"),
        None if ["exec", "run"].contains(&name) => {
            format!("see portgrant {name} --help (the program's own options stand behind the program)")
        }
        None => format!("see portgrant {name} --help for the options"),
    }
}

/// What to type instead of an unknown command.
fn other_command(word: &str, arguments: &[OsString]) -> String {
    let grammar = Arguments::command();
    let known = grammar.get_subcommands().map(clap::Command::get_name);
    if let Some(command) = corrections::command(word) {
        return format!("write portgrant {command}");
    }
    let rest = arguments.iter().position(|argument| printable(argument.as_encoded_bytes()) == word);
    let rest = rest.and_then(|at| arguments.get(at..)).unwrap_or_default();
    if rest.first().is_some_and(|name| !word.is_empty() && program::find(name, &path()).is_ok()) {
        return format!("run: portgrant run -- {}", shell_words(rest));
    }
    if let Some(command) = nearest(word, known) {
        return format!("write portgrant {command}");
    }
    if rest.first().is_some_and(is_number) {
        let program = rest.iter().skip(1).skip_while(|word| *word == "--").cloned().collect::<Vec<_>>();
        let program = if program.is_empty() { "PROGRAM".to_owned() } else { shell_words(&program) };
        return format!("run: portgrant exec -l {word} -- {program}");
    }
    format!("expected {}", commands())
}

/// PATH as an environment.
fn path() -> Vec<CString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    CString::new([b"PATH=", path.as_encoded_bytes()].concat()).into_iter().collect()
}

fn shell_words(words: &[OsString]) -> String {
    let words = words.iter().map(|word| shell_word(&printable(word.as_encoded_bytes())));
    words.collect::<Vec<_>>().join(" ")
}

/// `word`, quoted for a shell if necessary.
fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-[]{}".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The same option twice, or two that exclude each other.
fn conflict(error: &clap::Error, word: &str) -> Message {
    let others: Vec<String> = match error.get(ContextKind::PriorArg) {
        Some(ContextValue::String(other)) => vec![other.clone()],
        Some(ContextValue::Strings(others)) => others.clone(),
        _ => Vec::new(),
    };
    match others.iter().find(|other| *other != word) {
        Some(other) => Message::new(format!("{word} cannot be used with {}", printable(other.as_bytes())))
            .fix(format!("leave out {word}; or leave out {}", printable(other.as_bytes()))),
        None => Message::new(format!("{word} is given twice")).fix(format!("leave out one {word}")),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().map_or("", |line| line.trim_start_matches("error: "))
}

fn commands() -> String {
    let command = Arguments::command();
    listed(command.get_subcommands().map(clap::Command::get_name).filter(|&name| name != "help"))
}

/// `one, two or three`
fn listed<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let mut words: Vec<&str> = words.collect();
    let last = words.pop().unwrap_or_default();
    if words.is_empty() { last.to_owned() } else { format!("{} or {last}", words.join(", ")) }
}
