//! `portgrant explain`'s options.

use std::ffi::OsString;

use clap::ValueHint;
use portgrant_protocol::Endpoint;

use super::{ENDPOINTS, Format, endpoint};

const STATUS: &str = "\
Exit status: 0 if every endpoint can be bound, 69 if one is permitted but cannot be bound on this host, 77 if one is \
refused, 78 if the policy is broken.";

/// `portgrant explain`
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{ENDPOINTS}\n\n{STATUS}"))]
pub struct Explain {
    /// One or more endpoints to explain
    #[arg(value_name = "ENDPOINT", value_parser = endpoint(), required_unless_present_any = ["listen", "why_denied"], allow_negative_numbers = true)]
    pub endpoints: Vec<Endpoint>,
    /// The same, written as for `portgrant exec`
    #[arg(short, long, value_name = "ENDPOINT", value_parser = endpoint(), allow_hyphen_values = true)]
    pub listen: Vec<Endpoint>,
    /// Print the recent refusals of your programs under portgrant run; the programs themselves only see EACCES
    #[arg(long, conflicts_with_all = ["endpoints", "listen", "user", "program"])]
    pub why_denied: bool,
    /// Explain for another user (a name, a number or uid:N), with the groups that a login gives
    #[arg(long = "as-user", alias = "for", value_name = "NAME", value_hint = ValueHint::Username)]
    pub user: Option<OsString>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "each option in it has its own text")]
    pub format: Format,
    /// The program that would be executed; a rule may be for one program
    #[arg(last = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
}
