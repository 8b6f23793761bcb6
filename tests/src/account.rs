//! A user of the world, as its /etc/passwd and /etc/group have it.

use std::fs;

pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The supplementary groups, the primary one among them (as initgroups(3) has it).
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

impl Account {
    pub(crate) fn named(name: &str) -> Self {
        let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
        let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == name);
        let fields = fields.unwrap_or_else(|| panic!("there is no user {name}"));
        let gid = id(fields[3]);

        let group = fs::read_to_string("/etc/group").expect("/etc/group");
        let groups = group.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let others = groups.filter(|group| group[3].split(',').any(|member| member == name)).map(|group| id(group[2]));
        let groups = std::iter::once(gid).chain(others).collect();
        Self { name: name.to_owned(), uid: id(fields[2]), gid, groups, home: fields[5].to_owned() }
    }
}

fn id(field: &str) -> u32 {
    field.parse().expect("a number in passwd or group")
}
