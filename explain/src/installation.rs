//! Checks the installed files: whether users can read the policy and the tables of names (the helper reads them as its
//! caller), whether the tables are trusted, and which files in the policy's folder are skipped.
//!
//! If only root can read a file, all requests of other users are refused, but root's work. So modes are judged for
//! others, not by access(2) as the caller.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use portgrant_policy::{Distrust, Error, Source, shell_word};
use portgrant_protocol::text::printable;
use portgrant_protocol::{Kind, Message};
use portgrant_trusted::{System, is_policy_file};
use rustix::fs::getxattr;
use serde_json::{Value, json};

/// The tables of names and of subordinate ids, in /etc.
const TABLES: [&str; 5] = ["passwd", "group", "services", "subuid", "subgid"];
const FOLDER: &str = "/etc/portgrant.d";
/// How many skipped files are named.
const MOST_SKIPPED: usize = 100;

const READ: u32 = 0o4;
const SEARCH: u32 = 0o1;

/// How a finding counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// Requests are refused because of it
    Error,
    /// Probably not intended
    Warning,
    /// Information
    Note,
}

/// A finding about a file, not about one of its lines.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) weight: Weight,
    /// A word for programs
    pub(crate) code: &'static str,
    /// Printable
    pub(crate) text: String,
    pub(crate) fix: Option<String>,
}

impl Weight {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Weight::Error => "error",
            Weight::Warning => "warning",
            Weight::Note => "note",
        }
    }
}

/// All findings about the files of the installed policy, `sources`, and about the tables.
pub(crate) fn findings(sources: &[Source]) -> Vec<Finding> {
    let helper = Helper::beside_this_program();
    let mut findings: Vec<Finding> = places(sources).filter_map(|(path, needed)| of(&path, needed, helper)).collect();
    findings.extend(TABLES.iter().filter_map(|name| untrusted(name)));
    findings.extend(skipped());
    findings
}

/// The first path that users lack a right to, as a message.
pub(crate) fn readable(sources: &[Source]) -> Result<(), Box<Message>> {
    let helper = Helper::beside_this_program();
    let mut found = places(sources).filter_map(|(path, needed)| of(&path, needed, helper));
    match found.find(|finding| finding.weight == Weight::Error) {
        Some(Finding { text, fix, .. }) => {
            let message = Message::of(Kind::BrokenPolicy, "the policy cannot be used").why(text);
            Err(Box::new(message.fix(fix.unwrap_or_default())))
        }
        None => Ok(()),
    }
}

/// Which tables there are.
pub(crate) fn tables() -> Value {
    let paths = TABLES.iter().map(|name| Path::new("/etc").join(name));
    paths.map(|path| json!({ "path": path.to_str(), "exists": path.exists() })).collect()
}

/// Each path that the helper reads or passes, and the rights that it needs there.
fn places(sources: &[Source]) -> impl Iterator<Item = (PathBuf, u32)> {
    let policy = sources.iter().map(|source| PathBuf::from(OsStr::from_bytes(&source.path)));
    let tables = TABLES.iter().map(|name| Path::new("/etc").join(name));
    let folders = [(PathBuf::from("/etc"), SEARCH), (PathBuf::from(FOLDER), READ | SEARCH)];
    folders.into_iter().chain(policy.chain(tables).map(|file| (file, READ)))
}

/// Who may execute the helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Helper {
    ForEverybody,
    ForGroup(u32),
}

impl Helper {
    fn beside_this_program() -> Helper {
        let helper = std::env::current_exe().ok().map(|path| path.with_file_name("portgrant-binder"));
        match helper.and_then(|path| fs::metadata(path).ok()) {
            Some(found) if found.mode() & 0o011 == 0o010 => Helper::ForGroup(found.gid()),
            Some(_) | None => Helper::ForEverybody,
        }
    }
}

/// Judges the mode for others. If an access list permits access, or the group is the only one that may execute the
/// helper, this may be intended, so it is a warning.
fn of(path: &Path, needed: u32, helper: Helper) -> Option<Finding> {
    let found = fs::metadata(path).ok()?;
    let mode = found.mode() & 0o7777;
    let has = |bits: u32| bits & needed == needed;
    if has(mode) {
        return None;
    }
    let name = shown(path);
    let why = if found.is_dir() { Distrust::Closed } else { Distrust::Unreadable };
    let finding = |weight, text| {
        let fix = Some(why.fix(path.as_os_str().as_bytes()));
        Finding { weight, code: "unreadable", text, fix }
    };
    if helper == Helper::ForGroup(found.gid()) && has(mode >> 3) {
        let gid = found.gid();
        let text = format!("only gid {gid} can read {name}, the group that may execute the helper (mode {mode:04o})");
        return Some(finding(Weight::Warning, text));
    }
    if getxattr(path, "system.posix_acl_access", &mut [0_u8; 0][..]).is_ok() {
        let text =
            format!("only users whom its access list names can read {name}, and the helper reads it as its caller");
        return Some(finding(Weight::Warning, text));
    }
    let text =
        format!("users cannot read {name}: its mode is {mode:04o}, and the helper reads it as the user who calls it");
    Some(finding(Weight::Error, text))
}

