//! Warnings about well-formed rules: rules without effect, rules that cannot be used, ports that NFS trusts.

use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::mem::ManuallyDrop;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use portgrant_policy::{Effect, Policy, Rule, Subject};
use portgrant_protocol::text::printable;
use portgrant_trusted::judge_program;
use rustc_hash::FxHashMap;

use crate::candidates::{Candidates, place};
use crate::datagrams;
use crate::denied_groups::DeniedGroups;
use crate::finding::{Advice, What};
use crate::relation::{Budget, Extent};

/// Programs that run any script: an exec rule for one of them restricts nothing.
const INTERPRETERS: [&str; 14] =
    ["sh", "bash", "dash", "zsh", "ksh", "busybox", "python", "perl", "ruby", "node", "nodejs", "php", "java", "lua"];

/// How many steps the comparison of all rules takes at most; each rule has its share, and the unused steps of earlier rules.
pub(crate) const MOST_STEPS: u64 = 10_000_000;
/// How many programs are checked.
const MOST_PROGRAMS: usize = 1_000;

/// All findings about the rules of a well-formed policy, and whether all rules were compared. `nfs`: whether
/// there is NFS that trusts ports. It reads no table of names: those are read together with the policy.
pub(crate) fn advice<'p>(policy: &'p Policy, groups: &DeniedGroups, nfs: bool) -> (Vec<Advice<'p>>, bool) {
    // Never dropped: the program ends soon, and freeing all of it would take a tenth of its time.
    let extents = ManuallyDrop::new(policy.rules.iter().map(Extent::of).collect::<Vec<_>>());
    let comparison = ManuallyDrop::new(Comparison::of(&extents, groups));
    let mut programs = Programs::default();
    let mut complete = groups.complete;
    let mut advice = Vec::new();
    let share = MOST_STEPS / u64::try_from(extents.len()).unwrap_or(u64::MAX).max(1);
    for extent in extents.iter() {
        let rule = extent.rule;
        comparison.budget.add(share);
        advice.extend(comparison.needless(extent).map(|what| Advice { rule, what }));
        complete &= !comparison.budget.is_exhausted();
        if let Some(path) = &rule.program {
            let found = programs.look(path);
            complete &= found.is_ok();
            advice.extend(found.ok().flatten().map(|what| Advice { rule, what }));
        }
        advice.extend(trusted_port(rule).filter(|_| nfs).map(|what| Advice { rule, what }));
    }
    advice.extend(datagrams::advice(policy, groups));
    (advice, complete)
}

/// The rules of a policy, to be compared with each other.
struct Comparison<'e, 'p> {
    candidates: Candidates<'e, 'p>,
    groups: &'e DeniedGroups,
    budget: Budget,
}

impl<'e, 'p> Comparison<'e, 'p> {
    fn of(extents: &'e [Extent<'p>], groups: &'e DeniedGroups) -> Comparison<'e, 'p> {
        Comparison { candidates: Candidates::of(extents), groups, budget: Budget::new(0) }
    }

    /// Another rule that makes this one needless.
    fn needless(&self, extent: &Extent<'p>) -> Option<What<'p>> {
        let (rule, budget) = (extent.rule, &self.budget);
        if rule.ports.is_empty() || rule.subject == Subject::Nobody {
            return None;
        }
        let any = Some(Subject::Any).filter(|any| rule.subject != *any);
        let own = || std::iter::once(rule.subject).chain(any);
        if rule.effect == Effect::Permit {
            // A permit for a group applies only if the process has it, a deny also by the account.
            let groups = self.groups.of_subject(rule.subject).iter().map(|&gid| Subject::Gid(gid));
            let denies_all = |deny: &Extent<'p>| deny.denies_all(extent, budget);
            let first = |subject| self.candidates.first((subject, Effect::Deny), extent, budget, denies_all);
            if let Some(deny) = own().chain(groups).find_map(first) {
                return Some(What::Denied(deny));
            }
        }
        if let Some(same) = self.candidates.same(rule) {
            return Some(What::Needless(same));
        }
        let is_wider = |wide: &Extent<'p>| place(wide.rule) != place(rule) && wide.makes_needless(extent, budget);
        own()
            .find_map(|subject| self.candidates.first((subject, rule.effect), extent, budget, is_wider))
            .map(What::Needless)
    }
}

