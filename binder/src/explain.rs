//! What people read of the helper: messages, the verdicts of `explain`, the findings of `check`; as text and as JSON.
//! Both verbs give up the last capability before they look at anything.

use std::ffi::CString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use portgrant_binder::grant::resolve;
use portgrant_binder::names::Names;
use portgrant_binder::policy::{Ask, Caller, Decision, Policy, Problem, Source, decide, installed_sources};
use portgrant_binder::privilege::Dropped;
use portgrant_binder::{Error, Report, trusted, who};
use portgrant_protocol::text::printable;
use portgrant_protocol::{Resolved, program, status};

use crate::command::Explain;

/// Programs that run whatever they are told to: an exec rule for one of them binds the grant to nothing.
const INTERPRETERS: [&str; 14] =
    ["sh", "bash", "dash", "zsh", "ksh", "busybox", "python", "perl", "ruby", "node", "nodejs", "php", "java", "lua"];

/// Prints `text`, for --help and --version.
pub(crate) fn print(text: &str) -> Result<u8, Error> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Ok(status::OK),
        Err(error) => {
            let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO);
            Err(Error::Call { call: "write", errno })
        }
    }
}

/// Writes `report` to standard error and gives its status. A standard error that cannot be written to changes nothing.
pub(crate) fn complain(report: Report) -> u8 {
    let text = format!("portgrant-binder: {}\n  why: {}\n  fix: {}\n", report.what, report.why, report.fix);
    let _ = std::io::stderr().write_all(text.as_bytes());
    report.status
}

/// The `explain` verb: 0 where all would be permitted, else 77.
pub(crate) fn explain(dropped: Dropped, asked: Explain, environment: &[CString]) -> Result<u8, Error> {
    let _renounced = dropped.renounce()?;
    let names = Names::system();
    let policy = Policy::installed(&names)?;
    let caller = match &asked.user {
        Some(name) => Caller::account(name, &names)?,
        None => Caller::current(&policy, &names)?.named(&names),
    };
    let program = asked.program.map(|program| program::find(&program, environment)).transpose()?;
    let mut out = String::new();
    let mut worst = status::OK;
    for endpoint in asked.listen {
        let ask = Ask { endpoint: resolve(endpoint, &names)?, program: program.as_deref() };
        let (endpoint, span) = (ask.endpoint.clone(), ask.span());
        let separator = if out.is_empty() { "[" } else { "," };
        match decide(&policy, &caller, ask) {
            Decision::Permit(permit) => {
                let (place, text) = (policy.place(permit.rule()), policy.text(permit.rule()));
                policy.judge_program(permit.rule())?;
                if asked.json {
                    out.push_str(separator);
                    json(
                        &mut out,
                        &[
                            ("endpoint", &endpoint.to_string()),
                            ("decision", "permit"),
                            ("rule", &place),
                            ("text", &text),
                        ],
                    );
                } else {
                    let _ = writeln!(out, "{endpoint} is permitted for {}\n  rule: {place}  {text}", who(&caller));
                    let _ = writeln!(out, "  bind: {span} port {}, {}", endpoint.port, socket_kind(&endpoint));
                }
            }
            Decision::Refuse(refusal) => {
                worst = status::REFUSED;
                let report = Report::of_refusal(&refusal, &caller, &policy);
                let (rule, program) = (report.rule.as_deref().unwrap_or(""), report.program.as_deref().unwrap_or(""));
                if asked.json {
                    out.push_str(separator);
                    let (why, fix) = (&report.why, &report.fix);
                    let endpoint = endpoint.to_string();
                    let fields: [(&str, &str); 6] = [
                        ("endpoint", &endpoint),
                        ("decision", "refuse"),
                        ("why", why),
                        ("fix", fix),
                        ("rule", rule),
                        ("program", program),
                    ];
                    json(&mut out, &fields);
                } else {
                    let _ = writeln!(out, "{}\n  why: {}\n  fix: {}", report.what, report.why, report.fix);
                }
            }
        }
    }
    if asked.json {
        out.push_str("]\n");
    }
    print(&out).map(|_| worst)
}

