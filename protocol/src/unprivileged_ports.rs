//! Which ports every user of this network namespace may bind (ip(7)).

use rustix::fs::{Mode, OFlags, open};

/// The sysctl that has the first of these ports.
pub const PATH: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// The kernel's default (PROT_SOCK).
const USUAL: u32 = 1024;

/// The first such port, if it can be read.
#[must_use]
pub fn read_start() -> Option<u32> {
    let file = open(PATH, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    // 65536 at most: every port needs privilege.
    let mut text = [0; 8];
    let len = rustix::io::read(&file, &mut text).ok()?;
    core::str::from_utf8(text.get(..len)?).ok()?.trim().parse().ok()
}

/// The first such port, or the default if it cannot be read.
#[must_use]
pub fn start() -> u32 {
    read_start().unwrap_or(USUAL)
}
