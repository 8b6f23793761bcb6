//! The files below /etc (the installed policy and the tables of names), and the caller as the kernel reports them.

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

/// The tables of names that may be symlinks of root, as on NixOS, whose /etc consists of links. The policy must not be
/// a link: a ConfigMap of Kubernetes has links in a folder that everybody can write to. usermod(8) writes the tables of
/// subordinate ids as files.
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

/// A policy that was read from judged files. Only [`System::policy`] makes it, and a bind needs it.
#[derive(Debug)]
pub struct InstalledPolicy(Policy);

/// The caller as the kernel reports them. Only [`System::caller`] makes it, and a bind needs it.
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
    /// The stamps of everything that was read so far.
    pub fn stamps(&self) -> &Stamps {
        &self.etc.stamps
    }

    /// The installed policy. Fails if a part of it cannot be read or is not trusted.
    pub fn policy(&self) -> Result<InstalledPolicy, Error> {
        self.installed(&|_| true)
    }

    /// The caller, and the rules of the installed policy that may apply to them. The whole policy is read and must be
    /// valid, but permits for other users are not kept.
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

    /// The caller: real uid, real gid and supplementary groups of this process.
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

    /// Whether /etc has a table `name` that is not empty. Fails if it cannot be read or is not trusted.
    pub fn has_table(&self, name: &str) -> Result<bool, Error> {
        Ok(self.etc.read(name)?.is_some())
    }

    /// The program at `path`. Its file is judged if a rule of `policy` is only for this program.
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

/// The kernel's own name of interface `dev`, which may be an alternative name (`ip link property`), so that rules and
/// requests use the same name. An unknown name is unchanged, and fails when the socket is made.
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