fn socket_kind(endpoint: &Resolved) -> String {
    let protocol = endpoint.endpoint.protocol;
    let listening = if protocol.is_stream() { ", listening" } else { "" };
    format!("{}{listening}, as descriptor '{}'", protocol.word(), endpoint.name())
}

/// The `check` verb: 0 where the policy is well-formed, warnings or not, else 78.
pub(crate) fn check(dropped: Dropped, as_json: bool, files: Vec<PathBuf>) -> Result<u8, Error> {
    let _renounced = dropped.renounce()?;
    let names = Names::system();
    let sources = if files.is_empty() { installed_sources(&names)? } else { read_as_caller(files)? };
    let (policy, problems) = match Policy::parse(sources, &names)? {
        Ok(policy) => (policy, Vec::new()),
        Err(malformed) => malformed,
    };
    let mut out = String::new();
    for (kind, list) in [("error", &problems), ("warning", &policy.warnings)] {
        for problem in list {
            finding(&mut out, &policy, kind, problem, as_json);
        }
    }
    let programs = policy.rules.iter().filter_map(|rule| Some((rule, program_warning(rule.program.as_deref()?)?)));
    let programs: Vec<_> = programs.collect();
    for (rule, text) in &programs {
        located(&mut out, &policy, "warning", (rule.file, rule.line, 1), text, as_json);
    }
    if as_json {
        out = format!("[{}]\n", out.trim_end_matches(','));
    } else {
        let warnings = policy.warnings.len() + programs.len();
        let counted = [
            (policy.rules.len(), "rule"),
            (policy.sources.len(), "file"),
            (problems.len(), "error"),
            (warnings, "warning"),
        ];
        let counted = counted.map(|(count, noun)| format!("{count} {noun}{}", if count == 1 { "" } else { "s" }));
        let _ = writeln!(out, "{}", counted.join(", "));
    }
    print(&out)?;
    Ok(if problems.is_empty() { status::OK } else { status::BROKEN })
}

/// Drafts are read as anybody would read them: what they must be to be believed is not asked of them.
fn read_as_caller(files: Vec<PathBuf>) -> Result<Vec<Source>, Error> {
    let read = |path: PathBuf| match trusted::read_unjudged(&path) {
        Ok(text) => Ok(Source { path, text }),
        Err(why) => Err(Error::Untrusted { path, why }),
    };
    files.into_iter().map(read).collect()
}

fn finding(out: &mut String, policy: &Policy, kind: &str, problem: &Problem, as_json: bool) {
    let place = (problem.file, problem.line, problem.column);
    located(out, policy, kind, place, &problem.wrong.to_string(), as_json);
}

fn located(out: &mut String, policy: &Policy, kind: &str, place: (usize, usize, usize), text: &str, as_json: bool) {
    let (file, line, column) = place;
    let path = policy.path(file);
    if as_json {
        json(
            out,
            &[
                ("file", &path),
                ("line", &line.to_string()),
                ("column", &column.to_string()),
                ("kind", kind),
                ("text", text),
            ],
        );
        out.push(',');
    } else {
        let shown = policy.line(file, line);
        let _ = writeln!(out, "{path}:{line}:{column}: {kind}: {text}\n    {shown}\n    {:>column$}", "^");
    }
}

fn program_warning(path: &Path) -> Option<String> {
    if let Err((path, why)) = trusted::judge_program(path) {
        return Some(format!("the rule cannot be used: {}: {why}", printable(path.as_os_str().as_encoded_bytes())));
    }
    let name = printable(path.file_name()?.as_encoded_bytes());
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    let script = std::fs::File::open(path).is_ok_and(|mut file| {
        let mut first = [0; 2];
        std::io::Read::read_exact(&mut file, &mut first).is_ok() && first == *b"#!"
    });
    if script || INTERPRETERS.contains(&stem) {
        return Some(format!("{name} runs what its caller tells it to, so the grant is bound to nothing"));
    }
    None
}

/// One object of strings. Everything here is printable ASCII already, so only the quote and the backslash remain.
fn json(out: &mut String, fields: &[(&str, &str)]) {
    let fields: Vec<String> = fields
        .iter()
        .map(|(key, value)| format!("\"{key}\":\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")))
        .collect();
    let _ = write!(out, "{{{}}}", fields.join(","));
}
