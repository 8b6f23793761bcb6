//! Finds the rule that was probably meant to permit a refused request: one for a group that the caller's account has
//! but the process lacks, or one with an unknown subject that looks like the caller's name or group.
//!
//! Only for the message, after the refusal. The cost is bounded: one pass over the rules, and few comparisons of names.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::address::Domain;
use crate::caller::Caller;
use crate::decide::{Ask, AskedProgram, Reason, Refusal};
use crate::names::Names;
use crate::problem::{Problem, Wrong};
use crate::rule::{Effect, Policy, Rule, Source, Subject};

/// How many rules have their subject compared with the caller's names, at most.
const MOST_COMPARED: usize = 1_000;
/// How many groups of the caller are looked up, at most.
const MOST_GROUPS: usize = 100;
/// A login name has at most 32 bytes (useradd(8)).
const LONGEST: usize = 32;

/// A rule that would permit what was asked for.
#[derive(Debug)]
pub(crate) enum Near {
    /// It is for a group that the account has and the process lacks
    Lacks(Rule),
    /// The caller's name is among its ports
    Listed(Rule),
    /// Its subject does not exist; `meant` is the probable one
    Name { rule: Rule, subject: String, meant: String },
}

/// The rule that is nearest to permitting what `refusal` refuses. The files are parsed again, since the first parse may
/// have kept only the rules for the caller.
pub(crate) fn near(refusal: &Refusal<'_>, caller: &Caller, sources: &[Source], names: &Names) -> Option<Near> {
    let program = refusal.program.as_deref().map(|path| AskedProgram { path, unfit: None });
    let ask = Ask { endpoint: refusal.endpoint.clone(), domain: Domain::OfAddress, program };
    let permits = |rule: &Rule| rule.effect == Effect::Permit && rule.permits(&ask).is_ok();
    let account = names.account_groups(caller.uid).unwrap_or_default();
    let lacked = lacked_groups(caller, names);
    let lacks = |rule: &Rule| matches!(rule.subject, Subject::Gid(gid) if lacked.contains(&gid));
    let is_beside = |rule: &Rule| matches!(rule.permits(&ask), Err(Reason::UnknownServiceBeside(_)));
    let wanted = |rule: &Rule| {
        let may_list = rule.effect == Effect::Permit && rule.unknown_service.is_some() && is_beside(rule);
        may_list || (rule.subject == Subject::Nobody || lacks(rule)) && permits(rule)
    };
    let policy = Policy::parse_some(sources.to_vec(), names, &wanted).ok()?.ok()?;
    if let Some(rule) = policy.rules.iter().find(|rule| rule.unknown_service.is_none() && lacks(rule)) {
        return Some(Near::Lacks(rule.clone()));
    }
    let is_caller = |wrong: &Wrong| matches!(wrong, Wrong::UnknownService(word) if Some(word) == caller.name.as_ref());
    if let Some(rule) = policy.rules.iter().take(MOST_COMPARED).find(|rule| warnings(&policy, rule).any(is_caller)) {
        return Some(Near::Listed(rule.clone()));
    }
    let gids = account.iter().chain([&caller.gid]).chain(&caller.groups).take(MOST_GROUPS);
    let mut groups: Vec<&str> = gids.filter_map(|&gid| names.group_of(gid).ok().flatten()).collect();
    groups.dedup();
    policy.rules.iter().take(MOST_COMPARED).find_map(|rule| {
        let subject = subject(&policy, rule)?;
        let meant = meant(&subject, caller.name.as_deref(), &groups)?;
        Some(Near::Name { rule: rule.clone(), subject, meant })
    })
}

/// The groups that the caller's account has by passwd and group, but the process lacks.
#[must_use]
pub fn lacked_groups(caller: &Caller, names: &Names) -> Vec<u32> {
    let has = |gid: &u32| caller.gid == *gid || caller.groups.contains(gid);
    let account = names.account_groups(caller.uid).unwrap_or_default();
    account.into_iter().filter(|gid| !has(gid)).collect()
}

