//! `check`: is the policy well-formed, and what of it is probably not meant.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::unistd::{Group, User};
use portgrant_policy::Names;
use portgrant_policy::{Error, Policy, Problem, Rule, Source, Wrong};
use portgrant_protocol::text::printable;
use portgrant_protocol::{Message, status};
use portgrant_trusted::consistent;
use portgrant_trusted::{System, read_unjudged};
use serde_json::{Value, json};

use crate::arguments::Format;
use crate::output::{self, BAD, DOUBTFUL, GOOD, STRONG, in_style};
use crate::{advice, datagrams, nfs, subid_source};

/// 0 where the policy is well-formed, warnings or not, else 78.
pub(crate) fn check(files: Vec<PathBuf>, format: Format) -> Result<u8, Box<Message>> {
    let checked = consistent(|system| Checked::of(read(&files, system)?, &system.names));
    match (checked.map(|reading| reading.value), format) {
        (Ok(checked), Format::Text) => output::print(&checked.text()).map(|_| checked.status()),
        (Ok(checked), Format::Json) => output::print_json(&checked.json()).map(|_| checked.status()),
        (Err(error), Format::Json) => {
            let message = error.message();
            output::complain(&message);
            let text = format!("{}: {}", message.what, message.why.as_deref().unwrap_or_default());
            let finding = json!({ "kind": "error", "code": "installation", "text": text, "fix": message.fix });
            output::print_json(&json!({ "files": [], "rules": 0, "findings": [finding] })).map(|_| message.status)
        }
        (Err(error), Format::Text) => Err(error.into()),
    }
}

/// Drafts are read as anybody would read them: what they must be to be believed is not asked of them.
fn read(files: &[PathBuf], system: &System) -> Result<Vec<Source>, Error> {
    if files.is_empty() {
        return system.sources();
    }
    let read = |path: &PathBuf| match read_unjudged(path) {
        Ok(text) => Ok(Source { path: path.as_os_str().as_bytes().to_vec(), text }),
        Err(why) => Err(Error::Untrusted { path: path.as_os_str().as_bytes().to_vec(), why }),
    };
    files.iter().map(read).collect()
}

/// A policy, and everything there is to say about it, in its order.
struct Checked {
    policy: Policy,
    findings: Vec<Finding>,
    /// Not every rule was compared with every other
    cut: bool,
}

struct Finding {
    kind: Kind,
    code: &'static str,
    file: usize,
    line: usize,
    /// From 1, in bytes
    column: usize,
    /// How many bytes are meant
    width: usize,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Error,
    Warning,
}

impl Checked {
    fn of(sources: Vec<Source>, names: &Names) -> Result<Checked, Error> {
        let (policy, problems) = match Policy::parse(sources, names)? {
            Ok(policy) => (policy, Vec::new()),
            Err(malformed) => malformed,
        };
        let lines = Lines::of(&policy);
        let errors = problems.iter().map(|problem| Finding::of_problem(Kind::Error, problem, &lines));
        let warnings = policy.warnings.iter().map(|problem| Finding::of_problem(Kind::Warning, problem, &lines));
        let mut findings: Vec<Finding> = errors.chain(warnings).collect();
        let mut cut = false;
        // Of a policy that is broken nobody knows what it was to say.
        if problems.is_empty() {
            let place = nfs::with_sec_sys();
            let (advice, too_many) = advice::advice(&policy, names, place.as_deref());
            cut = too_many;
            let more = datagrams::advice(&policy, names).into_iter().chain(subid_source::advice(&policy));
            findings.extend(advice.into_iter().chain(more).map(|advice| Finding::of_rule(advice, &lines)));
        }
        findings.sort_by_key(|finding| (finding.file, finding.line, finding.column));
        Ok(Checked { policy, findings, cut })
    }

    fn count(&self, kind: Kind) -> usize {
        self.findings.iter().filter(|finding| finding.kind == kind).count()
    }

    fn status(&self) -> u8 {
        if self.count(Kind::Error) == 0 { status::OK } else { status::BROKEN }
    }

    fn text(&self) -> String {
        let lines = Lines::of(&self.policy);
        let mut out = String::new();
        for finding in &self.findings {
            finding.write(&mut out, &self.policy, &lines);
        }
        if self.cut {
            out.push_str("too many rules to compare each with every other: some that do nothing may not be named\n");
        }
        let (errors, warnings) = (self.count(Kind::Error), self.count(Kind::Warning));
        let counted = [
            (self.policy.rules.len(), "rule", None),
            (self.policy.sources.len(), "file", None),
            (errors, "error", Some(BAD).filter(|_| errors != 0)),
            (warnings, "warning", Some(DOUBTFUL).filter(|_| warnings != 0)),
        ];
        let counted = counted.map(|(count, noun, style)| {
            let text = format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
            style.map_or_else(|| text.clone(), |style| in_style(style, &text))
        });
        let verdict = if errors == 0 { in_style(GOOD, "well-formed") } else { in_style(BAD, "refused, all of it") };
        let _ = writeln!(out, "{}: {verdict}", counted.join(", "));
        out
    }

