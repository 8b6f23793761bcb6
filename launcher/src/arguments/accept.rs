//! `portgrant exec --accept`'s options, and what they go with.

use std::path::PathBuf;

use clap::builder::TypedValueParser;
use ipnet::IpNet;
use portgrant_protocol::{Endpoint, Protocol};
use portgrant_server::Message;

use super::life::{absolute, parsed};
use crate::Error;
use crate::accept::{self, MaxRate};

/// How many programs run at once where nothing else is said: tcpserver's number.
const MAX_CONNS: u32 = 40;

/// Options about clients, whom only the program of a udp socket knows.
const OF_CLIENTS: [&str; 4] = ["--allow", "--deny", "--access", "--max-rate"];

/// A program for each connection.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "A program for each connection")]
pub struct Accept {
    /// Start a program for each connection, which is its descriptors 0 and 1; TCPREMOTEIP and the other UCSPI-TCP
    /// variables hold both addresses. A udp socket goes to one program at a time, like a wait service of inetd
    #[arg(long)]
    pub accept: bool,
    /// At most N connections at once (40 if not given); more wait
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_conns: Option<u32>,
    /// At most N connections at once from one IPv4 address or IPv6 /64; more are closed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_per_source: Option<u32>,
    /// Serve only clients in PREFIX, such as 10.0.0.0/8 or ::1; others are closed; repeatable
    #[arg(long, value_name = "PREFIX", value_parser = prefix())]
    pub allow: Vec<IpNet>,
    /// Close connections from clients in PREFIX, even if --allow contains them; repeatable
    #[arg(long, value_name = "PREFIX", value_parser = prefix())]
    pub deny: Vec<IpNet>,
    /// Read who may connect from FILE, with rules as for tcprules(1); it is read again when it changes
    #[arg(long, value_name = "FILE", value_parser = absolute())]
    pub access: Option<PathBuf>,
    /// Accept at most N connections a second; if more come, all wait for SECONDS (10 if not given)
    #[arg(long, value_name = "N[:SECONDS]", value_parser = rate())]
    pub max_rate: Option<MaxRate>,
    /// End a connection on which nothing was sent or received for SECONDS
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub idle_timeout: Option<u32>,
    /// Set TCPREMOTEHOST and TCPLOCALHOST to the names of both ends, from /etc/hosts or DNS; a name is used only if it
    /// has the address, and each lookup takes at most 5 seconds
    #[arg(long, overrides_with = "no_lookup")]
    pub lookup: bool,
    /// Do not look up names; this is the default
    #[arg(long, overrides_with = "lookup")]
    pub no_lookup: bool,
}

impl Accept {
    /// How many connections there may be at once.
    pub(crate) fn limit(&self) -> usize {
        usize::try_from(self.max_conns.unwrap_or(MAX_CONNS)).unwrap_or(usize::MAX)
    }

    /// What clap cannot say: which options go together.
    pub(super) fn check(&self, listen: &[Endpoint]) -> Result<(), Error> {
        let usage = |what: String, fix: &str| Err(Error::Usage(Box::new(Message::new(what).fix(fix))));
        let given = [
            ("--max-conns", self.max_conns.is_some()),
            ("--max-per-source", self.max_per_source.is_some()),
            ("--allow", !self.allow.is_empty()),
            ("--deny", !self.deny.is_empty()),
            ("--access", self.access.is_some()),
            ("--max-rate", self.max_rate.is_some()),
            ("--idle-timeout", self.idle_timeout.is_some()),
            ("--lookup", self.lookup),
            ("--no-lookup", self.no_lookup),
        ];
        if let Some((option, _)) = given.iter().find(|(_, given)| *given && !self.accept) {
            return usage(
                format!("{option} needs --accept"),
                "add --accept, which starts a program for each connection",
            );
        }
        let udp = listen.iter().find(|endpoint| !endpoint.protocol.is_stream());
        let of_clients = given.iter().find(|(option, given)| *given && OF_CLIENTS.contains(option));
        if let (Some((option, _)), Some(endpoint)) = (of_clients, udp) {
            let what = format!("{option} cannot be used with {endpoint}");
            return usage(what, "leave it out: a program reads datagrams by itself, whoever sent them");
        }
        let sctp = listen.iter().find(|endpoint| endpoint.protocol == Protocol::Sctp);
        if let (Some(_), Some(endpoint)) = (self.idle_timeout, sctp) {
            let what = format!("--idle-timeout cannot be used with {endpoint}");
            return usage(what, "leave it out: the kernel reports idle time only for tcp");
        }
        Ok(())
    }
}

fn prefix() -> impl TypedValueParser<Value = IpNet> {
    parsed(|word| accept::prefix(word.to_str().unwrap_or_default()))
}

fn rate() -> impl TypedValueParser<Value = MaxRate> {
    parsed(|word| MaxRate::parse(word.to_str().unwrap_or_default()))
}
