//! What is well-formed and probably not meant: rules that do nothing, rules that cannot be used, ports that others trust.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use portgrant_policy::Distrust;
use portgrant_policy::Names;
use portgrant_policy::{Effect, Policy, Rule, Subject};
use portgrant_protocol::text::printable;
use portgrant_trusted::judge_program;

use crate::relation::{denies_all, makes_needless};

/// Programs that run whatever they are told to: an exec rule for one of them binds the grant to nothing.
const INTERPRETERS: [&str; 14] =
    ["sh", "bash", "dash", "zsh", "ksh", "busybox", "python", "perl", "ruby", "node", "nodejs", "php", "java", "lua"];

/// So many pairs of rules are compared at most.
const MOST_PAIRS: usize = 4_000_000;

/// Something about one rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Advice<'p> {
    pub(crate) rule: &'p Rule,
    /// A word for programs
    pub(crate) code: &'static str,
    pub(crate) text: String,
}

/// Everything there is to say about a well-formed policy, and whether it had too many rules to compare all of them.
pub(crate) fn advice<'p>(policy: &'p Policy, names: &Names, nfs: Option<&str>) -> (Vec<Advice<'p>>, bool) {
    let by_subject = BySubject::of(policy, names);
    let mut pairs = 0;
    let mut advice = Vec::new();
    for rule in &policy.rules {
        if pairs <= MOST_PAIRS {
            let rivals = by_subject.rivals(rule);
            pairs += rivals.len();
            advice.extend(needless(policy, rule, &rivals));
        }
        advice.extend(rule.program.as_deref().and_then(|path| program(rule, Path::new(OsStr::from_bytes(path)))));
        advice.extend(nfs.and_then(|place| trusted_port(rule, place)));
    }
    (advice, pairs > MOST_PAIRS)
}

/// The rules by whom they speak of: only such are compared as can have to do with each other.
struct BySubject<'p> {
    rules: HashMap<Subject, Vec<&'p Rule>>,
    /// What the accounts of a uid have, where a group is denied
    groups: HashMap<u32, Vec<u32>>,
}

impl<'p> BySubject<'p> {
    fn of(policy: &'p Policy, names: &Names) -> BySubject<'p> {
        let mut rules: HashMap<Subject, Vec<&Rule>> = HashMap::new();
        let mut groups = HashMap::new();
        for rule in &policy.rules {
            rules.entry(rule.subject).or_default().push(rule);
            if let Subject::Uid(uid) = rule.subject
                && policy.denies_a_group()
            {
                groups.entry(uid).or_insert_with(|| names.account_groups(uid).unwrap_or_default());
            }
        }
        BySubject { rules, groups }
    }

    /// The rules that speak of everybody of whom `rule` does.
    fn rivals(&self, rule: &Rule) -> Vec<&'p Rule> {
        let of = |subject| self.rules.get(&subject).into_iter().flatten().copied();
        let mut rivals: Vec<&Rule> = of(rule.subject).filter(|rival| rival.subject != Subject::Nobody).collect();
        if !matches!(rule.subject, Subject::Any | Subject::Nobody) {
            rivals.extend(of(Subject::Any));
        }
        if let (Subject::Uid(uid), Effect::Permit) = (rule.subject, rule.effect) {
            let groups = self.groups.get(&uid).into_iter().flatten();
            // A permit on a group holds only while the process has it, a deny by the account.
            rivals.extend(groups.flat_map(|&gid| of(Subject::Gid(gid))).filter(|rival| rival.effect == Effect::Deny));
        }
        rivals
    }
}

