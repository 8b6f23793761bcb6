//! `portgrant-explain`: prints what the policy decides (explain, list, check), and turns files of other programs into
//! rules (import). Binds nothing.
//!
//! Runs without privilege, in the launcher's place: `portgrant explain` becomes it. It uses the same `decide` as the
//! helper, of the crate policy, so the answers agree. Code that only reports is not part of the privileged program.

#![forbid(unsafe_code)]

mod account;
mod advice;
mod arguments;
mod authbind;
mod candidates;
mod check;
mod datagrams;
mod denied_groups;
mod explain;
mod finding;
mod import;
mod installation;
mod lines;
mod list;
mod names;
mod nfs;
mod obstacle;
mod open_ports;
mod output;
mod relation;
mod subid_source;

use std::process::ExitCode;

use portgrant_protocol::Message;

use crate::arguments::Command;

fn main() -> ExitCode {
    let done = Command::parse(std::env::args_os()).and_then(|command| match command {
        Command::Explain(asked) => explain::explain(asked),
        Command::List { user, owns_network, format } => list::list(user.as_deref(), owns_network, format),
        Command::Check { files, is_strict, owns_network, format } => {
            check::check(files, is_strict, owns_network, format)
        }
        Command::Import(asked) => import::import(&asked),
        Command::Help => output::print(arguments::HELP),
        Command::Version => output::print(concat!("portgrant-explain ", env!("CARGO_PKG_VERSION"), "\n")),
    });
    done.unwrap_or_else(|message: Box<Message>| output::complain(&message)).into()
}
