//! Who may connect: `--allow`, `--deny` and `--access`. A client must pass all three.
//!
//! A deny beats an allow, as in portgrant.conf(5). The file decides as tcpserver's rules do: by its most specific rule.

mod rules;

use std::ffi::CString;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use log::debug;
use portgrant_protocol::text::printable;
use portgrant_server::Message;

use crate::{Accept, Error};
use rules::Rules;

/// The largest file that is read, in bytes.
const LARGEST: u64 = 16 << 20;

pub(super) struct Access {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
    file: Option<AccessFile>,
}

/// The decision about a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Start the program, with these additional variables
    Allow(Vec<CString>),
    /// Close the connection, for this reason
    Deny(String),
}

/// The file's rules, and when they were read.
struct AccessFile {
    path: PathBuf,
    stamp: Stamp,
    rules: Rules,
}

/// Metadata that changes when the file does. The size is included, since two writes in one clock tick have the same
/// times.
type Stamp = [i64; 7];

impl Access {
    pub(super) fn new(asked: &Accept) -> Result<Access, Error> {
        let file = asked.access.as_deref().map(|path| AccessFile::read(path).map_err(Error::Usage)).transpose()?;
        Ok(Access { allow: asked.allow.clone(), deny: asked.deny.clone(), file })
    }

    /// Reads the file again if it has changed. If the new rules cannot be read, that is an error and the old rules
    /// stay.
    pub(super) fn refresh(&mut self) -> Result<(), Box<Message>> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let stamp = stamp(&file.path).map_err(|error| unreadable(&file.path, &error.to_string()))?;
        if stamp != file.stamp {
            // A wrong file is not reported again until it changes.
            file.stamp = stamp;
            *file = AccessFile::read(&file.path)?;
            debug!("{} was read again", file.path.display());
        }
        Ok(())
    }

    pub(super) fn decide(&self, client: IpAddr) -> Answer {
        let holding = |prefixes: &[IpNet]| prefixes.iter().find(|prefix| prefix.contains(&client)).copied();
        if let Some(prefix) = holding(&self.deny) {
            return Answer::Deny(format!("--deny {prefix} contains it"));
        }
        if !self.allow.is_empty() && holding(&self.allow).is_none() {
            return Answer::Deny("no --allow contains it".to_owned());
        }
        match &self.file {
            None => Answer::Allow(Vec::new()),
            Some(file) => match file.rules.of(client) {
                None => Answer::Allow(Vec::new()),
                Some(rule) if rule.allows => Answer::Allow(rule.variables.clone()),
                Some(rule) => Answer::Deny(format!("line {} of {} denies it", rule.line, shown(&file.path))),
            },
        }
    }
}

impl AccessFile {
    fn read(path: &Path) -> Result<AccessFile, Box<Message>> {
        let failed = |error: std::io::Error| unreadable(path, &error.to_string());
        // Taken before the text is read, so that a later change is noticed.
        let stamp = stamp(path).map_err(failed)?;
        let meta = fs::metadata(path).map_err(failed)?;
        if !meta.is_file() || meta.len() > LARGEST {
            return Err(unreadable(path, "it is not a regular file, or larger than 16 MiB"));
        }
        let text = fs::read_to_string(path).map_err(failed)?;
        if text.is_empty() {
            // The file may just be rewritten. Without rules everybody would be admitted.
            return Err(unreadable(path, "it is empty"));
        }
        let rules = Rules::parse(&text).map_err(|(line, why)| {
            let message = Message::new(format!("line {line} of {} is not a rule", shown(path))).why(why);
            Box::new(message.fix("correct that line: ADDRESS:allow or ADDRESS:deny, as in 10.0.0.0/8:allow"))
        })?;
        Ok(AccessFile { path: path.to_owned(), stamp, rules })
    }
}

fn stamp(path: &Path) -> std::io::Result<Stamp> {
    let meta = fs::metadata(path)?;
    let [device, inode, size] = [meta.dev(), meta.ino(), meta.size()].map(u64::cast_signed);
    Ok([device, inode, size, meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()])
}

fn unreadable(path: &Path, why: &str) -> Box<Message> {
    let message = Message::new(format!("--access {} cannot be read", shown(path))).why(why);
    Box::new(message.fix("name a text file of rules, as tcprules(1) takes it, that the program's user can read"))
}

fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A separate file of rules for this test.
    fn access(name: &str, text: &str) -> (PathBuf, Access) {
        let path = std::env::temp_dir().join(format!("portgrant-access-{}-{name}", std::process::id()));
        fs::write(&path, text).expect("written");
        let access = Access::new(&Accept { access: Some(path.clone()), ..Accept::default() });
        (path, access.map_err(|error| error.to_string()).expect("rules"))
    }

    fn is_served(access: &Access) -> bool {
        access.decide(IpAddr::from([10, 0, 0, 1])) == Answer::Allow(Vec::new())
    }

    #[test]
    fn an_access_file_that_is_empty_while_it_is_replaced_admits_nobody() {
        let (path, mut access) = access("empty", ":deny\n");
        fs::write(&path, "").expect("written");
        assert!(access.refresh().is_err() && !is_served(&access));
        fs::write(&path, ":deny\n# again\n").expect("written");
        assert!(access.refresh().is_ok() && !is_served(&access));
        fs::remove_file(&path).expect("removed");
    }
}
