//! Processes that have sockets open, and the control groups that they are in: proc(5), cgroups(7).
//!
//! Any process chooses its own name, so names are made printable.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};
use portgrant_protocol::text::printable;
use procfs::process::{FDTarget, all_processes};
use serde_json::{Value, json};

/// How many cgroup folders are searched at most.
const MOST_GROUPS: usize = 50_000;

/// One process.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pid: i32,
    /// proc_pid_comm(5)
    program: String,
    /// The path of its program, if this user may see it
    path: Option<String>,
    user: Option<String>,
    /// The service manager's unit, or else the control group; none for the root group
    group: Option<String>,
}

/// The processes that hold sockets with these inodes, as far as this user may see them.
pub(super) fn holding(inodes: &HashSet<u64>) -> HashMap<u64, Vec<Process>> {
    let mut found: HashMap<u64, Vec<Process>> = HashMap::new();
    if inodes.is_empty() {
        return found;
    }
    for process in all_processes().into_iter().flatten().flatten() {
        let open = process.fd().into_iter().flatten().flatten();
        let sockets = open.filter_map(|fd| if let FDTarget::Socket(inode) = fd.target { Some(inode) } else { None });
        let held: HashSet<u64> = sockets.filter(|inode| inodes.contains(inode)).collect();
        if held.is_empty() {
            continue;
        }
        let described = Process::of(&process);
        for inode in held {
            found.entry(inode).or_default().push(described.clone());
        }
    }
    found.values_mut().for_each(|processes| processes.sort_by_key(|process| process.pid));
    found
}

/// The names of control groups by id, which is the inode of the group's folder in cgroup2.
pub(super) fn control_groups(numbers: &HashSet<u64>) -> HashMap<u64, String> {
    let mut found = HashMap::new();
    let mounts =
        if numbers.is_empty() { String::new() } else { fs::read_to_string("/proc/self/mounts").unwrap_or_default() };
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let place = fields.next()?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(place))
    });
    let Some(mount) = mount else { return found };
    let mut ahead = vec![mount.clone()];
    let mut looked_at = 0;
    while let Some(folder) = ahead.pop() {
        looked_at += 1;
        if found.len() == numbers.len() || looked_at > MOST_GROUPS {
            break;
        }
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            if numbers.contains(&entry.ino()) {
                let shown = path.strip_prefix(&mount).unwrap_or(&path);
                found.insert(entry.ino(), group(&Path::new("/").join(shown)));
            }
            ahead.push(path);
        }
    }
    found
}

/// The unit's name for a unit of the service manager, the path for another control group.
fn group(path: &Path) -> String {
    const UNITS: [&str; 4] = ["service", "scope", "socket", "slice"];
    let is_unit = |part: &Path| part.extension().and_then(|end| end.to_str()).is_some_and(|end| UNITS.contains(&end));
    let last = path.ancestors().find(|part| is_unit(part)).and_then(Path::file_name);
    printable(last.unwrap_or(path.as_os_str()).as_bytes())
}

impl Process {
    fn of(process: &procfs::process::Process) -> Process {
        let pid = process.pid();
        // Read as bytes: the name may not be UTF-8.
        let program = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        let user = process.uid().ok();
        let name = user.and_then(|uid| User::from_uid(Uid::from_raw(uid)).ok().flatten());
        let name = name.map(|user| printable(user.name.as_bytes())).or(user.map(|uid| format!("uid {uid}")));
        let groups = process.cgroups().ok();
        // The group in cgroup2, or else systemd's own hierarchy of version 1.
        let of = |is: &dyn Fn(&procfs::ProcessCGroup) -> bool| groups.as_ref()?.0.iter().find(|group| is(group));
        let systemd = |group: &procfs::ProcessCGroup| group.controllers.iter().any(|name| name == "name=systemd");
        let in_group = |group: &&procfs::ProcessCGroup| group.pathname != "/";
        let found = of(&|group| group.hierarchy == 0).filter(in_group).or_else(|| of(&systemd).filter(in_group));
        Process {
            pid,
            program: printable(program.trim_ascii_end()),
            path: process.exe().ok().map(|path| printable(path.as_os_str().as_bytes())),
            user: name,
            group: found.map(|found| group(Path::new(&found.pathname))),
        }
    }

    /// `nginx (pid 812, user www-data), /usr/sbin/nginx, in nginx.service`
    pub(super) fn text(&self) -> String {
        let user = self.user.as_ref().map(|user| format!(", user {user}")).unwrap_or_default();
        let path = self.path.as_ref().map(|path| format!(", {path}")).unwrap_or_default();
        let group = self.group.as_ref().map(|group| format!(", in {group}")).unwrap_or_default();
        format!("{} (pid {}{user}){path}{group}", self.program, self.pid)
    }

    pub(super) fn json(&self) -> Value {
        json!({ "pid": self.pid, "program": self.program, "path": self.path, "user": self.user, "group": self.group })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_systemd_unit_is_shown_by_name_and_another_cgroup_by_path() {
        for (path, expected) in [
            ("/system.slice/nginx.service", "nginx.service"),
            ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
            ("/system.slice/docker.service/payload", "docker.service"),
            ("/lxc/a b", "/lxc/a b"),
            ("/odd\x1b[2J.service", "odd\\x1b[2J.service"),
        ] {
            assert_eq!(group(Path::new(path)), expected);
        }
    }

    #[test]
    fn this_process_is_found_by_its_socket() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let link = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&socket))).expect("open");
        let inode = link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        let inode = inode.expect("a number");
        let found = holding(&HashSet::from([inode]));
        let own = i32::try_from(std::process::id()).expect("a pid");
        assert!(found[&inode].iter().any(|process| process.pid == own), "{found:?}");
        assert!(holding(&HashSet::new()).is_empty());
    }
}
