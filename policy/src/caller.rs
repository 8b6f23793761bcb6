//! The caller: the ids of the process, as the kernel reports them, and what root's tables say about these ids.
//!
//! A permit looks at the process alone. A deny also looks at its accounts: a process that gives up a group, or takes a
//! subordinate id, must not escape a deny.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use crate::error::Error;
use crate::names::Names;
use crate::rule::{Effect, Policy, Subject};

/// The caller of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// Real uid
    pub uid: u32,
    /// Real gid
    pub gid: u32,
    /// Supplementary groups
    pub groups: Vec<u32>,
    /// Groups that passwd and group give to the accounts of the uid, and to the users who own the uid or one of the
    /// gids in subuid and subgid: giving up a group does not escape a deny
    pub account_groups: Vec<u32>,
    /// The users who own the uid in subuid: taking a subordinate uid does not escape a deny
    pub owners: Vec<u32>,
    /// A login name, for messages only
    pub name: Option<String>,
    /// The name comes from a directory service, so no rule can contain it
    pub is_of_directory: bool,
}

impl Caller {
    /// The ids that a login as `name` would have.
    pub fn account(name: &str, names: &Names) -> Result<Caller, Error> {
        let user = names.user(name)?.ok_or_else(|| Error::UnknownUser(name.to_owned()))?;
        let groups = names.account_groups(user.uid)?;
        let account_groups = groups.clone();
        let name = Some(name.to_owned());
        let account = Caller { uid: user.uid, gid: user.gid, groups, account_groups, name, ..Caller::default() };
        Ok(account)
    }

    /// Adds the accounts, which only a deny compares. A table is read only if it can change the verdict.
    pub fn with_accounts(mut self, policy: &Policy, names: &Names) -> Result<Caller, Error> {
        if let Some(deny) = policy.group_deny() {
            names.require_accounts(|| policy.place(deny))?;
            self.account_groups = names.account_groups(self.uid)?;
        }
        let is_permitted = policy.rules.iter().any(|rule| rule.effect == Effect::Permit && rule.applies_to(&self));
        if is_permitted && policy.denies_somebody() {
            self.find_owners(policy, names)?;
        }
        Ok(self)
    }

    fn find_owners(&mut self, policy: &Policy, names: &Names) -> Result<(), Error> {
        let by_uid = names.owners(names.subuids()?.owners(self.uid))?;
        self.owners.clone_from(&by_uid.uids);
        if !by_uid.unknown_names.is_empty() {
            // The owner may be a user of a directory service, so every denied uid that is not in /etc/passwd counts.
            let known = names.uids()?;
            let denied = policy.rules.iter().filter(|rule| rule.effect == Effect::Deny);
            self.owners.extend(denied.filter_map(|rule| match rule.subject {
                Subject::Uid(uid) => Some(uid).filter(|uid| !known.contains(uid)),
                Subject::Gid(_) | Subject::Uids(..) | Subject::Gids(..) | Subject::Any | Subject::Nobody => None,
            }));
        }
        if policy.group_deny().is_some() {
            let subgids = names.subgids()?;
            let gids = self.groups.iter().chain([&self.gid]).flat_map(|&gid| subgids.owners(gid));
            for owners in [by_uid, names.owners(gids)?] {
                for uid in owners.uids {
                    self.account_groups.extend(names.account_groups(uid)?);
                }
                for name in owners.unknown_names {
                    self.account_groups.extend(names.groups_that_list(name)?);
                }
            }
        }
        Ok(())
    }

    /// Adds the login name that /etc/passwd has for the uid, if any.
    pub fn named(mut self, names: &Names) -> Caller {
        if self.name.is_none() {
            self.name =
                names.users_of(self.uid).ok().and_then(|mut users| users.next()).map(|user| user.name.to_owned());
        }
        self
    }
}
