//! Privilege as a value that moves: [`Privileged`] → [`Dropped`] → [`Renounced`]. Each transition consumes the earlier
//! state, so a wrong order does not compile:
//!
//! ```no_run
//! # use portgrant_binder::privilege::Privileged;
//! let privileged = Privileged::at_start(0, 0);
//! let dropped = privileged.drop_to_caller().unwrap();
//! let again = Privileged::at_start(0, 0).drop_to_caller();
//! ```
//! ```compile_fail,E0382
//! # use portgrant_binder::privilege::Privileged;
//! let privileged = Privileged::at_start(0, 0);
//! let dropped = privileged.drop_to_caller().unwrap();
//! let again = privileged.drop_to_caller(); // moved: there is nothing left to drop
//! ```
//! Nothing is bound after the last capability is given up:
//! ```
//! # use portgrant_binder::{permit::Permit, privilege::Dropped, socket};
//! fn bind_after_renouncing(permit: Permit<'_>, dropped: Dropped, other: Dropped) {
//!     let _renounced = other.renounce();
//!     let _ = socket::bind(permit, &dropped);
//! }
//! ```
//! ```compile_fail,E0382
//! # use portgrant_binder::{permit::Permit, privilege::Dropped, socket};
//! fn bind_after_renouncing(permit: Permit<'_>, dropped: Dropped, other: Dropped) {
//!     let _renounced = dropped.renounce(); // moved
//!     let _ = socket::bind(permit, &dropped);
//! }
//! ```
//! No program runs before the last capability is gone:
//! ```no_run
//! # use portgrant_binder::{handover, privilege::Privileged};
//! let state = Privileged::at_start(0, 0).drop_to_caller().unwrap().renounce().unwrap();
//! handover::execute(&state, &handover::Program::default(), vec![], &[]);
//! ```
//! ```compile_fail,E0308
//! # use portgrant_binder::{handover, privilege::Privileged};
//! let state = Privileged::at_start(0, 0).drop_to_caller().unwrap(); // not Renounced
//! handover::execute(&state, &handover::Program::default(), vec![], &[]);
//! ```
//! The whole order, with what each step needs:
//! ```no_run
//! # use portgrant_binder::{permit::Permit, privilege::Privileged, socket};
//! fn order(permit: Permit<'_>) -> Result<(), portgrant_binder::Error> {
//!     let dropped = Privileged::at_start(0, 0).drop_to_caller()?;
//!     let sockets = socket::bind(permit, &dropped)?;
//!     let renounced = dropped.renounce()?;
//!     # let _ = (sockets, renounced);
//!     Ok(())
//! }
//! ```
//!
//! The first transition runs with the privilege that execve(2) gave, and reads nothing that the caller chose.

use core::fmt;

use portgrant_protocol::errno;
use portgrant_sys::{getresgid, getresuid};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, capabilities, set_capabilities, set_keep_capabilities, set_thread_gid,
    set_thread_res_gid, set_thread_res_uid, set_thread_uid,
};

/// The one capability that is ever kept (capabilities(7)).
const BIND: CapabilitySet = CapabilitySet::NET_BIND_SERVICE;

/// The process as execve(2) started it: setuid root, with a file capability, or with nothing.
#[derive(Debug)]
#[must_use]
pub struct Privileged {
    uid: Uid,
    gid: Gid,
}

/// The caller's real ids in all slots, and CAP_NET_BIND_SERVICE permitted at most, not effective.
#[derive(Debug)]
#[must_use]
pub struct Dropped {
    uid: Uid,
    gid: Gid,
    sets: CapabilitySets,
}

/// Proof that no capability is left and none can be regained. Executing a program and sending a descriptor need it.
#[derive(Debug)]
#[must_use]
pub struct Renounced(());

