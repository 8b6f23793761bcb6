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
mod raw;
pub mod reading;
pub mod socket;
pub mod stamps;
pub mod subid;
pub mod time_limit;
pub mod trusted;

pub use error::{Error, refused, who};
