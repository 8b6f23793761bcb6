//! `portgrant list`'s options.

use std::ffi::OsString;

use super::Format;

/// `portgrant list`
#[derive(Debug, clap::Args)]
pub struct List {
    /// Another user than the one who asks, as a login would give their groups
    #[arg(long = "as-user", alias = "for", value_name = "NAME")]
    pub user: Option<OsString>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "each option in it has its own text")]
    pub format: Format,
}
