//! Checks the machine: the ports that everybody may bind, the log, and the kernel's features.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv6Addr, UdpSocket};
use std::os::unix::net::UnixDatagram;

use portgrant_protocol::text::printable;
use portgrant_protocol::unprivileged_ports;
use rustix::fs::{StatVfsMountFlags, fstatfs, statvfs};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use rustix::system::uname;

use super::{Finding, State};

pub(super) fn findings() -> Vec<Finding> {
    [ports(), ipv6(), log(), kernel()].into()
}

/// An endpoint without an address is `[::]`, for both families.
pub(super) fn ipv6() -> Finding {
    const ABOUT: &str = "ipv6";
    let bound = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0));
    let disabled = |which: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6")).unwrap_or_default();
        text.trim() == "1"
    };
    match bound {
        Err(error) => {
            let text =
                format!("an endpoint without an address (80) cannot be bound, as it is for IPv6 as well: {error}");
            Finding::new(State::Warning, ABOUT, text).fix("ask for the IPv4 addresses: 0.0.0.0:80")
        }
        Ok(_) if disabled("all") || disabled("lo") => {
            let text =
                "IPv6 is disabled on this host (disable_ipv6), so no IPv6 address can be bound; [::] serves IPv4";
            Finding::new(State::Note, ABOUT, text)
        }
        Ok(_) => Finding::new(State::Fine, ABOUT, "an endpoint without an address is for IPv4 and IPv6"),
    }
}

fn ports() -> Finding {
    const ABOUT: &str = "ports";
    const WHERE: &str = "net.ipv4.ip_unprivileged_port_start";
    // Read-only in a container: its root cannot change it.
    let is_fixed =
        statvfs(unprivileged_ports::PATH).is_ok_and(|place| place.f_flag.contains(StatVfsMountFlags::RDONLY));
    let fix = match is_fixed {
        true => format!("start the container with it: docker run --sysctl {WHERE}=1024, or podman run --sysctl"),
        false => format!("change it in /etc/sysctl.d too; as root: sysctl {WHERE}=1024"),
    };
    match unprivileged_ports::read_start().ok_or(()) {
        Ok(1024) => Finding::new(State::Fine, ABOUT, "ports below 1024 need a rule; every user can bind the others"),
        Ok(0 | 1) => {
            Finding::new(State::Warning, ABOUT, format!("every user can bind every port: {WHERE} is 0")).fix(fix)
        }
        Ok(from @ ..1024) => {
            let text = format!("every user can bind ports from {from} on, and a deny has no effect there: {WHERE}");
            Finding::new(State::Warning, ABOUT, text).fix(fix)
        }
        Ok(from) => Finding::new(State::Note, ABOUT, format!("ports below {from} need a rule: {WHERE}")),
        Err(_) => Finding::new(State::Note, ABOUT, format!("{WHERE} cannot be read; 1024 is the usual value")),
    }
}

/// Grants and refusals go to syslog(3)'s socket.
fn log() -> Finding {
    const ABOUT: &str = "log";
    let connected = UnixDatagram::unbound().and_then(|socket| socket.connect("/dev/log"));
    let warning = |text: &str| Finding::new(State::Warning, ABOUT, text);
    match connected {
        Ok(()) => Finding::new(State::Fine, ABOUT, "/dev/log takes the line of each grant and refusal (authpriv)"),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            warning("/dev/log is not there: grants and refusals are not logged")
                .fix("as root, start a log daemon (systemd-journald, rsyslog, busybox syslogd)")
        }
        Err(error) => warning(&format!("/dev/log: {error}: grants and refusals are not logged"))
            .fix("as root, restart the log daemon"),
    }
}

/// Reports what later features need; it changes nothing today.
pub(super) fn kernel() -> Finding {
    let release = uname();
    let release = release.release().to_string_lossy();
    let version = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0)).take(2).collect::<Vec<u32>>();
    let is_from = |major, minor| version.as_slice() >= [major, minor].as_slice();
    let has = |yes: bool, what: &str| format!("{}{what}", if yes { "" } else { "no " });
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let cgroup2 = mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup2"));
    let features = [
        has(has_pidfs(), "pidfs"),
        has(actions.split_whitespace().any(|action| action == "user_notif"), "seccomp user notification"),
        has(cgroup2, "cgroup v2"),
        has(is_from(5, 12), "bind by cgroup BPF (5.12)"),
    ];
    let text = format!("Linux {}: {}", printable(release.as_bytes()), features.join(", "));
    Finding::new(State::Note, "kernel", text)
}

/// Whether pidfds have their own inodes (Linux 6.9): only then is LISTEN_PIDFDID checked.
fn has_pidfs() -> bool {
    const PID_FS_MAGIC: u64 = 0x5049_4446;
    let pidfd = pidfd_open(getpid(), PidfdFlags::empty());
    let kind = pidfd.and_then(fstatfs).map(|found| found.f_type);
    kind.is_ok_and(|kind| u64::try_from(kind).is_ok_and(|kind| kind == PID_FS_MAGIC))
}