/// The unknown subject of a rule, as it is written. It is in the warning for that line.
fn subject(policy: &Policy, rule: &Rule) -> Option<String> {
    warnings(policy, rule).find_map(|wrong| {
        if let Wrong::UnknownUser(word) = wrong {
            Some(word.clone())
        } else if let Wrong::UnknownGroup(word) = wrong {
            Some(format!(":{word}"))
        } else {
            None
        }
    })
}

/// The warnings about a rule.
fn warnings<'p>(policy: &'p Policy, rule: &Rule) -> impl Iterator<Item = &'p Wrong> {
    let place = (rule.file, rule.line);
    let first = policy.warnings.partition_point(|warning| (warning.file, warning.line) < place);
    let of_this_line = move |warning: &&Problem| (warning.file, warning.line) == place;
    policy.warnings.iter().skip(first).take_while(of_this_line).map(|warning| &warning.wrong)
}

/// The subject that was probably meant by the unknown `subject`, for a user with this name and these groups.
fn meant(subject: &str, name: Option<&str>, groups: &[&str]) -> Option<String> {
    let is_name = |word: &str| name.is_some_and(|name| name.eq_ignore_ascii_case(word));
    let user = || name.map(ToString::to_string);
    let group = |word: &str| groups.iter().find(|group| **group == word).map(|group| format!(":{group}"));
    match Form::of(subject) {
        Form::Everybody => Some("any".to_owned()),
        Form::Several(parts) => parts.into_iter().find_map(|part| if is_name(part) { user() } else { group(part) }),
        Form::Group(word) => {
            group(word).or_else(|| is_name(word).then(user)?).or_else(|| is_everybody(word).then(|| "any".to_owned()))
        }
        Form::User(word) if is_name(word) => user(),
        Form::User(word) => {
            let is_near = |name: &&str| is_near(word, name);
            group(word).or_else(|| name.filter(is_near).map(ToOwned::to_owned))
        }
    }
    .or_else(|| {
        let word = subject.strip_prefix(':')?;
        groups.iter().find(|group| is_near(word, group)).map(|group| format!(":{group}"))
    })
}