/// The programs of exec rules, each checked once.
#[derive(Default)]
struct Programs<'p>(FxHashMap<&'p [u8], Option<What<'p>>>);

/// There are too many to check all.
struct TooMany;

impl<'p> Programs<'p> {
    fn look(&mut self, path: &'p [u8]) -> Result<Option<What<'p>>, TooMany> {
        let count = self.0.len();
        match self.0.entry(path) {
            Entry::Occupied(known) => Ok(known.get().clone()),
            Entry::Vacant(_) if count >= MOST_PROGRAMS => Err(TooMany),
            Entry::Vacant(new) => Ok(new.insert(program(Path::new(OsStr::from_bytes(path)))).clone()),
        }
    }
}

fn program<'p>(path: &Path) -> Option<What<'p>> {
    if let Err((path, why)) = judge_program(path.as_os_str().as_bytes()) {
        return Some(What::Program(path, why));
    }
    let name = printable(path.file_name()?.as_encoded_bytes());
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    let script = std::fs::File::open(path).is_ok_and(|mut file| {
        let mut first = [0; 2];
        std::io::Read::read_exact(&mut file, &mut first).is_ok() && first == *b"#!"
    });
    (script || INTERPRETERS.contains(&stem)).then_some(What::Interpreter(name))
}

fn trusted_port<'p>(rule: &Rule) -> Option<What<'p>> {
    let touches = rule.ports.iter().find(|ports| ports.first.get() <= 1023 && ports.last.get() >= 512)?;
    (rule.effect == Effect::Permit).then_some(What::Nfs(touches.first.get().max(512)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use rustix::time::{ClockId, clock_gettime};

    use portgrant_policy::Names;

    use super::*;
    use crate::lines::Lines;
    use crate::relation::tests::{names, policy, unbounded};

    fn said(text: &str, nfs: Option<&str>) -> Vec<(usize, &'static str, String)> {
        let policy = policy(text);
        let lines = Lines::of(&policy);
        let (advice, complete) = advice(&policy, &DeniedGroups::of(&policy, &names()), nfs.is_some());
        assert!(complete);
        advice.into_iter().map(|advice| (advice.rule.line, advice.code(), advice.text(&lines, nfs))).collect()
    }

    fn codes(text: &str) -> Vec<(usize, &'static str)> {
        said(text, None).into_iter().map(|advice| (advice.0, advice.1)).collect()
    }

    #[test]
    fn a_rule_without_effect_is_reported_with_the_rule_that_causes_it() {
        assert_eq!(codes("permit alice 80\npermit bob 80\n"), []);
        assert_eq!(codes("permit alice 80\ndeny alice any\n"), [(1, "denied")]);
        assert_eq!(codes("permit alice 80\ndeny alice 80 on 10.0.0.0/8\n"), []);
        assert_eq!(codes("permit alice 80\npermit any 80\n"), [(1, "needless")]);
        assert_eq!(codes("permit any 80\npermit alice 80\n"), [(2, "needless")]);
        assert_eq!(codes("permit alice 80\npermit alice 80\npermit alice 80\n"), [(2, "needless"), (3, "needless")]);
        assert_eq!(codes("deny alice 80\ndeny any 1-100\n"), [(1, "needless")]);
        assert_eq!(codes("permit nobody-here 80\npermit nobody-here 80\n"), []);
        // By the account's groups, in a deny alone.
        assert_eq!(codes("permit bob 80\ndeny :web any\n"), [(1, "denied")]);
        assert_eq!(codes("permit alice 80\ndeny :web any\n"), []);
        assert_eq!(codes("permit bob 80\npermit :web 80\n"), []);
        let text = &said("permit alice 80\ndeny any 80\n", None)[0].2;
        assert!(text.contains("/etc/portgrant.conf:2  deny any 80"), "{text}");
    }

    #[test]
    fn ports_that_nfs_trusts_are_reported_if_nfs_is_exported() {
        let rules = "permit alice 80 submission\npermit bob 500-600 reserved\ndeny :web 600\npermit any 80\n";
        let nfs = said(rules, Some("mounted at /mnt"));
        let nfs: Vec<_> = nfs.iter().filter(|advice| advice.1 == "nfs").collect();
        assert_eq!(nfs.iter().map(|advice| advice.0).collect::<Vec<_>>(), [1, 2]);
        assert!(nfs[0].2.contains("mounted at /mnt") && nfs[0].2.contains("port 587"), "{}", nfs[0].2);
        assert!(nfs[1].2.contains("port 512"), "{}", nfs[1].2);
        assert!(!codes(rules).iter().any(|advice| advice.1 == "nfs"));
    }

    /// The findings about each rule, by comparing it with every other.
    fn by_all_pairs(policy: &Policy, names: &Names) -> Vec<(usize, &'static str)> {
        let extents: Vec<Extent<'_>> = policy.rules.iter().map(Extent::of).collect();
        let groups = |rule: &Rule| match rule.subject {
            Subject::Uid(uid) => names.account_groups(uid).expect("given"),
            Subject::Gid(_) | Subject::Uids(..) | Subject::Gids(..) | Subject::Any | Subject::Nobody => Vec::new(),
        };
        let said = |extent: &Extent<'_>| {
            let rule = extent.rule;
            if rule.subject == Subject::Nobody || rule.ports.is_empty() {
                return None;
            }
            let denied = |other: &&Extent<'_>| {
                let deny = other.rule;
                let account = matches!(deny.subject, Subject::Gid(gid) if groups(rule).contains(&gid));
                let everybody = deny.subject == Subject::Any || deny.subject == rule.subject || account;
                (rule.effect, deny.effect) == (Effect::Permit, Effect::Deny)
                    && everybody
                    && other.denies_all(extent, &unbounded())
            };
            let needless = |other: &&Extent<'_>| {
                other.rule.effect == rule.effect
                    && place(other.rule) != place(rule)
                    && other.makes_needless(extent, &unbounded())
                    && (place(other.rule) < place(rule) || !extent.makes_needless(other, &unbounded()))
            };
            if extents.iter().any(|other| denied(&other)) {
                return Some((rule.line, "denied"));
            }
            extents.iter().any(|other| needless(&other)).then_some((rule.line, "needless"))
        };
        extents.iter().filter_map(said).collect()
    }

