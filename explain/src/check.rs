//! `check`: is the policy well-formed, and what of it is probably not meant.

use std::fmt::Write as _;
use std::mem::ManuallyDrop;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::unistd::{Group, User};
use portgrant_policy::{Error, Policy, Problem, Rule, Source, Wrong};
use portgrant_protocol::{Message, status};
use portgrant_trusted::{System, consistent, read_unjudged};
use serde_json::{Value, json};

use crate::advice::{self, Advice, DeniedGroups};
use crate::arguments::Format;
use crate::lines::{Excerpt, Lines};
use crate::output::{self, BAD, DOUBTFUL, GOOD, STRONG, in_style};
use crate::{nfs, readable, subid_source};

/// How many findings are shown, errors first.
const MOST_SHOWN: usize = 1_000;

/// 0 where the policy is well-formed, warnings or not, else 78.
pub(crate) fn check(files: Vec<PathBuf>, format: Format) -> Result<u8, Box<Message>> {
    let read = consistent(|system| Read::of(&files, system)).map_err(Box::<Message>::from);
    let read = read.map(|reading| reading.value).and_then(|read| match files.is_empty() {
        true => readable::judge(&read.policy.sources).map(|()| read),
        false => Ok(read),
    });
    match (read, format) {
        (Ok(read), format) => {
            // Never dropped, see advice.rs.
            let read = ManuallyDrop::new(read);
            let checked = ManuallyDrop::new(Checked::of(&read));
            match format {
                Format::Text => output::print(&checked.text())?,
                Format::Json => output::print_json(&checked.json())?,
            };
            Ok(checked.status())
        }
        (Err(message), Format::Json) => {
            output::complain(&message);
            let text = format!("{}: {}", message.what, message.why.as_deref().unwrap_or_default());
            let finding = json!({ "kind": "error", "code": "installation", "text": text, "fix": message.fix });
            output::print_json(&json!({ "files": [], "rules": 0, "findings": [finding] })).map(|_| message.status)
        }
        (Err(message), Format::Text) => Err(message),
    }
}

/// All that is read of a policy and of the tables of names, in one piece.
struct Read {
    policy: Policy,
    problems: Vec<Problem>,
    groups: DeniedGroups,
}

impl Read {
    fn of(files: &[PathBuf], system: &System) -> Result<Read, Error> {
        let parsed = Policy::parse(sources(files, system)?, &system.names)?;
        let (policy, problems) = parsed.map_or_else(|malformed| malformed, |policy| (policy, Vec::new()));
        // Of a policy that is broken nobody knows what it was to say.
        let groups =
            if problems.is_empty() { DeniedGroups::of(&policy, &system.names) } else { DeniedGroups::default() };
        Ok(Read { policy, problems, groups })
    }
}

/// Drafts are read as anybody would read them: what they must be to be believed is not asked of them.
fn sources(files: &[PathBuf], system: &System) -> Result<Vec<Source>, Error> {
    if files.is_empty() {
        return system.sources();
    }
    let read = |path: &PathBuf| match read_unjudged(path.as_os_str().as_bytes()) {
        Ok(text) => Ok(Source { path: path.as_os_str().as_bytes().to_vec(), text }),
        Err(why) => Err(Error::Untrusted { path: path.as_os_str().as_bytes().to_vec(), why }),
    };
    files.iter().map(read).collect()
}

/// A policy, and everything there is to say about it.
struct Checked<'p> {
    policy: &'p Policy,
    lines: Lines<'p>,
    /// Where NFS is that believes ports
    nfs: Option<String>,
    /// Those that are shown, in the policy's order
    shown: Vec<Finding<'p>>,
    errors: usize,
    warnings: usize,
    /// All that advice is given about was looked at
    complete: bool,
}

