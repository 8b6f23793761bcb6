//! Names that rules use: users, groups, services, from `/etc/passwd`, `/etc/group` and `/etc/services` alone.
//!
//! The helper is linked statically, so it asks no directory service: an account that lives in one is written `uid:` or
//! `gid:`. Each file is read when the first rule needs it, judged like the policy itself, and once.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::path::Path;

use portgrant_protocol::service::Services;

use crate::Error;
use crate::trusted::{Distrust, Folder};

/// A line of passwd(5), as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The login name
    pub name: String,
    /// Its uid
    pub uid: u32,
    /// Its primary gid
    pub gid: u32,
}

/// A line of group(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The group's name
    pub name: String,
    /// Its gid
    pub gid: u32,
    /// The login names of its members
    pub members: Vec<String>,
}

/// The tables, ordered by name.
#[derive(Debug, Default)]
pub struct Names {
    users: OnceCell<Vec<User>>,
    groups: OnceCell<Vec<Group>>,
    services: OnceCell<Services>,
}

impl Names {
    /// The system's tables, each read when it is first needed.
    pub fn system() -> Names {
        Names::default()
    }

    /// Tables given as text, for tests and for policies of another place.
    pub fn of(passwd: &[u8], group: &[u8], services: &[u8]) -> Names {
        Names {
            users: OnceCell::from(parse_users(passwd)),
            groups: OnceCell::from(parse_groups(group)),
            services: OnceCell::from(Services::parse(services)),
        }
    }

    /// The user `name`; the first line wins, as in getpwnam(3).
    pub fn user(&self, name: &str) -> Result<Option<&User>, Error> {
        let users = self.users()?;
        Ok(users.get(users.partition_point(|user| user.name.as_str() < name)).filter(|user| user.name == name))
    }

    /// The names of `uid`.
    pub fn users_of(&self, uid: u32) -> Result<impl Iterator<Item = &User>, Error> {
        Ok(self.users()?.iter().filter(move |user| user.uid == uid))
    }

    /// The gid of group `name`.
    pub fn group(&self, name: &str) -> Result<Option<u32>, Error> {
        let groups = self.groups()?;
        let found = groups.get(groups.partition_point(|group| group.name.as_str() < name));
        Ok(found.filter(|group| group.name == name).map(|group| group.gid))
    }

    /// The groups of the accounts with `uid`, primary ones included: what initgroups(3) would give them.
    pub fn account_groups(&self, uid: u32) -> Result<Vec<u32>, Error> {
        let users: Vec<&User> = self.users_of(uid)?.collect();
        let is_member = |group: &&Group| users.iter().any(|user| group.members.contains(&user.name));
        let member_of = self.groups()?.iter().filter(is_member).map(|group| group.gid);
        Ok(users.iter().map(|user| user.gid).chain(member_of).collect())
    }

    /// The table of services(5).
    pub fn services(&self) -> Result<&Services, Error> {
        once(&self.services, "services", Services::parse)
    }

    fn users(&self) -> Result<&Vec<User>, Error> {
        once(&self.users, "passwd", parse_users)
    }

    fn groups(&self) -> Result<&Vec<Group>, Error> {
        once(&self.groups, "group", parse_groups)
    }
}

fn once<'a, T>(cell: &'a OnceCell<T>, file: &str, parse: impl Fn(&[u8]) -> T) -> Result<&'a T, Error> {
    if let Some(table) = cell.get() {
        return Ok(table);
    }
    let text = match Folder::open(Path::new("/etc")).and_then(|etc| etc.read(OsStr::new(file))) {
        Ok(text) => text,
        // No such table names nobody, which is safe: in a permit it matches nobody, in a deny it is an error.
        Err((_, Distrust::Missing | Distrust::Empty)) => Vec::new(),
        Err((path, why)) => return Err(Error::Untrusted { path, why }),
    };
    Ok(cell.get_or_init(|| parse(&text)))
}

fn parse_users(text: &[u8]) -> Vec<User> {
    let fields = |line: &str| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        Some(User { name: name.to_owned(), uid: id(fields.next()?)?, gid: id(fields.next()?)? })
    };
    let mut users: Vec<User> = lines(text).filter_map(fields).collect();
    users.sort_by(|a, b| a.name.cmp(&b.name));
    users
}

fn parse_groups(text: &[u8]) -> Vec<Group> {
    let fields = |line: &str| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let gid = id(fields.next()?)?;
        let members = fields.next().unwrap_or_default().split(',').filter(|member| !member.is_empty());
        Some(Group { name: name.to_owned(), gid, members: members.map(str::to_owned).collect() })
    };
    let mut groups: Vec<Group> = lines(text).filter_map(fields).collect();
    groups.sort_by(|a, b| a.name.cmp(&b.name));
    groups
}

fn lines(text: &[u8]) -> impl Iterator<Item = &str> {
    text.split(|&byte| byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok())
}

/// A uid or gid in digits; 4294967295 is none ("no change" in setresuid(2)).
pub(crate) fn id(word: &str) -> Option<u32> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    word.parse().ok().filter(|&id| digits && id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_name_and_by_uid() -> Result<(), Error> {
        let passwd = b"root:x:0:0::/:/bin/sh\nbob:x:1001:100:::\nalice:x:1000:1000:::\nalice:x:5:5:::\ntoor:x:0:7:::\nbroken\nx:x:-1:0\ny:x:4294967295:0\n";
        let names = Names::of(passwd, b"web:x:33:alice,bob\nusers:x:100:\nodd:x:9:alicex\n", b"");
        assert_eq!(names.user("alice")?.map(|user| user.uid), Some(1000));
        assert_eq!(names.user("ali")?, None);
        assert_eq!(names.user("x")?, None);
        assert_eq!(names.user("y")?, None);
        assert_eq!(names.users_of(0)?.map(|user| user.name.as_str()).collect::<Vec<_>>(), ["root", "toor"]);
        assert_eq!(names.account_groups(1001)?, [100, 33]);
        assert_eq!(names.account_groups(4)?, []);
        assert_eq!(names.group("web")?, Some(33));
        assert_eq!(names.group("")?, None);
        Ok(())
    }
}
