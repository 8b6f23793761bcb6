//! The code that runs with privilege: permits, privilege as a value, the sockets, the audit line.
//!
//! The helper `portgrant-binder` is this library with an entry point. No other crate links it. `ARCHITECTURE.md` has
//! the map, `SECURITY.md` the promises.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod audit;
mod error;
pub mod grant;
pub mod handover;
mod interfaces;
pub mod missing_privilege;
pub mod permit;
pub mod privilege;
pub mod socket;
pub mod time_limit;

pub use error::Error;
