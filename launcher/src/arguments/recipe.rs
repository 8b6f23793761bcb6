//! `portgrant recipe`'s options.

use std::path::PathBuf;

use crate::servers;

/// `portgrant recipe`
#[derive(Debug, clap::Args)]
pub struct Recipe {
    /// The server; without it, print the list of known servers
    #[arg(value_name = "SERVER", value_parser = servers::names(), hide_possible_values = true)]
    pub server: Option<String>,
    /// Write the files of the recipe to FOLDER; no file that exists is replaced
    #[arg(long, value_name = "FOLDER", requires = "server")]
    pub write: Option<PathBuf>,
}
