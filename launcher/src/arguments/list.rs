//! `portgrant list`'s options.

use std::ffi::OsString;

use clap::ValueHint;

use super::Format;

/// `portgrant list`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each rule that permits something, in the policy's order: its ports as they are written, the rule, and every deny that \
takes some of it (except) or all (nothing).

Exit status: 0, even if nothing is permitted; 78 if the policy is broken.")]
pub struct List {
    /// List for another user, a name or uid:N, with the groups of a login
    #[arg(long = "as-user", alias = "for", value_name = "NAME", value_hint = ValueHint::Username)]
    pub user: Option<OsString>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "each option in it has its own text")]
    pub format: Format,
}
