//! `portgrant run`'s options.

use std::ffi::OsString;

use portgrant_protocol::{Address, Endpoint, Options};
use portgrant_server::Message;

use super::{distinct, endpoint};
use crate::Error;

const LIMITS: &str = "\
An ENDPOINT is [ADDRESS:]PORT[/PROTOCOL] here, as 80, 127.0.0.1:25 or 53/udp: the
program makes its sockets itself. Without -l, each bind is decided when it happens.

The program runs under no_new_privs: setuid programs that it starts,
such as sudo or sendmail, gain no privilege. If the program can take a socket,
use portgrant exec, which does not have this limit.";

/// `portgrant run`
#[derive(Debug, clap::Args)]
#[command(after_help = LIMITS)]
pub struct Run {
    /// An endpoint that the program will bind; the policy is asked before the start, so a refusal is reported at once
    #[arg(short, long, value_name = "ENDPOINT", value_parser = endpoint(), allow_hyphen_values = true)]
    pub listen: Vec<Endpoint>,
    /// The program, a path or a name to look up in PATH, and its arguments; -- before it may be left out
    #[arg(trailing_var_arg = true, required = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
}

impl Run {
    /// Refuses names and options: the program makes its own sockets, so an endpoint is only an address here.
    pub(super) fn check(&self) -> Result<(), Error> {
        let with_more = |asked: &&Endpoint| {
            asked.options != Options::default() || asked.name.is_some() || asked.address == Address::Each
        };
        match self.listen.iter().find(with_more) {
            None => distinct(&self.listen),
            Some(asked) => Err(Error::Usage(Box::new(
                Message::new(format!("'{asked}' has a name, an option or 'each', which portgrant run does not take"))
                    .why("the program makes its own sockets, and sets their options")
                    .fix("expected [ADDRESS:]PORT[/PROTOCOL]"),
            ))),
        }
    }
}
