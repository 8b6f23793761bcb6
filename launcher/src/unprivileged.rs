//! Which ports this process may bind without the helper. The kernel's settings decide, not an attempt: root could bind
//! every port, but root needs a rule like everybody else.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use log::debug;
use portgrant_protocol::{unprivileged_ports, user_namespace};
use portgrant_sys::network_is_ours;
use rustix::process::getuid;
use rustix::thread::{CapabilitySet, capabilities};

/// Whether each of `ports` needs no rule. An unknown port needs one. `helper` is called only if its place matters.
pub(crate) fn are_free(ports: &[Option<u16>], helper: impl FnOnce() -> Option<PathBuf>) -> Vec<bool> {
    let start = unprivileged_ports::start();
    let is_open = |port: &Option<u16>| port.is_some_and(|port| u32::from(port) >= start);
    let owns_all = !ports.iter().all(is_open) && owns_this_network(helper);
    ports.iter().map(|port| is_open(port) || (owns_all && port.is_some())).collect()
}

/// Whether a user namespace of this process owns the network (unshare -rn, bwrap, a rootless container). Then the
/// process may bind every port there, and the machine's policy is not about that network.
///
/// In a container with its own helper, the policy of the container's root decides.
pub(crate) fn owns_this_network(helper: impl FnOnce() -> Option<PathBuf>) -> bool {
    let has_capability = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_BIND_SERVICE));
    if !has_capability || user_namespace::is_first() {
        return false;
    }
    let is_roots = |helper: PathBuf| fs::metadata(helper).is_ok_and(|helper| helper.uid() == 0);
    if helper().is_some_and(is_roots) {
        return false;
    }
    let owns = network_is_ours();
    if owns {
        debug!("this network belongs to this user namespace, so no rule is needed");
    }
    owns
}

/// Whether this process's user is not mapped into its user namespace.
pub(crate) fn is_unmapped() -> bool {
    let uid = getuid().as_raw();
    if uid != user_namespace::OVERFLOW_ID || user_namespace::is_first() {
        return false;
    }
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.lines().any(|line| maps(line, uid))
}

/// Whether a line of uid_map, `INSIDE OUTSIDE COUNT`, is about `uid`.
fn maps(line: &str, uid: u32) -> bool {
    let mut numbers = line.split_ascii_whitespace().filter_map(|word| word.parse::<u64>().ok());
    let (Some(first), Some(_), Some(count)) = (numbers.next(), numbers.next(), numbers.next()) else { return false };
    (first..first + count).contains(&uid.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_map_line_maps_a_range_of_uids() {
        assert!(maps("         0          0 4294967295", 65534) && maps("65534 1000 1", 65534));
        assert!(!maps("0 1000 1", 65534) && !maps("", 65534) && !maps("1 2", 1));
    }

    #[test]
    fn ports_from_ip_unprivileged_port_start_on_are_free() {
        let start = u16::try_from(unprivileged_ports::read_start().expect("there is /proc")).expect("a port");
        let below = start.checked_sub(1).filter(|port| *port > 0);
        let free = are_free(&[Some(start), Some(u16::MAX), below, None], || None);
        assert_eq!(free[..2], [true, true]);
        assert!(!free[3], "a service that nobody knows");
    }
}
