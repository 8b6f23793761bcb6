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
  portgrant-kernel show                       what is loaded, since when, what was left out

The kernel sees no program, no interface, no sctp and no supplementary groups. load leaves out
permits that need them and prints their names. A deny for a group makes load fail.

Exit status: 0, or
   64  the command line is wrong          77  not root, or without CAP_BPF
   69  loaded already, or not loaded      78  the policy or the pinned files are broken
   71  the system failed";

/// Load the policy into the kernel, so that programs bind their ports without a wrapper.
///
/// The policy of /etc/portgrant.conf and /etc/portgrant.d/*.conf becomes a cgroup-BPF program. It stays active
/// until it is unloaded. portgrant-kernel itself ends at once.
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
    /// Replace the loaded policy with the installed one; if that is malformed, the old one stays active
    Reload,
    /// Detach the policy, and remove everything from the kernel
    Unload,
    /// Print what is loaded: since when, from which files, for which cgroup and network, and what was left out
    Show(Show),
    /// Write each grant to syslog, until the policy is unloaded
    Audit,
}

/// How to load.
#[derive(Debug, Default, Args)]
pub struct Load {
    /// The cgroup to which the policy applies, with all cgroups below it [default: all processes]
    #[arg(long, value_name = "FOLDER")]
    pub cgroup: Option<PathBuf>,
    /// Replace a rule for a group by one rule for each member in /etc/passwd and /etc/group
    ///
    /// Without this option, a permit for a group applies only to processes with that real group id, and a deny for a
    /// group makes load fail. With it, a process that has the group by other means than its account is not a member.
    #[arg(long)]
    pub expand_groups: bool,
    /// Print what would be loaded, and load nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// How to show.
#[derive(Debug, Args)]
pub struct Show {
    /// Text for people, or JSON for programs
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
