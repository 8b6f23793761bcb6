//! `portgrant check`'s options.

use std::path::PathBuf;

use super::Format;

/// `portgrant check`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Errors make the whole policy void. Warnings do not: rules that do nothing because another denies or permits all of \
it, unknown names, programs that are not there or not root's, interpreters, dev for udp, ports that NFS with sec=sys \
trusts.

Exit status: 0 where it is well-formed, warnings or not; 78 where it is broken.")]
pub struct Check {
    /// Drafts to read instead of the installed policy, /etc/portgrant.conf and /etc/portgrant.d/*.conf
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "each option in it has its own text")]
    pub format: Format,
}
