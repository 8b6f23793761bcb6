//! `portgrant pass`'s options.

use std::path::PathBuf;

use portgrant_protocol::Endpoint;

use super::{ENDPOINTS, endpoint};

/// `portgrant pass`
#[derive(Debug, clap::Args)]
#[command(after_help = ENDPOINTS)]
pub struct Pass {
    /// A socket to send; repeatable; all are bound or none
    #[arg(short, long, value_name = "ENDPOINT", required = true, value_parser = endpoint(), allow_hyphen_values = true)]
    pub listen: Vec<Endpoint>,
    /// The running server's Unix socket (SOCK_SEQPACKET), made by Mailbox of portgrant-server
    #[arg(long, value_name = "PATH")]
    pub to: PathBuf,
}
