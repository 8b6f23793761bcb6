//! Permission to bind. It needs a policy that was read from judged files and a caller that was read from the kernel.
//!
//! ```
//! # use portgrant_binder::permit::Permit;
//! # use portgrant_policy::{Ask, Caller, Error, Policy};
//! # use portgrant_trusted::System;
//! fn asked(system: &System, ask: Ask<'_>) -> Result<bool, Error> {
//!     let policy = system.policy()?;
//!     let caller = system.caller(&policy)?;
//!     Ok(Permit::decide(&policy, &caller, ask).is_ok())
//! }
//! ```
//! A policy from elsewhere makes no permit. The twin above differs in one line and compiles:
//! ```compile_fail,E0308
//! # use portgrant_binder::permit::Permit;
//! # use portgrant_policy::{Ask, Caller, Error, Policy};
//! # use portgrant_trusted::System;
//! fn asked(system: &System, ask: Ask<'_>) -> Result<bool, Error> {
//!     let policy = Policy::default();
//!     let caller = system.caller(&policy)?;
//!     Ok(Permit::decide(&policy, &caller, ask).is_ok())
//! }
//! ```
//! Nor can a caller be used that was not read from the kernel:
//! ```compile_fail,E0308
//! # use portgrant_binder::permit::Permit;
//! # use portgrant_policy::{Ask, Caller, Error, Policy};
//! # use portgrant_trusted::System;
//! fn asked(system: &System, ask: Ask<'_>) -> Result<bool, Error> {
//!     let policy = system.policy()?;
//!     let caller = Caller { uid: 0, ..Caller::default() };
//!     Ok(Permit::decide(&policy, &caller, ask).is_ok())
//! }
//! ```

use alloc::boxed::Box;

use portgrant_policy::{Ask, Decision, Domain, Permitted, Refusal, Rule, decide};
use portgrant_protocol::Resolved;
use portgrant_trusted::{CurrentCaller, InstalledPolicy};

/// Permission to bind one endpoint, once. Only [`Permit::decide`] makes it, nothing copies it, and the bind spends it.
///
/// ```
/// # use portgrant_binder::permit::Permit;
/// fn once(permit: Permit<'_>) {
///     drop(permit);
/// }
/// ```
/// ```compile_fail,E0599
/// # use portgrant_binder::permit::Permit;
/// fn once(permit: Permit<'_>) {
///     drop(permit.clone()); // nothing copies a permit
/// }
/// ```
/// It is spent by the bind:
/// ```
/// # use portgrant_binder::{permit::Permit, privilege::Dropped, socket};
/// fn twice(permit: Permit<'_>, other: Permit<'_>, dropped: &Dropped) {
///     let _ = socket::bind(permit, dropped);
///     let _ = socket::bind(other, dropped);
/// }
/// ```
/// ```compile_fail,E0382
/// # use portgrant_binder::{permit::Permit, privilege::Dropped, socket};
/// fn twice(permit: Permit<'_>, other: Permit<'_>, dropped: &Dropped) {
///     let _ = socket::bind(permit, dropped);
///     let _ = socket::bind(permit, dropped); // spent
/// }
/// ```
/// A verdict alone is not a permit:
/// ```
/// # use portgrant_binder::permit::Permit;
/// # use portgrant_policy::Permitted;
/// fn forged<'p>(verdict: Permitted<'p>, permit: Permit<'p>) -> Permit<'p> {
///     permit
/// }
/// ```
/// ```compile_fail,E0423
/// # use portgrant_binder::permit::Permit;
/// # use portgrant_policy::Permitted;
/// fn forged<'p>(verdict: Permitted<'p>, permit: Permit<'p>) -> Permit<'p> {
///     Permit(verdict) // its field is this module's alone
/// }
/// ```
#[derive(Debug)]
#[must_use]
pub struct Permit<'p>(Permitted<'p>);

impl<'p> Permit<'p> {
    /// Decides whether `caller` may have `ask`.
    pub fn decide(
        policy: &'p InstalledPolicy,
        caller: &CurrentCaller,
        ask: Ask<'_>,
    ) -> Result<Permit<'p>, Box<Refusal<'p>>> {
        match decide(policy, caller, ask) {
            Decision::Permit(permitted) => Ok(Permit(permitted)),
            Decision::Refuse(refusal) => Err(Box::new(refusal)),
        }
    }

    /// What may be bound.
    pub fn endpoint(&self) -> &Resolved {
        self.0.endpoint()
    }

    /// The family of the socket that it may be bound on.
    pub fn domain(&self) -> Domain {
        self.0.domain()
    }

    /// The rule that permits it.
    pub fn rule(&self) -> &'p Rule {
        self.0.rule()
    }
}
