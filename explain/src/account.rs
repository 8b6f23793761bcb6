//! The user that a question is about: the caller, or a named account. Root becomes that account before it reads
//! anything, so that the policy is read with the rights that the helper would have (mode, access list, groups).
//!
//! Accounts come from wherever the system keeps them (NSS), as a login would have them.

use std::ffi::CString;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User, geteuid, getgrouplist, getuid, setgroups, setresgid, setresuid};
use portgrant_policy::{Caller, Error, Policy};
use portgrant_protocol::text::printable;
use portgrant_protocol::user_namespace::OVERFLOW_ID;
use portgrant_protocol::{Kind, Message, decimal};
use portgrant_trusted::System;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

/// No group has this number (setresgid(2)).
const NO_GID: u32 = u32::MAX;

/// The user that a question is about.
#[derive(Debug)]
pub(crate) enum Asked {
    /// This process
    Process,
    /// An account, with the ids that a login would have
    Account {
        account: Account,
        /// This process has become it
        is_entered: bool,
    },
}

#[derive(Debug)]
pub(crate) struct Account {
    uid: u32,
    /// None if the uid has no account
    gid: Option<u32>,
    groups: Vec<u32>,
    name: Option<String>,
}

impl Asked {
    /// The caller, or the account `user`, which root becomes.
    pub(crate) fn resolve(user: Option<&str>) -> Result<Asked, Box<Message>> {
        let Some(user) = user else { return Ok(Asked::Process) };
        let account = Account::named(user)?;
        let is_entered = account.enter();
        Ok(Asked::Account { account, is_entered })
    }

    /// The caller as `policy` knows them.
    pub(crate) fn caller(&self, policy: &Policy, system: &System) -> Result<Caller, Error> {
        let names = &system.names;
        let caller = match self {
            Asked::Process => Caller::from(system.caller(policy)?).named(names),
            Asked::Account { account, .. } => account.caller().with_accounts(policy, names)?.named(names),
        };
        Ok(of_directory(caller, system))
    }

    /// Whether this is root, who may read files that the user may not.
    pub(crate) fn is_read_by_root(&self) -> bool {
        matches!(self, Asked::Account { account, is_entered: false } if account.uid != 0 && geteuid().is_root())
    }

    /// Whether it is the user of this process.
    pub(crate) fn is_oneself(&self) -> bool {
        match self {
            Asked::Process => true,
            Asked::Account { account, .. } => account.uid == getuid().as_raw(),
        }
    }

    /// What cannot be done for a uid without an account, in the words of exec.
    pub(crate) fn note(&self) -> Option<String> {
        let Asked::Account { account: Account { uid, gid: None, .. }, .. } = self else { return None };
        Some(format!(
            "uid {uid} has no account: nothing says which groups it has, so portgrant exec --user cannot become it"
        ))
    }

    /// Whether the question is about an account, not about a process.
    pub(crate) fn is_account(&self) -> bool {
        matches!(self, Asked::Account { .. })
    }
}

impl Account {
    /// Looks up a name first, then a number: an account's name may be a number. `uid:N` is always a number.
    fn named(word: &str) -> Result<Account, Box<Message>> {
        let failed = |errno: Errno| {
            let why = Message::of(Kind::System, "the account could not be looked up").why(errno.desc());
            Box::new(why.fix("look at /etc/nsswitch.conf, and at the directory service that it names"))
        };
        let number = word.strip_prefix("uid:").unwrap_or(word);
        let by_name = if number == word { User::from_name(word).map_err(failed)? } else { None };
        if let Some(user) = by_name {
            return Account::of(user).map_err(failed);
        }
        let uid = decimal(number.as_bytes()).filter(|&uid| uid != u32::MAX);
        let Some(uid) = uid else { return Err(unknown(word)) };
        match User::from_uid(Uid::from_raw(uid)).map_err(failed)? {
            Some(user) => Account::of(user).map_err(failed),
            None => Ok(Account { uid, gid: None, groups: Vec::new(), name: None }),
        }
    }

    fn of(user: User) -> Result<Account, Errno> {
        let name = CString::new(user.name.as_bytes()).unwrap_or_default();
        let groups = getgrouplist(&name, user.gid)?.into_iter().map(Gid::as_raw).collect();
        Ok(Account { uid: user.uid.as_raw(), gid: Some(user.gid.as_raw()), groups, name: Some(user.name) })
    }

    fn caller(&self) -> Caller {
        let gid = self.gid.unwrap_or(NO_GID);
        Caller { uid: self.uid, gid, groups: self.groups.clone(), name: self.name.clone(), ..Caller::default() }
    }

    /// Takes the account's ids, if this is root. No capability and no way back is left.
    fn enter(&self) -> bool {
        if self.uid == 0 || !geteuid().is_root() {
            return false;
        }
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid.unwrap_or(OVERFLOW_ID)));
        // The uid last. In a user namespace it may have no number for this account.
        let entered =
            setgroups(&groups).and_then(|()| setresgid(gid, gid, gid)).and_then(|()| setresuid(uid, uid, uid));
        // A root with unusual securebits keeps its capabilities when it leaves uid 0 (capabilities(7)), and could read more.
        let none = CapabilitySet::empty();
        let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
        // This process has root's descriptors, and with fs.suid_dumpable=1 the user could trace it.
        entered.is_ok()
            && set_dumpable_behavior(DumpableBehavior::NotDumpable).is_ok()
            && set_capabilities(None, none).is_ok()
    }
}

fn unknown(word: &str) -> Box<Message> {
    let word = printable(word.as_bytes());
    let message = Message::of(Kind::Usage, format!("there is no user '{word}'"));
    let (why, fix) = match Group::from_name(&word) {
        Ok(Some(_)) => (format!("'{word}' is a group"), "name a user of that group"),
        _ => ("neither /etc/passwd nor a directory service knows it".to_owned(), "name a user, or write uid:N"),
    };
    Box::new(message.why(why).fix(fix))
}

/// Adds the name that a directory service has for the uid, if /etc/passwd has none. A rule cannot contain such a name.
fn of_directory(mut caller: Caller, system: &System) -> Caller {
    let is_listed = system.names.users_of(caller.uid).is_ok_and(|mut users| users.next().is_some());
    if !is_listed {
        caller.name =
            caller.name.or_else(|| User::from_uid(Uid::from_raw(caller.uid)).ok().flatten().map(|user| user.name));
        caller.is_of_directory = caller.name.is_some();
    }
    caller
}
