//! `portgrant import`'s options.

use std::path::PathBuf;

/// `portgrant import`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Nothing becomes wider than it was. What has no equal is a remark. An entry that would permit more without it is left out.
authbind reads /etc/authbind, inetd /etc/inetd.conf and xinetd /etc/xinetd.conf if no FILE is given. tcpserver reads a run
script, and systemd a .socket with its .service.

Exit status: 0 if everything was taken over, 1 if something was left out.")]
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

impl Origin {
    /// Its word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Origin::Authbind => "authbind",
            Origin::Inetd => "inetd",
            Origin::Xinetd => "xinetd",
            Origin::Tcpserver => "tcpserver",
            Origin::Systemd => "systemd",
        }
    }
}
