//! Lines of passwd, group, services, subuid and subgid: whoever may write a name or a number into one of them, the tables
//! agree with each other and with a second, slow reading of the same lines.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portgrant_policy::{Error, Files, Names, SubordinateIds};
use portgrant_protocol::Protocol;
use portgrant_protocol::service::Services;

/// The files, by name.
#[derive(Debug)]
struct Given([(&'static str, Option<Vec<u8>>); 5]);

impl Files for Given {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.0.iter().find(|file| file.0 == name).and_then(|file| file.1.clone()))
    }
}

/// The first uid of login name `name`, read field by field.
fn slow_uid(passwd: &str, name: &str) -> Option<u32> {
    let line = passwd.split('\n').find(|line| line.split(':').next() == Some(name))?;
    let fields: Vec<&str> = line.split(':').collect();
    let id = |field: &str| {
        let digits = !field.is_empty() && field.bytes().all(|byte| byte.is_ascii_digit());
        field.parse::<u32>().ok().filter(|id| digits && *id != u32::MAX)
    };
    id(fields.get(3)?)?;
    id(fields.get(2)?)
}

fuzz_target!(|data: &[u8]| {
    // Five files, divided by a byte that none of them needs.
    let mut files = data.splitn(5, |byte| *byte == b'|');
    let mut file = || files.next().unwrap_or_default();
    let (passwd, group, services, subuid, subgid) = (file(), file(), file(), file(), file());
    // An empty file is one that is not there.
    let files = [("passwd", passwd), ("group", group), ("services", services), ("subuid", subuid), ("subgid", subgid)];
    let names = Names::new(Given(files.map(|(name, text)| (name, (!text.is_empty()).then(|| text.to_vec())))));
    let text = String::from_utf8_lossy(passwd);
    for name in text.split(['\n', ':', ',']).chain(["root", "alice"]) {
        let uid = names.user(name).expect("given").map(|user| user.uid);
        assert_eq!(uid, slow_uid(&text, name), "{name}");
        let Some(uid) = uid else { continue };
        assert!(names.uids().expect("given").contains(&uid));
        let groups = names.account_groups(uid).expect("given");
        for gid in groups.iter().take(8) {
            assert!(names.members(*gid).expect("given").uids.contains(&uid), "{name} is a member of {gid}");
        }
        for gid in names.groups_that_list(name).expect("given") {
            assert!(groups.contains(&gid) || name.is_empty(), "{name} {gid}");
        }
    }
    assert!(names.user_names().expect("given").all(|name| text.split('\n').any(|line| line.starts_with(name))));
    let group_text = String::from_utf8_lossy(group);
    for name in group_text.split(['\n', ':']) {
        if let Some(gid) = names.group(name).expect("given") {
            let members = names.members(gid).expect("given");
            let first = names.group_of(gid).expect("given").expect("it has a name");
            assert!(names.group_names().expect("given").any(|name| name == first));
            assert!(members.uids.is_sorted() && members.unknown.iter().all(|name| words::is_printable(name)));
        }
    }
    assert_eq!(
        names.require_accounts(String::new).is_ok(),
        !names.uids().expect("given").is_empty() && has_group(&names, &group_text)
    );

    let table = names.services().expect("given");
    assert_eq!(table.ports("http").count(), Services::parse(services).ports("http").count());
    let slow = String::from_utf8_lossy(services);
    for word in slow.split_ascii_whitespace().take(50) {
        let ports: Vec<_> = table.ports(word).collect();
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Mptcp] {
            let first = ports.iter().find(|entry| entry.0 == protocol.transport()).map(|entry| entry.1);
            assert_eq!(table.port(word, protocol), first);
            if let Some(named) = first.and_then(|port| table.name(port, protocol)) {
                assert!(table.ports(named).any(|entry| Some(entry.1) == first));
            }
        }
    }

    for (table, ids) in [(subuid, names.subuids()), (subgid, names.subgids())] {
        let ids = ids.expect("given");
        assert!(ids.ranges().eq(SubordinateIds::parse(table).ranges()));
        for (owner, first, last) in ids.ranges() {
            assert!(first <= last && last != u32::MAX && !owner.is_empty());
            assert!(ids.owners(first).any(|found| found == owner) && ids.owners(last).any(|found| found == owner));
            let found = names.owners(ids.owners(first)).expect("given");
            assert!(!found.uids.is_empty() || !found.unknown_names.is_empty());
        }
    }
});

fn has_group(names: &Names, text: &str) -> bool {
    text.split('\n').any(|line| {
        let gid = line.split(':').nth(2).and_then(|gid| gid.parse::<u32>().ok());
        gid.is_some_and(|gid| names.members(gid).is_ok()) && line.split(':').nth(2).is_some_and(is_id)
    })
}

fn is_id(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit()) && word.parse::<u32>().is_ok_and(|id| id != u32::MAX)
}
