//! `portgrant run`'s other half: a supervisor without privilege that answers a program's bind(2) calls.
//!
//! ```text
//! portgrant run ── execve ─→ portgrant-supervisor (the same process) ── filter, execve ─→ PROGRAM
//!                                     └─ fork, fork ─→ supervisor (in a new session), and its heir
//! ```
//!
//! The process that was started becomes the program: same pid, parent, terminal, signals, environment. Before that it
//! forks the supervisor, out of its way, sets no_new_privs, puts a seccomp(2) filter in front of bind(2) alone, and hands
//! over the notifications of the filter (seccomp_unotify(2)). Each bind(2) of a port below 1024 is then tried by the supervisor on
//! **the program's own socket** (pidfd_getfd(2)), with the user's own rights, and where that is not enough by portgrant's helper
//! and its policy. All else goes on to the kernel.
//!
//! Where Yama lets a process be looked into by its ancestors alone (ptrace_scope 1), the supervisor is the program's
//! parent instead, and forwards signals and the exit status.
//!
//! A separate program, static and small, because it stays as long as the program does.

#![forbid(unsafe_code)]

mod arguments;
mod detached;
mod error;
mod filter;
pub mod helper;
mod parent;
mod permitted;
pub mod refusals;
mod repeats;
mod supervise;
mod target;
mod time_wait;

pub use error::Error;

use std::io::Write;

use portgrant_sys::{OnlyThread, Start};

/// From the entry point to the exit status. Does not return where the process becomes the program.
pub fn run(start: Start, only_thread: OnlyThread) -> u8 {
    let _ = portgrant_sys::occupy_standard_descriptors();
    let done = arguments::parse(start, only_thread).and_then(|asked| {
        permitted::check(only_thread)?;
        match asked.place {
            arguments::Place::Detached => detached::run(&asked),
            arguments::Place::Parent => parent::run(&asked),
        }
    });
    match done {
        Ok(status) => status,
        Err(error) => {
            let _ = std::io::stderr().write_all(error.to_string().as_bytes());
            error.status()
        }
    }
}
