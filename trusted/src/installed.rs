//! The files below /etc: the policy that is installed, the tables of names, and the caller as the kernel has them.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use nix::net::if_::{if_indextoname, if_nametoindex};
use portgrant_policy::{AskedProgram, Caller, Distrust, Error, Files, Finding, Names, Policy, Source};
use portgrant_protocol::service::Services;
use portgrant_protocol::{AskedPort, Endpoint, Resolved};
use rustix::process::{Gid, getgid, getgroups, getuid};

use crate::folder::{Folder, judge_program};
use crate::stamps::Stamps;

/// The file in /etc that must be there.
const FILE: &str = "portgrant.conf";
/// The folder in /etc of further files, which may be missing.
const MORE: &str = "portgrant.d";

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

/// One look at the system's files: what is read by it is read once.
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
        let folder = Folder::open(Path::new("/etc"), Rc::clone(&self.stamps)).map_err(untrusted)?;
        Ok(self.folder.get_or_init(|| folder))
    }
}

impl Files for Etc {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let folder = self.folder()?;
        let name = OsStr::new(name);
        let read = if LINKED.iter().any(|linked| name == *linked) {
            folder.read_through_links(name)
        } else {
            folder.read(name)
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

    /// The installed policy; an error where any of it cannot be believed or read.
    pub fn policy(&self) -> Result<InstalledPolicy, Error> {
        match Policy::parse(self.sources()?, &self.names)? {
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
        let groups = getgroups().map_err(|errno| Error::Call { call: "getgroups", errno })?;
        let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
        let groups = groups.into_iter().map(Gid::as_raw).collect();
        let caller = Caller { uid, gid, groups, ..Caller::default() };
        caller.with_accounts(policy, &self.names).map(CurrentCaller)
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
        let source = |folder: &Folder, name: &OsStr| {
            let text = folder.read(name).map_err(untrusted)?;
            Ok::<_, Error>(Source { path: folder.path().join(name).as_os_str().as_bytes().to_vec(), text })
        };
        let etc = self.etc.folder()?;
        let mut sources = vec![source(etc, OsStr::new(FILE))?];
        let more = match etc.enter(OsStr::new(MORE)) {
            Err((_, Distrust::Missing)) => return Ok(sources),
            other => other.map_err(untrusted)?,
        };
        let mut files = more.names().map_err(untrusted)?;
        files.retain(|name| name.as_bytes().ends_with(b".conf") && !name.as_bytes().starts_with(b"."));
        files.sort();
        for name in files {
            sources.push(source(&more, &name)?);
        }
        Ok(sources)
    }

    /// The program at `path`, its file judged if any rule of `policy` is bound to it: it must be root's all the way.
    pub fn asked_program<'a>(policy: &Policy, path: &'a Path) -> AskedProgram<'a> {
        let bytes = path.as_os_str().as_bytes();
        let unfit = if policy.names_program(bytes) { judge_program(path).err() } else { None };
        AskedProgram { path: bytes, unfit }
    }
}

fn untrusted((path, why): Finding) -> Error {
    Error::Untrusted { path, why }
}

/// The name by which the kernel knows interface `dev`, which may be an alternative one (`ip link property`): rules and
/// requests must speak of the same. A name that is none stays as it is, and is an error when the socket is made.
pub fn interface(dev: &str) -> String {
    let name = if_nametoindex(dev).and_then(if_indextoname).ok();
    name.and_then(|name| name.into_string().ok()).unwrap_or_else(|| dev.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_a_program_is_judged_if_a_rule_names_it() {
        let text = b"permit any 80\npermit any 80 exec /no-such-folder/x\n".to_vec();
        let sources = vec![Source { path: b"/etc/portgrant.conf".to_vec(), text }];
        let policy = Policy::parse(sources, &Names::of(b"", b"", b"")).expect("given").expect("well-formed");
        let unfit = |path| System::asked_program(&policy, Path::new(path)).unfit;
        assert_eq!(unfit("/no-such-folder/x"), Some((b"/no-such-folder".to_vec(), Distrust::Missing)));
        for other in ["/no-such-folder/y", "/no-such-folder//x", "/no-such-folder/./x"] {
            assert_eq!(unfit(other), None, "{other}");
        }
    }
}