/// Another rule that leaves nothing for this one to do.
fn needless<'p>(policy: &Policy, rule: &'p Rule, rivals: &[&Rule]) -> Option<Advice<'p>> {
    if rule.ports.is_empty() {
        return None;
    }
    let is_permit = rule.effect == Effect::Permit;
    let deny = rivals.iter().find(|rival| is_permit && rival.effect == Effect::Deny && denies_all(rival, rule));
    if let Some(deny) = deny {
        let text = format!(
            "the rule permits nothing: all of it is denied at {}  {}; expected one of the two to go",
            policy.place(deny),
            policy.text(deny)
        );
        return Some(Advice { rule, code: "denied", text });
    }
    let is_other = |rival: &Rule| (rival.file, rival.line) != (rule.file, rule.line);
    let alike = |rival: &Rule| rival.effect == rule.effect && is_other(rival) && makes_needless(rival, rule);
    // Of two that say the same the later one is needless.
    let is_later = |rival: &Rule| (rival.file, rival.line) > (rule.file, rule.line);
    let wide = rivals.iter().find(|rival| alike(rival) && !(is_later(rival) && makes_needless(rule, rival)))?;
    let does = if is_permit { "permits" } else { "denies" };
    let text = format!(
        "the rule adds nothing: all of it is what {}  {}  {does}; expected one of the two to go",
        policy.place(wide),
        policy.text(wide)
    );
    Some(Advice { rule, code: "needless", text })
}

fn program<'p>(rule: &'p Rule, path: &Path) -> Option<Advice<'p>> {
    if let Err((path, why)) = judge_program(path) {
        let missing = why == Distrust::Missing;
        let fix = if missing { "expected the program to be installed".to_owned() } else { why.fix(&path) };
        let text = format!("the rule cannot be used: {}: {why}; {fix}", printable(&path));
        return Some(Advice { rule, code: "program", text });
    }
    let name = printable(path.file_name()?.as_encoded_bytes());
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    let script = std::fs::File::open(path).is_ok_and(|mut file| {
        let mut first = [0; 2];
        std::io::Read::read_exact(&mut file, &mut first).is_ok() && first == *b"#!"
    });
    if script || INTERPRETERS.contains(&stem) {
        let text = format!("{name} runs what its caller tells it to, so the grant is bound to nothing");
        return Some(Advice { rule, code: "interpreter", text });
    }
    None
}

fn trusted_port<'p>(rule: &'p Rule, place: &str) -> Option<Advice<'p>> {
    let touches = rule.ports.iter().find(|ports| ports.first <= 1023 && ports.last >= 512)?;
    let text = format!(
        "NFS with sec=sys is {place}, and believes whoever speaks from port {}, as a holder of the socket can; \
         expected sec=krb5, or ports outside of 512-1023",
        touches.first.max(512)
    );
    (rule.effect == Effect::Permit).then_some(Advice { rule, code: "nfs", text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relation::tests::{names, policy};

    fn said(text: &str, nfs: Option<&str>) -> Vec<(usize, &'static str, String)> {
        let policy = policy(text);
        let (advice, _) = advice(&policy, &names(), nfs);
        advice.into_iter().map(|advice| (advice.rule.line, advice.code, advice.text)).collect()
    }

    fn codes(text: &str) -> Vec<(usize, &'static str)> {
        said(text, None).into_iter().map(|advice| (advice.0, advice.1)).collect()
    }

    #[test]
    fn a_rule_that_does_nothing_is_named_with_the_one_that_is_why() {
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
    fn ports_that_nfs_trusts_are_named_where_there_is_nfs() {
        let rules = "permit alice 80 submission\npermit bob 500-600 reserved\ndeny :web 600\npermit any 80\n";
        let nfs = said(rules, Some("mounted at /mnt"));
        let nfs: Vec<_> = nfs.iter().filter(|advice| advice.1 == "nfs").collect();
        assert_eq!(nfs.iter().map(|advice| advice.0).collect::<Vec<_>>(), [1, 2]);
        assert!(nfs[0].2.contains("mounted at /mnt") && nfs[0].2.contains("port 587"), "{}", nfs[0].2);
        assert!(nfs[1].2.contains("port 512"), "{}", nfs[1].2);
        assert!(!codes(rules).iter().any(|advice| advice.1 == "nfs"));
    }

    #[test]
    fn a_very_large_policy_is_not_compared_for_ever() {
        let policy = policy(&"permit alice 80\n".repeat(10_000));
        let (advice, cut) = advice(&policy, &names(), None);
        assert!(cut && advice.len() > 300);
    }
}
