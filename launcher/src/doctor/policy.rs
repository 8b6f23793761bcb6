//! Checks the policy and the tables of names that rules use, by `portgrant-explain check`.

use std::path::Path;

use serde_json::Value;

use super::{Finding, State, helper, place};

const ABOUT: &str = "policy";
const NAMES: &str = "names";
/// At most this many findings are printed; `portgrant check` prints all.
const MOST: usize = 8;

pub(super) fn findings() -> Vec<Finding> {
    match crate::policy::locate() {
        Ok(path) => checked(&path),
        Err(error) => {
            let message = error.message();
            let text = format!("{}: {}", message.what, message.why.unwrap_or_default());
            vec![Finding::new(State::Broken, ABOUT, text).fix(message.fix.unwrap_or_default())]
        }
    }
}

/// Findings about the tables of names that exist.
fn tables(answer: &Value) -> Vec<Finding> {
    let all = answer["tables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let named = |exists: bool| {
        let of = all.iter().filter(|table| table["exists"] == exists).filter_map(|table| table["path"].as_str());
        of.collect::<Vec<_>>().join(", ")
    };
    let (present, missing) = (named(true), named(false));
    let mut findings = Vec::new();
    if !present.is_empty() {
        findings.push(Finding::new(State::Fine, NAMES, format!("only root can change {present}")));
    }
    if !missing.is_empty() {
        findings.push(Finding::new(
            State::Note,
            NAMES,
            format!("these files do not exist, so no name is found in them: {missing}"),
        ));
    }
    findings
}

fn checked(program: &Path) -> Vec<Finding> {
    let mut findings = place::judge(ABOUT, program);
    let version = helper::version(ABOUT, program);
    findings.extend(Some(version).filter(|finding| finding.state == State::Broken));
    let answer = helper::output_of(program, &["check", "--format", "json"]);
    let answer = answer.ok().and_then(|(answer, _)| serde_json::from_slice::<Value>(&answer).ok());
    let Some(answer) = answer else { return findings };
    let all = answer["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    findings.extend(all.iter().take(MOST).map(finding_of));
    let left_out = answer["left_out"].as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
    if let more @ 1.. = all.len().saturating_sub(MOST) + left_out {
        let noun = if more == 1 { "finding" } else { "findings" };
        let text = format!("{more} more {noun}: portgrant check lists all");
        findings.push(Finding::new(State::Note, ABOUT, text));
    }
    if !all.iter().any(|finding| finding["kind"] == "error") {
        let files = answer["files"].as_array().map_or(0, Vec::len);
        let rules = answer["rules"].as_u64().unwrap_or(0);
        let rules = if rules == 1 { "1 rule".to_owned() } else { format!("{rules} rules") };
        let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
        let text = format!("well-formed, and only root can change it: {rules} in {files}");
        findings.push(Finding::new(State::Fine, ABOUT, text));
    }
    if !all.iter().any(is_about_names) {
        findings.extend(tables(&answer));
    }
    findings
}

fn is_about_names(finding: &Value) -> bool {
    finding["code"] == "untrusted-table"
}

/// A finding of `check`. Its text is already printable.
fn finding_of(finding: &Value) -> Finding {
    let word = |key: &str| finding[key].as_str().unwrap_or_default();
    let state = match finding["kind"].as_str() {
        Some("error") => State::Broken,
        Some("note") => State::Note,
        _ => State::Warning,
    };
    let about = match finding["code"].as_str() {
        Some("nfs") => "nfs",
        Some("untrusted-table") => NAMES,
        _ => ABOUT,
    };
    let place = match finding["line"].as_u64() {
        Some(line) => format!("{}:{line}:{}: ", word("file"), finding["column"]),
        None => String::new(),
    };
    let found = Finding::new(state, about, format!("{place}{}", word("text")));
    match (finding["fix"].as_str(), state) {
        (Some(fix), _) => found.fix(fix),
        (None, State::Broken) => found.fix("as root, correct that line; until then every request is refused"),
        (None, _) => found,
    }
}
