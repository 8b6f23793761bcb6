//! `check`: errors of the policy, and warnings about rules that are probably not intended.

use std::fmt::Write as _;
use std::mem::ManuallyDrop;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use portgrant_policy::{Distrust, Error, Names, Policy, Problem, Rule, Source, Wrong};
use portgrant_protocol::{Message, status};
use portgrant_trusted::{System, consistent, read_unjudged};
use serde_json::{Value, json};

use crate::advice;
use crate::arguments::Format;
use crate::authbind;
use crate::denied_groups::DeniedGroups;
use crate::finding::Advice;
use crate::installation::{self, Weight};
use crate::lines::{Excerpt, Lines};
use crate::names::Hints;
use crate::output::{self, BAD, DOUBTFUL, GOOD, STRONG, in_style};
use crate::{nfs, subid_source};

/// How many findings are shown, errors first.
const MOST_SHOWN: usize = 1_000;

/// The status of a policy that has warnings, with --strict.
const WARNED: u8 = 1;

/// 0 if the policy is well-formed, 1 if it has warnings and --strict was given, else 78.
pub(crate) fn check(
    files: Vec<PathBuf>,
    is_strict: bool,
    owns_network: bool,
    format: Format,
) -> Result<u8, Box<Message>> {
    let known = files.iter().find_map(|file| authbind::recognise(file)).map_or(Ok(()), Err);
    let read = known.and_then(|()| consistent(|system| Read::of(&files, system)).map_err(Box::<Message>::from));
    let read = read.map_err(|mut message| {
        // Whether it can be used here or not.
        if let Some(why) = message.why.as_mut().filter(|_| owns_network) {
            why.push_str("; but this network belongs to your user namespace, so you need no rule here");
        }
        message
    });
    match (read, format) {
        (Ok(reading), format) => {
            // Never dropped, see advice.rs.
            let reading = ManuallyDrop::new(reading);
            let read = &reading.value;
            let installed = if files.is_empty() { installation::findings(&read.policy.sources) } else { Vec::new() };
            let checked = ManuallyDrop::new(Checked::of(read, installed, &reading.system.names));
            match format {
                Format::Text => output::print(&checked.text())?,
                Format::Json => output::print_json(&checked.json())?,
            };
            Ok(checked.status(is_strict))
        }
        (Err(message), Format::Json) => {
            output::complain(&message);
            let text = format!("{}: {}", message.what, message.why.as_deref().unwrap_or_default());
            let finding = json!({ "kind": "error", "code": "installation", "text": text, "fix": message.fix });
            let tables = installation::tables();
            let value = json!({ "files": [], "rules": 0, "findings": [finding], "tables": tables });
            output::print_json(&value).map(|_| message.status)
        }
        (Err(message), Format::Text) => Err(message),
    }
}

/// Everything that is read, in one consistent reading.
struct Read {
    policy: Policy,
    problems: Vec<Problem>,
    groups: DeniedGroups,
}

impl Read {
    fn of(files: &[PathBuf], system: &System) -> Result<Read, Error> {
        let parsed = Policy::parse(sources(files, system)?, &system.names)?;
        let (policy, problems) = parsed.map_or_else(|malformed| malformed, |policy| (policy, Vec::new()));
        // A broken policy has no meaning, so denied groups are not searched.
        let groups =
            if problems.is_empty() { DeniedGroups::of(&policy, &system.names) } else { DeniedGroups::default() };
        Ok(Read { policy, problems, groups })
    }
}

/// Drafts are read without the checks that installed files must pass.
fn sources(files: &[PathBuf], system: &System) -> Result<Vec<Source>, Error> {
    if files.is_empty() {
        return system.sources();
    }
    let read = |path: &PathBuf| match read_unjudged(path.as_os_str().as_bytes()) {
        // It would be refused if it were installed.
        Ok(text) if text.is_empty() => {
            Err(Error::Untrusted { path: path.as_os_str().as_bytes().to_vec(), why: Distrust::Empty })
        }
        Ok(text) => Ok(Source { path: path.as_os_str().as_bytes().to_vec(), text }),
        Err(why) => Err(Error::Untrusted { path: path.as_os_str().as_bytes().to_vec(), why }),
    };
    files.iter().map(read).collect()
}

/// A policy and all findings about it.
struct Checked<'p> {
    policy: &'p Policy,
    lines: Lines<'p>,
    /// Findings about the installed files
    installed: Vec<installation::Finding>,
    hints: Hints<'p>,
    /// The place of an NFS that trusts ports
    nfs: Option<String>,
    /// The findings that are shown, in the order of the policy
    shown: Vec<Finding<'p>>,
    errors: usize,
    warnings: usize,
    /// Whether all rules were compared
    complete: bool,
}

