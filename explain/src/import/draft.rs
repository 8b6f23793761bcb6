//! The result of an import: rules, commands and remarks, to print or to write as files.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use portgrant_protocol::text::printable;
use portgrant_protocol::{Kind, Message};

use super::quote::shell;
use super::server::Server;
use super::shown;
use crate::output::{DOUBTFUL, STRONG, in_style};

/// All that was found in the files.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// Lines of the policy, each with the place that it comes from
    pub(super) rules: Vec<(String, String)>,
    pub(super) servers: Vec<Server>,
    remarks: Vec<Remark>,
    left_out: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Remark {
    /// `FILE:LINE`, or the file
    place: String,
    text: String,
    is_left_out: bool,
}

impl Draft {
    /// Adds a remark about a difference.
    pub(super) fn note(&mut self, place: &str, text: impl Into<String>) {
        self.remark(Remark { place: place.to_owned(), text: text.into(), is_left_out: false });
    }

    /// Adds a remark about an entry that is left out, because it has no equivalent or would permit more.
    pub(super) fn leave_out(&mut self, place: &str, text: impl Into<String>) {
        self.left_out = true;
        self.remark(Remark { place: place.to_owned(), text: text.into(), is_left_out: true });
    }

    fn remark(&mut self, remark: Remark) {
        let text = printable(remark.text.as_bytes());
        let remark = Remark { text, ..remark };
        if !self.remarks.contains(&remark) {
            self.remarks.push(remark);
        }
    }

    pub(super) fn permit(&mut self, place: &str, rule: String) {
        self.rules.push((place.to_owned(), rule));
    }

    /// Adds a server with its rules and remarks. If it would permit more than before, it is left out completely.
    pub(super) fn server(&mut self, server: Server) {
        let place = server.place.clone();
        for text in &server.obstacles {
            self.leave_out(&place, text.as_str());
        }
        if !server.obstacles.is_empty() {
            return;
        }
        for text in &server.notes {
            self.note(&place, text.as_str());
        }
        if let Some(user) = &server.user {
            for rule in server.rules(user) {
                self.permit(&place, rule);
            }
        }
        self.servers.push(server);
    }

    pub(super) fn left_something_out(&self) -> bool {
        self.left_out
    }

    /// The text to print.
    pub(super) fn text(&self, from: &str) -> String {
        let mut text = String::new();
        if !self.rules.is_empty() {
            let heading = format!("Policy, for /etc/portgrant.d/{from}.conf:");
            let _ = writeln!(text, "{}\n", in_style(STRONG, &heading));
            text += &indented(&self.policy());
        }
        if !self.servers.is_empty() {
            let _ = writeln!(text, "{}{}\n", gap(&text), in_style(STRONG, "Commands, as root:"));
            for server in &self.servers {
                text += &indented(&format!("# {}\n{}\n", server.place, server.command()));
            }
        }
        let remarks = self.remarks();
        if !remarks.is_empty() {
            let _ = write!(text, "{}{}\n\n{remarks}", gap(&text), in_style(STRONG, "Remarks:"));
        }
        if text.is_empty() {
            text += "There is nothing to import.\n";
        }
        text
    }

    /// The lines of the policy, each below the place that it comes from.
    fn policy(&self) -> String {
        let mut text = String::new();
        let mut last = "";
        for (place, rule) in &self.rules {
            if place != last {
                let _ = writeln!(text, "# {place}");
            }
            last = place;
            let _ = writeln!(text, "{rule}");
        }
        text
    }

    fn remarks(&self) -> String {
        let line = |remark: &Remark| {
            let label = if remark.is_left_out { in_style(DOUBTFUL, "left out: ") } else { String::new() };
            format!("  * {label}{}: {}\n", remark.place, remark.text)
        };
        self.remarks.iter().map(line).collect()
    }

    /// The commands that install the files in `folder`. `units` are files, or folders of drop-ins.
    fn next(&self, folder: &Path, from: &str, units: &[PathBuf]) -> String {
        let mut text = String::new();
        if !self.rules.is_empty() {
            let policy = shell(&[shown(&folder.join(format!("{from}.conf")))]);
            let _ = write!(text, "portgrant check {policy}\ninstall -m 644 {policy} /etc/portgrant.d/\n");
        }
        if !units.is_empty() {
            let units: Vec<String> = units.iter().map(|unit| shown(unit)).collect();
            let _ = write!(text, "cp -ri {} /etc/systemd/system/\nsystemctl daemon-reload\n", shell(&units));
        }
        text
    }

    /// Writes the files below `folder`, none of which may exist. Returns a text with the next commands.
    pub(super) fn write(&self, folder: &Path, from: &str) -> Result<String, Box<Message>> {
        let (mut files, mut units): (Vec<(PathBuf, String)>, Vec<PathBuf>) = Default::default();
        if !self.rules.is_empty() {
            files.push((folder.join(format!("{from}.conf")), self.policy()));
        }
        for server in &self.servers {
            for (name, content) in server.unit_files() {
                let same = |count: usize| if count < 2 { name.clone() } else { numbered(&name, count) };
                let is_new = |path: &PathBuf| files.iter().all(|(taken, _)| taken != path);
                let Some(path) = (1..).map(|count| folder.join(same(count))).find(is_new) else { continue };
                let unit = if server.drop_in.is_some() { path.parent().unwrap_or(&path) } else { &path };
                units.push(unit.to_owned());
                files.push((path, content));
            }
        }
        let plain = anstream::adapter::strip_str(&self.remarks()).to_string();
        if !plain.is_empty() {
            files.push((folder.join("REMARKS"), plain));
        }
        // Checked before the first file is written, so that a second attempt does not find files of the first.
        if let Some((path, _)) = files.iter().find(|(path, _)| fs::symlink_metadata(path).is_ok()) {
            let message = Message::of(Kind::Usage, format!("{} exists already", shown(path)));
            return Err(Box::new(message.why("no file is ever replaced").fix("name an empty folder, or a new one")));
        }
        let mut text = String::new();
        for (path, content) in &files {
            put(path, content).map_err(|error| {
                let message = Message::new(format!("{} cannot be written", shown(path))).why(error.to_string());
                Box::new(message.fix("name a folder in which you may write"))
            })?;
            let _ = writeln!(text, "{}", shown(path));
        }
        let next = self.next(folder, from, &units);
        if !next.is_empty() {
            let _ = write!(text, "\n{}\n\n{}", in_style(STRONG, "Next, as root:"), indented(&next));
        }
        let remarks = self.remarks();
        if !remarks.is_empty() {
            let _ = write!(text, "{}{}\n\n{remarks}", gap(&text), in_style(STRONG, "Remarks:"));
        }
        Ok(if text.is_empty() { "There is nothing to import.\n".to_owned() } else { text })
    }
}

/// `ftp.service` as `ftp-2.service`.
fn numbered(name: &str, count: usize) -> String {
    let (stem, end) = name.rsplit_once('.').unwrap_or((name, ""));
    format!("{stem}-{count}.{end}")
}

fn put(path: &Path, content: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new().write(true).create_new(true).open(path)?.write_all(content.as_bytes())
}

fn gap(text: &str) -> &'static str {
    if text.is_empty() { "" } else { "\n" }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}
