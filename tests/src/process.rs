//! What /proc says of a process: who it is, what it may do, what it holds open.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use caps::{CapSet, CapsHashSet};
use nix::sys::signal::Signal;

/// One process, as it was when it was read. Fields bear the names of proc_pid_status(5).
#[derive(Debug, Clone)]
pub struct Process {
    /// Real, effective, saved and file system user id.
    pub uids: [u32; 4],
    /// Real, effective, saved and file system group id.
    pub gids: [u32; 4],
    /// Supplementary groups.
    pub groups: BTreeSet<u32>,
    /// Capabilities that it has or can raise.
    pub permitted: CapsHashSet,
    /// Capabilities that count now.
    pub effective: CapsHashSet,
    /// Capabilities that an execve may keep.
    pub inheritable: CapsHashSet,
    /// Capabilities that an execve keeps.
    pub ambient: CapsHashSet,
    /// Capabilities that an execve can give at most.
    pub bounding: CapsHashSet,
    /// Signals that are ignored.
    pub ignored: BTreeSet<Signal>,
    /// Signals that the main thread blocks.
    pub blocked: BTreeSet<Signal>,
    /// Whether setuid files do nothing for it any more.
    pub no_new_privs: bool,
    /// The file mode mask.
    pub umask: u32,
    /// The processor time of all its threads so far, its children's not counted.
    pub processor_time: Duration,
    /// The program that it executes.
    pub program: PathBuf,
    /// The working folder.
    pub folder: PathBuf,
    /// Open descriptors, each with the target of its link (`socket:[1234]`, `/dev/null`, …).
    pub fds: BTreeMap<RawFd, PathBuf>,
}

impl Process {
    /// Whether it has no capability and cannot get one back.
    #[must_use]
    pub fn is_powerless(&self) -> bool {
        [&self.permitted, &self.effective, &self.inheritable, &self.ambient].iter().all(|set| set.is_empty())
    }

    /// The sockets among its descriptors.
    #[must_use]
    pub fn sockets(&self) -> Vec<RawFd> {
        self.fds
            .iter()
            .filter(|(_, target)| target.to_string_lossy().starts_with("socket:"))
            .map(|(&number, _)| number)
            .collect()
    }

    /// What `variable` is in the environment that it was started with.
    #[must_use]
    pub fn variable(pid: u32, variable: &str) -> Option<String> {
        let environ = fs::read_to_string(format!("/proc/{pid}/environ")).expect("environ");
        environ.split('\0').find_map(|entry| entry.strip_prefix(variable)?.strip_prefix('=').map(str::to_owned))
    }

    pub(crate) fn read(pid: u32) -> Self {
        let path = |name: &str| format!("/proc/{pid}/{name}");
        let status = fs::read_to_string(path("status")).unwrap_or_else(|e| panic!("process {pid}: {e}"));
        let status = Status(&status);
        let fds = fs::read_dir(path("fd")).unwrap_or_else(|e| panic!("descriptors of {pid}: {e}"));
        let fds = fds.filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, fs::read_link(entry.path()).ok()?))
        });
        Self {
            uids: status.ids("Uid"),
            gids: status.ids("Gid"),
            groups: status.field("Groups").split_whitespace().map(|id| id.parse().expect("a group")).collect(),
            permitted: capabilities(pid, CapSet::Permitted),
            effective: capabilities(pid, CapSet::Effective),
            inheritable: capabilities(pid, CapSet::Inheritable),
            ambient: status.capabilities("CapAmb"),
            bounding: status.capabilities("CapBnd"),
            ignored: status.signals("SigIgn"),
            blocked: status.signals("SigBlk"),
            no_new_privs: status.field("NoNewPrivs") == "1",
            umask: u32::from_str_radix(status.field("Umask"), 8).expect("a mask"),
            processor_time: processor_time(pid),
            program: fs::read_link(path("exe")).unwrap_or_default(),
            folder: fs::read_link(path("cwd")).unwrap_or_default(),
            fds: fds.collect(),
        }
    }
}

/// utime and stime of proc_pid_stat(5).
fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_else(|e| panic!("process {pid}: {e}"));
    // The name may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    // In USER_HZ, which is 100 everywhere (time(7)).
    Duration::from_millis(ticks * 10)
}

/// Every process that this run can see.
pub(crate) fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Whether its main thread waits for something.
pub(crate) fn sleeps(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_else(|e| panic!("process {pid}: {e}"));
    Status(&status).field("State").starts_with('S')
}

/// The namespaces that each world has, as far as the process is still there.
pub(crate) fn namespaces(pid: impl Display) -> BTreeSet<PathBuf> {
    let links = ["net", "mnt", "uts"].map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")));
    links.into_iter().flatten().collect()
}

fn capabilities(pid: u32, set: CapSet) -> CapsHashSet {
    caps::read(Some(pid.cast_signed()), set).unwrap_or_else(|e| panic!("capabilities of {pid}: {e}"))
}

/// The text of /proc/PID/status.
struct Status<'a>(&'a str);

impl<'a> Status<'a> {
    fn field(&self, name: &str) -> &'a str {
        let field = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        field.unwrap_or_else(|| panic!("no {name} in {}", self.0)).trim()
    }

    fn ids(&self, name: &str) -> [u32; 4] {
        let ids: Vec<u32> = self.field(name).split_whitespace().map(|id| id.parse().expect("an id")).collect();
        ids.try_into().expect("four ids")
    }

    fn mask(&self, name: &str) -> u64 {
        u64::from_str_radix(self.field(name), 16).expect("a mask")
    }

    fn capabilities(&self, name: &str) -> CapsHashSet {
        let mask = self.mask(name);
        caps::all().into_iter().filter(|capability| mask & capability.bitmask() != 0).collect()
    }

    fn signals(&self, name: &str) -> BTreeSet<Signal> {
        let mask = self.mask(name);
        Signal::iterator().filter(|&signal| mask & (1 << (signal as i32 - 1)) != 0).collect()
    }
}
