//! The privilege that is kept: CAP_BPF and CAP_NET_ADMIN, effective only during calls that need them.
//!
//! The policy is read and compiled without effective capabilities. The uid stays 0, since root owns the pins;
//! no_new_privs prevents an execve(2) from regaining privilege.

use nix::sys::prctl;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::Error;

/// The two capabilities that bpf(2) needs for network programs.
const WANTED: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::NET_ADMIN);

/// At most these two, permitted but not effective.
#[derive(Debug)]
#[must_use]
pub struct Kept {
    permitted: CapabilitySet,
}

impl Kept {
    /// Gives up everything else, and reads it back. Must be the program's first step.
    pub fn at_start() -> Result<Kept, Error> {
        let call = |call| move |errno| Error::Call { call, errno };
        prctl::set_no_new_privs().map_err(|errno| Error::Call {
            call: "prctl(PR_SET_NO_NEW_PRIVS)",
            errno: rustix::io::Errno::from_raw_os_error(errno as i32),
        })?;
        let given = capabilities(None).map_err(call("capget"))?;
        let kept = Kept { permitted: given.permitted & WANTED };
        kept.set(CapabilitySet::empty())?;
        Ok(kept)
    }

    /// Whether both capabilities are there.
    #[must_use]
    pub fn suffices(&self) -> bool {
        self.permitted == WANTED
    }

    /// Runs `act` with the kept capabilities effective.
    pub fn with<T>(&self, act: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        self.set(self.permitted)?;
        let result = act();
        self.set(CapabilitySet::empty())?;
        result
    }

    /// Gives up CAP_NET_ADMIN as well, which only loading a program needs.
    pub fn limit_to_pins(&mut self) -> Result<(), Error> {
        self.permitted &= CapabilitySet::BPF;
        self.set(CapabilitySet::empty())
    }

    /// Gives up both.
    pub fn renounce(mut self) -> Result<(), Error> {
        self.permitted = CapabilitySet::empty();
        self.set(CapabilitySet::empty())
    }

    fn set(&self, effective: CapabilitySet) -> Result<(), Error> {
        let call = |call| move |errno| Error::Call { call, errno };
        let sets = CapabilitySets { effective, permitted: self.permitted, inheritable: CapabilitySet::empty() };
        set_capabilities(None, sets).map_err(call("capset"))?;
        if capabilities(None).map_err(call("capget"))? == sets { Ok(()) } else { Err(Error::CapabilitiesNotDropped) }
    }
}