/// A step that failed, or that did not do what it reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant's Display is its description")]
pub enum PrivilegeError {
    Call(&'static str, Errno),
    IdsNotDropped,
    CapabilitiesNotDropped,
    Regained(&'static str),
}

impl Privileged {
    /// The state at the first instruction of a process with these real ids, which the kernel reported. It assumes no
    /// privilege: later steps ask the kernel.
    pub fn at_start(uid: u32, gid: u32) -> Privileged {
        Privileged { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid) }
    }

    /// Gives up everything but CAP_NET_BIND_SERVICE (permitted, not effective), reads the result back, and proves it by
    /// trying to regain privilege. The steps are the same for setuid root, a file capability, and no privilege.
    pub fn drop_to_caller(self) -> Result<Dropped, PrivilegeError> {
        // Undumpable whatever fs.suid_dumpable says, until execve: the same uid may neither trace this process nor take
        // its descriptors (ptrace(2), pidfd_getfd(2)). A change of uid resets it to fs.suid_dumpable, so this is done
        // twice.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(call("prctl(PR_SET_DUMPABLE)"))?;
        let given = capabilities(None).map_err(call("capget"))?;
        let Privileged { uid, gid } = self;
        // Without this the kernel clears the permitted set when the last uid changes from 0 (capabilities(7)).
        set_keep_capabilities(true).map_err(call("prctl(PR_SET_KEEPCAPS)"))?;
        set_thread_res_gid(gid, gid, gid).map_err(call("setresgid"))?;
        set_thread_res_uid(uid, uid, uid).map_err(call("setresuid"))?;
        set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(call("prctl(PR_SET_DUMPABLE)"))?;
        let sets = CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: given.permitted & BIND,
            // The caller's own set, which the next execve(2) passes on.
            inheritable: given.inheritable,
        };
        set_capabilities(None, sets).map_err(call("capset"))?;
        let dropped = Dropped { uid, gid, sets };
        dropped.prove()?;
        Ok(dropped)
    }
}

impl Dropped {
    /// The caller's real uid.
    pub fn uid(&self) -> u32 {
        self.uid.as_raw()
    }

    /// Whether the capability is permitted. If not, see [`crate::missing_privilege`].
    pub fn has_capability(&self) -> bool {
        self.sets.permitted.contains(BIND)
    }

    /// Runs `act`, one system call, with CAP_NET_BIND_SERVICE effective.
    pub(crate) fn with_capability<T>(&self, act: impl FnOnce() -> T) -> Result<T, PrivilegeError> {
        if !self.has_capability() {
            return Ok(act());
        }
        let raised = CapabilitySets { effective: BIND, ..self.sets };
        set_capabilities(None, raised).map_err(call("capset"))?;
        let result = act();
        set_capabilities(None, self.sets).map_err(call("capset"))?;
        Ok(result)
    }

    /// Gives up the last capability, for good, and proves it.
    pub fn renounce(self) -> Result<Renounced, PrivilegeError> {
        let none = CapabilitySets { permitted: CapabilitySet::empty(), ..self.sets };
        set_capabilities(None, none).map_err(call("capset"))?;
        Dropped { sets: none, ..self }.prove()?;
        Ok(Renounced(()))
    }

    /// Reads ids and capabilities back, then tries to gain more: each attempt must fail.
    fn prove(&self) -> Result<(), PrivilegeError> {
        let uids = getresuid().map_err(call("getresuid"))?;
        let gids = getresgid().map_err(call("getresgid"))?;
        if uids != [self.uid.as_raw(); 3] || gids != [self.gid.as_raw(); 3] {
            return Err(PrivilegeError::IdsNotDropped);
        }
        if capabilities(None).map_err(call("capget"))? != self.sets {
            return Err(PrivilegeError::CapabilitiesNotDropped);
        }
        if !self.uid.is_root() && set_thread_uid(Uid::ROOT).is_ok() {
            return Err(PrivilegeError::Regained("uid 0"));
        }
        if !self.gid.is_root() && set_thread_gid(Gid::ROOT).is_ok() {
            return Err(PrivilegeError::Regained("gid 0"));
        }
        let more = CapabilitySets { permitted: self.sets.permitted | CapabilitySet::SETUID, ..self.sets };
        let last = CapabilitySets { permitted: BIND, ..self.sets };
        if set_capabilities(None, more).is_ok() || (!self.has_capability() && set_capabilities(None, last).is_ok()) {
            return Err(PrivilegeError::Regained("a capability"));
        }
        Ok(())
    }
}

fn call(name: &'static str) -> impl Fn(Errno) -> PrivilegeError {
    move |errno| PrivilegeError::Call(name, errno)
}

impl fmt::Display for PrivilegeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PrivilegeError::Call(name, errno) => {
                write!(f, "{name}: {}", errno::words(*errno).unwrap_or_default())
            }
            PrivilegeError::IdsNotDropped => f.write_str("the ids are not the caller's after setresuid"),
            PrivilegeError::CapabilitiesNotDropped => f.write_str("the capabilities are not what capset set"),
            PrivilegeError::Regained(what) => write!(f, "{what} could be regained after it was given up"),
        }
    }
}

impl core::error::Error for PrivilegeError {}
