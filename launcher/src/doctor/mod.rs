//! `portgrant doctor`: checks whether this installation works for the caller. It changes nothing; each problem has a
//! fix.
//!
//! It checks the same facts as the kernel and the helper, from outside, before anything has failed.

mod gain;
mod helper;
mod place;
mod policy;
mod system;

use std::collections::HashSet;
use std::convert::Infallible;
use std::fmt::Write as _;

use portgrant_protocol::status;
use portgrant_protocol::text::printable;
use serde_json::{Value, json};

use crate::output::{self, BAD, DOUBTFUL, GOOD, answered, in_style};
use crate::{Doctor, Error, Writing, unprivileged};

/// The state of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Fine,
    /// Information
    Note,
    /// It works, but is probably not intended
    Warning,
    /// It does not work, or is not safe
    Broken,
}

/// One line, and its fix.
#[derive(Debug)]
struct Finding {
    state: State,
    about: &'static str,
    /// Printable
    text: String,
    fix: Option<String>,
}

/// Exits with 0 if nothing is broken, else 78.
pub(crate) fn doctor(asked: &Doctor) -> Result<Infallible, Error> {
    let mut findings = all();
    // A folder above both programs is reported once.
    let mut reported = HashSet::new();
    findings.retain(|finding| reported.insert(finding.text.clone()));
    match asked.format.writing() {
        Writing::Text => output::print(&text(&findings))?,
        Writing::Json => output::print_json(&json!({
            "broken": count(&findings, State::Broken), "warnings": count(&findings, State::Warning),
            "findings": findings.iter().map(Finding::json).collect::<Vec<_>>(),
        }))?,
    }
    Err(answered(count(&findings, State::Broken) == 0, status::BROKEN))
}

/// All findings. If a user namespace explains everything, it is the only one.
fn all() -> Vec<Finding> {
    let helper = portgrant_server::helper::locate();
    if unprivileged::is_unmapped() {
        let message = Error::Unmapped.message();
        let finding = Finding::new(State::Broken, "namespace", message.what);
        return vec![finding.fix(message.fix.unwrap_or_default())];
    }
    if unprivileged::owns_this_network(|| helper.as_ref().ok().cloned()) {
        let text = "this is a user namespace, and the network belongs to it: exec and run bind every port without the helper, \
                    and no rule is needed";
        return vec![Finding::new(State::Note, "namespace", text), system::ipv6(), system::kernel()];
    }
    let mut findings = helper::findings(helper.as_deref().ok());
    findings.extend(gain::findings());
    findings.extend(policy::findings());
    findings.extend(system::findings());
    findings
}

/// Further lines for an error about a helper that is missing or cannot be run: the first broken finding. Empty if there
/// is none.
pub(crate) fn first_problem() -> String {
    let helper = portgrant_server::helper::locate().ok();
    let findings = match &helper {
        Some(path) => helper::findings(Some(path)),
        None => helper::misplaced().into_iter().collect(),
    };
    let broken = findings.into_iter().find(|finding| finding.state == State::Broken);
    let line = broken.map(|finding| match finding.fix {
        Some(fix) => format!("  doctor: {}; {fix}\n", finding.text),
        None => format!("  doctor: {}\n", finding.text),
    });
    line.unwrap_or_default()
}

fn count(findings: &[Finding], state: State) -> usize {
    findings.iter().filter(|finding| finding.state == state).count()
}

fn text(findings: &[Finding]) -> String {
    let mut out = String::new();
    for finding in findings {
        finding.write(&mut out);
    }
    let (broken, warnings) = (count(findings, State::Broken), count(findings, State::Warning));
    let (style, verdict) = match (broken, warnings) {
        (0, 0) => (GOOD, "all is well".to_owned()),
        (0, _) => (GOOD, "it works".to_owned()),
        (1, _) => (BAD, "1 thing is broken".to_owned()),
        (many, _) => (BAD, format!("{many} things are broken")),
    };
    let also = match warnings {
        0 => String::new(),
        1 => ", 1 warning".to_owned(),
        many => format!(", {many} warnings"),
    };
    let _ = writeln!(out, "{}{also}", in_style(style, &verdict));
    out
}

impl Finding {
    fn new(state: State, about: &'static str, text: impl Into<String>) -> Finding {
        Finding { state, about, text: text.into(), fix: None }
    }

    fn fix(self, fix: impl Into<String>) -> Finding {
        Finding { fix: Some(fix.into()), ..self }
    }

    fn write(&self, out: &mut String) {
        let (style, word) = match self.state {
            State::Fine => (GOOD, "ok"),
            State::Note => (anstyle::Style::new(), "note"),
            State::Warning => (DOUBTFUL, "warning"),
            State::Broken => (BAD, "broken"),
        };
        let _ = writeln!(out, "{} {:<10} {}", in_style(style, &format!("{word:<7}")), self.about, self.text);
        if let Some(fix) = &self.fix {
            let _ = writeln!(out, "{:19}fix: {fix}", "");
        }
    }

    fn json(&self) -> Value {
        let state = match self.state {
            State::Fine => "ok",
            State::Note => "note",
            State::Warning => "warning",
            State::Broken => "broken",
        };
        json!({ "state": state, "about": self.about, "text": self.text, "fix": self.fix })
    }
}

fn shown(path: &std::path::Path) -> String {
    printable(path.as_os_str().as_encoded_bytes())
}