/// How a subject is written, here or in the files of other programs.
#[derive(Debug, PartialEq, Eq)]
pub enum Form<'a> {
    /// `*`, `all`
    Everybody,
    /// `alice,bob`
    Several(Vec<&'a str>),
    /// `:web`, `@web`, `%web`, `group:web`
    Group(&'a str),
    /// Everything else, and `user:alice`
    User(&'a str),
}

impl<'a> Form<'a> {
    /// The form of `subject`.
    #[must_use]
    pub fn of(subject: &'a str) -> Form<'a> {
        let subject = subject.trim_end_matches([',', ';', ':']);
        if is_everybody(subject) {
            return Form::Everybody;
        }
        if subject.contains(',') {
            return Form::Several(subject.split(',').filter(|part| !part.is_empty()).collect());
        }
        let after = |marks: &[&str]| marks.iter().find_map(|mark| subject.strip_prefix(mark));
        match (after(&[":", "@", "%", "&", "group:", "g:"]), after(&["user:", "u:"])) {
            (Some(group), _) => Form::Group(group.trim_start_matches(':')),
            (None, user) => Form::User(user.unwrap_or(subject)),
        }
    }
}

/// Whether `word` means everybody or everything in the files of other programs.
#[must_use]
pub fn is_everybody(word: &str) -> bool {
    const EVERYBODY: [&str; 8] = ["*", "all", "anyone", "everybody", "everyone", "others", "public", "world"];
    EVERYBODY.iter().any(|everybody| everybody.eq_ignore_ascii_case(word))
}

/// The meaning of a word in place of a port that is not a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// A user: `permit alice bob 80`
    User,
    /// A group
    Group,
    /// `all`
    EveryPort,
}

impl Listed {
    /// The meaning of `word`, if it has one.
    #[must_use]
    pub fn of(word: &str, names: &Names) -> Option<Listed> {
        if names.user(word).ok().flatten().is_some() {
            return Some(Listed::User);
        }
        if names.group(word).ok().flatten().is_some() {
            return Some(Listed::Group);
        }
        is_everybody(word).then_some(Listed::EveryPort)
    }
}

/// Whether one name is a misspelling of the other, in any case: one letter added, missing or changed, or two neighbours
/// swapped. In names of 7 letters or more, two such mistakes.
#[must_use]
pub fn is_near(one: &str, other: &str) -> bool {
    if one.eq_ignore_ascii_case(other) {
        return !one.is_empty() && one.len() <= LONGEST;
    }
    let (shorter, longer) = (one.len().min(other.len()), one.len().max(other.len()));
    let most = if shorter < 7 { 1 } else { 2 };
    if shorter < 3 || longer > LONGEST || longer - shorter > most {
        return false;
    }
    let (one, other) = (one.to_ascii_lowercase(), other.to_ascii_lowercase());
    let (one, other) = (one.as_bytes(), other.as_bytes());
    // `before`, `last` and `this` are successive rows of the edit distance table, one row for each prefix of `one`.
    let (mut before, mut last) = (Vec::new(), (0..=other.len()).collect::<Vec<usize>>());
    for (row, &byte) in one.iter().enumerate() {
        let mut this = Vec::with_capacity(last.len());
        this.push(row + 1);
        for (column, &counterpart) in other.iter().enumerate() {
            let at = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX - 1);
            let differs = usize::from(byte != counterpart);
            let mut least = (at(&last, column) + differs).min(at(&last, column + 1) + 1).min(at(&this, column) + 1);
            let is_swapped =
                row > 0 && column > 0 && one.get(row - 1) == Some(&counterpart) && other.get(column - 1) == Some(&byte);
            if is_swapped {
                least = least.min(at(&before, column - 1) + 1);
            }
            this.push(least);
        }
        before = core::mem::replace(&mut last, this);
    }
    last.last().is_some_and(|&distance| distance <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelling_is_near_and_another_name_is_not() {
        for (one, other) in [
            ("alcie", "alice"),
            ("ALCIE", "alice"),
            ("AL", "al"),
            ("alic", "alice"),
            ("alicee", "alice"),
            ("bov", "bob"),
            ("www-dta", "www-data"),
        ] {
            assert!(is_near(one, other) && is_near(other, one), "{one} {other}");
        }
        for (one, other) in [
            ("alice", "bob"),
            ("ba", "bab"),
            ("news", "nawz"),
            ("", ""),
            ("alice", "alicante"),
            (&"a".repeat(40), &"a".repeat(40)),
        ] {
            assert!(!is_near(one, other), "{one} {other}");
        }
    }

    #[test]
    fn subjects_in_the_style_of_other_programs_are_recognized() {
        for (subject, expected) in [
            ("alcie", Some("alice")),
            ("Alice", Some("alice")),
            ("user:alice", Some("alice")),
            ("alice:", Some("alice")),
            ("alice,bob", Some("alice")),
            ("bob,web", Some(":web")),
            ("web", Some(":web")),
            ("@web", Some(":web")),
            ("%web", Some(":web")),
            ("group:web", Some(":web")),
            (":wbe", Some(":web")),
            (":alice", Some("alice")),
            ("*", Some("any")),
            ("ALL", Some("any")),
            ("@all", Some("any")),
            (":alice,", Some("alice")),
            ("alice,", Some("alice")),
            ("bob", None),
            (":staff", None),
            ("@staff", None),
            ("", None),
            (",", None),
        ] {
            assert_eq!(meant(subject, Some("alice"), &["alice-x", "web"]).as_deref(), expected, "{subject}");
        }
    }
}
