//! The names in rules: users, groups and services, from `/etc/passwd`, `/etc/group` and `/etc/services` only.
//!
//! The helper is linked statically, so it cannot ask a directory service: an account of one is written `uid:N` or
//! `gid:N`. Each file is judged like the policy, and is read once, when the first rule needs it.

use alloc::boxed::Box;
use alloc::collections::{BTreeSet, BinaryHeap};
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, OnceCell};
use core::fmt;

use portgrant_protocol::decimal;
use portgrant_protocol::service::Services;
use portgrant_protocol::text::printable;

use crate::error::Error;
use crate::scan::line_feeds;
use crate::subid::SubordinateIds;

/// The fields of a line of passwd(5) that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User<'a> {
    /// The login name
    pub name: &'a str,
    /// Its uid
    pub uid: u32,
    /// Its primary gid
    pub gid: u32,
}

/// The members of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// Their uids, each once, in order
    pub uids: Vec<u32>,
    /// Names that /etc/group lists and /etc/passwd does not know, printable
    pub unknown: Vec<String>,
}

/// Where the tables come from.
pub trait Files: fmt::Debug {
    /// The text of file `name` of /etc; `None` if there is no such file, or nothing in it.
    ///
    /// # Errors If the file cannot be read or is not trusted.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error>;
}

/// The tables, each read when it is first needed.
#[derive(Debug)]
pub struct Names {
    files: Box<dyn Files>,
    users: OnceCell<Table>,
    groups: OnceCell<Table>,
    services: OnceCell<Services>,
    subuids: OnceCell<SubordinateIds>,
    subgids: OnceCell<SubordinateIds>,
}

/// The users who own a subordinate id.
#[derive(Debug, Default)]
pub struct Owners<'a> {
    /// Their uids, each once
    pub uids: Vec<u32>,
    /// Names that are not in /etc/passwd
    pub unknown_names: Vec<&'a str>,
}

impl Names {
    /// The tables in `files`.
    pub fn new(files: impl Files + 'static) -> Names {
        Names {
            files: Box::new(files),
            users: OnceCell::new(),
            groups: OnceCell::new(),
            services: OnceCell::new(),
            subuids: OnceCell::new(),
            subgids: OnceCell::new(),
        }
    }

    /// Tables given as text, for tests.
    pub fn of(passwd: &[u8], group: &[u8], services: &[u8]) -> Names {
        Names {
            files: Box::new(NoFiles),
            users: OnceCell::from(Table::of(passwd.to_vec())),
            groups: OnceCell::from(Table::of(group.to_vec())),
            services: OnceCell::from(Services::parse(services)),
            subuids: OnceCell::from(SubordinateIds::default()),
            subgids: OnceCell::from(SubordinateIds::default()),
        }
    }

    /// The same, with subordinate ids.
    #[must_use]
    pub fn with_subordinate_ids(mut self, subuid: &[u8], subgid: &[u8]) -> Names {
        self.subuids = OnceCell::from(SubordinateIds::parse(subuid));
        self.subgids = OnceCell::from(SubordinateIds::parse(subgid));
        self
    }

