//! The permitted users that are affected by denies for groups.

use std::collections::BTreeSet;

use portgrant_policy::{Effect, Names, Policy, Subject};
use rustc_hash::{FxHashMap, FxHashSet};

/// How many bytes of /etc/passwd and /etc/group are searched for the members of groups that are denied.
const MOST_BYTES: u64 = 32 << 20;

/// For each uid with a permit, the groups of its accounts that have a deny.
#[derive(Debug, Default)]
pub(crate) struct DeniedGroups {
    groups: FxHashMap<u32, Vec<u32>>,
    /// Whether all of these groups were looked up
    pub(crate) complete: bool,
}

impl DeniedGroups {
    pub(crate) fn of(policy: &Policy, names: &Names) -> DeniedGroups {
        let (mut denied, mut permitted) = (BTreeSet::new(), FxHashSet::default());
        for rule in &policy.rules {
            match (rule.effect, rule.subject) {
                (Effect::Deny, Subject::Gid(gid)) => drop(denied.insert(gid)),
                (Effect::Permit, Subject::Uid(uid)) => drop(permitted.insert(uid)),
                _ => {}
            }
        }
        let mut groups: FxHashMap<u32, Vec<u32>> = FxHashMap::default();
        if permitted.is_empty() {
            return DeniedGroups { groups, complete: true };
        }
        let size = |table| std::fs::metadata(table).map_or(0, |table| table.len());
        let most = MOST_BYTES / (size("/etc/passwd") + size("/etc/group")).max(1);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        for &gid in denied.iter().take(most) {
            let members = names.members(gid).map(|members| members.uids).unwrap_or_default();
            for uid in members.into_iter().filter(|uid| permitted.contains(uid)) {
                groups.entry(uid).or_default().push(gid);
            }
        }
        DeniedGroups { groups, complete: denied.len() <= most }
    }

    /// The denied groups of the account `subject`.
    pub(crate) fn of_subject(&self, subject: Subject) -> &[u32] {
        let groups = if let Subject::Uid(uid) = subject { self.groups.get(&uid) } else { None };
        groups.map(Vec::as_slice).unwrap_or_default()
    }
}
