//! The second part of `portgrant run`: a supervisor without privilege that answers a program's bind(2) calls.
//!
//! ```text
//! portgrant run ── execve ─→ portgrant-supervisor (the same process) ── filter, execve ─→ PROGRAM
//!                                     └─ fork, fork ─→ supervisor (in a new session), and its standby
//! ```
//!
//! The process that was started becomes the program: the pid, parent, terminal, signals and environment stay the same.
//! First it forks the supervisor, sets no_new_privs, installs a seccomp(2) filter that reports only bind(2), and passes
//! the filter's listener to the supervisor (seccomp_unotify(2)). The supervisor tries each bind(2) of a port below 1024
//! on **the program's own socket** (pidfd_getfd(2)) with the user's rights. If these are not enough, it runs
//! portgrant's helper, which decides by the policy. All other calls continue in the kernel.
//!
//! If Yama lets only ancestors inspect a process (ptrace_scope 1), the supervisor is the program's parent instead, and
//! forwards signals and the exit status.
//!
//! It is a separate program, static and small, because it runs as long as the program does.

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

/// Runs the supervisor program, and returns the exit status. Does not return if the process becomes the program.
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
