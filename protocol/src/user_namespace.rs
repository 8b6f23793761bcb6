//! Whether this process is in the initial user namespace (user_namespaces(7)): its root is the machine's root.

/// The inode of the initial user namespace, the same on every machine (USER_NS_INIT_INO, linux/nsfs.h).
const FIRST: u64 = 0xEFFF_FFFD;

/// The id that is shown for every id that is not mapped in this user namespace (/proc/sys/kernel/overflowuid).
pub const OVERFLOW_ID: u32 = 65534;

/// Whether this is the initial user namespace. The id map does not show it: another namespace can have the same map
/// (systemd's `PrivateUsers=full`). Without /proc the answer is yes.
#[must_use]
pub fn is_first() -> bool {
    rustix::fs::stat("/proc/self/ns/user").map_or(true, |found| found.st_ino == FIRST)
}