    /// The user `name`; the first line wins, as in getpwnam(3).
    pub fn user(&self, name: &str) -> Result<Option<User<'_>>, Error> {
        Ok(self.users()?.named(name).next().and_then(user))
    }

    /// The accounts of `uid`.
    pub fn users_of(&self, uid: u32) -> Result<impl Iterator<Item = User<'_>>, Error> {
        Ok(self.users()?.lines().filter_map(user).filter(move |user| user.uid == uid))
    }

    /// The uids of all accounts.
    pub fn uids(&self) -> Result<BTreeSet<u32>, Error> {
        let mut uids = BTreeSet::new();
        uids.extend(self.users()?.lines().filter_map(user).map(|user| user.uid));
        Ok(uids)
    }

    /// The gid of group `name`.
    pub fn group(&self, name: &str) -> Result<Option<u32>, Error> {
        Ok(self.groups()?.named(name).next().and_then(group).map(|group| group.0))
    }

    /// The name of group `gid`.
    pub fn group_of(&self, gid: u32) -> Result<Option<&str>, Error> {
        let is_it = |line: &&str| group(line).is_some_and(|group| group.0 == gid);
        Ok(self.groups()?.lines().find(is_it).and_then(|line| line.split(':').next()))
    }

    /// The names of all users.
    pub fn user_names(&self) -> Result<impl Iterator<Item = &str>, Error> {
        Ok(self.users()?.lines().filter_map(user).map(|user| user.name))
    }

    /// The names of all groups.
    pub fn group_names(&self) -> Result<impl Iterator<Item = &str>, Error> {
        let names = self.groups()?.lines().filter(|line| group(line).is_some());
        Ok(names.filter_map(|line| line.split(':').next()))
    }

    /// The groups of the accounts with `uid`, primary ones included: what initgroups(3) would give them.
    pub fn account_groups(&self, uid: u32) -> Result<Vec<u32>, Error> {
        let users: Vec<User<'_>> = self.users_of(uid)?.collect();
        let is_user = |member: &str| !member.is_empty() && users.iter().any(|user| user.name == member);
        let is_member = |members: &str| members.split(',').any(is_user);
        let groups = self.groups()?.lines().filter_map(group);
        let member_of = groups.filter(|group| is_member(group.1)).map(|group| group.0);
        Ok(users.iter().map(|user| user.gid).chain(member_of).collect())
    }

    /// The users whose account has group `gid`, as the primary group or by the list in /etc/group.
    pub fn members(&self, gid: u32) -> Result<Members, Error> {
        let primary = self.users()?.lines().filter_map(user).filter(|user| user.gid == gid).map(|user| user.uid);
        let mut members = Members { uids: primary.collect(), unknown: Vec::new() };
        for (_, listed) in self.groups()?.lines().filter_map(group).filter(|group| group.0 == gid) {
            for name in listed.split(',').filter(|name| !name.is_empty()) {
                let before = members.uids.len();
                members.uids.extend(self.uids_of(name)?);
                if members.uids.len() == before {
                    members.unknown.push(printable(name.as_bytes()));
                }
            }
        }
        let mut uids = BTreeSet::new();
        uids.extend(members.uids);
        Ok(Members { uids: uids.into_iter().collect(), ..members })
    }

    /// The groups that list `name` as a member.
    pub fn groups_that_list(&self, name: &str) -> Result<impl Iterator<Item = u32>, Error> {
        let lists = move |members: &str| !name.is_empty() && members.split(',').any(|member| member == name);
        Ok(self.groups()?.lines().filter_map(group).filter(move |group| lists(group.1)).map(|group| group.0))
    }

    /// Fails if /etc/passwd or /etc/group has no entries and `rule` denies a group: its members are unknown.
    pub fn require_accounts(&self, rule: impl Fn() -> String) -> Result<(), Error> {
        let names_nobody = |file| Err(Error::NeededByDeny { file, rule: rule() });
        if self.users()?.lines().find_map(user).is_none() {
            return names_nobody("/etc/passwd");
        }
        if self.groups()?.lines().find_map(group).is_none() { names_nobody("/etc/group") } else { Ok(()) }
    }

    /// The table of subuid(5).
    pub fn subuids(&self) -> Result<&SubordinateIds, Error> {
        self.once(&self.subuids, "subuid", |text| SubordinateIds::parse(&text))
    }

    /// The table of subgid(5).
    pub fn subgids(&self) -> Result<&SubordinateIds, Error> {
        self.once(&self.subgids, "subgid", |text| SubordinateIds::parse(&text))
    }

    /// The users that `owners`, the owners of a subordinate id, stand for, and the users who own their uids in turn:
    /// newuidmap(1) works for such a uid as well.
    pub fn owners<'a>(&'a self, owners: impl Iterator<Item = &'a str>) -> Result<Owners<'a>, Error> {
        let mut found = Owners::default();
        let mut ahead: Vec<&str> = owners.collect();
        while let Some(owner) = ahead.pop() {
            let uids = self.owner_uids(owner)?;
            if uids.is_empty() && !found.unknown_names.contains(&owner) {
                found.unknown_names.push(owner);
            }
            for uid in uids {
                if !found.uids.contains(&uid) {
                    found.uids.push(uid);
                    ahead.extend(self.subuids()?.owners(uid));
                }
            }
        }
        Ok(found)
    }

    /// The uids that `owner`, the first field of a line of subuid(5), stands for: as a name, and as a number.
    pub fn owner_uids(&self, owner: &str) -> Result<Vec<u32>, Error> {
        Ok(self.uids_of(owner)?.chain(id(owner)).collect())
    }

    /// The uids of all lines for login name `name`. A process may run with any of them, and initgroups(3) gives the groups of
    /// the name to each; getpwnam(3) knows only the first.
    fn uids_of(&self, name: &str) -> Result<impl Iterator<Item = u32>, Error> {
        Ok(self.users()?.named(name).filter_map(user).map(|user| user.uid))
    }

    /// The table of services(5).
    pub fn services(&self) -> Result<&Services, Error> {
        self.once(&self.services, "services", |text| Services::parse(&text))
    }

    fn users(&self) -> Result<&Table, Error> {
        self.once(&self.users, "passwd", Table::of)
    }

    fn groups(&self) -> Result<&Table, Error> {
        self.once(&self.groups, "group", Table::of)
    }

    fn once<'a, T>(&self, cell: &'a OnceCell<T>, file: &str, parse: impl Fn(Vec<u8>) -> T) -> Result<&'a T, Error> {
        if let Some(table) = cell.get() {
            return Ok(table);
        }
        // A missing table has no names, which is safe: a name in a permit then matches nobody, and in a deny it is an error.
        let text = self.files.read(file)?.unwrap_or_default();
        Ok(cell.get_or_init(|| parse(text)))
    }
}

