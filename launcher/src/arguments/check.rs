//! `portgrant check`'s options.

use std::path::PathBuf;

use super::Format;

/// `portgrant check`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
An error makes the whole policy invalid. Warnings do not: rules that another rule makes useless, unknown names, \
programs that do not exist or that others than root can change, interpreters, addresses and dev for udp, ports that NFS \
with sec=sys trusts, and files in /etc/portgrant.d that are skipped.

Exit status: 0 if the policy is well-formed, even with warnings; with --strict, 1 if there are warnings; 78 if it is \
broken.")]
pub struct Check {
    /// Drafts to read instead of the installed policy, /etc/portgrant.conf and /etc/portgrant.d/*.conf
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Exit with 1 if there are warnings
    #[arg(long)]
    pub strict: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "each option in it has its own text")]
    pub format: Format,
}
