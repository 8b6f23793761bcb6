//! The unsafe code that several programs of portgrant need, once: system calls that neither nix nor rustix covers, and what
//! execve(2) left in memory. A proof stands beside each block.

#![allow(unsafe_code)]

mod socket;
mod strings;

pub use socket::{netns_cookie, network_namespace, set_tcp_defer_accept, set_tcp_fastopen, shares_fs};
pub use strings::strings;

// What only programs without privilege use. The helper builds none of it.

#[cfg(any(feature = "program", feature = "process", feature = "seccomp", feature = "server"))]
extern crate std;

#[cfg(feature = "server")]
pub mod inherited;
#[cfg(feature = "process")]
pub mod process;
#[cfg(feature = "program")]
mod program;
#[cfg(feature = "tokio")]
mod readiness;
#[cfg(feature = "seccomp")]
pub mod seccomp;
#[cfg(feature = "server")]
mod tcp_info;

#[cfg(feature = "process")]
pub use process::OnlyThread;
#[cfg(feature = "program")]
pub use program::Start;
#[cfg(feature = "tokio")]
pub use readiness::awaited;
#[cfg(feature = "server")]
pub use tcp_info::tcp_info;
