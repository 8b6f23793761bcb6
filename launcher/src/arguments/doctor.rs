//! `portgrant doctor`'s options.

use super::Format;

/// `portgrant doctor`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
doctor checks the helper and the folders above it, what this process can gain, the policy, the tables of names, the \
kernel, the log and NFS. It changes nothing. Another user can get other results: start it as the user of the server.

Exit status: 0 if nothing is broken, even with warnings; 78 if something is.")]
pub struct Doctor {
    #[command(flatten)]
    #[allow(missing_docs, reason = "each option in it has its own text")]
    pub format: Format,
}
