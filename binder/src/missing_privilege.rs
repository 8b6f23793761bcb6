//! Why the helper has no privilege. Checked only after a bind failed, never before: with a lower
//! net.ipv4.ip_unprivileged_port_start, or with the caller's own capability, the bind works without it.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use portgrant_protocol::user_namespace;
use rustix::fs::{Dir, Mode, OFlags, StatVfsMountFlags, getxattr, open, readlink, stat, statvfs};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capability_is_in_bounding_set, no_new_privs};

use crate::privilege::Dropped;

/// The helper's own file, whatever it is called.
const SELF: &str = "/proc/self/exe";

/// Why the kernel gives no privilege to the helper, or does not accept it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingPrivilege {
    /// prctl(2): setuid bits and file capabilities are void
    NoNewPrivs,
    /// user_namespaces(7): the helper belongs to root outside, or the network namespace does
    UserNamespace,
    /// Neither owned by root with the setuid bit, nor cap_net_bind_service=p
    NoFilePrivilege,
    /// mount(8): the file system is mounted nosuid
    NoSuid,
    /// CAP_NET_BIND_SERVICE is not in the bounding set
    BoundingSet,
    /// ptrace(2): a tracer without privilege
    Traced,
    /// clone(2) with CLONE_FS: another process could change the folder that this one works in
    SharedFolder,
    /// The helper has the capability, but something else forbids the bind: a security module
    Forbidden,
    /// bind(2) answered EPERM, which is not the kernel's own answer: a cgroup program, or a seccomp filter
    BindRejected,
    /// None of these
    Unknown,
}

/// Looks for the reason. The kernel answers each question; a question that cannot be asked is skipped.
pub fn why(dropped: &Dropped) -> MissingPrivilege {
    let elsewhere = !user_namespace::is_first();
    if dropped.has_capability() {
        return if elsewhere { MissingPrivilege::UserNamespace } else { MissingPrivilege::Forbidden };
    }
    let mode_and_owner = stat(SELF).map(|stat| (stat.st_mode & 0o4000 != 0, stat.st_uid)).unwrap_or((false, 0));
    let setuid_root = mode_and_owner == (true, 0);
    let setuid_of_another = mode_and_owner == (true, user_namespace::OVERFLOW_ID);
    let capability = file_capability();
    let of_another = setuid_of_another || capability == Some(Of::AnotherNamespace);
    let checks = [
        (no_new_privs().unwrap_or(false), MissingPrivilege::NoNewPrivs),
        (elsewhere && of_another, MissingPrivilege::UserNamespace),
        (!setuid_root && capability.is_none(), MissingPrivilege::NoFilePrivilege),
        (statvfs(SELF).is_ok_and(|vfs| vfs.f_flag.contains(StatVfsMountFlags::NOSUID)), MissingPrivilege::NoSuid),
        (
            !capability_is_in_bounding_set(CapabilitySet::NET_BIND_SERVICE).unwrap_or(true),
            MissingPrivilege::BoundingSet,
        ),
        (is_traced(), MissingPrivilege::Traced),
        (shares_its_folder(), MissingPrivilege::SharedFolder),
    ];
    checks.into_iter().find(|check| check.0).map_or(MissingPrivilege::Unknown, |check| check.1)
}

/// The user namespace in which a file capability counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    ThisNamespace,
    AnotherNamespace,
}

/// Reads `security.capability` (struct vfs_ns_cap_data): the revision in byte 3, the permitted set's low word from
/// byte 4. The kernel shows one that counts here as revision 2, another as revision 3 or not at all (cap_inode_getsecurity).
fn file_capability() -> Option<Of> {
    let mut value = [0u8; 64];
    match getxattr(SELF, "security.capability", &mut value) {
        Ok(8..) if value[5] & (1 << 2) == 0 => None,
        Ok(8..) => Some(if value[3] == 3 { Of::AnotherNamespace } else { Of::ThisNamespace }),
        Err(Errno::OVERFLOW) => Some(Of::AnotherNamespace),
        _ => None,
    }
}

fn is_traced() -> bool {
    let status = read("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0"))
}

fn shares_its_folder() -> bool {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let processes =
        open("/proc", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).and_then(Dir::new);
    let entries = processes.into_iter().flatten().flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok());
    pids.any(|pid| pid != own && portgrant_sys::shares_fs(pid))
}

/// The start of a file of /proc, which contains everything that is needed here.
fn read(path: &str) -> Result<String, Errno> {
    let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = [0; 4096];
    let len = rustix::io::read(&file, &mut text)?;
    Ok(String::from_utf8_lossy(text.get(..len).unwrap_or_default()).into_owned())
}

impl MissingPrivilege {
    /// What to do about it.
    pub fn fix(self) -> String {
        let path = readlink(SELF, Vec::new()).unwrap_or_default();
        self.words().1.replace("HELPER", &portgrant_protocol::text::printable(path.as_bytes()))
    }

    /// The reason, and what to do about it with HELPER for the helper's path.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            MissingPrivilege::NoNewPrivs => (
                "the helper got no privilege: no_new_privs is set, so its setuid bit or capability is void",
                "start it without no_new_privs (systemd: NoNewPrivileges=no, and no option that implies it), or use the \
                 kernel mode",
            ),
            MissingPrivilege::UserNamespace => (
                "the helper has no privilege in this user namespace: the helper or the network belongs to another one",
                "run it outside of the user namespace (systemd: without PrivateUsers=), or install it inside as that namespace's root",
            ),
            MissingPrivilege::NoFilePrivilege => (
                "the helper got no privilege: it has neither cap_net_bind_service=p nor root's setuid bit",
                "as root: setcap cap_net_bind_service=p HELPER; or as root: chown root HELPER && chmod 4755 HELPER",
            ),
            MissingPrivilege::NoSuid => (
                "the helper got no privilege: its file system is mounted nosuid",
                "as root, install it on a file system that is not mounted nosuid; HELPER is",
            ),
            MissingPrivilege::BoundingSet => (
                "the helper got no privilege: CAP_NET_BIND_SERVICE is not in the bounding set",
                "start it with CAP_NET_BIND_SERVICE in the bounding set (systemd: CapabilityBoundingSet=; \
                 containers: --cap-add)",
            ),
            MissingPrivilege::Traced => (
                "the helper got no privilege: a process without privilege traces it",
                "trace it as root, or not at all",
            ),
            MissingPrivilege::SharedFolder => (
                "the helper got no privilege: it shares its working folder with another process (CLONE_FS)",
                "start it from a process that shares its folder with nobody: after fork(2), not clone(2) with CLONE_FS",
            ),
            MissingPrivilege::Forbidden => (
                "the kernel forbade it although CAP_NET_BIND_SERVICE was raised: a security module (Landlock, AppArmor, SELinux) or a seccomp filter",
                "look for a denial in the kernel's log (dmesg, audit)",
            ),
            MissingPrivilege::BindRejected => (
                "bind(2) answered EPERM: SocketBindDeny= of the service, or a seccomp filter, forbids it",
                "in the unit, write SocketBindAllow= with this port, or remove SocketBindDeny= (systemd.resource-control(5))",
            ),
            MissingPrivilege::Unknown => (
                "the helper got no privilege, and none of the known reasons applies",
                "as root, look at the owner, mode and capability of HELPER (ls -l, getcap)",
            ),
        }
    }
}

impl fmt::Display for MissingPrivilege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words().0)
    }
}