/// A finding for a table that the helper would not trust. Unreadable tables are already reported.
fn untrusted(name: &str) -> Option<Finding> {
    match System::default().has_table(name) {
        Err(Error::Untrusted { path, why }) if why != Distrust::Unreadable && why != Distrust::Closed => {
            Some(Finding {
                weight: Weight::Error,
                code: "untrusted-table",
                text: format!("{}: {why}, so no name in /etc/{name} can be used", printable(&path)),
                fix: Some(why.fix(&path)),
            })
        }
        _ => None,
    }
}

/// The files in the policy's folder that are not part of the policy.
fn skipped() -> Vec<Finding> {
    let entries = fs::read_dir(FOLDER).into_iter().flatten().flatten();
    let names = entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_fifo() && !kind.is_socket()));
    let mut names: Vec<_> =
        names.map(|entry| entry.file_name()).filter(|name| !is_policy_file(name.as_bytes())).collect();
    names.sort();
    let left_out = names.len().saturating_sub(MOST_SKIPPED);
    let mut findings: Vec<Finding> = names.iter().take(MOST_SKIPPED).map(|name| skipped_file(name)).collect();
    if left_out > 0 {
        let text = format!("{left_out} more files in {FOLDER} are skipped");
        findings.push(Finding { weight: Weight::Note, code: "skipped", text, fix: None });
    }
    findings
}

/// Files that editors and package managers leave are a note. Others probably have rules, so they are a warning.
fn skipped_file(name: &OsStr) -> Finding {
    const LEFT: [&str; 12] =
        ["~", ".bak", ".old", ".orig", ".rej", ".save", ".swp", ".tmp", ".rpmnew", ".rpmsave", ".rpmorig", ".disabled"];
    let bytes = name.as_bytes();
    let is_left = LEFT.iter().any(|end| bytes.ends_with(end.as_bytes()))
        || bytes.windows(6).any(|part| matches!(part, b".dpkg-" | b".ucf-d"));
    let path = Path::new(FOLDER).join(name);
    let shown = shown(&path);
    if is_left || bytes.starts_with(b".") || bytes == b"README" {
        let text = format!("{shown} is skipped: only names that end in .conf and do not begin with a dot are read");
        return Finding { weight: Weight::Note, code: "skipped", text, fix: None };
    }
    let text = format!("{shown} is skipped: its name does not end in .conf");
    if path.is_dir() {
        let text = format!("{shown} is skipped: folders are not read");
        return Finding { weight: Weight::Warning, code: "skipped", text, fix: None };
    }
    let with_ending = [path.as_os_str().as_bytes(), b".conf"].concat();
    let fix = format!("as root: mv {} {}", shell_word(path.as_os_str().as_bytes()), shell_word(&with_ending));
    let fix = Some(fix);
    Finding { weight: Weight::Warning, code: "skipped", text, fix }
}

fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_mode_is_judged_for_others_and_for_the_group_that_may_execute_the_helper() -> io::Result<()> {
        let folder = std::env::temp_dir().join(format!("portgrant-readable-{}", std::process::id()));
        fs::create_dir(&folder)?;
        let file = folder.join("a.conf");
        fs::write(&file, "")?;
        let judged = |path: &Path, mode, needed, helper| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
            of(path, needed, helper).map(|finding| (finding.weight, finding.fix.unwrap_or_default()))
        };
        let (file_fix, folder_fix) =
            (format!("as root: chmod 0644 {}", file.display()), format!("as root: chmod 0755 {}", folder.display()));
        let gid = fs::metadata(&file)?.gid();
        let all = Helper::ForEverybody;
        for (path, mode, needed, helper, expected) in [
            (&file, 0o644, READ, all, None),
            (&folder, 0o755, READ | SEARCH, all, None),
            (&folder, 0o711, SEARCH, all, None),
            (&folder, 0o711, READ | SEARCH, all, Some((Weight::Error, folder_fix))),
            (&file, 0o600, READ, all, Some((Weight::Error, file_fix.clone()))),
            (&file, 0o640, READ, all, Some((Weight::Error, file_fix.clone()))),
            (&file, 0o640, READ, Helper::ForGroup(gid + 1), Some((Weight::Error, file_fix.clone()))),
            (&file, 0o640, READ, Helper::ForGroup(gid), Some((Weight::Warning, file_fix.clone()))),
            (&file, 0o600, READ, Helper::ForGroup(gid), Some((Weight::Error, file_fix))),
        ] {
            assert_eq!(judged(path, mode, needed, helper), expected, "{mode:o}");
        }
        assert_eq!(of(&folder.join("missing"), READ, all), None);
        fs::remove_dir_all(folder)
    }

    #[test]
    fn a_backup_of_a_package_manager_is_a_note_and_a_file_without_conf_a_warning() {
        for (name, weight) in [
            ("alice.conf~", Weight::Note),
            (".alice.conf.swp", Weight::Note),
            (".draft.conf", Weight::Note),
            ("a.conf.dpkg-new", Weight::Note),
            ("a.conf.ucf-dist", Weight::Note),
            ("README", Weight::Note),
            ("alice", Weight::Warning),
            ("alice.cfg", Weight::Warning),
            ("alice.Conf", Weight::Warning),
        ] {
            assert_eq!(skipped_file(OsStr::new(name)).weight, weight, "{name}");
        }
    }
}
