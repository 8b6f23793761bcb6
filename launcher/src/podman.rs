//! Podman under `portgrant run`. Rootless podman works in a user namespace, which newuidmap(1) sets up once. Under
//! `portgrant run` no program gains privilege, not even newuidmap, and podman's own advice does not help. A podman
//! process keeps the namespace, and its pid is in a file, so that file shows whether the namespace exists.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use portgrant_server::Message;
use rustix::process::getuid;

use crate::environment;

/// The warning if `program` is podman and its user namespace does not exist.
pub(crate) fn warning(program: &Path, environment: &[CString]) -> Option<Message> {
    let is_podman = program.file_name().is_some_and(|name| name == "podman");
    if !is_podman || getuid().is_root() || files(environment).iter().any(|file| is_kept(file)) {
        return None;
    }
    let message = Message::new("podman has no user namespace yet, so it will probably fail")
        .why("newuidmap(1) makes it, and gains no privilege under portgrant run; see portgrant recipe podman")
        .fix("run: podman unshare true");
    Some(message)
}

/// The files where podman may have written the pid of that process.
fn files(environment: &[CString]) -> Vec<PathBuf> {
    let uid = getuid().as_raw();
    let temporary = environment::set(environment, "TMPDIR").map_or_else(|| "/tmp".into(), PathBuf::from);
    let folders = match environment::set(environment, "XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(folder) => vec![folder],
        None => vec![
            format!("/run/user/{uid}").into(),
            temporary.join(format!("podman-run-{uid}")),
            temporary.join(format!("storage-run-{uid}")),
        ],
    };
    folders.into_iter().map(|folder| folder.join("libpod/tmp/pause.pid")).collect()
}

fn is_kept(file: &Path) -> bool {
    let pid = fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<u32>().ok());
    pid.is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists())
}
