//! What runs with privilege: the policy and its verdict, privilege as a value, the sockets, the audit line.
//!
//! The helper `portgrant-binder` is this library and an entry point; the kernel mode and the broker reuse it.
//! `ARCHITECTURE.md` has the map, `SECURITY.md` the promises.

pub mod audit;
mod error;
pub mod grant;
pub mod handover;
pub mod inert;
pub mod names;
pub mod policy;
pub mod privilege;
pub mod socket;
mod sockopt;
pub mod subid;
pub mod trusted;

pub use error::{Error, Report, who};
