//! `portgrant import`'s options.

use std::path::PathBuf;

/// `portgrant import`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
import never permits more than the files did. It prints a remark for each setting that portgrant does not have. If an \
entry would permit more without that setting, import leaves the entry out.

Without FILE, authbind reads /etc/authbind, inetd reads /etc/inetd.conf, and xinetd reads /etc/xinetd.conf. tcpserver \
reads a run script. systemd reads a .socket file with its .service.

Exit status: 0 if everything was imported, 1 if something was left out.")]
pub struct Import {
    /// Where the files come from: authbind, inetd, xinetd, tcpserver or systemd
    #[arg(value_name = "FROM", value_enum, hide_possible_values = true)]
    pub from: Origin,
    /// The files
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Write the policy and the units to FOLDER instead of printing them; no file that exists is replaced
    #[arg(long, value_name = "FOLDER")]
    pub write: Option<PathBuf>,
}

/// Where files come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Origin {
    /// /etc/authbind
    Authbind,
    /// inetd.conf
    Inetd,
    /// xinetd.conf and what it includes
    Xinetd,
    /// A run script
    Tcpserver,
    /// A socket unit and its service
    Systemd,
}
