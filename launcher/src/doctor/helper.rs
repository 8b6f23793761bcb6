//! Checks the helper: its place, owner, privilege and version.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use portgrant_protocol::text::printable;
use portgrant_protocol::unanswered;
use portgrant_server::helper::{VARIABLE, places};
use rustix::fs::{Access, StatVfsMountFlags, access, getxattr, statvfs};
use rustix::io::Errno;

use super::{Finding, State, place, shown};

const ABOUT: &str = "helper";
/// The most output that is read: more than any policy causes.
const MOST_BYTES: u64 = 64 << 20;

/// Everything about the helper at `path`, or about its absence.
pub(super) fn findings(path: Option<&Path>) -> Vec<Finding> {
    let Some(path) = path else { return vec![misplaced().unwrap_or_else(missing)] };
    let mut findings = place::judge(ABOUT, path);
    if access(path, Access::EXEC_OK).is_err() {
        let text = format!("you may not execute {}", shown(path));
        let fix = format!("as root: chmod a+x {}; or join the group that may", shown(path));
        findings.push(Finding::new(State::Broken, ABOUT, text).fix(fix));
    } else {
        findings.push(version(ABOUT, path));
    }
    findings.push(privilege(path));
    findings.extend(mount(path));
    findings
}

fn missing() -> Finding {
    let message = portgrant_server::helper::locate().err().map(|error| error.message());
    let what = message.as_ref().map_or_else(String::new, |message| message.what.clone());
    let why = message.as_ref().and_then(|message| message.why.clone()).unwrap_or_default();
    let fix = message.and_then(|message| message.fix).unwrap_or_default();
    Finding::new(State::Broken, ABOUT, format!("{what}: {why}")).fix(fix)
}

/// What is wrong at the helper's path or above it, if the helper was not found.
pub(super) fn misplaced() -> Option<Finding> {
    let broken = |text| Finding::new(State::Broken, ABOUT, text);
    for place in places().ok()? {
        let name = shown(&place);
        match fs::symlink_metadata(&place) {
            Ok(found) if found.is_symlink() => {
                return Some(
                    broken(format!("{name} is a symlink that leads to no file"))
                        .fix("as root, put the helper itself there (packaging/install)"),
                );
            }
            Ok(_) => {
                return Some(
                    broken(format!("{name} is not a regular file"))
                        .fix("as root, put the helper there (packaging/install)"),
                );
            }
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let closed = |folder: &&Path| fs::metadata(folder).is_ok() && access(*folder, Access::EXEC_OK).is_err();
                let folder = shown(place.ancestors().find(closed).unwrap_or(&place));
                return Some(
                    broken(format!("{name} cannot be reached: you may not enter {folder}"))
                        .fix(format!("as root: chmod 0755 {folder}")),
                );
            }
            Err(_) => {}
        }
    }
    let variable = std::env::var_os(VARIABLE)?;
    let text = format!("{VARIABLE} names {}, which is not there", printable(variable.as_encoded_bytes()));
    Some(broken(text).fix(format!("unset {VARIABLE}, so that the installed helper is found")))
}

/// Checks that a program of this installation has the launcher's version.
pub(super) fn version(about: &'static str, path: &Path) -> Finding {
    let name = shown(path);
    let broken = |text| Finding::new(State::Broken, about, text);
    let output = match output_of(path, &["--version"]) {
        Ok((output, ended)) => match ended.filter(|_| output.is_empty()).and_then(unanswered::reason) {
            Some((why, fix)) => return broken(format!("{name} does not run: {why}")).fix(fix),
            None => printable(output.trim_ascii()),
        },
        Err(error) => {
            let is_limit = [Errno::AGAIN, Errno::MFILE, Errno::NFILE, Errno::NOMEM].map(Errno::raw_os_error);
            let fix = if error.raw_os_error().is_some_and(|errno| is_limit.contains(&errno)) {
                "raise the limit (ulimit -u, ulimit -n), or stop other processes"
            } else {
                "as root, install it again (packaging/install)"
            };
            return broken(format!("{name} does not run: {error}")).fix(fix);
        }
    };
    let own = env!("CARGO_PKG_VERSION");
    match output.rsplit_once(' ') {
        Some((_, version)) if version == own => Finding::new(State::Fine, about, format!("{name}, version {own}")),
        Some((_, version)) => {
            Finding::new(State::Broken, about, format!("{name} is version {version}, and this launcher is {own}"))
                .fix("as root, install both from one build (packaging/build, packaging/install)")
        }
        None => {
            Finding::new(State::Broken, about, format!("{name} does not print its version: is it part of portgrant?"))
                .fix("as root, install it again (packaging/install)")
        }
    }
}

