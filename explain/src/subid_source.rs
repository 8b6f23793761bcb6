//! Sources of subordinate ids other than /etc/subuid and /etc/subgid (nsswitch.conf(5), `subid`). A deny does not apply
//! to ids of these.

use portgrant_policy::{Effect, Policy, Subject};
use portgrant_protocol::text::printable;

use crate::finding::{Advice, What};

/// Reported for the first rule that denies a user or a group.
pub(crate) fn advice(policy: &Policy) -> Option<Advice<'_>> {
    of(policy, &std::fs::read("/etc/nsswitch.conf").unwrap_or_default())
}

fn of<'p>(policy: &'p Policy, nsswitch: &[u8]) -> Option<Advice<'p>> {
    let source = other_source(nsswitch)?;
    let somebody = |subject| matches!(subject, Subject::Uid(_) | Subject::Gid(_));
    let rule = policy.rules.iter().find(|rule| rule.effect == Effect::Deny && somebody(rule.subject))?;
    Some(Advice { rule, what: What::SubidSource(source) })
}

/// The first source of the line `subid:` that is not `files`. Without such a line, the only source is `files`.
fn other_source(nsswitch: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(nsswitch);
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let sources = lines.filter_map(|line| line.strip_prefix("subid")?.trim_start().strip_prefix(':')).next()?;
    // Text in brackets is an action, not a source.
    let outside = sources.split('[').enumerate().map(|(part, text)| match part {
        0 => text,
        _ => text.split_once(']').map_or("", |(_, behind)| behind),
    });
    let mut words = outside.flat_map(str::split_whitespace);
    words.find(|word| *word != "files").map(|word| printable(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relation::tests::policy;

    #[test]
    fn a_source_other_than_files_is_found() {
        for (nsswitch, expected) in [
            ("", None),
            ("passwd: files sss\n", None),
            ("subid: files\n", None),
            ("subid:files # sss\n", None),
            ("#subid: sss\n", None),
            ("subid: sss\n", Some("sss")),
            ("passwd: files\n  subid :\tfiles [NOTFOUND=return] sss\n", Some("sss")),
            ("subid: files [ NOTFOUND = return ]\n", None),
            ("subid: s\x1bs\n", Some("s\\x1bs")),
        ] {
            assert_eq!(other_source(nsswitch.as_bytes()).as_deref(), expected, "{nsswitch}");
        }
    }

    #[test]
    fn the_first_deny_of_a_user_or_group_is_reported() {
        let line = |text| of(&policy(text), b"subid: sss\n").map(|advice| advice.rule.line);
        assert_eq!(line("permit alice 80\ndeny any 80\ndeny alice 80\ndeny bob 80\n"), Some(3));
        assert_eq!(line("deny :web 80\n"), Some(1));
        assert_eq!(line("permit alice 80\ndeny any 80\n"), None);
    }
}