    fn json(&self) -> Value {
        let (policy, lines) = (&self.policy, Lines::of(&self.policy));
        let files: Vec<String> = (0..policy.sources.len()).map(|file| policy.path(file)).collect();
        let findings: Vec<Value> = self.findings.iter().map(|finding| finding.json(policy, &lines)).collect();
        json!({ "files": files, "rules": policy.rules.len(), "findings": findings, "compared_all": !self.cut })
    }
}

impl Finding {
    fn of_problem(kind: Kind, problem: &Problem, lines: &Lines<'_>) -> Finding {
        let Problem { file, line, column, ref wrong } = *problem;
        let unknown = matches!(wrong, Wrong::UnknownUser(_) | Wrong::UnknownGroup(_) | Wrong::UnknownService(_));
        let code = match (unknown, wrong) {
            (true, _) => "unknown-name",
            (false, Wrong::DatagramDevice) => "dev-for-udp",
            (false, Wrong::DatagramAddress) => "on-for-udp",
            (false, Wrong::CutOff { .. }) => "cut-off",
            (false, _) => "malformed",
        };
        let after = lines.line(file, line).get(column - 1..).unwrap_or_default();
        let width = after.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(after.len());
        let text = format!("{wrong}{}", by_directory(wrong).unwrap_or_default());
        Finding { kind, code, file, line, column, width, text }
    }

    /// The whole rule is meant, without what stands around it.
    fn of_rule(advice: advice::Advice<'_>, lines: &Lines<'_>) -> Finding {
        let Rule { file, line, program, .. } = advice.rule;
        let text = lines.line(*file, *line);
        let comment = |at: &usize| text.get(*at) == Some(&b'#') && matches!(text.get(at - 1), Some(b' ' | b'\t'));
        // In a path a number sign is one.
        let end = (1..text.len()).find(comment).filter(|_| program.is_none()).unwrap_or(text.len());
        let text = text.get(..end).unwrap_or_default();
        let column = text.len() - text.trim_ascii_start().len() + 1;
        let width = text.trim_ascii().len();
        Finding { kind: Kind::Warning, code: advice.code, file: *file, line: *line, column, width, text: advice.text }
    }

    fn write(&self, out: &mut String, policy: &Policy, lines: &Lines<'_>) {
        let (line, column) = (self.line, self.column);
        let (style, kind) = match self.kind {
            Kind::Error => (BAD, "error"),
            Kind::Warning => (DOUBTFUL, "warning"),
        };
        let place = in_style(STRONG, &format!("{}:{line}:{column}:", policy.path(self.file)));
        let _ = writeln!(out, "{place} {}: {}", in_style(style, kind), self.text);
        let raw = lines.line(self.file, line);
        let _ = writeln!(out, "    {}", shown(raw.trim_ascii_end()));
        // What had to be made printable is wider than its bytes.
        let (before, meant) = raw.split_at((column - 1).min(raw.len()));
        let (before, width) = (shown(before).len(), shown(meant.get(..self.width).unwrap_or(meant)).len());
        let carets = "^".repeat(width.clamp(1, 1024));
        let _ = writeln!(out, "    {:before$}{}", "", in_style(style, &carets));
    }

    fn json(&self, policy: &Policy, lines: &Lines<'_>) -> Value {
        let kind = if self.kind == Kind::Error { "error" } else { "warning" };
        json!({
            "kind": kind, "code": self.code, "file": policy.path(self.file), "line": self.line, "column": self.column,
            "text": self.text, "rule": shown(lines.line(self.file, self.line).trim_ascii_end()),
        })
    }
}

/// The lines of each file as they stand there, found once: a large policy may have much to be said of.
struct Lines<'p>(Vec<Vec<&'p [u8]>>);

impl<'p> Lines<'p> {
    fn of(policy: &'p Policy) -> Lines<'p> {
        Lines(policy.sources.iter().map(|source| source.text.split(|&byte| byte == b'\n').collect()).collect())
    }

    fn line(&self, file: usize, line: usize) -> &'p [u8] {
        self.0.get(file).and_then(|lines| lines.get(line - 1)).copied().unwrap_or_default()
    }
}

/// Printable; tabs as blanks, so that columns stay.
fn shown(bytes: &[u8]) -> String {
    let bytes: Vec<u8> = bytes.iter().map(|&byte| if byte == b'\t' { b' ' } else { byte }).collect();
    printable(&bytes)
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
