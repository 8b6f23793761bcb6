//! The world-builder: portgrant installed for real, real users and real servers, and a network for each test alone.
//!
//! `tests/run` starts the tests; by itself `cargo test` cannot, as they need namespaces and a root file system.
//! A [`World`] is one test's machine. Everything that the test's thread does happens in it: its own file accesses and
//! connections as well as the programs that it starts [as some user](World::as_user).
//!
//! Worlds share a process: a socket that a test itself opens or receives may be held for a moment by another test's
//! child, between fork and execve. So a test that drops one does not bind the same port again.
//!
//! ```no_run
//! use portgrant_tests::{BINDER, World, both_installs};
//!
//! both_installs![a_caller_without_a_rule_is_refused];
//!
//! fn a_caller_without_a_rule_is_refused(world: &World) {
//!     world.policy("permit alice 80\n");
//!
//!     let outcome = world.as_user("bob").run([BINDER, "exec", "-l", "80", "--", "true"]);
//!
//!     outcome.exits(77).complains("80/tcp is refused for bob (uid 1001)");
//! }
//! ```

mod account;
mod birth;
mod caller;
mod cgroup;
mod dialogue;
mod listening;
mod process;
mod running;
mod stopped;
mod syslog;
mod world;

pub use birth::opening;
pub use caller::Caller;
pub use cgroup::Cgroup;
pub use dialogue::{Dialogue, http_get};
pub use listening::Listening;
pub use process::Process;
pub use running::{Outcome, Running};
pub use stopped::Stopped;
pub use syslog::Syslog;
pub use world::{
    BINDER, Install, KERNEL, LAUNCHER, LAUNCHER_ITSELF, POLICY, SUPERVISOR, World, injected, ptrace_scope, skip,
};

// What the methods of `Caller` take.
pub use nix::sys::resource::Resource;
pub use nix::sys::signal::Signal;
