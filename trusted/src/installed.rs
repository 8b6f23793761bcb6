//! The files below /etc: the policy that is installed, the tables of names, and the caller as the kernel has them.

use alloc::borrow::ToOwned;
use alloc::collections::BinaryHeap;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::OnceCell;
use core::ops::Deref;

use portgrant_policy::{AskedProgram, Caller, Distrust, Error, Files, Finding, Names, Policy, Rule, Source};
use portgrant_protocol::service::Services;
use portgrant_protocol::{AskedPort, Endpoint, Resolved};
use rustix::net::netdevice::{index_to_name, name_to_index};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{Gid, getgid, getgroups, getuid};

use crate::folder::{Folder, judge_program};
use crate::stamps::Stamps;

/// The file in /etc that must be there.
const FILE: &[u8] = b"portgrant.conf";
/// The folder in /etc of further files, which may be missing.
const MORE: &[u8] = b"portgrant.d";

/// The tables of names that may be symlinks of root's, as on systems whose /etc is made of links (NixOS). The policy must
/// not: a ConfigMap of Kubernetes is links in a folder that everybody writes to. The tables of subordinate ids are written
/// by usermod(8), as files.
const LINKED: [&str; 3] = ["passwd", "group", "services"];

/// /etc, opened and judged once, when the first of its files is read.
#[derive(Debug, Clone, Default)]
struct Etc {
    stamps: Rc<Stamps>,
    folder: Rc<OnceCell<Folder>>,
}

/// One reading of the system's files: each is read once.
#[derive(Debug)]
pub struct System {
    etc: Etc,
    /// The tables of names
    pub names: Names,
}

/// A policy that was read from judged files. Only [`System::policy`] makes it, and only such a policy lets anything be bound.
#[derive(Debug)]
pub struct InstalledPolicy(Policy);

/// The caller as the kernel has them. Only [`System::caller`] makes it, and only for such a caller anything is bound.
#[derive(Debug)]
pub struct CurrentCaller(Caller);

impl Deref for InstalledPolicy {
    type Target = Policy;

    fn deref(&self) -> &Policy {
        &self.0
    }
}

impl Deref for CurrentCaller {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.0
    }
}

impl From<InstalledPolicy> for Policy {
    fn from(installed: InstalledPolicy) -> Policy {
        installed.0
    }
}

impl From<CurrentCaller> for Caller {
    fn from(current: CurrentCaller) -> Caller {
        current.0
    }
}

impl Etc {
    fn folder(&self) -> Result<&Folder, Error> {
        if let Some(folder) = self.folder.get() {
            return Ok(folder);
        }
        let folder = Folder::open(b"/etc", Rc::clone(&self.stamps)).map_err(untrusted)?;
        Ok(self.folder.get_or_init(|| folder))
    }
}

impl Files for Etc {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let folder = self.folder()?;
        let read = if LINKED.contains(&name) {
            folder.read_through_links(name.as_bytes())
        } else {
            folder.read(name.as_bytes())
        };
        match read {
            Ok(text) => Ok(Some(text)),
            Err((_, Distrust::Missing | Distrust::Empty)) => Ok(None),
            Err(finding) => Err(untrusted(finding)),
        }
    }
}

impl Default for System {
    fn default() -> System {
        let etc = Etc::default();
        System { names: Names::new(etc.clone()), etc }
    }
}

impl System {
    /// The stamps of all that was read by now.
    pub fn stamps(&self) -> &Stamps {
        &self.etc.stamps
    }

    /// The installed policy; an error if any of it cannot be believed or read.
    pub fn policy(&self) -> Result<InstalledPolicy, Error> {
        self.installed(&|_| true)
    }

    /// Whoever started this process, and of the installed policy the rules that may apply to them. All of it is read and must
    /// be valid; but permits for other users leave nothing in memory.
    pub fn policy_for_caller(&self) -> Result<(InstalledPolicy, CurrentCaller), Error> {
        let caller = System::process()?;
        let policy = self.installed(&|rule| rule.may_apply_to(&caller))?;
        let caller = caller.with_accounts(&policy, &self.names)?;
        Ok((policy, CurrentCaller(caller)))
    }

    fn installed(&self, wanted: &dyn Fn(&Rule) -> bool) -> Result<InstalledPolicy, Error> {
        match Policy::parse_some(self.sources()?, &self.names, wanted)? {
            Ok(mut policy) => {
                for dev in policy.rules.iter_mut().filter_map(|rule| rule.dev.as_mut()) {
                    *dev = interface(dev);
                }
                Ok(InstalledPolicy(policy))
            }
            Err((policy, problems)) => Err(Error::Malformed { policy, problems }),
        }
    }

