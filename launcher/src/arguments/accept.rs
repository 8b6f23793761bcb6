//! The options of `portgrant exec --accept`, and which options go together.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::TypedValueParser;
use ipnet::IpNet;
use portgrant_protocol::{Endpoint, Protocol, decimal};
use portgrant_server::Message;

use super::life::{absolute, parsed};
use crate::Error;

/// How many programs run at once by default, as in tcpserver.
const MAX_CONNS: u32 = 40;

/// Options about clients. They do not work for udp, where only the program sees the clients.
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
    /// At most N connections at once from one IPv4 address or IPv6 /64; further ones are closed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_per_source: Option<u32>,
    /// Serve only clients in PREFIX, such as 10.0.0.0/8 or ::1; others are closed; repeatable
    #[arg(long, value_name = "PREFIX", value_parser = prefixes())]
    pub allow: Vec<IpNet>,
    /// Close connections from clients in PREFIX, even if --allow contains them; repeatable
    #[arg(long, value_name = "PREFIX", value_parser = prefixes())]
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

/// How many connections are accepted in a second, and how long the pause is if more come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxRate {
    pub(crate) most: u32,
    pub(crate) rest: Duration,
}

impl Accept {
    /// How many connections there may be at once.
    pub(crate) fn limit(&self) -> usize {
        usize::try_from(self.max_conns.unwrap_or(MAX_CONNS)).unwrap_or(usize::MAX)
    }

    /// Checks what clap cannot: which options go together.
    pub(super) fn check(&self, listen: &[Endpoint]) -> Result<(), Error> {
        let usage = |what: String, fix: String| Err(Error::Usage(Box::new(Message::new(what).fix(fix))));
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
                "add --accept (it starts a program for each connection)".to_owned(),
            );
        }
        let udp = listen.iter().find(|endpoint| !endpoint.protocol.is_stream());
        let of_clients = given.iter().find(|(option, given)| *given && OF_CLIENTS.contains(option));
        if let (Some((option, _)), Some(endpoint)) = (of_clients, udp) {
            let what = format!("{option} cannot be used with {endpoint}");
            return usage(what, format!("leave out {option} (the program itself reads datagrams from all senders)"));
        }
        let sctp = listen.iter().find(|endpoint| endpoint.protocol == Protocol::Sctp);
        if let (Some(_), Some(endpoint)) = (self.idle_timeout, sctp) {
            let what = format!("--idle-timeout cannot be used with {endpoint}");
            return usage(what, "leave out --idle-timeout (the kernel reports idle time only for tcp)".to_owned());
        }
        Ok(())
    }
}

impl MaxRate {
    /// `N` or `N:SECONDS`.
    fn parse(word: &str) -> Result<MaxRate, &'static str> {
        const EXPECTED: &str = "expected N or N:SECONDS, as in 50:10";
        let number = |text: &str| decimal::<u32>(text.as_bytes()).ok_or(EXPECTED);
        let (most, rest) = word.split_once(':').unwrap_or((word, "10"));
        let (most, rest) = (number(most)?, number(rest)?);
        if most == 0 || rest > 86_400 {
            return Err(EXPECTED);
        }
        Ok(MaxRate { most, rest: Duration::from_secs(rest.into()) })
    }
}

/// A prefix: an address, or a network with its length. Bits beyond the length are an error.
pub(crate) fn prefix(word: &str) -> Result<IpNet, &'static str> {
    let address = word.parse::<IpAddr>().map(IpNet::from).ok();
    let parsed = address.or_else(|| word.parse::<IpNet>().ok()).filter(|prefix| prefix.trunc() == *prefix);
    parsed.ok_or("expected an address, or a prefix without bits beyond its length, as in 10.0.0.0/8 or 2001:db8::/32")
}

fn prefixes() -> impl TypedValueParser<Value = IpNet> {
    parsed(|word| prefix(word.to_str().unwrap_or_default()))
}

fn rate() -> impl TypedValueParser<Value = MaxRate> {
    parsed(|word| MaxRate::parse(word.to_str().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_with_optional_seconds() {
        let rate = |most, seconds| Ok(MaxRate { most, rest: Duration::from_secs(seconds) });
        assert_eq!((MaxRate::parse("2:5"), MaxRate::parse("50")), (rate(2, 5), rate(50, 10)));
        for wrong in ["", "0", "1:", "x", "1:2:3", "+1", "1:100000"] {
            assert!(MaxRate::parse(wrong).is_err(), "{wrong}");
        }
    }
}
