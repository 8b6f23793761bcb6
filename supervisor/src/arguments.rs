//! The command line, which `portgrant run` writes:
//!
//! `portgrant-supervisor [--verbose] [--parent] [--refusals FILE] HELPER PROGRAM ARGV0 [ARG...]`

use std::ffi::{CString, OsString};
use std::path::PathBuf;

use portgrant_sys::{OnlyThread, Start};

use crate::Error;

/// How the supervisor is related to the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a separate session, not related to the program
    Detached,
    /// It is the program's parent
    Parent,
}

/// The command line.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) place: Place,
    pub(crate) verbose: bool,
    pub(crate) refusals: Option<PathBuf>,
    /// The helper's path
    pub(crate) helper: PathBuf,
    /// The program's path
    pub(crate) program: PathBuf,
    /// Its argv
    pub(crate) arguments: Vec<OsString>,
    /// Its envp
    pub(crate) environment: Vec<CString>,
    /// For fork(2)
    pub(crate) only_thread: OnlyThread,
}

pub(crate) fn parse(start: Start, only_thread: OnlyThread) -> Result<Asked, Error> {
    const EXPECTED: &str = "expected [--verbose] [--parent] [--refusals FILE] HELPER PROGRAM ARGV0 [ARG...]";
    let (mut place, mut verbose, mut refusals) = (Place::Detached, false, None);
    let mut words = start.arguments.into_iter().skip(1);
    let helper = loop {
        let word = words.next().ok_or(Error::Usage(EXPECTED))?;
        match word.to_str() {
            Some("--verbose") => verbose = true,
            Some("--parent") => place = Place::Parent,
            Some("--refusals") => refusals = words.next().map(PathBuf::from),
            Some(option) if option.starts_with('-') => return Err(Error::Usage(EXPECTED)),
            _ => break PathBuf::from(word),
        }
    };
    let program = words.next().map(PathBuf::from).ok_or(Error::Usage(EXPECTED))?;
    let arguments: Vec<OsString> = words.collect();
    if arguments.is_empty() {
        return Err(Error::Usage(EXPECTED));
    }
    Ok(Asked { place, verbose, refusals, helper, program, arguments, environment: start.environment, only_thread })
}
