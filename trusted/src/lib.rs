//! Reads what a verdict depends on: the policy, and the tables of names. Every file is judged before it is trusted, and
//! leaves a stamp, so that a later change is noticed.
//!
//! Runs as the caller, without privilege. The helper, `portgrant-explain` and the kernel mode use this crate.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod folder;
mod installed;
mod reading;
mod stamps;

pub use folder::{judge_program, read_unjudged};
pub use installed::{CurrentCaller, InstalledPolicy, System, interface, interface_index, is_policy_file};
pub use reading::{Attempts, Reading, consistent, unchanged};
pub use stamps::{Age, Stamps, Unchanged};