    proptest! {
        /// Rules enough of each kind for all of them to be found by the index.
        #[test]
        fn the_fast_comparison_finds_what_comparing_all_pairs_finds(
            rules in prop::collection::vec(
                (
                    0..4usize,
                    0..6usize,
                    (1..40u16, 0..24u16, 0..3usize),
                    prop::option::of(1..40u16),
                    0..10usize,
                    0..3usize,
                    0..4usize,
                ),
                1..120,
            ),
        ) {
            const SUBJECTS: [&str; 6] = ["alice", "alice", "bob", "any", ":web", "nobody-here"];
            const ON: [&str; 10] = [
                "", "on 0.0.0.0", "on 10.0.0.0/8", "on 10.0.0.0/9 10.128.0.0/9", "on 10.1.2.3", "on 0.0.0.0/0",
                "on [2001:db8::]/32", "on [2001:db8::1] 10.1.2.3", "on [::]", "on [::]/0 0.0.0.0/0",
            ];
            const MORE: [&str; 4] = ["", "reuseport", "exec /x", "exec /y"];
            let rule = |(effect, subject, (first, more, protocol), other, on, dev, end): (usize, usize, _, Option<u16>, _, _, usize)| {
                // A deny of a name that nobody has is an error, and so is one with an option.
                let is_deny = effect == 0 && SUBJECTS[subject] != "nobody-here";
                let (first, more, protocol): (u16, u16, usize) = (first, more, protocol);
                let protocol = ["", "/tcp", "/udp"][protocol];
                let other = other.map(|port| format!("{port}/udp")).unwrap_or_default();
                let (effect, end) = if is_deny { ("deny", "") } else { ("permit", MORE[end]) };
                let dev = ["", "dev a", "dev b"][dev];
                format!("{effect} {} {first}-{}{protocol} {other} {} {dev} {end}\n", SUBJECTS[subject], first + more, ON[on])
            };
            let policy = policy(&rules.into_iter().map(rule).collect::<String>());
            let names = names();
            let (advice, complete) = advice(&policy, &DeniedGroups::of(&policy, &names), false);
            prop_assert!(complete);
            let found = advice.iter().filter(|advice| matches!(advice.code(), "denied" | "needless"));
            let found: Vec<_> = found.map(|advice| (advice.rule.line, advice.code())).collect();
            prop_assert_eq!(found, by_all_pairs(&policy, &names));
        }
    }

