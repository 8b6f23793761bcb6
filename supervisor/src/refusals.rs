//! Recent refusals, kept for `portgrant explain --why-denied`: a program only gets EACCES, and nobody may see its
//! terminal.
//!
//! They are in one file of the user: `portgrant/refusals` in their runtime folder (XDG_RUNTIME_DIR), or else in their
//! state folder (XDG_STATE_HOME, or .local/state at home). If both are missing, nothing is kept, but the helper still
//! logs to syslog.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::libc::O_NOFOLLOW;

/// From this size on, in bytes, the file is rewritten with its newer half.
const LARGE: u64 = 64 << 10;

/// One refusal, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The time
    pub at: SystemTime,
    /// The thread that called bind(2)
    pub pid: u32,
    /// The thread's name, printable
    pub program: String,
    /// The message: what, why and fix, one line each
    pub message: String,
}

/// The file for this user. `variable` looks up an environment variable.
pub fn path(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let own = nix::unistd::getuid().as_raw();
    let is_own = |folder: &PathBuf| fs::metadata(folder).is_ok_and(|found| found.is_dir() && found.uid() == own);
    let runtime = variable("XDG_RUNTIME_DIR").unwrap_or_else(|| format!("/run/user/{own}").into());
    if is_own(&runtime) {
        return Some(runtime.join("portgrant/refusals"));
    }
    let home = variable("HOME").filter(is_own)?;
    // If XDG_STATE_HOME is set, the folder must exist and belong to this user: sudo -E keeps another user's.
    let state = match variable("XDG_STATE_HOME") {
        Some(state) => Some(state).filter(is_own)?,
        None => home.join(".local/state"),
    };
    Some(state.join("portgrant/refusals"))
}

/// Adds a refusal. Failures are ignored.
pub fn keep(path: &Path, refusal: &Kept) {
    let Some(mut file) = open(path) else { return };
    let seconds = refusal.at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let message: String = refusal.message.lines().map(|line| format!("\t{line}\n")).collect();
    // One write at the end of the file, since several supervisors may write at once.
    let _ = file.write_all(format!("{seconds} {} {}\n{message}", refusal.pid, refusal.program).as_bytes());
    if file.metadata().is_ok_and(|found| found.len() > LARGE) {
        drop_older_half(&mut file);
    }
}

fn open(path: &Path) -> Option<File> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path.parent()?).ok()?;
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).custom_flags(O_NOFOLLOW).open(path);
    let file = file.ok()?;
    file.metadata().ok()?.is_file().then_some(file)
}

fn drop_older_half(file: &mut File) {
    let mut text = String::new();
    if file.seek(SeekFrom::Start(LARGE / 2)).is_ok() && file.read_to_string(&mut text).is_ok() {
        let from = text.match_indices('\n').map(|(at, _)| at + 1).find(|&at| !text[at..].starts_with('\t'));
        let kept = from.map_or("", |from| &text[from..]);
        let _ = file.set_len(0).and_then(|()| file.write_all(kept.as_bytes()));
    }
}

/// The refusals in the file at `path`, the oldest first.
pub fn read(path: &Path) -> std::io::Result<Vec<Kept>> {
    let mut refusals: Vec<Kept> = Vec::new();
    for line in fs::read_to_string(path)?.lines() {
        match line.strip_prefix('\t') {
            Some(message) => {
                if let Some(refusal) = refusals.last_mut() {
                    refusal.message += message;
                    refusal.message.push('\n');
                }
            }
            None => refusals.extend(heading(line)),
        }
    }
    Ok(refusals)
}

fn heading(line: &str) -> Option<Kept> {
    let mut words = line.splitn(3, ' ');
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(words.next()?.parse().ok()?))?;
    let pid = words.next()?.parse().ok()?;
    Some(Kept { at, pid, program: words.next()?.to_owned(), message: String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(pid: u32) -> Kept {
        let at = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        Kept { at, pid, program: "python3 -m".to_owned(), message: "80/tcp is refused\n  why: none\n".to_owned() }
    }

    #[test]
    fn the_latest_refusals_are_kept_and_the_file_stays_small() {
        let folder = std::env::temp_dir().join(format!("portgrant-refusals-{}", std::process::id()));
        let path = folder.join("portgrant/refusals");
        for pid in 1..=2000 {
            keep(&path, &refusal(pid));
        }
        assert!(fs::metadata(&path).expect("kept").len() <= LARGE);
        assert_eq!(fs::metadata(&path).expect("kept").mode() & 0o777, 0o600);
        let kept = read(&path).expect("read");
        assert_eq!(kept.last(), Some(&refusal(2000)));
        assert!(kept.len() > 300, "{}", kept.len());
        for (refusal, pid) in kept.iter().rev().zip((0..=2000).rev()) {
            assert_eq!(refusal.pid, pid, "none is missing in between");
        }
        fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn a_folder_of_another_user_is_not_written_to() {
        let root = |name: &str| (name != "XDG_STATE_HOME").then(|| PathBuf::from("/proc/1/no-such-folder"));
        assert_eq!(path(root), None);
    }
}
