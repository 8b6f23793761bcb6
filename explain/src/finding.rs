//! What `check` reports about one rule, and its text.

use portgrant_policy::{AddressSet, Distrust, Effect, Rule};
use portgrant_protocol::text::printable;

use crate::lines::Lines;

/// A warning about one rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Advice<'p> {
    pub(crate) rule: &'p Rule,
    pub(crate) what: What<'p>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What<'p> {
    /// It is denied by this rule
    Denied(&'p Rule),
    /// It adds nothing to this rule
    Needless(&'p Rule),
    /// A program that cannot be executed: the path at fault
    Program(Vec<u8>, Distrust),
    /// A program that runs arbitrary scripts: its name
    Interpreter(String),
    /// A port that NFS trusts
    Nfs(u16),
    /// This rule denies the udp ports on all addresses of a family, although it names only a part of them
    Datagrams(&'p Rule, Family),
    /// A source of subordinate ids that portgrant does not read
    SubidSource(String),
}

impl Advice<'_> {
    /// A word for programs.
    pub(crate) fn code(&self) -> &'static str {
        match self.what {
            What::Denied(_) => "denied",
            What::Needless(_) => "needless",
            What::Program(..) => "program",
            What::Interpreter(_) => "interpreter",
            What::Nfs(_) => "nfs",
            What::Datagrams(..) => "address-for-udp",
            What::SubidSource(_) => "subid-source",
        }
    }

    /// For people. `nfs` is where NFS is.
    pub(crate) fn text(&self, lines: &Lines<'_>, nfs: Option<&str>) -> String {
        let does = if self.rule.effect == Effect::Permit { "permits" } else { "denies" };
        match &self.what {
            What::Denied(deny) => {
                format!("the rule permits nothing: all of it is denied at {}; remove one of the two", lines.cite(deny))
            }
            What::Needless(wide) => {
                format!("the rule adds nothing: {}  {does} all of it already; remove one of the two", lines.cite(wide))
            }
            What::Program(path, why) => {
                format!("the rule cannot be used: {}: {why}; {}", printable(path), fix(path, *why))
            }
            What::Interpreter(name) => {
                format!("{name} is an interpreter or a script, so the rule does not restrict what runs")
            }
            What::Nfs(port) => format!(
                "NFS with sec=sys is {}, and trusts every connection from port {port}, such as one from the \
                 holder of the socket; expected sec=krb5, or ports outside of 512-1023",
                nfs.unwrap_or_default()
            ),
            What::Datagrams(deny, family) => format!(
                "an address does not narrow udp: {}  refuses these udp ports on every {} address; expected /tcp there, or no \
                 udp here",
                lines.cite(deny),
                family.name()
            ),
            What::SubidSource(source) => format!(
                "/etc/nsswitch.conf takes subordinate ids from '{source}', which portgrant does not read, so no deny \
                 applies to them; expected them in /etc/subuid and /etc/subgid"
            ),
        }
    }
}

fn fix(path: &[u8], why: Distrust) -> String {
    if why == Distrust::Missing {
        return "expected the program to be installed".to_owned();
    }
    // Giving the file to root would only hide its origin.
    let wanted = "expected a program that only root can write, in folders that only root can write";
    if matches!(why, Distrust::Owner(_)) { wanted.to_owned() } else { why.fix(path) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const ALL: [Family; 2] = [Family::V4, Family::V6];

    fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    pub(crate) fn has(self, set: AddressSet) -> bool {
        match set {
            AddressSet::V4(..) | AddressSet::V4Wildcard => self == Family::V4,
            AddressSet::V6(..) => self == Family::V6,
            AddressSet::DualWildcard => true,
        }
    }
}
