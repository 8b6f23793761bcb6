//! The ports that the kernel gives without any rule: to every user of this network namespace (ip(7)), or to a process that
//! owns the namespace.

use portgrant_protocol::{Message, unprivileged_ports};

const WHERE: &str = "net.ipv4.ip_unprivileged_port_start";

/// Which ports need no rule.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenPorts {
    /// From which one on every user can bind them, if it can be read
    pub(crate) first: Option<u32>,
    /// The user who is asked about owns this network namespace, by a user namespace
    pub(crate) owns_network: bool,
}

impl OpenPorts {
    pub(crate) fn read(owns_network: bool) -> OpenPorts {
        OpenPorts { first: unprivileged_ports::read_start(), owns_network }
    }

    /// Why `port` needs no rule, if it needs none.
    pub(crate) fn why(self, port: u16) -> Option<String> {
        self.text().filter(|_| self.owns_network || self.first.is_some_and(|first| u32::from(port) >= first))
    }

    /// Whether all do not.
    pub(crate) fn are_all(self) -> bool {
        self.why(1).is_some()
    }

    /// For people, if there are any.
    pub(crate) fn text(self) -> Option<String> {
        if self.owns_network {
            return Some(
                "this network belongs to your user namespace, so you can bind every port without a rule".to_owned(),
            );
        }
        let from = self.first.filter(|&from| from <= u16::MAX.into())?;
        Some(format!(
            "every user can bind ports from {from} on without a rule, and a deny has no effect there: {WHERE}"
        ))
    }

    /// What stands under an answer that needs no policy, if the policy cannot be used. It is not about one's own network.
    pub(crate) fn note(self, unusable: Option<&Message>) -> String {
        let Some(Message { what, why, fix, .. }) = unusable.filter(|_| !self.owns_network) else {
            return String::new();
        };
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        format!("note: {what}, so no port that needs a rule can be bound\n  why: {}\n  fix: {}\n", part(why), part(fix))
    }
}
