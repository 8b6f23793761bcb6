//! Whether this process is in the first user namespace, whose root is the machine's (user_namespaces(7)).

/// The inode of the first one. The kernel's own number for it, the same on every machine (USER_NS_INIT_INO, linux/nsfs.h).
const FIRST: u64 = 0xEFFF_FFFD;

/// The id that stands for every id that has none in this user namespace (/proc/sys/kernel/overflowuid).
pub const OVERFLOW_ID: u32 = 65534;

/// Whether this is the first user namespace. Not judged by the map: that of another one may be the first one's, too
/// (`PrivateUsers=full` of systemd). Without /proc nobody knows, and it counts as the first.
#[must_use]
pub fn is_first() -> bool {
    rustix::fs::stat("/proc/self/ns/user").map_or(true, |found| found.st_ino == FIRST)
}
