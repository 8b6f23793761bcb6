//! Finds denies with an address that refuse more udp than they name: a udp socket can send from every address of its family,
//! so the deny applies to all of them.

use std::collections::HashMap;

use portgrant_policy::{Effect, Policy, Rule, Subject};
use portgrant_protocol::Protocol;

use crate::denied_groups::DeniedGroups;
use crate::finding::{Advice, Family, What};

/// The permits of udp ports that a deny with an address refuses on addresses that it does not name. Each is reported once.
pub(crate) fn advice<'p>(policy: &'p Policy, groups: &DeniedGroups) -> Vec<Advice<'p>> {
    let denies = Denies::of(policy);
    let permits = policy.rules.iter().filter(|rule| rule.effect == Effect::Permit && rule.has_udp());
    let found = permits.filter_map(|rule| {
        let (deny, family) = denies.overlapping_deny(rule, groups)?;
        Some(Advice { rule, what: What::Datagrams(deny, family) })
    });
    found.collect()
}

/// Denied ranges of udp ports, in order; each with the one, of all up to it, that ends last.
#[derive(Default)]
struct Ranges<'p>(Vec<(u16, u16, &'p Rule)>);

impl<'p> Ranges<'p> {
    fn ordered(mut self) -> Ranges<'p> {
        self.0.sort_by_key(|range| range.0);
        for at in 1..self.0.len() {
            if self.0[at - 1].1 > self.0[at].1 {
                self.0[at].1 = self.0[at - 1].1;
                self.0[at].2 = self.0[at - 1].2;
            }
        }
        self
    }

    fn meeting(&self, first: u16, last: u16) -> Option<&'p Rule> {
        let begun = self.0.partition_point(|range| range.0 <= last);
        self.0.get(begun.checked_sub(1)?).filter(|range| range.1 >= first).map(|range| range.2)
    }
}

/// The denies that name a part of a family's addresses, by family and subject; `None` is any subject.
struct Denies<'p> {
    ranges: HashMap<(Option<Subject>, Family), Ranges<'p>>,
}

