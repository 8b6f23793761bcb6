//! All errors, as one flat enum. Each has an exit status, and a message: what failed, why, and what to do.

use std::path::PathBuf;

use crate::projection::{LeftOut, Unseen};
use portgrant_policy::Policy;
use portgrant_protocol::message::message;
use portgrant_protocol::text::printable;
use portgrant_protocol::{Kind, Message};
use rustix::io::Errno;

use crate::bpf::Refused;

/// Everything that ends the program with a status other than 0.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant's report is its description")]
pub enum Error {
    Answered(String),
    Usage { what: String, fix: String },
    Policy(portgrant_policy::Error),
    Undecidable { policy: Box<Policy>, denies: Vec<LeftOut> },
    TooLarge { what: &'static str, most: usize },
    NoPrivilege,
    CapabilitiesNotDropped,
    NoCgroups,
    Cgroup { path: PathBuf, errno: Option<Errno> },
    Exclusive { path: PathBuf },
    NoBpfFileSystem { path: PathBuf },
    Foreign { path: PathBuf, why: &'static str },
    Loaded,
    NotLoaded,
    Interrupted,
    OtherVersion,
    Detached { cgroup: String },
    OtherNetwork { loaded: u64, here: u64 },
    AnotherReader,
    FirstElementOnly,
    Program(Refused),
    Call { call: &'static str, errno: Errno },
}

impl Error {
    /// The message for this error.
    #[must_use]
    pub fn message(self) -> Message {
        match self {
            Error::Answered(text) => Message::new(text),
            Error::Usage { what, fix } => Message::of(Kind::Usage, what).fix(fix),
            Error::Policy(error) => error.message(),
            Error::Undecidable { policy, denies } => undecidable(&policy, &denies),
            Error::TooLarge { what, most } => message(
                Kind::BrokenPolicy,
                "the policy is too large for the kernel mode",
                format_args!("it would need more than {most} {what}"),
                "use fewer rules with ranges of ports, or fewer lists of addresses for the same ports",
            ),
            Error::NoPrivilege => message(
                Kind::Refused,
                "the kernel does not accept a BPF program from this process",
                "this needs CAP_BPF and CAP_NET_ADMIN, and root as the owner of the pinned files",
                "run it as root, outside of user namespaces and of containers without these capabilities",
            ),
            Error::CapabilitiesNotDropped => message(
                Kind::System,
                "privilege could not be given up, so nothing is done",
                "the capabilities are not what capset set",
                "look at what confines this process (a security module)",
            ),
            Error::NoCgroups => message(
                Kind::NotThere,
                "there is no cgroup to attach to",
                "no cgroup2 file system is mounted",
                "as root: mount -t cgroup2 none /sys/fs/cgroup; or on a host with cgroup v1, as root: mount -t cgroup2 none /sys/fs/cgroup/unified",
            ),
            Error::Cgroup { path, errno } => message(
                Kind::NotThere,
                format!("{} is not a cgroup", shown(&path)),
                errno.map_or_else(
                    || "it is not a folder of a cgroup2 file system".to_owned(),
                    |errno| errno.to_string(),
                ),
                "name a folder below the one that findmnt -t cgroup2 shows",
            ),
            Error::Exclusive { path } => message(
                Kind::NotThere,
                format!("{} already has an exclusive program", shown(&path)),
                "a program that allows no other is attached to it, or to a cgroup above it",
                "see which with bpftool cgroup tree, or name another cgroup with --cgroup",
            ),
            Error::NoBpfFileSystem { path } => message(
                Kind::NotThere,
                format!("no BPF file system is mounted at {}", shown(&path)),
                "portgrant-kernel pins the policy there",
                format!("as root: mount -t bpf -o mode=0700 bpf {}", shown(&path)),
            ),
            Error::Foreign { path, why } => message(
                Kind::BrokenPolicy,
                "the pinned files are not trusted",
                format_args!("{}: {why}", shown(&path)),
                "as root, find out who made it, and remove it",
            ),
            Error::Loaded => message(
                Kind::NotThere,
                "a policy is loaded already",
                "only one policy can be loaded at a time",
                "if the policy changed, portgrant-kernel reload; for other options, unload it first, then load",
            ),
            Error::NotLoaded => message(
                Kind::NotThere,
                "no policy is loaded in the kernel",
                "no files of a policy are pinned",
                "as root: portgrant-kernel load; or as root: systemctl start portgrant-kernel",
            ),
            Error::Interrupted => message(
                Kind::BrokenPolicy,
                "a load or unload was interrupted",
                "only a part of a policy is pinned, and it may be active",
                "portgrant-kernel unload removes it, and so does a load",
            ),
            Error::OtherVersion => message(
                Kind::NotThere,
                "another version of portgrant-kernel loaded the policy",
                "the policy is active, and its program in the kernel cannot read the data of this version",
                "portgrant-kernel unload, then load (systemctl restart portgrant-kernel)",
            ),
            Error::Detached { cgroup } => message(
                Kind::NotThere,
                "the policy is no longer attached",
                format_args!("the cgroup {cgroup} was removed, or the program was detached from it"),
                "portgrant-kernel unload, then load",
            ),
            Error::OtherNetwork { loaded, here } => message(
                Kind::NotThere,
                "the policy was loaded for another network namespace",
                format_args!("that namespace has cookie {loaded}, this one {here}"),
                "run the command in that namespace (nsenter --net), or unload the policy and load it here",
            ),
            Error::AnotherReader => message(
                Kind::NotThere,
                "another portgrant-kernel audit reads the grants",
                "each grant can be read only once",
                "stop the other process first (systemctl stop portgrant-kernel-audit)",
            ),
            Error::FirstElementOnly => message(
                Kind::NotThere,
                "this kernel cannot look up what a policy permits",
                "it finds only the first element of an array within an array, a defect of Linux 6.0 to 6.3",
                "use a kernel made after June 2023 (6.1.34), or portgrant run",
            ),
            Error::Program(refused) => message(
                Kind::System,
                "the kernel rejected the BPF program",
                format_args!("{}\n{}", refused.errno, printable_lines(&refused.log)),
                "Linux 5.14 or later is needed, with CONFIG_CGROUP_BPF; if you have that, please report the whole message",
            ),
            Error::Call { call, errno: errno @ (Errno::NOSYS | Errno::NOPROTOOPT) } => message(
                Kind::System,
                "this kernel lacks cgroup BPF",
                format_args!("{call}: {errno}"),
                "Linux 5.14 or later is needed, with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF",
            ),
            Error::Call { call, errno: errno @ Errno::PERM } => message(
                Kind::Refused,
                format!("{call} failed"),
                errno,
                "look at what confines this process (a container, seccomp, lockdown(7))",
            ),
            Error::Call { call, errno } => message(
                Kind::System,
                format!("{call} failed"),
                errno,
                "free memory or raise the limit (ulimit -a), and try again",
            ),
        }
    }
}

fn undecidable(policy: &Policy, denies: &[LeftOut]) -> Message {
    let first = denies.first().map(|deny| {
        let (path, text) = (policy.path(deny.file), policy.line(deny.file, deny.line));
        format!("{path}:{}  {text}: {}", deny.line, deny.why)
    });
    let more = match denies.len() {
        0 | 1 => String::new(),
        many => format!(" (and {} more)", many - 1),
    };
    let fix = match denies.first().map(|deny| &deny.why) {
        Some(Unseen::Member(_)) => "as root, take that name out of the group, or deny it by uid:N in a rule of its own",
        _ => "deny users by name, or load with --expand-groups, which makes a rule for each member of the group",
    };
    message(Kind::BrokenPolicy, "a deny cannot be decided in the kernel", first.unwrap_or_default() + &more, fix)
}

fn shown(path: &std::path::Path) -> String {
    printable(path.as_os_str().as_encoded_bytes())
}

fn printable_lines(log: &str) -> String {
    log.lines().map(|line| format!("    {}", printable(line.as_bytes()))).collect::<Vec<_>>().join("\n")
}

impl From<portgrant_policy::Error> for Error {
    fn from(error: portgrant_policy::Error) -> Error {
        Error::Policy(error)
    }
}
