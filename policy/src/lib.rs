//! The policy language: who may bind what. `rule.rs` has the rules as values, `parse.rs` their syntax, [`decide()`] the
//! verdict, and `message.rs` its text.
//!
//! There is no I/O and no privilege here: the crate `trusted` judges and reads the files. One malformed line refuses
//! everything: a rule that cannot be parsed might be the deny that matters. Paths and texts are bytes.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod address;
pub mod audit;
mod caller;
mod clause;
mod corrections;
mod decide;
mod distrust;
mod error;
mod message;
mod names;
mod near;
mod parse;
mod problem;
mod rule;
mod scan;
mod subid;
#[cfg(test)]
mod tests;
mod words;

pub use address::{AddressError, AddressSet, Domain, Span};
pub use caller::Caller;
pub use decide::{Ask, AskedProgram, Decision, Permitted, Reason, Refusal, decide};
pub use distrust::{Distrust, Finding, shell_word};
pub use error::Error;
pub use message::{lacks_group, refused, suggestion, who};
pub use names::{Files, Members, Names, Owners, User};
pub use near::{Form, Listed, is_everybody, is_near, lacked_groups};
pub use problem::{Problem, Wrong};
pub use rule::{Effect, Policy, Ports, Protocols, Rule, Source, Subject, UnknownService};
pub use subid::SubordinateIds;
