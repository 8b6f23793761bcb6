//! The description of a generation of the policy: written once when it is loaded, kept beside it in the kernel, and read by
//! `show` and by the reader that writes the audit lines. It is JSON, which `show --format json` prints.

use serde::{Deserialize, Serialize};

/// How many left-out rules are kept at most.
pub const MOST_LEFT_OUT: usize = 1000;

/// A generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Counted from 1; each reload adds one
    pub generation: u32,
    /// The id of the map that holds it, which shows whether it is active
    pub map: u32,
    /// Which program reads it ([`crate::program::number`])
    #[serde(default)]
    pub program: u32,
    /// When the kernel mode was loaded, RFC 3339
    pub loaded: String,
    /// When this generation was loaded
    pub since: String,
    /// The policy's files, in their order; a rule's place counts them from 0
    pub files: Vec<String>,
    /// The number of their rules
    pub rules: usize,
    /// How many rules are left out, completely or in part
    pub left_out: usize,
    /// The first [`MOST_LEFT_OUT`] of these
    pub left_out_rules: Vec<LeftOutRule>,
    /// Whether rules for a group were expanded to its members
    pub expand_groups: bool,
    /// The cgroup to which it applies, with all below: the path when it was loaded
    pub cgroup: String,
    /// That cgroup's id (its inode number)
    pub cgroup_id: u64,
    /// The cookie of the one network namespace to which it applies (SO_NETNS_COOKIE)
    pub network_namespace: u64,
    /// Ports with a permit, of tcp and of udp
    pub ports: usize,
    /// Entries for users and groups, each at a port or at a block of ports
    pub entries: usize,
    /// Intervals of addresses
    pub intervals: usize,
}

/// A rule that is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutRule {
    /// `file:line`
    pub rule: String,
    /// Its text
    pub text: String,
    /// The part that is left out, and why
    pub why: String,
}

impl Description {
    /// The bytes that are kept in the kernel.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers, texts and lists of them")
    }

    /// Reads the bytes of [`Description::to_bytes`], perhaps padded with zeros.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Description> {
        serde_json::from_slice(bytes.split(|&byte| byte == 0).next()?).ok()
    }
}
