//! A unit file as systemd.syntax(7) has it, with its drop-ins.

use std::fs;
use std::path::{Path, PathBuf};

use portgrant_protocol::Message;

use crate::import::text_of;

/// Sections, keys and values in their order.
#[derive(Debug, Default)]
pub(super) struct Unit {
    lines: Vec<(String, String, String)>,
}

impl Unit {
    pub(super) fn read(path: &Path) -> Result<Unit, Box<Message>> {
        let mut unit = Unit::default();
        unit.parse(&text_of(path)?);
        let mut folder = path.as_os_str().to_owned();
        folder.push(".d");
        let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut files: Vec<PathBuf> =
            entries.filter(|file| file.extension().is_some_and(|end| end == "conf")).collect();
        files.sort();
        for file in files {
            unit.parse(&text_of(&file)?);
        }
        Ok(unit)
    }

    fn parse(&mut self, text: &str) {
        let (mut section, mut before) = (String::new(), String::new());
        for line in text.lines() {
            let line = line.trim();
            if line.starts_with(['#', ';']) || line.is_empty() && before.is_empty() {
                continue;
            }
            if let Some(part) = line.strip_suffix('\\') {
                before.extend([part, " "]);
                continue;
            }
            let whole = std::mem::take(&mut before) + line;
            if let Some(name) = whole.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
                name.clone_into(&mut section);
            } else if let Some((key, value)) = whole.split_once('=') {
                self.lines.push((section.clone(), key.trim().to_owned(), value.trim().to_owned()));
            }
        }
    }

    /// Keys and values of a section.
    pub(super) fn section<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.lines
            .iter()
            .filter(move |(section, ..)| section == name)
            .map(|(_, key, value)| (key.as_str(), value.as_str()))
    }

    /// The last value of a key.
    pub(super) fn last(&self, section: &str, key: &str) -> Option<String> {
        self.section(section).filter(|(found, _)| *found == key).last().map(|(_, value)| value.to_owned())
    }

    pub(super) fn has(&self, section: &str, key: &str) -> bool {
        self.last(section, key).is_some()
    }

    /// All values of a key; an empty value clears those before it.
    pub(super) fn list(&self, section: &str, key: &str) -> Vec<String> {
        let mut values = Vec::new();
        for (_, value) in self.section(section).filter(|(found, _)| *found == key) {
            if value.is_empty() {
                values.clear();
            } else {
                values.push(value.to_owned());
            }
        }
        values
    }

    pub(super) fn is_on(&self, section: &str, key: &str) -> bool {
        self.last(section, key).is_some_and(|value| is_yes(&value))
    }
}

/// A boolean of systemd's.
pub(super) fn is_yes(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "1" | "yes" | "y" | "true" | "t" | "on")
}
