//! Whether the users can read the policy and the tables of names. The helper reads them as its caller, so a file that root
//! alone can read refuses every request of everybody else, and root does not notice.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use portgrant_policy::Source;
use portgrant_protocol::text::printable;
use portgrant_protocol::{Kind, Message};
use rustix::fs::getxattr;

const READ: u32 = 0o4;
const SEARCH: u32 = 0o1;

/// The first path that users lack a right to, as a message: of the policy that was read from `sources`, of its folders, and
/// of the tables of names. What is missing is for whoever reads it to tell.
pub(crate) fn judge(sources: &[Source]) -> Result<(), Box<Message>> {
    let policy = sources.iter().map(|source| PathBuf::from(OsStr::from_bytes(&source.path)));
    let tables = ["passwd", "group", "services", "subuid", "subgid"].map(|name| Path::new("/etc").join(name));
    let files = policy.chain(tables);
    let folders = [(PathBuf::from("/etc"), SEARCH), (PathBuf::from("/etc/portgrant.d"), READ | SEARCH)];
    folders.into_iter().chain(files.map(|file| (file, READ))).try_for_each(|(path, needed)| of(&path, needed))
}

/// Judged by its mode, never by access(2) of whoever asks. An access list is for people who know what it says, and so is a
/// group other than root's: the helper may be executable for that group alone.
fn of(path: &Path, needed: u32) -> Result<(), Box<Message>> {
    let Ok(found) = fs::metadata(path) else { return Ok(()) };
    let mode = found.mode() & 0o7777;
    let has = |bits: u32| bits & needed == needed;
    let has_list = || getxattr(path, "system.posix_acl_access", &mut [0_u8; 0][..]).is_ok();
    if has(mode) || (found.gid() != 0 && has(mode >> 3)) || has_list() {
        return Ok(());
    }
    let right = if found.is_dir() { 0o755 } else { 0o644 };
    let name = printable(path.as_os_str().as_encoded_bytes());
    let message = Message::of(Kind::BrokenPolicy, format!("users cannot read {name}"))
        .why(format!("its mode is {mode:04o}, and the helper reads it as the user who calls it"))
        .fix(format!("as root: chmod {right:04o} {name}"));
    Err(Box::new(message))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    #[test]
    fn a_mode_is_judged_for_others_and_for_a_group_that_is_not_root_s() -> io::Result<()> {
        let folder = std::env::temp_dir().join(format!("portgrant-readable-{}", std::process::id()));
        fs::create_dir(&folder)?;
        let file = folder.join("a.conf");
        fs::write(&file, "")?;
        let fix = |path: &Path, mode, needed| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
            of(path, needed).err().and_then(|message| message.fix)
        };
        assert_eq!(fix(&file, 0o644, READ), None);
        assert_eq!(fix(&folder, 0o755, READ | SEARCH), None);
        if fs::metadata(&file)?.gid() == 0 {
            assert_eq!(fix(&file, 0o600, READ), Some(format!("as root: chmod 0644 {}", file.display())));
            assert_eq!(fix(&file, 0o640, READ), Some(format!("as root: chmod 0644 {}", file.display())));
            assert_eq!(fix(&folder, 0o711, READ | SEARCH), Some(format!("as root: chmod 0755 {}", folder.display())));
            assert_eq!(fix(&folder, 0o711, SEARCH), None);
            chown(&file, None, Some(1))?;
            assert_eq!(fix(&file, 0o640, READ), None, "for the group that may execute the helper");
        }
        assert!(of(&folder.join("missing"), READ).is_ok());
        fs::remove_dir_all(folder)
    }
}
