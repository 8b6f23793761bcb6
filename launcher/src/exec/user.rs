//! The program's user and working folder: `--user` and `--chdir`.
//!
//! If root started the launcher, this code runs with root's privilege and gives it up. It comes before the helper is
//! asked, so that the helper's caller is the program's user. Only the account is read (NSS: files, LDAP, sssd), as by
//! sudo and systemd; no PAM session is opened. ARCHITECTURE.md lists what else the other user inherits.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;

use log::debug;
use nix::errno::Errno;
use nix::unistd::{
    Gid, ResGid, ResUid, Uid, User, getgrouplist, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid,
    setuid,
};
use portgrant_protocol::decimal;
use portgrant_protocol::text::printable;
use portgrant_server::Message;
use rustix::process::DumpableBehavior;
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities, capabilities_secure_bits, set_capabilities,
    set_capabilities_secure_bits,
};

use super::{descriptors, keyring, terminal};
use crate::arguments::Log;
use crate::{Error, Life};

/// The environment variables that are set for the account.
const OF_THE_ACCOUNT: [&[u8]; 4] = [b"HOME=", b"USER=", b"LOGNAME=", b"SHELL="];

/// Becomes the user and enters the folder of `life`. Returns the new environment.
pub(crate) fn switch(life: &Life, environment: Vec<CString>) -> Result<Vec<CString>, Error> {
    let environment = match &life.user {
        Some(user) => become_user(user, life, environment)?,
        None => environment,
    };
    if let Some(folder) = &life.chdir {
        rustix::process::chdir(folder)
            .map_err(|errno| Error::Folder { folder: folder.clone(), source: errno.into() })?;
    }
    Ok(environment)
}

fn become_user(name: &OsStr, life: &Life, environment: Vec<CString>) -> Result<Vec<CString>, Error> {
    let user = account(name)?;
    if is_already(&user) {
        // Already this user, so only capabilities are given up; without privilege the groups cannot change.
        if !user.uid.is_root() {
            give_up_capabilities().map_err(|errno| failed(&user, errno))?;
        }
        return Ok(environment);
    }
    let is_another = ids().is_ok_and(|(uids, _)| uids != [user.uid; 3]);
    // Without CAP_SETGID the change of user will fail, so nothing has to be kept apart.
    if is_another && capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SETGID)) {
        keep_apart(&user, life)?;
    }
    debug!("becoming {} (uid {}, gid {})", printable(user.name.as_bytes()), user.uid, user.gid);
    let c_name = CString::new(user.name.as_bytes()).unwrap_or_default();
    let groups = getgrouplist(&c_name, user.gid).map_err(|errno| failed(&user, errno))?;
    change(&user, &groups).map_err(|errno| failed(&user, errno))?;
    if !has_become(&user, &groups) {
        return Err(Error::StillAnother { user: printable(name.as_bytes()) });
    }
    if is_another {
        let user = || printable(user.name.as_bytes());
        keyring::renew().map_err(|errno| Error::Keyring { user: user(), source: errno.into() })?;
    }
    Ok(of_the_account(&user, environment))
}

/// Removes what the other user must not inherit from the caller, while there is still privilege.
fn keep_apart(user: &User, life: &Life) -> Result<(), Error> {
    let name = printable(user.name.as_bytes());
    if let Some(number) = descriptors::io_uring() {
        let message = Message::new(format!("descriptor {number} is an io_uring instance"))
            .why(format!("{name} could use it with the credentials of the process that made it"))
            .fix(format!("add {number}>&- at the end (a shell closes it so, for this command)"));
        return Err(Error::Usage(Box::new(message)));
    }
    // With these bits, a setuid program of the user would keep its capabilities after it gave up its uid. A locked bit
    // stays.
    let kept = CapabilitiesSecureBits::NO_SETUID_FIXUP | CapabilitiesSecureBits::KEEP_CAPS;
    let _ = capabilities_secure_bits().and_then(|bits| set_capabilities_secure_bits(bits - kept));
    if life.daemon && life.log == Log::Inherit && descriptors::terminals().iter().any(|number| [1, 2].contains(number))
    {
        let message = Message::new("--log inherit cannot be used with --user at a terminal")
            .why(format!("the program would keep the terminal open, and {name} could read what is typed there"))
            .fix("leave out --log inherit, or send standard output and standard error to a file");
        return Err(Error::Usage(Box::new(message)));
    }
    if !life.daemon && terminal::separate(user.uid)? {
        return Ok(());
    }
    // A daemon's standard descriptors are replaced anyway. Without a standard terminal, other inherited terminals are
    // replaced here.
    let null = File::options().read(true).write(true).open("/dev/null");
    let replaced = null.and_then(|null| {
        let mut beyond = descriptors::terminals().into_iter().filter(|&number| number > 2);
        beyond.try_for_each(|number| descriptors::replace(number, &null)).map_err(Into::into)
    });
    replaced.map_err(|source| Error::Terminal { doing: "replace the terminal", source })
}

