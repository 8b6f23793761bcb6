//! The subordinate ids of denied users, as classes: intervals of uids and gids to which the same denies apply. A class
//! is a subject like a user, so a range of 65,536 uids, which Debian gives to every new user, costs as much as one
//! user.
//!
//! All ids are in one list of boundaries: a uid by its number, a gid by its number plus 2^32 ([`number`]).

use std::collections::{BTreeMap, BTreeSet};

use portgrant_policy::{Rule, Subject};

use crate::Error;
use crate::addresses::{Boundary, padded};
use crate::entry::{Key, Verdict};

/// A class: the first of its tables, its number, and the denies that apply to it.
pub(crate) type Class<'p> = (u8, u32, Vec<&'p Rule>);

/// Where gids begin, as bits.
pub(crate) const GIDS: u32 = 32;

/// The number of an id, of the kind for which `table` is the first.
pub(crate) fn number(table: u8, id: u32) -> u128 {
    u128::from(id) | u128::from(table == Key::SUBORDINATE_GIDS) << GIDS
}

/// The classes and their boundaries. The verdict of a boundary is the number of the class that begins there, or
/// nothing. Empty if there is no class. An error if more than `most` rules are compared.
pub(crate) fn classes(rules: &[Rule], most: usize) -> Result<(Vec<Class<'_>>, Vec<Boundary>), Error> {
    type Changes<'p> = BTreeMap<u128, Vec<(usize, &'p Rule)>>;
    let (mut begins, mut ends) = (Changes::new(), Changes::new());
    for (index, rule) in rules.iter().enumerate() {
        let (table, first, last) = match rule.subject {
            Subject::Uids(first, last) => (Key::SUBORDINATE_UIDS, first, last),
            Subject::Gids(first, last) => (Key::SUBORDINATE_GIDS, first, last),
            Subject::Uid(_) | Subject::Gid(_) | Subject::Any | Subject::Nobody => continue,
        };
        begins.entry(number(table, first)).or_default().push((index, rule));
        ends.entry(number(table, last) + 1).or_default().push((index, rule));
    }
    let edges: BTreeSet<u128> = begins.keys().chain(ends.keys()).copied().collect();
    let (mut classes, mut work, mut holding) = (Vec::new(), 0, BTreeMap::new());
    let mut boundaries = Vec::new();
    for start in edges {
        for (index, _) in ends.remove(&start).into_iter().flatten() {
            holding.remove(&index);
        }
        holding.extend(begins.remove(&start).into_iter().flatten());
        work += holding.len();
        if work > most {
            return Err(Error::TooLarge { what: "rules for the same subordinate ids", most });
        }
        if boundaries.is_empty() && start != 0 {
            boundaries.push(Boundary { start: 0, verdict: Verdict::NOTHING });
        }
        let mut verdict = Verdict::NOTHING;
        if !holding.is_empty() {
            let class = u32::try_from(classes.len()).expect("less classes than rules' bytes");
            let table = if start >> GIDS == 0 { Key::SUBORDINATE_UIDS } else { Key::SUBORDINATE_GIDS };
            classes.push((table, class, holding.values().copied().collect()));
            verdict = Verdict(class.into());
        }
        boundaries.push(Boundary { start, verdict });
    }
    let boundaries = if boundaries.is_empty() { boundaries } else { padded(boundaries) };
    Ok((classes, boundaries))
}
