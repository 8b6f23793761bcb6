//! The subordinate ids of denied users, as ranges: the inverse of [`Caller::owners`](super::Caller), for a decision
//! without the tables.

use std::collections::{BTreeMap, BTreeSet};

use portgrant_policy::{Error, Names};

/// The ranges of /etc/subuid and /etc/subgid, by the uid of their owner.
#[derive(Debug, Default)]
pub(super) struct Subordinates {
    uids: ByOwner,
    gids: ByOwner,
    /// The uids in /etc/passwd, to handle ranges of owners who are not there
    known: BTreeSet<u32>,
}

/// `None` stands for all owners whose names are not in /etc/passwd.
type ByOwner = BTreeMap<Option<u32>, BTreeSet<Range>>;

/// The first and the last id.
pub(super) type Range = (u32, u32);

impl Subordinates {
    pub(super) fn read(names: &Names) -> Result<Subordinates, Error> {
        let by_owner = |ranges: &mut dyn Iterator<Item = (&str, u32, u32)>| {
            let mut by_owner = ByOwner::new();
            for (owner, first, last) in ranges {
                let uids = names.owner_uids(owner)?;
                let stranger = uids.is_empty().then_some(None);
                for owner in uids.into_iter().map(Some).chain(stranger) {
                    by_owner.entry(owner).or_default().insert((first, last));
                }
            }
            Ok::<_, Error>(by_owner)
        };
        let uids = by_owner(&mut names.subuids()?.ranges())?;
        let gids = by_owner(&mut names.subgids()?.ranges())?;
        let known = if uids.contains_key(&None) { names.uids()? } else { BTreeSet::new() };
        Ok(Subordinates { uids, gids, known })
    }

    /// The uids with which a process counts as `user`.
    pub(super) fn of_user(&self, user: u32) -> Vec<Range> {
        let stranger = (self.uids.contains_key(&None) && !self.known.contains(&user)).then_some(None);
        joined(self.uids_of([Some(user)].into_iter().chain(stranger)))
    }

    /// The uids, and the gids, with which a process counts as one of `users`.
    pub(super) fn of_members(&self, users: &[u32]) -> (Vec<Range>, Vec<Range>) {
        let uids = self.uids_of(users.iter().copied().map(Some));
        let own = users.iter().map(|&user| (user, user));
        let gids = uids.iter().copied().chain(own).flat_map(|range| owned_within(&self.gids, range)).collect();
        (joined(uids), joined(gids))
    }

    /// The ranges of `users`, and of all users with a uid in these.
    fn uids_of(&self, users: impl Iterator<Item = Option<u32>>) -> BTreeSet<Range> {
        let mut found = BTreeSet::new();
        let mut ahead: Vec<Range> = users.filter_map(|user| self.uids.get(&user)).flatten().copied().collect();
        while let Some(range) = ahead.pop() {
            if found.insert(range) {
                ahead.extend(owned_within(&self.uids, range));
            }
        }
        found
    }
}

/// The ranges of owners with a uid in `range`.
fn owned_within(by_owner: &ByOwner, (first, last): Range) -> impl Iterator<Item = Range> {
    by_owner.range(Some(first)..=Some(last)).flat_map(|(_, ranges)| ranges).copied()
}

/// The same ids in as few ranges as possible: consecutive users often have adjacent ranges.
fn joined(ranges: BTreeSet<Range>) -> Vec<Range> {
    let mut joined: Vec<Range> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_joined_where_nothing_is_between_them() {
        assert_eq!(joined(BTreeSet::from([(1, 3), (4, 6), (8, 9)])), [(1, 6), (8, 9)]);
    }

    const PASSWD: &[u8] = b"alice:x:10:10:::\nbob:x:20:20:::\n30:x:40:40:::\nbob:x:50:20:::\n";

    fn lines(owners: &'static [&'static str]) -> impl Strategy<Value = String> {
        let line = (prop::sample::select(owners), 0u32..60, 0u32..20);
        let text = |lines: Vec<(&str, u32, u32)>| {
            lines.iter().map(|(owner, first, count)| format!("{owner}:{first}:{count}\n")).collect()
        };
        prop::collection::vec(line, 0..6).prop_map(text)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_ranges_of_a_user_include_all_ids_of_that_user(
            subuid in lines(&["alice", "bob", "20", "30", "45", "nobody-here"]), subgid in lines(&["alice", "bob", "30", "45"]),
            user in prop::sample::select(vec![10u32, 20, 30, 40, 45, 50]), id in 0u32..80,
        ) {
            let names = Names::of(PASSWD, b"", b"").with_subordinate_ids(subuid.as_bytes(), subgid.as_bytes());
            let ranges = Subordinates::read(&names).expect("given");
            let hold = |ranges: &[Range]| ranges.iter().any(|range| (range.0..=range.1).contains(&id));
            let owners = names.owners(names.subuids().expect("given").owners(id)).expect("given");
            let unknown = !owners.unknown_names.is_empty() && ![10, 20, 40, 50].contains(&user);
            prop_assert_eq!(hold(&ranges.of_user(user)), owners.uids.contains(&user) || unknown, "{}", subuid);

            let (uids, gids) = ranges.of_members(&[user]);
            prop_assert_eq!(hold(&uids), owners.uids.contains(&user), "{}", subuid);
            let owners = names.owners(names.subgids().expect("given").owners(id)).expect("given");
            prop_assert_eq!(hold(&gids), owners.uids.contains(&user), "{}\n{}", subuid, subgid);
            for ranges in [uids, gids] {
                prop_assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "apart from each other: {:?}", ranges);
            }
        }
    }
}
