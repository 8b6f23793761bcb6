//! `portgrant recipe`'s options.

use crate::recipe;

/// `portgrant recipe`
#[derive(Debug, clap::Args)]
pub struct Recipe {
    /// The server; without it, print the list of known servers
    #[arg(value_name = "SERVER", value_parser = recipe::names(), hide_possible_values = true)]
    pub server: Option<String>,
}
