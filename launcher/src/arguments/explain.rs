//! `portgrant explain`'s options.

use std::ffi::OsString;

use portgrant_protocol::Endpoint;

use super::{ENDPOINTS, endpoint};

/// `portgrant explain`
#[derive(Debug, clap::Args)]
#[command(after_help = ENDPOINTS)]
pub struct Explain {
    /// What is asked about; repeatable
    #[arg(short, long, value_name = "ENDPOINT", value_parser = endpoint(), allow_hyphen_values = true)]
    pub listen: Vec<Endpoint>,
    /// What is asked about, without -l
    #[arg(value_name = "ENDPOINT", value_parser = endpoint(), required_unless_present = "listen", allow_negative_numbers = true)]
    pub endpoints: Vec<Endpoint>,
    /// Another user than the one who asks
    #[arg(long = "for", value_name = "USER")]
    pub user: Option<OsString>,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
    /// The program that would be executed; rules may be bound to one
    #[arg(last = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
}
