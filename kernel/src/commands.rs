//! The commands of `portgrant-kernel`, in the order in which privilege is used and given up.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;

use portgrant_policy::Policy;
use portgrant_protocol::status;
use portgrant_protocol::text::printable;
use portgrant_trusted::consistent;

use crate::arguments::{self, Command, Load};
use crate::audit;
use crate::cgroup::Cgroup;
use crate::description::{Description, LeftOutRule, MOST_LEFT_OUT};
use crate::error::Error;
use crate::loaded::{Attached, Loaded};
use crate::network::network_namespace;
use crate::privilege::Kept;
use crate::program;
use crate::projection::{Groups, Projection};
use crate::show;
use crate::tables::Tables;

/// From the arguments to the exit status.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    match Kept::at_start().and_then(|kept| command(kept, arguments)) {
        Ok(()) => status::OK,
        Err(error) => report(error),
    }
}

fn command(kept: Kept, arguments: impl IntoIterator<Item = OsString>) -> Result<(), Error> {
    match arguments::parse(arguments)?.command {
        Command::Load(how) => load(kept, &how),
        Command::Reload => reload(&kept),
        Command::Unload => unload(&kept),
        Command::Show(how) => print(&kept.with(|| show::describe(&Loaded::open()?, how.format))?),
        Command::Audit => audit(kept),
    }
}

/// Unloads, and warns if unread grants are lost.
fn unload(kept: &Kept) -> Result<(), Error> {
    let unread = kept.with(|| Loaded::open().and_then(|loaded| loaded.unread()));
    kept.with(Loaded::unload)?;
    if matches!(unread, Ok(true)) {
        let text = "portgrant-kernel: the last grants were not read, so they are not in the log\n";
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
    Ok(())
}

fn load(kept: Kept, how: &Load) -> Result<(), Error> {
    let (tables, mut description) = compiled(how.expand_groups)?;
    let cgroup = Cgroup::open(how.cgroup.as_deref())?;
    description.cgroup = printable(cgroup.path.as_os_str().as_encoded_bytes());
    description.cgroup_id = cgroup.id;
    if how.dry_run {
        return print(&format!("{}{}", sizes(&description), show::left_out(&description)));
    }
    if !kept.suffices() {
        return Err(Error::NoPrivilege);
    }
    kept.with(|| Loaded::load(&tables, &cgroup, description.clone()))?;
    kept.renounce()?;
    warn(&description);
    Ok(())
}

fn reload(kept: &Kept) -> Result<(), Error> {
    // Locked from before the policy is read: of two reloads, the later one must not activate an older policy.
    let loaded = kept.with(Loaded::open_locked)?;
    let before = kept.with(|| loaded.description())?;
    if kept.with(|| Ok(loaded.attached()))? == Attached::No {
        return Err(Error::Detached { cgroup: before.cgroup });
    }
    let (tables, description) = compiled(before.expand_groups)?;
    if description.network_namespace != before.network_namespace {
        return Err(Error::OtherNetwork { loaded: before.network_namespace, here: description.network_namespace });
    }
    let generation = before
        .generation
        .checked_add(1)
        .ok_or(Error::Call { call: "counting generations", errno: rustix::io::Errno::OVERFLOW })?;
    let description = Description {
        generation,
        loaded: before.loaded,
        cgroup: before.cgroup,
        cgroup_id: before.cgroup_id,
        ..description
    };
    kept.with(|| loaded.replace(&tables, description.clone()))?;
    warn(&description);
    Ok(())
}

fn audit(mut kept: Kept) -> Result<(), Error> {
    kept.limit_to_pins()?;
    let loaded = kept.with(Loaded::open)?;
    let (held, here) = (kept.with(|| loaded.description())?.network_namespace, network_namespace()?);
    if held != here {
        return Err(Error::OtherNetwork { loaded: held, here });
    }
    // Each new generation opens pins, which needs CAP_BPF before Linux 5.18.
    kept.with(|| audit::follow(&loaded))
}

/// Reads and compiles the installed policy, with no capability effective.
fn compiled(expand_groups: bool) -> Result<(Tables, Description), Error> {
    let reading = consistent(|system| {
        let policy = Policy::from(system.policy()?);
        let groups = if expand_groups { Groups::Members } else { Groups::RealGid };
        Ok((policy.rules.len(), Projection::of(policy, groups, &system.names)?))
    })?;
    let (rules, projection) = reading.value;
    let projection = projection.map_err(|(policy, denies)| Error::Undecidable { policy: Box::new(policy), denies })?;
    let tables = Tables::of(&projection)?;
    let policy = projection.policy();
    let named = projection.left_out().iter().map(|left| LeftOutRule {
        rule: format!("{}:{}", policy.path(left.file), left.line),
        text: policy.line(left.file, left.line),
        why: left.why.to_string(),
    });
    let now = show::now();
    let left_out: BTreeSet<_> = projection.left_out().iter().map(|left| (left.file, left.line)).collect();
    let description = Description {
        generation: 1,
        map: 0,
        program: program::number(),
        loaded: now.clone(),
        since: now,
        files: (0..policy.sources.len()).map(|file| policy.path(file)).collect(),
        rules,
        left_out: left_out.len(),
        left_out_rules: named.take(MOST_LEFT_OUT).collect(),
        expand_groups,
        cgroup: String::new(),
        cgroup_id: 0,
        network_namespace: network_namespace()?,
        ports: tables.ports.len(),
        entries: tables.entries,
        intervals: tables.boundaries.len(),
    };
    Ok((tables, description))
}

fn sizes(description: &Description) -> String {
    let Description { rules, ports, entries, intervals, .. } = description;
    format!("rules: {rules}, ports: {ports}, entries: {entries}, intervals of addresses: {intervals}\n")
}

/// Prints the rules that are left out. They are not an error.
fn warn(description: &Description) {
    let _ = std::io::stderr().write_all(show::left_out(description).as_bytes());
}

/// The status that a shell shows for SIGPIPE: 128 + 13.
const BROKEN_PIPE: i32 = 141;

fn print(text: &str) -> Result<(), Error> {
    match std::io::stdout().write_all(text.as_bytes()) {
        // Rust ignores SIGPIPE. If nobody reads the pipe, end silently, as that signal would.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(BROKEN_PIPE),
        written => written.map_err(|error| Error::Call {
            call: "write",
            errno: rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO),
        }),
    }
}

/// Prints the message and returns the exit status. A failure to print is ignored.
fn report(error: Error) -> u8 {
    if let Error::Answered(text) = error {
        return print(&text).map_or_else(report, |()| status::OK);
    }
    let message = error.message();
    let _ = std::io::stderr().write_all(message.text("portgrant-kernel").as_bytes());
    message.status
}
