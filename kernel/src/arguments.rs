//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use portgrant_protocol::text::printable;

use crate::Error;
use crate::show::Form;

const AFTER: &str = "\
Examples:
  portgrant-kernel load                       for every process of this network
  portgrant-kernel load --cgroup /sys/fs/cgroup/system.slice
  portgrant-kernel reload                     after a change of /etc/portgrant.conf
  portgrant-kernel show                       what holds, since when, what was left out

What the kernel cannot see, it does not decide: rules with exec, dev or sctp, and groups but
for the real gid. Such permits are left out, and named; such a deny makes load fail.

Exit status: 0, or
   64  the command line is wrong          77  not root, or without CAP_BPF
   69  loaded already, or not loaded      78  the policy, or what is pinned, is broken
   71  the system failed";

/// Put the policy into the kernel: programs just call bind(2), no wrapper, no descriptor to pass.
///
/// The policy of /etc/portgrant.conf and /etc/portgrant.d/*.conf becomes a cgroup-BPF program. It stays in force until
/// it is unloaded; this program ends at once.
#[derive(Debug, Parser)]
#[command(name = "portgrant-kernel", version, after_help = AFTER, max_term_width = 100)]
pub struct Arguments {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Load the policy, and attach it to a cgroup
    Load(Load),
    /// Put the policy as it is now in force, at once; where it is malformed, the old one stays
    Reload,
    /// Detach the policy, and leave nothing of it in the kernel
    Unload,
    /// Say what is loaded: since when, from which files, what was left out, for which cgroup and network
    Show(Show),
    /// Write each grant to syslog, as long as this runs and the policy is loaded
    Audit,
}

/// How to load.
#[derive(Debug, Default, Args)]
pub struct Load {
    /// The cgroup that it holds in, with all below [default: all processes]
    #[arg(long, value_name = "FOLDER")]
    pub cgroup: Option<PathBuf>,
    /// Make a rule for a group into one for each member, by /etc/passwd and /etc/group
    ///
    /// Otherwise such a permit holds for a real gid alone, and such a deny cannot be decided. A process that has a group
    /// by other means than its account is then neither permitted nor denied by it.
    #[arg(long)]
    pub expand_groups: bool,
    /// Say what would be loaded, and load nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// How to show.
#[derive(Debug, Args)]
pub struct Show {
    /// As text for people, or as JSON for programs
    #[arg(long, value_enum, value_name = "FORM", default_value_t = Form::Text)]
    pub format: Form,
}

/// Reads argv.
#[expect(clippy::wildcard_enum_match_arm, reason = "what clap finds, it says well enough")]
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, Error> {
    Arguments::try_parse_from(arguments).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Error::Answered(error.render().to_string()),
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Error::Usage {
            what: "no command is given".to_owned(),
            fix: "expected load, reload, unload, show or audit; see portgrant-kernel --help".to_owned(),
        },
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            Error::Usage { what: printable(first.as_bytes()), fix: "see portgrant-kernel --help".to_owned() }
        }
    })
}
