//! `portgrant doctor`'s options.

use super::Format;

/// `portgrant doctor`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It looks at the helper and the folders above it, at what this process may gain, at the policy and the tables of names, \
at the kernel, the log and NFS; it changes nothing. What it finds holds for whoever starts it.

Exit status: 0 where nothing is broken, warnings or not; 78 where something is.")]
pub struct Doctor {
    #[command(flatten)]
    #[allow(missing_docs, reason = "each option in it has its own text")]
    pub format: Format,
}
