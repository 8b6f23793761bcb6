//! Reasons why this process, and the helper that it starts, cannot gain privilege (execve(2), capabilities(7)).

use std::fs;

use portgrant_protocol::user_namespace;
use portgrant_sys::network_is_ours;
use rustix::thread::{CapabilitySet, capability_is_in_bounding_set, no_new_privs};

use super::{Finding, State};

pub(super) fn findings() -> Vec<Finding> {
    let broken = |about, text: &str, fix: &str| Finding::new(State::Broken, about, text).fix(fix);
    let mut findings = Vec::new();
    if no_new_privs().unwrap_or(false) {
        findings.push(broken(
            "process",
            "no_new_privs is set here: setuid bits and file capabilities have no effect",
            "start it without no_new_privs (systemd: NoNewPrivileges= and options that imply it), or pass the sockets in",
        ));
    }
    if !capability_is_in_bounding_set(CapabilitySet::NET_BIND_SERVICE).unwrap_or(true) {
        findings.push(broken(
            "process",
            "CAP_NET_BIND_SERVICE is not in the bounding set here: no program can gain it",
            "start it with the capability in the set (systemd: CapabilityBoundingSet=; containers: --cap-add)",
        ));
    }
    if is_traced() {
        findings.push(
            Finding::new(
                State::Warning,
                "process",
                "a tracer without privilege is attached: the helper gains no privilege",
            )
            .fix("trace it as root, or stop tracing it"),
        );
    }
    if findings.is_empty() {
        let text = "it can gain privilege: no_new_privs is off, and the bounding set has CAP_NET_BIND_SERVICE";
        findings.push(Finding::new(State::Fine, "process", text));
    }
    if !user_namespace::is_first() && !network_is_ours() {
        findings.push(broken(
            "namespace",
            "the network belongs to another user namespace: no privilege of this one counts there",
            "systemd: remove PrivateUsers= from the unit; containers: give it its own network (podman: without \
             --network host), or pass the sockets in (portgrant recipe podman)",
        ));
    } else if !user_namespace::is_first() {
        let text = "this is a user namespace, and the network belongs to it: its root can bind every port; for other users \
                    the helper must belong to it as well";
        findings.push(Finding::new(State::Note, "namespace", text));
    }
    findings
}

fn is_traced() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0"))
}
