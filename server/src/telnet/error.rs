//! Errors of a program on a pseudo-terminal.

use std::io;
use std::path::PathBuf;

use crate::failure::{Report, failure, shown};

/// Why a program does not run on a terminal
#[derive(Debug)]
#[non_exhaustive]
pub enum TelnetError {
    /// No terminal could be opened
    Terminal {
        /// Why not
        source: io::Error,
    },
    /// The program on the terminal could not be started
    Program {
        /// Its path
        program: PathBuf,
        /// Why not
        source: io::Error,
    },
}

impl TelnetError {
    pub(super) fn report(&self) -> Report<'_> {
        match self {
            TelnetError::Terminal { source } => Report::what("cannot open a terminal")
                .because(source)
                .fix("check that /dev/ptmx and /dev/pts exist, and that a terminal is free (kernel.pty.max)"),
            TelnetError::Program { program, source } => Report::what(format!("cannot run {}", shown(program)))
                .because(source)
                .fix("give a program in PATH, or the path of one, that this user may execute"),
        }
    }
}

failure!(TelnetError);
