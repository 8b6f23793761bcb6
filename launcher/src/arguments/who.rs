//! `portgrant who`'s options.

use portgrant_protocol::Endpoint;
use portgrant_protocol::text::printable;

use super::Format;

/// `portgrant who`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  portgrant who 80              every socket on port 80, tcp and udp
  portgrant who 127.0.0.1:53    the sockets that block this address
  portgrant who nntp/tcp        by service name, one protocol

Every user sees the addresses, owners and control groups of this network namespace. You see the programs and pids \
of your own processes; root sees all.

Exit status: 0 if a socket holds the port, 1 if none does (TIME_WAIT does not count).")]
pub struct Who {
    /// The ports to check
    #[arg(help = "The port to check: [ADDRESS:]PORT[/PROTOCOL]; without a protocol, tcp and udp", value_name = "PORT", required = true, value_parser = place)]
    pub places: Vec<Place>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "each option in it has its own text")]
    pub format: Format,
}

/// An endpoint, and whether its protocol was given.
#[derive(Debug, Clone)]
pub struct Place {
    /// The endpoint
    pub endpoint: Endpoint,
    /// Whether the protocol was given
    pub has_protocol: bool,
}

fn place(word: &str) -> Result<Place, portgrant_protocol::EndpointError> {
    let endpoint: Endpoint = word.parse()?;
    // Neither a name nor an address can contain a slash.
    let has_protocol = printable(word.as_bytes()).split(',').next().is_some_and(|place| place.contains('/'));
    Ok(Place { endpoint, has_protocol })
}
