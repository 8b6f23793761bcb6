//! The output of `show`.

use std::fmt::Write as _;

use clap::ValueEnum;
use serde::Serialize;

use crate::Error;
use crate::description::Description;
use crate::layout::ring;
use crate::loaded::{Attached, Counts, Loaded, Reader};

/// How many of the rules that are left out are shown as text.
const SHOWN: usize = 20;

#[derive(Serialize)]
struct State<'a> {
    #[serde(flatten)]
    description: &'a Description,
    attached: bool,
    this_network_namespace: bool,
    granted: u64,
    unlogged: u64,
    passed: u64,
    read: bool,
    unread_bytes: u64,
}

/// The loaded policy as text, or as one line of JSON.
pub fn describe(loaded: &Loaded, form: Form) -> Result<String, Error> {
    let description = loaded.description()?;
    let Counts { granted, unlogged, passed } = loaded.counts()?;
    let state = State {
        description: &description,
        attached: loaded.attached() == Attached::Yes,
        this_network_namespace: crate::network::network_namespace()? == description.network_namespace,
        granted,
        unlogged,
        passed,
        read: loaded.reader()? == Reader::There,
        unread_bytes: loaded.grants()?.waiting(),
    };
    Ok(match form {
        Form::Json => serde_json::to_string(&state).expect("numbers and texts") + "\n",
        Form::Text => text(&state),
    })
}

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people
    Text,
    /// For programs
    Json,
}

fn text(state: &State<'_>) -> String {
    let description = state.description;
    let mut out = String::new();
    let mut line = |name: &str, what: std::fmt::Arguments<'_>| {
        let _ = writeln!(out, "{name:>10}: {what}");
    };
    line(
        "loaded",
        format_args!(
            "{}, this policy since {} (generation {})",
            description.loaded, description.since, description.generation
        ),
    );
    line("files", format_args!("{}", description.files.join(" ")));
    line("rules", format_args!("{}; left out, or in part: {}", description.rules, description.left_out));
    if description.expand_groups {
        line("groups", format_args!("as the users who were their members then"));
    }
    let gone = if state.attached { "" } else { "; it is gone, or was detached, so NOTHING IS GRANTED" };
    line("cgroup", format_args!("{} (id {}){gone}", description.cgroup, description.cgroup_id));
    let whose = if state.this_network_namespace { "this one" } else { "NOT THIS ONE" };
    line("network", format_args!("{whose} (cookie {})", description.network_namespace));
    line("grants", format_args!("{}; {} requests were left to the kernel", state.granted, state.passed));
    let unread = state.unread_bytes * 100 / u64::from(ring::SIZE);
    let read =
        if state.read { "read by portgrant-kernel audit" } else { "NOBODY READS THE GRANTS (portgrant-kernel audit)" };
    line("audit", format_args!("{read}; {unread} % of the buffer waits, {} were lost", state.unlogged));
    out.push_str(&left_out(description));
    out
}

/// The rules that are left out, each with its reason.
#[must_use]
pub fn left_out(description: &Description) -> String {
    let mut out = String::new();
    for rule in description.left_out_rules.iter().take(SHOWN) {
        let _ = writeln!(out, "  left out: {}  {}\n            {}", rule.rule, rule.text, rule.why);
    }
    if description.left_out > SHOWN {
        let _ =
            writeln!(out, "  left out: {} more, see portgrant-kernel show --format json", description.left_out - SHOWN);
    }
    out
}

/// This moment.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
