//! `portgrant list`'s options.

use std::ffi::OsString;

use clap::ValueHint;

use super::Format;

/// `portgrant list`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
list prints each rule that permits something, in the order of the policy. Below a rule it prints the denies that take \
away a part of it (except) or all of it (nothing).

Exit status: 0, even if nothing is permitted; 78 if the policy is broken.")]
pub struct List {
    /// List for another user (a name, a number or uid:N), with the groups that a login gives
    #[arg(long = "as-user", alias = "for", value_name = "NAME", value_hint = ValueHint::Username)]
    pub user: Option<OsString>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "each option in it has its own text")]
    pub format: Format,
}
