//! `portgrant explain`'s options.

use std::ffi::OsString;

use clap::ValueHint;
use portgrant_protocol::Endpoint;

use super::{ENDPOINTS, Format, endpoint};

const STATUS: &str = "\
Exit status: 0 where all of it is permitted, 77 where any of it is refused, 78 where the policy is broken.";

/// `portgrant explain`
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{ENDPOINTS}\n\n{STATUS}"))]
pub struct Explain {
    /// What is asked about, one or several
    #[arg(value_name = "ENDPOINT", value_parser = endpoint(), required_unless_present_any = ["listen", "why_denied"], allow_negative_numbers = true)]
    pub endpoints: Vec<Endpoint>,
    /// The same, written as for `portgrant exec`
    #[arg(short, long, value_name = "ENDPOINT", value_parser = endpoint(), allow_hyphen_values = true)]
    pub listen: Vec<Endpoint>,
    /// Tell what programs of yours were refused lately under portgrant run, which themselves see EACCES and no more
    #[arg(long, conflicts_with_all = ["endpoints", "listen", "user", "program"])]
    pub why_denied: bool,
    /// Another user than the one who asks, as a login would give their groups
    #[arg(long = "as-user", alias = "for", value_name = "NAME", value_hint = ValueHint::Username)]
    pub user: Option<OsString>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "each option in it has its own text")]
    pub format: Format,
    /// The program that would be executed; rules may be bound to one
    #[arg(last = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
}