enum Finding<'p> {
    Error(&'p Problem),
    Warning(&'p Problem),
    Advice(Advice<'p>),
}

/// The place of a finding, and the part of the line that it is about.
struct Place {
    file: usize,
    line: usize,
    /// From 1, in bytes
    column: usize,
    /// How many bytes the finding is about
    width: usize,
}

impl<'p> Checked<'p> {
    fn of(read: &'p Read, installed: Vec<installation::Finding>, names: &'p Names) -> Checked<'p> {
        let Read { policy, problems, groups } = read;
        let nfs = nfs::with_sec_sys().filter(|_| problems.is_empty());
        let (mut advice, mut complete) = (Vec::new(), true);
        if problems.is_empty() {
            (advice, complete) = advice::advice(policy, groups, nfs.is_some());
            advice.extend(subid_source::advice(policy));
        }
        let of_weight = |weight| installed.iter().filter(|finding| finding.weight == weight).count();
        let errors = problems.len() + of_weight(Weight::Error);
        let warnings = policy.warnings.len() + advice.len() + of_weight(Weight::Warning);
        let mut warned: Vec<Finding<'p>> =
            policy.warnings.iter().map(Finding::Warning).chain(advice.into_iter().map(Finding::Advice)).collect();
        // A stable sort: for the same line, the parser's findings come first.
        warned.sort_by_key(Finding::line);
        let mut shown: Vec<Finding<'p>> = problems.iter().map(Finding::Error).chain(warned).take(MOST_SHOWN).collect();
        let lines = Lines::of(policy);
        shown.sort_by_key(|finding| {
            let Place { file, line, column, .. } = finding.place(&lines);
            (file, line, column)
        });
        Checked { policy, lines, installed, hints: Hints::of(names), nfs, shown, errors, warnings, complete }
    }

    fn status(&self, is_strict: bool) -> u8 {
        match (self.errors, self.warnings) {
            (1.., _) => status::BROKEN,
            (0, 1..) if is_strict => WARNED,
            (0, _) => status::OK,
        }
    }

    fn left_out(&self) -> usize {
        let of_files = self.installed.iter().filter(|finding| finding.weight != Weight::Note).count();
        self.errors + self.warnings - of_files - self.shown.len()
    }

    fn text(&self) -> String {
        let mut out = String::new();
        for installation::Finding { weight, text, fix, .. } in &self.installed {
            let style = match weight {
                Weight::Error => BAD,
                Weight::Warning => DOUBTFUL,
                Weight::Note => STRONG,
            };
            let _ = writeln!(out, "{}: {text}", in_style(style, weight.word()));
            if let Some(fix) = fix {
                let _ = writeln!(out, "  fix: {fix}");
            }
        }
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
        let of_files = self.installed.iter().filter(|finding| finding.weight == Weight::Error).count();
        let verdict = match self.errors {
            0 => in_style(GOOD, "well-formed"),
            errors if errors == of_files => in_style(BAD, "well-formed, but cannot be used as it is installed"),
            _ => in_style(BAD, "invalid"),
        };
        let _ = writeln!(out, "{}: {verdict}", counted.join(", "));
        out
    }

    fn json(&self) -> Value {
        let policy = self.policy;
        let files: Vec<String> = (0..policy.sources.len()).map(|file| policy.path(file)).collect();
        let of_files = self.installed.iter().map(|installation::Finding { weight, code, text, fix }| {
            json!({ "kind": weight.word(), "code": code, "text": text, "fix": fix })
        });
        let findings: Vec<Value> =
            of_files.chain(self.shown.iter().map(|finding| self.finding_json(finding))).collect();
        json!({
            "files": files, "rules": policy.rules.len(), "errors": self.errors, "warnings": self.warnings,
            "findings": findings, "left_out": self.left_out(), "compared_all": self.complete,
            "tables": installation::tables(),
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
                let hint = self.hints.hint(wrong).map_or_else(String::new, |hint| format!(" ({hint})"));
                format!("{wrong}{hint}")
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
                let width = width(&problem.wrong).unwrap_or(word);
                Place { file, line, column, width }
            }
            // The finding is about the whole rule, without the blanks and the comment around it.
            Finding::Advice(Advice { rule: Rule { file, line, program, .. }, .. }) => {
                let text = lines.bytes(*file, *line);
                let comment =
                    |at: &usize| text.get(*at) == Some(&b'#') && matches!(text.get(at - 1), Some(b' ' | b'\t'));
                // In a path a number sign does not begin a comment.
                let end = (1..text.len()).find(comment).filter(|_| program.is_none()).unwrap_or(text.len());
                let text = text.get(..end).unwrap_or_default();
                let column = text.len() - text.trim_ascii_start().len() + 1;
                Place { file: *file, line: *line, column, width: text.trim_ascii().len() }
            }
        }
    }
}

/// How many bytes of the line `wrong` is about, if it is not about a word.
fn width(wrong: &Wrong) -> Option<usize> {
    if let Wrong::Typography { bytes, .. } = wrong {
        return Some(*bytes);
    }
    if let Wrong::TwoWords(first, second) = wrong {
        return Some(first.len() + 1 + second.len());
    }
    matches!(wrong, Wrong::Character(_) | Wrong::CarriageReturn { .. }).then_some(1)
}
