//! The grammar of xinetd.conf(5): entries, attributes, and how the defaults fill them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use portgrant_protocol::Message;

use crate::import::draft::Draft;
use crate::import::{shown, text_of};

/// How deep files may include each other.
const DEPTH: usize = 16;
/// Attributes whose values add up in `defaults`, and which a service changes by `+=` and `-=`.
const SETS: [&str; 6] = ["only_from", "no_access", "log_on_success", "log_on_failure", "passenv", "env"];
/// Those of `defaults` that a service has as well.
const INHERITED: [&str; 16] = [
    "only_from",
    "no_access",
    "passenv",
    "instances",
    "per_source",
    "cps",
    "bind",
    "interface",
    "groups",
    "max_load",
    "umask",
    "v6only",
    "banner",
    "banner_success",
    "banner_fail",
    "access_times",
];

/// All entries of all files.
#[derive(Debug, Default)]
pub(super) struct Configuration {
    defaults: BTreeMap<String, Value>,
    services: Vec<Entry>,
}

/// A service.
#[derive(Debug, Clone, Default)]
pub(super) struct Entry {
    pub(super) name: String,
    /// `FILE:LINE`
    pub(super) place: String,
    pub(super) values: BTreeMap<String, Value>,
}

/// What an attribute is set to.
#[derive(Debug, Clone, Default)]
pub(super) struct Value {
    pub(super) words: Vec<String>,
}

impl Configuration {
    pub(super) fn read(path: &Path, draft: &mut Draft) -> Result<Configuration, Box<Message>> {
        let mut configuration = Configuration::default();
        if path.is_dir() {
            configuration.folder(path, 0, draft)?;
        } else {
            configuration.file(path, 0, draft)?;
        }
        Ok(configuration)
    }

    /// The text of one file that includes no other.
    #[cfg(test)]
    pub(super) fn parse(&mut self, text: &str, file: &str, draft: &mut Draft) {
        let included = self.entries(text, file, draft);
        assert!(included.is_empty());
    }

    fn file(&mut self, path: &Path, depth: usize, draft: &mut Draft) -> Result<(), Box<Message>> {
        let text = text_of(path)?;
        for (is_folder, included, place) in self.entries(&text, &shown(path), draft) {
            if depth >= DEPTH {
                draft.leave_out(&place, format!("files include each other more than {DEPTH} deep"));
                continue;
            }
            let read = if is_folder {
                self.folder(&included, depth + 1, draft)
            } else {
                self.file(&included, depth + 1, draft)
            };
            if let Err(message) = read {
                let why = message.why.unwrap_or_default();
                draft.leave_out(&place, format!("{}: {why}", message.what));
            }
        }
        Ok(())
    }

    /// In the order of their names, without those that have a dot or end in a tilde.
    fn folder(&mut self, path: &Path, depth: usize, draft: &mut Draft) -> Result<(), Box<Message>> {
        let entries = fs::read_dir(path).map_err(|error| crate::import::cannot_read(path, &error.to_string()))?;
        let is_read = |file: &PathBuf| {
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            !name.contains('.') && !name.ends_with('~') && file.is_file()
        };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_read).collect();
        files.sort();
        files.iter().try_for_each(|file| self.file(file, depth, draft))
    }

    /// Reads the entries of one file; what it includes is returned: whether it is a folder, its path, the place.
    fn entries(&mut self, text: &str, file: &str, draft: &mut Draft) -> Vec<(bool, PathBuf, String)> {
        let mut included = Vec::new();
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        let mut lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        while let Some((number, line)) = lines.next() {
            let place = format!("{file}:{number}");
            let mut words = line.split_whitespace();
            match (words.next().unwrap_or_default(), words.next()) {
                ("include", Some(path)) => included.push((false, PathBuf::from(path), place)),
                ("includedir", Some(path)) => included.push((true, PathBuf::from(path), place)),
                ("defaults", _) => {
                    if let Some(attributes) = attributes(&mut lines) {
                        for (name, _, words) in attributes {
                            let value = self.defaults.entry(name.clone()).or_default();
                            let adds_up =
                                SETS.contains(&name.as_str()) || matches!(name.as_str(), "disabled" | "enabled");
                            if !adds_up {
                                value.words.clear();
                            }
                            value.words.extend(words);
                        }
                    }
                }
                ("service", Some(name)) => match attributes(&mut lines) {
                    Some(attributes) => {
                        let entry = Entry { name: name.to_owned(), place, values: self.inherited() };
                        self.services.push(entry.with(attributes));
                    }
                    None => draft.leave_out(&place, "the entry has no end, so xinetd ignores it too"),
                },
                _ => draft.leave_out(&place, "it is neither a service nor the defaults, so xinetd ignores it too"),
            }
        }
        included
    }

    /// The attributes that a service inherits.
    fn inherited(&self) -> BTreeMap<String, Value> {
        let is_inherited = |(name, _): &(&String, &Value)| INHERITED.contains(&name.as_str());
        let defaults = self.defaults.iter().filter(is_inherited);
        defaults.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// The services that xinetd starts.
    pub(super) fn enabled(&self) -> impl Iterator<Item = &Entry> {
        let named = |list: &str| -> Option<BTreeSet<&str>> {
            let value = self.defaults.get(list)?;
            Some(value.words.iter().map(String::as_str).collect())
        };
        let (enabled, disabled) = (named("enabled"), named("disabled").unwrap_or_default());
        self.services.iter().filter(move |entry| {
            let id = entry.one("id").unwrap_or(&entry.name);
            let is_off =
                entry.one("disable") == Some("yes") || entry.words("flags").iter().any(|flag| flag == "DISABLE");
            !is_off && !disabled.contains(id) && enabled.as_ref().is_none_or(|enabled| enabled.contains(id))
        })
    }
}

/// Name, operator, values of each line up to the closing brace.
fn attributes<'a>(lines: &mut impl Iterator<Item = (usize, &'a str)>) -> Option<Vec<(String, char, Vec<String>)>> {
    let mut found = Vec::new();
    lines.next().filter(|(_, line)| *line == "{")?;
    loop {
        let (_, line) = lines.next()?;
        if line == "}" {
            return Some(found);
        }
        let (name, value) = line.split_once('=')?;
        let (name, operator) = match name.trim().strip_suffix(['+', '-']) {
            Some(bare) => (bare.trim(), if name.trim().ends_with('+') { '+' } else { '-' }),
            None => (name.trim(), '='),
        };
        found.push((name.to_owned(), operator, value.split_whitespace().map(str::to_owned).collect()));
    }
}

impl Entry {
    /// For an attribute that is not a set, the first value counts.
    fn with(mut self, attributes: Vec<(String, char, Vec<String>)>) -> Entry {
        let mut set: BTreeSet<String> = BTreeSet::new();
        for (name, operator, words) in attributes {
            let is_new = set.insert(name.clone());
            let is_set = SETS.contains(&name.as_str());
            if !is_set && !is_new {
                continue;
            }
            let value = self.values.entry(name).or_default();
            match operator {
                '-' => value.words.retain(|word| !words.contains(word)),
                '+' => value.words.extend(words),
                _ if is_set && !is_new => value.words.extend(words),
                _ => value.words = words,
            }
        }
        self
    }

    pub(super) fn value(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// The one value of an attribute.
    pub(super) fn one(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.words.first().map(String::as_str)
    }

    pub(super) fn words(&self, name: &str) -> Vec<String> {
        self.values.get(name).map(|value| value.words.clone()).unwrap_or_default()
    }
}