/// A program's standard output, and its exit status, which is unknown if SIGCHLD is ignored.
pub(super) fn output_of(program: &Path, words: &[&str]) -> io::Result<(Vec<u8>, Option<ExitStatus>)> {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let mut output = Vec::new();
    let read = child.stdout.take().map_or(Ok(0), |pipe| pipe.take(MOST_BYTES).read_to_end(&mut output));
    let ended = child.wait().ok();
    read.map(|_| (output, ended))
}

/// The privilege that the kernel gives for the file's mode, owner and capability (execve(2), capabilities(7)).
fn privilege(path: &Path) -> Finding {
    const ABOUT: &str = "privilege";
    let name = shown(path);
    let give =
        format!("as root: setcap cap_net_bind_service=p {name}; or as root: chown root {name} && chmod 4755 {name}");
    let finding = |state, text: &str| Finding::new(state, ABOUT, text);
    let setuid_root = fs::metadata(path).is_ok_and(|found| found.mode() & 0o4000 != 0 && found.uid() == 0);
    match capability(path) {
        _ if setuid_root => finding(State::Fine, "setuid root"),
        Some(Capability::OfAnotherNamespace) => {
            finding(State::Broken, "its capability is for another user namespace").fix(give)
        }
        Some(Capability::Here { binds: true, more: true, .. }) => {
            finding(State::Warning, "it has cap_net_bind_service, and other capabilities that it does not need")
                .fix(format!("as root: setcap cap_net_bind_service=p {name}"))
        }
        Some(Capability::Here { binds: true, effective: true, .. }) => finding(
            State::Warning,
            "cap_net_bind_service=ep: if the bounding set lacks it, the helper cannot start and report this",
        )
        .fix(format!("as root: setcap cap_net_bind_service=p {name}")),
        Some(Capability::Here { binds: true, .. }) => finding(State::Fine, "cap_net_bind_service=p"),
        Some(Capability::Here { binds: false, .. }) | None => {
            finding(State::Broken, "it has neither cap_net_bind_service=p nor root's setuid bit").fix(give)
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Capability {
    OfAnotherNamespace,
    Here { binds: bool, more: bool, effective: bool },
}

/// Reads `security.capability` (struct vfs_ns_cap_data): flags and revision, then permitted and inheritable, low words
/// before high ones, all of them little-endian.
fn capability(path: &Path) -> Option<Capability> {
    let mut value = [0u8; 64];
    let length = match getxattr(path, "security.capability", &mut value) {
        Ok(length) => length,
        Err(Errno::OVERFLOW) => return Some(Capability::OfAnotherNamespace),
        Err(_) => return None,
    };
    let word = |at: usize| value.get(at..at + 4).and_then(<[u8]>::first_chunk).copied().map_or(0, u32::from_le_bytes);
    if length < 12 {
        return None;
    }
    if value[3] == 3 {
        return Some(Capability::OfAnotherNamespace);
    }
    let binds = 1 << 10;
    let more = word(4) & !binds != 0 || word(12) != 0;
    Some(Capability::Here { binds: word(4) & binds != 0, more, effective: word(0) & 1 != 0 })
}

fn mount(path: &Path) -> Option<Finding> {
    let nosuid = statvfs(path).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::NOSUID));
    let text = format!("the file system of {} is mounted nosuid: the helper gains no privilege", shown(path));
    let fix =
        "as root, install it on a file system without nosuid (packaging/install PREFIX), or remount this one with suid";
    nosuid.then(|| Finding::new(State::Broken, "mount", text).fix(fix))
}