/// For tables that are given as text.
#[derive(Debug)]
struct NoFiles;

impl Files for NoFiles {
    fn read(&self, _: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(None)
    }
}

/// A file of `NAME:…` lines. A line is parsed when it is needed.
#[derive(Debug)]
struct Table {
    text: String,
    /// Where each line begins and ends
    lines: Vec<(u32, u32)>,
    /// How often a name was looked up
    lookups: Cell<u32>,
    /// The lines sorted by name, made after [`Table::FEW`] lookups
    ordered: OnceCell<Vec<Named>>,
}

/// A line, and where its name ends.
#[derive(Debug, Clone, Copy)]
struct Named {
    line: (u32, u32),
    name_end: u32,
}

impl Table {
    /// How many lookups compare line by line, before the lines are sorted.
    const FEW: u32 = 16;

    /// The table in `text`, which is shorter than 4 GiB, like every file that is read.
    fn of(text: Vec<u8>) -> Table {
        // A name that is not UTF-8 becomes one that no rule can contain: rules are ASCII.
        let text =
            String::from_utf8(text).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        let mut lines = Vec::new();
        let mut start = 0;
        for end in line_feeds(text.as_bytes()).chain([text.len()]) {
            lines.extend(u32::try_from(start).ok().zip(u32::try_from(end).ok()));
            start = end + 1;
        }
        Table { text, lines, lookups: Cell::new(0), ordered: OnceCell::new() }
    }

    /// The lines for the name `wanted`, in the order of the file.
    fn named<'t, 'w>(&'t self, wanted: &'w str) -> impl Iterator<Item = &'t str> + use<'t, 'w> {
        let lookups = self.lookups.get();
        let is_early = lookups < Table::FEW;
        self.lookups.set(lookups + u32::from(is_early));
        let name = |named: &Named| self.at((named.line.0, named.name_end));
        let ordered = if is_early { &[] } else { self.ordered() };
        let start = ordered.partition_point(|named| name(named) < wanted);
        let found = ordered.iter().skip(start).take_while(move |named| name(named) == wanted);
        let early = is_early.then(|| self.lines().filter(move |line| begins_with(line, wanted)));
        early.into_iter().flatten().chain(found.map(|named| self.at(named.line)))
    }

    fn ordered(&self) -> &[Named] {
        self.ordered.get_or_init(|| {
            let named = |&line: &(u32, u32)| (self.at(line).split(':').next().unwrap_or_default(), line);
            // Lines with the same name keep the order of the file. (A heap needs a tenth of the code of a sort.)
            let ordered = self.lines.iter().map(named).collect::<BinaryHeap<_>>().into_sorted_vec();
            let place = |(name, line): (&str, (u32, u32))| {
                let length = u32::try_from(name.len()).unwrap_or(0);
                Named { line, name_end: line.0 + length }
            };
            ordered.into_iter().map(place).collect()
        })
    }

    /// In the order of the file.
    fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(|&line| self.at(line))
    }

    fn at(&self, (start, end): (u32, u32)) -> &str {
        self.text.get(start as usize..end as usize).unwrap_or_default()
    }
}