enum Finding<'p> {
    Error(&'p Problem),
    Warning(&'p Problem),
    Advice(Advice<'p>),
}

/// Where a finding stands, and what of the line is meant.
struct Place {
    file: usize,
    line: usize,
    /// From 1, in bytes
    column: usize,
    /// How many bytes are meant
    width: usize,
}

impl<'p> Checked<'p> {
    fn of(read: &'p Read) -> Checked<'p> {
        let Read { policy, problems, groups } = read;
        let nfs = nfs::with_sec_sys().filter(|_| problems.is_empty());
        let (mut advice, mut complete) = (Vec::new(), true);
        if problems.is_empty() {
            (advice, complete) = advice::advice(policy, groups, nfs.is_some());
            advice.extend(subid_source::advice(policy));
        }
        let (errors, warnings) = (problems.len(), policy.warnings.len() + advice.len());
        let mut warned: Vec<Finding<'p>> =
            policy.warnings.iter().map(Finding::Warning).chain(advice.into_iter().map(Finding::Advice)).collect();
        // Stable: of one line the parser's come first.
        warned.sort_by_key(Finding::line);
        let mut shown: Vec<Finding<'p>> = problems.iter().map(Finding::Error).chain(warned).take(MOST_SHOWN).collect();
        let lines = Lines::of(policy);
        shown.sort_by_key(|finding| {
            let Place { file, line, column, .. } = finding.place(&lines);
            (file, line, column)
        });
        Checked { policy, lines, nfs, shown, errors, warnings, complete }
    }

    fn status(&self) -> u8 {
        if self.errors == 0 { status::OK } else { status::BROKEN }
    }

    fn left_out(&self) -> usize {
        self.errors + self.warnings - self.shown.len()
    }

    fn text(&self) -> String {
        let mut out = String::new();
        for finding in &self.shown {
            self.write(&mut out, finding);
        }
        if self.left_out() > 0 {
            let _ = writeln!(out, "{} more findings are not shown", self.left_out());
        }
        if !self.complete {
            out.push_str(
                "the policy is too large to compare all of its rules: not every rule that does nothing is shown\n",
            );
        }
        let counted = [
            (self.policy.rules.len(), "rule", None),
            (self.policy.sources.len(), "file", None),
            (self.errors, "error", Some(BAD).filter(|_| self.errors != 0)),
            (self.warnings, "warning", Some(DOUBTFUL).filter(|_| self.warnings != 0)),
        ];
        let counted = counted.map(|(count, noun, style)| {
            let text = format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
            style.map_or_else(|| text.clone(), |style| in_style(style, &text))
        });
        let verdict = if self.errors == 0 { in_style(GOOD, "well-formed") } else { in_style(BAD, "invalid") };
        let _ = writeln!(out, "{}: {verdict}", counted.join(", "));
        out
    }

    fn json(&self) -> Value {
        let policy = self.policy;
        let files: Vec<String> = (0..policy.sources.len()).map(|file| policy.path(file)).collect();
        let findings: Vec<Value> = self.shown.iter().map(|finding| self.finding_json(finding)).collect();
        json!({
            "files": files, "rules": policy.rules.len(), "errors": self.errors, "warnings": self.warnings,
            "findings": findings, "left_out": self.left_out(), "compared_all": self.complete,
        })
    }

    fn write(&self, out: &mut String, finding: &Finding<'_>) {
        let Place { file, line, column, width } = finding.place(&self.lines);
        let (style, kind) = match finding {
            Finding::Error(_) => (BAD, "error"),
            Finding::Warning(_) | Finding::Advice(_) => (DOUBTFUL, "warning"),
        };
        let place = in_style(STRONG, &format!("{}:{line}:{column}:", self.policy.path(file)));
        let _ = writeln!(out, "{place} {}: {}", in_style(style, kind), self.finding_text(finding));
        let excerpt = Excerpt::of(self.lines.bytes(file, line), column - 1);
        let _ = writeln!(out, "    {}", excerpt.text());
        let (before, width) = excerpt.columns(column - 1, width);
        let carets = "^".repeat(width.max(1));
        let _ = writeln!(out, "    {:before$}{}", "", in_style(style, &carets));
    }

    fn finding_json(&self, finding: &Finding<'_>) -> Value {
        let Place { file, line, column, .. } = finding.place(&self.lines);
        let kind = if matches!(finding, Finding::Error(_)) { "error" } else { "warning" };
        json!({
            "kind": kind, "code": finding.code(), "file": self.policy.path(file), "line": line, "column": column,
            "text": self.finding_text(finding), "rule": Excerpt::of(self.lines.bytes(file, line), column - 1).text(),
        })
    }

    fn finding_text(&self, finding: &Finding<'_>) -> String {
        match finding {
            Finding::Error(Problem { wrong, .. }) | Finding::Warning(Problem { wrong, .. }) => {
                format!("{wrong}{}", by_directory(wrong).unwrap_or_default())
            }
            Finding::Advice(advice) => advice.text(&self.lines, self.nfs.as_deref()),
        }
    }
}

impl Finding<'_> {
    fn line(&self) -> (usize, usize) {
        match self {
            Finding::Error(problem) | Finding::Warning(problem) => (problem.file, problem.line),
            Finding::Advice(advice) => (advice.rule.file, advice.rule.line),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Finding::Error(Problem { wrong, .. }) | Finding::Warning(Problem { wrong, .. }) => {
                let unknown =
                    matches!(wrong, Wrong::UnknownUser(_) | Wrong::UnknownGroup(_) | Wrong::UnknownService(_));
                match (unknown, wrong) {
                    (true, _) => "unknown-name",
                    (false, Wrong::DatagramDevice) => "dev-for-udp",
                    (false, Wrong::DatagramAddress) => "on-for-udp",
                    (false, Wrong::CutOff { .. }) => "cut-off",
                    (false, _) => "malformed",
                }
            }
            Finding::Advice(advice) => advice.code(),
        }
    }

    fn place(&self, lines: &Lines<'_>) -> Place {
        match self {
            Finding::Error(problem) | Finding::Warning(problem) => {
                let Problem { file, line, column, .. } = **problem;
                let after = lines.bytes(file, line).get(column - 1..).unwrap_or_default();
                let word = after.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(after.len());
                let width = problem.wrong.width().unwrap_or(word);
                Place { file, line, column, width }
            }
            // The whole rule is meant, without what stands around it.
            Finding::Advice(Advice { rule: Rule { file, line, program, .. }, .. }) => {
                let text = lines.bytes(*file, *line);
                let comment =
                    |at: &usize| text.get(*at) == Some(&b'#') && matches!(text.get(at - 1), Some(b' ' | b'\t'));
                // In a path a number sign is one.
                let end = (1..text.len()).find(comment).filter(|_| program.is_none()).unwrap_or(text.len());
                let text = text.get(..end).unwrap_or_default();
                let column = text.len() - text.trim_ascii_start().len() + 1;
                Place { file: *file, line: *line, column, width: text.trim_ascii().len() }
            }
        }
    }
}

/// The helper is static and asks no directory service; this program is not, and says what to write instead.
fn by_directory(wrong: &Wrong) -> Option<String> {
    let number = if let Wrong::UnknownUser(name) = wrong {
        format!("uid:{}", User::from_name(name).ok()??.uid)
    } else if let Wrong::UnknownGroup(name) = wrong {
        format!("gid:{}", Group::from_name(name).ok()??.gid)
    } else {
        return None;
    };
    Some(format!(" (a directory service knows it: write {number})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_only_a_directory_service_knows_is_told_as_a_number() {
        // Root stands for such a name: whatever /etc/passwd lacks, getpwnam(3) is asked.
        let told = by_directory(&Wrong::UnknownUser("root".to_owned()));
        assert_eq!(told.as_deref(), Some(" (a directory service knows it: write uid:0)"));
        let told = by_directory(&Wrong::UnknownGroup("root".to_owned()));
        assert_eq!(told.as_deref(), Some(" (a directory service knows it: write gid:0)"));
        assert_eq!(by_directory(&Wrong::UnknownUser("no-such-user-here".to_owned())), None);
        assert_eq!(by_directory(&Wrong::NoPorts), None);
    }
}