    /// The steps that all comparisons of a policy take.
    fn steps(text: &str) -> (u64, bool) {
        let policy = policy(text);
        let extents: Vec<Extent<'_>> = policy.rules.iter().map(Extent::of).collect();
        let groups = DeniedGroups::of(&policy, &names());
        let comparison = Comparison::of(&extents, &groups);
        comparison.budget.add(MOST_STEPS);
        extents.iter().for_each(|extent| drop(comparison.needless(extent)));
        (MOST_STEPS - comparison.budget.left(), comparison.budget.is_exhausted())
    }

    #[test]
    fn a_rule_is_compared_with_few_others_however_many_there_are() {
        let lines = |line: &dyn Fn(u32) -> String| (1..=20_000).map(line).collect::<String>();
        for (what, text) in [
            ("one rule again and again", lines(&|_| "permit alice 80\n".to_owned())),
            ("a user each", lines(&|n| format!("permit uid:{n} 80-90\n"))),
            ("a port each", lines(&|n| format!("permit alice {} reserved\n", n + 1023))),
            ("a range each", lines(&|n| format!("permit any {}-{} reserved\n", 3 * n, 3 * n + 1))),
            ("an address each", lines(&|n| format!("permit any 80 on 10.0.{}.{}\n", n >> 8, n & 255))),
            ("an IPv6 network each", lines(&|n| format!("permit any 80 on [2001:db8:{n:x}::]/48\n"))),
            ("a program each", lines(&|n| format!("permit any 80 exec /nonexistent/{n}\n"))),
            ("an interface each", lines(&|n| format!("permit any 80 dev eth{n}\n"))),
            ("all denied", format!("{}deny any any\n", lines(&|n| format!("permit uid:{n} 80\n")))),
            (
                "udp on an address each",
                lines(&|n| {
                    format!("{} any 53/udp on 10.0.{}.{}\n", ["permit", "deny"][n as usize % 2], n >> 8, n & 255)
                }),
            ),
            (
                "udp of the other family",
                lines(&|n| match n % 2 {
                    0 => format!("permit any 53/udp on 10.0.{}.{}\n", n >> 8, n & 255),
                    _ => format!("deny any 53/udp on [2001:db8::{n:x}]\n"),
                }),
            ),
            ("half denied", lines(&|n| format!("{} any {}\n", ["permit", "deny"][n as usize % 2], n / 2 + 1024))),
            (
                "many ports a rule",
                lines(&|n| {
                    format!("permit any {}\n", (0..9).map(|i| format!("{} ", n + 1023 + 1100 * i)).collect::<String>())
                }),
            ),
        ] {
            let (steps, spent) = steps(&text);
            assert!(steps < 60 * 20_000 && !spent, "{what}: {steps} steps");
        }
    }

    #[test]
    fn the_comparison_of_many_similar_rules_is_bounded() {
        // Nested ranges: whichever port is searched, many rules contain it.
        let nested: String = (1024..60_000).map(|last| format!("permit alice 1024-{last} {last}/udp\n")).collect();
        let policy = policy(&nested);
        let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("not negative");
        let before = now();
        let (_, complete) = advice(&policy, &DeniedGroups::of(&policy, &names()), false);
        let spent = now() - before;
        assert!(!complete && spent < Duration::from_secs(15), "{spent:?} of processor time");
    }

    #[test]
    fn the_number_of_checked_programs_is_bounded() {
        let policy = policy(
            &(0..=MOST_PROGRAMS).map(|n| format!("permit uid:{n} 80 exec /nonexistent/{n}\n")).collect::<String>(),
        );
        let (advice, complete) = advice(&policy, &DeniedGroups::of(&policy, &names()), false);
        assert_eq!((advice.len(), complete), (MOST_PROGRAMS, false));
    }
}