    /// Whoever started this process: real uid, real gid, supplementary groups.
    pub fn caller(&self, policy: &Policy) -> Result<CurrentCaller, Error> {
        System::process()?.with_accounts(policy, &self.names).map(CurrentCaller)
    }

    /// The process's own ids.
    fn process() -> Result<Caller, Error> {
        let groups = getgroups().map_err(|errno| Error::Call { call: "getgroups", errno })?;
        let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
        let groups = groups.into_iter().map(Gid::as_raw).collect();
        Ok(Caller { uid, gid, groups, ..Caller::default() })
    }

    /// Looks up the service and the interface that `endpoint` names, if it does.
    pub fn resolve(&self, mut endpoint: Endpoint) -> Result<Resolved, Error> {
        endpoint.options.dev = endpoint.options.dev.as_deref().map(interface);
        let none = Services::default();
        let services = match endpoint.port {
            AskedPort::Service(_) => self.names.services()?,
            AskedPort::Number(_) => &none,
        };
        Ok(endpoint.resolve(services)?)
    }

    /// `/etc/portgrant.conf`, then `/etc/portgrant.d/*.conf` in byte order.
    pub fn sources(&self) -> Result<Vec<Source>, Error> {
        let source = |folder: &Folder, name: &[u8]| {
            let text = folder.read(name).map_err(untrusted)?;
            Ok::<_, Error>(Source { path: [folder.path(), b"/", name].concat(), text })
        };
        let etc = self.etc.folder()?;
        let mut sources = vec![source(etc, FILE)?];
        let more = match etc.enter(MORE) {
            Err((_, Distrust::Missing)) => return Ok(sources),
            other => other.map_err(untrusted)?,
        };
        let files = more.names().map_err(untrusted)?.into_iter().filter(|name| is_policy_file(name));
        for name in files.collect::<BinaryHeap<_>>().into_sorted_vec() {
            sources.push(source(&more, &name)?);
        }
        Ok(sources)
    }

    /// Whether there is a table `name` in /etc, with anything in it; an error if it cannot be believed or read.
    pub fn has_table(&self, name: &str) -> Result<bool, Error> {
        Ok(self.etc.read(name)?.is_some())
    }

    /// The program at `path`, its file judged if any rule of `policy` is bound to it: it must be root's all the way.
    pub fn asked_program<'a>(policy: &Policy, path: &'a [u8]) -> AskedProgram<'a> {
        let unfit = if policy.names_program(path) { judge_program(path).err() } else { None };
        AskedProgram { path, unfit }
    }
}

/// Whether a file of this name in /etc/portgrant.d is a part of the policy. All others are skipped.
#[must_use]
pub fn is_policy_file(name: &[u8]) -> bool {
    name.ends_with(b".conf") && !name.starts_with(b".")
}

fn untrusted((path, why): Finding) -> Error {
    Error::Untrusted { path, why }
}

/// The name by which the kernel knows interface `dev`, which may be an alternative one (`ip link property`): rules and
/// requests must use the same name. An unknown name stays as it is, and is an error when the socket is made.
pub fn interface(dev: &str) -> String {
    let name = || {
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        index_to_name(&socket, name_to_index(&socket, dev)?)
    };
    name().unwrap_or_else(|_| dev.to_owned())
}

/// The number of interface `dev`, if there is such an interface (netdevice(7)).
pub fn interface_index(dev: &str) -> Option<u32> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    name_to_index(&socket, dev).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_a_program_is_judged_if_a_rule_names_it() {
        let text = b"permit any 80\npermit any 80 exec /no-such-folder/x\n".to_vec();
        let sources = vec![Source { path: b"/etc/portgrant.conf".to_vec(), text }];
        let policy = Policy::parse(sources, &Names::of(b"", b"", b"")).expect("given").expect("well-formed");
        let unfit = |path: &str| System::asked_program(&policy, path.as_bytes()).unfit;
        assert_eq!(unfit("/no-such-folder/x"), Some((b"/no-such-folder".to_vec(), Distrust::Missing)));
        for other in ["/no-such-folder/y", "/no-such-folder//x", "/no-such-folder/./x"] {
            assert_eq!(unfit(other), None, "{other}");
        }
    }
}