/// Whether `line` has the name `wanted` before its first colon.
fn begins_with(line: &str, wanted: &str) -> bool {
    match line.as_bytes().strip_prefix(wanted.as_bytes()) {
        Some([]) | Some([b':', ..]) => !wanted.contains(':'),
        Some(_) | None => false,
    }
}

/// `NAME:PASSWORD:UID:GID:…`
fn user(line: &str) -> Option<User<'_>> {
    let mut fields = line.split(':');
    let (name, _password) = (fields.next()?, fields.next()?);
    Some(User { name, uid: id(fields.next()?)?, gid: id(fields.next()?)? })
}

/// `NAME:PASSWORD:GID:MEMBER,MEMBER`: the gid and the members.
fn group(line: &str) -> Option<(u32, &str)> {
    let mut fields = line.split(':').skip(2);
    Some((id(fields.next()?)?, fields.next().unwrap_or_default()))
}

/// A uid or gid in digits; 4294967295 is not an id ("no change" in setresuid(2)).
pub(crate) fn id(word: &str) -> Option<u32> {
    decimal(word.as_bytes()).filter(|&id| id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_name_has_the_same_lines_however_often_names_are_looked_up(
            names in proptest::collection::vec("[ab]{0,2}", 0..12), wanted in "[ab]{0,2}:?",
        ) {
            let lines = names.iter().enumerate().map(|(number, name)| format!("{name}:x:{number}"));
            let table = Table::of(lines.collect::<Vec<_>>().join("\n").into_bytes());
            let numbers = (0..names.len()).filter(|&number| names[number] == wanted);
            let expected: Vec<String> = numbers.map(|number| format!("{wanted}:x:{number}")).collect();
            for _ in 0..=Table::FEW {
                let found: Vec<&str> = table.named(&wanted).filter(|line| line.contains(':')).collect();
                prop_assert_eq!(&found, &expected);
            }
        }
    }

    #[test]
    fn accounts_are_found_by_name_and_by_uid() -> Result<(), Error> {
        let passwd = b"root:x:0:0::/:/bin/sh\nbob:x:1001:100:::\nalice:x:1000:1000:::\nalice:x:5:5:::\ntoor:x:0:7:::\nbroken\nx:x:-1:0\ny:x:4294967295:0\n";
        let names = Names::of(passwd, b"web:x:33:alice,bob\nusers:x:100:\nodd:x:9:alicex\nbroken\n", b"");
        assert_eq!(names.user("alice")?.map(|user| user.uid), Some(1000));
        assert_eq!(names.user("ali")?, None);
        assert_eq!(names.user("x")?, None);
        assert_eq!(names.user("y")?, None);
        assert_eq!(names.users_of(0)?.map(|user| user.name).collect::<Vec<_>>(), ["root", "toor"]);
        assert_eq!(names.account_groups(1001)?, [100, 33]);
        assert_eq!(names.account_groups(4)?, []);
        let nameless = Names::of(b":x:7:7:::\n", b"empty:x:33:\n", b"");
        assert_eq!(nameless.account_groups(7)?, [7], "a group without members has nobody");
        assert_eq!(nameless.groups_that_list("")?.next(), None);
        assert_eq!(names.group("web")?, Some(33));
        assert_eq!(names.group_names()?.collect::<Vec<_>>(), ["web", "users", "odd"]);
        assert_eq!(names.group("")?, None);
        Ok(())
    }
}