/// Looks up a name first, then a number: an account's name may consist of digits. `uid:N` is always a number, as in the
/// policy. A uid without an account has no group and no name, so it is an error.
fn account(name: &OsStr) -> Result<User, Error> {
    let shown = printable(name.as_bytes());
    let failed = |errno: Errno| Error::Accounts { user: shown.clone(), source: errno.into() };
    let unknown = || Error::NoSuchUser { user: shown.clone() };
    let text = name.to_str().filter(|text| !text.is_empty()).ok_or_else(unknown)?;
    let number = text.strip_prefix("uid:");
    if number.is_none()
        && let Some(user) = User::from_name(text).map_err(failed)?
    {
        return Ok(user);
    }
    // Only digits, and not 4294967295, which means "no change" to setresuid(2).
    let uid = decimal(number.unwrap_or(text).as_bytes()).filter(|&uid| uid != u32::MAX).ok_or_else(unknown)?;
    User::from_uid(Uid::from_raw(uid)).map_err(failed)?.ok_or(Error::NoAccount { uid })
}

fn is_already(user: &User) -> bool {
    ids().is_ok_and(|(uids, gids)| uids == [user.uid; 3] && gids == [user.gid; 3]) && !user.uid.is_root()
}

/// Sets the groups first, while there is privilege, and the uid last. Leaving uid 0 clears the capabilities, except
/// inheritable ones, or with unusual securebits (capabilities(7)), so they are also given up explicitly. The bounding
/// set stays, as with sudo: otherwise the helper and setuid programs would not work.
fn change(user: &User, groups: &[Gid]) -> Result<(), Errno> {
    setgroups(groups)?;
    setresgid(user.gid, user.gid, user.gid)?;
    setresuid(user.uid, user.uid, user.uid)?;
    // With fs.suid_dumpable=1 the user could trace this process before the program is executed.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|errno| Errno::from_raw(errno.raw_os_error()))?;
    if user.uid.is_root() { Ok(()) } else { give_up_capabilities() }
}

/// Clearing the permitted set also clears the ambient set.
fn give_up_capabilities() -> Result<(), Errno> {
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, sets).map_err(|errno| Errno::from_raw(errno.raw_os_error()))
}

/// Reads the ids and capabilities back, and checks that root's cannot be regained.
fn has_become(user: &User, groups: &[Gid]) -> bool {
    let sorted = |groups: &[Gid]| {
        let mut numbers: Vec<u32> = groups.iter().map(|gid| gid.as_raw()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    };
    let ids = ids().is_ok_and(|(uids, gids)| uids == [user.uid; 3] && gids == [user.gid; 3]);
    let groups = getgroups().is_ok_and(|held| sorted(&held) == sorted(groups));
    let powerless = capabilities(None)
        .is_ok_and(|sets| [sets.effective, sets.permitted, sets.inheritable].iter().all(|set| set.is_empty()));
    ids && groups && (user.uid.is_root() || (powerless && setuid(Uid::from_raw(0)).is_err()))
}

fn ids() -> Result<([Uid; 3], [Gid; 3]), Errno> {
    let ResUid { real, effective, saved } = getresuid()?;
    let uids = [real, effective, saved];
    let ResGid { real, effective, saved } = getresgid()?;
    Ok((uids, [real, effective, saved]))
}

fn failed(user: &User, errno: Errno) -> Error {
    let name = printable(user.name.as_bytes());
    let own = Uid::effective();
    if errno == Errno::EPERM && !own.is_root() {
        return Error::NotRoot { user: name, own: own.as_raw() };
    }
    Error::Become { user: name, source: errno.into() }
}

/// Sets the account's variables, like sudo and systemd's `User=`: a program must not find root's files at HOME.
fn of_the_account(user: &User, environment: Vec<CString>) -> Vec<CString> {
    let name = OsString::from(&user.name);
    let values = [user.dir.as_os_str(), &name, &name, user.shell.as_os_str()];
    let ours = OF_THE_ACCOUNT.iter().zip(values).map(|(variable, value)| [*variable, value.as_bytes()].concat());
    let is_kept = |entry: &CString| !OF_THE_ACCOUNT.iter().any(|variable| entry.as_bytes().starts_with(variable));
    // The fields of an account contain no NUL.
    environment.into_iter().filter(is_kept).chain(ours.filter_map(|entry| CString::new(entry).ok())).collect()
}