impl<'p> Denies<'p> {
    fn of(policy: &'p Policy) -> Denies<'p> {
        let mut denies: HashMap<(Option<Subject>, Family), Ranges<'_>> = HashMap::new();
        for rule in policy.rules.iter().filter(|rule| rule.effect == Effect::Deny) {
            let narrow = |family: &Family| rule.addresses.iter().any(|set| set.is_part_of_family() && family.has(*set));
            for family in Family::ALL.into_iter().filter(narrow) {
                for ports in rule.ports.iter().filter(|ports| ports.protocols.contains(Protocol::Udp)) {
                    for subject in [None, Some(rule.subject)] {
                        denies.entry((subject, family)).or_default().0.push((
                            ports.first.get(),
                            ports.last.get(),
                            rule,
                        ));
                    }
                }
            }
        }
        Denies { ranges: denies.into_iter().map(|(key, ranges)| (key, ranges.ordered())).collect() }
    }

    /// A deny that refuses one of the udp ports of `permit` to one of its users, in a family that it permits.
    fn overlapping_deny(&self, permit: &Rule, groups: &DeniedGroups) -> Option<(&'p Rule, Family)> {
        let mut subjects = match permit.subject {
            Subject::Any => vec![None],
            Subject::Nobody => vec![],
            Subject::Uid(_) | Subject::Gid(_) | Subject::Uids(..) | Subject::Gids(..) => {
                vec![Some(permit.subject), Some(Subject::Any)]
            }
        };
        subjects.extend(groups.of_subject(permit.subject).iter().map(|&gid| Some(Subject::Gid(gid))));
        let has = |family: &Family| permit.addresses.is_empty() || permit.addresses.iter().any(|set| family.has(*set));
        let families: Vec<Family> = Family::ALL.into_iter().filter(has).collect();
        let udp = permit.ports.iter().filter(|ports| ports.protocols.contains(Protocol::Udp));
        udp.flat_map(|ports| subjects.iter().map(move |subject| (ports, subject))).find_map(|(ports, subject)| {
            families.iter().find_map(|&family| {
                Some((self.ranges.get(&(*subject, family))?.meeting(ports.first.get(), ports.last.get())?, family))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::Lines;
    use crate::relation::tests::{names, policy};

    fn findings(text: &str) -> Vec<(usize, String)> {
        let policy = policy(text);
        let lines = Lines::of(&policy);
        let advice = advice(&policy, &DeniedGroups::of(&policy, &names()));
        advice.into_iter().map(|advice| (advice.rule.line, advice.text(&lines, None))).collect()
    }

    #[test]
    fn a_udp_permit_is_reported_with_the_deny_that_refuses_it() {
        let said = findings("permit alice 53/udp on 10.9.0.2\ndeny alice 53 on 127.0.0.53\n");
        let expected = "an address does not narrow udp: /etc/portgrant.conf:2  deny alice 53 on 127.0.0.53  refuses these udp \
            ports on every IPv4 address; expected /tcp there, or no udp here";
        assert_eq!(said, [(1, expected.to_owned())]);
        for (text, expected) in [
            ("permit alice 53/udp\ndeny any 50-60 on [fd00::1]\n", Some("every IPv6 address")),
            ("permit any 53/udp\ndeny bob 53/udp on 127.0.0.53\n", Some("every IPv4 address")),
            ("permit bob 53/udp\ndeny :web 53 on 127.0.0.53\n", Some("every IPv4 address")),
            ("permit alice 53/udp\ndeny :web 53 on 127.0.0.53\n", None),
            ("permit alice 53/udp\ndeny bob 53 on 127.0.0.53\n", None),
            ("permit alice 53\ndeny alice 53 on 127.0.0.53\n", None),
            ("permit alice 53/udp\ndeny alice 53/tcp on 127.0.0.53\n", None),
            ("permit alice 53/udp\ndeny alice 54 on 127.0.0.53\n", None),
            ("permit alice 53/udp on [::1]\ndeny alice 53 on 127.0.0.53\n", None),
            ("permit alice 53/udp on [::]\ndeny alice 53 on 127.0.0.53\n", Some("every IPv4 address")),
            // These denies name the whole family themselves.
            ("permit alice 53/udp\ndeny alice 53 on 0.0.0.0/0\n", None),
            ("permit alice 53/udp\ndeny alice 53 on 0.0.0.0\n", None),
            ("permit alice 53/udp\ndeny alice 53\n", None),
            ("permit nobody-here 53/udp\ndeny any 53 on 127.0.0.53\n", None),
        ] {
            let said = findings(text);
            assert_eq!(said.len(), usize::from(expected.is_some()), "{text}: {said:?}");
            assert!(expected.is_none_or(|expected| said[0].1.contains(expected)), "{text}: {said:?}");
        }
    }

    #[test]
    fn overlapping_ranges_are_found_among_many_others() {
        let policy = policy("deny alice 10-90 20 30-40 85-89 on 127.0.0.1\ndeny alice 100-110 on 127.0.0.1\n");
        let denies = Denies::of(&policy);
        let ranges = &denies.ranges[&(None, Family::V4)];
        for (first, last, line) in [
            (1, 9, None),
            (1, 10, Some(1)),
            (90, 95, Some(1)),
            (91, 99, None),
            (50, 60, Some(1)),
            (91, 100, Some(2)),
            (111, 200, None),
        ] {
            assert_eq!(ranges.meeting(first, last).map(|rule| rule.line), line, "{first}-{last}");
        }
    }

    #[test]
    fn many_udp_rules_are_compared_quickly() {
        let many: String =
            (0..20_000).map(|n| format!("permit uid:{n} 1-500/udp\ndeny uid:{n} 501 on 127.0.0.1\n")).collect();
        let policy = policy(&many);
        let begin = std::time::Instant::now();
        assert_eq!(advice(&policy, &DeniedGroups::of(&policy, &names())), []);
        assert!(begin.elapsed() < std::time::Duration::from_secs(10), "{:?}", begin.elapsed());
    }
}
